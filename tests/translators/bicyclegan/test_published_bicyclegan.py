"""Published BicycleGAN weights, in and out: the functions of the published nets, and the same files again."""

from __future__ import annotations

from pathlib import Path

import plain_bicyclegan as plain
import pytest
import torch
from bicyclegan_cases import STYLE_DIM, WIDTH, direction, randomize, size, variant, weights
from safetensors.torch import save_file
from torch import Tensor, nn

from m2o_fast.engine.convert import convert_checkpoint, write_published
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.nn.unet import Ends, StyledUNet, UNet
from m2o_fast.translators.bicyclegan.nets import Discriminator, StyleEncoder
from m2o_fast.translators.bicyclegan.published import from_official, to_official
from m2o_fast.translators.bicyclegan.translator import BicycleGAN

#: as a small net of six levels, three blocks and two scales was published: names of one weight each, in their order
LAYOUT = {
    "G": [
        "model.down.0",
        *(f"model.{'submodule.' * k}down.1" for k in range(1, 6)),
        *(f"model.{'submodule.' * k}up.1" for k in range(5, -1, -1)),
    ],
    "D": [f"model_{scale}.{layer}" for scale in range(2) for layer in (0, 2, 5, 8)],
    "E": [
        "fc.0",
        "fcVar.0",
        "conv.0",
        *(f"conv.{k}.{part}" for k in (1, 2) for part in ("conv.2", "conv.5.0", "shortcut.1")),
    ],
}


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        for channels, levels, expected in ((3, 8, 54_794_627), (1, 8, 54_792_579), (3, 5, 16_846_211)):
            assert count(StyledUNet({"B": Ends(channels, 3, True)}, 8, levels=levels)) == expected
        assert count(UNet(3 + 8, 3, norm="instance")) == 54_417_795  # the style beside the image alone
        for blocks, expected in ((4, 2_590_032), (1, 124_304)):
            encoder = StyleEncoder(3, 64, blocks, 8)
            assert count(encoder) == count(plain.Encoder(3, blocks=blocks + 1)) == expected
        for layers, expected in ((3, 3_458_978), (2, 830_626)):
            assert count(Discriminator(3, 64, layers, 2)) == count(plain.Discriminator(3, layers=layers)) == expected
        assert count(plain.Generator(3, 3)) == 54_794_627


@pytest.mark.parametrize("gain", [0.02, 1.0])
def test_first_weights_are_xavier_s_with_a_gain(gain: float) -> None:
    """Of all layers, biases 0."""
    widths = dict.fromkeys(("width", "encoder_width", "discriminator_width"), 8)
    translator = BicycleGAN([Domain("a", 3), Domain("b", 3)], variant("plain"), size(gain=gain, **widths))
    for net in (translator.generators.into(1), translator.encoders["1"], translator.discriminators["D_1"]):
        for name, parameter in net.named_parameters():
            if parameter.dim() == 1:
                assert not parameter.any(), name
                continue
            fans = sum(parameter.shape[:2]) * parameter[0, 0].numel()
            few = 5 / parameter.numel() ** 0.5
            assert parameter.std().item() == pytest.approx(gain * (2 / fans) ** 0.5, rel=few), name


@pytest.mark.parametrize(("a", "b", "levels"), [(3, 3, 5), (1, 4, 6)])
def test_functions_are_the_published_ones(tmp_path: Path, a: int, b: int, levels: int) -> None:
    """Of any size that is a multiple; the same files again, key by key."""
    nets = direction(a, b, levels=levels)
    translator = from_official(weights(nets))
    x, y = (torch.rand(2, c, 2**levels, 3 * 2**levels) * 2 - 1 for c in (a, b))
    style = torch.randn(2, STYLE_DIM)
    mean, _ = nets.E(y)
    expected = [
        (translator.translate(x, "A", "B", style=style), nets.G(x, style)),
        (translator.translate(x, "A", "B", reference=y), nets.G(x, mean)),
        (translator.encode_style(y, "B"), mean),
        *zip(translator.discriminate(y, "B"), nets.D(y), strict=True),
        *zip(translator.discriminate(y, "B", which="D2"), nets.D2(y), strict=True),
    ]
    for ours, theirs in expected:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    again = to_official(translator)
    assert again.keys() == weights(nets).keys()
    for name, net in weights(nets).items():
        assert list(again[name]) == list(net)
        assert all(torch.equal(again[name][key], tensor) for key, tensor in net.items())
        save_file(again[name], tmp_path / name)  # refuses what is not contiguous


def test_layouts_are_those_of_published_files() -> None:
    given = weights(direction(3, 3)) | {"E": plain.Encoder(3, WIDTH, 3, STYLE_DIM).state_dict()}
    found = to_official(from_official(given))
    for net, names in LAYOUT.items():
        assert list(found[net]) == [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]


def test_a_style_enters_every_level() -> None:
    """Each by itself; how, the published nets tell."""
    net = randomize(plain.Generator(1, 1, WIDTH, 6, 1))
    planes = [layer.weight.detach()[:, -1] for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    x = torch.rand(1, 1, 64, 64)

    def output(kept: int, style: float) -> Tensor:
        state = net.state_dict()
        for k, key in enumerate(key for key in state if "down" in key and key.endswith("weight")):
            state[key] = state[key].clone()
            state[key][:, -1] = planes[k] if k == kept else 0
        return from_official({"G": state}).translate(x, "A", "B", style=torch.tensor([[style]]))

    for level in range(6):
        assert (output(level, -1.0) - output(level, 0.0)).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("names", "kind"),
    [("GED", "cvae"), (("G", "E", "D2"), "clr"), ("GD", "pix2pix_noise"), ("GE", "bicycle"), ("G", "bicycle")],
)
def test_nets_tell_the_kind(names: str, kind: str) -> None:
    given = weights(direction(1, 3))
    translator = from_official({name: given[name] for name in names})
    assert translator.size.kind == kind and translator.reads_style("B") == ("E" in names)
    again = BicycleGAN.from_description(translator.describe())
    assert again.state_dict().keys() == translator.state_dict().keys()
    assert list(to_official(translator)) == [name for name in ("G", "E", "D", "D2") if name in names]


def test_files_of_both_directions(tmp_path: Path) -> None:
    given = weights(direction(3, 1), direction(1, 3))
    for name, net in given.items():
        torch.save(net, tmp_path / f"{name}.pth")
    files = {name: tmp_path / f"{name}.pth" for name in given}
    translator = convert_checkpoint("bicyclegan", files, tmp_path / "run", ["edges", "shoes"], image_size=64)
    assert translator.directions() == ((0, 1), (1, 0)) and translator.domains[1].name == "shoes"
    for file in write_published(tmp_path / "run", tmp_path / "again", "bicyclegan"):
        net = file.stem.removeprefix("latest_net_")
        again = torch.load(file, weights_only=True)
        assert list(again) == list(given[net])
        assert all(torch.equal(again[key], tensor) for key, tensor in given[net].items())


def test_a_shared_trunk_is_written_to_both_generators() -> None:
    color, gray = Domain("color", 3), Domain("gray", 1)
    translator = BicycleGAN([color, gray], variant("plain"), size(shared_trunk=True))
    randomize(translator).eval()
    x, style = torch.rand(1, 3, 64, 64), torch.randn(1, STYLE_DIM)
    again = from_official(to_official(translator), domains=["color", "gray"])
    expected = translator.translate(x, 0, 1, style=style)
    torch.testing.assert_close(again.translate(x, 0, 1, style=style), expected, rtol=0, atol=1e-12)


def test_a_generator_without_style_has_no_published_layout() -> None:
    gray = Domain("gray", 1, multimodal=False)
    with pytest.raises(UserError, match="the generator into domain 'gray' has no style, for which there is no publi"):
        to_official(BicycleGAN([Domain("color", 3), gray], variant("hms"), size()))


def changed(change: object) -> dict[str, dict[str, Tensor]]:
    given = {name: dict(net) for name, net in weights(direction(3, 3)).items()}
    change(given)  # type: ignore[operator]
    return given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.clear(), "expected state dicts by net"),
        (lambda g: g.update(F=g["G"]), "unknown nets: F "),
        (lambda g: g.pop("G"), "missing nets: G$"),
        (lambda g: g.update(E_BA=g["E"]), "missing nets: G_BA$"),
        (lambda g: g.update(G_BA=g["G"], E_BA=g["E"]), "give the same ones of both directions"),
        (lambda g: g["G"].pop("model.submodule.down.1.weight"), "G: missing model.submodule.down.1.weight"),
        (
            lambda g: g["G"].pop("model.submodule.submodule.down.1.weight"),
            "G: the weights do not fit: missing model.sub",
        ),
        (lambda g: g["G"].pop("model.down.0.weight"), "G: missing model.down.0.weight"),
        (lambda g: g["G"].pop("model.up.1.bias"), "G: the weights do not fit: missing model.up.1.bias"),
        (lambda g: g["G"].update(more=torch.zeros(1)), "superfluous more"),
        (
            lambda g: g.update(G=plain.Generator(3, 3, WIDTH, 6, 0).state_dict()),
            "G: expected a U-Net with a style at every level",
        ),
        (
            lambda g: g.update(E=plain.Encoder(3, WIDTH, 2, 5).state_dict()),
            r"E: the weights do not fit: fc.0.weight is",
        ),
        (lambda g: g.update(E=plain.Encoder(2, WIDTH, 2, STYLE_DIM).state_dict()), "channels is 3 in G, 2 in E"),
        (lambda g: g["E"].pop("conv.1.conv.2.weight"), "sizes that the weights have are refused: model.encoder_blocks"),
        (lambda g: g.update(D=plain.Discriminator(3, 3, 3).state_dict()), "discriminator layers is 3 in D, 2 in D2"),
        (lambda g: g.update(D=plain.Discriminator(3, 3, 2, 1).state_dict()), "scales is 1 in D, 2 in D2"),
        (
            lambda g: g["D"].update({f"model_0.{3 * n + 2}.weight": torch.zeros(1, 1, 1, 1) for n in range(3, 9999)}),
            "D: the weights do not fit: superfluous model_0.",
        ),
    ],
)
def test_what_does_not_fit_is_named(change: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_official(changed(change))


def test_weights_are_compared_before_nets_are_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    given = changed(lambda g: g["G"].update({"model.down.0.weight": torch.randn(30_000, 6, 4, 4)}))
    monkeypatch.setattr(torch.nn.Module, "to_empty", lambda *_, **__: pytest.fail("allocated"))
    with pytest.raises(UserError, match="G: expected a U-Net with a style at every level"):
        from_official(given)
    given = changed(lambda g: g["E"].update({"fc.0.weight": torch.randn(30_000, 4)}))
    with pytest.raises(UserError, match=r"E: the weights do not fit: fc.0.weight is \[30000, 4\] instead of \[3, 4\]"):
        from_official(given)

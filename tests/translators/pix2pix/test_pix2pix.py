"""pix2pix and its many-to-one variant against plain implementations that share nothing with them, in float64."""

from __future__ import annotations

import math
from pathlib import Path

import plain_pix2pix as plain
import pytest
import torch
from gan_steps import EPS, Steps
from safetensors.torch import save_file
from torch import Tensor, nn

from m2o_fast.batch import Batch
from m2o_fast.engine.build import build_translator
from m2o_fast.engine.config import load_config
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.nn.patch_discriminator import PatchDiscriminator
from m2o_fast.nn.unet import UNet
from m2o_fast.translators import state_dicts as layouts
from m2o_fast.translators.base import Iteration
from m2o_fast.translators.pix2pix import SYSTEM
from m2o_fast.translators.pix2pix.published import from_official, published_net, to_official
from m2o_fast.translators.pix2pix.settings import Pix2PixSettings, Size, Weights
from m2o_fast.translators.pix2pix.translator import Pix2Pix

WIDTH, STYLE_DIM = 2, 3
OPTIM = {"lr": 1e-3, "decay_from": 1, "decay_steps": 3}
PLAIN = {"lr": 1e-3, "eps": EPS, "constant": 1, "decay": 3}


def randomize(net: nn.Module, std: float = 0.3) -> nn.Module:
    """Numbers of a size that no layer can be left out without being noticed."""
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(std=std)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return net


def direction(
    a: int, b: int, levels: int = 6, norm: str = "batch", styled: int = 0, **settings: object
) -> plain.Direction:
    """Nets of a direction with random weights."""
    nets = plain.Generator(a + styled, b, WIDTH, levels, norm), plain.Discriminator(a + b, WIDTH, 2, norm)
    std = 0.15 if norm == "none" else 0.3
    return plain.Direction(
        *(randomize(net, std) for net in nets), plain.Settings(**{**PLAIN, "styled": styled > 0, **settings})
    )


def weights(there: plain.Direction, back: plain.Direction | None = None) -> dict[str, dict[str, Tensor]]:
    found = {"G": there.G.state_dict(), "D": there.D.state_dict()}
    return found if back is None else found | {"G_BA": back.G.state_dict(), "D_BA": back.D.state_dict()}


def random_batch(translator: Pix2Pix, count: int) -> Batch:
    """``count`` images for each direction, all pairs known."""
    side = translator.image_size
    images = [torch.rand(count, d.channels, side, side) * 2 - 1 for d in translator.domains]
    both = len(translator.directions()) == 2
    total = 2 * count if both else count
    noise = translator.noise(total, torch.Generator().manual_seed(3))
    if not both:
        images[1] = images[1][:0]
    pairs = [
        torch.rand(n, d.channels, side, side) * 2 - 1
        for n, d in zip((total - count, count), translator.domains, strict=True)
    ]
    order = [torch.arange(count, 2 * count), torch.arange(count)] if both else [torch.arange(count)]
    return Batch(
        source=tuple(images),
        to_target=torch.cat(order),
        target_counts=(total - count, count),
        reference=(),
        reference2=(),
        paired=tuple(pairs),
        has_pair=torch.ones(total, dtype=torch.bool),
        noise={name: numbers.to(torch.get_default_dtype()) for name, numbers in noise.items()},
    )


def plain_iteration(there: plain.Direction, back: plain.Direction | None, batch: Batch) -> dict[str, float]:
    """The same images through the plain implementation, a direction at a time; losses add up."""
    logs: dict[str, float] = {}
    levels = sorted(name for name in batch.noise if name.startswith("dropout"))
    for k, one in ((1, there), (0, back)):
        if one is None:
            continue
        noise = {name: numbers.split(list(batch.target_counts))[k] for name, numbers in batch.noise.items()}
        kept = [noise[name] >= 0.5 for name in levels] or None
        assert batch.has_pair is not None
        styles = (noise["latent"], noise["latent2"]) if one.settings.styled else (None, None)
        known = batch.has_pair.split(list(batch.target_counts))[k]
        for name, value in one.iteration(batch.source[1 - k], batch.paired[k], kept, *styles, known).items():
            logs[name] = logs.get(name, 0) + value
    return logs


def same(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-10, abs=1e-12), name


def same_weights(translator: Pix2Pix, expected: dict[str, dict[str, Tensor]]) -> None:
    """Running statistics included."""
    assert len(expected) == len(translator.generators) + len(translator.discriminators)
    for net, tensors in expected.items():
        found = layouts.saved(*published_net(translator, net))
        for name, tensor in tensors.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-10, msg=f"{net} {name}")


def test_a_style_has_no_published_layout() -> None:
    with pytest.raises(UserError, match="has a style, for which there is no published layout"):
        to_official(many_to_one({}, 100.0))


@pytest.mark.parametrize(("a", "b", "norm"), [(3, 3, "batch"), (2, 5, "batch"), (3, 1, "instance"), (1, 1, "none")])
@pytest.mark.parametrize("both", [True, False])
def test_iterations_are_the_published_ones(a: int, b: int, norm: str, both: bool) -> None:
    """Losses, all weights and running statistics of three iterations with dropout and a rate that falls."""
    there, back = direction(a, b, norm=norm), direction(b, a, norm=norm) if both else None
    translator = from_official(weights(there, back))
    assert len(translator.directions()) == 1 + both
    settings = Pix2PixSettings.model_validate({"optim": OPTIM})
    steps = Steps(translator, settings.optim)
    for index in range(3):
        batch = random_batch(translator, 2)
        assert "dropout4" in batch.noise
        same(steps(batch, index), plain_iteration(there, back, batch))
    same_weights(translator, weights(there, back))


def many_to_one(size: dict[str, object], supervised: float, **losses: float) -> Pix2Pix:
    domains = [Domain("color", 3), Domain("gray", 1, multimodal=False)]
    model = {"width": WIDTH, "discriminator_width": WIDTH, "style_dim": STYLE_DIM, "discriminator_layers": 2, **size}
    settings = Pix2PixSettings.model_validate({"model": model})
    rules = ManyToOne(supervised_weight=supervised)
    return Pix2Pix(domains, rules, Size(**settings.sizes(64)), Weights(**losses))


def test_iterations_are_the_many_to_one_ones() -> None:
    """Into gray as published; into colour with a style, the truth weighed less, and a reward for difference."""
    losses = {"diversity": 1.3, "diversity_steps": 4}
    there = direction(3, 1, supervised=80.0)
    back = direction(1, 3, styled=STYLE_DIM, supervised=0.7, **losses)
    translator = many_to_one({}, 80.0, multimodal=0.7, **losses)
    for name, net in weights(there, back).items():
        layouts.load(*published_net(translator, name), net, name)
    steps = Steps(translator, Pix2PixSettings.model_validate({"optim": OPTIM}).optim)
    for index in range(2):
        batch = random_batch(translator, 2)
        batch.has_pair[1] = False  # type: ignore[index]
        same(steps(batch, index), plain_iteration(there, back, batch))
    same_weights(translator, weights(there, back))


def test_discriminators_step_before_generators() -> None:
    """And generators learn from discriminators as they are by then: the published order."""
    translator = many_to_one({}, 100.0)
    steps = Steps(translator, Pix2PixSettings().optim)
    steps(random_batch(translator, 1), 0)
    assert steps.stepped == ["discriminators", "generators"]


def test_losses_of_trivial_scores() -> None:
    """All logits 0: ln 2 for either side; images that are off by 0.1 everywhere cost 10."""
    translator = from_official(weights(direction(3, 3, norm="instance")))
    last = translator.discriminators["1"].convs[-1]
    last.weight.zero_(), last.bias.zero_()
    translator.requires_grad_(True)
    batch = random_batch(translator, 2)
    iteration = Iteration(0)
    total, _ = translator.loss("discriminators", batch, iteration)
    assert total.item() == pytest.approx(math.log(2))
    off = (batch.paired[1] * 0.9).clone()
    translator.generators["1"].forward = lambda x, kept=None: off.atanh()
    truth = (batch.paired[0], off + 0.1)
    total, parts = translator.loss("generators", type(batch)(**{**vars(batch), "paired": truth}), Iteration(0))
    assert parts["adversarial"].item() == pytest.approx(math.log(2))
    assert total.item() == pytest.approx(math.log(2) + 10)


# --- many-to-one rules ---


def test_unimodal_output_ignores_every_style() -> None:
    """Bit for bit the same for any style, reference and seed; the style changes the other direction."""
    translator = many_to_one({}, 100.0).eval()
    randomize(translator)
    color, gray = (torch.rand(2, c, 64, 64) * 2 - 1 for c in (3, 1))
    plainly = translator.translate(color, "color", "gray")
    for given in ({"style": torch.randn(2, STYLE_DIM)}, {"reference": gray}):
        assert torch.equal(translator.translate(color, "color", "gray", **given), plainly)
    assert not translator.sample_style(2, "gray").any() and not translator.encode_style(gray, "gray").any()
    styles = [translator.sample_style(2, "color", torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    first, second = (translator.translate(gray, "gray", "color", style=style) for style in styles)
    assert (first - second).abs().mean() > 1e-3
    assert torch.equal(first, translator.translate(gray, "gray", "color", style=styles[0]))


def test_layers_are_those_of_the_domains() -> None:
    """A style enters as further planes of the input."""
    translator = many_to_one({}, 100.0)
    assert translator.generators["1"].down[0].in_channels == 3 and translator.generators["1"].up[0].out_channels == 1
    assert translator.generators["0"].down[0].in_channels == 1 + STYLE_DIM


def test_one_direction_has_one_pair_of_nets() -> None:
    settings = Pix2PixSettings.model_validate({"model": {"direction": "A->B", "width": WIDTH}})
    domains = [Domain("color", 3), Domain("gray", 1, multimodal=False)]
    description = settings.description(domains, SYSTEM.variants["plain"], 32)
    translator = Pix2Pix.from_description({"system": "pix2pix", **description, "weights": {}})
    assert translator.directions() == translator.paired_directions() == ((0, 1),)
    assert list(translator.generators) == list(translator.discriminators) == ["1"]
    with pytest.raises(ValueError, match="no generator into domain 'color'"):
        translator.translate(torch.rand(1, 1, 32, 32), "gray", "color")


def test_hmu_has_no_meaning() -> None:
    assert "hmu" not in SYSTEM.variants and "pairs" in SYSTEM.refused["hmu"]


# --- nets ---


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(("levels", "channels", "expected"), [(5, 3, 16_659_075), (6, 1, 29_237_889)])
def test_published_numbers_of_parameters(levels: int, channels: int, expected: int) -> None:
    assert count(UNet(channels, channels, levels=levels)) == expected
    assert count(PatchDiscriminator(6)) == count(plain.Discriminator(6)) == 2_768_705
    assert count(PatchDiscriminator(2, layers=2)) == 662_337
    assert count(PatchDiscriminator(6, layers=0)) == count(plain.PixelDiscriminator(6)) == 9_024


@pytest.mark.slow
@pytest.mark.parametrize(
    ("levels", "channels", "expected"), [(8, 3, 54_413_955), (7, 3, 41_828_995), (8, 1, 54_407_809)]
)
def test_published_numbers_of_parameters_of_large_nets(levels: int, channels: int, expected: int) -> None:
    assert count(UNet(channels, channels, levels=levels)) == count(plain.Generator(channels, channels, levels=levels))
    assert count(UNet(channels, channels, levels=levels)) == expected


# --- published weights ---


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize(("a", "b", "levels"), [(3, 3, 2), (1, 4, 5), (3, 3, 7)])
def test_functions_are_the_published_ones(tmp_path: Path, a: int, b: int, norm: str, levels: int) -> None:
    """Of any size that is a multiple; the same files again, key by key."""
    nets = direction(a, b, levels, norm)
    nets.G.eval(), nets.D.eval()
    translator = from_official(weights(nets))
    x, y = (torch.rand(2, c, 2**levels, 3 * 2**levels) * 2 - 1 for c in (a, b))
    if levels == 2:
        x, y = (torch.rand(2, c, 32, 44) * 2 - 1 for c in (a, b))
    torch.testing.assert_close(translator.translate(x, "A", "B"), nets.G(x), rtol=0, atol=1e-12)
    (scores,) = translator.discriminate(y, "B", source=x)
    torch.testing.assert_close(scores, nets.D(torch.cat([x, y], 1)), rtol=0, atol=1e-12)
    again = to_official(translator)
    for name, net in weights(nets).items():
        assert list(again[name]) == list(net)
        assert all(torch.equal(again[name][key], tensor) for key, tensor in net.items())
        save_file(again[name], tmp_path / name)  # refuses what is not contiguous


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_pixels_are_judged_by_the_published_net(norm: str) -> None:
    judge = randomize(plain.PixelDiscriminator(4, WIDTH, norm)).eval()
    translator = from_official({"D": judge.state_dict()}, image_size=32)
    x, y = torch.rand(2, 2, 32, 32), torch.rand(2, 2, 32, 32)
    (scores,) = translator.discriminate(y, "B", source=x)
    torch.testing.assert_close(scores, judge(torch.cat([x, y], 1)), rtol=0, atol=1e-12)
    assert translator.directions() == ()


def changed(change: object) -> dict[str, dict[str, Tensor]]:
    given = {name: dict(net) for name, net in weights(direction(3, 3)).items()}
    change(given)  # type: ignore[operator]
    return given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.update(E=g["G"]), "unknown nets: E "),
        (lambda g: g["G"].pop("model.model.1.model.1.weight"), "G: expected a U-Net"),
        (lambda g: g["G"].pop("model.model.3.bias"), "G: the weights do not fit: missing model.model.3.bias"),
        (lambda g: g.update(G_BA=plain.Generator(3, 3, WIDTH, 5).state_dict()), "levels is 6 in G, 5 in G_BA"),
        (lambda g: g.update(D=plain.Discriminator(6, WIDTH, 2, "instance").state_dict()), "norm is batch in G, inst"),
        (lambda g: g.update(D=plain.Discriminator(5, WIDTH, 2).state_dict()), "D: the weights do not fit: model.0"),
        (lambda g: (g.pop("G"), g.update(D=plain.Discriminator(5).state_dict())), "alone does not tell"),
    ],
)
def test_what_does_not_fit_is_named(change: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_official(changed(change))


def test_levels_and_size_go_together() -> None:
    settings = Pix2PixSettings.model_validate({"model": {"levels": 6}})
    with pytest.raises(ValueError, match=r"model.levels 6 needs images whose size is a multiple of 64, got 96"):
        settings.check(96, SYSTEM.variants["plain"])
    assert Pix2PixSettings().sizes(96)["levels"] == 5
    with pytest.raises(UserError, match="model.levels 6"):
        from_official(weights(direction(3, 3)), image_size=96)


def test_hms_one_way_into_a_multimodal_domain_is_refused_with_what_to_do() -> None:
    """Its supervised loss would be none, without a word; the mean of the looks, as published, is what plain learns."""
    gray, color = Domain("gray", 1, multimodal=False), Domain("color", 3)
    one_way = ["system=pix2pix", "variant=hms", "model.direction=A->B", "data.image_size=32", "model.width=4"]
    with pytest.raises(
        UserError, match=r"^model.direction: A->B leads into multi-modal domain 'color' alone, .* plain"
    ):
        build_translator(load_config(assignments=one_way), (gray, color))
    for words in (["variant=plain"], ["model.direction=both"], ["loss.multimodal=10"]):
        assert build_translator(load_config(assignments=[*one_way, *words]), (gray, color)).directions()
    assert build_translator(load_config(assignments=one_way), (color, gray)).directions() == ((0, 1),)

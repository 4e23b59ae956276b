"""Published CycleGAN weights, in and out: the functions of the published nets, and the same files again."""

from __future__ import annotations

from pathlib import Path

import plain_cyclegan as plain
import pytest
import torch
from cyclegan_cases import SIDE, many_to_one_pair, published, published_nets, weights
from safetensors.torch import save_file

from m2o_fast.errors import UserError
from m2o_fast.translators.cyclegan.published import from_official, to_official


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize(("a", "b"), [(3, 3), (1, 4)])
@pytest.mark.parametrize("layers", [1, 3])
def test_functions_are_the_published_ones(tmp_path: Path, a: int, b: int, norm: str, layers: int) -> None:
    nets = published_nets(a, b, norm, layers)
    for net in published(nets).values():
        net.eval()
    translator = from_official(weights(nets))
    x, y = torch.rand(2, a, 48, 44) * 2 - 1, torch.rand(2, b, 48, 44) * 2 - 1
    expected = [
        (translator.translate(x, "A", "B"), nets.G_A(x)),
        (translator.translate(y, "B", "A"), nets.G_B(y)),
        (translator.discriminate(y, "B")[0], nets.D_A(y)),
        (translator.discriminate(x, "A")[0], nets.D_B(x)),
    ]
    for ours, theirs in expected:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    again = to_official(translator)
    for name, net in weights(nets).items():
        assert list(again[name]) == list(net)
        assert all(torch.equal(again[name][key], tensor) for key, tensor in net.items())
        save_file(again[name], tmp_path / name)  # refuses what is not contiguous


def test_float32_wrapped_weights_and_names() -> None:
    """Old files are wrapped by ``module.``; domains may have names of their own."""
    nets = published_nets()
    wrapped = {name: {f"module.{k}": v.float() for k, v in net.items()} for name, net in weights(nets).items()}
    translator = from_official(wrapped, domains=["horse", "zebra"], image_size=SIDE)
    assert [domain.name for domain in translator.domains] == ["horse", "zebra"]
    x = torch.rand(1, 3, SIDE, SIDE, dtype=torch.float32)
    assert translator.translate(x, "horse", "zebra").dtype == torch.float32
    assert not translator.training and not any(p.requires_grad for p in translator.parameters())


def test_statistics_of_instance_norms_are_left_out_with_a_note() -> None:
    nets = published_nets()
    old = {name: dict(net) for name, net in weights(nets).items()}
    for key, channels in (("model.2", 4), ("model.10.conv_block.2", 16)):
        old["G_A"] |= {f"{key}.running_mean": torch.ones(channels), f"{key}.running_var": torch.ones(channels)}
    with pytest.warns(RuntimeWarning, match="G_A: running statistics of 2 instance norms are left out"):
        translator = from_official(old)
    x = torch.rand(1, 3, SIDE, SIDE)
    torch.testing.assert_close(translator.translate(x, "A", "B"), nets.G_A(x), rtol=0, atol=1e-12)


def test_nets_that_are_not_given_are_left_out() -> None:
    translator = from_official({"G_A": published_nets(3, 2).G_A.state_dict()})
    assert [domain.channels for domain in translator.domains] == [3, 2]
    assert translator.directions() == ((0, 1),)
    assert list(to_official(translator)) == ["G_A"]
    with pytest.raises(ValueError, match="came without the generator into domain 'A'"):
        translator.translate(torch.rand(1, 2, 8, 8), "B", "A")
    with pytest.raises(ValueError, match="came without the discriminator of domain 'B'"):
        translator.discriminate(torch.rand(1, 2, 32, 32), "B")
    again = type(translator).from_description(translator.describe())
    assert again.state_dict().keys() == translator.state_dict().keys()


def changed(change: object) -> dict[str, dict[str, torch.Tensor]]:
    given = {name: dict(net) for name, net in weights(published_nets()).items()}
    change(given)  # type: ignore[operator]
    return given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.clear(), "expected state dicts by net"),
        (lambda g: g.update(G=g["G_A"]), "unknown nets: G "),
        (lambda g: g.update(G_A={}), "G_A is not a state dict"),
        (lambda g: g["G_A"].pop("model.1.weight"), "G_A: missing model.1.weight"),
        (lambda g: g["G_A"].pop("model.4.bias"), "G_A: the weights do not fit: missing model.4.bias"),
        (lambda g: g["G_A"].update(more=torch.zeros(1)), "superfluous more"),
        (lambda g: g.update(G_B=plain.Generator(3, 3, 8, 2).state_dict()), "the width is 4 in G_A, 8 in G_B"),
        (lambda g: g.update(G_B=plain.Generator(3, 3, 4, 3).state_dict()), "residual blocks is 2 in G_A, 3 in G_B"),
        (lambda g: g.update(G_B=plain.Generator(2, 3, 4, 2).state_dict()), "the number of channels is 3 in G_A"),
        (lambda g: [g["D_A"].pop(f"model.{k}.weight") for k in (2, 5)], "D_A: expected a patch discriminator"),
        (lambda g: g["D_A"].update({f"model.{3 * 10**9 - 1}.weight": torch.zeros(1)}), "D_A: the weights do not fit"),
        (lambda g: g["G_A"].update({"model.2.weight": torch.zeros(4)}), "those that learn a scale are unknown"),
        (lambda g: g["G_A"].update({"model.10.conv_block.6.weight": torch.zeros(1, 1, 1, 1)}), "have dropout"),
    ],
)
def test_what_does_not_fit_is_named(change: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_official(changed(change))


def test_a_style_has_no_published_layout() -> None:
    with pytest.raises(UserError, match="into domain 'A' has a style"):
        to_official(many_to_one_pair(1, "encoder", 0.0)[1])

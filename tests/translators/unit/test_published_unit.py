"""Published UNIT weights, in and out: the functions of the published nets, and the same files again."""

from __future__ import annotations

from pathlib import Path

import plain_unit as plain
import pytest
import torch
from safetensors.torch import save_file
from unit_cases import SIDE, WIDTH, many_to_one_pair, published_nets, weights

from m2o_fast.engine.convert import convert_checkpoint, write_published
from m2o_fast.errors import UserError
from m2o_fast.translators.unit.published import from_official, to_official


@pytest.mark.parametrize(("a", "b"), [(3, 3), (1, 4)])
@pytest.mark.parametrize(
    ("form", "share", "deep"),
    [("rerelease", 0, 0), ("rerelease", 1, 0), ("rerelease", 2, 0), ("paper", 1, 2), ("paper", 2, 0)],
)
def test_functions_are_the_published_ones(tmp_path: Path, form: str, share: int, deep: int, a: int, b: int) -> None:
    """Shared blocks are found by their weights, and written to the files of both domains."""
    nets = published_nets(form, a, b, share, deep)
    translator = from_official(weights(nets), form=form)
    assert (translator.size.share, translator.size.discriminator_share) == (share, deep)
    x, y = torch.rand(2, a, 48, 44) * 2 - 1, torch.rand(2, b, 48, 44) * 2 - 1
    expected = [
        (translator.encode_content(x, "A"), nets.encode(x, 0)),
        (translator.encode_content(y, "B"), nets.encode(y, 1)),
        (translator.translate(x, "A", "B"), nets.decode(nets.encode(x, 0), 1)),
        (translator.translate(y, "B", "A"), nets.decode(nets.encode(y, 1), 0)),
        (translator.translate(y, "B", "B"), nets.decode(nets.encode(y, 1), 1)),
        *zip(translator.discriminate(x, "A"), nets.judge(x, 0), strict=True),
        *zip(translator.discriminate(y, "B"), nets.judge(y, 1), strict=True),
    ]
    for ours, theirs in expected:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    again = to_official(translator)
    for name, net in weights(nets).items():
        assert list(again[name]) == list(net)
        assert all(torch.equal(again[name][key], tensor) for key, tensor in net.items())
        save_file(again[name], tmp_path / name)  # refuses what is not contiguous


def test_names_and_shapes_are_those_of_published_files() -> None:
    """Some of each part, as they stand in files of width 8."""
    net, judge = plain.Domain(3, 8).state_dict(), plain.MultiScale(3, 8, 3, 2).state_dict()
    paper = plain.Paper(3, 3, 8, 2, 1).state_dict() | plain.PaperJudge(3, 3, 8, 4, 0).state_dict()
    expected = {
        "enc.model.0.conv.weight": [8, 3, 7, 7],
        "enc.model.3.model.3.model.1.conv.bias": [32],
        "dec.model.0.model.0.model.0.conv.weight": [32, 32, 3, 3],
        "dec.model.2.norm.gamma": [16],
        "dec.model.4.conv.weight": [8, 16, 5, 5],
        "dec.model.5.conv.weight": [3, 8, 7, 7],
        "cnns.1.2.conv.weight": [32, 16, 4, 4],
        "cnns.0.3.weight": [1, 32, 1, 1],
        "encode_A.2.model.0.weight": [32, 16, 3, 3],
        "encode_B.4.model.3.bias": [32],
        "dec_shared.0.model.0.weight": [32, 32, 3, 3],
        "decode_A.2.model.0.weight": [32, 16, 3, 3],
        "decode_B.4.weight": [8, 3, 1, 1],
        "model_A.3.model.0.weight": [64, 32, 3, 3],
        "model_B.4.weight": [1, 64, 1, 1],
    }
    assert {key: list((net | judge | paper)[key].shape) for key in expected} == expected


def test_files_of_both_domains_float32_and_names() -> None:
    """Published files of the re-release hold ``a`` and ``b``; some are wrapped by ``module.``."""
    nets = weights(published_nets())
    wrapped = {name: {f"module.{k}": v.float() for k, v in net.items()} for name, net in nets.items()}
    files = {kind: {letter: wrapped[f"{kind}_{letter}"] for letter in "ab"} for kind in ("gen", "dis")}
    translator = from_official(files, domains=["day", "night"], image_size=SIDE)
    assert [domain.name for domain in translator.domains] == ["day", "night"]
    x = torch.rand(1, 3, SIDE, SIDE, dtype=torch.float32)
    assert translator.translate(x, "day", "night").dtype == torch.float32
    assert not translator.training and not any(p.requires_grad for p in translator.parameters())


@pytest.mark.parametrize("form", ["rerelease", "paper"])
def test_files_become_a_run_and_files_again(tmp_path: Path, form: str) -> None:
    """``gen_00000000.pt`` and ``dis_00000000.pt``, of the re-release with the nets of both domains in each."""
    nets = {name: {k: v.float() for k, v in net.items()} for name, net in weights(published_nets(form)).items()}
    if form == "rerelease":
        nets = {kind: {letter: nets[f"{kind}_{letter}"] for letter in "ab"} for kind in ("gen", "dis")}
    for name, net in nets.items():
        torch.save(net, tmp_path / name)
    convert_checkpoint("unit", {name: tmp_path / name for name in nets}, tmp_path / "run", image_size=SIDE)
    written = write_published(tmp_path / "run", tmp_path / "again", "unit")
    assert [file.name for file in written] == ["gen_00000000.pt", "dis_00000000.pt"]
    for file, net in zip(written, nets.values(), strict=True):
        torch.testing.assert_close(torch.load(file, weights_only=True), net, rtol=0, atol=0, check_dtype=False)


@pytest.mark.parametrize(("form", "given"), [("rerelease", ["gen_a", "gen_b", "dis_b"]), ("paper", ["gen"])])
def test_discriminators_that_are_not_given_are_left_out(form: str, given: list[str]) -> None:
    nets = weights(published_nets(form, 3, 2))
    translator = from_official({name: nets[name] for name in given})
    assert [domain.channels for domain in translator.domains] == [3, 2]
    assert list(to_official(translator)) == given
    with pytest.raises(ValueError, match="came without the discriminator of domain 'A'"):
        translator.discriminate(torch.rand(1, 3, 32, 32), "A")
    again = type(translator).from_description(translator.describe())
    assert again.state_dict().keys() == translator.state_dict().keys()


def changed(change: object, form: str = "rerelease") -> dict[str, dict[str, torch.Tensor]]:
    given = {name: dict(net) for name, net in weights(published_nets(form)).items()}
    change(given)  # type: ignore[operator]
    return given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.clear(), "expected state dicts by net"),
        (lambda g: g.update(G=g["gen_a"]), "unknown nets: G "),
        (lambda g: g.update(gen_a={}), "gen_a is not a state dict"),
        (lambda g: g.pop("gen_b"), "missing nets: gen_b"),
        (lambda g: g["gen_a"].pop("enc.model.0.conv.weight"), "gen_a: missing enc.model.0.conv.weight"),
        (lambda g: g["gen_a"].pop("dec.model.2.norm.beta"), "gen_a: the weights do not fit: missing dec.model.2.norm"),
        (lambda g: g["gen_b"].update(more=torch.zeros(1)), "superfluous more"),
        (lambda g: g.update(gen_b=plain.Domain(3, 8, 2).state_dict()), f"the width is {WIDTH} in gen_a, 8 in gen_b"),
        (lambda g: g.update(gen_b=plain.Domain(3, WIDTH, 3).state_dict()), "residual blocks is 2 in gen_a, 3 in gen_b"),
        (lambda g: g.update(dis_b=plain.MultiScale(3, WIDTH, 2, 1).state_dict()), "scales is 2 in dis_a, 1 in dis_b"),
    ],
)
def test_what_does_not_fit_is_named(change: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_official(changed(change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.pop("gen"), "missing nets: gen$"),
        (lambda g: g["gen"].pop("encode_B.0.model.0.weight"), "gen: missing encode_B.0.model.0.weight"),
        (lambda g: g["gen"].pop("dec_shared.0.model.3.bias"), "gen: the weights do not fit: missing dec_shared.0"),
        (lambda g: g["dis"].pop("model_A.0.model.0.weight"), "dis: missing model_A.0.model.0.weight"),
        (lambda g: g["dis"].update(more=torch.zeros(1)), "dis: .* superfluous more"),
    ],
)
def test_what_does_not_fit_the_paper_s_form_is_named(change: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_official(changed(change, "paper"))


@pytest.mark.parametrize(
    ("of", "form", "message"),
    [
        ("rerelease", "first", "^unknown form 'first'; the forms are rerelease, paper$"),
        ("paper", "rerelease", "^the nets gen, dis are of form 'paper', not 'rerelease'; leave it out$"),
        ("rerelease", "paper", "^the nets gen_a, gen_b, .* are of form 'rerelease', not 'paper'; leave it out$"),
    ],
)
def test_forms_that_the_nets_do_not_have_are_refused(of: str, form: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_official(weights(published_nets(of)), form=form)


def test_discriminators_that_are_too_deep_for_the_size_are_named() -> None:
    judge = plain.MultiScale(3, WIDTH, 4, 3).state_dict()
    with pytest.raises(UserError, match="4 at model.scales 3 need images of at least 61 pixels, not 32"):
        from_official(changed(lambda g: g.update(dis_a=judge, dis_b=judge)), image_size=32)


@pytest.mark.parametrize(("form", "adversarial", "kl"), [("rerelease", 1, 0.01), ("paper", 10, 0.1)])
def test_losses_have_the_weights_of_the_form(form: str, adversarial: float, kl: float) -> None:
    found = from_official(weights(published_nets(form))).weights
    assert (found.adversarial, found.cycle, found.kl) == (adversarial, 10 * adversarial, kl)


def test_a_style_has_no_published_layout() -> None:
    with pytest.raises(UserError, match="decoder of domain 'A' has a style"):
        to_official(many_to_one_pair()[1])

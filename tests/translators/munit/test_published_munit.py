"""Published MUNIT weights, in and out: the functions of the published nets, and the same files again."""

from __future__ import annotations

from pathlib import Path

import plain_munit as plain
import pytest
import torch
from munit_cases import GENERATOR, SIDE, STYLE_DIM, WIDTH, published_nets, translator_of, weights

from m2o_fast.engine.convert import convert_checkpoint, write_published
from m2o_fast.errors import UserError
from m2o_fast.translators.munit.published import from_official, to_official


@pytest.mark.parametrize(("a", "b"), [(3, 3), (1, 4)])
def test_functions_are_the_published_ones(a: int, b: int) -> None:
    nets = published_nets(a, b)
    translator = from_official(weights(nets))
    x, y = torch.rand(2, a, 20, 32) * 2 - 1, torch.rand(2, b, 20, 32) * 2 - 1
    style = torch.randn(2, STYLE_DIM)
    content = nets.gen_a.enc_content(x)
    expected = [
        (translator.encode_content(x, "A"), content),
        (translator.encode_style(y, "B"), nets.gen_b.encode_style(y)),
        (translator.translate(x, "A", "B", style=style), nets.gen_b.decode(content, style)),
        (translator.translate(x, "A", "A", reference=x), nets.gen_a.decode(content, nets.gen_a.encode_style(x))),
        *zip(translator.discriminate(y, "B"), nets.dis_b(y), strict=True),
    ]
    for ours, theirs in expected:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    again = to_official(translator)
    for name, net in weights(nets).items():
        assert list(again[name]) == list(net)
        assert all(torch.equal(again[name][key], tensor) for key, tensor in net.items())


def test_files_hold_both_domains(tmp_path: Path) -> None:
    """As ``gen_01000000.pt`` and ``dis_01000000.pt``, here wrapped by ``module.`` and without statistics."""
    given = weights(published_nets())
    for file in ("gen", "dis"):
        held = {letter: given[f"{file}_{letter}"] for letter in "ab"}
        held = {k: {f"module.{key}": v for key, v in net.items() if "running" not in key} for k, net in held.items()}
        torch.save(held, tmp_path / f"{file}_1.pt")
    files = {file: tmp_path / f"{file}_1.pt" for file in ("gen", "dis")}
    translator = convert_checkpoint("munit", files, tmp_path / "run", ["edges", "shoes"], image_size=64)
    assert [domain.name for domain in translator.domains] == ["edges", "shoes"] and translator.image_size == 64
    written = write_published(tmp_path / "run", tmp_path / "again", "munit")
    assert [file.name for file in written] == ["gen_00000000.pt", "dis_00000000.pt"]
    for file in written:
        again = torch.load(file, weights_only=True)
        for letter, net in again.items():
            assert all(torch.equal(net[key], tensor) for key, tensor in given[f"{file.name[:3]}_{letter}"].items())
    only = from_official({"gen": torch.load(written[0], weights_only=True)})
    with pytest.raises(ValueError, match="came without the discriminator of domain 'B'"):
        only.discriminate(torch.rand(1, 3, SIDE, SIDE), "B")
    again = type(only).from_description(only.describe())
    assert again.state_dict().keys() == only.state_dict().keys()
    assert list(to_official(only)) == ["gen_a", "gen_b"]


def changed(change: object) -> dict[str, dict[str, torch.Tensor]]:
    given = {name: dict(net) for name, net in weights(published_nets()).items()}
    change(given)  # type: ignore[operator]
    return given


#: of the first layer of a block
STATISTIC = "dec.model.0.model.{}.model.0.norm.running_mean"


def pop(net: dict[str, torch.Tensor], prefix: str) -> None:
    for key in [key for key in net if key.startswith(prefix)]:
        net.pop(key)


def other(**sizes: int) -> dict[str, torch.Tensor]:
    return plain.Generator(3, **{**GENERATOR, **sizes}).state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.clear(), "expected state dicts by net"),
        (lambda g: g.update(gen={}), "unknown nets: gen "),
        (lambda g: g.pop("gen_b"), "missing nets: gen_b"),
        (lambda g: g.update(gen={"a": g.pop("gen_a"), "epoch": 3}), "gen holds epoch; expected state dicts by a and b"),
        (lambda g: g.update(gen={"a": g["gen_a"]}), "gen_a is given twice"),
        (
            lambda g: [g.update(a=g["gen_a"], b=g["gen_b"]), *(g.pop(name) for name in list(g)[:4])],
            r"a, b are nets of a file; say of which one \(files: gen, dis\)",
        ),
        (lambda g: g["gen_a"].update({3: torch.zeros(1)}), "gen_a: expected names of weights, found 3"),
        (
            lambda g: g["gen_a"].update({STATISTIC.format(9): torch.zeros(16)}),
            r"model.9.\S+ \[16\] belongs to no layer",
        ),
        (lambda g: g["gen_a"].update({STATISTIC.format(0): torch.zeros(3)}), r"model.0.\S+ \[3\] belongs to no layer"),
        (lambda g: g["dis_a"].pop("cnns.0.0.conv.bias"), "dis_a: the weights do not fit: missing cnns.0.0.conv.bias"),
        (lambda g: g["dis_b"].pop("cnns.0.2.weight"), "dis_b: the weights do not fit: missing cnns.0.2.weight"),
        (lambda g: pop(g["gen_b"], "enc_content.model.3.model.0."), "gen_b: the weights do not fit: missing enc_cont"),
        (lambda g: g["gen_a"].pop("enc_content.model.0.conv.weight"), "gen_a: missing enc_content.model.0.conv.weight"),
        (lambda g: g["gen_a"].pop("mlp.model.1.fc.weight"), "gen_a: missing mlp.model.1.fc.weight"),
        (
            lambda g: g["gen_a"].update(
                {f"enc_content.model.3.model.{n}.model.0.conv.weight": torch.zeros(1) for n in range(9999)}
            ),
            "gen_a: expected a content encoder of two halvings and residual blocks",
        ),
        (
            lambda g: g["dis_a"].update({f"cnns.0.{n}.conv.weight": torch.zeros(1, 1, 1, 1) for n in range(2, 9999)}),
            "dis_a: the weights do not fit: superfluous",
        ),
        (lambda g: g["gen_a"].pop("mlp.model.2.fc.bias"), "gen_a: the weights do not fit: missing mlp.model.2.fc.bias"),
        (lambda g: g["gen_a"].update(more=torch.zeros(1)), "superfluous more"),
        (lambda g: g.update(gen_b=other(width=8)), "the width is 4 in gen_a, 8 in gen_b"),
        (lambda g: g.update(gen_b=other(style=2)), "the length of a style is 3 in gen_a, 2 in gen_b"),
        (lambda g: g.update(gen_b=other(blocks=1)), "residual blocks is 2 in gen_a, 1 in gen_b"),
        (
            lambda g: g.update(dis_a=plain.Discriminator(2, WIDTH, 2, 2).state_dict()),
            "channels is 3 in gen_a, 2 in dis_a",
        ),
        (
            lambda g: g.update(dis_a=plain.Discriminator(3, WIDTH, 3, 2).state_dict()),
            "layers is 3 in dis_a, 2 in dis_b",
        ),
        (
            lambda g: g.update(dis_a=plain.Discriminator(3, WIDTH, 2, 3).state_dict()),
            "scales is 3 in dis_a, 2 in dis_b",
        ),
        (
            lambda g: pop(g["gen_b"], "enc_content.model.3"),
            "gen_b: expected a content encoder of two halvings and residual blocks",
        ),
    ],
)
def test_what_does_not_fit_is_named(change: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_official(changed(change))


def test_weights_are_compared_before_nets_are_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    given = changed(lambda g: g["gen_a"].update({"mlp.model.0.fc.weight": torch.randn(30_000, STYLE_DIM)}))
    monkeypatch.setattr(torch.nn.Module, "to_empty", lambda *_, **__: pytest.fail("allocated"))
    with pytest.raises(UserError, match=r"mlp.model.0.fc.weight is \[30000, 3\] instead of \[5, 3\]"):
        from_official(given)


def test_sizes_that_the_discriminators_cannot_judge() -> None:
    judges = {f"dis_{letter}": plain.Discriminator(3, 1, 4, 3).state_dict() for letter in "ab"}
    with pytest.raises(UserError, match="need images of at least 61 pixels, not 32"):
        from_official({**weights(published_nets()), **judges}, image_size=32)


def test_a_domain_without_style_has_no_published_layout() -> None:
    with pytest.raises(UserError, match="domain 'B' has no style"):
        to_official(translator_of(published_nets(3, 1, styled=False)))

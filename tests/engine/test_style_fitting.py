"""Random styles are fitted to real images: what is reached, that training does not feel it, and where it ends up."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import contents, stop_at, tiny_config, tiny_digits
from torch import Tensor

from m2o_fast.engine import style_fitting
from m2o_fast.engine.build import build_translator
from m2o_fast.engine.checkpoint import read_tensors
from m2o_fast.engine.loop import train
from m2o_fast.engine.runs import load_translator
from m2o_fast.engine.style_fitting import StyleFitting
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.nn.style_fit import Moments
from m2o_fast.translators.starganv2.published import from_official, to_official
from m2o_fast.translators.starganv2.translator import StarGANv2

pytestmark = pytest.mark.usefixtures("tiny_data")
FIT = "model.fit_styles=true"
DATA = tiny_digits("digits", split="train", seed=1, pair_fraction=1.0)
MATRIX = "mapping_network.fits.0.matrix"


class Readable(StarGANv2):
    """Nets that write a style into their images, distorted, and read it there."""

    gain = 0.8

    def translate(self, x: Tensor, source: str | int, target: str | int, **given: Tensor | None) -> Tensor:
        style = given["style"]
        assert style is not None
        written = self.gain * style[:, :3] + 0.1 * style[:, 1:] + 0.3
        return written[..., None, None].expand(-1, -1, 32, 32)

    def encode_style(self, x: Tensor, domain: str | int) -> Tensor:
        flat = x.mean(dim=(2, 3))
        return torch.cat([flat, flat.sum(1, keepdim=True)], dim=1)


class Loud(Readable):
    """Far louder than they were told, so that every correction goes too far."""

    gain = 9.0


def nets(kind: type[StarGANv2] = StarGANv2, *words: str) -> StarGANv2:
    torch.manual_seed(4)
    built = build_translator(tiny_config("model.style_op=adain", FIT, *words), DATA.domains, DATA.sets)
    translator = kind.from_description(built.describe())
    return translator.eval().requires_grad_(False)


def distance(translator: StarGANv2) -> float:
    """Of what is read off translations from what is read off real images."""
    numbers = torch.arange(2048)
    real = translator.encode_style(DATA.images(0, numbers % 6, numbers // 6) * 2 - 1, 0)
    style = translator.sample_style(20_000, 0, torch.Generator().manual_seed(9))
    read = translator.encode_style(translator.translate(style, 1, 0, style=style), 0)
    return Moments.of(read).distance(Moments.of(real))


def test_what_is_read_off_translations_is_spread_as_what_is_read_off_images() -> None:
    translator = nets(Readable)
    before = distance(translator)
    StyleFitting(DATA, 1, 64).fit(translator)
    assert distance(translator) < 0.02 * before


def test_it_makes_nothing_worse() -> None:
    translator = nets(Loud)
    before = distance(translator)
    StyleFitting(DATA, 1, 64).fit(translator)
    assert distance(translator) < 1.02 * before  # but for which styles were drawn


def test_it_depends_on_nets_seed_and_images_alone() -> None:
    fitted = []
    for seed in (1, 1, 2):
        translator = nets(Readable)
        torch.rand(3)
        StyleFitting(DATA, seed, 32).fit(translator)
        fitted.append(translator.state_dict()[MATRIX].clone())
    assert torch.equal(fitted[0], fitted[1]) and not torch.equal(fitted[0], fitted[2])
    assert not torch.equal(fitted[0], torch.eye(4))


@pytest.mark.usefixtures("few")
def test_images_that_cannot_be_read_any_more_do_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: object) -> Tensor:
        raise UserError("a.png: no such image file")

    monkeypatch.setattr(StyleFitting, "_styles_of_images", gone)
    train(tiny_config("steps=2", FIT, "sample_every=9"), tmp_path / "run", quiet=True)
    assert "step 2: styles are not fitted: a.png: no such image file; training goes on" in capsys.readouterr().err
    assert torch.equal(load_translator(tmp_path / "run").state_dict()[MATRIX], torch.eye(4))


@pytest.mark.usefixtures("few")
def test_what_begins_with_a_fitted_run_trains_as_without_the_map(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    train(tiny_config("steps=2", FIT), begun, quiet=True)
    assert not torch.equal(load_translator(begun).state_dict()[MATRIX], torch.eye(4))
    for name, asked in (("with", FIT), ("without", "model.fit_styles=false")):
        train(tiny_config("steps=2", asked, f"init_from={begun}"), tmp_path / name, quiet=True)
    with_map, without = (
        read_tensors(tmp_path / name / "checkpoints/step-00000002", "nets.safetensors") for name in ("with", "without")
    )
    assert all(torch.equal(with_map[name], tensor) for name, tensor in without.items())


def test_numbers_that_have_no_roots_do_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object) -> None:
        raise torch.linalg.LinAlgError("eigh: no convergence")

    monkeypatch.setattr(StyleFitting, "fit", lambda *_, **__: none())
    train(tiny_config("steps=2", FIT, "sample_every=9"), tmp_path / "run", quiet=True)
    assert "styles are not fitted: eigh: no convergence; training goes on" in capsys.readouterr().err


def test_a_fit_that_is_broken_off_leaves_no_half_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    translator, reads = nets(Readable), []
    read = StyleFitting._styles_of_translations

    def at_last_none(self: StyleFitting, *given: Any) -> Tensor:
        reads.append(given)
        if len(reads) == 2:
            raise MemoryError
        return read(self, *given)

    monkeypatch.setattr(StyleFitting, "_styles_of_translations", at_last_none)
    with pytest.raises(MemoryError):
        StyleFitting(DATA, 1, 32).fit(translator, 64)
    assert torch.equal(translator.state_dict()[MATRIX], torch.eye(4))


def test_a_short_training_does_not_wait_for_it() -> None:
    for at_most, fitted in ((31, False), (32, True)):  # eight for each of four dimensions
        translator = nets(Readable)
        StyleFitting(DATA, 1, 32).fit(translator, at_most)
        assert torch.equal(translator.state_dict()[MATRIX], torch.eye(4)) is not fitted


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("broken", ["encoder.nan", "encoder.constant", "generator.nan"])
def test_where_nets_have_gone_wrong_styles_are_left_as_they_are(broken: str) -> None:
    translator = nets()
    net, _, how = broken.partition(".")
    wrong = translator.style_encoder if net == "encoder" else translator.generator
    for parameter in wrong.parameters():
        parameter.fill_(torch.nan if how == "nan" else 0.0)
    StyleFitting(DATA, 1, 32).fit(translator)
    assert torch.equal(translator.state_dict()[MATRIX], torch.eye(4))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few translations as show that styles are fitted at all."""
    monkeypatch.setattr(style_fitting, "TRANSLATIONS", 32)
    monkeypatch.setattr(style_fitting, "IMAGES", 64)
    monkeypatch.setattr(style_fitting, "FEWEST", 1)


@pytest.mark.usefixtures("few")
def test_training_does_not_feel_it_and_what_is_saved_does_not_depend_on_earlier_fits(tmp_path: Path) -> None:
    for name, every in (("often", 1), ("once", 9)):
        words = ("steps=3", FIT, "checkpoint_every=9", f"sample_every={every}", f"validate_every={every}")
        train(tiny_config(*words), tmp_path / name, quiet=True)
    without = tiny_config("steps=3", "model.fit_styles=false", "checkpoint_every=9", "sample_every=9")
    train(without, tmp_path / "without", quiet=True)
    files = {name: contents(tmp_path / name) for name in ("often", "once", "without")}
    last = "checkpoints/step-00000003"
    for name in ("nets", "ema", "optimizers"):
        assert files["often"][f"{last}/{name}.safetensors"] == files["once"][f"{last}/{name}.safetensors"]
    assert files["once"][f"{last}/optimizers.safetensors"] == files["without"][f"{last}/optimizers.safetensors"]
    trained, averaged = (read_tensors(tmp_path / "once" / last, f"{name}.safetensors") for name in ("nets", "ema"))
    plain = read_tensors(tmp_path / "without" / last, "nets.safetensors")
    assert all(torch.equal(trained[name], tensor) for name, tensor in plain.items())
    assert torch.equal(trained[MATRIX], torch.eye(4)) and not torch.equal(averaged[MATRIX], torch.eye(4))
    assert torch.equal(load_translator(tmp_path / "once").state_dict()[MATRIX], averaged[MATRIX])


def test_samples_validation_and_checkpoint_of_a_step_share_one_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(StyleFitting, "fit", lambda self, nets, at_most: seen.append(at_most))
    train(
        tiny_config("steps=2", "checkpoint_every=1", "sample_every=1", "validate_every=1"), tmp_path / "run", quiet=True
    )
    assert seen == [4, 8]  # with a batch of four


@pytest.mark.usefixtures("few")
def test_a_run_that_was_stopped_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("steps=4", FIT, "keep_checkpoints=0", "sample_every=2")
    train(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stop_at(2, signal.SIGINT, patch)
        assert train(config, tmp_path / "stopped", quiet=True).exit_code == 130
    train(config, tmp_path / "stopped", resume="auto", quiet=True)
    whole, stopped = contents(tmp_path / "whole"), contents(tmp_path / "stopped")
    assert {name: stopped[name] for name in whole} == whole


def test_in_the_published_layout_it_is_part_of_the_last_layer() -> None:
    translator = nets(StarGANv2, "variant=plain")
    for k in range(2):
        fit = translator.style_fit(k)
        assert fit is not None
        fit.move(Moments(torch.ones(4).double(), torch.eye(4).double()), Moments.of(torch.randn(9, 4)))
    published = from_official(to_official(translator), ["color", "gray"])
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    for k in range(2):
        assert torch.allclose(published.map_style(z, k), translator.map_style(z, k), atol=1e-6)


def test_uni_modal_domains_have_none() -> None:
    translator = nets(StarGANv2, "variant=hms")
    styled = [translator.style_fit(k) is not None for k in range(2)]
    assert styled == [translator.has_style(k) for k in range(2)] == [True, False]
    assert isinstance(translator.domains[0], Domain)

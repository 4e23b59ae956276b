"""The alarm for ignored styles and lost colours: when it sounds, when it is quiet, and what is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import IMAGES, contents, tiny_config, tiny_digits

from m2o_fast.engine.loop import train
from m2o_fast.engine.trainer import Trainer
from m2o_fast.engine.watch import StyleWatch, color_spread, first_alarm
from m2o_fast.translators.settings import Advice
from m2o_fast.translators.starganv2.translator import StarGANv2

EFFECT, SPREAD = "gray->color/style_effect", "gray->color/color_spread"


class Painter:
    """Paints all of an image in one colour of its style; the domains are those of the digits."""

    image_size = 32

    def __init__(self, how: str) -> None:
        self.how = how
        self.domains = tiny_digits("", split="test", seed=1, pair_fraction=1.0).domains

    def has_style(self, target: int) -> bool:
        """Gray has one, too, and rightly ignores it."""
        return True

    def rows(self) -> dict[str, torch.Tensor]:
        """The rows gray -> color of a sample grid."""
        generator = torch.Generator().manual_seed(0)
        colors = {
            "sound": torch.rand((4, 1, 3, 1, 1), generator=generator) * 2 - 1,
            "ignores its style": torch.rand((1, IMAGES, 3, 1, 1), generator=generator).expand(4, -1, -1, -1, -1) - 1,
            "paints everything gray": torch.zeros((4, 1, 3, 1, 1)),
        }[self.how]
        images = colors.expand(4, IMAGES, 3, 32, 32).clone()
        if self.how == "paints everything gray":  # every style another picture, all of one mean colour
            images += torch.rand(images.shape, generator=generator) * 2 - 1
        return {"source": images[0], **{f"latent {i + 1}": row for i, row in enumerate(images)}}


def watch_of(painter: Painter, *settings: str) -> tuple[StyleWatch, dict[str, float]]:
    data = tiny_digits("", split="test", seed=1, pair_fraction=1.0)
    watch = StyleWatch(data, painter, tiny_config("optim.ema=0.9", "steps=10", *settings))
    return watch, watch.measure({(0, 1): painter.rows(), (1, 0): painter.rows()})


def test_a_sound_translator_is_left_alone() -> None:
    watch, values = watch_of(Painter("sound"))
    assert set(values) == {EFFECT, SPREAD}, "gray has no styles to ignore"
    assert values[EFFECT] > 0.5
    assert values[SPREAD] > 0.5
    assert watch.alarms(10_000, values) == []


@pytest.mark.parametrize(
    ("how", "words", "advice"),
    [
        ("ignores its style", "two styles of one source differ by 0.0% of what two real images do", "loss.diversity"),
        ("paints everything gray", "has lost its colours: they spread", "loss.style"),
    ],
)
def test_a_poor_translator_is_told_once(how: str, words: str, advice: str) -> None:
    watch, values = watch_of(Painter(how))
    sound = watch_of(Painter("sound"))[1]
    (message,) = watch.alarms(30, values)
    assert message.startswith("step 30: gray -> color ")
    assert words in message and advice in message and "docs/recipe.md" in message
    assert watch.alarms(40, values) == [], "it was said"
    assert watch.alarms(50, sound) == []
    assert len(watch.alarms(60, values)) == 1, "a new occurrence"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({EFFECT: 0.24, SPREAD: 0.5}, "hardly follows its style: two styles of one source differ by 24.0%"),
        ({EFFECT: 0.34, SPREAD: 0.2}, "has pale colours: they spread 20.0% as far as real ones"),
        ({EFFECT: 0.28, SPREAD: 0.39}, ""),  # the least of sound runs
    ],
)
def test_pale_looks_are_told_from_step_1500_on(values: dict[str, float], words: str) -> None:
    """The second is of pictograms whose looks were alike and washed out; docs/recipe.md has the sound ones."""
    watch = watch_of(Painter("sound"))[0]
    assert watch.alarms(1499, values) == []
    assert [words in message for message in watch.alarms(1500, values)] == [True] * bool(words)


def test_the_alarm_waits_until_the_average_has_forgotten_the_first_weights() -> None:
    watch, values = watch_of(Painter("ignores its style"))
    assert first_alarm(tiny_config("optim.ema=0.9", "steps=10")) == 30
    assert 0.9**30 < 0.05
    assert watch.alarms(29, values) == []
    assert watch.alarms(30, values) != []
    assert first_alarm(tiny_config("optim.ema=0", "steps=500")) == 50


def test_where_there_is_no_advice_none_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    for how in ("ignores its style", "paints everything gray"):
        watch, values = watch_of(Painter(how))
        monkeypatch.setattr(watch, "_advice", Advice())
        (message,) = watch.alarms(30, values)
        assert "Try" not in message


def test_figures_are_shares_of_what_real_images_show() -> None:
    """Real images in the place of outputs: a style effect and a spread of about 1."""
    data = tiny_digits("", split="test", seed=1, pair_fraction=1.0)
    real = data.images("color", range(IMAGES)) * 2 - 1
    rows = {f"latent {i + 1}": real.roll(i, 0) for i in range(4)}
    values = StyleWatch(data, Painter("sound"), tiny_config()).measure({(0, 1): {}, (1, 0): rows})
    assert values[SPREAD] == pytest.approx(1, abs=1e-5)
    assert values[EFFECT] == pytest.approx(1, abs=0.25)


def test_color_spread_by_hand() -> None:
    images = torch.zeros(2, 3, 4, 4)
    images[1, 0] = 1  # means of the red channel 0 and 1: variance 1/4; of the other two 0
    assert color_spread(images) == pytest.approx((0.25 / 3) ** 0.5)


@pytest.mark.usefixtures("tiny_data")
def test_a_run_that_died_records_every_grid_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the grid of step 3, with step 2 as its newest checkpoint."""
    config = tiny_config("steps=4", "sample_every=3", "checkpoint_every=2")
    train(config, tmp_path / "whole", quiet=True)
    batch = Trainer.batch

    def deadly(self: Trainer, step: int):
        if step == 3:
            raise OSError("died")
        return batch(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "batch", deadly)
        with pytest.raises(OSError, match="died"):
            train(config, tmp_path / "died", quiet=True)
    assert len((tmp_path / "died" / "samples.jsonl").read_text().splitlines()) == 1
    train(config, tmp_path / "died", "auto", quiet=True)
    assert contents(tmp_path / "died") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("tiny_data")
def test_a_run_warns_and_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # It may sound from step 3 on; by AdaIN, styles act as soon.
    settings = ("steps=4", "sample_every=1", "optim.ema=0", "checkpoint_every=9", "model.style_op=adain")
    train(tiny_config(*settings), tmp_path / "sound", quiet=True)
    sound = capsys.readouterr().err
    translate = StarGANv2.translate

    def without_style(self, x, source, target, *, style=None, reference=None):
        return translate(self, x, source, target, style=torch.zeros(1, self.size.style_dim))

    monkeypatch.setattr(StarGANv2, "translate", without_style)
    train(tiny_config(*settings), tmp_path / "poor", quiet=True)
    warning = capsys.readouterr().err
    assert "ignores its style" not in sound
    assert warning.count("ignores its style") == 1
    assert warning.startswith("m2o-fast: warning: step 3: gray -> color ignores its style")
    for run, poor in (("sound", False), ("poor", True)):
        records = [json.loads(line) for line in (tmp_path / run / "samples.jsonl").read_text().splitlines()]
        assert [record["step"] for record in records] == [1, 2, 3, 4]
        assert all((record[EFFECT] == 0) is poor for record in records)

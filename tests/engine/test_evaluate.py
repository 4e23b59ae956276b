"""Evaluation of a run: every direction, the numbers of the metrics, nothing that depends on how it was computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import IMAGES, tiny_config

from m2o_fast.engine import evaluate
from m2o_fast.engine.evaluate import evaluate_run
from m2o_fast.engine.loop import train
from m2o_fast.engine.runs import load_translator, open_split
from m2o_fast.errors import UserError
from m2o_fast.translators import StarGANv2

pytestmark = pytest.mark.usefixtures("tiny_data")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    train(tiny_config("steps=2"), tmp_path / "run", quiet=True)
    return tmp_path / "run"


def test_report_has_every_direction_and_the_protocol(run: Path) -> None:
    result = evaluate_run(run, outputs=2)
    assert json.loads(json.dumps(result)) == result
    assert result["step"] == 2 and result["run"] == str(run)
    assert set(result["directions"]) == {"color->gray", "gray->color"}
    assert set(result["directions"]["gray->color"]) == {
        "color_recall",
        "color_recall_ceiling",
        "coverage",
        "unique_colors",
        "content_mse",
    }
    assert result["protocol"]["sources"] == IMAGES and result["protocol"]["outputs_per_source"] == 2


def test_mse_is_that_of_the_averaged_nets(run: Path) -> None:
    data, translator = open_split(tiny_config(), "test"), load_translator(run)
    rows = range(IMAGES)
    outputs = (translator.translate(data.images("color", rows) * 2 - 1, "color", "gray") + 1) / 2
    expected = (outputs.clamp(0, 1).double() - data.content(rows).double()).square().mean().item()
    assert evaluate_run(run, outputs=1)["directions"]["color->gray"]["mse"] == pytest.approx(expected, rel=1e-6)


def test_batch_size_does_not_matter(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate_run(run, outputs=3)["directions"]
    monkeypatch.setattr(evaluate, "BATCH", 4)
    parts = evaluate_run(run, outputs=3)["directions"]
    assert parts["color->gray"]["mse"] == pytest.approx(whole["color->gray"]["mse"], rel=1e-6)
    assert parts["gray->color"] == pytest.approx(whole["gray->color"], rel=1e-6)


@pytest.mark.parametrize(("variant", "independent"), [("starganv2", False), ("hmu", True)])
def test_style_independence_is_measured(variant: str, independent: bool, tmp_path: Path) -> None:
    """The symmetric base model lets the style change gray images; the many-to-one rules do not, not by one bit."""
    train(tiny_config("steps=1", f"variant={variant}"), tmp_path / "run", quiet=True)
    result = evaluate_run(tmp_path / "run", outputs=1)
    assert result["directions"]["color->gray"]["style_independent"] is independent


def test_an_older_checkpoint_can_be_measured(run: Path) -> None:
    train(tiny_config("steps=4"), run, "auto", quiet=True)
    assert evaluate_run(run, outputs=1)["step"] == 4
    assert evaluate_run(run, outputs=1, checkpoint="step-00000002")["step"] == 2
    with pytest.raises(UserError, match="no checkpoint 'step-9'; it has: step-00000002, step-00000004"):
        evaluate_run(run, outputs=1, checkpoint="step-9")


def test_styles_are_the_same_in_every_evaluation(run: Path) -> None:
    torch.manual_seed(1)
    first = evaluate_run(run, outputs=2)
    torch.manual_seed(2)
    assert evaluate_run(run, outputs=2) == first


def test_a_style_that_leaks_is_noticed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    translate = StarGANv2.translate

    def leaky(self, x, source, target, *, style=None, reference=None):
        return translate(self, x, source, target, style=style) + 1e-3 * style.mean()

    monkeypatch.setattr(StarGANv2, "translate", leaky)
    assert evaluate_run(run, outputs=1)["directions"]["color->gray"]["style_independent"] is False

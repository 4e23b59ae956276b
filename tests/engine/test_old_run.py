"""A run folder of version 0.1, before there were several systems: it loads, translates, is measured and goes on.

It was made by ``m2o-fast train --variant hms --steps 6`` with tiny nets. ``expected.json`` holds what that version
measured on it (16 sources, 2 outputs each), and the losses of its next two steps.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import m2o_fast
from m2o_fast.engine.config import dump_config, load_config
from m2o_fast.engine.evaluate import evaluate_run
from m2o_fast.engine.evaluation.options import Options
from m2o_fast.engine.loop import train
from m2o_fast.engine.start import as_kept
from m2o_fast.report import write_report

OLD = Path(__file__).with_name("old_run")
EXPECTED = json.loads((OLD / "expected.json").read_text())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return shutil.copytree(OLD, tmp_path / "run", ignore=shutil.ignore_patterns("expected.json"))


def test_its_settings_mean_what_they_meant(run: Path) -> None:
    config = load_config(run / "config.yaml")
    assert (config.system, config.variant, config.name) == ("starganv2", "hms", "hms")
    assert config.rules.supervised_weight == 1 and config.data.pair_fraction == 1
    before = (run / "config.yaml").read_text()
    assert "system:" not in before
    again = run / "again.yaml"
    again.write_text(dump_config(config))
    assert load_config(again) == config
    again.write_text(before.replace("variant: hms", "variant: starganv2"))
    assert (load_config(again).system, load_config(again).variant) == ("starganv2", "plain")


def test_it_translates_and_is_measured_as_before(run: Path) -> None:
    translator = m2o_fast.load(run, device="cpu")
    x = torch.zeros(2, 1, 32, 32)
    assert translator.translate(x, "gray", "color", style=translator.sample_style(2, "color")).shape == (2, 3, 32, 32)
    found = evaluate_run(run, Options(sources=16, outputs_per_source=2, extractor="none"), device="cpu")
    for place, value in EXPECTED["evaluation"].items():
        direction, guidance, measure = place.split("/")
        assert found["directions"][direction][guidance][measure] == pytest.approx(value, rel=1e-4), place


def test_it_goes_on_as_before(run: Path) -> None:
    """Its next two steps have the losses that they had, to rounding: processors differ."""
    config = as_kept(load_config(run / "config.yaml", {"steps": 8}), run)
    assert train(config, run, "auto", quiet=True).step == 8
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    for found, wanted in zip(lines[6:], EXPECTED["later_losses"], strict=True):
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-5)


def test_its_report_can_be_written(run: Path) -> None:
    page = write_report([run], device="cpu").read_text()
    assert "HMS on digits" in page

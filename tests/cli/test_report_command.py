"""``m2o-fast report``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has logged one line and no more."""
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("steps: 1\n")
    (folder / "metrics.jsonl").write_text('{"step": 1, "skipped": 0, "generator_latent/cycle": 0.5}\n')
    return folder


def test_the_newest_run_is_reported_and_the_file_named(here, run: Path) -> None:
    code, out, err = here("report", cwd=run.parent.parent)
    assert (code, err) == (0, "") and out == "report written to runs/a/report.html\n"
    assert "cycle" in (run / "report.html").read_text()


def test_several_runs_have_one_report(here, run: Path) -> None:
    other = run.parent / "b"
    other.mkdir()
    for path in run.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    code, out, _ = here("report", run, other)
    assert code == 0 and out == f"report written to {run.parent / 'report.html'}\n"


def test_wrong_input_is_one_line(refused, run: Path, tmp_path: Path) -> None:
    assert "no such folder" in refused("report", tmp_path / "nowhere")
    assert "is not a run" in refused("report", tmp_path)
    assert "ends in .html" in refused("report", run, "--out", run / "config.yaml")
    assert "unknown device" in refused("report", run, "--device", "gpu")
    (run / "metrics.jsonl").unlink()
    assert "has nothing to report yet" in refused("report", run)
    assert not (run / "report.html").exists()


def test_measures_outlive_a_report_that_fails(here, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Path:
        raise ZeroDivisionError("float division by zero")

    found = {"run": str(run), "step": 1, "directions": {}, "means": {}, "protocol": {}, "warnings": []}
    monkeypatch.setattr("m2o_fast.engine.evaluate.evaluate_run", lambda *_, **__: found)
    monkeypatch.setattr("m2o_fast.report.write_report", fail)
    code, out, err = here("eval", run, "--json")
    assert code == 0 and json.loads(out) == found and "no report: float division by zero" in err

"""Reports of runs on a tiny data set."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_config, tiny_digits

from m2o_fast.engine.loop import train
from m2o_fast.report import write_report

DATA = "m2o_fast.engine.build.open_dataset"


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs see a data set of six images."""
    monkeypatch.setattr(DATA, tiny_digits)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps; not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DATA, tiny_digits)
        train(tiny_config("steps=4", "sample_every=2"), folder, quiet=True)
    return folder


@pytest.fixture
def make_run(trained: Path, tmp_path: Path) -> Callable[..., Path]:
    """``make_run("name", evaluation() or None)`` -> a copy of the run that may be changed."""

    def make(name: str = "first", result: dict[str, Any] | None = None) -> Path:
        folder = tmp_path / name
        shutil.copytree(trained, folder)
        if result is not None:
            (folder / "evaluation").mkdir()
            (folder / "evaluation" / f"step-{result['step']:08d}.json").write_text(json.dumps(result))
        return folder

    return make


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., str]:
    """``report(run, ...)`` -> the text of the page."""

    def make(*runs: Path) -> str:
        return write_report(runs, tmp_path / "page.html", "cpu").read_text(encoding="utf-8")

    return make

"""Engine tests train on a tiny data set."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import tiny_config, tiny_digits

from m2o_fast.engine.loop import train


@pytest.fixture
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs see a data set of six images."""
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)


@pytest.fixture(scope="session")
def runs_by_steps() -> dict[int, Path]:
    """What :func:`trained` has trained so far."""
    return {}


@pytest.fixture
def trained(
    runs_by_steps: dict[int, Path], tiny_data: None, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path, int], Path]:
    """Puts a copy of a run of so many steps, ``tiny_config("steps=N")``, into a folder; each is trained once."""

    def copy(folder: Path, steps: int) -> Path:
        if steps not in runs_by_steps:
            runs_by_steps[steps] = tmp_path_factory.mktemp("trained") / "run"
            train(tiny_config(f"steps={steps}"), runs_by_steps[steps], quiet=True)
        return shutil.copytree(runs_by_steps[steps], folder)

    return copy

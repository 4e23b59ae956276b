"""Engine tests train on a tiny data set."""

from __future__ import annotations

import pytest
from tiny import tiny_digits


@pytest.fixture
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs see a data set of six images."""
    monkeypatch.setattr("m2o_fast.engine.runs.open_dataset", tiny_digits)

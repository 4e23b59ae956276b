"""The figures that the default recipe promises, measured as a user would: minutes, so only with `make slow`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_default_recipe_on_digits(tmp_path: Path) -> None:
    def m2o_fast(*words: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "m2o_fast.cli", *words], check=True, capture_output=True, text=True
        ).stdout

    m2o_fast("train", "--variant", "hms", "--data", "digits", "--run", str(tmp_path / "run"), "--quiet")
    directions = json.loads(m2o_fast("eval", str(tmp_path / "run"), "--json"))["directions"]
    assert directions["color->gray"]["mse"] <= 0.0025
    assert directions["color->gray"]["style_independent"] is True
    assert directions["gray->color"]["color_recall"] >= 0.70

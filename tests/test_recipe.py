"""The figures that the default recipe promises, measured as a user would: minutes, so only with `make slow`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from m2o_fast.data import open_dataset
from m2o_fast.engine.runs import load_translator
from m2o_fast.labels import read_labels


@pytest.mark.slow
def test_default_recipe_on_digits(tmp_path: Path) -> None:
    def m2o_fast(*words: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "m2o_fast.cli", *words], check=True, capture_output=True, text=True
        ).stdout

    m2o_fast("train", "--variant", "hms", "--data", "digits", "--run", str(tmp_path / "run"), "--quiet")
    directions = json.loads(m2o_fast("eval", str(tmp_path / "run"), "--json"))["directions"]
    assert directions["color->gray"]["none"]["mse"] <= 0.0025
    assert directions["color->gray"]["none"]["style_independent"] is True
    assert directions["gray->color"]["latent"]["color_recall"] >= 0.70


@pytest.mark.slow
def test_three_scenes_are_learnt_by_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the files of ADE20K to label maps that are right in more than nine of ten pixels."""
    if not (data := os.environ.get("M2O_DATA_DIR")):
        pytest.skip("M2O_DATA_DIR is not set, so there are no real scenes")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = [
        "train",
        "--preset",
        "ade20k-tiny",
        "--data",
        f"ade20k:{data}/ade20k_sample",
        "--run",
        str(tmp_path / "run"),
    ]
    subprocess.run([sys.executable, "-m", "m2o_fast.cli", *words, "--quiet"], check=True)
    translator = load_translator(tmp_path / "run", "cpu")
    with pytest.warns(RuntimeWarning, match="validation split is taken"):
        scenes = open_dataset("ade20k", split="train", data_dir=f"{data}/ade20k_sample", image_size=32)
    outputs = translator.translate(scenes.images("scene", range(3)) * 2 - 1, "scene", "labels")
    truth = scenes.label_ids(range(3))
    right = (read_labels((outputs + 1) / 2, "palette", 151) == truth)[truth > 0]
    assert right.float().mean() >= 0.9

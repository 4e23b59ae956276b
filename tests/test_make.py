"""The front door: what `make train` does, at a few steps, with the environment that the tests run in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.skipif(not Path(sys.prefix, "bin", "m2o-fast").exists(), reason="m2o-fast is not installed here")
def test_make_train(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = "--steps 3 --batch-size 4 --set model.base_width=4 --set model.max_width=8 --set model.hidden_dim=16"
    ready = Path(sys.prefix, ".ready")
    words = ["make", "train", f"--old-file={ready}", f"VENV={sys.prefix}", f"RUN={run}", f"OPTIONS={small}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for part in ("hms on digits: 1437 images", "step 3/3", "color recall", "mse", f"Look at {run}/report.html"):
        assert part in done.stdout, part
    assert (run / "samples" / "step-00000003.png").stat().st_size > 1000
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 3

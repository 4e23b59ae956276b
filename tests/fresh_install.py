"""Tries what ``make wheel`` made, each file in an environment of its own and without a compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from source_tree import ROOT

TRAIN = "train --variant hms --data digits --steps 2 --batch-size 4 --device cpu --run run --quiet"

USE = """
import torch, m2o_fast
from m2o_fast.ops import backends
translator = m2o_fast.load("run")
gray = translator.translate(torch.rand(1, 3, 32, 32) * 2 - 1, "color", "gray")
assert gray.shape == (1, 1, 32, 32) and gray.isfinite().all()
print(backends()["adain_act"]["cpu"]["chosen"])
"""


def main(files: list[Path]) -> None:
    """Installs each file with what it needs, and uses it."""
    for file in files:
        with tempfile.TemporaryDirectory() as folder:
            backend = installed_backend(file.resolve(), Path(folder))
        wanted = "compiled" if file.suffix == ".whl" else "reference"  # without a compiler, sources are plain torch
        if backend != wanted:
            raise SystemExit(f"{file.name}: adain_act is served by {backend!r}, not by {wanted!r}")
        print(f"{file.name}: installed without a compiler, trains and translates; adain_act is {backend}")


def installed_backend(file: Path, folder: Path) -> str:
    """The backend that serves ``adain_act`` where a file was installed, after a short run there."""
    venv.create(folder / "environment", with_pip=True)
    programs = folder / "environment" / "bin"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "M2O_", "CXX", "CC"))}
    run = {"check": True, "cwd": folder, "env": {**kept, "PATH": str(programs)}, "text": True}
    install = ("-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", file)
    subprocess.run([programs / "python", *install], **run)
    subprocess.run([programs / "m2o-fast", *TRAIN.split()], **run)
    shown = subprocess.run([programs / "python", "-c", USE], stdout=subprocess.PIPE, **run)
    return shown.stdout.split()[-1]


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])

"""Copies of the source tree to build in, so that tests leave the working tree alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD_BACKEND = "from setuptools import build_meta; print(build_meta.build_{what}({out!r}))"


def copy_sources(to: Path) -> Path:
    """What belongs to the project, without what was built from it."""
    ignored = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "*.so", "__pycache__")
    shutil.copytree(ROOT, to, ignore=ignored)
    return to


def run_python(code: str, *, folder: Path, plain: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter in ``folder``, with these environment variables and no others of ours.

    ``plain`` leaves out the ``.pth`` files of this environment: an editable install would lend its native library.
    """
    foreign = {name: value for name, value in os.environ.items() if not name.startswith(("M2O_", "PYTHON", "TRITON_"))}
    command = [sys.executable, "-W", "always", "-c", code]
    if plain:
        command.insert(1, "-S")
        environment["PYTHONPATH"] = sysconfig.get_path("purelib")
    environment = {**foreign, **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def build(what: str, source: Path, out: Path, **environment: str) -> tuple[Path, str]:
    """Builds an ``sdist`` or a ``wheel`` with this environment's packages. Returns the file and what was printed."""
    out.mkdir(exist_ok=True)
    result = run_python(BUILD_BACKEND.format(what=what, out=str(out)), folder=source, **environment)
    printed = result.stdout + result.stderr
    assert result.returncode == 0, printed
    return out / result.stdout.split()[-1], printed

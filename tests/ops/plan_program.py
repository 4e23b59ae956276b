"""The plans of the CUDA kernels are host code, so a plain C++ compiler can try them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from source_tree import ROOT

_COMPILER = next((path for path in map(shutil.which, ("c++", "g++", "clang++")) if path), None)
needs_compiler = pytest.mark.skipif(_COMPILER is None, reason="no C++ compiler on PATH")


def counts_of(program: str, folder: Path) -> list[int]:
    """What numbers a C++ program prints; it may include files of ``csrc/`` and ``folder`` and has to exit with 0."""
    source, binary = folder / "plan.cpp", folder / "plan"
    source.write_text(program)
    options = ["-std=c++17", "-O1", "-pthread", "-Wall", "-Werror", f"-I{ROOT / 'csrc'}", f"-I{folder}"]
    words = [str(_COMPILER), *options, str(source), "-o", str(binary)]
    built = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(binary)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    counts = [int(word) for word in done.stdout.split()]
    assert counts
    return counts

"""A native wheel, built, installed into an empty environment and used there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from source_tree import build, copy_sources

USE_IT = """
import sys, torch, m2o_fast
assert m2o_fast.__file__.startswith(sys.prefix), m2o_fast.__file__
from m2o_fast.ops import adain_act, backends, build_info
x = torch.randn(2, 3, 8, 8, requires_grad=True)
y = adain_act(x, torch.zeros(2, 3), torch.zeros(2, 3), backend="compiled")
y.sum().backward()
assert backends()["adain_act"]["cpu"]["chosen"] == "compiled"
assert build_info()["torch_built_against"] == torch.__version__
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_native_wheel_in_an_empty_environment(tmp_path: Path) -> None:
    sources = copy_sources(tmp_path / "sources")
    wheel, _ = build("wheel", sources, tmp_path / "dist", M2O_BUILD="1", M2O_CUDA="0", MAX_JOBS="2")
    assert sysconfig.get_platform().replace("-", "_").replace(".", "_") in wheel.name.replace(".", "_")

    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, cwd=tmp_path)
    # The dependencies are those of this environment; what it has of m2o_fast comes behind the wheel.
    (packages,) = (environment / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    run = {"check": True, "capture_output": True, "text": True, "cwd": tmp_path, "timeout": 60}
    shown = subprocess.run([environment / "bin" / "m2o-fast", "--help"], **run).stdout
    assert "train" in shown
    subprocess.run([python, "-c", USE_IT], **run)

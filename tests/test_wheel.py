"""A wheel, built, installed into an empty environment and used there, with native code and without."""

from __future__ import annotations

import os
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
backend = sys.argv[1]
x = torch.randn(2, 3, 8, 8, requires_grad=True)
y = adain_act(x, torch.zeros(2, 3), torch.zeros(2, 3), backend=backend)
y.sum().backward()
assert backends()["adain_act"]["cpu"]["chosen"] == backend
assert backend == "reference" or build_info()["torch_built_against"] == torch.__version__
"""
NATIVE = [pytest.mark.slow, pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")]
PLATFORM = sysconfig.get_platform().replace("-", "_").replace(".", "_")


@pytest.mark.parametrize(
    ("native", "platform", "backend"),
    [pytest.param("1", PLATFORM, "compiled", marks=NATIVE), ("0", "any", "reference")],
    ids=["native", "pure"],
)
def test_wheel_in_an_empty_environment(native: str, platform: str, backend: str, tmp_path: Path) -> None:
    sources = copy_sources(tmp_path / "sources")
    wheel, _ = build("wheel", sources, tmp_path / "dist", M2O_BUILD=native, M2O_CUDA="0", MAX_JOBS="2")
    assert platform in wheel.name.replace(".", "_")

    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, cwd=tmp_path)
    # The dependencies are those of this environment; what it has of m2o_fast comes behind the wheel.
    (packages,) = (environment / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    # nor this source tree; and what a pure wheel lacks is not asked for
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "M2O_REQUIRE_EXT")}
    run = {"check": True, "capture_output": True, "text": True, "cwd": tmp_path, "env": variables, "timeout": 600}
    shown = subprocess.run([environment / "bin" / "m2o-fast", "--help"], **run).stdout
    assert "train" in shown
    subprocess.run([python, "-c", USE_IT, backend], **run)

"""Builds the native code by CMake and Ninja; everything else about the package stands in pyproject.toml.

Environment:
    M2O_BUILD             native code? auto (default): if torch and the build tools are here; 0: no; 1: yes or fail
    M2O_CUDA              m2o_fast/_cuda? auto (default): if torch has CUDA and nvcc is here; 0: no; 1: yes or fail
    TORCH_CUDA_ARCH_LIST  CUDA architectures, default "8.0;9.0+PTX"
    MAX_JOBS              compiler processes, default: what Ninja thinks best
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
REBUILD = "pip install --no-build-isolation ."


def switch(name: str) -> str:
    """An environment switch: auto, 0 or 1."""
    value = os.environ.get(name, "auto")
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"{name} must be auto, 0 or 1, got {value!r}")
    return value


def find_tool(name: str) -> str | None:
    """A program of the running Python's environment, activated or not, else one on PATH."""
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)


def missing_requirements() -> list[str]:
    """What a native build needs and this environment lacks."""
    missing = []
    for package in ("torch", "pybind11"):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.append(package)
    missing += [tool for tool in ("cmake", "ninja") if find_tool(tool) is None]
    if not (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        missing.append("a C++20 compiler")
    return missing


def why_pure_python() -> str | None:
    """Why this build holds no native code, or None if it does."""
    wanted = switch("M2O_BUILD")
    if wanted == "0":
        return "M2O_BUILD=0"
    missing = missing_requirements()
    if missing and wanted == "1":
        raise SystemExit(
            f"M2O_BUILD=1, but the build environment lacks {', '.join(missing)}. pip's isolated build environment "
            f"holds none of them; install them yourself, then: {REBUILD}"
        )
    return f"the build environment lacks {', '.join(missing)}" if missing else None


class CMakeBuild(build_ext):
    """Runs CMake and Ninja, which put _C and, where wanted, _cuda into the package."""

    def run(self) -> None:
        """Builds into the source tree for an editable install, else into the wheel."""
        package = ROOT / "m2o_fast" if self.inplace else Path(self.build_lib).resolve() / "m2o_fast"
        tag = f"{sys.implementation.cache_tag}-torch-{metadata.version('torch')}"
        build_dir = ROOT / "build" / tag
        cmake, ninja = find_tool("cmake"), find_tool("ninja")
        configure = [
            cmake, "-S", str(ROOT), "-B", str(build_dir), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DPython_EXECUTABLE={sys.executable}", f"-DM2O_OUTPUT_DIR={package}", f"-DM2O_CUDA={switch('M2O_CUDA')}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
        ]  # fmt: skip
        jobs = os.environ.get("MAX_JOBS")
        subprocess.run(configure, check=True)
        subprocess.run([ninja, "-C", str(build_dir), *(["-j", jobs] if jobs else [])], check=True)

    def get_outputs(self) -> list[str]:
        """The libraries that were built into the wheel."""
        built = Path(self.build_lib, "m2o_fast")
        return [] if self.inplace else [str(path) for path in (*built.glob("_C.*"), *built.glob("_cuda.*"))]

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing is copied into the source tree afterwards: an editable build is made there."""
        return {}


class PurePythonBuild(build_py):
    """Says that the package will run without its native code."""

    def run(self) -> None:
        """Copies the modules, then warns."""
        super().run()
        self.warn(f"m2o_fast is built WITHOUT native code ({PURE}): every operator will run as plain torch, slower.")
        self.warn(f"To build it, install torch, cmake, ninja, pybind11 and a C++20 compiler, then: {REBUILD}")


PURE = why_pure_python()
setup(
    packages=[*find_packages(include=["m2o_fast", "m2o_fast.*"]), "m2o_fast.cli"],
    package_dir={"m2o_fast.cli": "cli"},
    ext_modules=[] if PURE else [Extension("m2o_fast._C", sources=[])],
    cmdclass={"build_py": PurePythonBuild} if PURE else {"build_ext": CMakeBuild},
)

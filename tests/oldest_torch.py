"""The oldest torch that is served: the C++ code compiled against its headers, and an environment to run tests in.

    python tests/oldest_torch.py    # checks every C++ file; for make kernels

The headers are fetched once, half a gigabyte of which 60 MB stay, and kept in ``M2O_TORCH_HEADERS``, by default
``~/.cache/m2o_fast/torch-2.11.0-headers`` (or ``XDG_CACHE_HOME`` for ``~/.cache``).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "2.11.0"
TRITON = "3.6.0"  # that torch 2.11 asks for
#: torch's CUDA builds run code of this library while they are loaded; all others are needed by a GPU only
CUDART = "nvidia-cuda-runtime==13.0.96"
#: Triton 3.6 interprets kernels with the numpy of its time: later ones make no number of an array with one element
NUMPY = "numpy==2.3.5"
TARGET_VERSION = re.findall(r"^set\(TORCH_TARGET_VERSION (\w+)\)", (ROOT / "CMakeLists.txt").read_text(), re.M)[0]
#: CMake's; what they say is not looked at here
FACTS = ("M2O_CXX_FLAGS", "M2O_BUILD_TYPE", "M2O_TORCH_VERSION", "M2O_CUDA_VERSION", "M2O_CUDA_ARCHS")


class Unreachable(Exception):
    """The package index cannot be reached, or has no such wheel."""


def pip(*words: str) -> None:
    """Runs this environment's pip.

    Raises:
        Unreachable: if it failed, with its first error.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise Unreachable(errors[0].removeprefix("ERROR: ") if errors else "pip failed")


def keep(made: Path, folder: Path) -> None:
    """Renames what is whole to ``folder``, unless another process was first."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


# --- headers ----------------------------------------------------------------------------------------------------------


def headers() -> Path:
    """The include folder of the oldest torch, fetched if it is not there yet.

    Raises:
        Unreachable: if it cannot be fetched.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "m2o_fast")
    folder = Path(os.environ.get("M2O_TORCH_HEADERS") or cache / f"torch-{TORCH}-headers")
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            pip("download", "--no-deps", "--no-cache-dir", "-d", scratch, f"torch=={TORCH}")
            (wheel,) = Path(scratch).glob("torch-*.whl")
            with zipfile.ZipFile(wheel) as files:
                files.extractall(scratch, [name for name in files.namelist() if name.startswith("torch/include/")])
            keep(Path(scratch, "torch"), folder)
    return folder / "include"


def compile_check(source: Path, include: Path) -> str:
    """What the compiler has to say of a C++ file against these headers, warnings as errors; empty if nothing."""
    import pybind11

    command = [os.environ.get("CXX", "c++"), "-std=c++20", "-fsyntax-only", "-fvisibility=hidden"]
    command += [
        "-Werror",
        "-Wall",
        "-Wextra",
        "-Wno-psabi",
        f"-I{ROOT / 'csrc'}",
        f"-DTORCH_TARGET_VERSION={TARGET_VERSION}",
    ]
    # torch has a pybind11 of its own, which its stable ABI forbids: ours comes first
    command += [f"-isystem{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"), include)]
    command += [f'-D{name}=""' for name in FACTS] + ["-DUSE_CUDA"] * source.name.endswith("_cuda.cpp")
    done = subprocess.run([*command, str(source)], capture_output=True, text=True)
    return done.stderr if done.returncode else ""


def main() -> int:
    """Checks all C++ files against the headers; where they cannot be had, says so, which is an error in CI."""
    try:
        include = headers()
    except Unreachable as reason:
        words = f"the C++ files were not compiled against torch {TORCH}, whose wheel cannot be fetched: {reason}"
        demanded = os.environ.get("CI") == "true" or os.environ.get("M2O_REQUIRE_EXT") == "1"
        print(f"{'FAILED' if demanded else 'SKIPPED'}: {words}")
        return int(demanded)
    sources = sorted((ROOT / "csrc").rglob("*.cpp"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        complaints = list(filter(None, pool.map(compile_check, sources, [include] * len(sources))))
    print("".join(complaints), end="")
    print(f"{len(sources)} C++ files compiled against torch {TORCH}, {len(complaints)} failed")
    return int(bool(complaints))


# --- an environment ---------------------------------------------------------------------------------------------------


def environment(folder: Path) -> None:
    """Installs the oldest torch, its Triton and numpy into ``folder``; first on ``PYTHONPATH``, it hides newer ones.

    Torch's wheel is built for CUDA. In place of CUDA's libraries, several gigabytes that no CPU test calls, it gets one
    that has their names and stops where one is called.

    Raises:
        Unreachable: if that cannot be fetched.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        site = Path(scratch, "site")
        pip("install", "--no-deps", "--target", str(site), f"torch=={TORCH}", f"triton=={TRITON}", CUDART, NUMPY)
        if needed := missing_libraries(site / "torch" / "lib"):
            make_stand_in(site / "torch" / "lib", needed)
        keep(site, folder)


def missing_libraries(libraries: Path) -> set[str]:
    """CUDA's libraries that those in a folder ask the loader for, but for the runtime."""
    asked = set()
    for library in libraries.glob("*.so"):
        shown = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
        asked |= set(re.findall(r"\(NEEDED\).*\[(lib(?:cu|nccl|nvshmem)\w*\.so[.\d]*)\]", shown))
    return {name for name in asked if not name.startswith("libcudart")}


def make_stand_in(libraries: Path, names: set[str]) -> None:
    """One library under all these names, with every function of theirs that the libraries in the folder refer to."""
    functions: dict[str, set[str]] = {}  # version, empty where there is none -> names
    for library in libraries.glob("*.so"):
        shown = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True)
        for name, version in re.findall(r"^ +U ((?:cu|nccl|nvshmem)\w+)@?(\S*)$", shown.stdout, re.MULTILINE):
            if not version.startswith("libcudart"):
                functions.setdefault(version, set()).add(name)
    source, script, stand_in = (libraries / f"libm2o_no_cuda.{suffix}" for suffix in ("c", "map", "so"))
    every = sorted(set().union(*functions.values()))
    source.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in every))
    script.write_text(
        "".join(f"{version} {{ {'; '.join(sorted(found))}; }};\n" for version, found in functions.items() if version)
    )
    command = ["cc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,--version-script={script}", "-o", stand_in, source]
    subprocess.run(command, check=True)
    for name in names:
        (libraries / name).symlink_to(stand_in.name)


if __name__ == "__main__":
    sys.exit(main())

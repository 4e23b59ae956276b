"""Builds libraries of emulated kernels, each the CUDA code of one operator family and its binding.

What is built stays in ``build/cuda-emulation``, under names that are digests of all that went into it: sources,
options, compiler, CUDA, torch. So a library is either there and right, or not there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from source_tree import ROOT
from translate import translate, without_other_dtypes

HERE = Path(__file__).parent
CSRC = ROOT / "csrc"
BUILT = ROOT / "build" / "cuda-emulation"
FAMILIES = ("adain", "histogram", "modulate", "residual")
RUNTIME = ("fibers.cpp", "grid.cpp", "runtime.cpp")
#: sanitizer -> options of what it is to watch
SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DEMULATION_ADDRESS"],
    "thread": ["-fsanitize=thread", "--param=tsan-distinguish-volatile=1", "-DEMULATION_THREAD"],
}
_OPTIONS = ["-std=c++20", "-O1", "-g0", "-fPIC", "-march=x86-64-v3", "-ffp-contract=off", "-w"]
_TORCH = Path(torch.__file__).parent
_LIBRARY = ["-shared", "-Wl,-Bsymbolic", "-Wl,--no-as-needed", f"-L{_TORCH / 'lib'}", "-ltorch_cpu"]
_COMPILER = shutil.which("g++")


class NotBuilt(RuntimeError):
    """A compiler refused what it was given."""


def cuda_headers() -> Path | None:
    """The folder of ``cuda_runtime.h``: beside nvcc, or where CUDA_HOME says."""
    nvcc = shutil.which("nvcc")
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    homes += [_home_of(nvcc) if nvcc else None, "/usr/local/cuda"]
    folders = [Path(home) / "include" for home in homes if home]
    return next((folder for folder in folders if (folder / "cuda_runtime.h").is_file()), None)


def _home_of(nvcc: str) -> str:
    """Where nvcc says that its toolkit is: it may be a link or a script."""
    done = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", done.stderr, re.MULTILINE)
    return top[1].strip() if top else str(Path(nvcc).resolve().parent.parent)


def missing() -> str | None:
    """Why nothing can be emulated here, or None."""
    if os.uname().sysname != "Linux" or os.uname().machine != "x86_64":
        return "CUDA kernels are emulated on x86-64 Linux only"
    if _COMPILER is None:
        return "emulated CUDA kernels need g++ on PATH"
    if "avx2" not in Path("/proc/cpuinfo").read_text():
        return "CUDA kernels are emulated on a CPU with AVX2 only"
    return None if cuda_headers() else "emulated CUDA kernels need CUDA's headers: no nvcc on PATH, no CUDA_HOME"


def build_family(family: str, sanitizer: str, dtypes: str = "") -> Path:
    """The library of a family's operators, for CPU tensors; for those of ``dtypes`` alone, which takes less time."""
    folder = CSRC / family
    return _link([*sorted(folder.glob("*.cu")), *sorted(folder.glob("*_cuda.cpp"))], sanitizer, _LIBRARY, dtypes)


def build_program(source: Path, sanitizer: str) -> Path:
    """The program that a ``.cu`` file is, with its ``main``."""
    return _link([source], sanitizer, [])


def _link(sources: list[Path], sanitizer: str, options: list[str], dtypes: str = "") -> Path:
    commands = [_command(path, sanitizer, dtypes) for path in (*sources, *(HERE / name for name in RUNTIME))]
    objects = [BUILT / f"{_digest(words, _closure(Path(words[-1])))}.o" for words in commands]
    link = [str(_COMPILER), *SANITIZERS[sanitizer], *options]
    target = BUILT / f"{_digest([*link, *map(str, objects)], [])}{'.so' if options else ''}"
    if target.is_file():
        return target
    with _alone():
        absent = [pair for pair in zip(commands, objects, strict=True) if not pair[1].is_file()]
        with _translated(dtypes) as include, ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(lambda pair: _compile(*pair, include), absent))
        if not target.is_file():
            _run([*link, *map(str, objects)], target)
    return target


def _command(source: Path, sanitizer: str, dtypes: str) -> list[str]:
    """How to compile a file, but for the folder of translated files."""
    headers = [f"-isystem{cuda_headers()}"]
    if source.suffix == ".cu":
        options = [*SANITIZERS[sanitizer], "-include", "device_code.h", "-x", "c++"]
        options += [f"-DEMULATED_DTYPES={dtypes}"] if dtypes else []  # in the name of what is built
    elif CSRC in source.parents:
        options = ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000", f"-isystem{_TORCH / 'include'}"]
    else:
        options = [option for option in SANITIZERS[sanitizer] if option.startswith("-D")]
    return [str(_COMPILER), *_OPTIONS, *headers, *options, "-c", str(source)]


def _closure(source: Path) -> list[Path]:
    """A file and all that it includes from here and from ``csrc``."""
    found: list[Path] = []
    waiting = [source, HERE / "device_code.h"]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.append(path)
        for name in re.findall(r'^#include "(.+)"', path.read_text(), re.MULTILINE):
            places = [folder / name for folder in (path.parent, CSRC, HERE)]
            waiting += [place for place in places if place.is_file()][:1]
    return found


def _digest(words: list[str], files: list[Path]) -> str:
    here = "\0".join((*words, *_versions())).replace(str(ROOT), "")  # the same wherever the project lies
    digest = hashlib.sha256(here.encode())
    for path in (*files, HERE / "translate.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


@cache
def _versions() -> tuple[str, ...]:
    compiler = subprocess.run([str(_COMPILER), "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"#define CUDART_VERSION +(\d+)", (cuda_headers() / "cuda_runtime_api.h").read_text())
    return compiler, version[1] if version else "", torch.__version__


@contextmanager
def _alone() -> Iterator[None]:
    """Of several processes that want to build, one does; the lock of one that is killed is gone with it."""
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _translated(dtypes: str) -> Iterator[Path]:
    """A folder with all of ``csrc``, translated."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in (path for path in CSRC.rglob("*") if path.suffix in {".cu", ".cuh", ".cpp", ".h"}):
            target = folder / path.relative_to(CSRC)
            target.parent.mkdir(exist_ok=True)
            text = without_other_dtypes(translate(path.read_text()), dtypes)
            target.write_text(f'#line 1 "{path.relative_to(ROOT)}"\n{text}')
        yield folder


def _compile(command: list[str], target: Path, include: Path) -> None:
    source = Path(command[-1])
    if CSRC in source.parents:
        source = include / source.relative_to(CSRC)
    elif source.suffix == ".cu":
        translated = include / source.name
        translated.write_text(f'#line 1 "{source.name}"\n{translate(source.read_text())}')
        source = translated
    _run([*command[:-1], f"-I{include}", f"-I{HERE}", str(source)], target)


def _run(command: list[str], target: Path) -> None:
    """Runs a compiler; what it leaves is whole or not there."""
    unfinished = target.with_suffix(f".{os.getpid()}.tmp")
    done = subprocess.run([*command, "-o", str(unfinished)], capture_output=True, text=True)
    if done.returncode:
        unfinished.unlink(missing_ok=True)
        raise NotBuilt(f"{' '.join(command)}\n{done.stderr[-6000:]}")
    unfinished.replace(target)

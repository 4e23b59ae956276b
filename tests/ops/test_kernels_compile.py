"""Every kernel compiles on a machine without a GPU: Triton ahead of time, CUDA by nvcc through CMake."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from m2o_fast.ops.triton import CompileCase, compile

ROOT = Path(__file__).resolve().parents[2]
NVCC = shutil.which("nvcc") or next(iter(map(str, Path("/usr/local/cuda/bin").glob("nvcc"))), None)


def python(*words: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process of its own: here, Triton's kernels may already be bound to its interpreter."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache), "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow  # `make kernels` does it for all architectures
def test_triton_kernels_compile_for_hopper(tmp_path) -> None:
    pytest.importorskip("triton")
    match = "[bf16, nchw, 65536 pixels]"
    done = python("-m", "m2o_fast.ops.triton.compile", "--arch", "90", "--match", match, cache=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for kernel in ("forward_partial", "forward_finish", "backward_partial", "backward_finish"):
        size = re.search(rf"^sm_90 adain\.{kernel}{re.escape(match)}: (\d+) bytes", done.stdout, re.MULTILINE)
        assert size and int(size[1]) > 1000, done.stdout
    assert re.search(r"^\d+ compiled, 0 failed$", done.stdout, re.MULTILINE)
    assert list(tmp_path.rglob("*.cubin")), "nothing was compiled"


@pytest.mark.parametrize(("cases", "printed"), [([], "0 compiled"), (["broken"], "1 compiled, 1 failed")])
def test_failure_shows_in_the_exit_code(monkeypatch, capsys, cases, printed) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET", "0"))  # put back afterwards
    broken = [CompileCase(name, kernel=None, signature={}, constants={}, options={}) for name in cases]
    monkeypatch.setattr(compile, "find_cases", lambda: broken)
    assert compile.main(["--arch", "90"]) == 1
    output = capsys.readouterr().out
    assert printed in output and output.count("sm_90 broken: FAILED: ") == len(cases)


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not on PATH")
@pytest.mark.skipif(not shutil.which("cmake") or not shutil.which("ninja"), reason="cmake or ninja is not on PATH")
def test_cuda_kernels_compile_without_warnings(tmp_path) -> None:
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(tmp_path), "-G", "Ninja", "-DM2O_KERNELS_ONLY=ON",
        "-DM2O_CUDA_ARCH_LIST=9.0", f"-DPython_EXECUTABLE={sys.executable}",
    ]  # fmt: skip
    subprocess.run(configure, check=True, capture_output=True, timeout=300)
    done = subprocess.run(["ninja", "-C", str(tmp_path)], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-5000:]
    library = (tmp_path / "m2o_fast" / "_cuda.so").read_bytes()
    for name in (b"adain_forward", b"adain_backward"):
        assert name in library

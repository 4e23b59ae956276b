"""The oldest torch that is served, and the Triton that belongs to it: built against, tested with, refused below."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import oldest_torch
import pytest
from source_tree import ROOT, copy_sources, run_python

OLDER = """
import torch
torch.__version__ = torch.torch_version.TorchVersion("2.10.1+cu128")
try:
    import m2o_fast.ops
except ImportError as error:
    print(error)
torch.__version__ = torch.torch_version.TorchVersion("2.11.0a0+git")  # what NVIDIA's images call 2.11
import m2o_fast.ops
"""


def test_an_older_torch_is_refused_with_the_reason() -> None:
    result = run_python(OLDER, folder=ROOT)
    assert result.stdout.startswith("m2o_fast needs torch 2.11 or later, this is torch 2.10.1+cu128"), result.stderr
    assert result.returncode == 0, result.stderr


def test_what_cannot_be_fetched_is_said(tmp_path: Path, monkeypatch, capsys) -> None:
    def unreachable(*words: str) -> None:
        raise oldest_torch.Unreachable("ERROR: no network")

    monkeypatch.setattr(oldest_torch, "pip", unreachable)
    monkeypatch.setenv("M2O_TORCH_HEADERS", str(tmp_path / "headers"))
    monkeypatch.delenv("M2O_REQUIRE_EXT", raising=False)
    for value, code in (("false", 0), ("true", 1)):
        monkeypatch.setenv("CI", value)
        assert oldest_torch.main() == code
        printed = capsys.readouterr().out
        assert printed.startswith("FAILED" if code else "SKIPPED") and printed.endswith("ERROR: no network\n")
    assert list(tmp_path.iterdir()) == []


def test_of_two_processes_that_fetch_it_the_first_is_kept(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
        oldest_torch.keep(tmp_path / name, tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["first"]
    with pytest.raises(FileNotFoundError):
        oldest_torch.keep(tmp_path / "first", tmp_path / "other")


def test_broken_code_is_found(tmp_path: Path) -> None:
    """With headers that hold nothing: torch's own are needed for all but the code that has no torch in it."""
    source = tmp_path / "broken_cuda.cpp"
    source.write_text("#ifndef USE_CUDA\n#error\n#endif\nint f(int x) { return 0; }\n")
    assert "unused parameter" in oldest_torch.compile_check(source, tmp_path)
    source.write_text("int f(int x) { return x; }\n")
    assert oldest_torch.compile_check(source, tmp_path) == ""


@pytest.fixture(scope="module")
def older() -> Path:
    """A folder with the oldest torch and its Triton, to be found before the installed ones."""
    folder = ROOT / "build" / f"torch-{oldest_torch.TORCH}"
    try:
        oldest_torch.environment(folder)
    except oldest_torch.Unreachable as reason:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"torch {oldest_torch.TORCH} cannot be fetched: {reason}")
    return folder


def run(sources: Path, older: Path, *words: str | Path, **environment: str) -> str:
    """Runs a command in a source tree, under the oldest torch; returns what it printed."""
    environment |= {"PYTHONPATH": f"{older}{os.pathsep}{sources}", "M2O_REQUIRE_EXT": "1"}
    done = subprocess.run(words, cwd=sources, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


VERSIONS = """
import torch
from m2o_fast.ops import build_info
print(torch.__version__, build_info()["torch_built_against"])
"""


@pytest.mark.slow
def test_operators_run_under_the_oldest_torch(older: Path, tmp_path: Path) -> None:
    """Built against it, as its users build. The library that was built against the installed torch serves it, too."""
    runs, built_against = run(ROOT, older, sys.executable, "-c", VERSIONS).split()
    assert runs.startswith(oldest_torch.TORCH) and not built_against.startswith(oldest_torch.TORCH)
    sources = copy_sources(tmp_path / "sources")
    facts = ["-DM2O_CUDA=0", f"-DPython_EXECUTABLE={sys.executable}", f"-DM2O_OUTPUT_DIR={sources / 'm2o_fast'}"]
    run(sources, older, "cmake", "-S", ".", "-B", "build", "-G", "Ninja", *facts)
    run(sources, older, "ninja", "-C", "build")
    assert run(sources, older, sys.executable, "-c", VERSIONS).count(oldest_torch.TORCH) == 2
    run(sources, older, sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", "tests/ops",
        "--ignore=tests/ops/cuda_emulation")  # fmt: skip


@pytest.mark.slow
def test_kernels_compile_with_the_oldest_triton(older: Path, tmp_path: Path) -> None:
    version = "import triton; print(triton.__version__)"
    assert run(ROOT, older, sys.executable, "-c", version).strip() == oldest_torch.TRITON
    compiled = run(ROOT, older, sys.executable, "-m", "m2o_fast.ops.triton.compile", TRITON_CACHE_DIR=str(tmp_path))
    assert compiled.endswith(" compiled, 0 failed\n")

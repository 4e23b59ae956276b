"""Every CUDA kernel of ``csrc``, run on the CPU by an emulation, which is itself tested here. See CONTRIBUTING.md."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from building import BUILT, CSRC, FAMILIES, HERE, NotBuilt, build_family, build_program, missing
from source_tree import ROOT
from translate import translate, without_other_dtypes

SMALL_FAMILIES = [family for family in FAMILIES if family != "adain"]
#: The types of a family that are always built and run; all of them take minutes to compile.
ALWAYS = {"adain": "bfloat16", "histogram": "float32,uint8", "modulate": "float32", "residual": "bfloat16"}
CASE = r"case (?:ElementType|Pixel)::(\w+):"
RUNTIMES = {"address": "libasan.so", "thread": "libtsan.so"}
OPTIONS = {
    # Fresh memory is NaN, or a number out of range.
    "ASAN_OPTIONS": "detect_leaks=0:max_malloc_fill_size=1000000000:malloc_fill_byte=255",
    "TSAN_OPTIONS": "halt_on_error=1:report_signal_unsafe=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


@pytest.fixture(autouse=True)
def toolchain() -> None:
    if reason := missing():
        if os.environ.get("M2O_REQUIRE_EXT") == "1" and shutil.which("nvcc"):
            pytest.fail(f"M2O_REQUIRE_EXT=1 and nvcc is on PATH, but {reason}")
        pytest.skip(reason)


def compilers_file(name: str) -> str:
    return subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def run_sweep(family: str, *options: str, sanitizer: str = "address", built: str = "") -> None:
    """Runs sweep_FAMILY.py in a process that the sanitizer watches; what it says is shown where a case fails."""
    options = (*options, "--dtypes", built) if built else options
    # The C++ library as well: the sanitizer looks for what throws exceptions before Python has loaded it.
    preloaded = [compilers_file(name) for name in (RUNTIMES[sanitizer], "libstdc++.so")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "M2O_"))}
    environment |= OPTIONS | {
        "M2O_EMULATED_LIBRARY": str(build_family(family, sanitizer, built)),
        "LD_PRELOAD": " ".join(preloaded),
        "OMP_NUM_THREADS": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-m", "pytest", "-p", "emulated", "-p", "no:cacheprovider", "-p", "no:faulthandler"]
    command += ["-v", "-s", "--tb=short", "--maxfail=10", str(HERE / f"sweep_{family}.py"), *options]
    fixed_addresses = [setarch, "-R"] if (setarch := shutil.which("setarch")) and sanitizer == "thread" else []
    command = [*fixed_addresses, *command]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, timeout=3600, **streams)  # not for ever
    said = [line for line in done.stdout.splitlines() if not re.search(r" PASSED( +\[ *\d+%\])?$", line)]
    assert done.returncode == 0, "\n".join(["", *said[-150:]])
    assert re.search(r"\d+ passed", done.stdout), done.stdout


@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_small_families(family) -> None:
    run_sweep(family, built=ALWAYS[family])


def test_adain() -> None:
    run_sweep("adain", built=ALWAYS["adain"])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_type_under_every_schedule(family) -> None:
    run_sweep(family, "--every-schedule")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_no_races(family) -> None:
    run_sweep(family, "--dtypes", "float32,bfloat16,uint8", "-k", "not every_kernel", sanitizer="thread")


# --- the emulation itself -------------------------------------------------------------------------------------------


@functools.cache
def run_mistake(name: str, sanitizer: str = "address") -> subprocess.CompletedProcess[str]:
    program = build_program(HERE / "mistakes.cu", sanitizer)
    environment = {**os.environ, **OPTIONS}
    return subprocess.run([program, name], env=environment, capture_output=True, text=True, timeout=60)


def test_a_kernel_without_a_mistake() -> None:
    done = run_mistake("none")
    assert done.stdout == "error 0, sum 64\n" and not done.stderr


@pytest.mark.parametrize(
    ("mistake", "words"),
    {
        "beyond_shared_variable": "out of bounds for type 'int [64]'",
        "beyond_dynamic_shared": "heap-buffer-overflow",
        "beyond_output": "heap-buffer-overflow",
        "unaligned_vector": "misaligned address",
        "divergent_barrier": "threads of a block wait at different barriers",
        "missing_lane": "a lane has ended for which others wait in a shuffle",
        "deadlock": "this thread waits for others that never come",
        "left_cluster": "access to the shared memory of a block that has left its cluster",
        "too_many_threads": "more threads than __launch_bounds__ allows",
    }.items(),
)
def test_mistakes_end_the_process_with_words(mistake, words) -> None:
    done = run_mistake(mistake)
    assert done.returncode != 0 and words in done.stderr, done.stderr
    place = rf"EMULATION: kernel .*{mistake}.*, block \(\d+, 0\), thread \d+, last at "
    assert re.search(place, done.stderr), done.stderr


def test_a_missing_barrier_shows_in_the_numbers() -> None:
    done = run_mistake("missing_barrier")
    assert done.stdout.startswith("error 0, sum ") and done.stdout != "error 0, sum 64\n"


@pytest.mark.slow
def test_a_missing_barrier_is_a_race() -> None:
    assert "data race" in run_mistake("missing_barrier", "thread").stderr
    assert run_mistake("none", "thread").stdout == "error 0, sum 64\n"


def test_too_much_shared_memory_is_refused() -> None:
    assert run_mistake("too_much_shared").stdout == "error 1, sum 0\n"


def test_an_atomic_addition_of_floats_does_not_compile(tmp_path: Path) -> None:
    source = tmp_path / "atomic.cu"
    source.write_text(
        "__global__ void add(float* to) { atomicAdd(to, 1.0f); }\nint main() { add<<<1, 1>>>(nullptr); }\n"
    )
    with pytest.raises(NotBuilt, match="its order would show"):
        build_program(source, "address")
    assert not list(BUILT.glob(f"*.{os.getpid()}.tmp")), "a build that failed has left something"


def test_what_the_translation_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="line 2: the emulation does not know 'cooperative_groups'"):
        translate("\nnamespace cg = cooperative_groups;\n")


@pytest.mark.parametrize("family", ALWAYS)
def test_kernels_of_other_types_are_left_out(family) -> None:
    texts = [path.read_text() for path in sorted((CSRC / family).glob("*.cu*"))]
    cases = re.findall(CASE, "".join(texts))
    assert {"float32", "float64", "float16"} <= set(cases)
    for dtypes in ("float32,uint8", "bfloat16"):
        made = [without_other_dtypes(text, dtypes) for text in texts]
        assert re.findall(CASE, "".join(made)) == [case for case in cases if case in dtypes.split(",")]
        assert [*map(len, map(str.splitlines, made))] == [*map(len, map(str.splitlines, texts))], (
            "lines keep their place"
        )
    assert [without_other_dtypes(text, "") for text in texts] == texts

"""The command for a GPU machine, on a CPU: every part starts, every file appears, and nothing outlives a bad build."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

from cases import needs_native
from source_tree import ROOT

#: what a GPU machine has and this one need not have
STAND_INS = {
    "nvidia-smi": 'echo "9.0"',
    "nvcc": 'echo "nvcc stands in"',
    "cmake": 'echo "cmake $*"; exit ${CMAKE_STATUS:-0}',
    "compute-sanitizer": 'echo "sanitizes $*"',
}
TESTS = ("op_tests", "triton_tests", "graphs")
PARTS = ["packages", "versions", "build", "short_run", "op_tests", "gpu_sizes", "memcheck", "triton_tests", "graphs"]
PARTS += ["train_step", "racecheck"]


def start(tmp_path: Path, stand_ins: dict[str, str], **environment: str) -> subprocess.Popen[str]:
    """A dry run into the folder out, with the stand-ins first on PATH."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, line in stand_ins.items():
        (tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (tools / name).chmod(0o755)
    environment = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable} | environment
    command = ["bash", "benchmarks/gpu_suite.sh", "--dry-run", str(tmp_path / "out")]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True)


def outcome(suite: subprocess.Popen[str], tmp_path: Path) -> tuple[int, list[str], dict[str, str]]:
    """Exit code, lines of the summary, and the files of the archive."""
    suite.communicate(timeout=1800)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["results.tar.gz", "summary.txt"]
    with tarfile.open(out / "results.tar.gz") as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        texts = {Path(file.name).name: archive.extractfile(file).read().decode() for file in files}
    assert texts["summary.txt"] == (out / "summary.txt").read_text()
    return suite.returncode, texts["summary.txt"].splitlines(), texts


def make_wheel(folder: Path) -> None:
    """One package that no machine has, and one that this one has."""
    folder.mkdir()
    for name in ("m2o_fast_stand_in", "numpy"):
        with zipfile.ZipFile(folder / f"{name}-0.1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", "")
            wheel.writestr(f"{name}-0.1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
            wheel.writestr(
                f"{name}-0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{name}-0.1.dist-info/RECORD", "")


@needs_native
def test_dry_run_of_the_whole_suite(tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels")
    before = set((ROOT / "build").glob("gpu-suite-*"))
    suite = start(tmp_path, STAND_INS, M2O_WHEELS=str(tmp_path / "wheels"), M2O_SUITE_SECONDS="1700")
    code, summary, files = outcome(suite, tmp_path)
    told = "\n".join(summary + [text[-2000:] for text in files.values()])
    assert [line.partition(":")[0] for line in summary] == [*PARTS, summary[-1]], told
    assert code == 0 and summary[-1] == f"{len(PARTS)} passed, 0 out of time, 0 failed", told
    assert {f"{part}.log" for part in PARTS} | {f"{part}.xml" for part in TESTS} | {"gpu-sizes.json"} <= files.keys()
    assert any(name.startswith("train-step-") and name.endswith("-few.json") for name in files)
    assert "\nSuccessfully installed m2o_fast_stand_in-0.1\n" in files["packages.log"]
    assert re.search(r"^m2o_fast_stand_in +0\.1$", files["versions.log"], re.MULTILINE)
    assert "-DM2O_CUDA_ARCH_LIST=9.0" in files["build.log"]
    assert files["short_run.log"].endswith("all as the reference\n")
    for tool in ("memcheck", "racecheck"):
        assert files[f"{tool}.log"].startswith(f"sanitizes --tool {tool} --kernel-name kernel_substring=m2o_fast ")
        assert re.search(r" benchmarks/short_op_run.py --seconds \d+ --few$", files[f"{tool}.log"])
    assert set((ROOT / "build").glob("gpu-suite-*")) == before


def test_a_build_that_fails_ends_the_suite(tmp_path: Path) -> None:
    code, summary, files = outcome(start(tmp_path, STAND_INS, CMAKE_STATUS="7"), tmp_path)
    assert code == 1 and summary[-1] == "1 passed, 0 out of time, 1 failed"
    assert [line.partition(":")[0] for line in summary[:-1]] == ["versions", "build"] and "exit code 7" in summary[1]
    assert "build.log" in files and "short_run.log" not in files


HANGS = "trap 'echo reported; exit 1' INT; while true; do sleep 0.1; done"
HANGING = STAND_INS | {"python": f'case "$*" in *short_op_run*) {HANGS} ;; esac'}


def test_a_part_is_interrupted_at_its_limit_and_none_starts_without_time(tmp_path: Path) -> None:
    """12 of 18 seconds are for the end, and no part is worth less than 5."""
    python = str(tmp_path / "tools" / "python")
    suite = start(tmp_path, HANGING, M2O_SUITE_SECONDS="18", PYTHON=python)
    code, summary, files = outcome(suite, tmp_path)
    assert code == 1 and summary[-1] == f"2 passed, {len(PARTS) - 3} out of time, 0 failed"
    assert summary[2].startswith("short_run: out of time after ") and summary[3] == "op_tests: no time left"
    assert files["short_run.log"] == "reported\n"


def test_what_is_there_is_packed_when_the_suite_is_ended_from_outside(tmp_path: Path) -> None:
    suite = start(tmp_path, HANGING, PYTHON=str(tmp_path / "tools" / "python"))
    log = None
    while log is None:
        assert suite.poll() is None, suite.communicate()[0]
        time.sleep(0.05)
        log = next((ROOT / "build").glob("gpu-suite-*/short_run.log"), None)
    suite.terminate()
    code, summary, files = outcome(suite, tmp_path)
    assert code == 1 and summary[2:] == ["ended from outside", "2 passed, 0 out of time, 1 failed"]
    assert "short_run.log" in files and not log.exists()

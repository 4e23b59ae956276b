"""The command for a GPU machine, on a CPU: every part starts, every file appears, and nothing outlives a bad build."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from cases import needs_native
from source_tree import ROOT

#: what a GPU machine has and this one need not have
STAND_INS = {
    "nvidia-smi": 'echo "9.0"',
    "nvcc": 'echo "nvcc stands in, beside $(m2o-stand-in)"',
    "cmake": 'echo "cmake $*"; exit ${CMAKE_STATUS:-0}',
    "compute-sanitizer": 'echo "sanitizes $*"; shift 6; exec "$@"',
}
TESTS = ("op_tests", "triton_tests", "graphs")
PARTS = ["packages", "versions", "build", "short_run", "op_tests", "gpu_sizes", "memcheck", "triton_tests", "graphs"]
PARTS += ["train_step", "racecheck"]


def start(tmp_path: Path, stand_ins: dict[str, str], **environment: str) -> subprocess.Popen[str]:
    """A dry run into the folder out, with the stand-ins first on PATH."""
    tools, scratch = tmp_path / "tools", tmp_path / "scratch"
    tools.mkdir()
    scratch.mkdir()
    for name, line in stand_ins.items():
        (tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (tools / name).chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "PYTHON": sys.executable, "TMPDIR": str(scratch)} | environment
    command = ["bash", str(ROOT / "benchmarks" / "gpu_suite.sh"), "--dry-run", "out"]
    return subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def left_behind(tmp_path: Path) -> list[str]:
    """What a run has left of its logs and packages."""
    return [path.name for path in (tmp_path / "scratch").glob("gpu-suite-*")]


def outcome(suite: subprocess.Popen[str], tmp_path: Path) -> tuple[int, list[str], dict[str, str]]:
    """Exit code, lines of the summary, and the files of the archive."""
    suite.communicate(timeout=1800)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["results.tar.gz", "summary.txt"]
    with tarfile.open(out / "results.tar.gz") as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        texts = {Path(file.name).name: archive.extractfile(file).read().decode() for file in files}
    assert texts["summary.txt"] == (out / "summary.txt").read_text()
    assert left_behind(tmp_path) == []
    return suite.returncode, texts["summary.txt"].splitlines(), texts


NAME = "m2o_fast_stand_in"


def make_wheel(folder: Path) -> None:
    """A package with a program."""
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{NAME}-0.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{NAME}.py", "")
        program = zipfile.ZipInfo(f"{NAME}-0.2.data/scripts/m2o-stand-in")
        program.external_attr = 0o100755 << 16
        wheel.writestr(program, "#!/bin/sh\necho a program from a wheel\n")
        wheel.writestr(f"{NAME}-0.2.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 0.2\n")
        wheel.writestr(f"{NAME}-0.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{NAME}-0.2.dist-info/RECORD", "")


def make_packages(folder: Path) -> None:
    """What the caller's python finds: an older version of the wheel's package, and one of its own."""
    for name in (NAME, "m2o_fast_of_the_caller"):
        (folder / f"{name}-0.1.dist-info").mkdir(parents=True)
        (folder / f"{name}-0.1.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n"
        )


@pytest.mark.slow
@needs_native
def test_dry_run_of_the_whole_suite(tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels")
    make_packages(tmp_path / "site")
    path = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
    suite = start(tmp_path, STAND_INS, M2O_WHEELS="wheels", M2O_SUITE_SECONDS="1700", PYTHONPATH=path)
    code, summary, files = outcome(suite, tmp_path)
    told = "\n".join(summary + [text[-2000:] for text in files.values()])
    assert [line.partition(":")[0] for line in summary] == [*PARTS, summary[-1]], told
    assert code == 0 and summary[-1] == f"{len(PARTS)} passed, 0 out of time, 0 failed", told
    assert {f"{part}.log" for part in PARTS} | {f"{part}.xml" for part in TESTS} | {"gpu-sizes.json"} <= files.keys()
    assert any(name.startswith("train-step-") and name.endswith("-few.json") for name in files)
    assert f"\nSuccessfully installed {NAME}-0.2\n" in files["packages.log"]
    for name, version in ((NAME, "0.2"), ("m2o_fast_of_the_caller", "0.1")):
        assert re.search(rf"^{name} +{version}$", files["versions.log"], re.M), files["versions.log"]
    assert "beside a program from a wheel\n" in files["versions.log"]
    assert "-DM2O_CUDA_ARCH_LIST=9.0" in files["build.log"]
    selected = re.findall(r"^tests/ops/\S+::.*$", files["op_tests.log"], re.M)
    assert any("[compiled-cuda-" in test for test in selected)
    assert not [test for test in selected if re.search("emulation|cuda_plan|test_cuda_device|triton|-cpu", test)]
    for part in ("short_run", "memcheck", "racecheck"):
        assert re.search(r", (\d+) of \1 calls on \w+ made, all as the reference$", summary[PARTS.index(part)])
    for tool in ("memcheck", "racecheck"):
        assert files[f"{tool}.log"].startswith(f"sanitizes --tool {tool} --kernel-name kernel_substring=m2o_fast ")
        assert re.search(r"^sanitizes .* benchmarks/short_op_run.py --seconds \d+ --few$", files[f"{tool}.log"], re.M)


def test_a_build_that_fails_ends_the_suite(tmp_path: Path) -> None:
    code, summary, files = outcome(start(tmp_path, STAND_INS, CMAKE_STATUS="7"), tmp_path)
    assert code == 1 and summary[-1] == "1 passed, 0 out of time, 1 failed"
    assert [line.partition(":")[0] for line in summary[:-1]] == ["versions", "build"] and "exit code 7" in summary[1]
    assert "build.log" in files and "short_run.log" not in files


HANGS = "trap 'echo reported; exit 1' INT; while true; do sleep 0.1; done"
HANGING = STAND_INS | {"python": f'case "$*" in *short_op_run*) {HANGS} ;; esac', "compute-sanitizer": "exit 0"}


def test_a_part_is_interrupted_at_its_limit(tmp_path: Path) -> None:
    python = str(tmp_path / "tools" / "python")
    code, summary, files = outcome(start(tmp_path, HANGING, M2O_DRY_SECONDS="6", PYTHON=python), tmp_path)
    assert [line for line in summary if "out of time after " in line] == [summary[2]]
    assert summary[2].startswith("short_run: ") and files["short_run.log"] == "reported\n"
    assert code == 1 and summary[-1].endswith(" 1 out of time, 0 failed")


def test_what_ends_itself_before_its_limit_is_out_of_time(tmp_path: Path) -> None:
    cut = STAND_INS | {"python": 'case "$*" in *short_op_run*) echo 3 of 7 calls on cuda made; exit 124 ;; esac'}
    suite = start(tmp_path, cut, PYTHON=str(tmp_path / "tools" / "python"))
    code, summary, _ = outcome(suite, tmp_path)
    assert re.fullmatch(r"short_run: out of time after \d+ s of .*, 3 of 7 calls on cuda made", summary[2])
    assert code == 1 and summary[-1].endswith(f"{len(PARTS) - 4} passed, 3 out of time, 0 failed")


def test_no_part_starts_that_there_is_no_time_for(tmp_path: Path) -> None:
    """24 seconds are for the end, and no part is worth less than 5."""
    code, summary, _ = outcome(start(tmp_path, STAND_INS, M2O_SUITE_SECONDS="28"), tmp_path)
    assert summary == ["versions: no time left", "build: no time left", "0 passed, 2 out of time, 0 failed"]
    assert code == 1


def test_what_cannot_be_packed_stays_where_it_is(tmp_path: Path) -> None:
    suite = start(tmp_path, STAND_INS | {"tar": "exit 1"}, CMAKE_STATUS="7")
    said = suite.communicate(timeout=600)[0]
    (folder,) = left_behind(tmp_path)
    assert suite.returncode == 1 and f"not packed, what there is lies in {tmp_path / 'scratch' / folder}\n" in said
    assert (tmp_path / "scratch" / folder / "build.log").exists()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP])
def test_what_is_there_is_packed_when_the_suite_is_ended_from_outside(tmp_path: Path, sign: signal.Signals) -> None:
    suite = start(tmp_path, HANGING, PYTHON=str(tmp_path / "tools" / "python"))
    while not list((tmp_path / "scratch").glob("gpu-suite-*/short_run.log")):
        assert suite.poll() is None, suite.communicate()[0]
        time.sleep(0.05)
    suite.send_signal(sign)
    code, summary, files = outcome(suite, tmp_path)
    assert code == 1 and summary[2:] == ["ended from outside", "2 passed, 0 out of time, 1 failed"]
    assert "short_run.log" in files

"""The installed command as a real process."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SCRIPT = Path(sysconfig.get_path("scripts")) / "m2o-fast"
COMMAND = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "m2o_fast.cli"]


@pytest.fixture(scope="session")
def m2o_fast(tmp_path_factory):
    """``m2o_fast("train", "--steps", 3, cwd=...)`` -> the finished process."""
    elsewhere = tmp_path_factory.mktemp("cwd")

    def call(*arguments, cwd=elsewhere, **variables) -> subprocess.CompletedProcess:
        environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1", "OMP_NUM_THREADS": "1", **variables}
        words = [str(argument) for argument in arguments]
        return subprocess.run([*COMMAND, *words], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)

    return call


@pytest.fixture(scope="session")
def refused(m2o_fast):
    """The same for wrong input: checks exit code 2, silence on stdout and one line on stderr, and returns that line."""

    def call(*arguments, **options) -> str:
        done = m2o_fast(*arguments, **options)
        assert done.returncode == 2, done
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("m2o-fast: error: ")
        return lines[0]

    return call

"""The installed command as a real process."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from m2o_fast.cli import main

SCRIPT = Path(sysconfig.get_path("scripts")) / "m2o-fast"
COMMAND = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "m2o_fast.cli"]


@pytest.fixture(scope="session")
def command() -> list[str]:
    """How to start it: the installed script, or the module where it was installed without scripts."""
    return COMMAND


@pytest.fixture(scope="session")
def m2o_fast(tmp_path_factory):
    """``m2o_fast("train", "--steps", 3, cwd=...)`` -> the finished process."""
    elsewhere = tmp_path_factory.mktemp("cwd")

    def call(*arguments, cwd=elsewhere, **variables) -> subprocess.CompletedProcess:
        environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1", "OMP_NUM_THREADS": "1", **variables}
        words = [str(argument) for argument in arguments]
        return subprocess.run([*COMMAND, *words], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)

    return call


@pytest.fixture
def here(capsys, monkeypatch):
    """The same within this process, which saves importing torch: ``here(...)`` -> exit code, stdout, stderr."""

    def call(*arguments, cwd=None) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            if cwd is not None:
                patch.chdir(cwd)
            patch.setenv("COLUMNS", "120")
            code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def refused(here):
    """``here`` for wrong input: checks exit code 2, silence on stdout, one line on stderr, and returns that line."""

    def call(*arguments, cwd=None) -> str:
        code, out, err = here(*arguments, cwd=cwd)
        assert (code, out) == (2, ""), err
        assert len(err.splitlines()) == 1, err
        assert err.startswith("m2o-fast: error: ")
        return err

    return call

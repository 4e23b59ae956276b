"""A guard around a command that is given what nobody should give it.

Refused means: exit code 2, one line without control characters that names the file or key, nothing written, nothing
run, a bounded memory, and no waiting. That is a watchdog's matter, not the clock's: two seconds of processor time, and
a minute on the clock for what sleeps.
"""

from __future__ import annotations

import functools
import shutil
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from bounded_memory import bounded_memory
from PIL import Image
from tiny import tiny_config

import m2o_fast.data.digits  # noqa: F401  # imports are not what is measured
import m2o_fast.engine.convert
import m2o_fast.engine.doctor
import m2o_fast.engine.evaluate
import m2o_fast.engine.evaluate_images
import m2o_fast.engine.pace
import m2o_fast.engine.translate
import m2o_fast.report  # noqa: F401
from m2o_fast.cli import main
from m2o_fast.engine.checkpoint import list_checkpoints
from m2o_fast.engine.loop import train

PROCESSOR_SECONDS, CLOCK_SECONDS = 2, 60
MEMORY = 1 << 30  # bytes beyond what the process has
RUNS_CODE = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class", "socket.connect"}
LONGEST = 4000  # characters of a message
TAKE_LONG = ("test_hostile_checkpoint.py", "test_terminal.py")

Refuses = Callable[..., str]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cases stand beside their kin: of each test two of five, of those that take long one of three, are not slow."""
    cases = defaultdict(list)
    for item in items:
        if item.path.parent == Path(__file__).parent and not item.get_closest_marker("slow"):
            cases[item.path.name, item.nodeid.partition("[")[0]].append(item)
    for (module, _), alike in cases.items():
        kept, of = ((0, 4, 8), 9) if module in TAKE_LONG else ((0, 3), 5)  # not always the same of two parameters
        for number, item in enumerate(alike):
            if number % of not in kept:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def parsed_once() -> Iterator[None]:
    """The options of all commands: finding them out takes longer than refusing one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.main.get_command", functools.cache(typer.main.get_command))
        yield


class StillBusy(BaseException):
    """The watchdog's bark; no ``Exception``, so that nothing takes it for an error of its own."""


class _Code:
    """What ran while it was watched."""

    watched: list[str] | None = None

    def __call__(self, event: str, arguments: Any) -> None:
        if self.watched is not None and event in RUNS_CODE:
            self.watched.append(event)


_code = _Code()
sys.addaudithook(_code)


@contextmanager
def _watchdog() -> Iterator[None]:
    def bark(number: int, frame: object) -> None:
        raise StillBusy(signal.Signals(number).name)

    timers = (
        (signal.ITIMER_PROF, signal.SIGPROF, PROCESSOR_SECONDS),
        (signal.ITIMER_REAL, signal.SIGALRM, CLOCK_SECONDS),
    )
    before = [(number, signal.signal(number, bark)) for _, number, _ in timers]
    try:
        for timer, _, seconds in timers:
            signal.setitimer(timer, seconds)
        yield
    finally:
        for timer, _, _ in timers:
            signal.setitimer(timer, 0)
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def _nothing_runs() -> Iterator[None]:
    _code.watched = []
    try:
        yield
        assert _code.watched == []
    finally:
        _code.watched = None


def everything_in(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Kind, size and time of change of all that is in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        size = 0 if path.is_dir() else status.st_size
        found[str(path.relative_to(folder))] = (status.st_mode, size, 0 if path.is_dir() else status.st_mtime_ns)
    return found


@pytest.fixture
def refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refuses:
    """``refuses("train", "--config", path, names="path")`` -> the message, below ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("M2O_DATA_DIR", raising=False)

    def call(*words: object, names: str, code: int = 2) -> str:
        before = everything_in(tmp_path)
        capsys.readouterr()
        with _nothing_runs(), bounded_memory(MEMORY), _watchdog():
            got = main([str(word) for word in words])
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.startswith("m2o-fast: error: ")]
        assert got == code, (got, out[-300:], err[-1000:])
        assert len(lines) == 1 and err.endswith(f"{lines[0]}\n"), err[-1000:]
        message = lines[0]
        assert names in message and "error: unexpected" not in message and len(message) < LONGEST, message[:1000]
        assert message.isprintable(), repr(message)
        assert everything_in(tmp_path) == before
        return message

    return call


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("hostile") / "run"
    train(tiny_config("steps=1", "sample_every=1000", "data.name=digits"), run, quiet=True)
    return run


@pytest.fixture
def run(trained_once: Path, tmp_path: Path) -> Path:
    """A run of one step."""
    return Path(shutil.copytree(trained_once, tmp_path / "run"))


@pytest.fixture
def checkpoint(run: Path) -> Path:
    """Its checkpoint."""
    return list_checkpoints(run)[-1]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """An image that is as it should be."""
    path = tmp_path / "good.png"
    Image.new("L", (32, 32), 100).save(path)
    return path

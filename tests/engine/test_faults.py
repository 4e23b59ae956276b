"""A save that is killed or fails at any operation on files leaves a good checkpoint.

The operations are not listed here: a profile hook sees every call into the modules that touch files, so whatever saving
does is counted once, and then each of its operations is the last one, or the one that fails.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tiny import contents, tiny_config, tiny_digits

from m2o_fast.engine import checkpoint
from m2o_fast.engine.checkpoint import checkpoint_folder, list_checkpoints, newest_checkpoint
from m2o_fast.engine.loop import train
from m2o_fast.engine.runlog import Log, RunLog
from m2o_fast.engine.start import Start
from m2o_fast.engine.trainer import Trainer

#: these touch no file
PURE = {"fspath", "getpid", "urandom", "_path_splitroot"}
#: these change none: a kill before one of them leaves what a kill before the next operation leaves
READING = {"stat", "lstat", "fstat", "fileno", "scandir", "is_dir", "readable", "read", "readinto"}


class Notes(Log):
    """Remembers the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def touches_files(function: Any) -> bool:
    owner = getattr(function, "__module__", None) or type(getattr(function, "__self__", None)).__module__
    return owner in ("posix", "io", "_io") and function.__name__ not in PURE


@contextmanager
def before_each_operation(act: Callable[[int, str], None]) -> Iterator[None]:
    """Calls ``act`` with the number and the name of every operation on files, before it happens."""
    count = 0

    def hook(frame: FrameType, event: str, function: Any) -> None:
        nonlocal count
        if event == "c_call" and touches_files(function):
            count += 1
            act(count - 1, function.__name__)

    sys.setprofile(hook)
    try:
        yield
    finally:
        sys.setprofile(None)


class Scene:
    """A run of six steps whose last one is not saved yet, of which each test saves copies.

    Checkpoints of steps 2 and 4 are there, and two are kept: saving step 6 removes that of step 2.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self._origin = trainer, trainer.run

    def copy(self, folder: Path, damaged: bool = False) -> Path:
        """Where :meth:`save` saves next: a copy of the run, maybe with a damaged checkpoint of step 6."""
        shutil.rmtree(folder, ignore_errors=True)
        self.trainer.run = Path(shutil.copytree(self._origin, folder))
        if damaged:
            shutil.copytree(checkpoint_folder(folder, 4), checkpoint_folder(folder, 6))
            (checkpoint_folder(folder, 6) / "manifest.json").unlink()
        return folder

    def save(self, log: Log | None = None, last: bool = True) -> None:
        self.trainer._saved_at = None
        self.trainer._save(log or Log(), last=last)

    def whole(self, folder: Path) -> dict[str, bytes]:
        """What the run holds when nothing goes wrong."""
        self.copy(folder)
        self.save()
        return contents(folder)

    def operations(self, folder: Path, damaged: bool = False) -> list[str]:
        """The names of all operations of a save."""
        self.copy(folder, damaged)
        names: list[str] = []
        with before_each_operation(lambda number, name: names.append(name)):
            self.save()
        return names


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
        config = tiny_config("steps=4", "keep_checkpoints=2")
        run = tmp_path_factory.mktemp("faults") / "run"
        train(config, run, quiet=True)
        found = newest_checkpoint(run)
        assert found is not None
        trainer = Trainer(config, run, Start(*found[:2]))
        for _ in range(2):
            trainer.advance(Log())
        yield Scene(trainer)


def killed_child(act: Callable[[], None]) -> int:
    """Runs ``act`` in a child process; the signal that killed it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def good(run: Path, whole: dict[str, bytes], before: dict[str, bytes]) -> str:
    """The name of the newest good checkpoint, whose bytes must be right. No other one may have become damaged."""
    found = newest_checkpoint(run)
    assert found is not None
    names = {path.name for path in list_checkpoints(run)}
    after = contents(run)
    assert all(part_of(after, name) == part_of(before, name) for name in names - {found[0].name})
    assert part_of(after, found[0].name) == part_of({**before, **whole}, found[0].name)
    return found[0].name


def part_of(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if path.startswith(f"checkpoints/{name}/")}


#: of the operations of a save, each so many-th; all of them take long
EVERY = pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])


@EVERY
@pytest.mark.parametrize(
    "damaged", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["new", "in-place-of-a-damaged-one"]
)
def test_a_kill_before_any_operation_leaves_the_old_or_the_new_checkpoint(
    damaged: bool, every: int, scene: Scene, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", scene.whole(tmp_path / "whole")
    names, before = scene.operations(run, damaged), contents(scene.copy(run, damaged))
    assert {"mkdir", "open", "write", "fsync", "rename", "unlink", "rmdir"} <= set(names)
    newest, states = [], set()
    for moment in [at for at, name in enumerate(names) if name not in READING][::every]:
        scene.copy(run, damaged)

        def save(moment: int = moment) -> None:
            with before_each_operation(lambda number, _: number == moment and os.kill(os.getpid(), signal.SIGKILL)):
                scene.save()

        assert killed_child(save) == signal.SIGKILL
        newest.append(good(run, whole, before))
        state = tuple((name, len(data)) for name, data in contents(run).items())
        if state not in states:  # the next save clears up what this one left
            states.add(state)
            scene.save()
            assert contents(run) == whole, names[moment]
    assert set(newest) == {"step-00000004", "step-00000006"} and newest == sorted(newest)
    assert len(states) > 10 // every


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_checkpoint(scene: Scene, tmp_path: Path) -> None:
    """Files are cut off at half of every size that one of them has, and one byte before its end."""
    run, whole = tmp_path / "run", scene.whole(tmp_path / "whole")
    before = contents(scene.copy(run))
    sizes = {len(data) for name, data in whole.items() if "step-00000006" in name}
    for limit in sorted({0, *(size // 2 for size in sizes), *(size - 1 for size in sizes)}):

        def save(limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it: the write would fail instead
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            scene.save()

        assert killed_child(save) == signal.SIGXFSZ
        assert good(run, whole, before) == "step-00000004"
    scene.save()
    assert contents(run) == whole


@EVERY
def test_an_operation_that_fails_costs_no_checkpoint_and_not_the_run(every: int, scene: Scene, tmp_path: Path) -> None:
    """Nothing temporary stays but what could not be removed."""
    run, whole = tmp_path / "run", scene.whole(tmp_path / "whole")
    names, before = scene.operations(run), contents(scene.copy(run))
    states, appeared = set(), 0
    for moment in range(0, len(names), every):
        scene.copy(run)

        def fail(number: int, name: str, moment: int = moment) -> None:
            if number == moment:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        notes = Notes()
        with before_each_operation(fail):
            scene.save(notes, last=False)
        if good(run, whole, before) == "step-00000004":
            assert contents(run) == before, names[moment]
            assert notes.warnings == ["step 6 could not be saved: No space left on device; older checkpoints are kept"]
            assert scene.trainer._saved_at is None
        else:
            appeared += 1
            assert notes.warnings or scene.trainer._saved_at == 6
        state = tuple((name, len(data)) for name, data in contents(run).items())
        if state not in states:
            states.add(state)
            scene.save()
            assert contents(run) == whole, names[moment]
    assert 0 < appeared < len(names)


def test_a_full_disk_while_writing_costs_no_checkpoint(scene: Scene, tmp_path: Path) -> None:
    """The write itself comes back short, at whatever size."""
    run = scene.copy(tmp_path / "run")
    before, limits = contents(run), resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 100, 1000, 10_000):
        notes = Notes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        try:
            scene.save(notes, last=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert contents(run) == before
        assert len(notes.warnings) == 1 and "step 6 could not be saved" in notes.warnings[0]


def test_a_checkpoint_that_cannot_be_read_back_removes_no_older_one(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(path: Path, data: bytes) -> dict[str, Any]:
        facts = write(path, data)
        if path.name == "nets.safetensors":
            path.write_bytes(data[:-1] + b"?")
        return facts

    run, notes, write = scene.copy(tmp_path / "run"), Notes(), checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", forgetful)
    scene.save(notes, last=False)
    assert {path.name for path in list_checkpoints(run)} >= {"step-00000002", "step-00000004"}
    assert len(notes.warnings) == 1 and "nets.safetensors is damaged" in notes.warnings[0]
    assert scene.trainer._saved_at is None


def test_damaged_checkpoints_do_not_push_good_ones_out(scene: Scene, tmp_path: Path) -> None:
    """Training went back behind two damaged ones; what it saves first is older than they are, and must stay."""
    run = scene.copy(tmp_path / "run")
    for step in (8, 10):
        shutil.copytree(run / "checkpoints" / "step-00000004", run / "checkpoints" / f"step-{step:08d}")
        (run / "checkpoints" / f"step-{step:08d}" / "manifest.json").unlink()
    scene.save()
    assert [path.name for path in list_checkpoints(run)] == [f"step-{step:08d}" for step in (4, 6, 8, 10)]
    found = newest_checkpoint(run)
    assert found is not None and found[0].name == "step-00000006"


def test_a_short_write_leaves_whole_lines_in_the_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, metrics = RunLog(tmp_path, 0, 4, 4, quiet=True), tmp_path / "metrics.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    log.tick(1, {"generator/loss": 1.0}, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (metrics.stat().st_size + 10, limits[1]))
    try:
        log.tick(2, {"generator/loss": 1.0}, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.tick(3, {"generator/loss": 1.0}, 0)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [1, 3]
    assert "training goes on without it" in capsys.readouterr().err


def test_output_to_a_full_disk_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        log = RunLog(tmp_path, 0, 4, 4, quiet=False)
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "stderr", full)
        log.say("hello")
        log.warn("careful")
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space left"):
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # where the rest of its buffer may go

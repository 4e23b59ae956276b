"""What a run writes and shows: metrics, timings, environment, and progress for the person who waits."""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from m2o_fast.engine.memory import is_out_of_memory
from m2o_fast.engine.tensorboard import Board
from m2o_fast.errors import UserError
from m2o_fast.files import no_links, replacing
from m2o_fast.texts import harmless
from m2o_fast.version import __version__

METRICS, TIMINGS, SAMPLES = "metrics.jsonl", "timings.jsonl", "samples.jsonl"
#: how the names of validated measures begin in metrics.jsonl
VALIDATION = "validation"
#: steps that tell how long a run will take
_PACE_STEPS = 4


def show(line: str) -> None:
    """One line on stdout, as far as somebody listens: the output may go to a full disk, or to a ``head`` that ended."""
    try:
        print(harmless(line), flush=True)
    except BrokenPipeError:
        _silence_stdout()
    except OSError:
        pass


def _silence_stdout() -> None:
    """Sends what is still to come nowhere. Python flushes stdout at its end, and would complain then."""
    with suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


class _Console(Console):
    """Goes on in silence where nobody listens any more. Rich ends the process, and the run with it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _silence_stdout()


class Log:
    """What training reports; here it goes nowhere, as in all processes of a run but the leading one."""

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, message: str) -> None:
        """One line for the person who waits."""

    def warn(self, message: str) -> None:
        """One line on stderr, also when quiet."""

    def waited(self, seconds: float) -> None:
        """Adds time that training spent waiting for data."""

    def advance(self, step: int) -> None:
        """``step`` steps are done."""

    def tick(self, step: int, values: Mapping[str, float], skipped: int) -> None:
        """Writes the losses of the step just done (as ``step`` steps are done) and the speed since the last tick."""

    def sampled(self, step: int, values: Mapping[str, float], picture: Image.Image) -> None:
        """Writes what was measured on the sample grid that was drawn as ``step`` steps are done."""

    def validated(self, step: int, values: Mapping[str, float]) -> None:
        """Writes what a validation found as ``step`` steps are done."""


class RunLog(Log):
    """Writes the metrics of a run and reports its progress.

    ``metrics.jsonl`` and ``samples.jsonl`` hold only what the seed determines, so that a resumed run ends with the same
    bytes; ``timings.jsonl`` holds what the machine determines.

    Args:
        folder: The run folder.
        first: The step that training starts with; later lines of an earlier attempt are dropped.
        total: All steps of the run.
        batch_size: Source images per step.
        quiet: Show nothing.
        tensorboard: Write everything to TensorBoard as well.
        warm_up: First steps that the expected time leaves out.
        settle: Waits until the device has done the steps that it was given; called twice, for the expected time.
    """

    def __init__(
        self,
        folder: Path,
        first: int,
        total: int,
        batch_size: int,
        *,
        quiet: bool,
        tensorboard: bool = False,
        warm_up: int = 1,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._first, self._total, self._batch_size = folder, first, total, batch_size
        self._board = Board(folder, first) if tensorboard else None
        for name in (METRICS, TIMINGS, SAMPLES):
            _drop_lines_after(folder / name, first)
        self._console = _Console(quiet=quiet, highlight=False, emoji=False)
        self._bar = _progress_bar(self._console) if self._console.is_terminal and not quiet else None
        self._task = self._bar.add_task("training", total=total, completed=first, note="") if self._bar else None
        self._write_failed = False
        self._started = self._tick_start = time.perf_counter()
        self._tick_step, self._tick_wait = first, 0.0
        self._pace_start, self._warm, self._settle = 0.0, first + warm_up, settle

    def __enter__(self) -> RunLog:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        self._on_board(lambda board: board.close())

    def say(self, message: str) -> None:
        """One line for the person who waits."""
        with suppress(OSError):  # the output may go to a file on a full disk
            self._console.print(harmless(message), markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """One line on stderr, also when quiet."""
        with suppress(OSError):  # the output may go to a file on a full disk
            print(f"m2o-fast: warning: {harmless(message)}", file=sys.stderr, flush=True)

    def waited(self, seconds: float) -> None:
        """Adds time that training spent waiting for data."""
        self._tick_wait += seconds

    def advance(self, step: int) -> None:
        """``step`` steps are done."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=step)
        if self._warm + _PACE_STEPS >= self._total:
            return
        if step == self._warm:
            self._settle()
            self._pace_start = time.perf_counter()
        if step == self._warm + _PACE_STEPS:
            self._settle()
            self._announce_pace(step, (time.perf_counter() - self._pace_start) / _PACE_STEPS)

    def _announce_pace(self, step: int, seconds: float) -> None:
        speed = self._batch_size / max(seconds, 1e-9)
        time_left = _clock(seconds * (self._total - step))
        self.say(
            f"expected time: {time_left} at {speed:.0f} img/s, as in steps {self._warm + 1} to {step}; "
            "checkpoints and samples come on top"
        )

    def tick(self, step: int, values: Mapping[str, float], skipped: int) -> None:
        """Writes the losses of the step just done (as ``step`` steps are done) and the speed since the last tick."""
        now = time.perf_counter()
        seconds = max(now - self._tick_start, 1e-9)
        steps = step - self._tick_step
        speed = {
            "images_per_second": round(steps * self._batch_size / seconds, 2),
            "data_wait_share": round(self._tick_wait / seconds, 4),
        }
        remaining = (now - self._started) / max(step - self._first, 1) * (self._total - step)
        self._append(METRICS, {"step": step, "skipped": skipped, **values})
        self._append(TIMINGS, {"step": step, "seconds": round(now - self._started, 3), **speed})
        timings = {f"speed/{name}": value for name, value in speed.items()}
        self._on_board(lambda board: board.write(step, {**values, **timings, "skipped": skipped}))
        note = f"{speed['images_per_second']:.0f} img/s, data wait {speed['data_wait_share']:.1%}"
        if skipped:
            note += f", skipped steps: {skipped}"
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=step, note=note)
        else:
            losses = "".join(f", {name} {value:.3f}" for name, value in _headline(values).items())
            self.say(f"step {step}/{self._total}, {note}, {_clock(remaining)} left{losses}")
        self._tick_start, self._tick_step, self._tick_wait = now, step, 0.0

    def sampled(self, step: int, values: Mapping[str, float], picture: Image.Image) -> None:
        """Writes what was measured on the sample grid that was drawn as ``step`` steps are done."""
        self._append(SAMPLES, {"step": step, **values})
        self._on_board(lambda board: board.write(step, values, picture))

    def validated(self, step: int, values: Mapping[str, float]) -> None:
        """Writes what a validation found as ``step`` steps are done."""
        self._append(METRICS, {"step": step, **values})
        self._on_board(lambda board: board.write(step, values))

    def _on_board(self, write: Callable[[Board], object]) -> None:
        try:
            if self._board:
                write(self._board)
        except OSError as error:  # as below; TensorBoard's writer does not recover
            self._board = None
            self.warn(f"TensorBoard: {error.strerror or error}; training goes on without it")

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        try:
            with open(self._folder / name, "ab", buffering=0, opener=no_links) as file:
                line, end = (json.dumps(record) + "\n").encode(), file.tell()
                if file.write(line) < len(line):  # there was room for a part of it only
                    file.truncate(end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:  # a full disk must not end a run whose weights are in memory
            if not self._write_failed:
                self.warn(f"{self._folder / name}: {error.strerror}; training goes on without it")
            self._write_failed = True


@contextmanager
def going_on(log: Log) -> Iterator[None]:
    """Samples are for looking at: what keeps them from being written must not end a run."""
    try:
        yield
    except (OSError, ValueError) as error:
        log.warn(f"no sample grid: {error}; training goes on")


@contextmanager
def going_on_without(what: str, log: Log) -> Iterator[None]:
    """The same of anything else that training does not need: files, data or memory that fail are a warning."""
    try:
        yield
    except (OSError, UserError, RuntimeError, MemoryError) as error:
        reason: object = error
        if is_out_of_memory(error):
            reason = "out of memory"
        elif isinstance(error, OSError):
            reason = error.strerror or error
        elif not isinstance(error, UserError | torch.linalg.LinAlgError):  # a mistake of the program
            raise
        log.warn(f"{what}: {reason}; training goes on")


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def _headline(values: Mapping[str, float]) -> dict[str, float]:
    """The losses of the generator's first phase, by their short names."""
    phases = list(dict.fromkeys(name.partition("/")[0] for name in values))
    chosen = next((phase for phase in phases if phase.startswith("generator")), phases[0] if phases else "")
    return {name.partition("/")[2]: value for name, value in values.items() if name.startswith(f"{chosen}/")}


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _drop_lines_after(path: Path, step: int) -> None:
    """Removes records of steps that will be run again, and a line that an interruption left incomplete."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    with replacing(path) as file:
        file.write(b"".join(kept))


def environment() -> dict[str, Any]:
    """What the run's numbers may depend on besides its configuration."""
    return {
        "m2o_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }

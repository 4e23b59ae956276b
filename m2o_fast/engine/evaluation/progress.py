"""Progress of an evaluation or of translating a folder, on stderr: stdout is for its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from m2o_fast.texts import harmless

_EVERY = 10.0  # seconds between two lines where there is no terminal


class Meter:
    """Counts images and tells how long the rest will take: a bar on a terminal, elsewhere a line for every stage.

    Args:
        show: Whether to show anything.
        patience: Seconds that a stage takes before it is told of where there is no terminal.
    """

    def __init__(self, show: bool, patience: float = 0.0) -> None:
        self._patience = patience
        self._console = Console(stderr=True, quiet=not show, highlight=False, emoji=False)
        self._live = self._console.is_terminal and show
        self._total = self._done = 0
        self._seconds = 0.0

    def expect(self, images: int) -> None:
        """So many more images will come."""
        self._total += images

    @contextmanager
    def stage(self, name: str, images: int) -> Iterator[Callable[[int], None]]:
        """A part of the work on ``images`` images; yields what is to be called with the number of those just done."""
        started, before = time.perf_counter(), self._done
        told = started
        with self._bar() as bar:
            task = bar.add_task(harmless(name), total=self._total, completed=self._done, speed="") if bar else None

            def advance(count: int) -> None:
                nonlocal told
                self._done += count
                if not self._live and self._done - before < images and time.perf_counter() - told > _EVERY:
                    told = time.perf_counter()
                    self._tell(f"{name}: {self._done - before:,} of {images:,}", told - started, self._done - before)
                if bar and task is not None:
                    speed = f"{(self._done - before) / max(time.perf_counter() - started, 1e-9):,.0f} img/s"
                    bar.update(task, completed=self._done, speed=speed)

            yield advance
        seconds = time.perf_counter() - started
        if not self._live and seconds >= self._patience:
            self._tell(f"{name}: {images:,}", seconds, images)
        self._seconds += seconds

    def _tell(self, what: str, seconds: float, images: int) -> None:
        """A line about a stage on which so many images took so long."""
        remaining = (self._seconds + seconds) / max(self._done, 1) * max(self._total - self._done, 0)
        left = f", about {remaining:,.0f} s left" if remaining >= 1 else ""
        self.say(f"{what} images, {images / max(seconds, 1e-9):,.0f} img/s{left}")

    @contextmanager
    def _bar(self) -> Iterator[Progress | None]:
        if not self._live:
            yield None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[speed]}"))
        with Progress(*columns, *times, console=self._console, transient=True) as bar:
            yield bar

    def say(self, line: str) -> None:
        """One line for the person who waits."""
        with suppress(OSError):  # the output may go to a file on a full disk
            self._console.print(harmless(line), markup=False, soft_wrap=True)

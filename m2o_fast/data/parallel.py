"""Work on many files: by all cores, in order, with little in memory, and with a line now and then for who waits."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

#: What is called with a line of text for the person who waits.
Report = Callable[[str], None]

_EVERY = 5.0  # seconds between two lines

T = TypeVar("T")
R = TypeVar("R")


def silent(line: str) -> None:
    """A report that nobody reads."""


class _Room:
    """What may be in memory at a time."""

    def __init__(self, size: int) -> None:
        self._size, self._taken = size, 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        """Waits for room; what is larger than all of it gets it alone."""
        size = min(size, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + size <= self._size)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()


_pixels = _Room(1 << 27)  # four bytes each, eight of 16-bit colours


def room_for_pixels(count: int) -> AbstractContextManager[None]:
    """Keeps threads from decoding so many large images at a time that they fill the memory; not to be nested."""
    return _pixels.of(count)


@contextmanager
def many_objects() -> Iterator[None]:
    """Makes many small objects faster: none are looked over for cycles, which takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mapped(
    function: Callable[[T], R], items: Sequence[T], what: str = "", report: Report = silent, chunk: int = 16
) -> Iterator[R]:
    """``function`` of each item, in order, in as many threads as there are cores; some are done ahead of time.

    Args:
        function: Runs in threads.
        items: Its arguments.
        what: What is done with how many of what, in words: ``"decoding images of photo"``.
        report: Called with a line of text every few seconds: how many are done, how fast, how long it takes still.
        chunk: Items that a thread takes at a time: to hand over single files takes longer than to read a small one.
    """
    progress = _Progress(what, len(items), report)
    pool = ThreadPoolExecutor(cores())
    ahead: deque[Future[list[R]]] = deque()

    def several(some: Sequence[T]) -> list[R]:
        return [function(item) for item in some]

    def done() -> list[R]:
        results = ahead.popleft().result()
        progress.advance(len(results))
        return results

    try:
        for start in range(0, len(items), chunk):
            ahead.append(pool.submit(several, items[start : start + chunk]))
            if len(ahead) > 2 * cores():
                yield from done()
        while ahead:
            yield from done()
    finally:
        pool.shutdown(cancel_futures=True)


class _Progress:
    def __init__(self, what: str, count: int, report: Report) -> None:
        self._what, self._count, self._report = what, count, report
        self._done = 0
        self._started = self._said = time.monotonic()

    def advance(self, number: int) -> None:
        self._done += number
        now = time.monotonic()
        if now - self._said >= _EVERY:
            self._said = now
            rate = self._done / (now - self._started)
            left = (self._count - self._done) / rate
            self._report(f"{self._what}: {self._done} of {self._count}, {rate:.0f} files/s, {_duration(left)} left")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"

"""Stopping on request: the first signal lets the step finish and the run be saved, the second one acts at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

#: what asks a run to stop: Ctrl-C, an end that is near, and a scheduler that wants the machine back
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
#: exit code of a run that SIGUSR1 stopped: EX_TEMPFAIL of sysexits.h, "try again later"
PREEMPTED = 75
_ECHO = 1.0  # seconds


class StopRequest:
    """While active, Ctrl-C (SIGINT), SIGTERM and SIGUSR1 set :attr:`signal` instead of ending the process.

    Args:
        alone: Whether this process waits for no others. One that waits would run no Python code on a second Ctrl-C,
            so that one ends it without an exception.
    """

    def __init__(self, alone: bool = True) -> None:
        self.signal: int | None = None
        self._alone = alone
        # Service managers and schedulers signal every process of a job; torchrun is one and passes the signal on.
        self._echoes = "TORCHELASTIC_RUN_ID" in os.environ
        self._received = 0.0
        self._previous: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """0 without a signal, 75 after SIGUSR1, else what a shell expects of a process that the signal ended."""
        if self.signal is None:
            return 0
        return PREEMPTED if self.signal == signal.SIGUSR1 else 128 + self.signal

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            if number != self.signal or time.monotonic() - self._received > _ECHO:
                self._restore()
                signal.raise_signal(number)
            return
        self.signal = number
        if self._echoes and number != signal.SIGINT:
            self._received = time.monotonic()
            return
        self._restore()
        if not self._alone:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

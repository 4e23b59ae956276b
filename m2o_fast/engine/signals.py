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


class Stopped(KeyboardInterrupt):
    """A signal that came before there was anything to save.

    Args:
        number: That signal.
    """

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} before the first step; the same command starts again")
        self.exit_code = _exit_code(number)


class StopRequest:
    """While active, Ctrl-C (SIGINT), SIGTERM and SIGUSR1 set :attr:`signal` instead of ending the process.

    Args:
        starting: Whether they raise :class:`Stopped` besides, until :meth:`begin`: what takes long then, such as
            decoding images, does not look at :attr:`signal`.
    """

    def __init__(self, *, starting: bool = False) -> None:
        self.signal: int | None = None
        self._starting, self._alone = starting, True
        # Service managers and schedulers signal every process of a job; torchrun is one and passes the signal on.
        self._echoes = "TORCHELASTIC_RUN_ID" in os.environ
        self._received = 0.0
        self._previous: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """0 without a signal, 75 after SIGUSR1, else what a shell expects of a process that the signal ended."""
        return 0 if self.signal is None else _exit_code(self.signal)

    def begin(self, *, alone: bool) -> None:
        """From now on somebody looks at :attr:`signal`.

        Args:
            alone: Whether this process waits for no others. One that waits would run no Python code on a second
                Ctrl-C, so that one ends it without an exception.
        """
        self._starting, self._alone = False, alone

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
        else:
            self._restore()
            if not self._alone:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._starting:
            raise Stopped(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def _exit_code(number: int) -> int:
    return PREEMPTED if number == signal.SIGUSR1 else 128 + number

"""The command line ``m2o-fast``: parse, call, print. Installed as ``m2o_fast.cli``.

Torch takes a second to import, so no module of this package imports it, or anything that does, at its top.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence

PROGRAM = "m2o-fast"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    0: done. 1: a problem was found, or a bug in m2o_fast. 2: wrong input. 130, 143 and 75: stopped by Ctrl-C, SIGTERM
    and SIGUSR1.
    Errors are one line on stderr; ``--debug``, anywhere on the line, adds the traceback.
    """
    with _CtrlC() as pressed:
        try:
            from m2o_fast.cli.app import run  # takes a while, in which Ctrl-C is no error either

            code = run(sys.argv[1:] if arguments is None else arguments, pressed)
        except KeyboardInterrupt:
            code = _interrupted()
        except Exception:  # an import that Ctrl-C ends may raise any
            if not pressed:
                raise
            code = _interrupted()
        else:
            if pressed and code:
                code = _interrupted()
        return code


def _interrupted() -> int:
    print(f"{PROGRAM}: interrupted", file=sys.stderr)
    return 130


class _CtrlC:
    """Whether Ctrl-C was pressed: an import that it ends may say that something is not installed instead."""

    def __init__(self) -> None:
        self._is_pressed = False

    def __bool__(self) -> bool:
        return self._is_pressed

    def __enter__(self) -> _CtrlC:
        is_main = threading.current_thread() is threading.main_thread()  # only there may handlers be set
        self._waits = is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._waits:
            signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._waits:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _press(self, *_: object) -> None:
        self._is_pressed = True
        raise KeyboardInterrupt

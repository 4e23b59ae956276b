"""The command line ``m2o-fast``: parse, call, print. Installed as ``m2o_fast.cli``.

Torch takes a second to import, so no module of this package imports it, or anything that does, at its top.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

PROGRAM = "m2o-fast"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    0: done. 1: a problem was found, or a bug in m2o_fast. 2: wrong input. 130, 143 and 75: stopped by Ctrl-C, SIGTERM
    and SIGUSR1.
    Errors are one line on stderr; ``--debug``, anywhere on the line, adds the traceback.
    """
    try:
        from m2o_fast.cli.app import run  # takes a while, in which Ctrl-C is no error either

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130

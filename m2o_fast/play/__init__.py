"""A local page to play with trained translators; ``m2o-fast play`` opens it. Nothing leaves the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from m2o_fast.errors import UserError

PORT = 8042
HOST = "127.0.0.1"


def play(
    runs: Sequence[Path] = (),
    port: int = PORT,
    device: str = "auto",
    checkpoint: str | None = None,
    ready: Callable[[str], None] = print,
) -> None:
    """Serves the page on this machine alone, until it is interrupted.

    Args:
        runs: Run folders, checkpoints or converted weights, side by side on one input; none: the newest run.
        port: Port on the loopback interface; 0: any that is free.
        device: Where to compute.
        checkpoint: Name of a checkpoint of every run, or ``"best"``.
        ready: Called with the address once the page can be opened.

    Raises:
        UserError: What serves pages is not installed, a run cannot be loaded, or the port is taken.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"m2o-fast play needs {error.name}; pip install 'm2o-fast[play]'") from None
    from m2o_fast.play.server import serve
    from m2o_fast.play.translators import open_players

    serve(open_players(runs, device, checkpoint), port, ready)

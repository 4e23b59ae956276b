"""``m2o-fast play``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2o_fast.cli.texts import examples
from m2o_fast.play import PORT

EXAMPLES = examples(
    ("m2o-fast play", "the newest run below runs/"),
    ("m2o-fast play runs/a runs/b", "two runs side by side on one image"),
    ("m2o-fast play runs/a --checkpoint best --port 9000", "its best checkpoint, on another port"),
)


def play(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN", help="Runs, checkpoints or converted weights. [dim]\\[default: the newest below runs/][/dim]"
        ),
    ] = None,
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0: any that is free.")] = PORT,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Checkpoint of each run, or best. [dim]\\[default: the newest good one][/dim]"
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:<number>.")] = "auto",
) -> None:
    """Open a page to play with translators, on this machine alone.

    Drop, draw or pick an image; choose looks, move along the main directions
    of the styles, go from one look to another. Ctrl-C ends it.
    """
    from m2o_fast.play import play

    play(runs or [], port, device, checkpoint, lambda address: typer.echo(f"open {address} (Ctrl-C ends it)"))

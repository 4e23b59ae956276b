"""``m2o-fast publish``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2o_fast.cli.texts import examples
from m2o_fast.texts import harmless

EXAMPLES = examples(
    ("m2o-fast publish runs/a --out model --license mit", "config.json, model.safetensors, a model card"),
    ("m2o-fast publish runs/a --out model --license cc-by-4.0 --push me/digits", "and upload it, closed to others"),
    ("m2o-fast translate digit.png --run hf:me/digits --to color --out out.png", "use it anywhere"),
)


def publish(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; must not exist.")],
    license_id: Annotated[
        str, typer.Option("--license", metavar="ID", help="Licence as the hub names it (mit, cc-by-4.0, other, ...).")
    ],
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            help="Run, checkpoint or converted weights. [dim]\\[default: the newest run below runs/][/dim]",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Checkpoint of the run, or best. [dim]\\[default: its newest good one][/dim]"
        ),
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Upload to this repository of the Hugging Face hub.")
    ] = None,
) -> None:
    """Write a model as model hubs have it, and upload it where that is asked.

    The folder holds config.json, model.safetensors, and a model card with
    the numbers of m2o-fast eval. Read the card before others do.
    """
    from m2o_fast.engine import hub
    from m2o_fast.report.publish import publish as write

    if push is not None:
        hub.check_name(push)
    folder = write(run, out, license_id, checkpoint, push or "")
    shown = harmless(str(folder))
    typer.echo(f"{shown}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    if push is not None:
        typer.echo(f"uploaded to {hub.push(folder, push)}, closed to others until you open it")

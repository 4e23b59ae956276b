"""``m2o-fast publish``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from m2o_fast.cli.texts import examples
from m2o_fast.texts import harmless

EXAMPLES = examples(
    ("m2o-fast publish runs/a --out model --license mit", "config.json, model.safetensors, a model card"),
    ("m2o-fast publish model --push me/digits", "upload it as it lies, once its card is read"),
    ("m2o-fast publish runs/a --out model --license cc-by-4.0 --push me/digits", "both at once"),
    ("m2o-fast translate digit.png --run hf:me/digits --to color --out out.png", "use it anywhere"),
)


def publish(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            help="Run, checkpoint or converted weights; with --push also a folder that was written before. "
            "[dim]\\[default: the newest run below runs/][/dim]",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder to write; must not exist.")] = None,
    license_id: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="Licence as the hub names it (mit, cc-by-4.0, other, ...)."),
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
    the numbers of m2o-fast eval. Read the card before others do: --push
    of the folder uploads it as it lies.
    """
    from m2o_fast.engine import hub
    from m2o_fast.engine.model_folder import is_model
    from m2o_fast.errors import UserError
    from m2o_fast.report.publish import publish as write

    if push is not None:
        hub.check_name(push)
    if run is not None and is_model(run):
        if push is None or (out, license_id, checkpoint) != (None, None, None):
            raise UserError(f"{run} is a published model already; --push ORG/NAME alone uploads it as it lies")
        folder = run
    elif out is None or license_id is None:
        what = "" if push is None or run is None else f"{run} is no published model to upload: "
        raise UserError(
            f"{what}say with --out which folder to write, and with --license under what licence, such as mit"
        )
    else:
        folder = write(run, out, license_id, checkpoint, push or "")
        typer.echo(f"{harmless(str(folder))}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    if push is not None:
        _upload(folder, push)


def _upload(folder: Path, repository: str) -> None:
    from m2o_fast.engine import hub
    from m2o_fast.errors import UserError

    try:
        address, is_private = hub.push(folder, repository)
    except UserError as error:
        again = shlex.join(["m2o-fast", "publish", str(folder), "--push", repository])
        raise UserError(f"{error}; nothing is lost, try again with: {again}") from error
    state = "closed to others until you open it" if is_private else "which is open to everybody"
    typer.echo(f"uploaded to {address}, {state}")

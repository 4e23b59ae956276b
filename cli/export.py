"""``m2o-fast export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2o_fast.cli.texts import examples, printable
from m2o_fast.texts import harmless

EXAMPLES = examples(
    ("m2o-fast export runs/a --to color --out color.onnx", "one direction, for onnxruntime"),
    ("m2o-fast export runs/a --to color --out color.pt2", "the same, for torch alone"),
    ("m2o-fast export runs/a --checkpoint best --out exported", "all directions and where styles come from"),
)


def export(
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="FILE.onnx, FILE.pt2, or a folder for all graphs; must not exist.")
    ],
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            help="Run, checkpoint or converted weights. [dim]\\[default: the newest run below runs/][/dim]",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="DOMAIN",
            help="Domain to translate into. [dim]\\[default: for a file, the only one with a style; for a folder, "
            "all][/dim]",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="DOMAIN", help="Domain of the images; not needed where there are only two."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Checkpoint of the run, or best, which --validate-every keeps. "
            "[dim]\\[default: its newest good one][/dim]",
        ),
    ] = None,
) -> None:
    """Write a run as ONNX and torch.export files, which need no m2o_fast.

    Every file is run and compared with the run on its sample grid; what is
    not equal to 1e-4 is not written. docs/export.md shows how to use them.
    """
    from m2o_fast.engine.export import export_run

    facts = export_run(run, out, target, source=source, checkpoint=checkpoint)
    for graph in facts["graphs"]:
        what = f"{graph['kind']}, {', '.join(graph['inputs'])} to {', '.join(graph['outputs'])}"
        for file in graph["files"]:
            found = file["checked"]
            same = f"differs from the run by {found['largest_difference']:.1e} at most, on {found['on']}"
            typer.echo(printable(f"{file['name']}: {what}; {same}"))
    typer.echo(f"written to {harmless(str(out))}")

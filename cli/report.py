"""``m2o-fast report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2o_fast.cli.options import one_or_more
from m2o_fast.cli.texts import examples
from m2o_fast.texts import harmless

EXAMPLES = examples(
    ("m2o-fast report", "the newest run below runs/"),
    ("m2o-fast report runs/a --out a.html", "one file: to send, to print, to keep"),
    ("m2o-fast report runs/a runs/b runs/c", "side by side: runs/report.html"),
)


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN", help="Run folders. [dim]\\[default: the newest below runs/][/dim]"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="HTML file to write. [dim]\\[default: report.html in the run, or in the folder that all of several "
            "runs are in][/dim]",
        ),
    ] = None,
    data_dir: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="Folder of the data set, if it is not the runs'; of several one for each."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:<number>.")] = "auto",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the random styles in the pictures.")] = 0,
) -> None:
    """Write a report of a run, or of several side by side: one HTML file.

    It holds everything it shows: numbers of m2o-fast eval, curves, pictures
    made anew, settings. It can be read offline, on a phone and on paper.
    """
    from m2o_fast.report import write_report

    written = write_report(runs or [], out, device, data_dir=one_or_more(data_dir), seed=seed)
    typer.echo(f"report written to {harmless(str(written))}")

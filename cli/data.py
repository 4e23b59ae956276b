"""``m2o-fast data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2o_fast.cli.texts import examples

EXAMPLES = examples(
    ("m2o-fast data fetch mnist", "download MNIST (11 MB) and verify it"),
    ("m2o-fast data check path/to/mnist", "say what is there and what is wrong with it"),
)

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.callback(epilog=EXAMPLES)
def _data() -> None:
    """Fetch a data set, or check one before a long run does."""


@app.command(epilog=EXAMPLES)
def fetch(
    name: Annotated[str, typer.Argument(metavar="mnist", help="The data set; digits needs no fetching.")],
    folder: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Folder for the files. [dim]\\[default: where train looks][/dim]"),
    ] = None,
) -> None:
    """Download a data set and verify it.

    Files that are there and whole are kept, so it can be repeated after an
    interruption. No other command uses the network.
    """
    from m2o_fast.errors import UserError

    if name != "mnist":
        raise UserError(f"there is nothing to fetch for {name!r}; fetch knows mnist only (digits comes installed)")
    from m2o_fast.data.fetch import fetch_mnist

    directory = fetch_mnist(folder, report=typer.echo)
    option = "" if folder is None else f" --data-dir {directory}"
    typer.echo(f"Train on it: m2o-fast train --data mnist{option}")


@app.command(epilog=EXAMPLES)
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the data set.")],
) -> int:
    """Verify the data set in a folder and count its images.

    The exit code is 1 if anything is wrong.
    """
    from m2o_fast.data.check import check_folder

    report = check_folder(folder)
    for line in report.lines:
        typer.echo(line)
    for problem in report.problems:
        typer.echo(f"problem: {problem}", err=True)
    return 1 if report.problems else 0

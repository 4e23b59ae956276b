"""``m2o-fast data``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2o_fast.cli.texts import examples
from m2o_fast.texts import harmless
from m2o_fast.translators import DEFAULT

if TYPE_CHECKING:
    from m2o_fast.data.learner import Fitting
    from m2o_fast.m2o import Domain

EXAMPLES = examples(
    ("m2o-fast data fetch mnist", "download MNIST (11 MB) and verify it"),
    ("m2o-fast data check path/to/data", "what is there, what is wrong, how to train on it"),
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


def _fitting(system: str | None) -> Callable[[str, Sequence[Domain], int, Sequence[int]], Fitting | None]:
    """What makes training fit this machine; found out, and torch imported, when there is something to train on."""

    def fit(variant: str, domains: Sequence[Domain], side: int, sets: Sequence[int]) -> Fitting | None:
        from m2o_fast.engine.fitting import fitting

        return fitting(system or DEFAULT[0], variant, domains, side, sets)

    return fit


@app.command(epilog=EXAMPLES)
def check(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Folder of the data set; of several to be trained on together, each."),
    ],
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to draw some images, as a PNG. [dim]\\[default: contact-sheet.png][/dim]",
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Base model that the command to train with is for, on own images."),
    ] = None,
    max_unreadable: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=1, help="data.max_unreadable of the training.")
    ] = 0.01,
    verify_data: Annotated[
        bool, typer.Option("--verify-data", help="Read all image files again, whatever their dates say.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; draw with --sheet only.")] = False,
) -> int:
    """Look over the data set in a folder: own images, ADE20K or MNIST.

    Decodes every file, counts, names what is odd, and prints the command to
    train with. The exit code is 1 if training would fail.
    """
    from m2o_fast.data.check import check_folder
    from m2o_fast.data.contact_sheet import DEFAULT_SHEET
    from m2o_fast.data.learner import Learner

    learner = Learner(fitting=_fitting(None))
    if system is None and len(folders) > 1:
        from m2o_fast.translators import NAMES
        from m2o_fast.translators import system as facts_of

        system = next(name for name in NAMES if facts_of(name).several_sets)
    if system is not None:
        from m2o_fast.engine.config import load_config

        facts = load_config(overrides={"system": system}).facts
        learner = Learner(
            system,
            tuple(facts.variants),
            facts.two_domains,
            facts.several_sets,
            facts.sizes.at_most,
            fitting=_fitting(system),
        )
    drawn = sheet or (None if as_json else DEFAULT_SHEET)
    report = check_folder(
        folders,
        max_unreadable,
        drawn,
        verify=verify_data,
        report=lambda line: typer.echo(harmless(line), err=True),
        learner=learner,
    )
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        for line in report.text():
            typer.echo(harmless(line))
        for problem in report.problems:
            typer.echo(f"problem: {harmless(problem)}", err=True)
    return 1 if report.problems else 0

"""``m2o-fast eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from m2o_fast.cli.texts import examples

EXAMPLES = examples(
    ("m2o-fast eval", "the newest run below runs/"),
    ("m2o-fast eval runs/hms-digits-001 --json", "one JSON object, for scripts"),
    ("m2o-fast eval runs/a --checkpoint step-00000400", "an earlier state of it"),
)


def evaluate(
    run: Annotated[
        Path | None, typer.Argument(help="Run folder. [dim]\\[default: the newest below runs/][/dim]")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Checkpoint of the run. [dim]\\[default: its newest good one][/dim]"),
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of the MNIST files, if it is not the run's.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:<number>.")] = "auto",
    outputs_per_source: Annotated[
        int, typer.Option(metavar="N", min=1, help="Translations of each test image into a multi-modal domain.")
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Measure a run on the test split.

    color -> gray: the mean squared error against the true gray image.
    gray -> color: the share of the true colours that are generated (Color
    Recall), beside the ceiling that so few samples allow, and more.
    Measured are the moving averages (EMA) of the networks.
    """
    from m2o_fast.engine.evaluate import evaluate_run

    result = evaluate_run(run, data_dir=data_dir, device=device, outputs=outputs_per_source, checkpoint=checkpoint)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print_table(result)


def _print_table(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['run']}, step {result['step']}", title_justify="left", title_style="bold")
    table.add_column("direction")
    table.add_column("measure")
    table.add_column("value", justify="right")
    for direction, measures in result["directions"].items():
        for index, (name, value) in enumerate(measures.items()):
            table.add_row(
                direction.replace("->", " -> ") if index == 0 else "",
                name.replace("_", " "),
                _shown(value),
                end_section=index == len(measures) - 1,
            )
    console = Console()
    console.print(table)
    protocol = ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in result["protocol"].items())
    console.print(f"[dim]{protocol}[/dim]", highlight=False)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

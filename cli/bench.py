"""``m2o-fast bench``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from m2o_fast.cli.options import (
    Assignments,
    ConfigFile,
    Data,
    DataDir,
    Device,
    Preset,
    System,
    Uni,
    Variant,
    one_folder,
    one_or_more,
    settings_from,
)
from m2o_fast.cli.texts import examples
from m2o_fast.texts import harmless
from m2o_fast.translators import DEFAULT, full_name

EXAMPLES = examples(
    ("m2o-fast bench train", f"how fast this machine trains {full_name(*DEFAULT)} on digits"),
    ("m2o-fast bench train --data mnist --set batch_size=32 --json", "another setting, for scripts"),
    ("m2o-fast bench train --config runs/a/config.yaml --steps 100", "the settings of a run, longer"),
)

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.callback(epilog=EXAMPLES)
def _bench() -> None:
    """Measure how fast this machine is; the kernels one by one: make bench."""


@app.command(epilog=EXAMPLES)
def train(
    system: System = None,
    variant: Variant = None,
    data: Data = None,
    data_dir: DataDir = None,
    uni: Uni = None,
    preset: Preset = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    device: Device = None,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Steps to measure, after a warm-up of 3.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a few steps, say how fast that went, and write nothing.

    The median of the measured steps, data loading included, checkpoints and
    samples not; and how long all steps of the settings would take.
    """
    from m2o_fast.engine.pace import bench_training, pace_line

    options = {
        "system": system,
        "variant": variant,
        "data.name": one_or_more(data),
        "data.dir": one_folder(data_dir),
        "data.uni": uni or None,
        "device": device,
    }
    measured = bench_training(
        settings_from(config, assignments, options, preset),
        steps,
        report=lambda line: typer.echo(harmless(line), err=True),
    )
    if measured is None:  # another process of the same launcher prints it
        return
    plan, pace = measured
    if as_json:
        typer.echo(json.dumps({"plan": plan.as_json(), "pace": pace.as_json()}))
        return
    for line in plan.lines():
        typer.echo(harmless(line))
    typer.echo(pace_line(pace))

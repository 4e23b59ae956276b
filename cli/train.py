"""``m2o-fast train``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2o_fast.cli.options import (
    HOW,
    Assignments,
    ConfigFile,
    Data,
    DataDir,
    Device,
    NoCache,
    Preset,
    System,
    Uni,
    Variant,
    VerifyData,
    one_folder,
    one_or_more,
)
from m2o_fast.cli.texts import examples
from m2o_fast.m2o import UNPAIRED
from m2o_fast.texts import harmless
from m2o_fast.translators import DEFAULT, EXAMPLE_SETTING, full_name

if TYPE_CHECKING:
    from m2o_fast.engine.config import Config

_WHERE = "Where, and going on"
_UNPAIRED = full_name(DEFAULT[0], UNPAIRED)

EXAMPLES = examples(
    ("m2o-fast train", f"{full_name(*DEFAULT)} on real 8x8 digits, no download"),
    (f"m2o-fast train --variant {UNPAIRED} --data mnist", f"{_UNPAIRED} on MNIST (see m2o-fast data fetch)"),
    (f"m2o-fast train --set {EXAMPLE_SETTING} --dry-run > my.yaml", "what would run, and how long; keep it"),
    ("m2o-fast train --run runs/a --resume auto", "go on after a stop"),
    ("m2o-fast train --config runs/a/config.yaml", "the same run once more"),
    ("m2o-fast train --data folder:mine --uni map --init-from runs/a", "fine-tune a run on other images"),
)


def train(
    system: System = None,
    variant: Variant = None,
    data: Data = None,
    data_dir: DataDir = None,
    uni: Uni = None,
    preset: Preset = None,
    no_cache: NoCache = False,
    verify_data: VerifyData = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Training iterations.", rich_help_panel=HOW)] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Source images per iteration.", rich_help_panel=HOW)
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Work through each batch in N parts: less memory, the same gradients to rounding.",
            rich_help_panel=HOW,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="fp32, tf32 (NVIDIA GPUs) or bf16.", rich_help_panel=HOW),
    ] = None,
    cuda_graphs: Annotated[
        bool,
        typer.Option(
            "--cuda-graphs", help="Record steps as CUDA graphs: the same numbers, less overhead.", rich_help_panel=HOW
        ),
    ] = False,
    compile_nets: Annotated[
        bool,
        typer.Option("--compile", help="torch.compile the nets that allow it; takes minutes.", rich_help_panel=HOW),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of everything random.", rich_help_panel=HOW)
    ] = None,
    device: Device = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            "--run-dir",  # torchrun takes --run for one of its own options
            metavar="DIR",
            help="Folder of this run. [dim]\\[default: runs/<name>-<data>-<next free number>][/dim]",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="auto|never|PATH",
            help="auto: go on from the newest good checkpoint of --run, with its settings. PATH: from this checkpoint. "
            "[dim]\\[default: never][/dim]",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    validate_every: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Measure a fixed sample of the test images every N steps, and keep the best weights as "
            "checkpoints/best.",
            rich_help_panel=HOW,
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|CHECKPOINT|DIR",
            help="Begin with the weights of another run, a checkpoint, converted ones or a published model, as far as "
            "they fit; what does not is named.",
            rich_help_panel=HOW,
        ),
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard", help="Write metrics and samples for TensorBoard as well.", rich_help_panel=_WHERE
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.", rich_help_panel=_WHERE)
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print what would run, how long it would take, and the resolved settings, as YAML; write nothing. "
            "What training would refuse is refused.",
            rich_help_panel=_WHERE,
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --dry-run: print one JSON object.", rich_help_panel=_WHERE)
    ] = False,
) -> int:
    """Train a translator.

    Settings come from the defaults, the preset of the data set, --config,
    the options and --set; the later one wins. The folder of the run keeps
    them, checkpoints, sample images and metrics. Ctrl-C saves and stops.

    Several processes, each with a share of every batch:
    torchrun --nproc-per-node 2 -m m2o_fast.cli train --run-dir runs/a
    """
    from m2o_fast.engine.signals import Stopped, StopRequest
    from m2o_fast.errors import UserError

    if as_json and not dry_run:
        raise UserError("--json goes with --dry-run: training prints its progress")
    if resume == "auto" and run is None:
        raise UserError("--resume auto needs --run DIR: the folder of the run to go on with")
    if init_from is not None and resume not in (None, "auto", "never"):
        raise UserError("--resume PATH goes on with a checkpoint, --init-from begins anew with weights; leave one out")
    options = {
        "system": system,
        "variant": variant,
        "data.name": one_or_more(data),
        "data.dir": one_folder(data_dir),
        "data.uni": uni or None,
        "data.cache": False if no_cache else None,
        "data.verify": verify_data or None,
        "steps": steps,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "precision": precision,
        "cuda_graphs": cuda_graphs or None,
        "compile": compile_nets or None,
        "seed": seed,
        "init_from": init_from,
        "device": device,
        "validate_every": validate_every,
        "tensorboard": tensorboard or None,
    }
    if dry_run:
        from m2o_fast.engine.fitting import settings_to_train

        settings, recipe = settings_to_train(config, run, resume, assignments, options, preset)
        _print_dry_run(settings, recipe, run, resume or "never", as_json)
        return 0
    try:
        with StopRequest(starting=True) as stop:  # importing torch alone may take a while
            from m2o_fast.engine.fitting import settings_to_train

            settings, recipe = settings_to_train(config, run, resume, assignments, options, preset)
            from m2o_fast.engine.loop import train as run_training
            from m2o_fast.engine.runlog import show

            if recipe and not quiet and os.environ.get("RANK", "0") == "0":
                show(recipe)
            return run_training(settings, run, resume or "never", quiet, stop).exit_code
    except Stopped as stopped:
        if os.environ.get("RANK", "0") == "0":  # of several processes one is enough to say so
            typer.echo(f"m2o-fast: {stopped}", err=True)
        return stopped.exit_code


def _print_dry_run(settings: Config, recipe: str, run: Path | None, resume: str, as_json: bool) -> None:
    """One JSON object, or YAML in which everything but the settings is a comment: a file for --config.

    Raises:
        UserError: What training would end with; the settings are printed all the same.
    """
    from m2o_fast.engine.config import dump_config
    from m2o_fast.engine.pace import dry_run
    from m2o_fast.errors import UserError

    result = dry_run(settings, run, resume, report=lambda line: typer.echo(harmless(line), err=True))
    if result is None:
        return
    lines = [recipe] * bool(recipe) + result.pop("lines", [])
    if as_json:
        result |= {"recipe": recipe} if recipe else {}
        typer.echo(json.dumps(result))
    else:
        for line in lines:
            typer.echo(f"# {harmless(' '.join(line.splitlines()))}")  # a folder's name may have several lines
        typer.echo(dump_config(settings), nl=False)
    if "problem" in result:
        raise UserError(result["problem"])

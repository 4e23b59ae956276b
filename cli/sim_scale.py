"""``m2o-fast sim-scale``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from m2o_fast.cli.options import WHAT, Assignments, ConfigFile, Data, System, Variant, one_or_more, settings_from
from m2o_fast.cli.texts import examples

_NETWORK = "What connects the GPUs (assumptions; put in your own)"

EXAMPLES = examples(
    ("m2o-fast sim-scale --step-ms 210", "digits; the step as m2o-fast bench train measures it"),
    ("m2o-fast sim-scale --step-ms 210 --batch-size 8192 --gpus 8,64,512", "one large batch, shared"),
    ("m2o-fast sim-scale --step-ms 210 --inter-gb 10 --json", "a slower network, for scripts"),
)


def sim_scale(
    step_ms: Annotated[
        float,
        typer.Option(metavar="T", min=1e-6, help="Measured time of one GPU's step, in ms.", rich_help_panel=WHAT),
    ],
    images: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Images in that step. [dim]\\[default: batch_size of the settings][/dim]",
            rich_help_panel=WHAT,
        ),
    ] = None,
    fixed_ms: Annotated[
        float,
        typer.Option(
            metavar="T", min=0, help="Part of it that fewer images do not shorten, in ms.", rich_help_panel=WHAT
        ),
    ] = 0.0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Batch that all share in strong scaling. [dim]\\[default: --images, at least one per GPU][/dim]",
            rich_help_panel=WHAT,
        ),
    ] = None,
    system: System = None,
    variant: Variant = None,
    data: Data = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    gpus: Annotated[
        str, typer.Option(metavar="A,B,...", help="Numbers of GPUs.", rich_help_panel=_NETWORK)
    ] = "1,2,4,8,16,32,64,128,256,512,1024",
    gpus_per_node: Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=_NETWORK)] = 8,
    intra_gb: Annotated[
        float,
        typer.Option(
            metavar="B", min=1e-6, help="GB/s that a GPU sends within its node, one way.", rich_help_panel=_NETWORK
        ),
    ] = 300.0,
    inter_gb: Annotated[
        float,
        typer.Option(
            metavar="B", min=1e-6, help="GB/s that a GPU sends to another node, one way.", rich_help_panel=_NETWORK
        ),
    ] = 40.0,
    intra_us: Annotated[
        float, typer.Option(metavar="T", min=0, help="Microseconds per hop within a node.", rich_help_panel=_NETWORK)
    ] = 3.0,
    inter_us: Annotated[
        float, typer.Option(metavar="T", min=0, help="Microseconds per hop between nodes.", rich_help_panel=_NETWORK)
    ] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the tables.")] = False,
) -> None:
    """Model how training would scale over many GPUs, from one measured step.

    A formula, not a measurement: ring all-reduce of every phase's gradients,
    with the bandwidths and latencies given, and no overlap with computing.
    docs/scaling.md has the formula and what it leaves out.
    """
    from m2o_fast.engine.scaling import Network, Step, simulate

    given = {"system": system, "variant": variant, "data.name": one_or_more(data)}
    settings = settings_from(config, assignments, given)
    step = Step(step_ms / 1e3, images or settings.batch_size, fixed_ms / 1e3)
    network = Network(gpus_per_node, intra_gb * 1e9, inter_gb * 1e9, intra_us / 1e6, inter_us / 1e6)
    result = simulate(settings, step, network, batch_size, _numbers(gpus))
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print(result)


def _numbers(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise typer.BadParameter(f"expected numbers such as 1,8,64, got {text!r}", param_hint="--gpus")
    return sorted({int(word) for word in words})


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, emoji=False)
    messages = ", ".join(f"{name.replace('_', ' ')} {size:,}" for name, size in result["message_bytes"].items())
    console.print(f"bytes of a step's messages: {messages}", soft_wrap=True)
    titles = {
        "weak": f"weak scaling: every GPU takes {result['step']['images']} images",
        "strong": "strong scaling: all share one batch",
    }
    for name, title in titles.items():
        table = Table(title=title, title_justify="left", title_style="bold")
        for column in ("GPUs", "batch", "images each", "computing", "messages", "img/s", "efficiency"):
            table.add_column(column, justify="right")
        for point in result[name]:
            table.add_row(
                str(point["gpus"]),
                str(point["batch_size"]),
                str(point["images"]),
                f"{1e3 * point['compute_seconds']:.3f} ms",
                f"{1e3 * point['message_seconds']:.3f} ms",
                f"{point['images_per_second']:,.0f}",
                f"{point['efficiency']:.1%}",
            )
        console.print(table)
    console.print("[dim]A model, not a measurement; its formula and assumptions: docs/scaling.md[/dim]")

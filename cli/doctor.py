"""``m2o-fast doctor``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from m2o_fast.cli.texts import examples

EXAMPLES = examples(
    ("m2o-fast doctor", "is everything in order here?"),
    ("m2o-fast doctor --json > doctor.json", "to attach to a bug report"),
)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Examine this installation and say what is wrong with it.

    Versions, devices, the native library, which kernel serves each operation
    and why, a short self-test of the kernels, disk and shared memory. The
    exit code is 1 if there is a problem.
    """
    from m2o_fast.engine.doctor import examine

    findings = examine()
    if as_json:
        typer.echo(json.dumps(findings))
    else:
        _print(findings)
    return 1 if findings["problems"] else 0


def _print(findings: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for title, rows in _sections(findings):
        for index, (name, text) in enumerate(rows):
            table.add_row(f"[bold]{title}[/bold]" if index == 0 else "", escape(name), escape(text))
    console = Console(highlight=False, emoji=False)
    console.print(table)
    for text in findings["warnings"]:
        console.print(f"[yellow]warning[/yellow]: {escape(text)}")
    for text in findings["problems"]:
        console.print(f"[red]problem[/red]: {escape(text)}")
    if not findings["problems"]:
        console.print("[green]No problems found.[/green]")


def _sections(findings: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    native = findings["native"]
    facts = native["build_info"] or {"none": native["missing"].get("cpu", "")}
    return [
        ("versions", [(name, version or "-") for name, version in findings["versions"].items()]),
        ("devices", [(device["name"], _joined(device)) for device in findings["devices"]]),
        ("native library", [(name.replace("_", " "), _listed(value)) for name, value in facts.items()]),
        (
            "operators",
            [
                (f"{operator} ({device})", f"{serves['chosen']}: {serves['why']}")
                for operator, devices in findings["operators"].items()
                for device, serves in devices.items()
            ],
        ),
        (
            "self-test",
            [
                (f"{test['operator']} ({test['device']})", f"{test['backend']}: {test['fault'] or 'right'}")
                for test in findings["self_test"]
            ],
        ),
        ("storage", [(place["name"], _joined(place)) for place in findings["storage"]]),
    ]


def _joined(facts: dict[str, Any]) -> str:
    parts = []
    for key, value in facts.items():
        if key != "name":
            shown = ("yes" if value else "no") if isinstance(value, bool) else value
            parts.append(f"{key.replace('_gib', ' GiB').replace('_', ' ')} {shown}")
    return ", ".join(parts)


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value) or "-"

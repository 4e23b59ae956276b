"""How ``m2o-fast eval`` shows what it measured: one table for each kind of measure, at most 100 columns wide."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from m2o_fast.texts import harmless

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 100  # where there is no terminal
_MEAN = "mean"
_SHA256 = 64  # digits

#: The tables, each with its measures and how their columns are called.
_TABLES: dict[str, dict[str, str]] = {
    "against the true images": {
        "mse": "mse",
        "psnr": "psnr",
        "ssim": "ssim",
        "pixel_accuracy": "pixel accuracy",
        "miou": "miou",
        "miou_present": "miou present",
        "style_independent": "style independent",
    },
    "against the looks of each content": {
        "mse_nearest": "mse nearest",
        "mse_looks_covered": "mse covered",
        "lpips_nearest": "lpips nearest",
        "lpips_looks_covered": "lpips covered",
    },
    "variety of looks, and of true ones, as a share of that of real images": {
        "pixel_variety": "by pixels",
        "pixel_variety_of_looks": "true by pixels",
        "structure_variety": "by structure",
        "structure_variety_of_looks": "true by structure",
    },
    "colours, references, content": {
        "pixel_color_recall": "colours covered",
        "pixel_color_recall_ceiling": "ceiling",
        "references_followed": "references",
        "content_kept": "content kept",
        "cycle_mse": "cycle mse",
    },
    "against real images": {
        "fid_clean": "fid clean",
        "fid_stargan2": "fid stargan2",
        "kid_mean": "kid mean",
        "kid_std": "kid std",
        "precision": "precision",
        "recall": "recall",
        "lpips_diversity": "lpips",
    },
    "colors": {
        "color_recall": "color recall",
        "color_recall_ceiling": "ceiling",
        "coverage": "coverage",
        "unique_colors": "unique colors",
        "content_mse": "content mse",
    },
}


def print_evaluation(result: Mapping[str, Any]) -> None:
    """Prints what ``evaluate_run`` or ``evaluate_images`` returned."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, emoji=False, width=_WIDTH)
    of_run = "run" in result
    title = f"{result['run']}, step {result['step']}" if of_run else result["images"]
    console.print(harmless(title), style="bold", markup=False)
    for title, columns in _TABLES.items():
        rows = list(_rows(result, columns) if of_run else _measured("", "", result["measures"], columns))
        if rows:
            _print_table(console, title, columns, rows)
    for warning in result["warnings"]:
        console.print(f"note: {harmless(warning)}", markup=False, soft_wrap=True)
    facts = {**result["protocol"], **result.get("cost", {})}
    said = ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in facts.items())
    console.print(harmless(said), style="dim", markup=False)


Row = tuple[str, str, Mapping[str, Any]]


def _rows(result: Mapping[str, Any], columns: Mapping[str, str]) -> Iterator[Row]:
    """Direction, guidance and measures; where there are several directions, their mean below."""
    directions: Counter[str] = Counter()
    for direction, guidances in result["directions"].items():
        for guidance, values in guidances.items():
            for row in _measured(direction, guidance, values, columns):
                directions[guidance] += 1
                yield row
    for guidance, values in result["means"].items():
        if directions[guidance] > 1:
            yield _MEAN, guidance, values


def _measured(direction: str, guidance: str, values: Mapping[str, Any], columns: Mapping[str, str]) -> Iterator[Row]:
    if any(name in values for name in columns if name != "style_independent"):
        yield direction, guidance, values


def _print_table(console: Console, title: str, columns: Mapping[str, str], rows: list[Row]) -> None:
    from rich.table import Table

    used = [name for name in columns if any(name in values for *_, values in rows)]
    table = Table(title=title, title_justify="left", title_style="")
    named = any(direction for direction, *_ in rows)
    if named:
        table.add_column("direction", overflow="fold")
        table.add_column("guidance", no_wrap=True)
    for name in used:
        table.add_column(columns[name], justify="right", no_wrap=True)
    for number, (direction, guidance, values) in enumerate(rows):
        first = number == 0 or rows[number - 1][0] != direction
        last = number + 1 == len(rows) or rows[number + 1][0] != direction
        words = [direction.replace("->", " -> ") if first else "", guidance] if named else []
        table.add_row(*words, *(shown(values[name]) if name in values else "" for name in used), end_section=last)
    console.print(table)


def shown(value: object) -> str:
    """A value for the eye: four digits, yes or no, the beginning of a SHA-256."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == _SHA256 else str(value)

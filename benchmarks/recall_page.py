"""docs/color-recall.md and its plots, from benchmarks/results/color-recall.json, which recall_study.py makes."""

from __future__ import annotations

from typing import Any

from publish import ROOT

PAGE = ROOT / "docs" / "color-recall.md"


def page(record: dict[str, Any]) -> list[str]:
    """Its lines."""
    lines = ["# Is Color Recall right?\n", "| generator | limit |", "|---|---|"]
    return [*lines, *(f"| {name} | {'' if limit is None else limit} |" for name, limit in record["limits"].items())]


def write_page(record: dict[str, Any]) -> None:
    """The page."""
    PAGE.write_text("\n".join(page(record)) + "\n")

"""A section of docs/results.md, from what benchmarks/features_study.py has measured."""

from __future__ import annotations

import json
import statistics
from typing import Any

from results_page import RESULTS, cell, makers, seeds_of

RECORD = RESULTS / "features.json"
#: weights that a classifier begins with, and what is trained -> its name
WAYS = {
    "trained, last layer": "trained encoder, linear classifier",
    "fresh, last layer": "random encoder, linear classifier",
    "trained, all": "trained encoder, all layers",
    "fresh, all": "fresh weights, all layers",
}


def sections() -> list[str]:
    """The section, if there is a record."""
    return section(json.loads(RECORD.read_text())) if RECORD.exists() else []


def section(record: dict[str, Any]) -> list[str]:
    """Heading, table, and what it shows."""
    runs, encoder, classifier = record["runs"], record["settings"]["encoder"], record["settings"]["classifier"]
    cases = list(dict.fromkeys(run["labels"] for run in runs))
    hours = sum(run["processor_seconds"] for run in runs) / 3600
    lines = [
        f"\n## Does the training help other tasks? seeds {', '.join(map(str, seeds_of(runs)))}\n",
        f"Made by `python benchmarks/features_study.py --steps {encoder['steps']}` from "
        f"`benchmarks/results/{RECORD.name}`: {makers(runs)}. Accuracy of classifiers of gray digits, all test digits: "
        f"the content encoder of HMU, trained for {encoder['steps']:,} steps without a label and without a pair, "
        "averaged weights; its features as means over 4x4 parts of the image; one linear layer. Each is trained for "
        f"{classifier['steps']} steps of Adam with the same images ({hours:.2f} core-hours in all, training of the "
        f"encoders aside). Unbalanced: {', '.join(map(str, classifier['unbalanced']))} labels of the digits 0 to 9.\n",
        f"| classifier | {' | '.join(cases)} |",
        f"|---|{'---|' * len(cases)}",
    ]
    for way, title in WAYS.items():
        cells = [cell([run["accuracy"] for run in of(runs, way, labels)], "{:.3f}") for labels in cases]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return [*lines, *comparison(runs, cases)]


def of(runs: list[dict[str, Any]], way: str, labels: str) -> list[dict[str, Any]]:
    """The runs of a cell, by seed."""
    return sorted((run for run in runs if (run["way"], run["labels"]) == (way, labels)), key=lambda run: run["seed"])


def comparison(runs: list[dict[str, Any]], cases: list[str]) -> list[str]:
    """What trained weights bring over fresh ones with equal labels, seed by seed, losses as well as gains."""
    sentences = []
    for what, name in (("last layer", "a linear classifier"), ("all", "training all layers")):
        told = []
        for labels in cases:
            pairs = zip(of(runs, f"trained, {what}", labels), of(runs, f"fresh, {what}", labels), strict=True)
            gains = [trained["accuracy"] - fresh["accuracy"] for trained, fresh in pairs]
            error = f" ± {statistics.stdev(gains) / len(gains) ** 0.5:.3f}" if len(gains) > 1 else ""
            told.append(f"{statistics.mean(gains):+.3f}{error} ({labels})")
        sentences.append(f"With {name}, trained weights bring {', '.join(told)} over fresh ones.")
    return [f"\n{' '.join(sentences)} Mean and standard error of the differences of equal seeds."]

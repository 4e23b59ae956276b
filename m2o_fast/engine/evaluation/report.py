"""What becomes of the numbers: means, warnings, one JSON object, a file in the run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2o_fast.engine.evaluation.measures import Value
from m2o_fast.files import read_whole, replacing

FORMAT = 1
FOLDER = "evaluation"

Measures = Mapping[str, Value]


def means(directions: Mapping[str, Mapping[str, Measures]]) -> dict[str, dict[str, float]]:
    """Guidance -> measure -> its unweighted mean over the directions that have it; truth values have none."""
    found: dict[str, dict[str, list[float]]] = {}
    for guidances in directions.values():
        for guidance, measures in guidances.items():
            for name, value in measures.items():
                if not isinstance(value, bool):
                    found.setdefault(guidance, {}).setdefault(name, []).append(value)
    return {
        guidance: {name: math.fsum(values) / len(values) for name, values in measures.items()}
        for guidance, measures in found.items()
    }


def finite(measures: Measures, where: str, warnings: list[str]) -> dict[str, Value]:
    """The measures that are numbers: JSON has no infinity. What is left out is named in ``warnings``."""
    kept = {}
    for name, value in measures.items():
        if math.isfinite(value):
            kept[name] = value
        else:
            warnings.append(f"{where}: {name} is {value} and left out")
    return kept


def evaluation_file(run: Path, step: int) -> Path:
    """Where the evaluation of a checkpoint of a run lies."""
    return run / FOLDER / f"step-{step:08d}.json"


def is_whole(report: Mapping[str, Any]) -> bool:
    """Whether a report is of all sources, not of a part."""
    return report["protocol"]["sources"] == report["protocol"]["sources_available"]


def holds_whole(path: Path) -> bool:
    """Whether a file holds a report of all sources."""
    try:
        return is_whole(json.loads(read_whole(path)))
    except (OSError, ValueError, LookupError, TypeError):
        return False


def write_evaluation(report: Mapping[str, Any], path: Path) -> None:
    """Writes a report; whoever opens the file sees the earlier one of the same step, or all of this one.

    Raises:
        OSError: The disk is full or not writable.
    """
    with replacing(path) as file:
        file.write((json.dumps(report, allow_nan=False) + "\n").encode())

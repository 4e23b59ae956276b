"""A full factorial of the many-to-one rules: its cells, and what each rule and their combinations do.

The model is that of plain least squares with every factor coded as -1 (off) and +1 (on), all interactions included,
and the seeds as replicates. It is saturated, so its fitted values are the means of the cells.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.stats import t as student

#: name of a rule -> its letter; HMS follows all of them, StarGAN v2 none
FACTORS = {
    "domain layers": "L",
    "zero style": "Z",
    "diversity on multi-modal targets": "D",
    "supervised": "S",
}
LETTERS = "".join(FACTORS.values())
NONE = "none"
CONFIDENCE = 0.95

Cell = tuple[bool, ...]  # whether each rule is on
CELLS: tuple[Cell, ...] = tuple(itertools.product((False, True), repeat=len(FACTORS)))


class Effect(NamedTuple):
    """What a rule does, or an interaction of several.

    Attributes:
        letters: Of the rules.
        value: For one rule the mean over all cells with it minus the mean over those without. For two, half of what
            the second one changes in the effect of the first; and so on.
        error: Its standard error.
        half_width: Of its confidence interval.
    """

    letters: str
    value: float
    error: float
    half_width: float


def row_of(cell: Cell) -> str:
    """The letters of the rules that are on.

    A domain without style has no two images that diversity could compare, so whether it is asked of them makes no
    difference: both cells are one row, whose runs are counted once.
    """
    on = dict(zip(LETTERS, cell, strict=True))
    on["D"] = on["D"] or on["Z"]
    return "".join(letter for letter in LETTERS if on[letter]) or NONE


def effects(measured: Mapping[str, Sequence[float]]) -> list[Effect]:
    """All of them, by the number of rules.

    Args:
        measured: Row -> the values of its seeds, two or more in at least one row.
    """
    freedom = sum(len(values) - 1 for values in measured.values())
    within = sum((value - statistics.mean(values)) ** 2 for values in measured.values() for value in values) / freedom
    quantile = float(student.ppf((1 + CONFIDENCE) / 2, freedom))
    found = []
    for count in range(1, len(LETTERS) + 1):
        for chosen in itertools.combinations(range(len(LETTERS)), count):
            weights = dict.fromkeys(measured, 0.0)
            for cell in CELLS:
                sign = math.prod(1 if cell[factor] else -1 for factor in chosen)
                weights[row_of(cell)] += sign / (len(CELLS) / 2)
            value = sum(weight * statistics.mean(measured[row]) for row, weight in weights.items())
            error = math.sqrt(within * sum(weight**2 / len(measured[row]) for row, weight in weights.items()))
            found.append(Effect("".join(LETTERS[factor] for factor in chosen), value, error, quantile * error))
    return found

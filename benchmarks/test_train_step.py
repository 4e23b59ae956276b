"""One training iteration of StarGAN v2: plain torch in the published order, ours, and our convolutions alone.

What each is: benchmarks/train_step.py. That the numbers agree is tested step by step in tests/translators, in float64;
here it is asserted, before anything is timed, that the first phase's loss of two iterations does: the second one has
been through every optimizer.
"""

from __future__ import annotations

from functools import cache

import pytest
from train_step import CASES, ITERATIONS, PUBLISHED, Case, peak_bytes

#: iteration -> what tables call it, if not by its own name
NAMES = {"plain-fp32": "eager", "fast-fp32": "compiled", "convolutions-fp32": "bound"}
TOLERANCES = {"fp32": 2e-4, "tf32": 5e-2, "bf16": 5e-2}


@cache
def expected_losses(case: Case) -> list[float]:
    """Those of the oracle's first two iterations."""
    oracle = ITERATIONS["plain-fp32"](case)
    return [float(oracle()) for _ in range(2)]


@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(case, marks=pytest.mark.full) for case in PUBLISHED)], ids=lambda case: case.name
)
@pytest.mark.parametrize("implementation", ITERATIONS)
def test_train_step(benchmark, measure, quick: bool, case: Case, implementation: str) -> None:
    name, _, precision = implementation.partition("-")
    benchmark.group = f"train_step {case}, iteration"
    iteration = ITERATIONS[implementation](case)
    if name != "convolutions":
        for expected in expected_losses(case):
            assert float(iteration()) == pytest.approx(expected, rel=TOLERANCES[precision])
        if not quick and case in CASES:
            benchmark.extra_info["peak_bytes"] = peak_bytes(implementation)
    measure(lambda turn: iteration(), NAMES.get(implementation, implementation))

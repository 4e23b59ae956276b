"""One training iteration of StarGAN v2: plain torch in the published order, ours, and our convolutions alone.

What each is: benchmarks/train_step.py. That the numbers agree is tested step by step in tests/translators, in float64;
here it is asserted, before anything is timed, that the first phase's loss of two iterations does: the second one has
been through every optimizer.
"""

from __future__ import annotations

import pytest
from train_step import CASES, ITERATIONS, Case, peak_bytes, plain_iteration

#: iteration -> what tables call it
IMPLEMENTATIONS = {"plain": "eager", "fast": "compiled", "convolutions": "bound", "bf16": "bf16"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_train_step(benchmark, measure, case: Case, name: str) -> None:
    benchmark.group = f"train_step {case}, iteration"
    iteration = ITERATIONS[name](case)
    if name != "convolutions":
        oracle = plain_iteration(case)
        for _ in range(2):
            assert float(iteration()) == pytest.approx(oracle(), rel=5e-2 if name == "bf16" else 2e-4)
        benchmark.extra_info["peak_bytes"] = peak_bytes(name)
    measure(lambda turn: iteration(), IMPLEMENTATIONS[name])

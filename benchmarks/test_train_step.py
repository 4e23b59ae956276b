"""One training iteration of StarGAN v2: plain torch in the published order, ours, and our convolutions alone.

What each is: benchmarks/train_step.py. That the numbers agree is tested step by step in tests/translators, in float64;
here it is asserted, before anything is timed, that the first phase's loss of two iterations does: the second one has
been through every optimizer.
"""

from __future__ import annotations

import pytest
from train_step import BF16, CASES, ITERATIONS, Case, peak_bytes, plain_iteration

IMPLEMENTATIONS = {"plain-fp32": "eager", "fast-fp32": "compiled", "convolutions-fp32": "bound", "fast-bf16": "bf16"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize(
    "implementation",
    # processors without bfloat16 multiplication emulate it, very slowly
    [pytest.param(name, marks=pytest.mark.full if name == "fast-bf16" else ()) for name in IMPLEMENTATIONS],
)
def test_train_step(benchmark, measure, case: Case, implementation: str) -> None:
    name, _, precision = implementation.partition("-")
    benchmark.group = f"train_step {case}, iteration"
    iteration = (BF16 if precision == "bf16" else ITERATIONS[name])(case)
    if name != "convolutions":
        oracle = plain_iteration(case)
        for _ in range(2):
            assert float(iteration()) == pytest.approx(oracle(), rel=2e-4 if precision == "fp32" else 5e-2)
    if precision == "fp32" and name != "convolutions":
        benchmark.extra_info["peak_bytes"] = peak_bytes(name)
    measure(lambda turn: iteration(), IMPLEMENTATIONS[implementation])

"""One training iteration of each system but StarGAN v2: plain twins, the twins by torch.compile, and ours.

What each is: benchmarks/systems_step.py. That the numbers agree is tested step by step in tests/translators, in
float64; here it is asserted that the adversarial loss of two iterations does.
"""

from __future__ import annotations

from functools import cache

import pytest
from systems_step import IMAGES, IMPLEMENTATIONS, SIDE, SYSTEMS, iteration, peak_bytes
from train_step import DEVICE

pytestmark = pytest.mark.full  # an iteration takes seconds
NAMES = {"plain": "eager", "compile": "compile", "fast": "compiled"}


@cache
def expected_losses(name: str) -> list[float]:
    """Those of the twin's first two iterations."""
    oracle = iteration("plain", name)
    return [float(oracle()) for _ in range(2)]


@pytest.mark.skipif(DEVICE.type != "cpu", reason="measured on a CPU")
@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_systems_step(benchmark, measure, quick: bool, name: str, implementation: str) -> None:
    benchmark.group = f"train_step {name}, {SIDE} px, {IMAGES} images per domain, iteration"
    run = iteration(implementation, name)
    for expected in expected_losses(name):
        assert float(run()) == pytest.approx(expected, rel=5e-3)
    if not quick and implementation != "compile":
        benchmark.extra_info["peak_bytes"] = peak_bytes(implementation, name)
    measure(lambda turn: run(), NAMES[implementation])

"""One training iteration of StarGAN v2, all four phases and the average, against the published order in plain torch.

The plain one is the oracle of tests/translators: eight encoder passes, nothing shared between the phases, no fused
operation. Both have the same sizes and see the same images; that their numbers agree is tested there, step by step, in
float64. Here it is asserted that the losses of the first phase do.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import DEVICE
from torch import Tensor

from m2o_fast.batch import Batch
from m2o_fast.engine.schema import OptimConfig
from m2o_fast.engine.step import Stepper
from m2o_fast.translators.official import from_official

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "translators"))
import plain_networks as networks  # noqa: E402  (lie beside the tests)
import plain_starganv2 as plain  # noqa: E402


class Case(NamedTuple):
    name: str
    size: int
    base_width: int
    max_width: int
    batch: int


CASES = [Case("cpu32", 32, 32, 128, 32)] if DEVICE.type == "cpu" else [Case("gpu256", 256, 64, 512, 8)]


class Samples(NamedTuple):
    """Two domains, the first half of the batch from one, the second from the other, each to the other."""

    images: Tensor
    references: Tensor
    references2: Tensor
    latents: Tensor
    latents2: Tensor


def make_samples(case: Case) -> Samples:
    generator = torch.Generator(DEVICE).manual_seed(0)

    def uniform() -> Tensor:
        return torch.rand((case.batch, 3, case.size, case.size), generator=generator, device=DEVICE) * 2 - 1

    def latent() -> Tensor:
        return torch.randn((case.batch, 16), generator=generator, device=DEVICE)

    return Samples(uniform(), uniform(), uniform(), latent(), latent())


def plain_nets(case: Case) -> networks.Nets:
    torch.manual_seed(0)
    widths = {"max_width": case.max_width, "base_width": case.base_width}
    nets = networks.Nets(
        networks.Generator(case.size, **widths),
        networks.MappingNetwork(),
        networks.StyleEncoder(case.size, **widths),
        networks.Discriminator(case.size, **widths),
    )
    for net in vars(nets).values():
        net.to(DEVICE)
    return nets


def plain_iteration(case: Case, samples: Samples) -> Callable[[], float]:
    trainer = plain.PlainTrainer(plain_nets(case))
    source = torch.arange(case.batch, device=DEVICE) * 2 // case.batch
    labels = (source, 1 - source)

    def run() -> float:
        logs = trainer.iteration(
            samples.images, *labels, samples.latents, samples.latents2, samples.references, samples.references2
        )
        return logs["d_latent"]["real"]

    return run


def fast_iteration(case: Case, samples: Samples) -> Callable[[], Tensor]:
    nets = plain_nets(case)
    keys = {"generator": nets.generator, "mapping_network": nets.mapping, "style_encoder": nets.style_encoder}
    translator = from_official(
        {name: net.state_dict() for name, net in (keys | {"discriminator": nets.discriminator}).items()}
    )
    translator.to(DEVICE).requires_grad_(True)
    averaged = copy.deepcopy(translator).requires_grad_(False)
    stepper = Stepper(translator, averaged, OptimConfig(lr=1e-4, mapping_lr=1e-6))
    half = case.batch // 2
    # target order: the second half of the batch goes to domain 0
    swapped = torch.cat([torch.arange(half, case.batch), torch.arange(half)]).to(DEVICE)

    def by_target(rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(rows[swapped].split(half))

    batch = Batch(
        source=tuple(samples.images.split(half)),
        to_target=swapped,
        target_counts=(half, half),
        reference=by_target(samples.references),
        reference2=by_target(samples.references2),
        noise={"latent": samples.latents[swapped], "latent2": samples.latents2[swapped]},
    )
    count = iter(range(10**9))
    return lambda: stepper([batch], next(count)).losses["discriminator_latent/real"]


ITERATIONS = {"plain": plain_iteration, "fast": fast_iteration}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("implementation", [f"{name}-fp32" for name in ITERATIONS])
def test_train_step(benchmark, measure, case: Case, implementation: str) -> None:
    samples = make_samples(case)
    benchmark.group = f"train_step {case.name}, {case.size} px, batch {case.batch}, iteration"
    run = ITERATIONS[implementation.partition("-")[0]](case, samples)
    assert float(run()) == pytest.approx(plain_iteration(case, samples)(), rel=1e-4)
    measure(lambda turn: run(), {"plain": "eager", "fast": "compiled"}[implementation.partition("-")[0]])

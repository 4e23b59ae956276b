"""What the tests of SimGAN share: small nets in both implementations, random batches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import plain_simgan as plain
import torch
from torch import nn

from m2o_fast.batch import Batch
from m2o_fast.engine.step import Stepper
from m2o_fast.m2o import Domain
from m2o_fast.translators import create
from m2o_fast.translators.settings import Optimizer
from m2o_fast.translators.simgan import SYSTEM
from m2o_fast.translators.simgan.settings import SimGANSettings
from m2o_fast.translators.simgan.translator import SimGAN

WIDTH, BLOCKS, STYLE_DIM, SIDE, POOL = 4, 2, 3, 12, 5
PACE = {"pretrain_refiner": 2, "pretrain_discriminator": 1, "refiner_steps": 2, "discriminator_steps": 1}
SMALL = {"width": WIDTH, "blocks": BLOCKS, "discriminator_width": 2, "style_dim": STYLE_DIM, "pool": POOL}
PSI = {
    "identity": lambda x: x,
    "mean": lambda x: x.sum(1, keepdim=True) / x.shape[1],
    "max": lambda x: x.max(1, keepdim=True).values,
}


def settings_of(model: dict[str, Any] | None = None, **more: dict[str, Any]) -> SimGANSettings:
    """Those of small nets."""
    optim = {**PACE, **more.pop("optim", {})}
    return SimGANSettings.model_validate({"model": {**SMALL, **(model or {})}, "optim": optim, **more})


def translator_of(settings: SimGANSettings, variant: str = "plain", a: int = 1, b: int = 3) -> SimGAN:
    """A uni-modal domain A and a multi-modal one B; weights that matter, biases too."""
    rules = SYSTEM.variants[variant]
    if rules.supervised_weight:
        rules = type(rules)(supervised_weight=settings.loss.supervised)
    domains = [Domain("A", a, multimodal=False), Domain("B", b)]
    translator = create({"system": "simgan", **settings.description(domains, rules, SIDE)})
    assert isinstance(translator, SimGAN)
    for parameter in translator.parameters():
        nn.init.normal_(parameter, std=0.3)
    return translator


def plain_trainer(translator: SimGAN, settings: SimGANSettings) -> plain.Trainer:
    """The plain implementation with the same weights."""
    size, weights = translator.size, translator.weights
    kernel = {"gaze": 3, "hand": 7}[size.form]
    discriminator = {"gaze": plain.gaze_discriminator, "hand": plain.hand_discriminator}[size.form]
    ways = []
    for a, b in translator.directions():
        inputs, outputs = (translator.domains[k].channels for k in (a, b))
        refiner = plain.Refiner(inputs + STYLE_DIM * (b in translator.styled), outputs, size.width, kernel, size.blocks)
        judge = discriminator(outputs, size.discriminator_width)
        copy(translator.refiners[str(b)], refiner)
        copy(translator.discriminators[str(b)], judge)
        supervised = translator.rules.supervises(translator.domains[b])
        history = plain.History(size.pool)
        ways.append(plain.Direction(refiner, judge, history, PSI[weights.content], supervised))
    return plain.Trainer(
        ways,
        plain.Settings(
            torchs(settings.optim.optimizer("any")),
            weights.regularisation,
            weights.reduction == "sum",
            settings.loss.supervised,
            weights.diversity,
            weights.diversity_steps,
        ),
    )


def torchs(of: Optimizer) -> Any:
    if of.kind == "adam":
        return partial(torch.optim.Adam, lr=of.lr, betas=of.betas)
    return partial(torch.optim.SGD, lr=of.lr, momentum=of.momentum)


def copy(of: nn.Module, to: nn.Module) -> None:
    for mine, theirs in zip(of.parameters(), to.parameters(), strict=True):
        theirs.data.copy_(mine)


def random_batch(translator: SimGAN, count: int | tuple[int, int], seed: int = 0, without: int | None = None) -> Batch:
    """``count`` images for each target, in another order than as sources; what else the translator asks for.

    Pairs are known of every third image. ``without``: a target that there are none for.
    """
    generator = torch.Generator().manual_seed(seed)
    ways, domains = dict((b, a) for a, b in translator.directions()), translator.domains
    each = (count, count) if isinstance(count, int) else count
    counts = [each[k] if k in ways and k != without else 0 for k in range(2)]

    def images(k: int, rows: int) -> torch.Tensor:
        return torch.rand((rows, domains[k].channels, SIDE, SIDE), generator=generator).double() * 2 - 1

    source = [images(k, counts[1 - k]) for k in range(2)]
    total = sum(counts)
    noise = translator.noise(total, generator)
    paired = translator.paired_directions()
    orders = [torch.randperm(rows, generator=generator) for rows in counts]
    return Batch(
        source=tuple(source),
        to_target=torch.cat([counts[1] + orders[0], orders[1]]),
        target_counts=tuple(counts),
        reference=tuple(images(k, counts[k]) for k in range(2)),
        reference2=(),
        paired=tuple(images(k, counts[k]) for k in range(2)) if paired else (),
        has_pair=torch.arange(total) % 3 == 0 if paired else None,
        noise={name: numbers.double() for name, numbers in noise.items()},
    )


def shares_of(translator: SimGAN, batch: Batch) -> list[plain.Share]:
    """The same batch for the plain implementation."""
    found = []
    for a, b in translator.directions():
        rows = slice(0, batch.target_counts[0]) if b == 0 else slice(batch.target_counts[0], None)
        styled, first = b in translator.styled, len(batch.source[0]) if a else 0
        found.append(
            plain.Share(
                batch.source[a][batch.to_target[rows] - first],
                batch.reference[b],
                batch.noise["pool"][rows],
                batch.noise["latent"][rows] if styled else None,
                batch.noise["latent2"][rows] if styled else None,
                batch.paired[b] if batch.paired else None,
                None if batch.has_pair is None else batch.has_pair[rows],
            )
        )
    return found


def plain_iteration(trainer: plain.Trainer, shares: Sequence[list[plain.Share]], index: int) -> dict[str, float]:
    """The published order: the refiner alone, the discriminator alone, then several steps of one and one of the other.

    Losses are named as the engine does, those of several steps by their mean.
    """
    if index < PACE["pretrain_refiner"]:
        return named("pretraining", [trainer.refine(shares[0], index, adversarial=False)])
    if index < PACE["pretrain_refiner"] + PACE["pretrain_discriminator"]:
        return named("discriminators", [trainer.judge(shares[0])])
    refined, judged = shares[: PACE["refiner_steps"]], shares[PACE["refiner_steps"] :]
    logs = named("refiners", [trainer.refine(share, index) for share in refined])
    return logs | named("discriminators", [trainer.judge(share) for share in judged])


def named(phase: str, steps: list[dict[str, float]]) -> dict[str, float]:
    return {f"{phase}/{name}": sum(step[name] for step in steps) / len(steps) for name in steps[0]}


def stepper_of(translator: SimGAN, settings: SimGANSettings) -> Stepper:
    return Stepper(translator.requires_grad_(True).train(), translator, settings.optim)

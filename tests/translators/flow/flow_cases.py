"""What the tests of the flow share: small nets in both implementations, random batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import plain_flow as plain
import torch
from torch import Tensor, nn

from m2o_fast.batch import Batch
from m2o_fast.m2o import Domain
from m2o_fast.translators import create
from m2o_fast.translators.flow import SYSTEM
from m2o_fast.translators.flow.settings import FlowSettings
from m2o_fast.translators.flow.translator import Flow

SIDE = 16
SMALL = {"width": 4, "multipliers": [1, 2], "blocks": 1, "attention": 8}
COLOR, GRAY, MAP = Domain("color", 3), Domain("gray", 1, multimodal=False), Domain("map", 2, multimodal=False)


def settings_of(model: dict[str, Any] | None = None, **more: dict[str, Any]) -> FlowSettings:
    """Those of small nets."""
    return FlowSettings.model_validate({"model": {**SMALL, **(model or {})}, **more})


def translator_of(settings: FlowSettings, variant: str = "hms", *domains: Domain) -> Flow:
    """By default of a multi-modal domain and a uni-modal one; weights that matter, biases too."""
    rules = SYSTEM.variants[variant]
    if rules.supervised_weight:
        rules = replace(rules, supervised_weight=settings.loss.supervised)
    translator = create({"system": "flow", **settings.description(domains or (COLOR, GRAY), rules, SIDE)})
    assert isinstance(translator, Flow)
    for name, parameter in translator.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.2)
    return translator


def plain_net(translator: Flow) -> plain.UNet:
    """The plain implementation with the same weights."""
    size = translator.size
    sides = [size.image_size // 2**level for level in range(len(size.multipliers))]
    net = plain.UNet(
        [domain.channels for domain in translator.domains],
        translator.styled,
        size.width,
        size.multipliers,
        size.blocks,
        [side <= size.attention for side in sides],
        size.groups,
    )
    for mine, theirs in zip(translator.velocity.parameters(), net.parameters(), strict=True):
        theirs.data.copy_(mine.data.view_as(theirs))
    return net


def random_batch(translator: Flow, count: int, seed: int = 0) -> tuple[Batch, list[plain.Pairs]]:
    """``count`` samples of each direction, in both forms; of every third sample the pair is not known."""
    generator = torch.Generator().manual_seed(seed)
    ways, domains = translator.directions(), translator.domains
    by_source = [way for k in range(len(domains)) for way in ways if way[0] == k]
    by_target = [way for k in range(len(domains)) for way in ways if way[1] == k]

    def images(k: int) -> Tensor:
        return torch.rand((count, domains[k].channels, SIDE, SIDE), generator=generator) * 2 - 1

    x, y = {way: images(way[0]) for way in ways}, {way: images(way[1]) for way in ways}
    size = count * len(ways)
    noise = translator.noise(size, generator)
    noise = {name: numbers.double() for name, numbers in noise.items()}
    known = torch.arange(size) % 3 > 0
    shift = translator.size.shift
    times = noise["time"] / (shift - (shift - 1) * noise["time"])
    rows = torch.arange(size).split(count)
    batch = Batch(
        source=tuple(torch.cat([x[way] for way in by_source if way[0] == k]) for k in range(len(domains))),
        to_target=torch.cat([rows[by_source.index(way)] for way in by_target]),
        target_counts=tuple(count * sum(way[1] == k for way in ways) for k in range(len(domains))),
        reference=(),
        reference2=(),
        paired=tuple(torch.cat([y[way] for way in by_target if way[1] == k]) for k in range(len(domains))),
        has_pair=known,
        noise=noise,
    )
    pairs = [
        plain.Pairs(*way, x[way], y[way], known[chosen], times[chosen], noise["base"][chosen, : y[way].shape[1]])
        for way, chosen in zip(by_target, rows, strict=True)
    ]
    return batch, pairs

"""A system that uses what the published ones do not, or not yet: all of the contract in two hundred lines.

Two domains, a net for each way, no style; batch norm, dropout, history pools, a schedule that ends with the run,
another optimizer for each group, pairs in both directions, and an average only where it is asked for. By its settings
also: phases with batches of their own, batches that take turns, styles that are images of noise, one net for both ways
between adapters, rates that are halved or constant, SGD with momentum.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from m2o_fast import translators
from m2o_fast.batch import Batch
from m2o_fast.engine import config as config_module
from m2o_fast.engine import schema
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.nn.batch_norm import BatchNorm2d
from m2o_fast.nn.freezing import frozen
from m2o_fast.nn.history import HistoryPool
from m2o_fast.nn.permutation import inverse
from m2o_fast.nn.stems import InputAdapter, OutputAdapter
from m2o_fast.settings import Count, CountOrZero, Rate, Weight
from m2o_fast.translators import settings
from m2o_fast.translators.base import Iteration, Phase, Translator
from m2o_fast.translators.settings import Optimizer, Sizes, SystemFacts, halving, linear_decay

PLAIN = ManyToOne(zero_style=False, diversity_on_multimodal_only=False)


class Model(settings.Model):
    """Width, and what the nets have."""

    width: Count = 4
    batch_norm: bool = True
    average: bool = False
    refine: CountOrZero = 0
    turns: bool = False
    noise: bool = False
    adapter: bool = False


class Loss(settings.Loss):
    """The supervised one is for both directions."""

    supervised: Weight = 3.0


class Optim(settings.Optim):
    """Rates that fall to 0 with the last step, or one that is halved beside one that is constant, with momentum."""

    lr: Rate = 0.02
    decay_steps: Count | None = None
    halve_every: Count | None = None

    def optimizer(self, group: str) -> Optimizer:
        assert self.decay_steps is not None
        falling = linear_decay(2, self.decay_steps) if self.halve_every is None else halving(self.halve_every)
        if group == "makers":
            return Optimizer(self.lr, "adamw", (0.5, 0.9), weight_decay=0.1, schedule=falling)
        if self.halve_every is not None:
            return Optimizer(self.lr, "sgd", momentum=0.9)
        return Optimizer(self.lr, "sgd", schedule=falling)

    def average(self) -> float:
        return 0.8


class ToySettings(settings.Settings):
    """All of them."""

    model: Model = Model()
    loss: Loss = Loss()
    optim: Optim = Optim()

    def description(self, domains: Sequence[Domain], rules: ManyToOne, image_size: int) -> dict[str, Any]:
        size = {**self.model.model_dump(), "image_size": image_size}
        return {"domains": [asdict(domain) for domain in domains], "rules": asdict(rules), "size": size}

    def kept(self, steps: int) -> dict[str, int]:
        return {"optim.decay_steps": self.optim.decay_steps or steps}

    def widths(self, image_size: int) -> dict[str, int]:
        return {"model.width": self.model.width}


SYSTEM = SystemFacts(
    name="toy",
    title="Toy",
    paper="none",
    settings=ToySettings,
    translator="Toy",
    variants={"plain": PLAIN, "hms": ManyToOne(supervised_weight=1.0)},
    sizes=Sizes(smallest=16, multiple=4),
    refused={"hmu": "toys need to be held by the hand"},
    two_domains=True,
)


class Adapted(nn.Module):
    """One net for both ways, which knows its domains by the layers in front of it and behind it alone."""

    def __init__(self, net: nn.Module, domains: Sequence[Domain]) -> None:
        super().__init__()
        self.front, self.net, self.behind = InputAdapter(dict(enumerate(domains)), 3), net, OutputAdapter(domains, 3)
        self.channels = [domain.channels for domain in domains]

    def forward(self, x: Tensor, source: int, target: int) -> Tensor:
        images = [x if k == source else x.new_empty((0, count, *x.shape[2:])) for k, count in enumerate(self.channels)]
        counts = [len(x) if k == target else 0 for k in range(len(self.channels))]
        return self.behind(self.net(self.front(images)), counts)[target]


class Toy(Translator):
    """A convolution each way, and one that judges each domain."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        super().__init__()
        self.rules = ManyToOne(**description["rules"])
        self.domains = self.rules.resolve([Domain(**domain) for domain in description["domains"]])
        self.size = description["size"]
        self.image_size = self.size["image_size"]
        self.multiple = None if self.size["noise"] else 1
        channels = [domain.channels for domain in self.domains]
        if self.size["adapter"]:
            self.generators = nn.ModuleList([Adapted(self._generator(3, 3), self.domains)])
        else:
            self.generators = nn.ModuleList([self._generator(channels[a], channels[b]) for a, b in self.directions()])
        self.styled = [k for k in range(2) if self.has_style(k)]
        self.discriminators = nn.ModuleList([nn.Conv2d(count, 1, 4, 4) for count in channels])

    def _generator(self, a: int, b: int) -> nn.Sequential:
        width = self.size["width"]
        norm = BatchNorm2d(width) if self.size["batch_norm"] else nn.Identity()
        return nn.Sequential(nn.Conv2d(a, width, 3, 1, 1), norm, nn.ReLU(), nn.Conv2d(width, b, 3, 1, 1))

    def _make(self, x: Tensor, source: int, target: int, style: Tensor | None) -> Tensor:
        x = x if style is None else x + style
        adapted = self.size["adapter"]
        return (self.generators[0](x, source, target) if adapted else self.generators[source](x)).tanh()

    def describe(self) -> dict[str, Any]:
        return {
            "system": "toy",
            "domains": [asdict(domain) for domain in self.domains],
            "rules": asdict(self.rules),
            "size": self.size,
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Toy:
        return cls(description)

    def directions(self) -> tuple[tuple[int, int], ...]:
        return ((0, 1), (1, 0))

    def turns(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        return tuple((way,) for way in self.directions()) if self.size["turns"] else super().turns()

    def paired_directions(self) -> tuple[tuple[int, int], ...]:
        return self.directions() if self.rules.supervised_weight else ()

    def has_style(self, target: str | int) -> bool:
        return self.size["noise"] and self.domain(target).multimodal

    def style_shape(self, target: str | int) -> tuple[int, ...]:
        return (1, self.image_size, self.image_size) if self.size["noise"] else (0,)

    def reads_style(self, domain: str | int) -> bool:
        return False

    def groups(self) -> dict[str, list[nn.Module]]:
        return {"makers": [*self.generators], "judges": [self.discriminators]}

    def averaged_groups(self) -> tuple[str, ...]:
        return ("makers",) if self.size["average"] else ()

    def pools(self) -> Mapping[str, HistoryPool]:
        side = self.image_size
        return {domain.name: HistoryPool(5, (domain.channels, side, side)) for domain in self.domains}

    def phases(self, index: int) -> Sequence[Phase]:
        again = [Phase("generators", ("makers",), new_batch=True)] * self.size["refine"] * (index > 0)
        return (Phase("generators", ("makers",)), *again, Phase("discriminators", ("judges",)))

    def noise(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        side = self.image_size
        numbers = {
            "dropout": torch.rand((count, 1, side, side), generator=generator),
            "pool": torch.rand((count, 2), generator=generator),
        }
        return numbers | ({"style": torch.randn((count, 1, side, side), generator=generator)} if self.styled else {})

    def loss(self, phase: str, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        if phase == "generators":
            return self._generators_loss(batch, iteration)
        numbers = batch.noise["pool"].split(list(batch.target_counts))
        parts = {"fake": batch.source[0].new_zeros(()), "real": batch.source[0].new_zeros(())}
        for k, domain in enumerate(self.domains):
            if domain.name not in iteration.kept:
                continue
            seen = iteration.pools[domain.name](iteration.kept[domain.name], numbers[k])
            parts["fake"] = parts["fake"] + self.discriminators[k](seen).square().mean((1, 2, 3)).sum() / batch.size
        for k in range(2):
            judged = (self.discriminators[k](batch.source[k]) - 1).square()
            parts["real"] = parts["real"] + judged.mean((1, 2, 3)).sum() / batch.size
        return parts["fake"] + parts["real"], {name: value.detach() for name, value in parts.items()}

    def _generators_loss(self, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        masks = batch.noise["dropout"][inverse(batch.to_target)].split(list(batch.source_counts))
        total = batch.source[0].new_zeros(())
        known = batch.has_pair.split(list(batch.target_counts)) if batch.has_pair is not None else ()
        styles = batch.noise["style"].split(list(batch.target_counts)) if self.styled else ()
        for source, target in self.directions():
            if not len(batch.source[source]):
                continue
            style = styles[target] if target in self.styled else None
            fake = self._make(batch.source[source] * (masks[source] >= 0.3), source, target, style)
            iteration.kept[self.domains[target].name] = fake.detach()
            with frozen(self.discriminators[target]):
                judged = (self.discriminators[target](fake) - 1).square()
            total = total + judged.mean((1, 2, 3)).sum() / batch.size
            total = total + 1e-4 * iteration.shares * fake.square().sum()  # a sum over the batch, however it is shared
            if batch.paired:
                errors = (fake - batch.paired[target]).abs().mean((1, 2, 3))
                total = total + self.rules.supervised_weight * (errors * known[target]).sum() / batch.size
        total = total * iteration.number(lambda index: 1 + index / 8)
        return total, {"total": total.detach()}

    def translate(
        self,
        x: Tensor,
        source: str | int,
        target: str | int,
        *,
        style: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> Tensor:
        a, b = self.domain_index(source), self.domain_index(target)
        self._check_images("x", x, a)
        if b not in self.styled:
            return self._make(self._placed(x), a, b, None)
        assert style is not None
        return self._make(self._placed(x), a, b, self._style_rows(style, len(x), b))

    def encode_style(self, x: Tensor, domain: str | int) -> Tensor:
        return torch.zeros(len(x), *self.style_shape(domain))


def install(patch: pytest.MonkeyPatch) -> None:
    """Lets the package know the system, as if it had a folder there."""
    module, inside = ModuleType("toy"), ModuleType("translator")
    module.SYSTEM, inside.Toy = SYSTEM, Toy  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "m2o_fast.translators.toy", module)
    patch.setitem(sys.modules, "m2o_fast.translators.toy.translator", inside)
    for where in (translators, config_module, schema):
        patch.setattr(where, "NAMES", (*(name for name in where.NAMES if name != "toy"), "toy"))

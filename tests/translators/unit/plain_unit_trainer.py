"""How plain UNIT is trained: an iteration follows the published order and computes everything by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from plain_unit import Nets, PaperNets
from torch import Tensor

Pair = tuple[Tensor, Tensor]


@dataclass
class Settings:
    """``styled``: the multi-modal domains of a many-to-one variant; plain, there is none, and both have noise."""

    paper: bool = False
    lr: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 1e-4
    eps: float = 1e-8
    halve_every: int = 100_000
    halve_early: bool = False
    adversarial: float = 1.0
    reconstruction: float = 10.0
    cycle: float = 10.0
    kl: float = 0.01
    cycle_kl: float = 0.01
    kl_of_sample: bool = False
    styled: tuple[int, ...] = ()
    style: float = 1.0
    diversity: float = 1.0
    diversity_steps: int = 1000
    supervised: float = 0.0


@dataclass
class Draws:
    """Random numbers of an iteration: noise of both phases and of the cycle, of images of A and of B; styles.

    Of each domain that has them, in the order of the images that are translated into it: those of the discriminators'
    phase, those of the other one, and a second draw of it.
    """

    judged: Pair
    latent: Pair
    cycle: Pair
    styles: Mapping[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def styles_of(self, number: int) -> dict[int, Tensor]:
        return {k: drawn[number] for k, drawn in self.styles.items()}


class Trainer:
    """Both discriminators, then everything else. Where a domain has more images than the other, it counts for more."""

    def __init__(self, nets: Nets | PaperNets, settings: Settings) -> None:
        self.nets, self.settings, self.step = nets, settings, 0
        s = settings
        self.optimizers = [
            torch.optim.Adam(
                list(dict.fromkeys(p for module in modules for p in module.parameters())),
                s.lr,
                s.betas,
                s.eps,
                s.weight_decay,
            )
            for modules in (nets.judging(), nets.modules())
        ]

    def iteration(
        self, a: Tensor, b: Tensor, draws: Draws, pairs: Mapping[int, Pair] | None = None
    ) -> dict[str, float]:
        """Losses by name; images ``[N, C, H, W]`` of A and of B.

        ``pairs``: by domain, what the images that are translated into it truly are there, and which of them are known.
        """
        s = self.settings
        early = 1 if s.halve_early else 0
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = s.lr * 0.5 ** ((self.step + early) // s.halve_every)
        logs = self._judge((a, b), draws) | self._make((a, b), draws, pairs)
        self.step += 1
        return {name: value.item() for name, value in logs.items()}

    def _score(self, scores: list[Tensor], real: bool) -> Tensor:
        if self.settings.paper:
            return sum(F.binary_cross_entropy_with_logits(x, torch.full_like(x, float(real))) for x in scores)
        return sum((x - float(real)).square().mean() for x in scores)

    def _decode(self, mean: Tensor, noise: Tensor, k: int, style: Mapping[int, Tensor]) -> Tensor:
        """Into a uni-modal domain by the mean alone; into one that has a style with it."""
        if self.settings.styled and k not in self.settings.styled:
            return self.nets.decode(mean, k)
        return self.nets.decode(mean + noise, k, style.get(k))

    def _judge(self, x: Pair, draws: Draws) -> dict[str, Tensor]:
        n, style, parts = self.nets, draws.styles_of(0), _parts(x)
        with torch.no_grad():
            means = [n.encode(x[k], k) for k in range(2)]
            fakes = [self._decode(means[1 - k], draws.judged[1 - k], k, style) for k in range(2)]
        logs = {
            "real": sum(parts[k] * self._score(n.judge(x[k], k), True) for k in range(2)),
            "fake": sum(parts[1 - k] * self._score(n.judge(fakes[k], k), False) for k in range(2)),
        }
        self.optimizers[0].zero_grad()
        (self.settings.adversarial * (logs["real"] + logs["fake"])).backward()
        self.optimizers[0].step()
        return logs

    def _make(self, x: Pair, draws: Draws, pairs: Mapping[int, Pair] | None) -> dict[str, Tensor]:
        s, n, style, parts = self.settings, self.nets, draws.styles_of(1), _parts(x)
        own = {k: n.styles[k].encoder(x[k]) for k in s.styled}
        means = [n.encode(x[k], k) for k in range(2)]
        restored = [self._decode(means[k], draws.latent[k], k, own) for k in range(2)]
        fakes = [self._decode(means[1 - k], draws.latent[1 - k], k, style) for k in range(2)]
        again = [n.encode(fakes[1 - k], 1 - k) for k in range(2)]
        cycled = [self._decode(again[k], draws.cycle[k], k, own) for k in range(2)]
        sampled = [means[k] + draws.latent[k] for k in range(2)], [again[k] + draws.cycle[k] for k in range(2)]
        of, of_again = sampled if s.kl_of_sample else (means, again)
        logs = {
            "adversarial": sum(parts[1 - k] * self._score(n.judge(fakes[k], k), True) for k in range(2)),
            "reconstruction": sum(parts[k] * (restored[k] - x[k]).abs().mean() for k in range(2)),
            "cycle": sum(parts[k] * (cycled[k] - x[k]).abs().mean() for k in range(2)),
            "kl": sum(parts[k] * of[k].square().mean() for k in range(2)),
            "cycle_kl": sum(parts[k] * of_again[k].square().mean() for k in s.styled or (0, 1)),
        }
        total = sum(getattr(s, name) * value for name, value in logs.items())
        if s.styled:
            found = {k: n.styles[k].encoder(fakes[k]) for k in s.styled}
            logs["style"] = sum(parts[1 - k] * (found[k] - style[k]).abs().mean() for k in s.styled)
            others = {k: self._decode(means[1 - k], draws.latent[1 - k], k, draws.styles_of(2)) for k in s.styled}
            logs["diversity"] = sum(parts[1 - k] * (fakes[k] - others[k].detach()).abs().mean() for k in s.styled)
            total = total + s.style * logs["style"]
            total = total - s.diversity * max(0.0, 1 - self.step / s.diversity_steps) * logs["diversity"]
        if pairs is not None:
            errors = {k: (fakes[k] - true).abs().mean((1, 2, 3)) * known for k, (true, known) in pairs.items()}
            logs["supervised"] = sum(parts[1 - k] * error.mean() for k, error in errors.items())
            total = total + s.supervised * logs["supervised"]
        self.optimizers[1].zero_grad()
        total.backward()
        self.optimizers[1].step()
        return logs


def _parts(x: Pair) -> list[float]:
    """How many images of a domain there are for each that it would have if both had as many."""
    return [2 * len(images) / (len(x[0]) + len(x[1])) for images in x]

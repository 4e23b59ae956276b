"""StarGAN and its many-to-one variants in plain torch: what the fast one is tested against.

It imports nothing of ``m2o_fast``. State dicts of the published nets have the published names; an iteration follows the
published order and computes everything by itself, the many-to-one ones image by image. Any floating dtype works.

Source: Choi et al., CVPR 2018 (arXiv 1711.09020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def normed(conv: nn.Module, channels: int, relu: bool = True) -> list[nn.Module]:
    """A convolution and the norm behind it, with the statistics that published weights carry."""
    norm = nn.InstanceNorm2d(channels, affine=True, track_running_stats=True)
    return [conv, norm, *([nn.ReLU(inplace=True)] if relu else [])]


class ResidualBlock(nn.Module):
    """The published residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        conv1, conv2 = (nn.Conv2d(channels, channels, 3, 1, 1, bias=False) for _ in range(2))
        self.main = nn.Sequential(*normed(conv1, channels), *normed(conv2, channels, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape."""
        return x + self.main(x)


class Generator(nn.Module):
    """The published generator: an image with its label as further planes."""

    def __init__(self, channels: int, labels: int, width: int = 64, blocks: int = 6) -> None:
        super().__init__()
        w = width
        self.main = nn.Sequential(
            *normed(nn.Conv2d(channels + labels, w, 7, 1, 3, bias=False), w),
            *normed(nn.Conv2d(w, 2 * w, 4, 2, 1, bias=False), 2 * w),
            *normed(nn.Conv2d(2 * w, 4 * w, 4, 2, 1, bias=False), 4 * w),
            *(ResidualBlock(4 * w) for _ in range(blocks)),
            *normed(nn.ConvTranspose2d(4 * w, 2 * w, 4, 2, 1, bias=False), 2 * w),
            *normed(nn.ConvTranspose2d(2 * w, w, 4, 2, 1, bias=False), w),
            nn.Conv2d(w, channels, 7, 1, 3, bias=False),
            nn.Tanh(),
        )

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Images ``[N, C, H, W]`` and labels ``[N, L]`` to images."""
        return self.main(with_planes(x, label))


def with_planes(x: Tensor, label: Tensor) -> Tensor:
    return torch.cat([x, label[:, :, None, None].expand(-1, -1, *x.shape[2:])], dim=1)


class Discriminator(nn.Module):
    """The published discriminator: scores of patches, and logits of classes."""

    def __init__(self, channels: int, classes: int, side: int = 128, width: int = 64, layers: int = 6) -> None:
        super().__init__()
        stack: list[nn.Module] = []
        for k in range(layers):
            before = channels if k == 0 else width * 2 ** (k - 1)
            stack += [nn.Conv2d(before, width * 2**k, 4, 2, 1), nn.LeakyReLU(0.01)]
        last = width * 2 ** (layers - 1)
        self.main = nn.Sequential(*stack)
        self.conv1 = nn.Conv2d(last, 1, 3, 1, 1, bias=False)
        self.conv2 = nn.Conv2d(last, classes, side // 2**layers, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[N, C, S, S]`` to ``[N, 1, h, w]`` and ``[N, classes]``."""
        x = self.main(x)
        return self.conv1(x), self.conv2(x).flatten(1)


@dataclass
class Settings:
    """The defaults are published."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)
    eps: float = 1e-8
    decay_from: int = 100_000
    decay_steps: int = 100_000
    generator_every: int = 5
    labels: str | Sequence[str] = "exclusive"  # of all data sets, or of each
    classification: float = 1.0
    gradient_penalty: float = 10.0
    cycle: float = 10.0
    style: float = 1.0
    diversity: float = 1.0
    diversity_steps: int = 1000
    supervised: float = 0.0

    def kind(self, place: int) -> str:
        """Of the labels of the data set at a place."""
        return self.labels if isinstance(self.labels, str) else self.labels[place]


def penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Squared distance to 1 of the norms of gradients of summed scores, mean over images, by autograd."""
    mixed = (share * real + (1 - share) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (gradient.square().sum((1, 2, 3)).sqrt() - 1).square().mean()


def told(logits: Tensor, own: Tensor, kind: str) -> Tensor:
    """How far logits are from class numbers ``own``."""
    if kind == "exclusive":
        return F.cross_entropy(logits, own)
    wanted = F.one_hot(own, logits.shape[1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(own)


class _Optimizers:
    def __init__(self, groups: Sequence[Sequence[nn.Module]], settings: Settings) -> None:
        self.settings = settings
        self.all = [
            torch.optim.Adam(
                [p for net in group for p in net.parameters()], lr=settings.lr, betas=settings.betas, eps=settings.eps
            )
            for group in groups
        ]

    def step(self, chosen: Sequence[int], loss: Tensor, step: int) -> None:
        s = self.settings
        for optimizer in self.all:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in (self.all[k] for k in chosen):
            optimizer.param_groups[0]["lr"] = s.lr * (1 - max(0, step - s.decay_from) / s.decay_steps)
            for parameter in optimizer.param_groups[0]["params"]:
                if parameter.grad is None:  # layers of the other data set's domains: their moments decay
                    parameter.grad = torch.zeros_like(parameter)
            optimizer.step()


def vector(numbers: Tensor, place: int, sets: Sequence[int]) -> Tensor:
    """Label vectors of the data set at a place: its labels ``numbers``, zeros for those of others, and the mask."""
    if len(sets) == 1:
        return F.one_hot(numbers, sets[0])
    parts = [torch.zeros(len(numbers), size, dtype=torch.int64) for size in sets]
    parts[place] = F.one_hot(numbers, sets[place])
    mask = F.one_hot(torch.full_like(numbers, place), len(sets))
    return torch.cat([*parts, mask], dim=1)


def slice_of(place: int, sets: Sequence[int]) -> slice:
    """Where the labels of the data set at a place stand."""
    before = sum(sets[:place])
    return slice(before, before + sets[place])


def means_of(logs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(log[name] for log in logs) / len(logs) for name in logs[0]}


class Trainer:
    """The published nets, their optimizers and the number of the iteration; ``sets``: labels of each data set."""

    def __init__(self, G: Generator, D: Discriminator, settings: Settings, sets: Sequence[int] | None = None) -> None:
        self.G, self.D, self.settings, self.step = G, D, settings, 0
        self.sets = sets or [D.conv2.out_channels]
        self.optimizers = _Optimizers([[G], [D]], settings)

    def iteration(self, *batches: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, float]:
        """The data sets one after the other; returns losses, not weighted, the means over the data sets.

        Of each images ``[N, C, S, S]``, their labels and those of their translations, numbers ``[N]`` within the data
        set, and uniform ``[N, 1]``.
        """
        found = [self._on(place, *batch) for place, batch in enumerate(batches)]
        self.step += 1
        return means_of(found)

    def _on(self, place: int, x: Tensor, own: Tensor, wanted: Tensor, between: Tensor) -> dict[str, float]:
        """One step of the discriminator, in every fifth iteration one of the generator."""
        s, G, D = self.settings, self.G, self.D
        label, home = (vector(numbers, place, self.sets).to(x.dtype) for numbers in (wanted, own))
        known = slice_of(place, self.sets)
        with torch.no_grad():
            fake = G(x, label)
        (real_scores, logits), (fake_scores, _) = D(x), D(fake)
        logs = {
            "real": -real_scores.mean(),
            "fake": fake_scores.mean(),
            "gradient_penalty": penalty(lambda y: D(y)[0], x, fake, between[:, :, None, None]),
            "classification": told(logits[:, known], own, s.kind(place)),
        }
        judged = logs["real"] + logs["fake"] + s.gradient_penalty * logs["gradient_penalty"]
        self.optimizers.step([1], judged + s.classification * logs["classification"], self.step)
        found = {f"discriminator/{name}": value.item() for name, value in logs.items()}
        if (self.step + 1) % s.generator_every == 0:
            fake = G(x, label)
            scores, logits = D(fake)
            logs = {
                "adversarial": -scores.mean(),
                "classification": told(logits[:, known], wanted, s.kind(place)),
                "cycle": (x - G(fake, home)).abs().mean(),
            }
            total = logs["adversarial"] + s.classification * logs["classification"] + s.cycle * logs["cycle"]
            self.optimizers.step([0], total, self.step)
            found |= {f"generator/{name}": value.item() for name, value in logs.items()}
        return found


# --- many-to-one ------------------------------------------------------------------------------------------------------


class StyleEncoder(nn.Module):
    """Strided convolutions, a mean over pixels, a linear layer."""

    def __init__(self, channels: int, width: int, style_dim: int) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width]
        self.convs = nn.ModuleList([nn.Conv2d(a, b, 4, 2, 1) for a, b in zip(widths, widths[1:], strict=False)])
        self.head = nn.Linear(4 * width, style_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, channels, H, W]`` to styles ``[N, style_dim]``."""
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
        return self.head(x.mean((2, 3)))


class ManyNets(nn.Module):
    """Nets whose domains have first and last layers of their own; those of them that are ``multi`` have styles.

    ``sets``: how many of them, in their order, each data set has.
    """

    def __init__(
        self,
        channels: Sequence[int],
        multi: Sequence[bool],
        side: int,
        width: int,
        layers: int,
        sets: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.multi, self.style_dim, count = list(multi), 2, len(channels)
        self.sets = sets or [count]
        self.places = [(place, number) for place, size in enumerate(self.sets) for number in range(size)]
        labels = count + (len(self.sets) if len(self.sets) > 1 else 0) + self.style_dim
        self.stems = nn.ModuleList([nn.Conv2d(c + labels, width, 7, 1, 3, bias=False) for c in channels])
        self.trunk = Generator(3, 1, width, blocks=2)
        self.heads = nn.ModuleList([nn.Conv2d(width, c, 7, 1, 3, bias=False) for c in channels])
        self.judges = nn.ModuleList([nn.Conv2d(c, width, 4, 2, 1) for c in channels])
        self.judge = Discriminator(3, count, side, width, layers)
        self.encoders = nn.ModuleList([StyleEncoder(c, width, self.style_dim) for c in channels])

    def make(self, x: Tensor, source: int, target: int, style: Tensor) -> Tensor:
        """One image ``[1, c, H, W]`` as one of another domain; a uni-modal one has style 0."""
        place, number = self.places[target]
        label = vector(torch.tensor([number]), place, self.sets).to(x.dtype)
        style = style if self.multi[target] else torch.zeros_like(style)
        x = self.stems[source](with_planes(x, torch.cat([label, style], dim=1)))
        return self.heads[target](self.trunk.main[1:-2](x)).tanh()

    def seen(self, x: Tensor, domain: int) -> tuple[Tensor, Tensor]:
        """Scores of an image, and logits of the labels of its data set."""
        x = self.judge.main[1:](self.judges[domain](x))
        known = slice_of(self.places[domain][0], self.sets)
        return self.judge.conv1(x), self.judge.conv2(x).flatten(1)[:, known]


@dataclass
class Sample:
    """An image ``[1, c, S, S]`` of domain a, what it is to become one of, a real image of that, and random numbers.

    ``truth``: its true translation, where one is known and counts.
    """

    x: Tensor
    a: int
    b: int
    other: Tensor
    between: Tensor
    style: Tensor
    style2: Tensor
    truth: Tensor | None = None


class ManyTrainer:
    """Nets, optimizers and the number of the iteration."""

    def __init__(self, nets: ManyNets, settings: Settings) -> None:
        self.nets, self.settings, self.step = nets, settings, 0
        styled = [encoder for encoder, multi in zip(nets.encoders, nets.multi, strict=True) if multi]
        groups = [[nets.stems, nets.trunk, nets.heads], [nets.judges, nets.judge], styled]
        self.optimizers = _Optimizers(groups, settings)

    def iteration(self, *batches: Sequence[Sample]) -> dict[str, float]:
        """As :meth:`Trainer.iteration`; every loss is a mean over all samples of a data set."""
        found = [self._on(samples) for samples in batches]
        self.step += 1
        return means_of(found)

    def _on(self, samples: Sequence[Sample]) -> dict[str, float]:
        logs = self._means([self._judged(sample) for sample in samples])
        s = self.settings
        total = logs["real"] + logs["fake"] + s.gradient_penalty * logs["gradient_penalty"]
        self.optimizers.step([1], total + s.classification * logs["classification"], self.step)
        found = {f"discriminator/{name}": value.item() for name, value in logs.items()}
        if (self.step + 1) % s.generator_every == 0:
            logs = self._means([self._made(sample) for sample in samples])
            diversity = s.diversity * (1 - self.step / s.diversity_steps)
            total = logs["adversarial"] + s.classification * logs["classification"] + s.cycle * logs["cycle"]
            total = total + s.style * logs["style"] - diversity * logs["diversity"]
            if s.supervised:
                total = total + s.supervised * logs["supervised"]
            self.optimizers.step([0, 2], total, self.step)
            found |= {f"generator/{name}": value.item() for name, value in logs.items()}
        return found

    @staticmethod
    def _means(logs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([log[name] for log in logs]).mean() for name in logs[0]}

    def _judged(self, s: Sample) -> dict[str, Tensor]:
        n = self.nets
        with torch.no_grad():
            fake = n.make(s.x, s.a, s.b, s.style)
        scores, logits = n.seen(s.x, s.a)
        place, number = n.places[s.a]
        return {
            "real": -scores.mean(),
            "fake": n.seen(fake, s.b)[0].mean(),
            "gradient_penalty": penalty(lambda y: n.seen(y, s.b)[0], s.other, fake, s.between),
            "classification": told(logits, torch.tensor([number]), self.settings.kind(place)),
        }

    def _made(self, s: Sample) -> dict[str, Tensor]:
        n, zero = self.nets, s.x.new_zeros(())
        fake = n.make(s.x, s.a, s.b, s.style)
        scores, logits = n.seen(fake, s.b)
        place, number = n.places[s.b]
        own = n.encoders[s.a](s.x) if n.multi[s.a] else s.style
        logs = {
            "adversarial": -scores.mean(),
            "classification": told(logits, torch.tensor([number]), self.settings.kind(place)),
            "cycle": (n.make(fake, s.b, s.a, own) - s.x).abs().mean(),
            "style": (n.encoders[s.b](fake) - s.style).abs().mean() if n.multi[s.b] else zero,
            "diversity": zero,
        }
        if n.multi[s.b]:
            logs["diversity"] = (n.make(s.x, s.a, s.b, s.style2).detach() - fake).abs().mean()
        if self.settings.supervised:
            logs["supervised"] = zero if s.truth is None else (fake - s.truth).abs().mean()
        return logs

"""BicycleGAN, its parts and its many-to-one variant in plain torch: what the fast ones are tested against.

It imports nothing of ``m2o_fast``. Nets have the published structure and names; a training iteration follows the
published order, a forward pass for each translation and a backward pass for each of both losses. Any floating dtype.

Source: Zhu, Zhang, Pathak, Darrell, Efros, Wang, Shechtman, NIPS 2017 (arXiv 1711.11586).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Keeps the numbers where ``kept`` is set, twice as large; all of them where there is no ``kept``."""

    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape."""
        return x if self.kept is None else 2 * x * self.kept


def beside(x: Tensor, z: Tensor) -> Tensor:
    """An image and planes of constant numbers."""
    return torch.cat([x, z[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)


class Level(nn.Module):
    """One level of the U-Net with all levels inside of it; ``outermost`` is the number of channels that come in."""

    def __init__(
        self, above: int, width: int, inner: Level | None, nz: int, *, outermost: int = 0, dropout: bool = False
    ) -> None:
        super().__init__()
        self.outermost = bool(outermost)
        if outermost:
            down = [nn.Conv2d(outermost + nz, width, 4, 2, 1)]
            up = [nn.ReLU(True), nn.ConvTranspose2d(2 * width, above, 4, 2, 1), nn.Tanh()]
        elif inner is None:
            down = [nn.LeakyReLU(0.2, True), nn.Conv2d(above + nz, width, 4, 2, 1)]
            up = [nn.ReLU(True), nn.ConvTranspose2d(width, above, 4, 2, 1), nn.InstanceNorm2d(above)]
        else:
            down = [nn.LeakyReLU(0.2, True), nn.Conv2d(above + nz, width, 4, 2, 1), nn.InstanceNorm2d(width)]
            up = [nn.ReLU(True), nn.ConvTranspose2d(2 * width, above, 4, 2, 1), nn.InstanceNorm2d(above)]
            up += [Dropout()] if dropout else []
        self.down = nn.Sequential(*down)
        if inner is not None:
            self.submodule = inner
        self.up = nn.Sequential(*up)
        self.planes = nz

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` and styles to the image, or to ``[N, 2 C, H, W]``."""
        y = self.down(beside(x, z[:, : self.planes]))
        y = self.up(self.submodule(y, z) if hasattr(self, "submodule") else y)
        return y if self.outermost else torch.cat([y, x], 1)


class Generator(nn.Module):
    """The published U-Net with a style at every level; ``trunk``: the levels within, of another one."""

    def __init__(
        self,
        a: int,
        b: int,
        width: int = 64,
        levels: int = 8,
        nz: int = 8,
        trunk: Level | None = None,
        trunk_nz: int | None = None,
    ) -> None:
        super().__init__()
        widths = [width * min(2**k, 8) for k in range(levels)]
        inner = trunk
        if trunk is None:
            for k in range(levels - 1, 0, -1):
                planes = nz if trunk_nz is None else trunk_nz
                inner = Level(widths[k - 1], widths[k], inner, planes, dropout=4 <= k < levels - 1)
        self.model = Level(b, width, inner, nz, outermost=a)

    def forward(self, x: Tensor, z: Tensor, kept: Sequence[Tensor] | None = None) -> Tensor:
        """Images ``[N, a, H, W]`` and styles to images; ``kept``: what dropout keeps, the outermost level first."""
        for k, layer in enumerate(layer for layer in self.modules() if isinstance(layer, Dropout)):
            layer.kept = None if kept is None else kept[k]
        return self.model(x, z)


class Block(nn.Module):
    """A residual block of the style encoder, which halves."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        halved = nn.Sequential(nn.Conv2d(a, b, 3, 1, 1), nn.AvgPool2d(2, 2))
        first = [nn.InstanceNorm2d(a), nn.LeakyReLU(0.2, True), nn.Conv2d(a, a, 3, 1, 1)]
        self.conv = nn.Sequential(*first, nn.InstanceNorm2d(a), nn.LeakyReLU(0.2, True), halved)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(a, b, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, a, H, W]`` to ``[N, b, H / 2, W / 2]``."""
        return self.conv(x) + self.shortcut(x)


class Encoder(nn.Module):
    """The published style encoder; ``blocks`` counts the first convolution, as there."""

    def __init__(self, channels: int, width: int = 64, blocks: int = 5, nz: int = 8) -> None:
        super().__init__()
        widths = [width * min(4, k) for k in range(1, blocks + 1)]
        self.fc = nn.Sequential(nn.Linear(widths[-1], nz))
        self.fcVar = nn.Sequential(nn.Linear(widths[-1], nz))
        layers = [Block(a, b) for a, b in zip(widths, widths[1:], strict=False)]
        self.conv = nn.Sequential(nn.Conv2d(channels, width, 4, 2, 1), *layers, nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images to means and logarithms of variances."""
        y = self.conv(x).mean((2, 3))
        return self.fc(y), self.fcVar(y)


class Discriminator(nn.Module):
    """The published discriminator at several scales, ``model_0`` that of the image itself."""

    def __init__(self, channels: int, width: int = 64, layers: int = 3, scales: int = 2) -> None:
        super().__init__()
        self.scales = scales
        for scale in range(scales):
            self.add_module(f"model_{scale}", self._patches(channels, round(width / 2**scale), layers))

    @staticmethod
    def _patches(channels: int, width: int, layers: int) -> nn.Sequential:
        stack: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
        last = width
        for k in range(1, layers + 1):
            wide = width * min(2**k, 8)
            stack += [nn.Conv2d(last, wide, 4, 2 if k < layers else 1, 1), nn.InstanceNorm2d(wide)]
            stack += [nn.LeakyReLU(0.2, True)]
            last = wide
        return nn.Sequential(*stack, nn.Conv2d(last, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images to scores of each scale."""
        scores = []
        for scale in range(self.scales):
            scores.append(getattr(self, f"model_{scale}")(x))
            x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        return scores


@dataclass
class Settings:
    """The defaults are the published ones; ``supervised``: of hms, into a domain without style."""

    kind: str = "bicycle"
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    eps: float = 1e-8
    constant: int = 100
    decay: int = 100
    reconstruction: float = 10.0
    latent: float = 0.5
    kl: float = 0.01
    supervised: float = 100.0


@dataclass
class Direction:
    """The nets of one direction; without style encoder and ``styled``, styles are 0."""

    G: nn.Module
    D: nn.Module | None = None
    D2: nn.Module | None = None
    E: nn.Module | None = None
    styled: bool = True


@dataclass
class Share:
    """What an iteration has of a direction: images, true translations, other real ones, random numbers."""

    x: Tensor
    truth: Tensor
    others: Tensor
    eps: Tensor
    z: Tensor
    kept: Sequence[Tensor] | None = None
    kept2: Sequence[Tensor] | None = None
    known: Tensor | None = None


@dataclass
class _Made:
    """Translations of an iteration, by the discriminator that judges them."""

    fake: Tensor | None = None
    fake2: Tensor | None = None


@dataclass
class Trainer:
    """Nets of all directions, and their optimizers."""

    ways: Sequence[Direction]
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        s = self.settings
        self.optimizers = []
        for name in ("G", "E", "D", "D2"):
            nets = [net for way in self.ways if (net := getattr(way, name)) is not None]
            parameters = list(dict.fromkeys(p for net in nets for p in net.parameters()))
            if parameters:
                self.optimizers.append((name, torch.optim.Adam(parameters, lr=s.lr, betas=s.betas, eps=s.eps)))
        self.step = 0
        self.logs: dict[str, float] = {}

    def iteration(self, shares: Sequence[Share]) -> dict[str, float]:
        """Generators and encoders, then discriminators; returns all losses, not weighted."""
        s, self.logs = self.settings, {}
        for _, optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = s.lr * (1 - max(0, self.step - s.constant) / s.decay)
        self._trains(("D", "D2"), False)
        made = [self._generators(way, share) for way, share in zip(self.ways, shares, strict=True)]
        self._move(("G", "E"))
        self._trains(("D", "D2"), True)
        for way, share, one in zip(self.ways, shares, made, strict=True):
            self._judge(way.D, share.truth, one.fake, share.known, "")
            self._judge(way.D2, share.others, one.fake2, None, "2")
        self._move(("D", "D2"))
        self.step += 1
        return self.logs

    def _trains(self, names: Sequence[str], wanted: bool) -> None:
        for way in self.ways:
            for net in (getattr(way, name) for name in names):
                if net is not None:
                    net.requires_grad_(wanted)

    def _move(self, names: Sequence[str]) -> None:
        for name, optimizer in self.optimizers:
            if name in names:
                optimizer.step()
            optimizer.zero_grad()

    def _log(self, name: str, value: Tensor) -> Tensor:
        self.logs[name] = self.logs.get(name, 0.0) + value.item()
        return value

    def _generators(self, way: Direction, share: Share) -> _Made:
        """One forward pass, then both backward passes."""
        s, made = self.settings, _Made()
        known = torch.ones(len(share.x), dtype=torch.bool) if share.known is None else share.known
        total = share.x.new_zeros(())
        if not way.styled:
            made.fake = way.G(share.x, torch.zeros_like(share.z), share.kept)
            total = total + self._adversarial(way.D, made.fake, None, "adversarial")
            total = total + s.supervised * self._log("supervised", distance(made.fake, share.truth, known))
            total.backward()
            return made
        if s.kind in ("bicycle", "cvae"):
            mu, logvar = way.E(share.truth)
            made.fake = way.G(share.x, mu + share.eps * (0.5 * logvar).exp(), share.kept)
            divergence = -0.5 * (1 + logvar - mu**2 - logvar.exp())[known].sum()
            total = total + s.kl * self._log("kl", divergence)
            total = total + self._adversarial(way.D, made.fake, known, "adversarial")
        if s.kind in ("bicycle", "clr"):
            made.fake2 = way.G(share.x, share.z, share.kept2)
            total = total + self._adversarial(way.D2, made.fake2, None, "adversarial2")
        if s.kind == "pix2pix_noise":
            made.fake = way.G(share.x, share.z, share.kept2)
            total = total + self._adversarial(way.D, made.fake, None, "adversarial")
        if made.fake is not None:
            total = total + s.reconstruction * self._log("reconstruction", distance(made.fake, share.truth, known))
        total.backward(retain_graph=made.fake2 is not None)
        if made.fake2 is not None:
            way.E.requires_grad_(s.kind == "clr")
            mu2, _ = way.E(made.fake2)
            (s.latent * self._log("latent", (mu2 - share.z).abs().mean())).backward()
            way.E.requires_grad_(True)
        return made

    def _adversarial(self, judge: nn.Module, fake: Tensor, known: Tensor | None, name: str) -> Tensor:
        return self._log(name, sum(squares(score, 1, known) for score in judge(fake)))

    def _judge(
        self, judge: nn.Module | None, real: Tensor, fake: Tensor | None, known: Tensor | None, number: str
    ) -> None:
        if judge is None or fake is None:
            return
        loss = self._log(f"fake{number}", sum(squares(score, 0, known) for score in judge(fake.detach())))
        loss = loss + self._log(f"real{number}", sum(squares(score, 1, known) for score in judge(real)))
        loss.backward()


def distance(fake: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Mean absolute difference of known pairs, of all samples."""
    return (fake - truth).abs().mean((1, 2, 3))[known].sum() / len(fake)


def squares(score: Tensor, wanted: float, known: Tensor | None) -> Tensor:
    """Mean squared distance, of known pairs alone where these are given."""
    means = ((score - wanted) ** 2).mean((1, 2, 3))
    return (means if known is None else means[known]).sum() / len(score)

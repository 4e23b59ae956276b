"""MUNIT and its many-to-one variants in plain torch: what the fast one is tested against.

It imports nothing of ``m2o_fast``. State dicts of the nets have the published names; a training iteration follows the
published order and computes everything by itself. Any floating dtype works.

Source: Huang, Liu, Belongie, Kautz, ECCV 2018 (arXiv 1804.04732).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]


class AdaIN(nn.Module):
    """Instance norm whose scale and shift ``[N, C]`` are set before each call; its statistics are for show."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.scale: Tensor | None = None
        self.shift: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape."""
        assert self.scale is not None and self.shift is not None
        return self.scale[:, :, None, None] * F.instance_norm(x) + self.shift[:, :, None, None]


class LayerNorm(nn.Module):
    """Over all numbers of an image; the epsilon is added to the standard deviation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape."""
        mean, std = (number.view(-1, 1, 1, 1) for number in (x.flatten(1).mean(1), x.flatten(1).std(1)))
        return (x - mean) / (std + 1e-5) * self.gamma[:, None, None] + self.beta[:, None, None]


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "in": nn.InstanceNorm2d,
    "adain": AdaIN,
    "ln": LayerNorm,
    "none": lambda channels: nn.Identity(),
}


class Conv(nn.Module):
    """Reflected border, convolution, norm, activation."""

    def __init__(self, a: int, b: int, kernel: int, stride: int, border: int, norm: str, activation: Function) -> None:
        super().__init__()
        self.norm = NORMS[norm](b)
        self.conv = nn.Conv2d(a, b, kernel, stride)
        self.border, self.activation = border, activation

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, a, H, W]`` to ``[N, b, H', W']``."""
        return self.activation(self.norm(self.conv(F.pad(x, (self.border,) * 4, mode="reflect"))))


class Stack(nn.Module):
    """Layers one after the other, called ``model``."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Through all of them."""
        return self.model(x)


class Residual(Stack):
    """``x`` and what two layers make of it."""

    def __init__(self, channels: int, norm: str) -> None:
        first, second = (Conv(channels, channels, 3, 1, 1, norm, act) for act in (torch.relu, lambda y: y))
        super().__init__(first, second)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape."""
        return x + self.model(x)


class Dense(nn.Module):
    """A linear layer, called ``fc``, and ReLU if wanted."""

    def __init__(self, a: int, b: int, relu: bool) -> None:
        super().__init__()
        self.fc, self.relu = nn.Linear(a, b), relu

    def forward(self, x: Tensor) -> Tensor:
        """``[N, a]`` to ``[N, b]``."""
        return self.fc(x).relu() if self.relu else self.fc(x)


class Generator(nn.Module):
    """A domain's encoders, decoder and MLP; without style there is neither style encoder nor MLP."""

    def __init__(
        self, channels: int, width: int = 64, blocks: int = 4, style: int = 8, mlp: int = 256, styled: bool = True
    ) -> None:
        super().__init__()
        relu, wide = torch.relu, 4 * width
        if styled:
            widths = [width, 2 * width, wide, wide, wide]
            strided = [Conv(a, b, 4, 2, 1, "none", relu) for a, b in zip(widths, widths[1:], strict=False)]
            stem = Conv(channels, width, 7, 1, 3, "none", relu)
            self.enc_style = Stack(stem, *strided, nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, style, 1))
        self.enc_content = Stack(
            Conv(channels, width, 7, 1, 3, "in", relu),
            Conv(width, 2 * width, 4, 2, 1, "in", relu),
            Conv(2 * width, wide, 4, 2, 1, "in", relu),
            Stack(*(Residual(wide, "in") for _ in range(blocks))),
        )
        self.dec = Stack(
            Stack(*(Residual(wide, "adain") for _ in range(blocks))),
            nn.Upsample(scale_factor=2),
            Conv(wide, 2 * width, 5, 1, 2, "ln", relu),
            nn.Upsample(scale_factor=2),
            Conv(2 * width, width, 5, 1, 2, "ln", relu),
            Conv(width, channels, 7, 1, 3, "none", torch.tanh),
        )
        self.adains = [layer for layer in self.dec.modules() if isinstance(layer, AdaIN)]
        steered = 2 * wide * len(self.adains)
        if styled:
            self.mlp = Stack(Dense(style, mlp, True), Dense(mlp, mlp, True), Dense(mlp, steered, False))
        else:
            self.affines = nn.Parameter(torch.zeros(steered))

    def encode_style(self, x: Tensor) -> Tensor | None:
        """Images to ``[N, style]``; None without style."""
        return self.enc_style(x).flatten(1) if hasattr(self, "enc_style") else None

    def decode(self, content: Tensor, style: Tensor | None) -> Tensor:
        """Content and style to images."""
        numbers = self.affines.expand(len(content), -1) if style is None else self.mlp(style)
        for layer, own in zip(self.adains, numbers.chunk(len(self.adains), dim=1), strict=True):
            layer.shift, layer.scale = own.chunk(2, dim=1)
        return self.dec(content)


class Discriminator(nn.Module):
    """One net for each scale."""

    def __init__(self, channels: int, width: int = 64, layers: int = 4, scales: int = 3) -> None:
        super().__init__()
        widths = [channels] + [width * 2**k for k in range(layers)]
        self.cnns = nn.ModuleList()
        for _ in range(scales):
            pairs = zip(widths, widths[1:], strict=False)
            convs = [Conv(a, b, 4, 2, 1, "none", lambda y: F.leaky_relu(y, 0.2)) for a, b in pairs]
            self.cnns.append(nn.Sequential(*convs, nn.Conv2d(widths[-1], 1, 1)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images to a score map for each scale."""
        scores = []
        for net in self.cnns:
            scores.append(net(x))
            x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        return scores


@dataclass
class Nets:
    """Of domains a and b."""

    gen_a: Generator
    gen_b: Generator
    dis_a: Discriminator
    dis_b: Discriminator


@dataclass
class Settings:
    """The defaults are published; ``many_to_one``: domain b has no style, and translations into a are to differ."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-4
    halve_every: int = 100_000
    halve_early: bool = False
    reconstruction: float = 10.0
    content: float = 1.0
    style: float = 1.0
    cycle: float = 0.0
    many_to_one: bool = False
    diversity: float = 1.0
    diversity_steps: int = 1000
    supervised: float = 0.0


@dataclass
class Styles:
    """Random styles of an iteration by target, for the discriminators' step and for the generators'."""

    judged_a: Tensor
    judged_b: Tensor
    made_a: Tensor
    made_b: Tensor


def off_by(scores: list[Tensor], wanted: float) -> Tensor:
    return sum((score - wanted).square().mean() for score in scores)  # type: ignore[return-value]


def parts(a: Tensor, b: Tensor) -> tuple[float, float]:
    """How many images of either domain there are for each that it would have if both had as many."""
    return 2 * len(a) / (len(a) + len(b)), 2 * len(b) / (len(a) + len(b))


class Trainer:
    """Nets, optimizers and the number of the iteration. A domain with more images than the other counts for more."""

    def __init__(self, nets: Nets, settings: Settings) -> None:
        self.nets, self.settings, self.step = nets, settings, 0
        options = {"lr": settings.lr, "betas": settings.betas, "eps": settings.eps}
        groups = ((nets.gen_a, nets.gen_b), (nets.dis_a, nets.dis_b))
        self.generators, self.discriminators = (
            torch.optim.Adam([p for n in group for p in n.parameters()], weight_decay=settings.weight_decay, **options)
            for group in groups
        )

    def iteration(
        self, a: Tensor, b: Tensor, styles: Styles, pair_of_a: Tensor | None = None, known: Tensor | None = None
    ) -> dict[str, float]:
        """One step of the discriminators, then one of the generators; returns all losses, not weighted."""
        s = self.settings
        rate = s.lr * 0.5 ** ((self.step + s.halve_early) // s.halve_every)
        for optimizer in (self.generators, self.discriminators):
            optimizer.param_groups[0]["lr"] = rate
        logs, shown_a = self._judge(a, b, styles)
        logs |= self._make(a, b, styles, shown_a, pair_of_a, known)
        self.step += 1
        return {name: value.item() for name, value in logs.items()}

    def _style(self, style: Tensor) -> Tensor | None:
        """Of domain b."""
        return None if self.settings.many_to_one else style

    def _judge(self, a: Tensor, b: Tensor, styles: Styles) -> tuple[dict[str, Tensor], Tensor]:
        n = self.nets
        fake_a = n.gen_a.decode(n.gen_b.enc_content(b), styles.judged_a).detach()
        fake_b = n.gen_b.decode(n.gen_a.enc_content(a), self._style(styles.judged_b)).detach()
        of_a, of_b = parts(a, b)
        logs = {
            "real": of_a * off_by(n.dis_a(a), 1) + of_b * off_by(n.dis_b(b), 1),
            "fake": of_b * off_by(n.dis_a(fake_a), 0) + of_a * off_by(n.dis_b(fake_b), 0),
        }
        self.discriminators.zero_grad()
        (logs["real"] + logs["fake"]).backward()
        self.discriminators.step()
        return logs, fake_a

    def _make(
        self, a: Tensor, b: Tensor, styles: Styles, shown_a: Tensor, pair_of_a: Tensor | None, known: Tensor | None
    ) -> dict[str, Tensor]:
        n, s = self.nets, self.settings
        content_a, content_b = n.gen_a.enc_content(a), n.gen_b.enc_content(b)
        style_a, style_b = n.gen_a.encode_style(a), n.gen_b.encode_style(b)
        own_a, own_b = n.gen_a.decode(content_a, style_a), n.gen_b.decode(content_b, style_b)
        fake_a = n.gen_a.decode(content_b, styles.made_a)
        fake_b = n.gen_b.decode(content_a, self._style(styles.made_b))
        again_b, again_a = n.gen_a.enc_content(fake_a), n.gen_b.enc_content(fake_b)
        of_a, of_b = parts(a, b)
        logs = {
            "adversarial": of_b * off_by(n.dis_a(fake_a), 1) + of_a * off_by(n.dis_b(fake_b), 1),
            "reconstruction": of_a * (own_a - a).abs().mean() + of_b * (own_b - b).abs().mean(),
            "content": of_a * (again_a - content_a).abs().mean() + of_b * (again_b - content_b).abs().mean(),
            "style": of_b * (n.gen_a.enc_style(fake_a).flatten(1) - styles.made_a).abs().mean(),
        }
        if not s.many_to_one:
            found_b = n.gen_b.enc_style(fake_b).flatten(1)
            logs["style"] = logs["style"] + of_a * (found_b - styles.made_b).abs().mean()
        total = logs["adversarial"] + s.reconstruction * logs["reconstruction"]
        total = total + s.content * logs["content"] + s.style * logs["style"]
        if s.many_to_one:
            logs["diversity"] = of_b * (fake_a - shown_a).abs().mean()
            total = total - s.diversity * max(0.0, 1 - self.step / s.diversity_steps) * logs["diversity"]
        if s.cycle:
            restored_a, restored_b = n.gen_a.decode(again_a, style_a), n.gen_b.decode(again_b, style_b)
            logs["cycle"] = of_a * (restored_a - a).abs().mean() + of_b * (restored_b - b).abs().mean()
            total = total + s.cycle * logs["cycle"]
        if pair_of_a is not None:
            per_image = (fake_b - pair_of_a).abs().mean((1, 2, 3))
            logs["supervised"] = of_a * per_image[known].sum() / a.shape[0]
            total = total + s.supervised * logs["supervised"]
        self.generators.zero_grad()
        total.backward()
        self.generators.step()
        return logs

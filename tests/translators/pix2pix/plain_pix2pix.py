"""pix2pix and its many-to-one variant in plain torch: what the fast one is tested against.

It imports nothing of ``m2o_fast``. Nets have the published structure and names; a training iteration follows the
published order, for each direction by itself. Any floating dtype works.

Source: Isola, Zhu, Zhou, Efros, CVPR 2017 (arXiv 1611.07004).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_layer(norm: str, channels: int) -> nn.Module:
    """Instance norm has no weights."""
    return {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d, "none": lambda _: nn.Identity()}[norm](channels)


class Dropout(nn.Module):
    """Keeps the numbers where ``kept`` is set, twice as large; all of them where there is no ``kept``."""

    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape."""
        return x if self.kept is None else 2 * x * self.kept


class Level(nn.Module):
    """One level of the U-Net with all levels inside of it."""

    def __init__(
        self, above: int, width: int, inner: Level | None, norm: str, *, outermost: int, dropout: bool
    ) -> None:
        super().__init__()
        bias = norm == "instance"
        self.outermost = bool(outermost)
        if outermost:
            down = [nn.Conv2d(outermost, width, 4, 2, 1, bias=bias)]
            up = [nn.ReLU(True), nn.ConvTranspose2d(2 * width, above, 4, 2, 1), nn.Tanh()]
        elif inner is None:
            down = [nn.LeakyReLU(0.2), nn.Conv2d(above, width, 4, 2, 1, bias=bias)]
            up = [nn.ReLU(True), nn.ConvTranspose2d(width, above, 4, 2, 1, bias=bias), norm_layer(norm, above)]
        else:
            down = [nn.LeakyReLU(0.2), nn.Conv2d(above, width, 4, 2, 1, bias=bias), norm_layer(norm, width)]
            up = [nn.ReLU(True), nn.ConvTranspose2d(2 * width, above, 4, 2, 1, bias=bias), norm_layer(norm, above)]
            up += [Dropout()] if dropout else []
        self.model = nn.Sequential(*down, *([] if inner is None else [inner]), *up)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the image, or to ``[N, 2 C, H, W]``."""
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], dim=1)


class Generator(nn.Module):
    """The published U-Net."""

    def __init__(self, a: int, b: int, width: int = 64, levels: int = 8, norm: str = "batch") -> None:
        super().__init__()
        widths = [width * min(2**k, 8) for k in range(levels)]
        inner: Level | None = None
        for k in range(levels - 1, 0, -1):
            inner = Level(widths[k - 1], widths[k], inner, norm, outermost=0, dropout=4 <= k < levels - 1)
        self.model = Level(b, width, inner, norm, outermost=a, dropout=False)

    def forward(self, x: Tensor, kept: list[Tensor] | None = None, style: Tensor | None = None) -> Tensor:
        """Images ``[N, a, H, W]`` to images; what dropout keeps, the outermost level first, and styles as planes."""
        dropouts = [layer for layer in self.modules() if isinstance(layer, Dropout)]
        for k, layer in enumerate(dropouts):
            layer.kept = None if kept is None else kept[k]
        if style is not None:
            x = torch.cat([x, style[:, :, None, None].expand(-1, -1, *x.shape[2:])], dim=1)
        return self.model(x)


class Discriminator(nn.Module):
    """The published patch discriminator."""

    def __init__(self, channels: int, width: int = 64, layers: int = 3, norm: str = "batch") -> None:
        super().__init__()
        stack: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
        last = width
        for k in range(1, layers + 1):
            wide = width * min(2**k, 8)
            stack += [nn.Conv2d(last, wide, 4, 2 if k < layers else 1, 1, bias=norm == "instance")]
            stack += [norm_layer(norm, wide), nn.LeakyReLU(0.2, True)]
            last = wide
        self.model = nn.Sequential(*stack, nn.Conv2d(last, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Pairs of images ``[N, channels, H, W]`` to logits ``[N, 1, h, w]``."""
        return self.model(x)


class PixelDiscriminator(nn.Module):
    """The published discriminator of single pixels."""

    def __init__(self, channels: int, width: int = 64, norm: str = "batch") -> None:
        super().__init__()
        bias = norm == "instance"
        self.net = nn.Sequential(
            nn.Conv2d(channels, width, 1),
            nn.LeakyReLU(0.2, True),
            nn.Conv2d(width, 2 * width, 1, bias=bias),
            norm_layer(norm, 2 * width),
            nn.LeakyReLU(0.2, True),
            nn.Conv2d(2 * width, 1, 1, bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pairs of images ``[N, channels, H, W]`` to logits of the same size."""
        return self.net(x)


@dataclass
class Settings:
    """The defaults are the published ones; ``styled``: of hms into a multi-modal domain."""

    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    eps: float = 1e-8
    constant: int = 100
    decay: int = 100
    supervised: float = 100.0
    styled: bool = False
    diversity: float = 1.0
    diversity_steps: int = 1000


@dataclass
class Direction:
    """Nets and optimizers of one direction."""

    G: nn.Module
    D: nn.Module
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        s = self.settings
        self.optimizers = [
            torch.optim.Adam(net.parameters(), lr=s.lr, betas=s.betas, eps=s.eps) for net in (self.G, self.D)
        ]
        self.step = 0

    def iteration(
        self,
        x: Tensor,
        truth: Tensor,
        kept: list[Tensor] | None = None,
        z: Tensor | None = None,
        z2: Tensor | None = None,
        known: Tensor | None = None,
    ) -> dict[str, float]:
        """One step of the discriminator, then one of the generator; returns all losses, not weighted."""
        s = self.settings
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = s.lr * (1 - max(0, self.step - s.constant) / s.decay)
        known = torch.ones(len(x), dtype=torch.bool) if known is None else known
        fake = self.G(x, kept, z)
        judged = self.D(torch.cat([x, fake.detach()], 1))
        made = F.binary_cross_entropy_with_logits(judged, torch.zeros_like(judged), reduction="none")
        logs = {"fake": made.mean((1, 2, 3))[known].sum() / len(x)}
        judged = self.D(torch.cat([x, truth], 1))
        real = F.binary_cross_entropy_with_logits(judged, torch.ones_like(judged), reduction="none")
        logs["real"] = real.mean((1, 2, 3))[known].sum() / len(x)
        self.optimizers[1].zero_grad()
        (0.5 * (logs["fake"] + logs["real"])).backward()
        self.optimizers[1].step()

        self.D.requires_grad_(False)
        judged = self.D(torch.cat([x, fake], 1))
        logs["adversarial"] = F.binary_cross_entropy_with_logits(judged, torch.ones_like(judged))
        error = (fake - truth).abs().mean((1, 2, 3))[known].sum() / len(x)
        logs["multimodal" if s.styled else "supervised"] = error
        total = logs["adversarial"] + s.supervised * error
        if s.styled:
            logs["diversity"] = (fake - self.G(x, kept, z2).detach()).abs().mean()
            total = total - s.diversity * max(0.0, 1 - self.step / s.diversity_steps) * logs["diversity"]
        self.optimizers[0].zero_grad()
        total.backward()
        self.optimizers[0].step()
        self.D.requires_grad_(True)
        self.step += 1
        return {name: value.item() for name, value in logs.items()}

"""CycleGAN and its many-to-one variants in plain torch: what the fast one is tested against.

It imports nothing of ``m2o_fast``. Nets are sequences whose state dicts have the published names; a training iteration
follows the published order and computes everything by itself. Any floating dtype works.

Source: Zhu, Park, Isola, Efros, ICCV 2017 (arXiv 1703.10593).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_layer(norm: str, channels: int) -> nn.Module:
    """Instance norm has no weights."""
    return {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d, "none": lambda _: nn.Identity()}[norm](channels)


class ResidualBlock(nn.Module):
    """The published residual block, without dropout."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for last in (False, True):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=norm == "instance")]
            layers += [norm_layer(norm, channels)] + ([] if last else [nn.ReLU(True)])
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape."""
        return x + self.conv_block(x)


class Generator(nn.Module):
    """The published generator."""

    def __init__(self, a: int, b: int, width: int = 64, blocks: int = 9, norm: str = "instance") -> None:
        super().__init__()
        bias = norm == "instance"
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(a, width, 7, bias=bias)]
        layers += [norm_layer(norm, width), nn.ReLU(True)]
        for c in (width, 2 * width):
            layers += [nn.Conv2d(c, 2 * c, 3, 2, 1, bias=bias), norm_layer(norm, 2 * c), nn.ReLU(True)]
        layers += [ResidualBlock(4 * width, norm) for _ in range(blocks)]
        for c in (4 * width, 2 * width):
            layers += [nn.ConvTranspose2d(c, c // 2, 3, 2, 1, 1, bias=bias), norm_layer(norm, c // 2), nn.ReLU(True)]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, b, 7), nn.Tanh())

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        """Images ``[N, a, H, W]`` to images ``[N, b, H, W]``."""
        return self.model(x)


class StyledGenerator(Generator):
    """The same with every norm from the residual blocks on steered by a style: scale 1 + gamma, shift beta."""

    def __init__(self, a: int, b: int, width: int, blocks: int, style_dim: int) -> None:
        super().__init__(a, b, width, blocks)
        steered = [4 * width] * (2 * blocks) + [2 * width, width]
        self.affines = nn.ModuleList([nn.Linear(style_dim, 2 * channels) for channels in steered])

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        """Images ``[N, a, H, W]`` and styles ``[N, style_dim]`` to images ``[N, b, H, W]``."""
        affines = iter(self.affines)

        def steered(y: Tensor) -> Tensor:
            gamma, beta = next(affines)(style)[:, :, None, None].chunk(2, dim=1)
            return (1 + gamma) * F.instance_norm(y) + beta

        behind_blocks = False
        for layer in self.model:
            if isinstance(layer, ResidualBlock):
                behind_blocks = True
                pad, conv1, _, relu, pad2, conv2, _ = layer.conv_block
                x = x + steered(conv2(pad2(relu(steered(conv1(pad(x)))))))
            elif behind_blocks and isinstance(layer, nn.InstanceNorm2d):
                x = steered(x)
            else:
                x = layer(x)
        return x


class Discriminator(nn.Module):
    """The published patch discriminator."""

    def __init__(self, channels: int, width: int = 64, layers: int = 3, norm: str = "instance") -> None:
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
        """Images ``[N, channels, H, W]`` to scores ``[N, 1, h, w]``."""
        return self.model(x)


class StyleEncoder(nn.Module):
    """Strided convolutions, a mean over pixels, a linear layer."""

    def __init__(self, channels: int, width: int, style_dim: int) -> None:
        super().__init__()
        stack: list[nn.Module] = []
        for a, b in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
            stack += [nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.convs = nn.Sequential(*stack)
        self.head = nn.Linear(4 * width, style_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, channels, H, W]`` to styles ``[N, style_dim]``."""
        return self.head(self.convs(x).mean((2, 3)))


class Pool:
    """The published history: a list, filled first; afterwards every second image is exchanged."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def query(self, images: Tensor, numbers: Tensor) -> Tensor:
        """``numbers`` ``[N, 2]`` decide whether an image is exchanged, and for which."""
        shown = []
        for image, (chance, place) in zip(images.detach(), numbers.tolist(), strict=True):
            if len(self.images) < self.size:
                self.images.append(image.clone())
                shown.append(image)
            elif chance < 0.5:
                at = int(place * self.size)
                shown.append(self.images[at])
                self.images[at] = image.clone()
            else:
                shown.append(image)
        return torch.stack(shown)


@dataclass
class Nets:
    """G_A makes B of A, and D_A judges images of B; E reads styles off images of A, B, where there is one."""

    G_A: nn.Module
    G_B: nn.Module
    D_A: nn.Module
    D_B: nn.Module
    E_A: nn.Module | None = None
    E_B: nn.Module | None = None


@dataclass
class Settings:
    """The defaults are the published ones; ``many_to_one``: domain A has a style, images of B are functions of A's."""

    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    eps: float = 1e-8
    constant: int = 100
    decay: int = 100
    cycle: float = 10.0
    identity: float = 0.5
    many_to_one: bool = False
    style: float = 1.0
    diversity: float = 1.0
    diversity_steps: int = 1000
    supervised: float = 0.0
    pool: int = 50


@dataclass
class Draws:
    """Random numbers of an iteration: styles of the images made of B, and what becomes of the fakes in the pools."""

    pool_a: Tensor
    pool_b: Tensor
    z: Tensor | None = None
    z2: Tensor | None = None


@dataclass
class Trainer:
    """Both optimizers, both pools."""

    nets: Nets
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        n, s = self.nets, self.settings
        encoders = [e for e in (n.E_A, n.E_B) if e is not None]
        trained = [p for net in (n.G_A, n.G_B, *encoders) for p in net.parameters()]
        judges = [p for net in (n.D_A, n.D_B) for p in net.parameters()]
        self.optimizers = [torch.optim.Adam(group, lr=s.lr, betas=s.betas, eps=s.eps) for group in (trained, judges)]
        self.pool_a, self.pool_b = Pool(s.pool), Pool(s.pool)
        self.step = 0

    def iteration(
        self, a: Tensor, b: Tensor, draws: Draws, pair_of_a: Tensor | None = None, known: Tensor | None = None
    ):
        """One step of the generators, then one of the discriminators; returns all losses, not weighted."""
        n, s = self.nets, self.settings
        rate = s.lr * (1 - max(0, self.step - s.constant) / s.decay)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        for net in (n.D_A, n.D_B):
            net.requires_grad_(False)
        fake_b = n.G_A(a)
        restored_a = self._restored_a(fake_b, a)
        fake_a = n.G_B(b, draws.z)
        restored_b = n.G_A(fake_a)
        logs = {"adversarial": (n.D_A(fake_b) - 1).square().mean() + (n.D_B(fake_a) - 1).square().mean()}
        logs["cycle"] = (restored_b - b).abs().mean()
        if restored_a is not None:
            logs["cycle"] = logs["cycle"] + (restored_a - a).abs().mean()
        total = logs["adversarial"] + s.cycle * logs["cycle"]
        if s.identity and a.shape[1] == b.shape[1]:
            logs["identity"] = (n.G_A(b) - b).abs().mean()
            if not s.many_to_one:
                logs["identity"] = logs["identity"] + (n.G_B(a) - a).abs().mean()
            total = total + s.cycle * s.identity * logs["identity"]
        if s.many_to_one:
            if n.E_A is not None:
                logs["style"] = (n.E_A(fake_a) - draws.z).abs().mean()
                total = total + s.style * logs["style"]
            logs["diversity"] = (fake_a - n.G_B(b, draws.z2).detach()).abs().mean()
            total = total - s.diversity * max(0.0, 1 - self.step / s.diversity_steps) * logs["diversity"]
        if pair_of_a is not None:
            per_image = (fake_b - pair_of_a).abs().mean((1, 2, 3))
            logs["supervised"] = per_image[known].sum() / a.shape[0]
            total = total + s.supervised * logs["supervised"]
        self.optimizers[0].zero_grad()
        total.backward()
        self.optimizers[0].step()
        logs |= self._judge(a, b, fake_a, fake_b, draws)
        self.step += 1
        return {name: value.item() for name, value in logs.items()}

    def _restored_a(self, fake_b: Tensor, a: Tensor) -> Tensor | None:
        if not self.settings.many_to_one:
            return self.nets.G_B(fake_b)
        return None if self.nets.E_A is None else self.nets.G_B(fake_b, self.nets.E_A(a))

    def _judge(self, a: Tensor, b: Tensor, fake_a: Tensor, fake_b: Tensor, draws: Draws) -> dict[str, Tensor]:
        n = self.nets
        for net in (n.D_A, n.D_B):
            net.requires_grad_(True)
        shown_b = self.pool_b.query(fake_b, draws.pool_b)
        shown_a = self.pool_a.query(fake_a, draws.pool_a)
        logs = {
            "real": (n.D_A(b) - 1).square().mean() + (n.D_B(a) - 1).square().mean(),
            "fake": n.D_A(shown_b).square().mean() + n.D_B(shown_a).square().mean(),
        }
        self.optimizers[1].zero_grad()
        (0.5 * (logs["real"] + logs["fake"])).backward()
        self.optimizers[1].step()
        return logs

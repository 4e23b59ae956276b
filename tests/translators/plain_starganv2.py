"""StarGAN v2 in plain torch, as published: the second implementation that the fast one is tested against.

It imports nothing of ``m2o_fast`` and computes everything from scratch in the published order: all four steps of an
iteration, nothing shared between them, eight encoder passes, all heads of all domains. Any floating dtype works.
Parameter names are those of the published checkpoints.

Source: Choi et al., StarGAN v2, CVPR 2020 (arXiv 1912.01865).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2
EPS = 1e-5


class InstanceNorm(nn.Module):
    """Instance norm with a learned scale and shift per channel; biased variance, no running statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=EPS)


class AdaIN(nn.Module):
    """Instance norm whose scale ``1 + gamma`` and shift ``beta`` are linear in the style: ``fc(s) = [gamma, beta]``."""

    def __init__(self, style_dim: int, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(style_dim, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        gamma, beta = self.fc(style)[:, :, None, None].chunk(2, dim=1)
        return (1 + gamma) * F.instance_norm(x, eps=EPS) + beta


class ResBlk(nn.Module):
    """Residual block of the encoders and the discriminator; the width changes in the second convolution."""

    def __init__(self, channels_in: int, channels_out: int, norm: bool = False, down: bool = False) -> None:
        super().__init__()
        self.norm, self.down = norm, down
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels_in, channels_out, 3, 1, 1)
        if norm:
            self.norm1 = InstanceNorm(channels_in)
            self.norm2 = InstanceNorm(channels_in)
        if channels_in != channels_out:
            self.conv1x1 = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def shortcut(self, x: Tensor) -> Tensor:
        if hasattr(self, "conv1x1"):
            x = self.conv1x1(x)
        return F.avg_pool2d(x, 2) if self.down else x

    def residual(self, x: Tensor) -> Tensor:
        if self.norm:
            x = self.norm1(x)
        x = self.conv1(F.leaky_relu(x, SLOPE))
        if self.down:
            x = F.avg_pool2d(x, 2)
        if self.norm:
            x = self.norm2(x)
        return self.conv2(F.leaky_relu(x, SLOPE))

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.residual(x)) / math.sqrt(2)


class AdainResBlk(nn.Module):
    """Residual block of the decoder; the width changes in the first convolution.

    ``with_shortcut=False`` (published option ``w_hpf > 0``) returns the residual alone, unscaled; the weight of the
    1x1 convolution then exists without being used.
    """

    def __init__(
        self, channels_in: int, channels_out: int, style_dim: int, up: bool = False, with_shortcut: bool = True
    ) -> None:
        super().__init__()
        self.up, self.with_shortcut = up, with_shortcut
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1)
        self.norm1 = AdaIN(style_dim, channels_in)
        self.norm2 = AdaIN(style_dim, channels_out)
        if channels_in != channels_out:
            self.conv1x1 = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def shortcut(self, x: Tensor) -> Tensor:
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv1x1(x) if hasattr(self, "conv1x1") else x

    def residual(self, x: Tensor, style: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm1(x, style), SLOPE)
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = self.conv1(x)
        return self.conv2(F.leaky_relu(self.norm2(x, style), SLOPE))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        residual = self.residual(x, style)
        if not self.with_shortcut:
            return residual
        return (residual + self.shortcut(x)) / math.sqrt(2)


def log2_size(size: int) -> int:
    """The binary logarithm of an image size, which must be a power of two of at least 32."""
    if size < 32 or size & (size - 1):
        raise ValueError(f"image size must be a power of two and at least 32, got {size}")
    return size.bit_length() - 1


def doubling_widths(first: int, steps: int, widest: int) -> list[int]:
    """``steps + 1`` widths: ``first``, which is not clamped, then the double of the one before, at most ``widest``."""
    widths = [first]
    for _ in range(steps):
        widths.append(min(2 * widths[-1], widest))
    return widths


def generator_widths(size: int, base_width: int | None, max_width: int, extra: int = 0) -> list[int]:
    """Widths along the generator's encoder, from the stem to the bottleneck."""
    return doubling_widths(base_width or 2**14 // size, log2_size(size) - 4 + extra, max_width)


def classifier_trunk(size: int, base_width: int | None, max_width: int) -> tuple[list[nn.Module], int]:
    """What follows the first convolution of the style encoder and of the discriminator, and its output width."""
    widths = doubling_widths(base_width or 2**14 // size, log2_size(size) - 2, max_width)
    blocks = [ResBlk(a, b, down=True) for a, b in zip(widths, widths[1:], strict=False)]
    width = widths[-1]
    return [*blocks, nn.LeakyReLU(SLOPE), nn.Conv2d(width, width, 4), nn.LeakyReLU(SLOPE)], width


class Generator(nn.Module):
    """``[N, 3, S, S]`` and styles ``[N, style_dim]`` -> ``[N, 3, S, S]``; no tanh at the end."""

    def __init__(
        self, size: int, style_dim: int = 64, max_width: int = 512, w_hpf: float = 0, base_width: int | None = None
    ) -> None:
        super().__init__()
        widths = generator_widths(size, base_width, max_width, extra=1 if w_hpf > 0 else 0)
        shortcut = w_hpf == 0
        last = widths[-1]
        self.from_rgb = nn.Conv2d(3, widths[0], 3, 1, 1)
        self.encode = nn.ModuleList()
        self.decode = nn.ModuleList()
        for a, b in zip(widths, widths[1:], strict=False):
            self.encode.append(ResBlk(a, b, norm=True, down=True))
            self.decode.insert(0, AdainResBlk(b, a, style_dim, up=True, with_shortcut=shortcut))
        for _ in range(2):
            self.encode.append(ResBlk(last, last, norm=True))
            self.decode.insert(0, AdainResBlk(last, last, style_dim, with_shortcut=shortcut))
        self.to_rgb = nn.Sequential(InstanceNorm(widths[0]), nn.LeakyReLU(SLOPE), nn.Conv2d(widths[0], 3, 1))
        initialise(self)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        x = self.from_rgb(x)
        for block in self.encode:
            x = block(x)
        for block in self.decode:
            x = block(x, style)
        return self.to_rgb(x)


def pick(heads: Tensor, labels: Tensor) -> Tensor:
    """Row n of head ``labels[n]``: ``[N, K, ...]`` -> ``[N, ...]``. The other heads get zero gradients, not none."""
    return heads[torch.arange(labels.shape[0]), labels]


def mapping_shared(latent_dim: int, hidden_dim: int) -> nn.Sequential:
    """The layers of the mapping network that all domains share."""
    layers: list[nn.Module] = [nn.Linear(latent_dim, hidden_dim), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Linear(hidden_dim, hidden_dim), nn.ReLU()]
    return nn.Sequential(*layers)


def mapping_head(hidden_dim: int, style_dim: int) -> nn.Sequential:
    """The layers of the mapping network that belong to one domain."""
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(hidden_dim, hidden_dim), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden_dim, style_dim))


class MappingNetwork(nn.Module):
    """Latents ``[N, latent_dim]`` and labels ``[N]`` -> styles ``[N, style_dim]``."""

    def __init__(self, latent_dim: int = 16, style_dim: int = 64, domains: int = 2, hidden_dim: int = 512) -> None:
        super().__init__()
        self.shared = mapping_shared(latent_dim, hidden_dim)
        self.unshared = nn.ModuleList(mapping_head(hidden_dim, style_dim) for _ in range(domains))
        initialise(self)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        hidden = self.shared(z)
        return pick(torch.stack([head(hidden) for head in self.unshared], dim=1), labels)


class StyleEncoder(nn.Module):
    """Images ``[N, 3, S, S]`` and labels ``[N]`` -> styles ``[N, style_dim]``."""

    def __init__(
        self, size: int, style_dim: int = 64, domains: int = 2, max_width: int = 512, base_width: int | None = None
    ) -> None:
        super().__init__()
        trunk, width = classifier_trunk(size, base_width, max_width)
        self.shared = nn.Sequential(nn.Conv2d(3, base_width or 2**14 // size, 3, 1, 1), *trunk)
        self.unshared = nn.ModuleList(nn.Linear(width, style_dim) for _ in range(domains))
        initialise(self)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        hidden = self.shared(x).flatten(1)
        return pick(torch.stack([head(hidden) for head in self.unshared], dim=1), labels)


class Discriminator(nn.Module):
    """Images ``[N, 3, S, S]`` and labels ``[N]`` -> logits ``[N]``."""

    def __init__(self, size: int, domains: int = 2, max_width: int = 512, base_width: int | None = None) -> None:
        super().__init__()
        trunk, width = classifier_trunk(size, base_width, max_width)
        stem = nn.Conv2d(3, base_width or 2**14 // size, 3, 1, 1)
        self.main = nn.Sequential(stem, *trunk, nn.Conv2d(width, domains, 1))
        initialise(self)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return pick(self.main(x).flatten(1), labels)


@torch.no_grad()
def initialise(net: nn.Module) -> None:
    """Every convolution and linear layer: weights normal with std ``sqrt(2 / fan_in)``, biases 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, math.sqrt(2 / fan_in))
            if module.bias is not None:
                module.bias.zero_()


@dataclass
class Nets:
    """The four networks of a model."""

    generator: nn.Module
    mapping: nn.Module
    style_encoder: nn.Module
    discriminator: nn.Module


@dataclass(frozen=True)
class Hyper:
    """Hyper-parameters of the training; the defaults are the published ones."""

    lr: float = 1e-4
    mapping_lr: float = 1e-6
    betas: tuple[float, float] = (0.0, 0.99)
    eps: float = 1e-8
    weight_decay: float = 1e-4
    lambda_reg: float = 1.0
    lambda_sty: float = 1.0
    lambda_ds: float = 1.0
    lambda_cyc: float = 1.0
    lambda_sup: float = 1.0
    ds_iter: int = 100_000
    ema_decay: float = 0.999

    def lambda_ds_at(self, index: int) -> float:
        """Weight of the diversity loss at 0-based iteration ``index``: falls linearly to 0 at ``ds_iter``."""
        return self.lambda_ds * max(0.0, 1.0 - index / self.ds_iter)


Losses = dict[str, Tensor]


def r1_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """Half the squared norm of ``d sum(logits) / dx`` per sample, averaged; keeps the second-order graph."""
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return 0.5 * gradient.pow(2).flatten(1).sum(1).mean()


def discriminator_losses(
    nets: Nets, hyper: Hyper, x: Tensor, y_org: Tensor, y_trg: Tensor, style_of: Callable[[], Tensor]
) -> Losses:
    """Losses of one discriminator step; ``style_of`` computes the target styles."""
    x = x.detach().requires_grad_()
    logits = nets.discriminator(x, y_org)
    real = F.softplus(-logits).mean()
    r1 = r1_penalty(logits, x)
    with torch.no_grad():
        fakes = nets.generator(x, style_of())
    fake = F.softplus(nets.discriminator(fakes, y_trg)).mean()
    return {"real": real, "fake": fake, "r1": r1, "total": real + fake + hyper.lambda_reg * r1}


def generator_losses(
    nets: Nets,
    hyper: Hyper,
    lambda_ds: float,
    x: Tensor,
    y_org: Tensor,
    y_trg: Tensor,
    style_of: Callable[[], Tensor],
    style2_of: Callable[[], Tensor],
) -> Losses:
    """Losses of one generator step; the two functions compute the target styles of the two images."""
    style = style_of()
    fakes = nets.generator(x, style)
    adv = F.softplus(-nets.discriminator(fakes, y_trg)).mean()
    sty = (nets.style_encoder(fakes, y_trg) - style).abs().mean()
    ds = (fakes - nets.generator(x, style2_of()).detach()).abs().mean()
    cyc = (nets.generator(fakes, nets.style_encoder(x, y_org)) - x).abs().mean()
    total = adv + hyper.lambda_sty * sty - lambda_ds * ds + hyper.lambda_cyc * cyc
    return {"adv": adv, "sty": sty, "ds": ds, "cyc": cyc, "total": total}


class TrainerBase:
    """Adam per network, moving averages and the iteration counter.

    Attributes:
        nets: The networks being trained, by name.
        ema: Their exponential moving averages (none of the discriminator).
        optimizers: One Adam per network, its L2 weight decay added to the gradient.
        index: 0-based number of the next iteration.
    """

    def __init__(self, nets: Nets, hyper: Hyper | None = None, index: int = 0) -> None:
        hyper = hyper or Hyper()
        self.nets, self.hyper, self.index = nets, hyper, index
        self.by_name = vars(nets)
        self.ema = {name: copy.deepcopy(net) for name, net in self.by_name.items() if name != "discriminator"}
        self.optimizers = {
            name: torch.optim.Adam(
                net.parameters(),
                lr=hyper.mapping_lr if name == "mapping" else hyper.lr,
                betas=hyper.betas,
                eps=hyper.eps,
                weight_decay=hyper.weight_decay,
            )
            for name, net in self.by_name.items()
        }

    def zero_grad(self) -> None:
        """Forget the gradients of all networks."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def finish_iteration(self) -> None:
        """Move the averages and count the iteration."""
        decay = self.hyper.ema_decay
        for name, averaged in self.ema.items():
            for mean, value in zip(averaged.parameters(), self.by_name[name].parameters(), strict=True):
                mean.copy_(decay * mean + (1 - decay) * value)
        self.index += 1


class PlainTrainer(TrainerBase):
    """The published training iteration of StarGAN v2: D latent, D reference, G latent (G, F, E), G reference (G)."""

    def step(self, losses: Losses, names: tuple[str, ...]) -> dict[str, float]:
        """One optimizer step of the named networks. Parameters without a gradient are skipped by Adam."""
        self.zero_grad()
        losses["total"].backward()
        for name in names:
            self.optimizers[name].step()
        return {name: loss.item() for name, loss in losses.items()}

    def iteration(
        self,
        x_real: Tensor,
        y_org: Tensor,
        y_trg: Tensor,
        z: Tensor,
        z2: Tensor,
        x_ref: Tensor,
        x_ref2: Tensor,
    ) -> dict[str, dict[str, float]]:
        """One iteration on images ``[N, 3, S, S]``, labels ``[N]`` and latents ``[N, latent_dim]``.

        Returns:
            The losses by phase (``d_latent``, ``d_reference``, ``g_latent``, ``g_reference``) and name.
        """
        nets, hyper = self.nets, self.hyper
        labels = (y_org, y_trg)
        weight = hyper.lambda_ds_at(self.index)

        def latent() -> Tensor:
            return nets.mapping(z, y_trg)

        def latent2() -> Tensor:
            return nets.mapping(z2, y_trg)

        def reference() -> Tensor:
            return nets.style_encoder(x_ref, y_trg)

        def reference2() -> Tensor:
            return nets.style_encoder(x_ref2, y_trg)

        logs = {}
        losses = discriminator_losses(nets, hyper, x_real, *labels, latent)
        logs["d_latent"] = self.step(losses, ("discriminator",))
        losses = discriminator_losses(nets, hyper, x_real, *labels, reference)
        logs["d_reference"] = self.step(losses, ("discriminator",))
        losses = generator_losses(nets, hyper, weight, x_real, *labels, latent, latent2)
        logs["g_latent"] = self.step(losses, ("generator", "mapping", "style_encoder"))
        losses = generator_losses(nets, hyper, weight, x_real, *labels, reference, reference2)
        logs["g_reference"] = self.step(losses, ("generator",))
        self.finish_iteration()
        return logs

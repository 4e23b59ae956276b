"""The training of StarGAN v2 in plain torch, as published: what the fast one is tested against.

It imports nothing of ``m2o_fast`` and computes everything from scratch in the published order: all four steps of an
iteration, nothing shared between them, eight encoder passes, all heads of all domains. Any floating dtype works.

Source: Choi et al., StarGAN v2, CVPR 2020 (arXiv 1912.01865).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from plain_networks import Nets
from torch import Tensor


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

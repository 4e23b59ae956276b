"""HMU and HMS on StarGAN v2, one sample at a time: the naive second implementation of the many-to-one rules.

A batch is a list of samples; every sample goes through the networks alone, and a loss is the sum over the samples
divided by their full number N. Nothing is shared between phases, samples or terms.

Names of the parameters, for copying weights (g: stem, normally one per domain; k: domains with a style only):

- generator: ``stem_in.{g}.{weight,bias}``; ``encode.{i}.{conv1,conv2,norm1,norm2,conv1x1}``, the two bottleneck blocks
  last; ``decode.{i}``, the two bottleneck blocks first; ``stem_out.{g}.0.{weight,bias}`` (instance norm, absent
  with ``style_op="demod"``), ``stem_out.{g}.2.{weight,bias}`` (1x1 convolution).
  ``decode.{i}`` has ``{conv1,conv2,conv1x1}`` and, with ``"adain"``, ``{norm1,norm2}.fc`` (``[gamma, beta]`` rows),
  with ``"demod"``, ``{affine1,affine2}`` (scales of the input channels of ``conv1`` and ``conv2``).
- mapping: ``shared.{0,2,4,6}``, ``unshared.{k}.{0,2,4,6}``.
- style_encoder: ``stem.{g}`` (of multi-modal domains), ``trunk.{i}`` (residual blocks, LeakyReLU, 4x4 convolution,
  LeakyReLU), ``unshared.{k}``.
- discriminator: ``stem.{g}``, ``trunk.{i}`` (the same), ``head`` (1x1 convolution with one row per domain).

With ``layers="block"``, ``encode.0``, the last one of ``decode`` and ``trunk.0`` have a block per domain below them,
``encode.0.{k}``; with ``"adapter"``, all domains have stem 0, before which images go through ``adapt_in.{k}`` and after
which they go through ``adapt_out.{k}`` (1x1 convolutions).

With two or more domains without style, the columns of the decoder's style-dependent linear layers after the first
``style_dim`` ones belong to those domains, in their order.

Source: arXiv 2402.12531.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from plain_networks import (
    SLOPE,
    AdainResBlk,
    InstanceNorm,
    Nets,
    ResBlk,
    classifier_trunk,
    generator_widths,
    initialise,
    log2_size,
    mapping_head,
    mapping_shared,
)
from plain_starganv2 import Hyper, TrainerBase
from torch import Tensor, nn


@dataclass(frozen=True)
class PlainDomain:
    """A domain; domains with the same ``stem`` share first and last layers (``None``: a stem of its own).

    With ``one_hot`` its images have one channel per class, 1 for the class of the pixel and -1 for the others; the
    generator's last layer gives logits, of which everything but the reconstruction losses sees 2 softmax - 1.
    """

    channels: int
    multimodal: bool
    stem: int | None = None
    one_hot: bool = False


@dataclass(frozen=True)
class Setup:
    """Everything that decides the shapes of the networks."""

    domains: tuple[PlainDomain, ...]
    size: int = 32
    style_dim: int = 64
    latent_dim: int = 16
    hidden_dim: int = 512
    base_width: int = 512
    max_width: int = 512
    style_op: Literal["adain", "demod"] = "adain"
    bounded: bool = False
    layers: Literal["stem", "block", "adapter"] = "stem"
    zero_style: bool = True
    diversity_to_all: bool = False
    domain_code: bool = True
    downsamplings: int | None = None
    of_labels: Literal["cross_entropy", "absolute"] = "cross_entropy"

    def stem(self, domain: int) -> int:
        """The stem that a domain uses."""
        own = self.domains[domain].stem
        return 0 if self.layers == "adapter" else domain if own is None else own

    def channels(self, domain: int, among: Iterable[int]) -> int:
        """What the stem of a domain takes or gives, where adapters of these domains are around it."""
        if self.layers == "adapter":
            return max(self.domains[k].channels for k in among)
        return self.domains[domain].channels

    @property
    def styled(self) -> list[int]:
        """Indices of the domains that have a style."""
        return [k for k, domain in enumerate(self.domains) if domain.multimodal or not self.zero_style]

    @property
    def code(self) -> list[int]:
        """The domains without style that the decoder is told apart by a one-hot code; none if there is only one."""
        without = [k for k in range(len(self.domains)) if k not in self.styled]
        return without if len(without) >= 2 and self.domain_code else []


def by_index(items: Iterable[tuple[int, nn.Module]]) -> nn.ModuleDict:
    """Modules under numbers that may have gaps."""
    return nn.ModuleDict({str(k): module for k, module in items})


def first_layers(setup: Setup, domains: Sequence[int]) -> nn.ModuleDict:
    """One 3x3 convolution per stem of the given domains."""
    channels = {setup.stem(k): setup.channels(k, domains) for k in domains}
    return by_index((g, nn.Conv2d(c, setup.base_width, 3, 1, 1)) for g, c in channels.items())


def adapters(setup: Setup, domains: Sequence[int], out: bool = False) -> nn.ModuleDict:
    """A 1x1 convolution of each of the given domains to the channels of the stem, or from them; none without."""
    ways = {k: (setup.domains[k].channels, setup.channels(k, domains)) for k in domains if setup.layers == "adapter"}
    return by_index((k, nn.Conv2d(*(way[::-1] if out else way), 1)) for k, way in ways.items())


def through(layers: nn.ModuleDict, x: Tensor, domain: int) -> Tensor:
    """Through the layer of a domain, where it has one."""
    return layers[str(domain)](x) if str(domain) in layers else x


def of_domain(block: nn.Module, domain: int) -> nn.Module:
    """The block of a domain, or the one of all."""
    return block[str(domain)] if isinstance(block, nn.ModuleDict) else block


def each(setup: Setup, domains: Iterable[int], make: Callable[[], nn.Module]) -> nn.Module:
    """The block next to the stem: one for every domain, or for all."""
    return by_index((k, make()) for k in domains) if setup.layers == "block" else make()


def last_layers(setup: Setup) -> nn.ModuleDict:
    """Per stem: instance norm (adain only: it would undo what demodulation keeps), LeakyReLU, 1x1 convolution."""

    def layer(channels: int) -> nn.Module:
        norm = InstanceNorm(setup.base_width) if setup.style_op == "adain" else nn.Identity()
        return nn.Sequential(norm, nn.LeakyReLU(SLOPE), nn.Conv2d(setup.base_width, channels, 1))

    every = range(len(setup.domains))
    return by_index({setup.stem(k): layer(setup.channels(k, every)) for k in every}.items())


def modulated_conv(x: Tensor, conv: nn.Conv2d, scales: Tensor) -> Tensor:
    """One image ``[1, Ci, H, W]`` through ``conv`` with its weights scaled per input channel, then demodulated.

    The weights are built explicitly: scaled by ``scales [1, Ci]``, then every output channel to norm 1.
    """
    weight = conv.weight * scales[0][None, :, None, None]
    norm = torch.sqrt(weight.pow(2).sum(dim=(1, 2, 3), keepdim=True) + 1e-8)
    return F.conv2d(x, weight / norm, conv.bias, padding=1)


class DemodResBlk(nn.Module):
    """Decoder block with modulated convolutions in place of AdaIN; width and shortcut as in the AdaIN block."""

    def __init__(self, channels_in: int, channels_out: int, condition_dim: int, up: bool = False) -> None:
        super().__init__()
        self.up = up
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1)
        self.affine1 = nn.Linear(condition_dim, channels_in)
        self.affine2 = nn.Linear(condition_dim, channels_out)
        if channels_in != channels_out:
            self.conv1x1 = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shortcut, residual = x, F.leaky_relu(x, SLOPE)
        if self.up:
            shortcut = F.interpolate(shortcut, scale_factor=2, mode="nearest")
            residual = F.interpolate(residual, scale_factor=2, mode="nearest")
        if hasattr(self, "conv1x1"):
            shortcut = self.conv1x1(shortcut)
        residual = modulated_conv(residual, self.conv1, self.affine1(condition))
        residual = modulated_conv(F.leaky_relu(residual, SLOPE), self.conv2, self.affine2(condition))
        return (residual + shortcut) / math.sqrt(2)


class Generator(nn.Module):
    """One image ``[1, c_a, S, S]`` of domain a and a style ``[1, style_dim]`` -> ``[1, c_b, S, S]`` of domain b."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.setup = setup
        finer = 0 if setup.downsamplings is None else setup.downsamplings - log2_size(setup.size) + 4
        widths = generator_widths(setup.size, setup.base_width, setup.max_width, extra=finer)
        last = widths[-1]
        condition_dim = setup.style_dim + len(setup.code)
        block = AdainResBlk if setup.style_op == "adain" else DemodResBlk
        every = range(len(setup.domains))
        self.adapt_in, self.stem_in = adapters(setup, every), first_layers(setup, every)
        steps = list(zip(widths, widths[1:], strict=False))
        down = [(a, b, True, True) for a, b in steps] + [(last, last, True)] * 2
        up = [(last, last, condition_dim)] * 2 + [(b, a, condition_dim, True) for a, b in steps[::-1]]
        first = each(setup, every, lambda: ResBlk(*down[0]))
        self.encode = nn.ModuleList([first, *(ResBlk(*given) for given in down[1:])])
        final = each(setup, every, lambda: block(*up[-1]))
        self.decode = nn.ModuleList([*(block(*given) for given in up[:-1]), final])
        self.stem_out, self.adapt_out = last_layers(setup), adapters(setup, every, out=True)
        initialise(self)
        self.initialise_modulation()

    @torch.no_grad()
    def initialise_modulation(self) -> None:
        """Channel scales start around 1, with unit variance over normal styles."""
        for block in self.modules():
            if isinstance(block, DemodResBlk):
                for affine in (block.affine1, block.affine2):
                    affine.weight.normal_(0, 1 / math.sqrt(self.setup.style_dim))
                    affine.bias.fill_(1)

    def condition(self, style: Tensor, target: int) -> Tensor:
        """What the decoder sees: the style, then the one-hot code of a uni-modal target (zeros for a multi-modal)."""
        code = [1.0 if k == target else 0.0 for k in self.setup.code]
        return torch.cat([style, style.new_tensor([code])], dim=1) if code else style

    def forward(self, x: Tensor, source: int, target: int, style: Tensor) -> Tensor:
        condition = self.condition(style, target)
        x = self.stem_in[str(self.setup.stem(source))](through(self.adapt_in, x, source))
        for block in self.encode:
            x = of_domain(block, source)(x)
        for block in self.decode:
            x = of_domain(block, target)(x, condition)
        x = through(self.adapt_out, self.stem_out[str(self.setup.stem(target))](x), target)
        domain = self.setup.domains[target]
        return torch.tanh(x) if self.setup.bounded and domain.multimodal and not domain.one_hot else x


class MappingNetwork(nn.Module):
    """One latent ``[1, latent_dim]`` -> style ``[1, style_dim]``; heads of the domains with a style only."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.shared = mapping_shared(setup.latent_dim, setup.hidden_dim)
        self.unshared = by_index((k, mapping_head(setup.hidden_dim, setup.style_dim)) for k in setup.styled)
        initialise(self)

    def forward(self, z: Tensor, domain: int) -> Tensor:
        return self.unshared[str(domain)](self.shared(z))


class Classifier(nn.Module):
    """What style encoder and discriminator share: one image ``[1, c_k, S, S]`` -> ``[1, width, 1, 1]``."""

    def __init__(self, setup: Setup, domains: Sequence[int]) -> None:
        super().__init__()
        self.setup = setup
        (first, *rest), self.width = classifier_trunk(setup.size, setup.base_width, setup.max_width)
        self.adapt_in, self.stem = adapters(setup, domains), first_layers(setup, domains)
        self.trunk = nn.ModuleList([each(setup, domains, lambda: copy.deepcopy(first)), *rest])

    def hidden(self, x: Tensor, domain: int) -> Tensor:
        x = self.stem[str(self.setup.stem(domain))](through(self.adapt_in, x, domain))
        for block in self.trunk:
            x = of_domain(block, domain)(x)
        return x


class StyleEncoder(Classifier):
    """One image ``[1, c_k, S, S]`` -> style ``[1, style_dim]``; stems and heads of the domains with a style only."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, setup.styled)
        self.unshared = by_index((k, nn.Linear(self.width, setup.style_dim)) for k in setup.styled)
        initialise(self)

    def forward(self, x: Tensor, domain: int) -> Tensor:
        hidden = self.hidden(x, domain)
        return self.unshared[str(domain)](hidden.flatten(1))


class Discriminator(Classifier):
    """One image ``[1, c_k, S, S]`` -> logit ``[1]`` of domain k."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, range(len(setup.domains)))
        self.head = nn.Conv2d(self.width, len(setup.domains), 1)
        initialise(self)

    def forward(self, x: Tensor, domain: int) -> Tensor:
        return self.head(self.hidden(x, domain)).flatten(1)[:, domain]


def build_nets(setup: Setup) -> Nets:
    """The four networks, freshly initialised from torch's global random state, in the default dtype."""
    return Nets(Generator(setup), MappingNetwork(setup), StyleEncoder(setup), Discriminator(setup))


@dataclass
class Sample:
    """One source image with what its translation needs.

    Attributes:
        x: ``[c_a, S, S]``, an image of domain ``source``.
        source: Index a of its domain.
        target: Index b of the domain to translate into.
        z: ``[latent_dim]``.
        z2: ``[latent_dim]``.
        ref: ``[c_b, S, S]``, an image of domain ``target``.
        ref2: Another one.
        paired: ``[c_b, S, S]``, the true translation, if known.
    """

    x: Tensor
    source: int
    target: int
    z: Tensor
    z2: Tensor
    ref: Tensor
    ref2: Tensor
    paired: Tensor | None = None


class NaiveTrainer(TrainerBase):
    """The training iteration of StarGAN v2 under the many-to-one rules, one sample at a time.

    A network is stepped only if the phase's loss reaches any of its parameters; those it does not reach then have
    gradient 0, so that Adam's weight decay and moments act on them all the same.
    """

    def __init__(self, setup: Setup, nets: Nets, hyper: Hyper | None = None, index: int = 0) -> None:
        super().__init__(nets, hyper, index)
        self.setup = setup

    def zero_style(self, sample: Sample) -> Tensor:
        """The style of a uni-modal domain."""
        return torch.zeros(1, self.setup.style_dim, dtype=sample.x.dtype)

    def has_style(self, domain: int) -> bool:
        """Whether a domain has a style: multi-modal ones, and all without ``zero_style``."""
        return domain in self.setup.styled

    def latent_style(self, sample: Sample, second: bool = False) -> Tensor:
        """The style of the target domain from a latent code, or 0."""
        if not self.has_style(sample.target):
            return self.zero_style(sample)
        return self.nets.mapping((sample.z2 if second else sample.z)[None], sample.target)

    def reference_style(self, sample: Sample, second: bool = False) -> Tensor:
        """The style of a reference image, or 0."""
        if not self.has_style(sample.target):
            return self.zero_style(sample)
        return self.nets.style_encoder((sample.ref2 if second else sample.ref)[None], sample.target)

    def source_style(self, sample: Sample) -> Tensor:
        """The style of the source image, or 0."""
        if not self.has_style(sample.source):
            return self.zero_style(sample)
        return self.nets.style_encoder(sample.x[None], sample.source)

    def seen(self, output: Tensor, domain: int) -> Tensor:
        """The image that an output of the generator stands for."""
        if not self.setup.domains[domain].one_hot:
            return output
        powers = torch.exp(output - output.max())
        return 2 * powers / powers.sum(dim=1, keepdim=True) - 1

    def error(self, output: Tensor, image: Tensor, domain: int) -> Tensor:
        """Of one sample: mean absolute error, or minus the mean log-probability of the pixels' classes."""
        if not self.setup.domains[domain].one_hot or self.setup.of_labels == "absolute":
            return (self.seen(output, domain) - image).abs().mean()
        of_class = (image + 1) / 2
        return (torch.logsumexp(output, dim=1) - (output * of_class).sum(dim=1)).mean()

    def discriminator_terms(self, sample: Sample, style_of: Callable[..., Tensor]) -> dict[str, Tensor]:
        """The terms of one sample in a discriminator step."""
        x = sample.x[None].detach().requires_grad_()
        logit = self.nets.discriminator(x, sample.source)
        (gradient,) = torch.autograd.grad(logit.sum(), x, create_graph=True)
        with torch.no_grad():
            fake = self.nets.generator(x, sample.source, sample.target, style_of(sample))
        fake_logit = self.nets.discriminator(self.seen(fake, sample.target), sample.target)
        return {
            "real": F.softplus(-logit).sum(),
            "fake": F.softplus(fake_logit).sum(),
            "r1": 0.5 * gradient.pow(2).sum(),
        }

    def generator_terms(self, sample: Sample, style_of: Callable[..., Tensor]) -> dict[str, Tensor]:
        """The terms of one sample in a generator step; those that its domains do not have are missing."""
        nets, source, target = self.nets, sample.source, sample.target
        x = sample.x[None]
        style = style_of(sample)
        output = nets.generator(x, source, target, style)
        fake = self.seen(output, target)
        cycled = nets.generator(fake, target, source, self.source_style(sample))
        terms = {
            "adv": F.softplus(-nets.discriminator(fake, target)).sum(),
            "cyc": self.error(cycled, x, source),
        }
        if self.has_style(target):
            terms["sty"] = (nets.style_encoder(fake, target) - style).abs().mean()
            if self.setup.domains[target].multimodal or self.setup.diversity_to_all:
                fake2 = self.seen(nets.generator(x, source, target, style_of(sample, second=True)), target)
                terms["ds"] = (fake - fake2.detach()).abs().mean()
        if sample.paired is not None and not self.setup.domains[target].multimodal:
            terms["sup"] = self.error(output, sample.paired[None], target)
        return terms

    def phase(
        self,
        samples: Sequence[Sample],
        terms_of: Callable[..., dict[str, Tensor]],
        style_of: Callable[..., Tensor],
        weights: dict[str, float],
        networks: tuple[str, ...],
    ) -> dict[str, float]:
        """One optimizer step on the weighted sum of the terms over all samples, divided by N."""
        sums = {name: torch.zeros((), dtype=samples[0].x.dtype) for name in weights}
        for sample in samples:
            for name, term in terms_of(sample, style_of).items():
                sums[name] = sums[name] + term
        losses = {name: value / len(samples) for name, value in sums.items()}
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        self.zero_grad()
        total.backward()
        for name in networks:
            self.step_if_reached(name)
        return {name: value.item() for name, value in losses.items()} | {"total": total.item()}

    def step_if_reached(self, name: str) -> None:
        """Step a network if any of its parameters has a gradient; missing ones count as 0."""
        parameters = list(self.by_name[name].parameters())
        if all(parameter.grad is None for parameter in parameters):
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.optimizers[name].step()

    def iteration(self, samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
        """One iteration; returns the losses by phase and name, every one a sum over samples divided by N."""
        hyper = self.hyper
        d_weights = {"real": 1.0, "fake": 1.0, "r1": hyper.lambda_reg}
        g_weights = {
            "adv": 1.0,
            "sty": hyper.lambda_sty,
            "ds": -hyper.lambda_ds_at(self.index),
            "cyc": hyper.lambda_cyc,
            "sup": hyper.lambda_sup,
        }
        d_terms, g_terms = self.discriminator_terms, self.generator_terms
        latent, reference = self.latent_style, self.reference_style
        all_three = ("generator", "mapping", "style_encoder")
        logs = {
            "d_latent": self.phase(samples, d_terms, latent, d_weights, ("discriminator",)),
            "d_reference": self.phase(samples, d_terms, reference, d_weights, ("discriminator",)),
            "g_latent": self.phase(samples, g_terms, latent, g_weights, all_three),
            "g_reference": self.phase(samples, g_terms, reference, g_weights, ("generator",)),
        }
        self.finish_iteration()
        return logs

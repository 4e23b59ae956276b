"""The four nets of StarGAN v2 (arXiv 1912.01865), with per-domain first and last layers and style heads.

Images of mixed domains come as one tensor per domain; samples are grouped by domain, ``counts[k]`` of them in domain k.
With shared stems and a style for every domain these are the published networks (without the landmark path, w_hpf = 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from m2o_fast.losses import at_least_float32
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.nn.blocks import AdaINResBlock, ModulatedResBlock, ResBlock, conv, leaky_relu, linear
from m2o_fast.nn.stems import AdaptedOutputStem, DomainBlocks, InputAdapter, InputStem, OutputStem
from m2o_fast.nn.style_fit import StyleFit
from m2o_fast.translators.starganv2.settings import Size


class Generator(nn.Module):
    """Content encoder without style, decoder with style. The bottleneck is 16x16, unless ``size`` says otherwise.

    Args:
        size: Widths.
        domains: All domains.
        rules: The many-to-one rules.
    """

    def __init__(self, size: Size, domains: Sequence[Domain], rules: ManyToOne) -> None:
        super().__init__()
        widths = size.widths(size.halvings)
        bottleneck = widths[-1]
        self.one_hot = [domain.kind == "onehot" for domain in domains]
        unstyled = [k for k, domain in enumerate(domains) if not rules.has_style(domain)]
        bounded = size.output == "tanh"
        self.bounded = [bounded and domain.multimodal and domain.kind != "onehot" for domain in domains]
        # One uni-modal domain is told from the others by its zero style. Several would all look alike to the decoder,
        # so each gets a learned bias of its own in every style layer: a one-hot code beside the (zero) style.
        self.coded = unstyled if size.domain_code and len(unstyled) > 1 else []
        code_dim = size.style_dim + len(self.coded)
        block = AdaINResBlock if size.style_op == "adain" else ModulatedResBlock
        encoder = [partial(ResBlock, a, b, normalize=True, downsample=True) for a, b in pairwise(widths)]
        encoder += [partial(ResBlock, bottleneck, bottleneck, normalize=True, downsample=False)] * 2
        decoder = [partial(block, bottleneck, bottleneck, code_dim, upsample=False)] * 2
        decoder += [partial(block, b, a, code_dim, upsample=True) for b, a in pairwise(widths[::-1])]
        owners = range(len(domains)) if rules.domain_layers == "block" else None
        self.stem_in = _first_layers(dict(enumerate(domains)), widths[0], rules)
        self.encoder = _blocks(encoder, 0, owners)
        self.decoder = _blocks(decoder, len(decoder) - 1, owners)
        self.stem_out = _last_layers(domains, widths[0], rules, normalize=size.style_op == "adain")

    def encode(self, images: Sequence[Tensor]) -> Tensor:
        """Images by domain to content ``[N, C, 16, 16]``, or as fine as it is; no style enters here."""
        x = self.stem_in(images)
        for block in self.encoder:
            x = _through(block, x, [part.shape[0] for part in images])
        return x

    def decode(self, content: Tensor, style: Tensor, counts: Sequence[int]) -> tuple[Tensor, ...]:
        """Content and style ``[N, style_dim]``, grouped by target domain, to outputs by target domain.

        An output is the image, but of a one-hot domain the logits of its classes; :meth:`images` makes images of all.
        """
        code = self._code(style, counts)
        for block in self.decoder:
            content = _through(block, content, counts, code)
        # Rounded to bfloat16, images could be told from real ones by the rounding.
        with torch.autocast(content.device.type, enabled=False):
            outputs = self.stem_out(at_least_float32(content), counts)
        return tuple(part.tanh() if bound else part for part, bound in zip(outputs, self.bounded, strict=True))

    def images(self, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What everybody else sees of :meth:`decode`'s outputs: class probabilities p as 2 p - 1 in place of logits."""
        return tuple(
            2 * part.softmax(dim=1) - 1 if hot else part for part, hot in zip(outputs, self.one_hot, strict=True)
        )

    def _code(self, style: Tensor, counts: Sequence[int]) -> Tensor:
        if not self.coded:
            return style
        one_hot = style.new_zeros((style.shape[0], len(self.coded)))
        start = 0
        for k, count in enumerate(counts):
            if k in self.coded:
                one_hot[start : start + count, self.coded.index(k)] = 1
            start += count
        return torch.cat([style, one_hot], dim=1)


def _first_layers(domains: dict[int, Domain], width: int, rules: ManyToOne) -> nn.Module:
    """Images by domain to the trunk's features."""
    if rules.domain_layers != "adapter":
        return InputStem(domains, width, shared=rules.domain_layers is None)
    channels = max(domain.channels for domain in domains.values())
    return nn.Sequential(InputAdapter(domains, channels), conv(channels, width, 3, padding=1))


def _last_layers(domains: Sequence[Domain], width: int, rules: ManyToOne, *, normalize: bool) -> nn.Module:
    """The trunk's features and how many are of each domain to images by domain."""
    if rules.domain_layers != "adapter":
        return OutputStem(domains, width, shared=rules.domain_layers is None, normalize=normalize)
    return AdaptedOutputStem(domains, width, normalize=normalize)


def _blocks(made: Sequence[Callable[[], nn.Module]], own: int, owners: Iterable[int] | None) -> nn.ModuleList:
    """The blocks of a trunk, number ``own`` of them one for each of its owners, if there are any."""
    return nn.ModuleList(
        DomainBlocks({k: make() for k in owners}) if owners is not None and number == own else make()
        for number, make in enumerate(made)
    )


def _through(block: nn.Module, x: Tensor, counts: Sequence[int], *conditions: Tensor) -> Tensor:
    """Features, grouped by domain, through a block of all domains or the blocks of each."""
    out: Tensor = block(x, counts, *conditions) if isinstance(block, DomainBlocks) else block(x, *conditions)
    return out


class MappingNetwork(nn.Module):
    """Latent z to the style of a domain: a shared perceptron, then one head for each domain that has a style.

    Behind each head there may be a map that is fitted (:mod:`m2o_fast.nn.style_fit`).
    """

    def __init__(self, size: Size, domains: Sequence[Domain], rules: ManyToOne) -> None:
        super().__init__()
        hidden = size.hidden_dim
        self.shared = _perceptron([size.latent_dim] + [hidden] * 4, last_relu=True)
        self.heads = nn.ModuleDict(
            {
                str(k): _perceptron([hidden] * 4 + [size.style_dim], last_relu=False)
                for k, domain in enumerate(domains)
                if rules.has_style(domain)
            }
        )
        self.fits = nn.ModuleDict({k: StyleFit(size.style_dim) for k in self.heads if size.fit_styles})

    def forward(self, latents: dict[int, Tensor]) -> dict[int, Tensor]:
        """Latents ``[n_k, latent_dim]`` by domain index, not all empty, to styles ``[n_k, style_dim]``."""
        hidden = self.shared(torch.cat(list(latents.values())))
        parts = hidden.split([latent.shape[0] for latent in latents.values()])
        styles = {k: self.heads[str(k)](part) for k, part in zip(latents, parts, strict=True)}
        return {k: self.fits[str(k)](style) for k, style in styles.items()} if self.fits else styles


def _perceptron(widths: Sequence[int], *, last_relu: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [linear(a, b), nn.ReLU()]
    return nn.Sequential(*(layers if last_relu else layers[:-1]))


class _ImageToVector(nn.Module):
    """What style encoder and discriminator share: stems, residual blocks down to 4x4, one vector per image."""

    def __init__(self, size: Size, domains: dict[int, Domain], rules: ManyToOne) -> None:
        super().__init__()
        widths = size.widths(int(math.log2(size.image_size)) - 2)
        self.width = widths[-1]
        self.stem_in = _first_layers(domains, widths[0], rules)
        trunk = [partial(ResBlock, a, b, normalize=False, downsample=True) for a, b in pairwise(widths)]
        self.trunk = _blocks(trunk, 0, domains if rules.domain_layers == "block" else None)
        self.conv4x4 = conv(self.width, self.width, 4)

    def features(self, images: Sequence[Tensor]) -> Tensor:
        """Images by domain, not all empty, to activated features ``[N, width, 1, 1]``."""
        x = self.stem_in(images)
        for block in self.trunk:
            x = _through(block, x, [part.shape[0] for part in images])
        return leaky_relu(self.conv4x4(leaky_relu(x)))


class StyleEncoder(_ImageToVector):
    """Image to the style of its domain; stems and heads only for domains that have a style."""

    def __init__(self, size: Size, domains: Sequence[Domain], rules: ManyToOne) -> None:
        styled = {k: domain for k, domain in enumerate(domains) if rules.has_style(domain)}
        super().__init__(size, styled, rules)
        self.heads = nn.ModuleDict({str(k): linear(self.width, size.style_dim) for k in styled})

    def forward(self, images: Sequence[Tensor]) -> dict[int, Tensor]:
        """Images by domain, not all empty and none of a domain without style, to styles by domain index."""
        counts = [part.shape[0] for part in images]
        parts = self.features(images).flatten(1).split(counts)
        return {k: self.heads[str(k)](part) for k, part in enumerate(parts) if counts[k]}


class Discriminator(_ImageToVector):
    """Image to the logit of being a real image of its domain."""

    def __init__(self, size: Size, domains: Sequence[Domain], rules: ManyToOne) -> None:
        super().__init__(size, dict(enumerate(domains)), rules)
        self.head = conv(self.width, len(domains), 1)

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Images by domain, not all empty, to logits ``[N]``, each of the image's own domain."""
        logits = self.head(self.features(images)).flatten(1)
        parts = logits.split([part.shape[0] for part in images])
        return torch.cat([part[:, k] for k, part in enumerate(parts)])

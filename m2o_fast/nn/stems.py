"""Per-domain layers around a shared trunk: stems, blocks next to them, or adapters around a net that has its own stems.

Images of mixed domains come as one tensor per domain, because channel counts differ; inside the trunk they are one
batch, grouped by domain in the order of the domains.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from m2o_fast.m2o import Domain
from m2o_fast.nn.blocks import InstanceNormAct, conv, leaky_relu
from m2o_fast.ops._choices import feature_format


class _DomainLayers(nn.ModuleDict):
    """One layer per domain, or one for all; keyed by the domain's index (0 when shared)."""

    def __init__(self, layers: dict[int, nn.Module], *, shared: bool) -> None:
        super().__init__({str(domain): layer for domain, layer in layers.items()})
        self.shared = shared

    def layer(self, domain: int) -> nn.Module:
        return self["0" if self.shared else str(domain)]


class _InputLayers(_DomainLayers):
    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Per domain float ``[n_k, c_k, S, S]``, not all empty, to float ``[sum n_k, width, S, S]``."""
        # Convolutions and fused operations keep the format of their input: what is chosen here holds for the whole net.
        memory_format = feature_format(images[0].device.type)
        present = {k: part.contiguous(memory_format=memory_format) for k, part in enumerate(images) if part.shape[0]}
        if self.shared:
            return self.layer(0)(_cat(list(present.values())))
        return _cat([self.layer(k)(part) for k, part in present.items()])


class _OutputLayers(_DomainLayers):
    def __init__(self, layers: dict[int, nn.Module], channels: list[int], *, shared: bool) -> None:
        super().__init__(layers, shared=shared)
        self.channels = channels

    def forward(self, features: Tensor, counts: Sequence[int]) -> tuple[Tensor, ...]:
        """Float ``[sum counts, width, S, S]`` to one float ``[counts[k], c_k, S, S]`` per domain."""
        if self.shared:
            return tuple(self.layer(0)(features).split(list(counts)))
        parts = features.split(list(counts))
        return tuple(
            self.layer(k)(part) if part.shape[0] else part.new_empty((0, self.channels[k], *part.shape[2:]))
            for k, part in enumerate(parts)
        )


class DomainBlocks(_DomainLayers):
    """A block of each domain in the place of one of the trunk's, all of the same shape.

    Args:
        blocks: By index of the domain; one that is left out must not occur in the input.
    """

    def __init__(self, blocks: dict[int, nn.Module]) -> None:
        super().__init__(blocks, shared=False)

    def forward(self, features: Tensor, counts: Sequence[int], *conditions: Tensor) -> Tensor:
        """Float ``[sum counts, ...]``, grouped by domain, and conditions with as many rows, to what the blocks give."""
        rows = zip(*(tensor.split(list(counts)) for tensor in (features, *conditions)), strict=True)
        return _cat([self.layer(k)(*parts) for k, parts in enumerate(rows) if counts[k]])


class InputStem(_InputLayers):
    """First layers: a 3x3 convolution from each domain's channels to the trunk's width.

    Args:
        domains: Domain by index; an index that is left out has no stem and must not occur in the input.
        width: Output channels.
        shared: One stem for all domains.
    """

    def __init__(self, domains: dict[int, Domain], width: int, *, shared: bool) -> None:
        chosen = {0: next(iter(domains.values()))} if shared else domains
        layers: dict[int, nn.Module] = {k: conv(domain.channels, width, 3, padding=1) for k, domain in chosen.items()}
        super().__init__(layers, shared=shared)


class OutputStem(_OutputLayers):
    """Last layers: [affine instance norm,] LeakyReLU and a 1x1 convolution to each domain's channels.

    Args:
        domains: All domains.
        width: Input channels.
        shared: One stem for all domains.
        normalize: Whether the instance norm is there; after demodulation it would erase the channels' amplitudes.
    """

    def __init__(self, domains: Sequence[Domain], width: int, *, shared: bool, normalize: bool) -> None:
        chosen = domains[:1] if shared else domains
        layers: dict[int, nn.Module] = {k: _ToImage(width, d.channels, normalize) for k, d in enumerate(chosen)}
        super().__init__(layers, [domain.channels for domain in domains], shared=shared)


class InputAdapter(_InputLayers):
    """In front of a net for images of one channel count: a 1x1 convolution from each domain's channels to it.

    Args:
        domains: Domain by index; an index that is left out must not occur in the input.
        channels: What the net takes.
    """

    def __init__(self, domains: dict[int, Domain], channels: int) -> None:
        super().__init__({k: conv(domain.channels, channels, 1) for k, domain in domains.items()}, shared=False)


class OutputAdapter(_OutputLayers):
    """Behind a net for images of one channel count: a 1x1 convolution to each domain's channels. No tanh.

    Args:
        domains: All domains.
        channels: What the net gives, without its tanh.
    """

    def __init__(self, domains: Sequence[Domain], channels: int) -> None:
        counts = [domain.channels for domain in domains]
        super().__init__({k: conv(channels, count, 1) for k, count in enumerate(counts)}, counts, shared=False)


class AdaptedOutputStem(nn.Module):
    """The last layers of :class:`OutputStem`, shared by all domains, and an :class:`OutputAdapter` behind them.

    Args:
        domains: All domains.
        width: Input channels.
        normalize: As of :class:`OutputStem`.
    """

    def __init__(self, domains: Sequence[Domain], width: int, *, normalize: bool) -> None:
        super().__init__()
        channels = max(domain.channels for domain in domains)
        self.shared = _ToImage(width, channels, normalize)
        self.adapter = OutputAdapter(domains, channels)

    def forward(self, features: Tensor, counts: Sequence[int]) -> tuple[Tensor, ...]:
        """As of :class:`OutputStem`."""
        images: tuple[Tensor, ...] = self.adapter(self.shared(features), counts)
        return images


class _ToImage(nn.Module):
    def __init__(self, width: int, channels: int, normalize: bool) -> None:
        super().__init__()
        self.norm = InstanceNormAct(width) if normalize else None
        self.conv = conv(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(leaky_relu(x) if self.norm is None else self.norm(x))


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)

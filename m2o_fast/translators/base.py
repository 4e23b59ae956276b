"""What every system is to the engine: nets, phases, losses, and how to use the trained result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from m2o_fast.batch import Batch
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.nn.history import HistoryPool
from m2o_fast.nn.style_fit import StyleFit


class Phase(NamedTuple):
    """One optimizer step within an iteration.

    Attributes:
        name: What :meth:`Translator.loss` is asked for.
        groups: The parameter groups that this phase trains; everything else is frozen.
        new_batch: This phase and those after it have the next batch, where those before it left nothing behind. (The
            first phase has a new one anyhow.)
    """

    name: str
    groups: tuple[str, ...]
    new_batch: bool = False


def batches_of(phases: Sequence[Phase]) -> int:
    """How many batches the phases of an iteration have."""
    return 1 + sum(phase.new_batch for phase in phases[1:])


def detached(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts of a loss for the log."""
    return {name: value.detach() for name, value in parts.items()}


@dataclass
class Iteration:
    """What the phases of one training iteration share that have the same batch.

    Attributes:
        index: 0-based number of the iteration; schedules are pure functions of it.
        cache: Features and fakes that one phase leaves for the next, which computes what it does not find there.
        kept: Tensors without a graph that a later phase must find as they are, such as fakes of weights that have moved
            since. A batch that is worked through in parts has one for each part, while its cache is emptied.
        pools: The history pools that :meth:`Translator.pools` declared.
        lasting: Whether the cache is there in the next phase: not where a batch is worked through in parts.
        shares: How many equal parts the batch is in, those of all processes together. Losses are averaged over them, so
            a loss that is a sum over the batch is that of a part times this.
    """

    index: int
    cache: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    pools: Mapping[str, HistoryPool] = field(default_factory=dict)
    lasting: bool = True
    shares: int = 1

    def number(self, schedule: Callable[[int], float]) -> float | Tensor:
        """A schedule's value in this iteration: the only way in which an iteration's index may enter its losses.

        So a step that is recorded once can be repeated with the values of later iterations.
        """
        return schedule(self.index)


class Translator(nn.Module, ABC):
    """Base class of all systems. A subclass builds its nets and fills in the methods below.

    Attributes:
        domains: The domains as the networks see them (after :meth:`ManyToOne.resolve`).
        rules: The many-to-one rules in force.
        image_size: Side length S of the square images that it is trained with, in pixels.
        multiple: Of a fully convolutional system: it translates images of any height and width that are multiples of
            this; ``None``: S x S alone.
        normal_styles: Whether :meth:`sample_style` gives standard normal numbers; else a net makes styles of them, of
            any mean.
    """

    domains: tuple[Domain, ...]
    rules: ManyToOne
    image_size: int
    multiple: int | None = None
    normal_styles: bool = True

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Everything needed to build these nets anew, as plain JSON values.

        ``"system"`` names the system, ``"domains"`` is a list with the fields of each, ``"rules"`` and ``"size"`` are
        objects; what these three hold must be the same for a checkpoint to be trained on.
        """

    @classmethod
    @abstractmethod
    def from_description(cls, description: Mapping[str, Any]) -> Translator:
        """The inverse of :meth:`describe`, with fresh weights."""

    # --- what it learns ---

    def directions(self) -> tuple[tuple[int, int], ...]:
        """(source, target): the ways that it goes. Every ordered pair, unless a system says less."""
        domains = range(len(self.domains))
        return tuple((a, b) for a in domains for b in domains)

    def turns(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """The directions that a batch is made of, in equal shares; where batches take turns, those of each turn.

        The n-th of all batches has the turn n modulo their number. All directions, unless a system that learns from
        several data sets has a turn for each.
        """
        return (self.directions(),)

    def paired_directions(self) -> tuple[tuple[int, int], ...]:
        """The directions in which batches hold the true translation where it is known."""
        return tuple((a, b) for a, b in self.directions() if a != b and self.rules.supervises(self.domains[b]))

    def references(self) -> int:
        """How many real images of its target domain each sample of a batch comes with: 0, 1 or 2 different ones."""
        return 0

    def has_style(self, target: str | int) -> bool:
        """Whether a style steers translations into a domain; else there is one translation of each image."""
        return self.rules.has_style(self.domain(target))

    def style_shape(self, target: str | int) -> tuple[int, ...]:
        """Shape of a style of a domain: ``(style_dim,)``, or ``(C, S, S)`` where it is an image of noise.

        A domain without style has the shape of one that has a style; in a system that has no styles at all, ``(0,)``.
        """
        return (0,)

    def latent_shape(self, target: str | int) -> tuple[int, ...] | None:
        """Shape of the standard normal latents of which :meth:`map_style` makes styles; ``None``: there are none."""
        return None

    def reads_style(self, domain: str | int) -> bool:
        """Whether :meth:`encode_style` finds the style of an image, so that an image can guide a translation.

        Where a domain has a style, unless a system says no.
        """
        return self.has_style(domain)

    def style_fit(self, target: str | int) -> StyleFit | None:
        """The map behind the mapping network of a domain that is fitted to what real images show, if it has one.

        The engine fits that of the averaged nets whenever they are to be used or saved.
        """
        return None

    def evaluations(self, target: str | int) -> int:
        """How often a translation into a domain goes through the net that makes it; more than once by an ODE."""
        return 1

    # --- training: called by the engine ---

    @abstractmethod
    def groups(self) -> dict[str, list[nn.Module]]:
        """Parameter groups by name; one optimizer each."""

    def averaged_groups(self) -> tuple[str, ...]:
        """Groups of which an exponential moving average (EMA) is kept, which use takes in place of the trained weights.

        Buffers of their nets are copied along. None: the trained nets themselves are used.
        """
        return ()

    def pools(self) -> Mapping[str, HistoryPool]:
        """Fresh history pools by name. The engine keeps them, and hands them over as :attr:`Iteration.pools`."""
        return {}

    def operators(self) -> tuple[str, ...]:
        """The families of fused operations that training calls: ``"adain"``, ``"residual"``, ``"modulation"``."""
        return ()

    @abstractmethod
    def phases(self, index: int) -> Sequence[Phase]:
        """The phases of iteration ``index``, in order; one that comes several times is logged with its mean losses."""

    def kind(self, index: int) -> Hashable:
        """Iterations of one kind do the same operations on batches of the same shapes."""
        return tuple(self.phases(index))

    def compilable(self) -> Sequence[tuple[nn.Module, str]]:
        """Nets and names of their methods that ``torch.compile`` may take: what no loss differentiates twice."""
        return ()

    def noise(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Random numbers for ``count`` samples of a batch, each float32 ``[count, ...]``: all that a loss may use."""
        return {}

    @abstractmethod
    def loss(self, phase: str, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar that ``phase`` minimises and its parts for the log (detached, no host sync)."""

    # --- use: x is float [N, C, S, S] in [-1, 1]; domains by name or index ---

    @abstractmethod
    def translate(
        self,
        x: Tensor,
        source: str | int,
        target: str | int,
        *,
        style: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> Tensor:
        """Images of domain ``source`` as images of domain ``target``, float ``[N, C_target, S, S]``."""

    def translate_many(self, x: Tensor, source: str | int, target: str | int, styles: Tensor) -> Tensor:
        """Several translations of each image; a system that can do better than one after the other does.

        Args:
            x: Float ``[N, C_source, S, S]`` in [-1, 1].
            source: Name or index of the domain of ``x``.
            target: Name or index of the domain to translate into.
            styles: Float ``[N or 1, M, *style_shape]``: the styles of each image.

        Returns:
            Float ``[N, M, C_target, S, S]``; ``[:, m]`` is ``translate(x, ..., style=styles[:, m])`` to the bit.
        """
        return torch.stack([self.translate(x, source, target, style=style) for style in styles.unbind(1)], dim=1)

    def sample_style(self, count: int, target: str | int, generator: torch.Generator | None = None) -> Tensor:
        """``count`` random styles ``[count, *style_shape]`` of a domain; exactly 0 for one without style.

        Standard normal numbers, drawn on the CPU, unless a system makes styles of them.
        """
        weight = next(self.parameters())
        style = torch.randn((count, *self.style_shape(target)), generator=generator).to(weight)
        return style if self.has_style(target) else torch.zeros_like(style)

    def map_style(self, z: Tensor, target: str | int) -> Tensor:
        """Latents ``[N, *latent_shape]`` to styles ``[N, *style_shape]``, where a system has a mapping network."""
        raise ValueError(f"map_style: domain {self.domain(target).name!r} has no mapping network; see sample_style")

    @abstractmethod
    def encode_style(self, x: Tensor, domain: str | int) -> Tensor:
        """The style of each image, ``[N, *style_shape]``; exactly 0 for a domain without style."""

    # --- shared by all systems ---

    def domain_index(self, domain: str | int) -> int:
        """Index of a domain given by name or index. Raises ``ValueError`` for an unknown one."""
        if isinstance(domain, int) and not isinstance(domain, bool):
            if 0 <= domain < len(self.domains):
                return domain
            raise ValueError(f"domain index {domain} is out of range: there are {len(self.domains)} domains")
        names = [d.name for d in self.domains]
        if domain in names:
            return names.index(domain)
        raise ValueError(f"unknown domain {domain!r}; the domains are {', '.join(names)}")

    def domain(self, domain: str | int) -> Domain:
        """The :class:`Domain` of a name or index."""
        return self.domains[self.domain_index(domain)]

    def _check_images(self, name: str, x: Tensor, k: int) -> None:
        """Raises ``ValueError`` where ``x``, an argument called ``name``, holds no images of domain number ``k``."""
        side, domain = self.image_size, self.domains[k]
        if x.dim() == 4 and x.shape[0] and x.shape[1] == domain.channels and self._takes(*x.shape[2:]):
            return
        sides = f"{side}, {side}" if self.multiple is None else f"H, W (multiples of {self.multiple})"
        raise ValueError(
            f"{name}: domain {domain.name!r} needs images [N >= 1, {domain.channels}, {sides}], got {list(x.shape)}"
        )

    def _takes(self, height: int, width: int) -> bool:
        if self.multiple is None:
            return height == width == self.image_size
        return min(height, width) > 0 and height % self.multiple == width % self.multiple == 0

    def _style_rows(self, style: Tensor, rows: int, target: int) -> Tensor:
        """``style``, one for all images or one for each, as ``rows`` of them where the nets are."""
        shape = self.style_shape(target)
        if style.shape[1:] != shape or style.shape[0] not in (rows, 1):  # export: one for each
            wanted = ", ".join(map(str, shape))
            raise ValueError(f"translate: style must be [{rows} or 1, {wanted}], got {list(style.shape)}")
        return self._placed(style).expand(rows, *shape)

    def _placed(self, x: Tensor) -> Tensor:
        """``x`` on the device of the nets, so that a freshly read image can be translated on any."""
        return x.to(next(self.parameters()).device)


def schedule_to_zero(start: float, index: int, steps: int) -> float:
    """``start`` falling linearly to 0 over ``steps`` iterations, as a pure function of the iteration."""
    return start * max(0.0, 1.0 - index / steps)

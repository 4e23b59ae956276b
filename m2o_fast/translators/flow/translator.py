"""Conditional flow matching (arXiv 2210.02747) between domains, and its many-to-one variant: one code path.

One net tells the velocity of images on their straight way from noise z at time 0 to an image y at time 1, given the
image x that y is a translation of: ``v((1 - t) z + t y, t, x) = y - z``. So the style of a translation is its noise.
By the many-to-one rules a uni-modal target has none: its way starts at 0 and is gone in one step, ``v(0, 0, x) = y``,
which is a regression.

Every loss is a sum over samples of means over their numbers, divided by the size of the batch; without a known pair a
sample counts as 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from m2o_fast.batch import Batch
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.translators.base import Iteration, Phase, Translator, detached
from m2o_fast.translators.flow.nets import Velocity
from m2o_fast.translators.flow.settings import Sampling, Size

_Number = TypeVar("_Number", float, Tensor)

#: That of images, as far as what a point of the way tells of its end is concerned.
_DEVIATION = 0.5

PHASES = (Phase("velocity", ("velocity",)),)


class Flow(Translator):
    """A flow between any number of domains, by the many-to-one rules where ``rules`` has them.

    Args:
        domains: Two or more, with any numbers of channels.
        rules: Those of a variant of ``SYSTEM``.
        size: Sizes of the net.
        sampling: How translations with a style are made.

    Attributes:
        sampling: The same; another one may be put in its place at any time.
    """

    def __init__(
        self, domains: Sequence[Domain], rules: ManyToOne, size: Size, sampling: Sampling | None = None
    ) -> None:
        super().__init__()
        self.rules = rules
        self.domains = rules.resolve(domains)
        self.size = size
        self.sampling = sampling or Sampling()
        self.image_size = size.image_size
        self._by_images = size.predicts == "image"
        self.styled = [k for k, domain in enumerate(self.domains) if rules.has_style(domain)]
        channels = [domain.channels for domain in self.domains]
        sides = [size.image_size >> level for level in range(len(size.multipliers))]
        self.velocity = Velocity(
            channels,
            {k: channels[k] for k in self.styled},
            channels,
            size.width,
            size.multipliers,
            size.blocks,
            [side <= size.attention for side in sides],
            size.groups,
        )

    def describe(self) -> dict[str, Any]:
        """Domains, rules, sizes and sampling as plain JSON values."""
        return {
            "system": "flow",
            "domains": [asdict(domain) for domain in self.domains],
            "rules": asdict(self.rules),
            "size": self.size.model_dump(mode="json"),
            "sampling": self.sampling.model_dump(),
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Flow:
        """The inverse of :meth:`describe`, with fresh weights."""
        return cls(
            [Domain(**domain) for domain in description["domains"]],
            ManyToOne(**description["rules"]),
            Size(**description["size"]),
            Sampling(**description["sampling"]),
        )

    # --- what it learns ---

    def directions(self) -> tuple[tuple[int, int], ...]:
        """Every ordered pair of different domains."""
        return tuple((a, b) for a, b in super().directions() if a != b)

    def paired_directions(self) -> tuple[tuple[int, int], ...]:
        """All: there is no loss without pairs."""
        return self.directions()

    def style_shape(self, target: str | int) -> tuple[int, ...]:
        """An image of noise. Of a domain without style, that of the first one with a style."""
        k = self.domain_index(target)
        channels = self.domains[k if k in self.styled else self.styled[0]].channels
        return (channels, self.image_size, self.image_size)

    def evaluations(self, target: str | int) -> int:
        """How often a translation goes through the net: once into a domain without style."""
        if not self.has_style(target):
            return 1
        return self.sampling.evaluations - (self._by_images and self.sampling.solver == "heun")

    # --- training ---

    def groups(self) -> dict[str, list[nn.Module]]:
        """The one net."""
        return {"velocity": [self.velocity]}

    def averaged_groups(self) -> tuple[str, ...]:
        """The average of its weights is what is used."""
        return ("velocity",)

    def phases(self, index: int) -> Sequence[Phase]:
        """One."""
        return PHASES

    def noise(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """``time``, uniform ``[count]``, and ``base``, standard normal ``[count, C, S, S]``.

        C is the largest number of channels that a style has; other styles take the first ones.
        """
        channels = max(self.domains[k].channels for k in self.styled)
        return {
            "time": torch.rand(count, generator=generator),
            "base": torch.randn((count, channels, self.image_size, self.image_size), generator=generator),
        }

    def loss(self, phase: str, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        """The squared error of velocities, or of images, and of hms that of the regression beside it."""
        if phase != "velocity":
            raise ValueError(f"unknown phase {phase!r}; the only one is velocity")
        if not batch.paired or batch.has_pair is None:
            raise ValueError("a flow learns from pairs, and this batch has none")
        counts = list(batch.target_counts)
        images, starts = self._ways(batch)
        # A uni-modal target takes no part in drawing times: its only one is 0.
        times = [part if k in self.styled else torch.zeros_like(part) for k, part in enumerate(self._times(batch))]
        on_way = [
            torch.lerp(start, image, time[:, None, None, None])
            for start, image, time in zip(starts, images, times, strict=True)
        ]
        given = self.velocity(batch.source, batch.to_target, on_way, torch.cat(times))
        found = [
            self._meant(part, state, time[:, None, None, None])
            for part, state, time in zip(given, on_way, times, strict=True)
        ]
        errors = [
            ((one - self._wanted(image, start)).square().flatten(1).mean(1) * known).sum() / batch.size
            for one, image, start, known in zip(found, images, starts, batch.has_pair.split(counts), strict=True)
        ]
        parts = {"velocity": torch.stack([errors[k] for k in self.styled]).sum()}
        total = parts["velocity"]
        if regressed := [error for k, error in enumerate(errors) if k not in self.styled]:
            parts["supervised"] = torch.stack(regressed).sum()
            total = total + self.rules.supervised_weight * parts["supervised"]
        return total, detached(parts)

    def _meant(self, given: Tensor, state: Tensor, time: _Number) -> Tensor:
        """What the net predicts, of what it gives: all of it at noise, nothing at the image itself."""
        if not self._by_images:
            return given
        near, far = time * _DEVIATION**2, 1 - time
        variance = time * near + far**2
        return near / variance * state + far / variance**0.5 * given

    def _wanted(self, image: Tensor, start: Tensor) -> Tensor:
        return image if self._by_images else image - start

    def _times(self, batch: Batch) -> tuple[Tensor, ...]:
        """By target domain."""
        return self._shifted(batch.noise["time"]).split(list(batch.target_counts))

    def _shifted(self, even: _Number) -> _Number:
        """Times, of equally spread numbers in [0, 1]."""
        return even / (even + self.size.shift * (1 - even))

    def _ways(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Where ways end and where they start, by target domain."""
        images = list(batch.paired)
        bases = batch.noise["base"].split(list(batch.target_counts))
        starts = [
            base[:, : image.shape[1]] if k in self.styled else torch.zeros_like(image)
            for k, (image, base) in enumerate(zip(images, bases, strict=True))
        ]
        return images, starts

    # --- use ---

    def translate(
        self,
        x: Tensor,
        source: str | int,
        target: str | int,
        *,
        style: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> Tensor:
        """Translates images; deterministic in its arguments.

        Args:
            x: Float ``[N, C_source, S, S]`` in [-1, 1].
            source: Name or index of the domain of ``x``.
            target: Name or index of another domain.
            style: Float ``[N or 1, C_target, S, S]``: the noise that the way starts from, from :meth:`sample_style` or
                :meth:`encode_style`; not looked at where the target has none.
            reference: In its place, images of the target domain, one for all or one for each.

        Returns:
            Float ``[N, C_target, S, S]`` in [-1, 1].

        Raises:
            ValueError: Unknown domain, a wrong shape, or not exactly one of ``style`` and ``reference`` for a target
                that has styles.
        """
        a, b = self._way_between("translate", source, target)
        self._check_images("x", x, a)
        x = self._placed(x)
        if b not in self.styled:
            start = x.new_zeros((x.shape[0], self.domains[b].channels, *x.shape[2:]))
            return self._predicted(x, a, b, start, 0.0).clamp(-1, 1)
        if (style is None) == (reference is None):
            raise ValueError(f"translate: domain {self.domains[b].name!r} needs either style= or reference=")
        if reference is not None:
            style = self.encode_style(reference, b)
        assert style is not None
        start = self._style_rows(style, x.shape[0], b).to(x.dtype)
        return self._integrate(x, a, b, start, forward=True).clamp(-1, 1)

    def encode_style(self, x: Tensor, domain: str | int) -> Tensor:
        """The noise whose way ends in each image, by the ODE backwards; exactly 0 for a domain without style.

        What an image was made of is not known: its translation into a domain without style takes that place. Where
        there is no such domain, it is that into the first other one, from a noise of 0.

        Args:
            x: Float ``[N, C, S, S]`` in [-1, 1].
            domain: Name or index of their domain.

        Returns:
            Float ``[N, *style_shape]``.

        Raises:
            ValueError: Unknown domain, a wrong shape, or a single step of Euler, see :meth:`invert`.
        """
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        x = self._placed(x)
        if k not in self.styled:
            return x.new_zeros((x.shape[0], *self.style_shape(k)))
        others = [other for other in range(len(self.domains)) if other != k]
        partner = next((other for other in others if other not in self.styled), others[0])
        made = self.translate(x, k, partner, style=x.new_zeros((x.shape[0], *self.style_shape(partner))))
        return self.invert(x, made, partner, k)

    def invert(self, y: Tensor, x: Tensor, source: str | int, target: str | int) -> Tensor:
        """The noise from which images ``y`` of a domain with style are made, where ``x`` is what they are made of.

        Args:
            y: Float ``[N, C_target, S, S]`` in [-1, 1].
            x: Float ``[N, C_source, S, S]`` in [-1, 1].
            source: Name or index of the domain of ``x``.
            target: Name or index of that of ``y``.

        Returns:
            Float ``[N, C_target, S, S]``; ``translate`` of it gives ``y`` but for the error of the solver.

        Raises:
            ValueError: Unknown domain, one without style, a wrong shape, or a single step of Euler where images are
                predicted: backwards from an image it would lead to a noise of 0, whatever the image.
        """
        a, b = self._way_between("invert", source, target)
        self._check_images("y", y, b)
        self._check_images("x", x, a)
        if b not in self.styled:
            raise ValueError(f"invert: domain {self.domains[b].name!r} has no style")
        if self._by_images and (self.sampling.solver, self.sampling.steps) == ("euler", 1):
            raise ValueError("invert: an image tells nothing in one step of Euler; set sampling.steps to 2")
        return self._integrate(self._placed(x), a, b, self._placed(y), forward=False)

    def _way_between(self, what: str, source: str | int, target: str | int) -> tuple[int, int]:
        a, b = self.domain_index(source), self.domain_index(target)
        if a == b:
            raise ValueError(f"{what}: a flow does not learn domain {self.domains[a].name!r} to itself")
        return a, b

    def _integrate(self, x: Tensor, a: int, b: int, state: Tensor, *, forward: bool) -> Tensor:
        """From noise to images, or back."""
        steps = self.sampling.steps
        times = [self._shifted(step / steps) for step in range(steps + 1)]
        for now, then in pairwise(times if forward else times[::-1]):
            slope = self._velocity(x, a, b, state, now)
            # A step that ends in the image that is predicted has nothing to mend: that is where the way leads.
            if self.sampling.solver == "heun" and not (self._by_images and then == 1):
                ahead = torch.add(state, slope, alpha=then - now)
                slope = (slope + self._velocity(x, a, b, ahead, then)) / 2
            state = torch.add(state, slope, alpha=then - now)
        return state

    def _velocity(self, x: Tensor, a: int, b: int, state: Tensor, time: float) -> Tensor:
        """At an image itself nothing is known of its noise, whose mean is 0: there the velocity is the image."""
        if not self._by_images:
            return self._predicted(x, a, b, state, time)
        return state if time == 1 else (self._predicted(x, a, b, state, time) - state) / (1 - time)

    def _predicted(self, x: Tensor, a: int, b: int, state: Tensor, time: float) -> Tensor:
        given = self.velocity(self._alone(x, a), None, self._alone(state, b), x.new_full((x.shape[0],), time))[b]
        return self._meant(given, state, time)

    def _alone(self, images: Tensor, k: int) -> list[Tensor]:
        """By domain, where there are images of one alone."""
        side = images.shape[2:]
        return [
            images if other == k else images.new_empty((0, domain.channels, *side))
            for other, domain in enumerate(self.domains)
        ]

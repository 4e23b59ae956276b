"""CycleGAN (arXiv 1703.10593) and its many-to-one variants: one code path.

An iteration has two phases: both generators, then both discriminators, which see the fakes of the first phase through a
history. Plain, every image is restored from its translation. By the many-to-one rules translations into a multi-modal
domain are steered by a style, which is drawn, and images of such a domain are restored with the style that an encoder
reads off them, or not at all: without it a uni-modal image would have to hide what it cannot show.

Every loss is a sum over the two directions of means over their samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from m2o_fast.batch import Batch, images_by_target
from m2o_fast.losses import absolute_error, least_squares
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.nn.freezing import frozen
from m2o_fast.nn.history import HistoryPool
from m2o_fast.nn.outputs import as_image, restoration_error, supervised_error
from m2o_fast.translators.base import Iteration, Phase, Translator, detached, schedule_to_zero
from m2o_fast.translators.cyclegan import nets
from m2o_fast.translators.cyclegan.settings import SIZES, Size, Weights

#: Style encoders are trained with the generators; only hmu and hms have them.
_GENERATORS, _DISCRIMINATORS, _STYLE_ENCODERS = "generators", "discriminators", "style_encoders"
_TARGETS = (1, 0)  # of the first domain's images come those of the second: the published order

_ByTarget = dict[int, Tensor]


class CycleGAN(Translator):
    """CycleGAN between two domains, by the many-to-one rules where ``rules`` has them.

    Args:
        domains: Two of them, with any numbers of channels.
        rules: Those of a variant of ``SYSTEM``; with ``zero_style`` multi-modal domains have a style, else none has.
        size: Sizes of the nets.
        weights: Loss weights.
        generators: Whether there is a generator into each domain; training needs both.
        discriminators: Whether each domain has a discriminator; translating needs none.
    """

    multiple = SIZES.multiple

    def __init__(
        self,
        domains: Sequence[Domain],
        rules: ManyToOne,
        size: Size,
        weights: Weights | None = None,
        *,
        generators: Sequence[bool] = (True, True),
        discriminators: Sequence[bool] = (True, True),
    ) -> None:
        super().__init__()
        if len(domains) != 2:
            raise ValueError(f"CycleGAN translates between two domains, got {len(domains)}")
        self.rules = rules
        self.domains = rules.resolve(domains)
        self.size = size
        self.weights = weights or Weights()
        self.image_size = size.image_size
        self.styled = [k for k in range(2) if self.has_style(k)]
        encoded = self.styled if size.style == "encoder" else []
        self.generators = nets.generators(size, self.domains, self.styled, dict(enumerate(generators)))
        self.discriminators = nets.discriminators(size, self.domains, dict(enumerate(discriminators)))
        self.style_encoders = nets.style_encoders(size, self.domains, encoded)

    def describe(self) -> dict[str, Any]:
        """Domains, rules, sizes and loss weights as plain JSON values."""
        return {
            "system": "cyclegan",
            "domains": [asdict(domain) for domain in self.domains],
            "rules": asdict(self.rules),
            "size": self.size.model_dump(),
            "weights": self.weights.model_dump(),
            "generators": [str(k) in self.generators for k in range(2)],
            "discriminators": [str(k) in self.discriminators for k in range(2)],
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> CycleGAN:
        """The inverse of :meth:`describe`, with fresh weights."""
        return cls(
            [Domain(**domain) for domain in description["domains"]],
            ManyToOne(**description["rules"]),
            Size(**description["size"]),
            Weights(**description["weights"]),
            generators=description["generators"],
            discriminators=description["discriminators"],
        )

    # --- what it learns ---

    def directions(self) -> tuple[tuple[int, int], ...]:
        """Both, where there is a generator."""
        return tuple((1 - k, k) for k in _TARGETS if str(k) in self.generators)

    def has_style(self, target: str | int) -> bool:
        """Multi-modal domains have one, unless the system is plain."""
        return self.rules.zero_style and self.rules.has_style(self.domain(target))

    def style_shape(self, target: str | int) -> tuple[int, ...]:
        """A vector, where a domain has a style."""
        return (self.size.style_dim if self.styled else 0,)

    def reads_style(self, domain: str | int) -> bool:
        """With a style encoder, those that have a style."""
        return str(self.domain_index(domain)) in self.style_encoders

    # --- training ---

    def groups(self) -> dict[str, list[nn.Module]]:
        """Generators, discriminators and style encoders, those that there are."""
        found = {name: list(kind.values()) for name, kind in self.named_children() if isinstance(kind, nn.ModuleDict)}
        return {name: modules for name, modules in found.items() if modules}

    def phases(self, index: int) -> Sequence[Phase]:
        """Generators with style encoders, then discriminators."""
        encoders = (_STYLE_ENCODERS,) if len(self.style_encoders) else ()
        return (Phase("generators", (_GENERATORS, *encoders)), Phase("discriminators", (_DISCRIMINATORS,)))

    def pools(self) -> Mapping[str, HistoryPool]:
        """One for each domain."""
        if not self.size.pool:
            return {}
        side = self.image_size
        return {d.name: HistoryPool(self.size.pool, (d.channels, side, side)) for d in self.domains}

    def operators(self) -> tuple[str, ...]:
        """Instance norms."""
        return ("adain",) if self.size.norm == "instance" or self.styled else ()

    def noise(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """``pool``, uniform ``[count, 2]``; where a domain has a style, ``latent`` and ``latent2``, standard normal."""
        numbers = {"pool": torch.rand((count, 2), generator=generator)}
        if self.styled:
            shape = (count, self.size.style_dim)
            numbers |= {name: torch.randn(shape, generator=generator) for name in ("latent", "latent2")}
        return numbers

    def loss(self, phase: str, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a phase."""
        if phase == "generators":
            return self._generators_loss(batch, iteration)
        if phase == "discriminators":
            return self._discriminators_loss(batch, iteration)
        raise ValueError(f"unknown phase {phase!r}; the phases are generators, discriminators")

    def _generators_loss(self, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        x, style, share = images_by_target(batch), self._drawn(batch, "latent"), batch.size / 2
        outputs: _ByTarget = {}
        fakes: _ByTarget = {}
        cycled: _ByTarget = {}
        identical: _ByTarget = {}
        for k in x:  # in the published order, which the statistics of batch norms depend on
            outputs[k] = self._output_and_identity(k, x, style, identical)
            fakes[k] = as_image(outputs[k], self.domains[k])
            self._restore(k, x[k], fakes[k], cycled)
        if self.size.norm == "batch":
            identical = {k: self._generator(k)(x[1 - k]) for k in x if self._keeps(k) and 1 - k in x}
        for k, fake in fakes.items():  # discriminators see what was made before the generators' step
            iteration.kept[self.domains[k].name] = fake.detach()
        with frozen(self.discriminators):
            scores = [self._discriminator(k)(fake) for k, fake in fakes.items()]
        parts = {"adversarial": least_squares(scores, real=True, batch_size=share)}
        parts["cycle"] = restoration_error(cycled, {1 - k: x[k] for k in x}, self.domains, share)
        if identical:
            parts["identity"] = restoration_error(identical, {k: x[1 - k] for k in identical}, self.domains, share)
        if self.styled:
            parts |= self._style_losses(batch, x, style, fakes, share)
        if batch.paired and batch.has_pair is not None:
            parts["supervised"] = supervised_error(outputs, batch, self.domains, self.rules, share)
        return self._weighted(parts, iteration), detached(parts)

    def _weighted(self, parts: Mapping[str, Tensor], iteration: Iteration) -> Tensor:
        weights = self.weights
        factors: dict[str, float | Tensor] = {
            "adversarial": 1.0,
            "cycle": weights.cycle,
            "identity": weights.cycle * weights.identity,
            "style": weights.style,
            "supervised": self.rules.supervised_weight,
        }
        if "diversity" in parts:
            factors["diversity"] = -iteration.number(
                lambda at: schedule_to_zero(weights.diversity, at, weights.diversity_steps)
            )
        return torch.stack([factors[name] * part for name, part in parts.items()]).sum()

    def _output_and_identity(self, k: int, x: _ByTarget, style: _ByTarget, identical: _ByTarget) -> Tensor:
        """Translations into a domain; in one go with images that are of it already, unless batch norm forbids that."""
        if self.size.norm == "batch" or not self._keeps(k) or 1 - k not in x:
            return self._generator(k)(x[k], style.get(k))
        outputs = self._generator(k)(torch.cat([x[k], x[1 - k]]))
        output, identical[k] = outputs.split([x[k].shape[0], x[1 - k].shape[0]])
        return output

    def _keeps(self, target: int) -> bool:
        """Whether images of this domain are to pass their generator unchanged."""
        same_channels = self.domains[0].channels == self.domains[1].channels
        return same_channels and self.weights.identity > 0 and target not in self.styled

    def _restore(self, k: int, images: Tensor, fakes: Tensor, cycled: _ByTarget) -> None:
        """Adds the outputs that are to be ``images`` again, where their domain's style is none or can be read off."""
        home = 1 - k
        if home not in self.styled:
            cycled[home] = self._generator(home)(fakes)
        elif str(home) in self.style_encoders:
            cycled[home] = self._generator(home)(fakes, self.style_encoders[str(home)](images))

    def _style_losses(
        self, batch: Batch, x: _ByTarget, style: _ByTarget, fakes: _ByTarget, share: float
    ) -> dict[str, Tensor]:
        styled = [k for k in self.styled if k in fakes]
        none = next(iter(fakes.values()))[:0]
        parts = {}
        if len(self.style_encoders):
            recovered = [self.style_encoders[str(k)](fakes[k]) for k in styled]
            parts["style"] = absolute_error([*recovered, none], [*(style[k] for k in styled), none], share)
        second = self._drawn(batch, "latent2")
        with torch.no_grad():
            others = [as_image(self._generator(k)(x[k], second[k]), self.domains[k]) for k in styled]
        parts["diversity"] = absolute_error([*(fakes[k] for k in styled), none], [*others, none], share)
        return parts

    def _discriminators_loss(self, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        share = batch.size / 2
        numbers = batch.noise["pool"].split(list(batch.target_counts))
        real, fake = [], []
        for k in _TARGETS:
            images, name = batch.source[k], self.domains[k].name
            shown = iteration.kept.get(name, images[:0])
            if name in iteration.pools:
                shown = iteration.pools[name](shown, numbers[k])
            if self.size.norm == "batch" or not images.shape[0] or not shown.shape[0]:
                real += [self._discriminator(k)(images)] if images.shape[0] else []
                fake += [self._discriminator(k)(shown)] if shown.shape[0] else []
            else:
                scores = self._discriminator(k)(torch.cat([images, shown.to(images.dtype)]))
                real.append(scores[: images.shape[0]])
                fake.append(scores[images.shape[0] :])
        parts = {
            "real": least_squares(real, real=True, batch_size=share),
            "fake": least_squares(fake, real=False, batch_size=share),
        }
        return 0.5 * (parts["real"] + parts["fake"]), detached(parts)

    def _drawn(self, batch: Batch, name: str) -> _ByTarget:
        """Random styles by target domain that has them."""
        if not self.styled:
            return {}
        parts = batch.noise[name].split(list(batch.target_counts))
        return {k: parts[k] for k in self.styled}

    def _generator(self, target: int) -> nn.Module:
        if str(target) not in self.generators:
            raise ValueError(f"these weights came without the generator into domain {self.domains[target].name!r}")
        return self.generators[str(target)]

    def _discriminator(self, k: int) -> nn.Module:
        if str(k) not in self.discriminators:
            raise ValueError(f"these weights came without the discriminator of domain {self.domains[k].name!r}")
        return self.discriminators[str(k)]

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
            x: Float ``[N, C_source, H, W]`` in [-1, 1]; H and W multiples of 4.
            source: Name or index of the domain of ``x``.
            target: Name or index of the other domain.
            style: Float ``[N or 1, style_dim]``, from :meth:`sample_style` or :meth:`encode_style`; not looked at where
                the target has none.
            reference: Instead of ``style``: images of the target domain, float ``[N or 1, C_target, H', W']``.

        Returns:
            Float ``[N, C_target, H, W]`` in [-1, 1]; of a one-hot domain class probabilities p, as 2 p - 1.

        Raises:
            ValueError: Unknown domain, a wrong shape, no net for this direction, or not exactly one of ``style`` and
                ``reference`` for a target that has a style.
        """
        a, b = self.domain_index(source), self.domain_index(target)
        if a == b:
            raise ValueError(f"translate: CycleGAN has no net from domain {self.domains[a].name!r} to itself")
        self._check_images("x", x, a)
        x = self._placed(x)
        if b not in self.styled:
            return as_image(self._generator(b)(x), self.domains[b])
        if (style is None) == (reference is None):
            raise ValueError(f"translate: domain {self.domains[b].name!r} needs either style= or reference=")
        if reference is not None:
            style = self.encode_style(reference, b)
        assert style is not None
        rows = self._style_rows(style, x.shape[0], b)
        return as_image(self._generator(b)(x, rows), self.domains[b])

    def encode_style(self, x: Tensor, domain: str | int) -> Tensor:
        """Images ``[N, C, H, W]`` of a domain to their styles ``[N, style_dim]``; exactly 0 for one without style."""
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        x = self._placed(x)
        if k not in self.styled:
            return x.new_zeros((x.shape[0], *self.style_shape(k)))
        if str(k) not in self.style_encoders:
            raise ValueError("encode_style: with model.style noise there is no style encoder; draw styles instead")
        return self.style_encoders[str(k)](x)

    def discriminate(self, x: Tensor, domain: str | int) -> tuple[Tensor, ...]:
        """How real patches of images ``[N, C, H, W]`` of a domain look: one map ``[N, 1, h, w]``; 1 is real, 0 fake."""
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        return (self._discriminator(k)(self._placed(x)),)

"""StarGAN (arXiv 1711.09020) and its many-to-one variants: one code path.

An iteration has a phase of the discriminator; in every fifth one, a phase of the generator follows. Several data sets
come in turn, each with phases and a batch of its own. Plain, one generator makes images of any domain of an image and
the label of that domain, and one discriminator tells real from fake and reads labels off images. By the many-to-one
rules domains have first and last layers of their own, a style stands beside the label of a multi-modal domain, zeros
beside that of a uni-modal one, and images of a multi-modal domain are restored with the style that an encoder reads off
them.

The generator does not change in the discriminator's phase: what it made there is used again in its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from m2o_fast.batch import Batch
from m2o_fast.losses import absolute_error
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.nn.freezing import frozen
from m2o_fast.nn.outputs import as_image, restoration_error, supervised_error
from m2o_fast.nn.permutation import inverse
from m2o_fast.nn.style_encoder import ConvStyleEncoder
from m2o_fast.translators.base import Iteration, Phase, Translator, detached, schedule_to_zero
from m2o_fast.translators.stargan.labels import classification_error, domains_of, length, of_domains, with_styles
from m2o_fast.translators.stargan.nets import Discriminator, Generator
from m2o_fast.translators.stargan.settings import SIZES, Size, Weights

_DISCRIMINATOR = Phase("discriminator", ("discriminator",))

_ByDomain = Mapping[int, Tensor]


class StarGANv1(Translator):
    """StarGAN among any number of domains, by the many-to-one rules where ``rules`` has them.

    Args:
        domains: Two or more; with shared layers all take the widest channel count.
        rules: Those of a variant of ``SYSTEM``; with ``zero_style`` multi-modal domains have a style, else none has.
        size: Sizes of the nets.
        weights: Loss weights.
        generator_every: In every so many-th step the generator is trained.
        label_sets: How many of the domains, in their order, each data set has labels for. With several of them a label
            is longer by one number for each set: 1 for its own, whose labels alone are known. ``None``: one for all.
        discriminator: Whether there is one; translating needs none.
    """

    multiple = SIZES.multiple

    def __init__(
        self,
        domains: Sequence[Domain],
        rules: ManyToOne,
        size: Size,
        weights: Weights | None = None,
        *,
        generator_every: int = 5,
        label_sets: Sequence[int] | None = None,
        discriminator: bool = True,
    ) -> None:
        super().__init__()
        self.rules = rules
        self.domains = rules.resolve(domains)
        self.size = size
        self.weights = weights or Weights()
        self.generator_every = generator_every
        self.image_size = size.image_size
        self.label_sets = list(label_sets or [len(domains)])
        if sum(self.label_sets) != len(domains):
            raise ValueError(f"label_sets: {self.label_sets} do not add up to {len(domains)} domains")
        self.label_kinds = self.weights.labels_of(len(self.label_sets))
        self.styled = [k for k in range(len(domains)) if self.has_style(k)]
        shared = rules.domain_layers is None
        self.label_length = length(self.label_sets)
        labels = self.label_length + sum(self.style_shape(0))
        self.generator = Generator(size, self.domains, labels, shared=shared)
        judge = Discriminator(size, self.domains, len(domains), shared=shared) if discriminator else None
        self.discriminator = judge
        encoders = {str(k): ConvStyleEncoder(self.domains[k].channels, size.width, size.style_dim) for k in self.styled}
        self.style_encoders = nn.ModuleDict(encoders)

    def describe(self) -> dict[str, Any]:
        """Domains, rules, sizes, loss weights and label sets as plain JSON values."""
        return {
            "system": "stargan",
            "domains": [asdict(domain) for domain in self.domains],
            "rules": asdict(self.rules),
            "size": self.size.model_dump(),
            "weights": self.weights.model_dump(mode="json"),
            "generator_every": self.generator_every,
            "label_sets": self.label_sets,
            "discriminator": self.discriminator is not None,
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> StarGANv1:
        """The inverse of :meth:`describe`, with fresh weights."""
        return cls(
            [Domain(**domain) for domain in description["domains"]],
            ManyToOne(**description["rules"]),
            Size(**description["size"]),
            Weights(**description["weights"]),
            generator_every=description["generator_every"],
            label_sets=description["label_sets"],
            discriminator=description["discriminator"],
        )

    # --- what it learns ---

    def references(self) -> int:
        """With layers of their own, domains cannot be mixed: slopes are taken between images of the target's."""
        return 0 if self.rules.domain_layers is None else 1

    def turns(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Each data set has a batch of its own: an image becomes one of a label that it could have had."""
        return tuple(tuple(product(domains, domains)) for domains in domains_of(self.label_sets))

    def has_style(self, target: str | int) -> bool:
        """Multi-modal domains have one, unless the system is plain."""
        return self.rules.zero_style and self.rules.has_style(self.domain(target))

    def style_shape(self, target: str | int) -> tuple[int, ...]:
        """A vector, where a domain has a style."""
        return (self.size.style_dim if self.styled else 0,)

    # --- training ---

    def groups(self) -> dict[str, list[nn.Module]]:
        """One group, and so one Adam, per net; style encoders, where there are any, together."""
        found = {name: [net] for name, net in self.named_children() if name != "style_encoders"}
        encoders = {"style_encoders": list(self.style_encoders.values())} if self.styled else {}
        return found | encoders

    def phases(self, index: int) -> Sequence[Phase]:
        """For each data set the discriminator; in every fifth iteration, as published, the generator with encoders."""
        encoders = ("style_encoders",) if self.styled else ()
        generator = (Phase("generator", ("generator", *encoders)),) if self._trains_generator(index) else ()
        others = (_DISCRIMINATOR._replace(new_batch=True), *generator) * (len(self.label_sets) - 1)
        return (_DISCRIMINATOR, *generator, *others)

    def _trains_generator(self, index: int) -> bool:
        return (index + 1) % self.generator_every == 0

    def operators(self) -> tuple[str, ...]:
        """Instance norms."""
        return ("adain",)

    def noise(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """``between``, uniform ``[count, 1]``; where a domain has a style, ``latent``, ``latent2``, standard normal."""
        numbers = {"between": torch.rand((count, 1), generator=generator)}
        if self.styled:
            shape = (count, self.size.style_dim)
            numbers |= {name: torch.randn(shape, generator=generator) for name in ("latent", "latent2")}
        return numbers

    def loss(self, phase: str, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a phase; phases must come in their order, since they share what they compute."""
        if phase == "discriminator":
            return self._discriminator_loss(batch, iteration)
        if phase == "generator":
            return self._generator_loss(batch, iteration)
        raise ValueError(f"unknown phase {phase!r}; the phases are discriminator, generator")

    def _outputs(self, batch: Batch, iteration: Iteration, *, training: bool) -> tuple[Tensor, ...]:
        """Translations by target, before tanh; with a graph where the generator is trained on them, or is to be."""
        if "outputs" not in iteration.cache:
            learned = training or (self._trains_generator(iteration.index) and iteration.lasting)
            with torch.set_grad_enabled(learned):
                iteration.cache["outputs"] = self._translated(batch, "latent")
        return iteration.cache["outputs"]

    def _translated(self, batch: Batch, latent: str, only: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        labels = self._labels(batch.target_counts, self._drawn(batch, latent), batch.source[0])
        order = batch.to_target
        return self.generator(batch.source, labels[inverse(order)], order, batch.target_counts, only)

    def _drawn(self, batch: Batch, name: str) -> _ByDomain:
        """Random styles by target domain that has them."""
        if not self.styled:
            return {}
        parts = batch.noise[name].split(list(batch.target_counts))
        return {k: parts[k] for k in self.styled}

    def _labels(self, counts: Sequence[int], styles: _ByDomain, like: Tensor) -> Tensor:
        """Labels ``[N, L]`` of samples grouped by domain, and their styles; exactly 0 for domains without style."""
        labels = of_domains(counts, self.label_sets, like)
        return with_styles(labels, counts, styles, self.size.style_dim) if self.styled else labels

    def _images(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        return [as_image(output, domain) for output, domain in zip(outputs, self.domains, strict=True)]

    def _discriminator_loss(self, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        judge = self._judge()
        fakes = [fake.detach() for fake in self._images(self._outputs(batch, iteration, training=False))]
        both = zip(batch.source, fakes, strict=True)
        features = judge.features([torch.cat([real, fake.to(real.dtype)]) for real, fake in both])
        counts = [count for pair in zip(batch.source_counts, batch.target_counts, strict=True) for count in pair]
        real, fake = (torch.cat(features.split(counts)[k::2]) for k in range(2))
        parts = {
            "real": -judge.scores(real).mean(),
            "fake": judge.scores(fake).mean(),
            "gradient_penalty": self._gradient_penalty(batch, fakes),
            "classification": self._classified(judge.logits(real), batch.source_counts),
        }
        weights = self.weights
        total = parts["real"] + parts["fake"] + weights.gradient_penalty * parts["gradient_penalty"]
        return total + weights.classification * parts["classification"], detached(parts)

    def _gradient_penalty(self, batch: Batch, fakes: Sequence[Tensor]) -> Tensor:
        """Mean squared distance to 1 of the slopes of images between real ones and fakes (arXiv 1704.00028).

        Plain, between an image and its own translation, as published; otherwise the real one is another image of the
        translation's domain.
        """
        reals = batch.reference
        if self.rules.domain_layers is None:
            reals = torch.cat(batch.source)[batch.to_target].split(list(batch.target_counts))
        shares = batch.noise["between"][:, :, None, None].split(list(batch.target_counts))
        with torch.autocast(fakes[0].device.type, enabled=False):  # it squares gradients: too small for few digits
            mixed = [fake + share * (real - fake) for real, fake, share in zip(reals, fakes, shares, strict=True)]
            return self._judge().penalty(mixed)

    def _classified(self, logits: Tensor, counts: Sequence[int]) -> Tensor:
        return classification_error(logits, counts, self.label_sets, self.label_kinds)

    def _generator_loss(self, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        outputs = self._outputs(batch, iteration, training=True)
        iteration.cache.clear()  # the backward pass that follows is the last to need that graph
        fakes, judge = self._images(outputs), self._judge()
        with frozen(judge):
            features = judge.features(fakes)
            parts = {
                "adversarial": -judge.scores(features).mean(),
                "classification": self._classified(judge.logits(features), batch.target_counts),
            }
        parts["cycle"] = self._cycle(batch, fakes)
        if self.styled:
            parts |= self._style_losses(batch, fakes)
        if batch.paired and batch.has_pair is not None:
            by_target = {k: output for k, output in enumerate(outputs) if output.shape[0]}
            parts["supervised"] = supervised_error(by_target, batch, self.domains, self.rules, batch.size)
        return self._weighted(parts, iteration), detached(parts)

    def _weighted(self, parts: Mapping[str, Tensor], iteration: Iteration) -> Tensor:
        weights = self.weights
        factors: dict[str, float | Tensor] = {
            "adversarial": 1.0,
            "classification": weights.classification,
            "cycle": weights.cycle,
            "style": weights.style,
            "supervised": self.rules.supervised_weight,
        }
        if "diversity" in parts:
            factors["diversity"] = -iteration.number(
                lambda at: schedule_to_zero(weights.diversity, at, weights.diversity_steps)
            )
        return torch.stack([factors[name] * part for name, part in parts.items()]).sum()

    def _cycle(self, batch: Batch, fakes: Sequence[Tensor]) -> Tensor:
        """Every image is restored from its translation, one of a multi-modal domain with the style read off it."""
        styles = {k: self.style_encoders[str(k)](batch.source[k]) for k in self.styled if batch.source_counts[k]}
        labels = self._labels(batch.source_counts, styles, batch.source[0])[batch.to_target]
        restored = self.generator(fakes, labels, inverse(batch.to_target), batch.source_counts)
        present = {k: images for k, images in enumerate(batch.source) if images.shape[0]}
        return restoration_error({k: restored[k] for k in present}, present, self.domains, batch.size)

    def _style_losses(self, batch: Batch, fakes: Sequence[Tensor]) -> dict[str, Tensor]:
        styled, style = [k for k in self.styled if batch.target_counts[k]], self._drawn(batch, "latent")
        none = fakes[0][:0]  # where no target has a style, the losses are zeros on this device
        with torch.no_grad():
            others = self._images(self._translated(batch, "latent2", only=self.styled))
        recovered = [self.style_encoders[str(k)](fakes[k]) for k in styled]
        differences = [fakes[k] for k in styled], [others[k] for k in styled]
        return {
            "style": absolute_error([*recovered, none], [*(style[k] for k in styled), none], batch.size),
            "diversity": absolute_error([*differences[0], none], [*differences[1], none], batch.size),
        }

    def _judge(self) -> Discriminator:
        if self.discriminator is None:
            raise ValueError("these weights came without a discriminator")
        return self.discriminator

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
            target: Name or index of the domain to translate into.
            style: Float ``[N or 1, style_dim]``, from :meth:`sample_style` or :meth:`encode_style`; not looked at where
                the target has none.
            reference: Instead of ``style``: images of the target domain, float ``[N or 1, C_target, H', W']``.

        Returns:
            Float ``[N, C_target, H, W]`` in [-1, 1]; of a one-hot domain class probabilities p, as 2 p - 1.

        Raises:
            ValueError: Unknown domain, a wrong shape, or not exactly one of ``style`` and ``reference`` for a target
                that has a style.
        """
        a, b = self.domain_index(source), self.domain_index(target)
        self._check_images("x", x, a)
        x, styles = self._placed(x), {}
        if b in self.styled:
            if (style is None) == (reference is None):
                raise ValueError(f"translate: domain {self.domains[b].name!r} needs either style= or reference=")
            if reference is not None:
                style = self.encode_style(reference, b)
            assert style is not None
            styles = {b: self._style_rows(style, x.shape[0], b)}
        counts = [x.shape[0] if k == b else 0 for k in range(len(self.domains))]
        outputs = self.generator(self._as_parts(x, a), self._labels(counts, styles, x), None, counts)
        return as_image(outputs[b], self.domains[b])

    def translate_labels(self, x: Tensor, labels: Tensor) -> Tensor:
        """Translates images to what labels of any kind say, such as several attributes at once.

        Args:
            x: Float ``[N, C, H, W]`` in [-1, 1]; H and W multiples of 4.
            labels: Float ``[N or 1, L]``: a number for each domain, then, of several label sets, one for each set: 1
                for that whose labels are given, 0 for others, whose labels are 0, too.

        Returns:
            Float ``[N, C, H, W]`` in [-1, 1].

        Raises:
            ValueError: A wrong shape, or domains that have layers of their own.
        """
        if self.rules.domain_layers is not None:
            raise ValueError("translate_labels: domains have layers of their own here; use translate")
        self._check_images("x", x, 0)
        if labels.shape[1:] != (self.label_length,) or labels.shape[0] not in (1, x.shape[0]):
            wanted = f"[{x.shape[0]} or 1, {self.label_length}]"
            raise ValueError(f"translate_labels: labels must be {wanted}, got {list(labels.shape)}")
        x = self._placed(x)
        rows = labels.to(x).expand(x.shape[0], -1)
        counts = [x.shape[0], *[0] * (len(self.domains) - 1)]
        return as_image(self.generator(self._as_parts(x, 0), rows, None, counts)[0], self.domains[0])

    def encode_style(self, x: Tensor, domain: str | int) -> Tensor:
        """Images ``[N, C, H, W]`` of a domain to their styles ``[N, style_dim]``; exactly 0 for one without style."""
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        x = self._placed(x)
        if k not in self.styled:
            return x.new_zeros((x.shape[0], *self.style_shape(k)))
        if min(x.shape[2:]) < ConvStyleEncoder.smallest:
            least = ConvStyleEncoder.smallest
            raise ValueError(f"encode_style: images need at least {least}x{least} pixels, got {list(x.shape)}")
        return self.style_encoders[str(k)](x)

    def discriminate(self, x: Tensor, domain: str | int) -> tuple[Tensor, ...]:
        """How real patches of images ``[N, C, H, W]`` look: one map of scores ``[N, 1, h, w]``; higher is more so.

        Raises:
            ValueError: Unknown domain, no discriminator, a wrong shape, or too few pixels in a row or column.
        """
        judge, k = self._judge(), self.domain_index(domain)
        self._check_images("x", x, k)
        least = 1 << self.size.discriminator_layers
        if min(x.shape[2:]) < least:
            raise ValueError(f"discriminate: images need at least {least}x{least} pixels, got {list(x.shape)}")
        return (judge.scores(judge.features(self._as_parts(self._placed(x), k))),)

    def classify(self, x: Tensor, domain: str | int = 0) -> Tensor:
        """Logits of the labels of all domains, read off images: ``[N, number of domains]``.

        Args:
            x: Float ``[N, C, S, S]`` in [-1, 1].
            domain: Where domains have first layers of their own, whose ``x`` goes through.

        Raises:
            ValueError: Unknown domain, no discriminator or a wrong shape.
        """
        judge, k, side = self._judge(), self.domain_index(domain), self.image_size
        self._check_images("x", x, k)
        if x.shape[2:] != (side, side):
            raise ValueError(f"classify: images must have {side}x{side} pixels, got {list(x.shape)}")
        return judge.logits(judge.features(self._as_parts(self._placed(x), k)))

    def _as_parts(self, x: Tensor, domain: int) -> list[Tensor]:
        return [x if k == domain else x.new_empty((0, d.channels, *x.shape[2:])) for k, d in enumerate(self.domains)]

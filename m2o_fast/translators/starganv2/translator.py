"""StarGAN v2 (arXiv 1912.01865) and its many-to-one variants HMU and HMS (arXiv 2402.12531): one code path.

An iteration has four phases: discriminator with latent-guided fakes, discriminator with reference-guided fakes,
generator + mapping network + style encoder with latent-guided fakes, generator alone with reference-guided fakes
(training the style encoder there too is known to degrade results). Images, labels and noise are the same in all four.

The phases share what cannot have changed between them, so the numbers are those of computing everything anew: the
content of x (style-free, and the generator stays put until its first phase), the latent-guided fake, and fakes of
uni-modal targets, which no style tells apart. Where nothing may be kept between phases (a batch in several parts), each
phase computes it for itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from m2o_fast.batch import Batch
from m2o_fast.losses import (
    absolute_error,
    adversarial,
    masked_reconstruction_error,
    r1_penalty,
    reconstruction_error,
)
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.nn.freezing import frozen
from m2o_fast.nn.permutation import inverse, permuted
from m2o_fast.nn.style_fit import StyleFit
from m2o_fast.translators.base import Iteration, Phase, Translator, detached, schedule_to_zero
from m2o_fast.translators.starganv2.nets import Discriminator, Generator, MappingNetwork, StyleEncoder
from m2o_fast.translators.starganv2.settings import Size, Weights

PUBLISHED = Size(image_size=256, base_width=64, max_width=512)
PHASES = (
    Phase("discriminator_latent", ("discriminator",)),
    Phase("discriminator_reference", ("discriminator",)),
    Phase("generator_latent", ("generator", "mapping_network", "style_encoder")),
    Phase("generator_reference", ("generator",)),
)
MERGED_PHASES = (Phase("discriminator", ("discriminator",)), *PHASES[2:])


class _Latent(NamedTuple):
    """What the latent-guided phases share: content in target order, styles and outputs by target domain."""

    content: Tensor
    style: dict[int, Tensor]
    outputs: tuple[Tensor, ...]


class StarGANv2(Translator):
    """StarGAN v2, HMU or HMS, depending on ``rules``.

    Args:
        domains: The domains; resolved by ``rules`` (shared stems take the widest channel count).
        rules: ``ManyToOne.symmetric()`` for StarGAN v2, ``ManyToOne()`` for HMU, which is the default, with a
            supervised weight HMS.
        size: Widths of the nets; ``None``: the published ones, for images of 256 x 256.
        weights: Loss weights.
        discriminator: Whether there is one; translating needs none.
    """

    normal_styles = False  # the mapping network makes them

    def __init__(
        self,
        domains: Sequence[Domain],
        rules: ManyToOne | None = None,
        size: Size | None = None,
        weights: Weights | None = None,
        *,
        discriminator: bool = True,
    ) -> None:
        super().__init__()
        self.rules = rules or ManyToOne()
        self.domains = self.rules.resolve(domains)
        self.size = size or PUBLISHED
        self.weights = weights or Weights()
        self.image_size = self.size.image_size
        self.styled = [k for k, domain in enumerate(self.domains) if self.rules.has_style(domain)]
        self.diverse = [k for k, domain in enumerate(self.domains) if self.rules.rewards_diversity(domain)]
        nets = (self.size, self.domains, self.rules)
        self.generator = Generator(*nets)
        self.mapping_network = MappingNetwork(*nets)
        self.style_encoder = StyleEncoder(*nets)
        self.discriminator = Discriminator(*nets) if discriminator else None

    def describe(self) -> dict[str, Any]:
        """Domains, rules, sizes and loss weights as plain JSON values."""
        return {
            "system": "starganv2",
            "domains": [asdict(domain) for domain in self.domains],
            "rules": asdict(self.rules),
            "size": self.size.model_dump(),
            "weights": self.weights.model_dump(),
            "discriminator": self.discriminator is not None,
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> StarGANv2:
        """The inverse of :meth:`describe`, with fresh weights."""
        return cls(
            [Domain(**domain) for domain in description["domains"]],
            ManyToOne(**description["rules"]),
            Size(**description["size"]),
            Weights(**description["weights"]),
            discriminator=description["discriminator"],
        )

    # --- training ---

    def style_shape(self, target: str | int) -> tuple[int, ...]:
        """A vector."""
        return (self.size.style_dim,)

    def latent_shape(self, target: str | int) -> tuple[int, ...] | None:
        """A vector, where the mapping network has a head."""
        return (self.size.latent_dim,) if self.domain_index(target) in self.styled else None

    def style_fit(self, target: str | int) -> StyleFit | None:
        """Behind the head of its domain, where the settings ask for it."""
        fit = dict(self.mapping_network.fits.named_children()).get(str(self.domain_index(target)))
        return fit if isinstance(fit, StyleFit) else None

    def references(self) -> int:
        """Two, whose translations are to differ."""
        return 2

    def operators(self) -> tuple[str, ...]:
        """Modulation where styles demodulate."""
        return ("adain", "residual", *["modulation"] * (self.size.style_op == "demod"))

    def groups(self) -> dict[str, list[nn.Module]]:
        """One group, and so one Adam, per net."""
        return {name: [net] for name, net in self.named_children()}

    def averaged_groups(self) -> tuple[str, ...]:
        """All nets but the discriminator."""
        return ("generator", "mapping_network", "style_encoder")

    def phases(self, index: int) -> Sequence[Phase]:
        """The published four, in every iteration; three with merged discriminator steps."""
        return MERGED_PHASES if self.weights.merge_discriminator_steps else PHASES

    def kind(self, index: int) -> Hashable:
        """Whether R1 is due."""
        return self._penalizes(index)

    def _penalizes(self, index: int) -> bool:
        return (index + 1) % self.weights.r1_every == 0  # as the log counts steps, so that it shows the penalty

    def compilable(self) -> Sequence[tuple[nn.Module, str]]:
        """All but the discriminator, which R1 differentiates twice."""
        generator = [(self.generator, "encode"), (self.generator, "decode")]
        return [*generator, (self.mapping_network, "forward"), (self.style_encoder, "forward")]

    def noise(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Two standard normal latents per sample, ``latent`` and ``latent2``, float ``[count, latent_dim]``."""
        shape = (count, self.size.latent_dim)
        return {name: torch.randn(shape, generator=generator) for name in ("latent", "latent2")}

    def loss(self, phase: str, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a phase; phases must come in their order, since they share what they compute."""
        if phase == "discriminator_latent":
            return self._discriminator_loss(batch, iteration.index, fake=self._latent(batch, iteration).outputs)
        if phase == "discriminator_reference":
            return self._discriminator_loss(batch, iteration.index, fake=self._reference_outputs(batch, iteration))
        if phase == "discriminator":
            latent = self._latent(batch, iteration).outputs
            reference = self._reference_outputs(batch, iteration)
            return self._discriminator_loss(batch, iteration.index, fake_latent=latent, fake_reference=reference)
        if phase == "generator_latent":
            return self._generator_latent_loss(batch, iteration)
        if phase == "generator_reference":
            return self._generator_reference_loss(batch, iteration)
        names = ", ".join(known.name for known in self.phases(iteration.index))
        raise ValueError(f"unknown phase {phase!r}; the phases are {names}")

    def _latent(self, batch: Batch, iteration: Iteration) -> _Latent:
        """Outputs with graph: the generator's own phase takes the same ones, as neither net changes before it."""
        if "latent" not in iteration.cache:
            content = permuted(self.generator.encode(batch.source), batch.to_target)
            style = self._map(batch, "latent")
            iteration.cache["latent"] = _Latent(content, style, self._decode(content, style, batch))
        return iteration.cache["latent"]

    @torch.no_grad()
    def _reference_outputs(self, batch: Batch, iteration: Iteration) -> tuple[Tensor, ...]:
        style = self._encode(batch.reference)
        latent: _Latent | None = iteration.cache.get("latent")
        if latent is None:
            return self._decode(permuted(self.generator.encode(batch.source), batch.to_target), style, batch)
        styled = self._decode(latent.content, style, batch, only=self.styled)
        return tuple(styled[k] if k in self.styled else latent.outputs[k] for k in range(len(self.domains)))

    def _discriminator_loss(
        self, batch: Batch, index: int, **outputs: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One set of fakes, given as the generator's outputs, or the mean over several; R1 where it is due."""
        discriminator, every = self._discriminator(), self.weights.r1_every
        penalty = {}
        if self._penalizes(index):
            images = [part.detach().requires_grad_() for part in batch.source]
            with torch.autocast(images[0].device.type, enabled=False):  # it squares gradients: too small for few digits
                real_logits = discriminator(images)
                penalty["r1"] = r1_penalty(real_logits, images)
        else:
            real_logits = discriminator(batch.source)
        parts = {"real": adversarial(real_logits, real=True)}
        for name, made in outputs.items():
            fakes = self.generator.images([part.detach() for part in made])
            parts[name] = adversarial(discriminator(fakes), real=False)
        total = parts["real"] + sum(parts[name] for name in outputs) / len(outputs)
        if penalty:
            total = total + every * self.weights.r1 * penalty["r1"]
        parts |= penalty
        return total, detached(parts)

    def _generator_latent_loss(self, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        content, style, outputs = self._latent(batch, iteration)
        iteration.cache.clear()  # the backward pass that follows is the last to need that graph
        with torch.no_grad():
            others = self._decode(content, self._map(batch, "latent2", self.diverse), batch, only=self.diverse)
        return self._generator_loss(batch, iteration, outputs, others, style, self._encode(batch.source))

    def _generator_reference_loss(self, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        content = permuted(self.generator.encode(batch.source), batch.to_target)
        with torch.no_grad():  # this phase trains the generator alone
            style = self._encode(batch.reference)
            source_style = self._encode(batch.source)
            others = self._decode(content, self._encode(batch.reference2, self.diverse), batch, only=self.diverse)
        outputs = self._decode(content, style, batch)
        with frozen(self.style_encoder):
            return self._generator_loss(batch, iteration, outputs, others, style, source_style)

    def _generator_loss(
        self,
        batch: Batch,
        iteration: Iteration,
        outputs: Sequence[Tensor],
        other_outputs: Sequence[Tensor],
        style: dict[int, Tensor],
        source_style: dict[int, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        fakes, others = self.generator.images(outputs), self.generator.images(other_outputs)
        with frozen(self._discriminator()):
            parts = {"adversarial": adversarial(self._discriminator()(fakes), real=True)}
        recovered = self._encode(fakes)
        none = fakes[0][:0]  # where no target has a style, the loss is a zero on this device
        parts["style"] = absolute_error([*recovered.values(), none], [*(style[k] for k in recovered), none], batch.size)
        parts["diversity"] = absolute_error(
            [fakes[k] for k in self.diverse], [others[k] for k in self.diverse], batch.size
        )
        cycled, logits = self._compared(self._cycle(batch, fakes, source_style))
        parts["cycle"] = reconstruction_error(cycled, batch.source, logits, batch.size)
        weights = self.weights
        diversity = iteration.number(lambda at: schedule_to_zero(weights.diversity, at, weights.diversity_steps))
        total = parts["adversarial"] + weights.style * parts["style"]
        total = total - diversity * parts["diversity"] + weights.cycle * parts["cycle"]
        if batch.paired and batch.has_pair is not None:
            parts["supervised"] = self._supervised(batch, outputs)
            total = total + self.rules.supervised_weight * parts["supervised"]
        return total, detached(parts)

    def _cycle(self, batch: Batch, fakes: Sequence[Tensor], source_style: dict[int, Tensor]) -> tuple[Tensor, ...]:
        content = self.generator.encode(fakes)
        style = self._full_style(source_style, batch.source_counts, content)
        return self.generator.decode(permuted(content, inverse(batch.to_target)), style, batch.source_counts)

    def _supervised(self, batch: Batch, outputs: Sequence[Tensor]) -> Tensor:
        assert batch.has_pair is not None
        known = batch.has_pair.split(list(batch.target_counts))
        outputs, logits = self._compared(outputs)
        parts = [
            masked_reconstruction_error(outputs[k], batch.paired[k], known[k], batch.size, one_hot=logits[k])
            for k, domain in enumerate(self.domains)
            if self.rules.supervises(domain) and batch.target_counts[k]
        ]
        return torch.stack(parts).sum() if parts else batch.source[0].new_zeros(())

    def _compared(self, outputs: Sequence[Tensor]) -> tuple[Sequence[Tensor], list[bool]]:
        """What is compared with true images, by domain, and whether it is logits."""
        if self.weights.of_labels == "cross_entropy":
            return outputs, self.generator.one_hot
        return self.generator.images(outputs), [False] * len(outputs)

    # --- styles of mixed domains: a dict with one tensor per domain that has a style and rows in the batch ---

    def _map(self, batch: Batch, name: str, only: Sequence[int] | None = None) -> dict[int, Tensor]:
        parts = batch.noise[name].split(list(batch.target_counts))
        chosen = self.styled if only is None else only
        latents = {k: parts[k] for k in chosen if batch.target_counts[k]}
        return self.mapping_network(latents) if latents else {}

    def _encode(self, images: Sequence[Tensor], only: Sequence[int] | None = None) -> dict[int, Tensor]:
        chosen = self.styled if only is None else only
        kept = [part if k in chosen else part[:0] for k, part in enumerate(images)]
        return self.style_encoder(kept) if any(part.shape[0] for part in kept) else {}

    def _full_style(self, style: dict[int, Tensor], counts: Sequence[int], like: Tensor) -> Tensor:
        """One row per sample; exactly 0 for domains without style."""
        zeros = like.new_zeros((max(counts, default=0), self.size.style_dim))
        return torch.cat([style.get(k, zeros[:count]).to(like.dtype) for k, count in enumerate(counts)])

    def _decode(
        self, content: Tensor, style: dict[int, Tensor], batch: Batch, only: Sequence[int] | None = None
    ) -> tuple[Tensor, ...]:
        """Content in target order to outputs by target domain; with ``only``, other domains stay empty."""
        counts = list(batch.target_counts)
        if only is not None and len(only) < len(counts):
            parts = content.split(counts)
            counts = [count if k in only else 0 for k, count in enumerate(counts)]
            content = torch.cat([part if k in only else part[:0] for k, part in enumerate(parts)])
        return self.generator.decode(content, self._full_style(style, counts, content), counts)

    def _discriminator(self) -> Discriminator:
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
            x: Float ``[N, C_source, S, S]`` in [-1, 1].
            source: Name or index of the domain of ``x``.
            target: Name or index of the domain to translate into.
            style: Float ``[N or 1, style_dim]``, from :meth:`sample_style` or :meth:`encode_style`. A uni-modal target
                has none: it is not looked at there.
            reference: Instead of ``style``: images of the target domain, float ``[N or 1, C_target, S, S]``.

        Returns:
            Float ``[N, C_target, S, S]``, about [-1, 1] but not clamped; of a one-hot domain class probabilities p, as
            2 p - 1.

        Raises:
            ValueError: Unknown domain, a wrong shape, or not exactly one of ``style`` and ``reference`` for a target
                that has a style.
        """
        a, b = self.domain_index(source), self.domain_index(target)
        self._check_images("x", x, a)
        x = self._placed(x)
        if b not in self.styled:
            styles = {}
        elif style is not None and reference is None:
            styles = {b: self._style_rows(style, x.shape[0], b)}
        elif reference is not None and style is None:
            styles = {b: self._style_rows(self.encode_style(reference, b), x.shape[0], b)}
        else:
            raise ValueError(f"translate: domain {self.domains[b].name!r} needs either style= or reference=")
        return self._decode_as(b, self.generator.encode(self._as_parts(x, a)), styles)

    def translate_many(self, x: Tensor, source: str | int, target: str | int, styles: Tensor) -> Tensor:
        """Several translations of each image, see :meth:`Translator.translate_many`; content is encoded once."""
        a, b = self.domain_index(source), self.domain_index(target)
        self._check_images("x", x, a)
        if styles.dim() != 3 or not styles.shape[1]:
            raise ValueError(f"translate_many: styles must be [N or 1, M >= 1, style_dim], got {list(styles.shape)}")
        content = self.generator.encode(self._as_parts(self._placed(x), a))
        of_domain = (
            {b: self._style_rows(style, x.shape[0], b)} if b in self.styled else {} for style in styles.unbind(1)
        )
        # One after the other, not in one batch: memory stays that of one, and so do the bits.
        return torch.stack([self._decode_as(b, content, style) for style in of_domain], dim=1)

    def _decode_as(self, target: int, content: Tensor, style: dict[int, Tensor]) -> Tensor:
        """Content as images of one domain."""
        counts = [content.shape[0] if k == target else 0 for k in range(len(self.domains))]
        outputs = self.generator.decode(content, self._full_style(style, counts, content), counts)
        return self.generator.images(outputs)[target]

    def map_style(self, z: Tensor, target: str | int) -> Tensor:
        """Latents ``[N, latent_dim]`` to styles ``[N, style_dim]`` of a domain; exactly 0 for one without style."""
        b = self.domain_index(target)
        if z.dim() != 2 or z.shape[1] != self.size.latent_dim:
            raise ValueError(f"map_style: z must be [N, {self.size.latent_dim}], got {list(z.shape)}")
        if b not in self.styled:
            return self._placed(z.new_zeros((z.shape[0], self.size.style_dim)))
        return self.mapping_network({b: self._placed(z)})[b]

    def sample_style(self, count: int, target: str | int, generator: torch.Generator | None = None) -> Tensor:
        """Styles of ``count`` standard normal latents, drawn on the CPU: ``[count, style_dim]``."""
        z = torch.randn((count, self.size.latent_dim), generator=generator)
        return self.map_style(z.to(next(self.generator.parameters()).dtype), target)

    def encode_style(self, x: Tensor, domain: str | int) -> Tensor:
        """Images ``[N, C, S, S]`` of a domain to their styles ``[N, style_dim]``; exactly 0 for one without style."""
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        if k not in self.styled:
            return self._placed(x.new_zeros((x.shape[0], self.size.style_dim)))
        return self.style_encoder(self._as_parts(self._placed(x), k))[k]

    def discriminate(self, x: Tensor, domain: str | int) -> Tensor:
        """Logits ``[N]``: how real images ``[N, C, S, S]`` look as images of a domain."""
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        return self._discriminator()(self._as_parts(self._placed(x), k))

    def _as_parts(self, x: Tensor, domain: int) -> list[Tensor]:
        return [x if k == domain else x.new_empty((0, d.channels, *x.shape[2:])) for k, d in enumerate(self.domains)]

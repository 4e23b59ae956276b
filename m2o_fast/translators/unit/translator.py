"""UNIT (arXiv 1703.00848) and its many-to-one variants: one code path.

Both domains have an encoder and a decoder around a latent that they share. An iteration has two phases: the
discriminators, then encoders and decoders. A latent is the encoder's mean, in training with standard normal noise.

By the many-to-one rules what is decoded into a uni-modal domain is decoded from the mean, in training, too. The decoder
of a multi-modal domain is steered by a style, which is drawn, or read off an image where that is to be restored: else a
uni-modal image would have to hide what it cannot show.

Every loss is a sum over the two domains of means over their samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from m2o_fast.batch import Batch, images_by_target
from m2o_fast.losses import (
    absolute_error,
    at_least_float32,
    least_squares,
    patch_cross_entropy,
)
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.nn.freezing import frozen
from m2o_fast.nn.outputs import as_image, restoration_error, supervised_error
from m2o_fast.nn.style_encoder import ConvStyleEncoder
from m2o_fast.translators.base import Iteration, Phase, Translator, detached, schedule_to_zero
from m2o_fast.translators.unit import nets
from m2o_fast.translators.unit.settings import SIZES, Size, Weights

_GENERATORS, _DISCRIMINATORS = "generators", "discriminators"

_ByDomain = dict[int, Tensor]


class _Decoded(NamedTuple):
    """What came out of a domain's decoder, by what it was decoded from.

    Attributes:
        restored: From latents of its own images.
        translated: From latents of the other domain's.
    """

    restored: Tensor
    translated: Tensor


class UNIT(Translator):
    """UNIT between two domains, by the many-to-one rules where ``rules`` has them.

    Args:
        domains: Two of them, with any numbers of channels.
        rules: Those of a variant of ``SYSTEM``; with ``zero_style`` multi-modal domains have a style, else none has.
        size: Sizes of the nets.
        weights: Loss weights.
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
        discriminators: Sequence[bool] = (True, True),
    ) -> None:
        super().__init__()
        if len(domains) != 2:
            raise ValueError(f"UNIT translates between two domains, got {len(domains)}")
        self.rules = rules
        self.domains = rules.resolve(domains)
        self.size = size
        self.weights = weights or Weights()
        self.image_size = size.image_size
        self.styled = [k for k in range(2) if self.has_style(k)]
        #: domains into which latents are decoded with noise in training
        self.noisy = [k for k in range(2) if rules.has_style(self.domains[k])]
        self.generator = nets.Generator(size, self.domains, self.styled)
        self.discriminators = nets.discriminators(size, self.domains, discriminators)
        self.style_encoders = nets.style_encoders(size, self.domains, self.styled)

    def describe(self) -> dict[str, Any]:
        """Domains, rules, sizes and loss weights as plain JSON values."""
        return {
            "system": "unit",
            "domains": [asdict(domain) for domain in self.domains],
            "rules": asdict(self.rules),
            "size": self.size.model_dump(),
            "weights": self.weights.model_dump(),
            "discriminators": [self.discriminators.judges(k) for k in range(2)],
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> UNIT:
        """The inverse of :meth:`describe`, with fresh weights."""
        return cls(
            [Domain(**domain) for domain in description["domains"]],
            ManyToOne(**description["rules"]),
            Size(**description["size"]),
            Weights(**description["weights"]),
            discriminators=description["discriminators"],
        )

    # --- what it learns ---

    def directions(self) -> tuple[tuple[int, int], ...]:
        """Both."""
        return ((0, 1), (1, 0))

    def has_style(self, target: str | int) -> bool:
        """Multi-modal domains have one, unless the system is plain."""
        return self.rules.zero_style and self.rules.has_style(self.domain(target))

    def style_shape(self, target: str | int) -> tuple[int, ...]:
        """A vector, where a domain has a style."""
        return (self.size.style_dim if self.styled else 0,)

    # --- training ---

    def groups(self) -> dict[str, list[nn.Module]]:
        """Encoders and decoders, with the style encoders, and discriminators, where there are some."""
        groups: dict[str, list[nn.Module]] = {_GENERATORS: [self.generator, self.style_encoders]}
        return groups | ({_DISCRIMINATORS: [self.discriminators]} if len(self.discriminators.own) else {})

    def phases(self, index: int) -> Sequence[Phase]:
        """Discriminators, then encoders and decoders."""
        return tuple(Phase(name, (name,)) for name in (_DISCRIMINATORS, _GENERATORS))

    def operators(self) -> tuple[str, ...]:
        """Instance norms; of the re-release layer norms as scales and shifts, too."""
        return ("adain",) if self.size.form == "paper" else ("adain", "modulation")

    def noise(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Standard normal numbers.

        ``latent_discriminators``, ``latent`` and ``latent_cycle``, ``[count, C, S/4, S/4]``, are added to the latents
        of the images to be translated in either phase, and to those of their translations; where a domain has a style,
        ``style_discriminators``, ``style`` and ``style2``, ``[count, style_dim]``.
        """
        side = self.image_size // 4
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(
            ("latent_discriminators", "latent", "latent_cycle"), (4 * self.size.width, side, side)
        )
        if self.styled:
            shapes |= dict.fromkeys(("style_discriminators", "style", "style2"), (self.size.style_dim,))
        return {name: torch.randn((count, *shape), generator=generator) for name, shape in shapes.items()}

    def loss(self, phase: str, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a phase; phases must come in their order, since they share what they compute."""
        if phase == _DISCRIMINATORS:
            return self._discriminators_loss(batch, iteration)
        if phase == _GENERATORS:
            return self._generators_loss(batch, iteration)
        raise ValueError(f"unknown phase {phase!r}; the phases are {_DISCRIMINATORS}, {_GENERATORS}")

    def _discriminators_loss(self, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.set_grad_enabled(iteration.lasting):  # else the generators' phase makes its own
            x, latents = _by_domain(batch), self._latents(batch, iteration)
        style, real, fake = self._drawn(batch, "style_discriminators"), [], []
        for k in range(2):
            if k not in self.noisy and iteration.lasting:
                made = self._decoded_means(k, iteration, latents).translated
            elif 1 - k in latents:
                with torch.no_grad():
                    mean = {1 - k: latents[1 - k]}
                    given = self._with_noise(mean, batch, "latent_discriminators") if k in self.noisy else mean
                    made = self.generator.decode(given[1 - k], k, style.get(k))
            else:
                made = batch.source[k][:0]
            images = x.get(k, batch.source[k][:0])
            fakes = as_image(made.detach(), self.domains[k]).to(images.dtype)
            for scores in self._scores(torch.cat([images, fakes]), k):
                real.append(scores[: images.shape[0]])
                fake.append(scores[images.shape[0] :])
        parts = {"real": self._adversarial(real, batch, real=True), "fake": self._adversarial(fake, batch, real=False)}
        return self.weights.adversarial * (parts["real"] + parts["fake"]), detached(parts)

    def _generators_loss(self, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        x, share = _by_domain(batch), batch.size / 2
        latents, drawn = self._latents(batch, iteration), self._drawn(batch, "style")
        noisy = self._with_noise(latents, batch, "latent")
        own = {k: self.style_encoders[str(k)](x[k]) for k in self.styled if k in x}
        decoded = {
            k: self._decoded(k, noisy, own, drawn) if k in self.noisy else self._decoded_means(k, iteration, latents)
            for k in range(2)
        }
        iteration.cache.clear()  # the backward pass that follows is the last to need those graphs
        fakes = {k: as_image(of.translated, self.domains[k]) for k, of in decoded.items() if 1 - k in x}
        with frozen(self.discriminators):
            scores = [scale for k, fake in fakes.items() for scale in self._scores(fake, k)]
        parts = {
            "adversarial": self._adversarial(scores, batch, real=True),
            "reconstruction": restoration_error({k: decoded[k].restored for k in x}, x, self.domains, share),
            "kl": _mean_square((noisy if self.weights.kl_of == "sample" else latents).values(), share),
            **self._cycle_losses(batch, x, fakes, own, share),
        }
        if self.styled:
            parts |= self._style_losses(batch, noisy, drawn, fakes, share)
        if batch.paired and batch.has_pair is not None:
            translated = {k: of.translated for k, of in decoded.items()}
            parts["supervised"] = supervised_error(translated, batch, self.domains, self.rules, share)
        return self._weighted(parts, iteration), detached(parts)

    def _weighted(self, parts: Mapping[str, Tensor], iteration: Iteration) -> Tensor:
        weights = self.weights
        factors: dict[str, float | Tensor] = {
            name: getattr(weights, name) for name in parts if name not in ("diversity", "supervised")
        }
        factors["supervised"] = self.rules.supervised_weight
        if "diversity" in parts:
            factors["diversity"] = -iteration.number(
                lambda at: schedule_to_zero(weights.diversity, at, weights.diversity_steps)
            )
        return torch.stack([factors[name] * part for name, part in parts.items()]).sum()

    def _latents(self, batch: Batch, iteration: Iteration) -> _ByDomain:
        """Means with their graph: the encoders' own phase takes the same ones, as they do not change before it."""
        if "latents" not in iteration.cache:
            iteration.cache["latents"] = {k: self.generator.encode(x, k) for k, x in _by_domain(batch).items()}
        latents: _ByDomain = iteration.cache["latents"]
        return latents

    def _decoded_means(self, k: int, iteration: Iteration, latents: _ByDomain) -> _Decoded:
        """Both phases have the same in a domain without noise and style."""
        name = f"decoded{k}"
        if name not in iteration.cache:
            iteration.cache[name] = self._decoded(k, latents, {}, {})
        decoded: _Decoded = iteration.cache[name]
        return decoded

    def _decoded(self, k: int, latents: _ByDomain, own: _ByDomain, drawn: _ByDomain) -> _Decoded:
        """Latents of both domains into one, in one go, where it has a style with those of its images and drawn ones."""
        sources = [source for source in (k, 1 - k) if source in latents]
        styles = [(own if source == k else drawn)[k] for source in sources] if k in self.styled else []
        outputs = self.generator.decode(
            torch.cat([latents[source] for source in sources]), k, torch.cat(styles) if styles else None
        )
        restored = latents[k].shape[0] if k in latents else 0
        return _Decoded(outputs[:restored], outputs[restored:])

    def _cycle_losses(
        self, batch: Batch, x: _ByDomain, fakes: _ByDomain, own: _ByDomain, share: float
    ) -> dict[str, Tensor]:
        """Of the latents of translations; nothing is computed that has no weight."""
        weights, parts = self.weights, {}
        if not weights.cycle and not weights.cycle_kl:
            return {}
        again = {1 - k: self.generator.encode(fake, k) for k, fake in fakes.items()}
        noisy = self._with_noise({k: again[k] for k in self.noisy if k in again}, batch, "latent_cycle")
        if weights.cycle:
            cycled = {k: self.generator.decode(latent, k, own.get(k)) for k, latent in (again | noisy).items()}
            parts["cycle"] = restoration_error(cycled, x, self.domains, share)
        if weights.cycle_kl:
            chosen = noisy if weights.kl_of == "sample" else {k: again[k] for k in noisy}
            none = next(iter(again.values()))[:0]  # of a uni-modal domain alone, no latent gets noise
            parts["cycle_kl"] = _mean_square([*chosen.values(), none], share)
        return parts

    def _style_losses(
        self, batch: Batch, latents: _ByDomain, drawn: _ByDomain, fakes: _ByDomain, share: float
    ) -> dict[str, Tensor]:
        styled, parts = [k for k in self.styled if k in fakes], {}
        none = next(iter(fakes.values()))[:0]
        if self.weights.style:
            recovered = [self.style_encoders[str(k)](fakes[k]) for k in styled]
            parts["style"] = absolute_error([*recovered, none], [*(drawn[k] for k in styled), none], share)
        if self.weights.diversity:
            second = self._drawn(batch, "style2")
            with torch.no_grad():
                made = {k: self.generator.decode(latents[1 - k], k, second[k]) for k in styled}
            others = [as_image(output, self.domains[k]) for k, output in made.items()]
            parts["diversity"] = absolute_error([*(fakes[k] for k in styled), none], [*others, none], share)
        return parts

    def _adversarial(self, scores: Sequence[Tensor], batch: Batch, *, real: bool) -> Tensor:
        """Summed over domains and scales."""
        kind = patch_cross_entropy if self.size.form == "paper" else least_squares
        return kind([scale for scale in scores if scale.shape[0]], real=real, batch_size=batch.size / 2)

    # --- numbers of a batch, by the domain that its images are of ---

    def _with_noise(self, latents: _ByDomain, batch: Batch, name: str) -> _ByDomain:
        parts = batch.noise[name].split(list(batch.target_counts))
        return {k: latent + parts[1 - k].to(latent.dtype) for k, latent in latents.items()}

    def _drawn(self, batch: Batch, name: str) -> _ByDomain:
        """Random styles by target domain that has them."""
        parts = batch.noise[name].split(list(batch.target_counts)) if self.styled else ()
        return {k: parts[k] for k in self.styled}

    # --- use ---

    def encode_content(self, x: Tensor, domain: str | int) -> Tensor:
        """The mean of the latents of images ``[N, C, H, W]`` of a domain: float ``[N, 4 * width, H/4, W/4]``."""
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        return self.generator.encode(self._placed(x), k)

    def translate(
        self,
        x: Tensor,
        source: str | int,
        target: str | int,
        *,
        style: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> Tensor:
        """Translates images, by the means of their latents; deterministic in its arguments.

        Args:
            x: Float ``[N, C_source, H, W]`` in [-1, 1]; H and W multiples of 4.
            source: Name or index of the domain of ``x``.
            target: Name or index of the other domain, or of the same one, whose image is restored then.
            style: Float ``[N or 1, style_dim]``, from :meth:`sample_style` or :meth:`encode_style`; not looked at where
                the target has none.
            reference: Instead of ``style``: images of the target domain, float ``[N or 1, C_target, H', W']``.

        Returns:
            Float ``[N, C_target, H, W]`` in [-1, 1]; of a one-hot domain class probabilities p, as 2 p - 1.

        Raises:
            ValueError: Unknown domain, a wrong shape, or not exactly one of ``style`` and ``reference`` for a target
                that has a style.
        """
        b = self.domain_index(target)
        latent, steered = self.encode_content(x, source), None
        if b in self.styled:
            if (style is None) == (reference is None):
                raise ValueError(f"translate: domain {self.domains[b].name!r} needs either style= or reference=")
            style = self.encode_style(reference, b) if reference is not None else style
            assert style is not None
            steered = self._style_rows(style, x.shape[0], b)
        return as_image(self.generator.decode(latent, b, steered), self.domains[b])

    def translate_many(self, x: Tensor, source: str | int, target: str | int, styles: Tensor) -> Tensor:
        """See :meth:`m2o_fast.translators.base.Translator.translate_many`; encodes each image once, and decodes it once
        where the target has no style.
        """
        b = self.domain_index(target)
        latent = self.encode_content(x, source)
        if b not in self.styled:
            return torch.stack([as_image(self.generator.decode(latent, b), self.domains[b])] * styles.shape[1], dim=1)
        made = [self.generator.decode(latent, b, self._style_rows(style, x.shape[0], b)) for style in styles.unbind(1)]
        return torch.stack([as_image(output, self.domains[b]) for output in made], dim=1)

    def encode_style(self, x: Tensor, domain: str | int) -> Tensor:
        """Images ``[N, C, H, W]`` of a domain to their styles ``[N, style_dim]``; exactly 0 for one without style.

        Raises:
            ValueError: Unknown domain, a wrong shape, or fewer than 8 pixels in a row or column of the images.
        """
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        x = self._placed(x)
        if k not in self.styled:
            return x.new_zeros((x.shape[0], *self.style_shape(k)))
        _check_sides("encode_style", x, ConvStyleEncoder.smallest)
        return self.style_encoders[str(k)](x)

    def discriminate(self, x: Tensor, domain: str | int) -> tuple[Tensor, ...]:
        """How real patches of images ``[N, C, H, W]`` of a domain look: a map ``[N, 1, h, w]`` for each scale.

        1 is real and 0 fake; in the paper's form they are logits of being real.

        Raises:
            ValueError: Unknown domain, a wrong shape, no discriminator, or images too small to leave a score.
        """
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        _check_sides("discriminate", x, self.discriminators.smallest)
        return self._scores(self._placed(x), k)

    def _scores(self, x: Tensor, k: int) -> tuple[Tensor, ...]:
        if not self.discriminators.judges(k):
            raise ValueError(f"these weights came without the discriminator of domain {self.domains[k].name!r}")
        scores: tuple[Tensor, ...] = self.discriminators(x, k)
        return scores


def _check_sides(method: str, x: Tensor, least: int) -> None:
    if min(x.shape[2:]) < least:
        raise ValueError(f"{method}: images need at least {least}x{least} pixels, got {list(x.shape)}")


def _by_domain(batch: Batch) -> _ByDomain:
    """Images by the domain that they are of, in the order of the samples of their direction."""
    return {1 - k: x for k, x in images_by_target(batch).items()}


def _mean_square(latents: Iterable[Tensor], share: float) -> Tensor:
    """The KL divergence from the standard normal but for a factor; latents may have no rows."""
    squares = [at_least_float32(latent).square().flatten(1).mean(1) for latent in latents]
    return torch.cat(squares).sum() / share

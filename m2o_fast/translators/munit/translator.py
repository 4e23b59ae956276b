"""MUNIT (arXiv 1804.04732) and its many-to-one variants: one code path.

An iteration has two phases: both discriminators, then encoders and decoders of both domains, with fresh styles. Plain,
both domains have styles. By the many-to-one rules a uni-modal domain has none: nothing encodes one, nothing in its
decoder takes one, and neither style loss nor diversity is taken of it.

Every loss is a sum over the two domains of means over their samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from m2o_fast.batch import Batch, images_by_target
from m2o_fast.losses import absolute_error, least_squares
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.nn.freezing import frozen
from m2o_fast.nn.outputs import as_image, restoration_error, supervised_error
from m2o_fast.translators.base import Iteration, Phase, Translator, detached, schedule_to_zero
from m2o_fast.translators.munit import nets
from m2o_fast.translators.munit.settings import SIZES, Size, Weights
from m2o_fast.translators.settings import smallest_judged_side

_GENERATORS, _DISCRIMINATORS = "generators", "discriminators"

_ByDomain = dict[int, Tensor]


class _Codes(NamedTuple):
    """What the images of a batch are made of, by their domain; styles of those that have them."""

    images: _ByDomain
    content: _ByDomain
    style: _ByDomain


class _Decoded(NamedTuple):
    """What was decoded as a domain: of its own images, and of the other's; what tanh makes images of."""

    own: Tensor | None
    translated: Tensor | None


class MUNIT(Translator):
    """MUNIT between two domains, by the many-to-one rules where ``rules`` has them.

    Args:
        domains: Two of them, with any numbers of channels.
        rules: Those of a variant of ``SYSTEM``; with ``zero_style`` uni-modal domains have no style, else all have one.
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
            raise ValueError(f"MUNIT translates between two domains, got {len(domains)}")
        self.rules = rules
        self.domains = rules.resolve(domains)
        self.size = size
        self.weights = weights or Weights()
        self.image_size = size.image_size
        self.styled = [k for k in range(2) if self.has_style(k)]
        #: domains whose translations are to differ: none of plain, as published
        self.diverse = [k for k in self.styled if rules.zero_style and self.weights.diversity > 0]
        self.generators = nets.auto_encoders(size, self.domains, self.styled)
        self.discriminators = nets.discriminators(size, self.domains, dict(enumerate(discriminators)))

    def describe(self) -> dict[str, Any]:
        """Domains, rules, sizes and loss weights as plain JSON values."""
        return {
            "system": "munit",
            "domains": [asdict(domain) for domain in self.domains],
            "rules": asdict(self.rules),
            "size": self.size.model_dump(),
            "weights": self.weights.model_dump(),
            "discriminators": [str(k) in self.discriminators for k in range(2)],
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> MUNIT:
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

    def style_shape(self, target: str | int) -> tuple[int, ...]:
        """A vector."""
        return (self.size.style_dim,)

    # --- training ---

    def groups(self) -> dict[str, list[nn.Module]]:
        """Generators and discriminators, where there are some."""
        judges = {_DISCRIMINATORS: list(self.discriminators.values())} if len(self.discriminators) else {}
        return {_GENERATORS: list(self.generators), **judges}

    def phases(self, index: int) -> Sequence[Phase]:
        """Discriminators, then generators."""
        return (Phase("discriminators", (_DISCRIMINATORS,)), Phase("generators", (_GENERATORS,)))

    def operators(self) -> tuple[str, ...]:
        """Instance norms, and layer norms as scales and shifts."""
        return ("adain", "modulation")

    def noise(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Standard normal ``[count, style_dim]``: ``latent`` for the discriminators, ``latent2`` for the generators."""
        shape = (count, self.size.style_dim)
        return {name: torch.randn(shape, generator=generator) for name in ("latent", "latent2")}

    def loss(self, phase: str, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`m2o_fast.translators.base.Translator.loss`."""
        if phase == "discriminators":
            return self._discriminators_loss(batch, iteration)
        if phase == "generators":
            return self._generators_loss(batch, iteration)
        raise ValueError(f"unknown phase {phase!r}; the phases are discriminators, generators")

    def _discriminators_loss(self, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        share = batch.size / 2
        real: list[list[Tensor]] = [[] for _ in range(self.size.scales)]
        fake: list[list[Tensor]] = [[] for _ in range(self.size.scales)]
        for k, shown in self._shown(batch, iteration).items():
            images = batch.source[k]
            for scale, scores in enumerate(self._discriminator(k)(torch.cat([images, shown.to(images.dtype)]))):
                real[scale].append(scores[: images.shape[0]])
                fake[scale].append(scores[images.shape[0] :])
        parts = {"real": _judged(real, True, share), "fake": _judged(fake, False, share)}
        return parts["real"] + parts["fake"], detached(parts)

    def _shown(self, batch: Batch, iteration: Iteration) -> _ByDomain:
        """By domain, the translations that its discriminator sees; kept where the next ones are to differ from them."""
        with torch.set_grad_enabled(iteration.lasting):  # else the generators' phase makes its own
            codes = self._codes(batch, iteration)
        drawn = self._drawn(batch, "latent")
        shown: _ByDomain = {k: batch.source[k][:0] for k in range(2)}
        for k in (1 - home for home in codes.content):
            if k in self.styled or not iteration.lasting:
                with torch.no_grad():
                    shown[k] = self._translated(codes, k, drawn)
            else:
                output = self._decoded(codes, k, {}, iteration).translated
                assert output is not None
                shown[k] = as_image(output, self.domains[k]).detach()
            if k in self.diverse:
                iteration.kept[self.domains[k].name] = shown[k]
        return shown

    def _generators_loss(self, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        share = batch.size / 2
        codes, drawn = self._codes(batch, iteration), self._drawn(batch, "latent2")
        decoded = {k: self._decoded(codes, k, drawn, iteration) for k in range(2)}
        iteration.cache.clear()  # the backward pass that follows is the last to need that graph
        outputs = {k: found.translated for k, found in decoded.items() if found.translated is not None}
        fakes = {k: as_image(output, self.domains[k]) for k, output in outputs.items()}
        scores: list[list[Tensor]] = [[] for _ in range(self.size.scales)]
        with frozen(self.discriminators):
            for k, fake in fakes.items():
                for scale, found in zip(scores, self._discriminator(k)(fake), strict=True):
                    scale.append(found)
        read = self.weights.content or self.weights.cycle
        again = {k: self._generator(k).content_encoder(fake) for k, fake in fakes.items()} if read else {}
        parts = {
            "adversarial": _judged(scores, True, share),
            "reconstruction": restoration_error(
                {k: found.own for k, found in decoded.items() if found.own is not None},
                codes.images,
                self.domains,
                share,
            ),
        }
        if self.weights.content:
            parts["content"] = absolute_error(list(again.values()), [codes.content[1 - k] for k in again], share)
        parts |= self._style_losses(codes, drawn, fakes, batch, iteration)
        if self.weights.cycle:
            restored = {
                1 - k: self._generator(1 - k).decode(content, codes.style.get(1 - k)) for k, content in again.items()
            }
            parts["cycle"] = restoration_error(restored, codes.images, self.domains, share)
        if batch.paired and batch.has_pair is not None:
            parts["supervised"] = supervised_error(outputs, batch, self.domains, self.rules, share)
        return self._weighted(parts, iteration), detached(parts)

    def _weighted(self, parts: Mapping[str, Tensor], iteration: Iteration) -> Tensor:
        weights = self.weights
        factors: dict[str, float | Tensor] = {
            "adversarial": 1.0,
            "reconstruction": weights.reconstruction,
            "content": weights.content,
            "style": weights.style,
            "cycle": weights.cycle,
            "supervised": self.rules.supervised_weight,
        }
        if "diversity" in parts:
            factors["diversity"] = -iteration.number(
                lambda at: schedule_to_zero(weights.diversity, at, weights.diversity_steps)
            )
        return torch.stack([factors[name] * part for name, part in parts.items()]).sum()

    def _codes(self, batch: Batch, iteration: Iteration) -> _Codes:
        """Contents and styles of the images, encoded once for both phases."""
        if "codes" not in iteration.cache:
            images = {1 - k: found for k, found in images_by_target(batch).items()}
            content = {k: self._generator(k).content_encoder(found) for k, found in images.items()}
            style = {k: self._generator(k).style_encoder(images[k]) for k in self.styled if k in images}
            iteration.cache["codes"] = _Codes(images, content, style)
        return iteration.cache["codes"]

    def _decoded(self, codes: _Codes, k: int, drawn: _ByDomain, iteration: Iteration) -> _Decoded:
        """Everything as domain ``k``, in one go; without style it is the same in both phases, and is made once."""
        name = f"decoded {k}"
        if name not in iteration.cache:
            own, other = codes.content.get(k), codes.content.get(1 - k)
            given = [content for content in (own, other) if content is not None]
            style = torch.cat([*([] if own is None else [codes.style[k]]), drawn[k]]) if k in self.styled else None
            outputs = self._generator(k).decode(torch.cat(given), style)
            rows = 0 if own is None else own.shape[0]
            decoded = _Decoded(None if own is None else outputs[:rows], None if other is None else outputs[rows:])
            if k in self.styled:
                return decoded
            iteration.cache[name] = decoded
        return iteration.cache[name]

    def _translated(self, codes: _Codes, k: int, drawn: _ByDomain) -> Tensor:
        """The other domain's images as images of ``k``, with random styles where it has some."""
        return as_image(self._generator(k).decode(codes.content[1 - k], drawn.get(k)), self.domains[k])

    def _style_losses(
        self, codes: _Codes, drawn: _ByDomain, fakes: _ByDomain, batch: Batch, iteration: Iteration
    ) -> dict[str, Tensor]:
        """Styles are found again in what was made with them, and make a difference; what has no weight is left out."""
        share, none, parts = batch.size / 2, next(iter(fakes.values()))[:0], {}
        if self.weights.style:
            styled = [k for k in self.styled if k in fakes]
            found = [self._generator(k).style_encoder(fakes[k]) for k in styled]
            parts["style"] = absolute_error([*found, none], [*(drawn[k] for k in styled), none], share)
        if self.diverse:
            diverse = [k for k in self.diverse if k in fakes]
            others = [self._other(codes, k, batch, iteration) for k in diverse]
            parts["diversity"] = absolute_error([*(fakes[k] for k in diverse), none], [*others, none], share)
        return parts

    def _other(self, codes: _Codes, k: int, batch: Batch, iteration: Iteration) -> Tensor:
        """Translations by the same weights with other styles: those that the discriminator saw."""
        name = self.domains[k].name
        if name in iteration.kept:
            return iteration.kept[name]
        with torch.no_grad():
            return self._translated(codes, k, self._drawn(batch, "latent"))

    def _drawn(self, batch: Batch, name: str) -> _ByDomain:
        """Random styles by target domain that has them."""
        parts = batch.noise[name].split(list(batch.target_counts))
        return {k: parts[k] for k in self.styled}

    def _generator(self, k: int) -> nets.AutoEncoder:
        found = self.generators[k]
        assert isinstance(found, nets.AutoEncoder)
        return found

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
            target: Name or index of the domain to translate into, which may be the same.
            style: Float ``[N or 1, style_dim]``, from :meth:`sample_style` or :meth:`encode_style`; not looked at where
                the target has none.
            reference: Instead of ``style``: images of the target domain, float ``[N or 1, C_target, H', W']``.

        Returns:
            Float ``[N, C_target, H, W]`` in [-1, 1]; of a one-hot domain class probabilities p, as 2 p - 1.

        Raises:
            ValueError: Unknown domain, a wrong shape, or not exactly one of ``style`` and ``reference`` for a target
                that has a style.
        """
        k = self.domain_index(target)
        content = self.encode_content(x, source)
        if k not in self.styled:
            return as_image(self._generator(k).decode(content, None), self.domains[k])
        if (style is None) == (reference is None):
            raise ValueError(f"translate: domain {self.domains[k].name!r} needs either style= or reference=")
        if reference is not None:
            style = self.encode_style(reference, k)
        assert style is not None
        return self._with_style(content, k, style)

    def translate_many(self, x: Tensor, source: str | int, target: str | int, styles: Tensor) -> Tensor:
        """See :meth:`m2o_fast.translators.base.Translator.translate_many`; content is encoded once."""
        k = self.domain_index(target)
        content = self.encode_content(x, source)
        if k not in self.styled:
            once = as_image(self._generator(k).decode(content, None), self.domains[k])
            return torch.stack([once] * styles.shape[1], dim=1)
        return torch.stack([self._with_style(content, k, style) for style in styles.unbind(1)], dim=1)

    def _with_style(self, content: Tensor, k: int, style: Tensor) -> Tensor:
        rows = self._style_rows(style, content.shape[0], k)
        return as_image(self._generator(k).decode(content, rows), self.domains[k])

    def encode_content(self, x: Tensor, domain: str | int) -> Tensor:
        """Images ``[N, C, H, W]`` of a domain to their content ``[N, 4 width, H / 4, W / 4]``."""
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        return self._generator(k).content_encoder(self._placed(x))

    def encode_style(self, x: Tensor, domain: str | int) -> Tensor:
        """Images ``[N, C, H, W]`` of a domain to their styles ``[N, style_dim]``; exactly 0 for one without style.

        Raises:
            ValueError: Unknown domain, a wrong shape, or fewer than 16 pixels in a row or column of the images.
        """
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        x = self._placed(x)
        if k not in self.styled:
            return x.new_zeros((x.shape[0], *self.style_shape(k)))
        least = nets.StyleEncoder.smallest
        if min(x.shape[2:]) < least:
            raise ValueError(f"encode_style: images need at least {least}x{least} pixels, got {list(x.shape)}")
        return self._generator(k).style_encoder(x)

    def discriminate(self, x: Tensor, domain: str | int) -> tuple[Tensor, ...]:
        """How real patches of images ``[N, C, H, W]`` look: ``[N, 1, h, w]`` for each scale; 1 is real, 0 fake.

        Raises:
            ValueError: Unknown domain, one without discriminator, a wrong shape, or too few pixels in a row or column
                of the images.
        """
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        judge = self._discriminator(k)
        least = smallest_judged_side(self.size.discriminator_layers, self.size.scales)
        if min(x.shape[2:]) < least:
            raise ValueError(f"discriminate: images need at least {least}x{least} pixels, got {list(x.shape)}")
        return judge(self._placed(x))


def _judged(scores: Sequence[Sequence[Tensor]], real: bool, share: float) -> Tensor:
    """Sum over scales of the least-squares losses of scores by scale and domain."""
    return torch.stack([least_squares(found, real=real, batch_size=share) for found in scores]).sum()

"""pix2pix (arXiv 1611.07004) and its many-to-one variant: one code path.

An iteration has two phases: discriminators, then generators against the discriminators as they are by then, with the
same fakes. Each direction has nets of its own; the discriminator of a domain judges an image together with what it was
made of. By the many-to-one rules the generator into a multi-modal domain gets a style as further input planes, and
instead of the one true translation it learns to make different ones.

Every loss is a sum over the directions of means over their samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from m2o_fast.batch import Batch, images_by_target
from m2o_fast.losses import absolute_error, masked_reconstruction_error, patch_cross_entropy
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.nn.freezing import frozen
from m2o_fast.nn.outputs import as_image, to_compare
from m2o_fast.nn.patch_discriminator import PatchDiscriminator
from m2o_fast.nn.unet import UNet
from m2o_fast.translators.base import Iteration, Phase, Translator, detached, schedule_to_zero
from m2o_fast.translators.pix2pix.settings import Size, Weights

PHASES = (Phase("discriminators", ("discriminators",)), Phase("generators", ("generators",)))
_TARGETS = (1, 0)  # of the first domain's images come those of the second: the published direction first

_ByTarget = dict[int, Tensor]


class _Made(NamedTuple):
    """What the phases share, by target domain."""

    x: _ByTarget
    outputs: _ByTarget
    fakes: _ByTarget


class Pix2Pix(Translator):
    """pix2pix between two domains, by the many-to-one rules where ``rules`` has them.

    Args:
        domains: Two of them, with any numbers of channels.
        rules: Those of a variant of ``SYSTEM``; with ``zero_style`` multi-modal domains have a style, else none has.
        size: Sizes of the nets.
        weights: Loss weights; that of the supervised loss is the one of ``rules`` where they have one.
        generators: Whether there is a generator into each domain.
        discriminators: Whether each domain has a discriminator; translating needs none.
    """

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
            raise ValueError(f"pix2pix translates between two domains, got {len(domains)}")
        self.rules = rules
        self.domains = rules.resolve(domains)
        self.size = size
        self.weights = weights or Weights()
        self.image_size = size.image_size
        self.multiple = 2**size.levels
        self.styled = [k for k in range(2) if self.has_style(k) and generators[k]]
        channels = [domain.channels for domain in self.domains]
        self.generators = nn.ModuleDict(
            {
                str(k): UNet(channels[1 - k] + self._style_planes(k), channels[k], size.width, size.levels, size.norm)
                for k in range(2)
                if generators[k]
            }
        )
        self.discriminators = nn.ModuleDict(
            {
                str(k): PatchDiscriminator(
                    sum(channels), size.discriminator_width, size.discriminator_layers, size.norm
                )
                for k in range(2)
                if discriminators[k]
            }
        )

    def describe(self) -> dict[str, Any]:
        """Domains, rules, sizes and loss weights as plain JSON values."""
        return {
            "system": "pix2pix",
            "domains": [asdict(domain) for domain in self.domains],
            "rules": asdict(self.rules),
            "size": self.size.model_dump(),
            "weights": self.weights.model_dump(),
            "generators": [str(k) in self.generators for k in range(2)],
            "discriminators": [str(k) in self.discriminators for k in range(2)],
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Pix2Pix:
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
        """Those that have a generator."""
        return tuple((1 - k, k) for k in _TARGETS if str(k) in self.generators)

    def paired_directions(self) -> tuple[tuple[int, int], ...]:
        """All: discriminators are shown pairs."""
        return self.directions()

    def has_style(self, target: str | int) -> bool:
        """Multi-modal domains have one, unless the system is plain."""
        return self.rules.zero_style and self.rules.has_style(self.domain(target))

    def style_shape(self, target: str | int) -> tuple[int, ...]:
        """A vector, where a domain has a style."""
        return (self.size.style_dim if self.styled else 0,)

    def reads_style(self, domain: str | int) -> bool:
        """There is no style encoder."""
        return False

    # --- training ---

    def groups(self) -> dict[str, list[nn.Module]]:
        """Generators and discriminators."""
        found = {"generators": self.generators, "discriminators": self.discriminators}
        return {name: list(nets.values()) for name, nets in found.items() if len(nets)}

    def phases(self, index: int) -> Sequence[Phase]:
        """Discriminators first, as published."""
        return PHASES

    def operators(self) -> tuple[str, ...]:
        """Instance norms, if there are any."""
        return ("adain",) if self.size.norm == "instance" else ()

    def noise(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Where a domain has a style, ``latent`` and ``latent2``, standard normal ``[count, style_dim]``.

        For each level with dropout, ``dropout<level>``, uniform ``[count, C, H, W]``.
        """
        numbers: dict[str, Tensor] = {}
        if self.styled:
            latents = (count, self.size.style_dim)
            numbers |= {name: torch.randn(latents, generator=generator) for name in ("latent", "latent2")}
        for level, shape in self._dropout_shapes().items():
            numbers[f"dropout{level}"] = torch.rand((count, *shape), generator=generator)
        return numbers

    def _dropout_shapes(self) -> dict[int, tuple[int, int, int]]:
        if not self.size.dropout or not self.directions():
            return {}
        net: UNet = next(iter(self.generators.values()))  # type: ignore[assignment]
        return net.dropout_shapes(self.image_size, self.image_size)

    def loss(self, phase: str, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a phase."""
        if phase == "discriminators":
            return self._discriminators_loss(batch, self._made(batch, iteration))
        if phase == "generators":
            made = self._made(batch, iteration)
            iteration.cache.clear()  # the backward pass that follows is the last to need that graph
            return self._generators_loss(batch, iteration, made)
        raise ValueError(f"unknown phase {phase!r}; the phases are discriminators, generators")

    def _made(self, batch: Batch, iteration: Iteration) -> _Made:
        """Fakes with graph: no generator changes before its own phase."""
        if "made" not in iteration.cache:
            x, style = images_by_target(batch), self._drawn(batch, "latent")
            outputs = {k: self._generate(k, images, style.get(k), batch) for k, images in x.items()}
            fakes = {k: as_image(output, self.domains[k]) for k, output in outputs.items()}
            iteration.cache["made"] = _Made(x, outputs, fakes)
        return iteration.cache["made"]

    def _generate(self, k: int, x: Tensor, style: Tensor | None, batch: Batch | None = None) -> Tensor:
        kept = None
        if batch is not None and self._dropout_shapes():
            parts = {
                level: batch.noise[f"dropout{level}"].split(list(batch.target_counts))[k]
                for level in self._dropout_shapes()
            }
            kept = {level: numbers >= 0.5 for level, numbers in parts.items()}
        if k in self.styled:
            assert style is not None
            planes = style.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
            x = torch.cat([x, planes], dim=1)
        return self._generator(k)(x, kept)

    def _discriminators_loss(self, batch: Batch, made: _Made) -> tuple[Tensor, dict[str, Tensor]]:
        share, known = self._share(batch), self._known(batch)
        fake, real = [], []
        for k, fakes in made.fakes.items():
            pairs = torch.cat([made.x[k], fakes.detach().to(made.x[k].dtype)], dim=1)
            true = torch.cat([made.x[k], batch.paired[k]], dim=1)
            if self.size.norm == "batch":  # whose statistics are those of fakes or of true pairs
                scores = self._discriminator(k)(pairs), self._discriminator(k)(true)
            else:
                scores = self._discriminator(k)(torch.cat([pairs, true])).chunk(2)
            fake.append(scores[0])
            real.append(scores[1])
        # Fakes without a true pair to set them off against would only teach it to call everything fake.
        masks = [known[k] for k in made.fakes]
        parts = {
            name: patch_cross_entropy(scores, real=name == "real", batch_size=share, masks=masks)
            for name, scores in (("real", real), ("fake", fake))
        }
        return 0.5 * (parts["fake"] + parts["real"]), detached(parts)

    def _generators_loss(self, batch: Batch, iteration: Iteration, made: _Made) -> tuple[Tensor, dict[str, Tensor]]:
        share, known = self._share(batch), self._known(batch)
        with frozen(self.discriminators):
            scores = [self._discriminator(k)(torch.cat([made.x[k], fake], dim=1)) for k, fake in made.fakes.items()]
        parts = {"adversarial": patch_cross_entropy(scores, real=True, batch_size=share)}
        total = parts["adversarial"]
        errors = {
            k: masked_reconstruction_error(
                to_compare(output, self.domains[k]), batch.paired[k], known[k], share, self._is_one_hot(k)
            )
            for k, output in made.outputs.items()
        }
        for name, chosen in (("supervised", False), ("multimodal", True)):
            found = [error for k, error in errors.items() if (k in self.styled) == chosen]
            if found:
                parts[name] = torch.stack(found).sum()
        if "supervised" in parts:
            total = total + (self.rules.supervised_weight or self.weights.supervised) * parts["supervised"]
        if "multimodal" in parts:
            total = total + self.weights.multimodal * parts["multimodal"]
        if self.styled:
            parts["diversity"] = self._diversity(batch, made, share)
            weights = self.weights
            falling = iteration.number(lambda at: schedule_to_zero(weights.diversity, at, weights.diversity_steps))
            total = total - falling * parts["diversity"]
        return total, detached(parts)

    def _diversity(self, batch: Batch, made: _Made, share: float) -> Tensor:
        """Difference from translations with another style, and the same numbers dropped."""
        second = self._drawn(batch, "latent2")
        styled = [k for k in self.styled if k in made.x]
        with torch.no_grad():
            others = [as_image(self._generate(k, made.x[k], second[k], batch), self.domains[k]) for k in styled]
        none = batch.source[0][:0]  # where no target has a style, the loss is a zero on this device
        return absolute_error([*(made.fakes[k] for k in styled), none], [*others, none], share)

    def _share(self, batch: Batch) -> float:
        """Samples of one direction."""
        return batch.size / len(self.directions())

    def _known(self, batch: Batch) -> list[Tensor]:
        """By target domain, which samples have a true translation."""
        if not batch.paired or batch.has_pair is None:
            raise ValueError("pix2pix learns from pairs, and this batch has none")
        return list(batch.has_pair.split(list(batch.target_counts)))

    def _is_one_hot(self, k: int) -> bool:
        return self.domains[k].kind == "onehot"

    def _drawn(self, batch: Batch, name: str) -> _ByTarget:
        """Random styles by target domain that has them."""
        if not self.styled:
            return {}
        parts = batch.noise[name].split(list(batch.target_counts))
        return {k: parts[k] for k in self.styled}

    def _style_planes(self, k: int) -> int:
        return self.size.style_dim if k in self.styled else 0

    def _generator(self, target: int) -> nn.Module:
        if str(target) not in self.generators:
            raise ValueError(f"there is no generator into domain {self.domains[target].name!r}")
        return self.generators[str(target)]

    def _discriminator(self, k: int) -> nn.Module:
        if str(k) not in self.discriminators:
            raise ValueError(f"there is no discriminator of domain {self.domains[k].name!r}")
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
        """Translates images; deterministic in its arguments in evaluation mode.

        Args:
            x: Float ``[N, C_source, H, W]`` in [-1, 1]; H and W multiples of ``multiple``.
            source: Name or index of the domain of ``x``.
            target: Name or index of the other domain.
            style: Float ``[N or 1, style_dim]``, from :meth:`sample_style`; not looked at where the target has none.
            reference: Not looked at: no style can be read off an image.

        Returns:
            Float ``[N, C_target, H, W]`` in [-1, 1]; of a one-hot domain class probabilities p, as 2 p - 1.

        Raises:
            ValueError: Unknown domain, a wrong shape, no net for this direction, or no ``style`` for a target that has
                one.
        """
        a, b = self.domain_index(source), self.domain_index(target)
        if a == b:
            raise ValueError(f"translate: pix2pix has no net from domain {self.domains[a].name!r} to itself")
        self._check_images("x", x, a)
        x = self._placed(x)
        if b not in self.styled:
            return as_image(self._generate(b, x, None), self.domains[b])
        if style is None:
            name = self.domains[b].name
            raise ValueError(f"translate: domain {name!r} needs style=; pix2pix reads no style off a reference")
        return as_image(self._generate(b, x, self._style_rows(style, x.shape[0], b)), self.domains[b])

    def encode_style(self, x: Tensor, domain: str | int) -> Tensor:
        """Exactly 0, ``[N, style_dim]``, for a domain without style. Raises ``ValueError`` for one that has a style."""
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        if k in self.styled:
            raise ValueError("encode_style: pix2pix has no style encoder; draw styles with sample_style")
        return self._placed(x).new_zeros((x.shape[0], *self.style_shape(k)))

    def discriminate(self, x: Tensor, domain: str | int, *, source: Tensor) -> tuple[Tensor, ...]:
        """How real patches of images look as translations of others.

        Args:
            x: Images of a domain, float ``[N, C, H, W]``.
            domain: Its name or index.
            source: What they were made of: images of the other domain, float ``[N, C', H, W]``.

        Returns:
            One map of logits, float ``[N, 1, h, w]``; positive is real.
        """
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        self._check_images("source", source, 1 - k)
        return (self._discriminator(k)(torch.cat([self._placed(source), self._placed(x)], dim=1)),)

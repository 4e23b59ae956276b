"""SimGAN (arXiv 1612.07828) and its many-to-one variants: one code path.

Refiners are trained first, to change nothing; then discriminators, to tell refined images from real ones; from then on
some steps of the refiners are followed by one of the discriminators, each on a batch of its own. A discriminator judges
every place of an image, and half of the refined images that it sees are of earlier steps.

Plain, images of one domain are refined into images of the other. By the many-to-one rules those of the uni-modal domain
are: a style, which is drawn, comes as further input planes, and what stays is the content, not the colour. With pairs
there is a refiner back, too, without a style; it learns the true image where that is known.

Every loss is a sum over the directions of means over their samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from m2o_fast.batch import Batch, images_by_target
from m2o_fast.losses import absolute_error, masked_reconstruction_error, patch_cross_entropy
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.nn.freezing import frozen
from m2o_fast.nn.history import HalfPool, HistoryPool
from m2o_fast.translators.base import Iteration, Phase, Translator, detached, schedule_to_zero
from m2o_fast.translators.simgan.nets import Discriminator, Refiner
from m2o_fast.translators.simgan.settings import Pace, Size, Weights, refuse_incomparable

_REFINERS, _DISCRIMINATORS = "refiners", "discriminators"
_TARGETS = (1, 0)

PRETRAINING = Phase("pretraining", (_REFINERS,))
REFINEMENT = Phase("refiners", (_REFINERS,), new_batch=True)
JUDGEMENT = Phase("discriminators", (_DISCRIMINATORS,), new_batch=True)

_ByTarget = dict[int, Tensor]


class SimGAN(Translator):
    """SimGAN between two domains, by the many-to-one rules where ``rules`` has them.

    Args:
        domains: Two of them, with any numbers of channels.
        rules: Those of a variant of ``SYSTEM``; with ``zero_style`` multi-modal domains have a style, else none has.
        size: Sizes of the nets.
        weights: Loss weights.
        pace: Which nets are trained in which iteration.
        refiners: Whether there is a refiner into each domain.
        discriminators: Whether each domain has a discriminator; translating needs none.
    """

    multiple = 1

    def __init__(
        self,
        domains: Sequence[Domain],
        rules: ManyToOne,
        size: Size,
        weights: Weights | None = None,
        pace: Pace | None = None,
        *,
        refiners: Sequence[bool],
        discriminators: Sequence[bool],
    ) -> None:
        super().__init__()
        if len(domains) != 2:
            raise ValueError(f"SimGAN translates between two domains, got {len(domains)}")
        self.rules = rules
        self.domains = rules.resolve(domains)
        self.size, self.weights, self.pace = size, weights or Weights(), pace or Pace()
        if self.weights.content == "identity":
            refuse_incomparable(self.domains)
        self.image_size = size.image_size
        styled = [rules.zero_style and rules.has_style(domain) for domain in self.domains]
        self.styled = [k for k in range(2) if styled[k] and refiners[k]]
        self.refiners = nn.ModuleDict({str(k): self._new_refiner(k) for k in range(2) if refiners[k]})
        self.discriminators = nn.ModuleDict(
            {
                str(k): Discriminator(self.domains[k].channels, size.discriminator_width, size.form)
                for k in range(2)
                if discriminators[k]
            }
        )

    def _new_refiner(self, k: int) -> Refiner:
        size, planes = self.size, self.domains[1 - k].channels + (self.size.style_dim if k in self.styled else 0)
        return Refiner(planes, self.domains[k].channels, size.width, size.form, size.blocks)

    def describe(self) -> dict[str, Any]:
        """Domains, rules, sizes, loss weights and pace as plain JSON values."""
        return {
            "system": "simgan",
            "domains": [asdict(domain) for domain in self.domains],
            "rules": asdict(self.rules),
            "size": self.size.model_dump(),
            "weights": self.weights.model_dump(),
            "pace": self.pace.model_dump(),
            "refiners": [str(k) in self.refiners for k in range(2)],
            "discriminators": [str(k) in self.discriminators for k in range(2)],
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> SimGAN:
        """The inverse of :meth:`describe`, with fresh weights."""
        return cls(
            [Domain(**domain) for domain in description["domains"]],
            ManyToOne(**description["rules"]),
            Size(**description["size"]),
            Weights(**description["weights"]),
            Pace(**description["pace"]),
            refiners=description["refiners"],
            discriminators=description["discriminators"],
        )

    # --- what it learns ---

    def directions(self) -> tuple[tuple[int, int], ...]:
        """Those that have a refiner."""
        return tuple((1 - k, k) for k in _TARGETS if str(k) in self.refiners)

    def references(self) -> int:
        """One: the real images that a discriminator sees."""
        return 1

    def has_style(self, target: str | int) -> bool:
        """Multi-modal domains that are refined into have one, unless the system is plain."""
        return self.domain_index(target) in self.styled

    def style_shape(self, target: str | int) -> tuple[int, ...]:
        """A vector, where a domain has a style."""
        return (self.size.style_dim if self.styled else 0,)

    def reads_style(self, domain: str | int) -> bool:
        """There is no style encoder."""
        return False

    # --- training ---

    def groups(self) -> dict[str, list[nn.Module]]:
        """Refiners and discriminators."""
        found = {_REFINERS: self.refiners, _DISCRIMINATORS: self.discriminators}
        return {name: list(nets.values()) for name, nets in found.items() if len(nets)}

    def phases(self, index: int) -> Sequence[Phase]:
        """Pretraining of either, then refiners and discriminators in turn; a batch for each step."""
        pace = self.pace
        if index < pace.pretrain_refiner:
            return (PRETRAINING,)
        if index < pace.pretrain_refiner + pace.pretrain_discriminator:
            return (JUDGEMENT,)
        return (*[REFINEMENT] * pace.refiner_steps, *[JUDGEMENT] * pace.discriminator_steps)

    def pools(self) -> Mapping[str, HistoryPool]:
        """One for each domain that images are refined into."""
        if not self.size.pool:
            return {}
        side, targets = self.image_size, [self.domains[b] for _, b in self.directions()]
        return {domain.name: HalfPool(self.size.pool, (domain.channels, side, side)) for domain in targets}

    def noise(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """``pool``, ``[count, 3]``; where a domain has a style, ``latent`` and ``latent2``, standard normal."""
        numbers = {"pool": torch.rand((count, 3), generator=generator)} if self.size.pool else {}
        if self.styled:
            shape = (count, self.size.style_dim)
            numbers |= {name: torch.randn(shape, generator=generator) for name in ("latent", "latent2")}
        return numbers

    def loss(self, phase: str, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a phase."""
        if phase in (PRETRAINING.name, REFINEMENT.name):
            return self._refiners_loss(batch, iteration, adversarial=phase == REFINEMENT.name)
        if phase == JUDGEMENT.name:
            return self._discriminators_loss(batch, iteration)
        raise ValueError(f"unknown phase {phase!r}; the phases are pretraining, refiners, discriminators")

    def _refiners_loss(
        self, batch: Batch, iteration: Iteration, *, adversarial: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x, style, share = images_by_target(batch), self._drawn(batch, "latent"), self._share(batch)
        fakes = {k: self._refine(k, images, style.get(k)) for k, images in x.items()}
        weights, parts = self.weights, {}
        total = torch.stack([fake[:0].sum() for fake in fakes.values()]).sum()  # 0, and reaches what was computed
        unpaired = self._unpaired(batch)
        parts["regularisation"] = self._changed(fakes, x, unpaired, share)
        total = total + weights.regularisation * parts["regularisation"]
        if unpaired:
            parts["supervised"] = self._error({k: fakes[k] for k in fakes if k in unpaired}, batch, share)
            total = total + self.rules.supervised_weight * parts["supervised"]
        if adversarial:
            with frozen(self.discriminators):
                scores = [self._realness(k, fake) for k, fake in fakes.items()]
            parts["adversarial"] = patch_cross_entropy(scores, real=True, batch_size=share)
            total = total + parts["adversarial"]
        if adversarial and self.styled and weights.diversity:
            parts["diversity"] = self._diversity(batch, x, fakes, share)
            falling = iteration.number(lambda at: schedule_to_zero(weights.diversity, at, weights.diversity_steps))
            total = total - falling * parts["diversity"]
        return total, detached(parts)

    def _unpaired(self, batch: Batch) -> _ByTarget:
        """By target that learns from pairs, which images, bool ``[n]``, have none."""
        counts = list(batch.target_counts)
        known = torch.zeros_like(batch.to_target, dtype=torch.bool) if batch.has_pair is None else batch.has_pair
        return {k: ~known.split(counts)[k] for _, k in self.paired_directions()}

    def _changed(self, fakes: _ByTarget, x: _ByTarget, only: _ByTarget, share: float) -> Tensor:
        """How far refined images, of some targets ``only`` some, are from what they were made of, by their contents."""
        errors = [x[k].new_zeros(()) for k in x]
        for k, fake in fakes.items():
            output, image = torch.broadcast_tensors(self._content(fake), self._content(x[k]))
            numbers = output[0].numel() if self.weights.reduction == "sum" else 1
            counted = only.get(k, torch.ones(len(fake), dtype=torch.bool, device=fake.device))
            errors.append(numbers * masked_reconstruction_error(output, image, counted, share, one_hot=False))
        return torch.stack(errors).sum()

    def _content(self, images: Tensor) -> Tensor:
        """What of images ``[N, C, H, W]`` is to stay: they themselves, or one channel."""
        match self.weights.content:
            case "mean":
                return images.mean(dim=1, keepdim=True)
            case "max":
                return images.amax(dim=1, keepdim=True)
        return images

    def _error(self, fakes: _ByTarget, batch: Batch, share: float) -> Tensor:
        """Difference from the true images, where they are known."""
        errors = [images.new_zeros(()) for images in batch.source]
        if batch.paired and batch.has_pair is not None:
            known = batch.has_pair.split(list(batch.target_counts))
            for k, fake in fakes.items():
                errors.append(masked_reconstruction_error(fake, batch.paired[k], known[k], share, one_hot=False))
        return torch.stack(errors).sum()

    def _diversity(self, batch: Batch, x: _ByTarget, fakes: _ByTarget, share: float) -> Tensor:
        """Difference from translations with another style."""
        second, styled = self._drawn(batch, "latent2"), [k for k in self.styled if k in x]
        with torch.no_grad():
            others = [self._refine(k, x[k], second[k]) for k in styled]
        none = next(iter(fakes.values()))[:0]  # where no target has a style, the loss is a zero on this device
        return absolute_error([*(fakes[k] for k in styled), none], [*others, none], share)

    def _discriminators_loss(self, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        x, style, share = images_by_target(batch), self._drawn(batch, "latent"), self._share(batch)
        refined, real = [], []
        for k in [b for _, b in self.directions()]:
            name, images = self.domains[k].name, batch.reference[k]
            shown = images[:0]
            if k in x:
                with torch.no_grad():
                    shown = self._refine(k, x[k], style.get(k))
            if name in iteration.pools:
                shown = iteration.pools[name](shown, batch.noise["pool"].split(list(batch.target_counts))[k])
            if len(images):
                scores = self._realness(k, torch.cat([shown.to(images.dtype), images])).split([len(shown), len(images)])
                refined.append(scores[0])
                real.append(scores[1])
        parts = {
            "refined": patch_cross_entropy(refined, real=False, batch_size=share),
            "real": patch_cross_entropy(real, real=True, batch_size=share),
        }
        return parts["refined"] + parts["real"], detached(parts)

    def _refine(self, k: int, x: Tensor, style: Tensor | None) -> Tensor:
        if k in self.styled:
            assert style is not None
            x = torch.cat([x, style.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])], dim=1)
        return self._net(self.refiners, k)(x).tanh()

    def _realness(self, k: int, images: Tensor) -> Tensor:
        """Logits of being real ``[N, 1, h, w]``: the softmax of two numbers knows their difference alone."""
        real, refined = self._net(self.discriminators, k)(images).split(1, dim=1)
        return real - refined

    def _share(self, batch: Batch) -> float:
        """Samples of one direction."""
        return batch.size / len(self.directions())

    def _drawn(self, batch: Batch, name: str) -> _ByTarget:
        """Random styles by target domain that has them."""
        if not self.styled:
            return {}
        parts = batch.noise[name].split(list(batch.target_counts))
        return {k: parts[k] for k in self.styled}

    def _net(self, nets: nn.ModuleDict, k: int) -> nn.Module:
        if str(k) not in nets:
            what = "refiner into" if nets is self.refiners else "discriminator of"
            raise ValueError(f"there is no {what} domain {self.domains[k].name!r}")
        return nets[str(k)]

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
        """Refines images; deterministic in its arguments.

        Args:
            x: Float ``[N, C_source, H, W]`` in [-1, 1], of any size.
            source: Name or index of the domain of ``x``.
            target: Name or index of the other domain.
            style: Float ``[N or 1, style_dim]``, from :meth:`sample_style`; not looked at where the target has none.
            reference: Not looked at: no style can be read off an image.

        Returns:
            Float ``[N, C_target, H, W]`` in [-1, 1].

        Raises:
            ValueError: Unknown domain, a wrong shape, no net for this direction, or no ``style`` for a target that has
                one.
        """
        a, b = self.domain_index(source), self.domain_index(target)
        if a == b:
            raise ValueError(f"translate: SimGAN has no net from domain {self.domains[a].name!r} to itself")
        self._check_images("x", x, a)
        x = self._placed(x)
        if b not in self.styled:
            return self._refine(b, x, None)
        if style is None:
            name = self.domains[b].name
            raise ValueError(f"translate: domain {name!r} needs style=; SimGAN reads no style off a reference")
        return self._refine(b, x, self._style_rows(style, x.shape[0], b))

    def encode_style(self, x: Tensor, domain: str | int) -> Tensor:
        """Exactly 0, ``[N, style_dim]``, for a domain without style. Raises ``ValueError`` for one that has a style."""
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        if k in self.styled:
            raise ValueError("encode_style: SimGAN has no style encoder; draw styles with sample_style")
        return self._placed(x).new_zeros((x.shape[0], *self.style_shape(k)))

    def discriminate(self, x: Tensor, domain: str | int) -> tuple[Tensor, ...]:
        """Of patches of images ``[N, C, H, W]`` of a domain, one map ``[N, 2, h, w]``: logits of real, of refined."""
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        return (self._net(self.discriminators, k)(self._placed(x)),)

"""BicycleGAN (arXiv 1711.11586), its parts, and its many-to-one variant: one code path.

An iteration has two phases: generators with style encoders, then discriminators, which see the same fakes. Into a
domain with style, an image is translated twice: with a style that is read off the truth, to give the truth again (the
conditional variational autoencoder, cVAE), and with a drawn one, to be found again in what was made (the conditional
latent regressor, cLR). Plain, both domains have styles. By the many-to-one rules a uni-modal one has none: translations
into it are those of a supervised GAN.

Every loss is a sum over the directions of means over their samples; the divergence of styles is a sum over samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from m2o_fast.batch import Batch, images_by_target
from m2o_fast.losses import absolute_error, least_squares, masked_reconstruction_error
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.nn.freezing import frozen
from m2o_fast.nn.outputs import as_image, to_compare
from m2o_fast.translators.base import Iteration, Phase, Translator, detached
from m2o_fast.translators.bicyclegan import nets
from m2o_fast.translators.bicyclegan.settings import JUDGES, Size, Weights

_GENERATORS, _ENCODERS, _DISCRIMINATORS = "generators", "encoders", "discriminators"
#: of translations without style: by what they are made with, what judges them
_UNSTYLED = {"none": "D"}
#: by discriminator, the names of its losses: of the generators, and its own of real images and of fakes
_PARTS = {"D": ("adversarial", "real", "fake"), "D2": ("adversarial2", "real2", "fake2")}


class BicycleGAN(Translator):
    """BicycleGAN between two domains, by the many-to-one rules where ``rules`` has them.

    Args:
        domains: Two of them, with any numbers of channels.
        rules: Those of a variant of ``SYSTEM``; with ``zero_style`` multi-modal domains have a style, else all.
        size: Sizes of the nets.
        weights: Loss weights; that of the supervised loss is the one of ``rules``.
        nets: Kinds of nets that there are beside generators: style encoders ``"E"``, discriminators ``"D"`` and, of
            drawn styles, ``"D2"``. Translating needs none.
    """

    def __init__(
        self,
        domains: Sequence[Domain],
        rules: ManyToOne,
        size: Size,
        weights: Weights | None = None,
        *,
        nets: Sequence[str] = ("E", "D", "D2"),
    ) -> None:
        super().__init__()
        if len(domains) != 2:
            raise ValueError(f"BicycleGAN translates between two domains, got {len(domains)}")
        self.rules = rules
        self.domains = rules.resolve(domains)
        self.size = size
        self.weights = weights or Weights()
        self.image_size = size.image_size
        self.multiple = 2 ** max(size.levels, size.encoder_blocks + 1)
        self.styled = [k for k in self._targets() if self.has_style(k)]
        self.given = tuple(nets)
        self._build()

    def _build(self) -> None:
        size, domains = self.size, self.domains
        self.generators = nets.Generators(size, domains, self._targets(), self.styled)
        reads = "E" in self.given and size.kind != "pix2pix_noise"
        self.encoders = nets.style_encoders(size, domains, self.styled if reads else [])
        judged = {judge: [k for k in self._targets() if judge in self._judges(k).values()] for judge in _PARTS}
        #: those that training needs
        self.judges = [judge for judge, targets in judged.items() if targets]
        given = {judge: targets for judge, targets in judged.items() if judge in self.given}
        self.discriminators = nets.discriminators(size, domains, given)

    def _targets(self) -> tuple[int, ...]:
        """Of the first domain's images come those of the second: the published direction first."""
        return (1, 0) if self.size.direction == "both" else (1,)

    def _judges(self, k: int) -> Mapping[str, str]:
        """By what translations into a domain are made with, what judges them."""
        return JUDGES[self.size.kind] if k in self.styled else _UNSTYLED

    def describe(self) -> dict[str, Any]:
        """Domains, rules, sizes and loss weights as plain JSON values."""
        return {
            "system": "bicyclegan",
            "domains": [asdict(domain) for domain in self.domains],
            "rules": asdict(self.rules),
            "size": self.size.model_dump(),
            "weights": self.weights.model_dump(),
            "nets": list(self.given),
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> BicycleGAN:
        """The inverse of :meth:`describe`, with fresh weights."""
        return cls(
            [Domain(**domain) for domain in description["domains"]],
            ManyToOne(**description["rules"]),
            Size(**description["size"]),
            Weights(**description["weights"]),
            nets=description["nets"],
        )

    # --- what it learns ---

    def directions(self) -> tuple[tuple[int, int], ...]:
        """Those that have a generator."""
        return tuple((1 - k, k) for k in self._targets())

    def paired_directions(self) -> tuple[tuple[int, int], ...]:
        """All."""
        return self.directions()

    def references(self) -> int:
        """One for D2, which sees other real images than the true translations."""
        return int("D2" in self.judges)

    def style_shape(self, target: str | int) -> tuple[int, ...]:
        """A vector, where a domain has a style."""
        return (self.size.style_dim if self.styled else 0,)

    def reads_style(self, domain: str | int) -> bool:
        """Where there is a style encoder of the domain."""
        return str(self.domain_index(domain)) in self.encoders

    # --- training ---

    def groups(self) -> dict[str, list[nn.Module]]:
        """Generators, style encoders and discriminators, where there are some."""
        found: dict[str, list[nn.Module]] = {
            _GENERATORS: [self.generators],
            _ENCODERS: list(self.encoders.values()),
            _DISCRIMINATORS: list(self.discriminators.values()),
        }
        return {name: group for name, group in found.items() if group}

    def phases(self, index: int) -> Sequence[Phase]:
        """Generators with style encoders first, as published."""
        trained = (_GENERATORS, _ENCODERS) if len(self.encoders) else (_GENERATORS,)
        return (Phase("generators", trained), Phase("discriminators", (_DISCRIMINATORS,)))

    def operators(self) -> tuple[str, ...]:
        """Instance norms, and activations as scales and shifts."""
        return ("adain", "modulation")

    def noise(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """``drawn`` styles, and ``encoded``, what spreads those read off images, normal ``[count, style_dim]``.

        For these, or ``none``, and each level with dropout ``dropout<level>_<name>``, uniform ``[count, C, H, W]``.
        """
        made = list(dict.fromkeys(name for k in self._targets() for name in self._judges(k)))
        shape = (count, self.size.style_dim)
        numbers = {name: torch.randn(shape, generator=generator) for name in made if name != "none"}
        for name in made:
            for level, dropped in self._dropout_shapes().items():
                numbers[f"dropout{level}_{name}"] = torch.rand((count, *dropped), generator=generator)
        return numbers

    def _dropout_shapes(self) -> dict[int, tuple[int, int, int]]:
        if not self.size.dropout:
            return {}
        return self.generators.into(1).dropout_shapes(self.image_size, self.image_size)

    def loss(self, phase: str, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`m2o_fast.translators.base.Translator.loss`."""
        if not batch.paired or batch.has_pair is None:
            raise ValueError("BicycleGAN learns from pairs, and this batch has none")
        if phase == "generators":
            return self._generators_loss(batch, iteration)
        if phase == "discriminators":
            return self._discriminators_loss(batch, iteration)
        raise ValueError(f"unknown phase {phase!r}; the phases are generators, discriminators")

    def _generators_loss(self, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        factors = self._factors()
        parts = dict.fromkeys(factors, batch.source[0].new_zeros(()))
        for k, x in images_by_target(batch).items():
            style, divergence = self._codes(k, batch)
            losses: list[dict[str, Tensor]] = [] if divergence is None else [{"kl": iteration.shares * divergence}]
            for name, output in self._made(k, x, style, batch).items():
                fake = as_image(output, self.domains[k])
                iteration.kept[f"{self.domains[k].name}/{name}"] = fake.detach()
                losses.append(self._losses_of(k, name, output, fake, batch))
            for part, value in (item for found in losses for item in found.items()):
                parts[part] = parts[part] + value
        return torch.stack([factor * parts[part] for part, factor in factors.items()]).sum(), detached(parts)

    def _factors(self) -> dict[str, float]:
        """Of the losses that there are, whichever directions a part of a batch has."""
        weights, kind = self.weights, JUDGES[self.size.kind]
        factors = {_PARTS[judge][0]: 1.0 for judge in self.judges}
        if self.styled and "D" in kind.values():
            factors["reconstruction"] = weights.reconstruction
        if self.styled and "encoded" in kind:
            factors["kl"] = weights.kl
        if "D2" in self.judges:
            factors["latent"] = weights.latent
        if len(self.styled) < len(self._targets()):
            factors["supervised"] = self.rules.supervised_weight
        return factors

    def _codes(self, k: int, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Styles of translations into a domain, those read off the truth before drawn ones; their divergence."""
        if k not in self.styled:
            return None, None
        noise, made, divergence = self._noise(k, batch), self._judges(k), None
        styles: list[Tensor] = []
        if "encoded" in made:
            mean, log_variance = self._encoder(k)(batch.paired[k])
            styles.append(mean + noise["encoded"] * (log_variance / 2).exp())
            divergence = _divergence(mean, log_variance, self._known(batch)[k])
        if "drawn" in made:
            styles.append(noise["drawn"])
        return torch.cat(styles), divergence

    def _made(self, k: int, x: Tensor, style: Tensor | None, batch: Batch) -> dict[str, Tensor]:
        """Outputs by what they are made with, all in one go."""
        noise, made = self._noise(k, batch), self._judges(k)
        kept = {
            level: torch.cat([noise[f"dropout{level}_{name}"] for name in made]) >= 0.5
            for level in self._dropout_shapes()
        }
        outputs = self.generators.into(k)(torch.cat([x] * len(made)), str(k), style, kept)
        return dict(zip(made, outputs.split(x.shape[0]), strict=True))

    def _losses_of(self, k: int, name: str, output: Tensor, fake: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Of the translations into a domain that were made with what ``name`` says."""
        share, known, judge = self._share(batch), self._known(batch)[k], self._judges(k)[name]
        with frozen(self.discriminators):
            scores = self._discriminator(judge, k)(fake)
        # A style that was read off what is no true translation asks for nothing.
        adversarial = _judged(scores, True, share, known if name == "encoded" else None)
        if judge == "D2":
            return {"adversarial2": adversarial, "latent": self._read_again(k, fake, batch)}
        part = "reconstruction" if k in self.styled else "supervised"
        compared, one_hot = to_compare(output, self.domains[k]), self.domains[k].kind == "onehot"
        error = masked_reconstruction_error(compared, batch.paired[k], known, share, one_hot)
        return {"adversarial": adversarial, part: error}

    def _read_again(self, k: int, fake: Tensor, batch: Batch) -> Tensor:
        """How far the styles that are read off translations are from those drawn for them.

        In the hybrid the style encoder, which learns from the truth, learns nothing of it: both could agree on a code
        that is hidden in the image. Alone, it would learn of nothing else.
        """
        with frozen(self.encoders) if self.size.kind == "bicycle" else nullcontext():
            mean, _ = self._encoder(k)(fake)
        return absolute_error([mean], [self._noise(k, batch)["drawn"]], self._share(batch))

    def _discriminators_loss(self, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        """Fakes are those of the generators before their step."""
        share, zero = self._share(batch), batch.source[0].new_zeros(())
        parts = {part: zero for judge in self.judges for part in _PARTS[judge][1:]}
        for k in images_by_target(batch):
            for name, judge in self._judges(k).items():
                truth = batch.paired[k] if judge == "D" else batch.reference[k]
                # Fakes without a truth to set them off against would only teach it to call everything fake.
                mask = self._known(batch)[k] if judge == "D" else None
                fakes = iteration.kept[f"{self.domains[k].name}/{name}"]
                scores = self._discriminator(judge, k)(torch.cat([truth, fakes.to(truth.dtype)]))
                halves = zip(*(found.chunk(2) for found in scores), strict=True)
                for part, real, found in zip(_PARTS[judge][1:], (True, False), halves, strict=True):
                    parts[part] = parts[part] + _judged(found, real, share, mask)
        return torch.stack(list(parts.values())).sum(), detached(parts)

    def _share(self, batch: Batch) -> float:
        """Samples of one direction."""
        return batch.size / len(self.directions())

    def _known(self, batch: Batch) -> tuple[Tensor, ...]:
        """By target domain, which samples have a true translation."""
        assert batch.has_pair is not None
        return batch.has_pair.split(list(batch.target_counts))

    def _noise(self, k: int, batch: Batch) -> dict[str, Tensor]:
        """The random numbers of the samples into a domain."""
        return {name: numbers.split(list(batch.target_counts))[k] for name, numbers in batch.noise.items()}

    def _encoder(self, k: int) -> nn.Module:
        if str(k) not in self.encoders:
            raise ValueError(f"there is no style encoder of domain {self.domains[k].name!r}")
        return self.encoders[str(k)]

    def _discriminator(self, which: str, k: int) -> nn.Module:
        if f"{which}_{k}" not in self.discriminators:
            raise ValueError(f"there is no discriminator {which} of domain {self.domains[k].name!r}")
        return self.discriminators[f"{which}_{k}"]

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
            raise ValueError(f"translate: BicycleGAN has no net from domain {self.domains[a].name!r} to itself")
        if b not in self._targets():
            raise ValueError(f"there is no generator into domain {self.domains[b].name!r}")
        self._check_images("x", x, a)
        x = self._placed(x)
        rows = None
        if b in self.styled:
            if (style is None) == (reference is None):
                raise ValueError(f"translate: domain {self.domains[b].name!r} needs either style= or reference=")
            if reference is not None:
                style = self.encode_style(reference, b)
            assert style is not None
            rows = self._style_rows(style, x.shape[0], b)
        return as_image(self.generators.into(b)(x, str(b), rows), self.domains[b])

    def encode_style(self, x: Tensor, domain: str | int) -> Tensor:
        """Images ``[N, C, H, W]`` of a domain to the means of their styles ``[N, style_dim]``; 0 for one without style.

        Raises:
            ValueError: Unknown domain, a wrong shape, or no style encoder of the domain.
        """
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        x = self._placed(x)
        if not self.has_style(k):
            return x.new_zeros((x.shape[0], *self.style_shape(k)))
        mean, _ = self._encoder(k)(x)
        return mean

    def discriminate(self, x: Tensor, domain: str | int, which: str = "D") -> tuple[Tensor, ...]:
        """How real patches of images ``[N, C, H, W]`` look: ``[N, 1, h, w]`` for each scale; 1 is real, 0 fake.

        Args:
            x: Images of a domain.
            domain: Its name or index.
            which: ``"D"``, or ``"D2"``, which judges translations with drawn styles.

        Raises:
            ValueError: Unknown domain or discriminator, or a wrong shape.
        """
        k = self.domain_index(domain)
        self._check_images("x", x, k)
        return self._discriminator(which, k)(self._placed(x))


def _divergence(mean: Tensor, log_variance: Tensor, known: Tensor) -> Tensor:
    """Kullback-Leibler divergence of styles from standard normal ones: a sum over all numbers of known samples."""
    divergences = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
    return (divergences * known.to(divergences.dtype)).sum()


def _judged(scores: Sequence[Tensor], real: bool, share: float, mask: Tensor | None) -> Tensor:
    """Sum over scales of the least-squares losses of scores."""
    masks = None if mask is None else [mask]
    return torch.stack([least_squares([found], real=real, batch_size=share, masks=masks) for found in scores]).sum()

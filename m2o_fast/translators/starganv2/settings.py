"""What StarGAN v2 and its variants can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, StrictBool, model_validator

from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.settings import Count, Decay, LayersOrZero, Rate, Section, Weight
from m2o_fast.translators import settings
from m2o_fast.translators.settings import Optimizer, Sizes

SIZES = Sizes(smallest=32, power_of_two=True)


class _Nets(settings.Model):
    """What :class:`Model` and :class:`Size` share.

    Attributes:
        base_width: Channels after the first layer; ``"official"``: 2^14 / image_size, as published; ``None``: the
            same, but at most ``max_width``.
        max_width: Upper limit of the channels of every layer (512 as published).
        style_dim: Length of a style vector.
        latent_dim: Length of the latent vectors that the mapping network turns into styles.
        hidden_dim: Width of the mapping network.
        style_op: How a style acts on features: ``"adain"``, as published, or ``"demod"`` (weight demodulation).
        output: Range of the images of multi-modal domains: ``"linear"``, as published, without a limit, or ``"tanh"``,
            in (-1, 1). Uni-modal and one-hot domains are linear in any case.
        domain_code: Whether two or more domains without style are told apart in the decoder by a one-hot code beside
            the style; else by their last layers alone.
        downsamplings: How often the generator halves an image; ``None``: down to 16x16, as published.
        fit_styles: Whether the styles of random latents are mapped so that the style encoder reads the same mean and
            covariance off their translations as off real images. The map is fitted to the averaged weights whenever
            they are used or saved, and no part of training. It takes up to 10,240 translations into each domain with
            styles: at 32 pixels the time of 40 steps, at 256 pixels on a CPU an hour.
    """

    base_width: Count | Literal["official"] | None = None
    max_width: Count = 64
    style_dim: Count = 64
    latent_dim: Count = 16
    hidden_dim: Count = 512
    style_op: Literal["adain", "demod"] | None = None
    output: Literal["linear", "tanh"] | None = None
    domain_code: StrictBool = True
    downsamplings: LayersOrZero | None = None
    fit_styles: StrictBool = False


class Model(_Nets):
    """Sizes of the networks, and which of the many-to-one rules they follow.

    Attributes:
        domain_layers: Which layers every domain has for itself: ``"shared"``: none; ``"stem"``: the first and the last
            ones of each net; ``"block"``: those and the residual blocks next to them; ``"adapter"``: 1x1 convolutions
            in front of shared first layers and behind shared last ones. ``None``: as the variant has it.
        zero_style: Whether uni-modal domains have the style 0, and no heads in mapping network and style encoder;
            ``None``: as the variant has it.

    Where ``style_op`` is ``None``, both it and ``output`` are as published if no rule for the nets or for diversity is
    followed, as in ``plain``, and else demodulation and tanh; where it is named, ``output: None`` is linear
    (docs/recipe.md says why).
    """

    domain_layers: Literal["shared", "stem", "block", "adapter"] | None = None
    zero_style: StrictBool | None = None

    def decoder(self, rules: ManyToOne) -> dict[str, str]:
        """``style_op`` and ``output`` under these rules."""
        if self.style_op is None and replace(rules, supervised_weight=0.0) != ManyToOne.symmetric():
            return {"style_op": "demod", "output": self.output or "tanh"}
        return {"style_op": self.style_op or "adain", "output": self.output or "linear"}


def _takes(size: int) -> int:
    if problem := SIZES.problem(size):
        raise ValueError(problem)
    return size


def _usual_downsamplings(image_size: int) -> int:
    """Down to 16x16."""
    return image_size.bit_length() - 5


def _check_downsamplings(count: int | None, image_size: int) -> None:
    """Raises ``ValueError`` of ``KEY: REASON`` where less of an image is left than 4x4, which the other nets go to."""
    most = _usual_downsamplings(image_size) + 2
    if count is not None and count > most:
        raise ValueError(
            f"model.downsamplings: {count} are too many for images of {image_size} pixels; take at most {most}"
        )


class Size(_Nets):
    """The settings of the networks in numbers.

    Attributes:
        image_size: Side length S in pixels, a power of two, at least 32.
        base_width: Channels C0 at full resolution.
    """

    image_size: Annotated[int, AfterValidator(_takes)]
    base_width: Count
    style_op: Literal["adain", "demod"] = "adain"
    output: Literal["linear", "tanh"] = "linear"

    @model_validator(mode="after")
    def _agree(self) -> Size:
        _check_downsamplings(self.downsamplings, self.image_size)
        return self

    @property
    def halvings(self) -> int:
        """How often the generator halves an image."""
        return _usual_downsamplings(self.image_size) if self.downsamplings is None else self.downsamplings

    @property
    def as_published(self) -> bool:
        """Whether the generator is the published one."""
        usual = self.halvings == _usual_downsamplings(self.image_size)
        return (self.style_op, self.output) == ("adain", "linear") and usual

    def widths(self, halvings: int) -> list[int]:
        """Channels before the first and after each of ``halvings`` halvings of the image."""
        widths = [self.base_width]
        for _ in range(halvings):
            widths.append(min(2 * widths[-1], self.max_width))
        return widths


class _Weights(Section):
    """What :class:`Loss` and :class:`Weights` share.

    Attributes:
        r1: R1 penalty of the discriminator.
        style: Style reconstruction.
        cycle: Cycle consistency.
        diversity: Diversity at the first step; it falls linearly to 0.
        r1_every: **Changes the numbers.** 1 takes the R1 penalty in every step, as published; k only in every k-th,
            with k times its weight (lazy regularization, arXiv 1912.04958, section 3.1, where k is 16).
        of_labels: How label maps of one channel per class are compared with true ones: ``"cross_entropy"`` of their
            logits, or the mean ``"absolute"`` error of the images that others see.
        merge_discriminator_steps: **Changes the numbers.** False trains the discriminator twice per iteration, as
            published, with latent-guided and with reference-guided fakes; true once, on the mean of both losses.
    """

    r1: Weight = 1.0
    style: Weight = 1.0
    cycle: Weight = 1.0
    diversity: Weight = 1.0
    r1_every: Count = 1
    of_labels: Literal["cross_entropy", "absolute"] = "cross_entropy"
    merge_discriminator_steps: bool = False


class Loss(_Weights, settings.Loss):
    """Weights of the losses, each at least 0; the adversarial loss has weight 1.

    Attributes:
        diversity_steps: Steps until the weight of diversity is 0; ``None``: all steps of the run.
        diversity_to: Which targets diversity is asked of: ``"multi_modal"`` domains or ``"all"``; no difference with
            ``zero_style``, as a domain without style has no two images to compare. ``None``: as the variant has it.
        supervised: Supervised loss of HMS; the other variants have none.
    """

    diversity_steps: Count | None = None
    diversity_to: Literal["multi_modal", "all"] | None = None
    supervised: Weight = 1.0


class Weights(_Weights):
    """The weights of the losses in numbers; that of the supervised loss belongs to :class:`ManyToOne`.

    Attributes:
        diversity_steps: Steps until the diversity weight is 0.
    """

    diversity_steps: Count = 100_000


class Optim(settings.Optim):
    """Adam, and the moving average of the weights.

    Attributes:
        lr: Learning rate of generator, style encoder and discriminator.
        mapping_lr: Learning rate of the mapping network.
        betas: Decay rates of Adam's two moments, each in [0, 1).
        weight_decay: L2 weight decay, added to the gradient.
        ema: Decay per step of the moving average that sampling uses, in [0, 1).
    """

    lr: Rate = 1e-3
    mapping_lr: Rate = 1e-5
    betas: tuple[Decay, Decay] = (0.0, 0.99)
    weight_decay: Weight = 1e-4
    ema: Decay = 0.995

    def optimizer(self, group: str) -> Optimizer:
        """Adam for every net."""
        rate = self.mapping_lr if group == "mapping_network" else self.lr
        return Optimizer(rate, betas=self.betas, weight_decay=self.weight_decay)

    def average(self) -> float | None:
        """The decay of the moving average."""
        return self.ema


class StarGANv2Settings(settings.Settings):
    """All of them."""

    model: Model = Model()
    loss: Loss = Loss()
    optim: Optim = Optim()

    def rules(self, of_variant: ManyToOne) -> ManyToOne:
        """See :meth:`m2o_fast.translators.settings.Settings.rules`; what these settings leave open is the variant's."""
        model = self.model
        said: dict[str, Any] = {}
        if model.domain_layers is not None:
            said["domain_layers"] = None if model.domain_layers == "shared" else model.domain_layers
        if model.zero_style is not None:
            said["zero_style"] = model.zero_style
        if self.loss.diversity_to is not None:
            said["diversity_on_multimodal_only"] = self.loss.diversity_to == "multi_modal"
        return replace(super().rules(of_variant), **said)

    def description(self, domains: Sequence[Domain], rules: ManyToOne, image_size: int) -> dict[str, Any]:
        """See :meth:`m2o_fast.translators.settings.Settings.description`."""
        numbers = {"image_size": image_size, "base_width": self.base_width(image_size)}
        size = {**self.model.model_dump(include=set(_Nets.model_fields)), **numbers, **self.model.decoder(rules)}
        return {
            "domains": [asdict(domain) for domain in domains],
            "rules": asdict(rules),
            "size": size,
            "weights": self.loss.model_dump(include=set(Weights.model_fields)),
            "discriminator": True,
        }

    def check(self, image_size: int, rules: ManyToOne) -> None:
        """Raises ``ValueError`` where images are too small to be halved so often."""
        _check_downsamplings(self.model.downsamplings, image_size)

    def check_domains(self, domains: Sequence[Domain], rules: ManyToOne) -> None:
        """Raises ``ValueError`` where nothing would tell two domains apart."""
        alike = [domain.name for domain in domains if not rules.has_style(domain)]
        if len(alike) > 1 and rules.domain_layers is None and not self.model.domain_code:
            raise ValueError(
                f"model.domain_code: without it and with shared layers, all images of {', '.join(alike)} would be the "
                "same; leave it on, or give domains layers of their own (model.domain_layers)"
            )

    def kept(self, steps: int) -> dict[str, int]:
        """The steps within which the diversity weight falls to 0."""
        return {"loss.diversity_steps": self.loss.diversity_steps or steps}

    def widths(self, image_size: int) -> dict[str, int]:
        """The two widths."""
        return {"model.base_width": self.base_width(image_size), "model.max_width": self.model.max_width}

    def base_width(self, image_size: int) -> int:
        """Channels after the first layer, as a number."""
        published = max(1, 2**14 // image_size)
        match self.model.base_width:
            case "official":
                return published
            case None:
                return min(published, self.model.max_width)
            case width:
                return width

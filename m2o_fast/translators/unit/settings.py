"""What UNIT and its many-to-one variants can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.settings import Count, CountOrZero, Layers, LayersOrZero, Section, Weight
from m2o_fast.translators import settings
from m2o_fast.translators.settings import HalvingAdam, Sizes, check_judged_side

#: Two halvings, and reflected borders.
SIZES = Sizes(smallest=32, multiple=4)
#: Strided layers of the paper's discriminator that each domain has of its own.
_FRONT = 2


class Model(settings.Model):
    """Sizes and kinds of the networks.

    Attributes:
        form: ``"rerelease"``, the networks of the second published code, or ``"paper"``, those of the first.
        width: Channels of encoders and decoders at full resolution; their residual blocks have four times as many.
        blocks: Residual blocks of an encoder, and of a decoder.
        share: How many of them both domains share: the last ones of the encoders, the first ones of the decoders. The
            second published code shares none.
        discriminator_width: Channels of the discriminators' first layer.
        discriminator_layers: Their layers of stride 2; ``None``: of the re-release 4 from 64 pixels on, 3 below; of the
            paper's form as many as leave 2x2 scores, at most 6.
        scales: Of the re-release: how many sizes of an image are judged; ``None``: 3 from 64 pixels on, 2 below.
        discriminator_share: Of the paper's form: how many of its layers both domains share; ``None``: all but 2.
        style_dim: Of hmu and hms: length of a style vector.
    """

    form: Literal["rerelease", "paper"] = "rerelease"
    width: Count = 64
    blocks: Layers = 4
    share: LayersOrZero = 1
    discriminator_width: Count = 64
    discriminator_layers: Layers | None = None
    scales: Layers | None = None
    discriminator_share: LayersOrZero | None = None
    style_dim: Count = 8


class Size(Model):
    """The settings of the networks in numbers; the other form's are 0.

    Attributes:
        image_size: Side length S in pixels that it is trained with.
        discriminator_layers: Layers of stride 2.
        scales: Of the re-release.
        discriminator_share: Of the paper's form.
    """

    image_size: Count
    discriminator_layers: Layers
    scales: LayersOrZero = 0
    discriminator_share: LayersOrZero = 0


class _KL(Section):
    """What :class:`Loss` and :class:`Weights` share.

    Attributes:
        kl_of: What the KL losses are taken of: the ``"mean"`` of the latents, or a ``"sample"``, to which noise was
            added, as the first published code does.
    """

    kl_of: Literal["mean", "sample"] = "mean"


class Loss(_KL, settings.Loss):
    """Weights of the losses, each at least 0. Where there is none, it is that of the re-release, or of ours beside it.

    In the paper's form, whose published weights are ten times as large, all of these are.

    Attributes:
        adversarial: Of both networks; ``None``: 1.
        reconstruction: Images restored from their own latents; ``None``: 10.
        cycle: Images restored from their translations; ``None``: 10.
        kl: Mean square of the latents; ``None``: 0.01.
        cycle_kl: The same of translations; ``None``: 0.01.
        style: Of hmu and hms: styles read off the images that were made with them; ``None``: 1.
        diversity: Of hmu and hms: difference of two translations at the first step, from which it falls linearly to 0;
            ``None``: 1.
        diversity_steps: Steps until the weight of diversity is 0; ``None``: all steps of the run.
        supervised: Supervised loss of hms, ``None``: 10; the other variants have none.
    """

    adversarial: Weight | None = None
    reconstruction: Weight | None = None
    cycle: Weight | None = None
    kl: Weight | None = None
    cycle_kl: Weight | None = None
    style: Weight | None = None
    diversity: Weight | None = None
    diversity_steps: Count | None = None
    supervised: Weight | None = None  # type: ignore[assignment]


class Weights(_KL):
    """The weights of the losses in numbers; that of the supervised loss belongs to :class:`ManyToOne`.

    Attributes:
        adversarial: Of both networks.
        reconstruction: Images restored from their own latents.
        cycle: Images restored from their translations.
        kl: Mean square of the latents.
        cycle_kl: The same of translations.
        style: Styles read off the images that were made with them.
        diversity: Difference of two translations at the first step.
        diversity_steps: Steps until the diversity weight is 0.
    """

    adversarial: Weight = 1.0
    reconstruction: Weight = 10.0
    cycle: Weight = 10.0
    kl: Weight = 0.01
    cycle_kl: Weight = 0.01
    style: Weight = 1.0
    diversity: Weight = 1.0
    diversity_steps: Count = 100_000


_SUPERVISED = 10.0
#: lambda_0 to lambda_4 of arXiv 1703.00848, section 4, are 10, 0.1, 100, 0.1 and 100: those of the re-release so often.
_PAPER = 10.0


class Optim(HalvingAdam):
    """Adam for all nets.

    Attributes:
        halve_every: Steps after which the rate is halved each time; 0: never; ``None``: 100,000, in the paper's form 0.
    """

    halve_every: CountOrZero | None = None  # type: ignore[assignment]


class UNITSettings(settings.Settings):
    """All of them."""

    model: Model = Model()
    loss: Loss = Loss()
    optim: Optim = Optim()

    def description(self, domains: Sequence[Domain], rules: ManyToOne, image_size: int) -> dict[str, Any]:
        """See :meth:`m2o_fast.translators.settings.Settings.description`."""
        return {
            "domains": [asdict(domain) for domain in domains],
            "rules": asdict(rules),
            "size": self.sizes(image_size),
            "weights": self.weights(),
            "discriminators": [True, True],
        }

    def sizes(self, image_size: int) -> dict[str, Any]:
        """The fields of :class:`Size`."""
        chosen = self.model.model_dump(exclude_none=True)
        if self.model.form == "paper":
            layers = chosen.setdefault("discriminator_layers", min(6, image_size.bit_length() - 2))
            chosen.setdefault("discriminator_share", max(0, layers - _FRONT))
        else:
            chosen.setdefault("discriminator_layers", 4 if image_size >= 64 else 3)
            chosen.setdefault("scales", 3 if image_size >= 64 else 2)
        return {**chosen, "image_size": image_size}

    def weights(self) -> dict[str, Any]:
        """The fields of :class:`Weights`."""
        published = {
            name: self._published(weight)
            for name, weight in Weights().model_dump(exclude={"kl_of", "diversity_steps"}).items()
        }
        return published | self.loss.model_dump(exclude={"supervised"}, exclude_none=True)

    def supervised(self) -> float:
        """See :meth:`m2o_fast.translators.settings.Settings.supervised`."""
        return self._published(_SUPERVISED) if self.loss.supervised is None else self.loss.supervised

    def _published(self, weight: float) -> float:
        return _PAPER * weight if self.model.form == "paper" else weight

    def check(self, image_size: int, rules: ManyToOne) -> None:
        """Blocks and layers must be there to be shared, images to be judged, and a rate that falls early must fall."""
        self.optim.check(self._halve_every())
        model, size = self.model, Size(**self.sizes(image_size))
        if model.share > model.blocks:
            raise ValueError(f"model.share: {model.share} of {model.blocks} residual blocks cannot be shared")
        if rules.zero_style and model.share == model.blocks:
            raise ValueError(
                f"model.share: with all {model.blocks} residual blocks shared, a domain has none of its own for its "
                f"style; take at most {model.blocks - 1}"
            )
        if model.form == "paper":
            self._check_paper(size)
        else:
            self._check_rerelease(size)

    def _check_paper(self, size: Size) -> None:
        if self.model.scales is not None:
            raise ValueError("model.scales: the paper's discriminators have one scale; leave it out")
        if size.discriminator_share >= size.discriminator_layers:
            raise ValueError(
                f"model.discriminator_share: of {size.discriminator_layers} layers at most "
                f"{size.discriminator_layers - 1} can be shared, got {size.discriminator_share}"
            )

    def _check_rerelease(self, size: Size) -> None:
        if self.model.discriminator_share is not None:
            raise ValueError("model.discriminator_share: the re-release shares no discriminator; leave it out")
        check_judged_side(size.image_size, size.discriminator_layers, size.scales)

    def kept(self, steps: int) -> dict[str, int]:
        """The steps within which the diversity weight falls to 0, and those after which the form halves its rate."""
        return {"loss.diversity_steps": self.loss.diversity_steps or steps, "optim.halve_every": self._halve_every()}

    def _halve_every(self) -> int:
        if self.optim.halve_every is not None:
            return self.optim.halve_every
        return 0 if self.model.form == "paper" else HalvingAdam().halve_every

    def widths(self, image_size: int) -> dict[str, int]:
        """Those of encoders, decoders and discriminators."""
        return {"model.width": self.model.width, "model.discriminator_width": self.model.discriminator_width}

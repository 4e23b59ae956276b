"""What MUNIT and its many-to-one variants can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.settings import Count, Layers, Section, Weight
from m2o_fast.translators import settings
from m2o_fast.translators.settings import HalvingAdam, Sizes, check_judged_side

#: Content has a quarter of the resolution; style encoders halve four times.
SIZES = Sizes(smallest=32, multiple=4)


class Model(settings.Model):
    """Sizes of the networks.

    Attributes:
        width: Channels of encoders and decoders at full resolution; content has four times as many.
        blocks: Residual blocks of a content encoder, and of a decoder.
        style_dim: Length of a style vector.
        mlp_width: Width of the layers that make the decoder's scales and shifts of a style.
        discriminator_width: Channels of the discriminators' first layer; every layer doubles them.
        discriminator_layers: Their layers of stride 2; ``None``: 4 from 64 pixels on, as published, 3 below.
        scales: Sizes of the image that a discriminator judges, each half of that before; ``None``: 3 from 64 pixels
            on, as published, 2 below.
    """

    width: Count = 64
    blocks: Layers = 4
    style_dim: Count = 8
    mlp_width: Count = 256
    discriminator_width: Count = 64
    discriminator_layers: Layers | None = None
    scales: Layers | None = None


class Size(Model):
    """The settings of the networks in numbers.

    Attributes:
        image_size: Side length S in pixels that it is trained with.
        discriminator_layers: Layers of stride 2.
        scales: Sizes of the image.
    """

    image_size: Count
    discriminator_layers: Layers
    scales: Layers


class _Weights(Section):
    """What :class:`Loss` and :class:`Weights` share.

    Attributes:
        reconstruction: Images decoded from their own content and style.
        content: Content read off translations.
        style: Styles read off translations, of domains that have them.
        cycle: Images restored from their translations, with their own style; 0: none.
        diversity: Of hmu and hms: difference of two translations into a multi-modal domain at the first step; it falls
            linearly to 0.
    """

    reconstruction: Weight = 10.0
    content: Weight = 1.0
    style: Weight = 1.0
    cycle: Weight = 0.0
    diversity: Weight = 1.0


class Loss(_Weights, settings.Loss):
    """Weights of the losses, each at least 0; the adversarial losses have weight 1.

    Attributes:
        diversity_steps: Of hmu and hms: steps until the weight of diversity is 0; ``None``: all steps of the run.
        supervised: Supervised loss of hms; the other variants have none.
    """

    diversity_steps: Count | None = None
    supervised: Weight = 10.0


class Weights(_Weights):
    """The weights of the losses in numbers; that of the supervised loss belongs to :class:`ManyToOne`.

    Attributes:
        diversity_steps: Steps until the diversity weight is 0.
    """

    diversity_steps: Count = 100_000


class MUNITSettings(settings.Settings):
    """All of them."""

    model: Model = Model()
    loss: Loss = Loss()
    optim: HalvingAdam = HalvingAdam()

    def description(self, domains: Sequence[Domain], rules: ManyToOne, image_size: int) -> dict[str, Any]:
        """See :meth:`m2o_fast.translators.settings.Settings.description`."""
        return {
            "domains": [asdict(domain) for domain in domains],
            "rules": asdict(rules),
            "size": self.sizes(image_size),
            "weights": self.loss.model_dump(exclude={"supervised"}, exclude_none=True),
            "discriminators": [True, True],
        }

    def sizes(self, image_size: int) -> dict[str, Any]:
        """The fields of :class:`Size`."""
        layers, scales = (4, 3) if image_size >= 64 else (3, 2)
        chosen = {"discriminator_layers": layers, "scales": scales}
        return {**chosen, **self.model.model_dump(exclude_none=True), "image_size": image_size}

    def check(self, image_size: int, rules: ManyToOne) -> None:
        """The discriminators must have a pixel to score at their last scale, and a rate that falls early must fall."""
        self.optim.check(self.optim.halve_every)
        size = self.sizes(image_size)
        check_judged_side(image_size, size["discriminator_layers"], size["scales"])

    def kept(self, steps: int) -> dict[str, int]:
        """The steps within which the diversity weight falls to 0."""
        return {"loss.diversity_steps": self.loss.diversity_steps or steps}

    def widths(self, image_size: int) -> dict[str, int]:
        """Those of generators and discriminators."""
        return {"model.width": self.model.width, "model.discriminator_width": self.model.discriminator_width}

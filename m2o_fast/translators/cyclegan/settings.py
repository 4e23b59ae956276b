"""What CycleGAN and its many-to-one variants can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.settings import Count, CountOrZero, Layers, LayersOrZero, Section, Weight
from m2o_fast.translators import settings
from m2o_fast.translators.settings import DecayingAdam, Sizes

#: Two halvings, and reflected borders of 3 pixels and of 1 behind them.
SIZES = Sizes(smallest=32, multiple=4)


class Model(settings.Model):
    """Sizes and kinds of the networks.

    Attributes:
        width: Channels of the generators at full resolution; their residual blocks have four times as many.
        blocks: Residual blocks of a generator; ``None``: 9 from 256 pixels on, 6 below, as published.
        discriminator_width: Channels of the discriminators' first layer.
        discriminator_layers: Their layers of stride 2: 3 judge patches of 70x70 pixels, 2 of 34x34; ``None``: 3 from
            64 pixels on, 2 below.
        norm: ``"instance"`` as published, ``"batch"`` or ``"none"``.
        style: Of hmu and hms: where the style of a multi-modal image comes from when it is restored: ``"encoder"``
            reads it off the image; ``"noise"`` has none, and such images are not restored.
        style_dim: Length of a style vector; plain has none.
        pool: Images that the history of a domain holds, from which its discriminator learns, too; 0: none.
    """

    width: Count = 64
    blocks: Layers | None = None
    discriminator_width: Count = 64
    discriminator_layers: LayersOrZero | None = None
    norm: Literal["batch", "instance", "none"] = "instance"
    style: Literal["encoder", "noise"] = "encoder"
    style_dim: Count = 8
    pool: CountOrZero = 50


class Size(Model):
    """The settings of the networks in numbers.

    Attributes:
        image_size: Side length S in pixels that it is trained with.
        blocks: Residual blocks of a generator.
        discriminator_layers: Layers of stride 2.
    """

    image_size: Count
    blocks: Layers
    discriminator_layers: LayersOrZero


class _Weights(Section):
    """What :class:`Loss` and :class:`Weights` share.

    Attributes:
        cycle: Images restored from their translations.
        identity: Images of the target domain that are to stay as they are, as a share of ``cycle``; taken where both
            domains have as many channels, and by hmu and hms for uni-modal targets alone.
        style: Of hmu and hms with a style encoder: styles read off the images that were made with them.
        diversity: Of hmu and hms: difference of two translations at the first step; it falls linearly to 0.
    """

    cycle: Weight = 10.0
    identity: Weight = 0.5
    style: Weight = 1.0
    diversity: Weight = 1.0


class Loss(_Weights, settings.Loss):
    """Weights of the losses, each at least 0; the adversarial losses have weight 1.

    Attributes:
        diversity_steps: Steps until the weight of diversity is 0; ``None``: all steps of the run.
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


class CycleGANSettings(settings.Settings):
    """All of them."""

    model: Model = Model()
    loss: Loss = Loss()
    optim: DecayingAdam = DecayingAdam()

    def description(self, domains: Sequence[Domain], rules: ManyToOne, image_size: int) -> dict[str, Any]:
        """See :meth:`m2o_fast.translators.settings.Settings.description`."""
        return {
            "domains": [asdict(domain) for domain in domains],
            "rules": asdict(rules),
            "size": self.sizes(image_size),
            "weights": self.loss.model_dump(exclude={"supervised"}, exclude_none=True),
            "generators": [True, True],
            "discriminators": [True, True],
        }

    def sizes(self, image_size: int) -> dict[str, Any]:
        """The fields of :class:`Size`."""
        chosen = {
            "blocks": 9 if image_size >= 256 else 6,
            "discriminator_layers": 3 if image_size >= 64 else 2,
        }
        return {**chosen, **self.model.model_dump(exclude_none=True), "image_size": image_size}

    def check(self, image_size: int, rules: ManyToOne) -> None:
        """The discriminators must have something left to judge."""
        layers = self.sizes(image_size)["discriminator_layers"]
        if image_size >> layers < 3:  # two layers more take a pixel each, and a norm needs two pixels
            raise ValueError(
                f"model.discriminator_layers {layers} leaves nothing to judge of {image_size} pixels; take fewer"
            )

    def kept(self, steps: int) -> dict[str, int]:
        """The schedule of the learning rate, and the steps within which the diversity weight falls to 0."""
        return {"loss.diversity_steps": self.loss.diversity_steps or steps, **self.optim.kept(steps)}

    def widths(self, image_size: int) -> dict[str, int]:
        """Those of generators and discriminators."""
        return {"model.width": self.model.width, "model.discriminator_width": self.model.discriminator_width}

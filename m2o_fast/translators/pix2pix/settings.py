"""What pix2pix and its many-to-one variant can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool

from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.settings import Count, LayersOrZero, Weight
from m2o_fast.translators import settings
from m2o_fast.translators.settings import DecayingAdam, Sizes

#: Discriminators with two layers of stride 2 need 16 pixels; there are halvings, whose number follows the size.
SIZES = Sizes(smallest=32, multiple=4)
_MOST_LEVELS = 8

Levels = Annotated[Count, Field(ge=2, le=12)]


class Model(settings.Model):
    """Sizes and kinds of the networks.

    Attributes:
        direction: ``"both"``: a pair of nets for each direction; ``"A->B"``: from the first domain to the second alone.
        width: Channels of the generators' outermost level; they double up to 8 times that.
        levels: Halvings of a generator; ``None``: as many as the size allows, at most 8.
        dropout: Whether half of the numbers are dropped behind levels of full width while training, as published;
            generators of less than 6 levels have none.
        discriminator_width: Channels of the discriminators' first layer.
        discriminator_layers: Their layers of stride 2: 3 judge patches of 70x70 pixels, 2 of 34x34, 0 single ones;
            ``None``: 3 from 64 pixels on, 2 below.
        norm: ``"batch"`` as published, ``"instance"`` or ``"none"``.
        style_dim: Of hms: length of the style of a multi-modal domain, which is drawn; plain has none.
    """

    direction: Literal["both", "A->B"] = "both"
    width: Count = 64
    levels: Levels | None = None
    dropout: StrictBool = True
    discriminator_width: Count = 64
    discriminator_layers: LayersOrZero | None = None
    norm: Literal["batch", "instance", "none"] = "batch"
    style_dim: Count = 8


class Size(Model):
    """The settings of the networks in numbers.

    Attributes:
        image_size: Side length S in pixels that it is trained with.
        levels: Halvings of a generator.
        discriminator_layers: Layers of stride 2.
    """

    image_size: Count
    levels: Levels
    discriminator_layers: LayersOrZero


class Loss(settings.Loss):
    """Weights of the losses, each at least 0; the adversarial loss has weight 1.

    Attributes:
        supervised: Difference from the true translation; of hms, into uni-modal domains.
        multimodal: Of hms: the same into multi-modal domains, where the truth is one of many and their mean is learned.
        diversity: Of hms: difference of two translations at the first step; it falls linearly to 0.
        diversity_steps: Steps until it is 0; ``None``: all steps of the run.
    """

    supervised: Weight = 100.0
    multimodal: Weight = 0.0
    diversity: Weight = 1.0
    diversity_steps: Count | None = None


class Weights(Loss):
    """The weights of the losses in numbers.

    Attributes:
        diversity_steps: Steps until the diversity weight is 0.
    """

    diversity_steps: Count = 100_000


class Pix2PixSettings(settings.Settings):
    """All of them."""

    model: Model = Model()
    loss: Loss = Loss()
    optim: DecayingAdam = DecayingAdam()

    def description(self, domains: Sequence[Domain], rules: ManyToOne, image_size: int) -> dict[str, Any]:
        """See :meth:`m2o_fast.translators.settings.Settings.description`."""
        learned = [self.model.direction == "both", True]
        return {
            "domains": [asdict(domain) for domain in domains],
            "rules": asdict(rules),
            "size": self.sizes(image_size),
            "weights": self.loss.model_dump(exclude_none=True),
            "generators": learned,
            "discriminators": learned,
        }

    def sizes(self, image_size: int) -> dict[str, Any]:
        """The fields of :class:`Size`."""
        halvings = (image_size & -image_size).bit_length() - 1
        chosen = {
            "levels": min(halvings, _MOST_LEVELS),
            "discriminator_layers": 3 if image_size >= 64 else 2,
        }
        return {**chosen, **self.model.model_dump(exclude_none=True), "image_size": image_size}

    def check(self, image_size: int, rules: ManyToOne) -> None:
        """The image must be halved as often as there are levels and layers."""
        levels = self.sizes(image_size)["levels"]
        if image_size % 2**levels:
            raise ValueError(
                f"model.levels {levels} needs images whose size is a multiple of {2**levels}, got {image_size}"
            )
        layers = self.sizes(image_size)["discriminator_layers"]
        if image_size >> layers < 3:  # two layers more take a pixel each, and a norm needs two pixels
            raise ValueError(
                f"model.discriminator_layers {layers} leaves nothing to judge of {image_size} pixels; take fewer"
            )

    def check_domains(self, domains: Sequence[Domain], rules: ManyToOne) -> None:
        """By the rules, something must be supervised: a direction into a uni-modal domain, or the mean of looks."""
        learned = domains if self.model.direction == "both" else domains[1:]
        if rules.supervised_weight > 0 and not self.loss.multimodal and all(domain.multimodal for domain in learned):
            raise ValueError(
                f"model.direction: {self.model.direction} leads into multi-modal domain {domains[-1].name!r} alone, "
                "where hms compares nothing with the truth, which is one of many. Take --variant plain (as published: "
                "the mean of the looks), model.direction=both, or a loss.multimodal above 0"
            )

    def kept(self, steps: int) -> dict[str, int]:
        """The schedule of the learning rate, and the steps within which the diversity weight falls to 0."""
        return {"loss.diversity_steps": self.loss.diversity_steps or steps, **self.optim.kept(steps)}

    def widths(self, image_size: int) -> dict[str, int]:
        """Those of generators and discriminators."""
        return {"model.width": self.model.width, "model.discriminator_width": self.model.discriminator_width}

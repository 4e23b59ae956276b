"""What BicycleGAN and its many-to-one variant can be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool

from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.settings import Count, Rate, Section, Weight
from m2o_fast.translators import settings
from m2o_fast.translators.settings import DecayingAdam, Sizes

#: Two scales of discriminators with two layers of stride 2 need 16 pixels; halvings are counted by the size.
SIZES = Sizes(smallest=32, multiple=4)
_MOST_LEVELS, _MOST_BLOCKS = 8, 4

Kind = Literal["bicycle", "cvae", "clr", "pix2pix_noise"]
Levels = Annotated[Count, Field(ge=2, le=12)]
Few = Annotated[Count, Field(le=12)]

#: what translations with style are made with, styles read off the truth or drawn, and which discriminator judges each
JUDGES: Mapping[Kind, Mapping[str, str]] = {
    "bicycle": {"encoded": "D", "drawn": "D2"},
    "cvae": {"encoded": "D"},
    "clr": {"drawn": "D2"},
    "pix2pix_noise": {"drawn": "D"},
}


class Model(settings.Model):
    """Sizes and kinds of the networks.

    Attributes:
        kind: What is learned where a style steers: ``"bicycle"``, the hybrid; ``"cvae"``, with styles that are read off
            the truth alone; ``"clr"``, with drawn ones that must be found again; ``"pix2pix_noise"``, with drawn ones
            that nothing asks for.
        direction: ``"both"``: nets for each direction; ``"A->B"``: from the first domain to the second alone.
        shared_trunk: Whether generators of both directions share all but their first and their last layer.
        width: Channels of a generator's outermost level; they double up to 8 times that.
        levels: Halvings of a generator; ``None``: as many as the size allows, at most 8.
        dropout: Whether half of the numbers are dropped behind levels of full width while training, as published;
            generators of less than 6 levels have none.
        style_dim: Length of a style.
        encoder_width: Channels of the style encoders' first layer; those of block k are min(k + 1, 4) times as many.
        encoder_blocks: Their residual blocks; ``None``: as many as leave 8 pixels in a row, at most 4, as published.
        discriminator_width: Channels of the discriminators' first layer; a smaller scale has half as many.
        discriminator_layers: Their layers of stride 2; ``None``: 3 from 256 pixels on, 2 below, as published.
        scales: At how many resolutions they judge.
        gain: How large first weights are, as a share of Xavier's rule. With the published 0.02 styles that are read off
            images differ by next to nothing at first.
    """

    kind: Kind = "bicycle"
    direction: Literal["both", "A->B"] = "both"
    shared_trunk: StrictBool = False
    width: Count = 64
    levels: Levels | None = None
    dropout: StrictBool = True
    style_dim: Count = 8
    encoder_width: Count = 64
    encoder_blocks: Few | None = None
    discriminator_width: Count = 64
    discriminator_layers: Few | None = None
    scales: Few = 2
    gain: Rate = 0.02


class Size(Model):
    """The settings of the networks in numbers.

    Attributes:
        image_size: Side length S in pixels that it is trained with.
        levels: Halvings of a generator.
        encoder_blocks: Residual blocks of a style encoder.
        discriminator_layers: Layers of stride 2.
    """

    image_size: Count
    levels: Levels
    encoder_blocks: Few
    discriminator_layers: Few


class Weights(Section):
    """Weights of the losses, each at least 0; the adversarial losses have weight 1.

    Attributes:
        reconstruction: Difference of the translation with the style of the truth from the truth; of ``pix2pix_noise``
            of that with a drawn style.
        latent: Difference of drawn styles from those that are read off what was made with them.
        kl: Divergence of the styles of true images from drawn ones, a sum over the batch, as published.
    """

    reconstruction: Weight = 10.0
    latent: Weight = 0.5
    kl: Weight = 0.01


class Loss(Weights, settings.Loss):
    """Weights of the losses, each at least 0; the adversarial losses have weight 1.

    Attributes:
        supervised: Of hms, into uni-modal domains: difference from the true translation; the other variants have none.
    """

    supervised: Weight = 100.0


class BicycleGANSettings(settings.Settings):
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
            "weights": self.loss.model_dump(exclude={"supervised"}),
            "nets": ["E", "D", "D2"],
        }

    def sizes(self, image_size: int) -> dict[str, Any]:
        """The fields of :class:`Size`."""
        halvings = (image_size & -image_size).bit_length() - 1
        chosen = {
            "levels": min(halvings, _MOST_LEVELS),
            "encoder_blocks": max(1, min(halvings - 1, image_size.bit_length() - 5, _MOST_BLOCKS)),
            "discriminator_layers": 3 if image_size >= 256 else 2,
        }
        return {**chosen, **self.model.model_dump(exclude_none=True), "image_size": image_size}

    def check(self, image_size: int, rules: ManyToOne) -> None:
        """The image must be halved as often as there are levels and layers."""
        sizes = self.sizes(image_size)
        for key, halvings in (("levels", sizes["levels"]), ("encoder_blocks", sizes["encoder_blocks"] + 1)):
            if image_size % 2**halvings:
                raise ValueError(
                    f"model.{key} {sizes[key]} needs images whose size is a multiple of {2**halvings}, got {image_size}"
                )
        layers, scales = sizes["discriminator_layers"], sizes["scales"]
        if image_size >> (layers + scales - 1) < 3:  # two layers more take a pixel each, and a norm needs two pixels
            raise ValueError(
                f"model.discriminator_layers {layers} at {scales} scales leaves nothing to judge of {image_size} "
                "pixels; take fewer of either"
            )

    def kept(self, steps: int) -> dict[str, int]:
        """The schedule of the learning rate."""
        return self.optim.kept(steps)

    def widths(self, image_size: int) -> dict[str, int]:
        """Those of generators, style encoders and discriminators."""
        model = self.model
        return {f"model.{key}": getattr(model, key) for key in ("width", "encoder_width", "discriminator_width")}

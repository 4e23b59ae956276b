"""What StarGAN and its many-to-one variants can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.settings import Count, Layers, Rate, Section, Weight
from m2o_fast.translators import settings
from m2o_fast.translators.settings import DecayingAdam, Sizes

Labels = Literal["exclusive", "independent"]

#: Two halvings.
SIZES = Sizes(smallest=32, multiple=4)
_MOST_LAYERS = 6


class Model(settings.Model):
    """Sizes of the networks.

    Attributes:
        width: Channels of the generator at full resolution; its residual blocks have four times as many.
        blocks: Its residual blocks.
        discriminator_width: Channels of the discriminator's first layer; every further layer has twice as many.
        discriminator_layers: Its layers of stride 2; ``None``: 6 from 128 pixels on, as published, below so many that
            2x2 places or more are left to judge.
        style_dim: Of hmu and hms: length of a style vector, which stands beside the label; plain has none.
    """

    width: Count = 64
    blocks: Layers = 6
    discriminator_width: Count = 64
    discriminator_layers: Layers | None = None
    style_dim: Count = 8


class Size(Model):
    """The settings of the networks in numbers.

    Attributes:
        image_size: Side length S in pixels that it is trained with.
        discriminator_layers: Layers of stride 2.
    """

    image_size: Count
    discriminator_layers: Layers


class _Weights(Section):
    """What :class:`Loss` and :class:`Weights` share.

    Attributes:
        classification: Labels read off images: real ones by the discriminator, translations by both nets.
        labels: ``"exclusive"``: a label excludes the others, and the loss is the cross-entropy among them;
            ``"independent"``: each has a cross-entropy of its own, and the loss is their sum, as published for CelebA.
            Of several data sets one word for all, or a list of one for each, in their order.
        gradient_penalty: Distance to 1 of the discriminator's slope between real images and translations.
        cycle: Images restored from their translations.
        style: Of hmu and hms: styles read off the images that were made with them.
        diversity: Of hmu and hms: difference of two translations at the first step; it falls linearly to 0.
    """

    classification: Weight = 1.0
    labels: Labels | tuple[Labels, ...] = "exclusive"
    gradient_penalty: Weight = 10.0
    cycle: Weight = 10.0
    style: Weight = 1.0
    diversity: Weight = 1.0

    def labels_of(self, sets: int) -> tuple[Labels, ...]:
        """``labels`` of each data set. Raises ``ValueError`` of ``KEY: REASON`` where they are not as many."""
        if isinstance(self.labels, str):
            return (self.labels,) * sets
        if len(self.labels) != sets:
            raise ValueError(
                f"loss.labels: {len(self.labels)} for {sets} data set{'s' if sets > 1 else ''}; name one for each, in "
                "their order, or one word for all"
            )
        return self.labels


class Loss(_Weights, settings.Loss):
    """Weights of the losses, each at least 0, and kinds; the adversarial losses have weight 1.

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


class Optim(DecayingAdam):
    """Adam for all nets, its rate constant at first and then falling linearly to 0.

    Attributes:
        lr: Learning rate.
        generator_every: The generator is trained in every so many-th step, the discriminator in all.
    """

    lr: Rate = 1e-4
    generator_every: Count = 5


class StarGANSettings(settings.Settings):
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
            "weights": self.loss.model_dump(mode="json", exclude={"supervised"}, exclude_none=True),
            "generator_every": self.optim.generator_every,
            "label_sets": [len(domains)],
            "discriminator": True,
        }

    def sizes(self, image_size: int) -> dict[str, Any]:
        """The fields of :class:`Size`."""
        layers = min(_MOST_LAYERS, image_size.bit_length() - 2)
        chosen = {"discriminator_layers": layers, **self.model.model_dump(exclude_none=True)}
        return {**chosen, "image_size": image_size}

    def check(self, image_size: int, rules: ManyToOne) -> None:
        """The discriminator must have something left to judge."""
        layers = self.sizes(image_size)["discriminator_layers"]
        if not image_size >> layers:
            raise ValueError(
                f"model.discriminator_layers {layers} leaves nothing to judge of {image_size} pixels; take fewer"
            )

    def check_sets(self, count: int) -> None:
        """Labels are of a kind in each data set."""
        self.loss.labels_of(count)

    def kept(self, steps: int) -> dict[str, int]:
        """The schedule of the learning rate, and the steps within which the diversity weight falls to 0."""
        return {"loss.diversity_steps": self.loss.diversity_steps or steps, **self.optim.kept(steps)}

    def widths(self, image_size: int) -> dict[str, int]:
        """Those of generator and discriminator."""
        return {"model.width": self.model.width, "model.discriminator_width": self.model.discriminator_width}

"""What SimGAN and its many-to-one variants can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.settings import Count, CountOrZero, Decay, Layers, Rate, Section, Weight
from m2o_fast.translators import settings
from m2o_fast.translators.settings import Optimizer, Sizes

#: Borders are zeros, so nothing becomes too small; from here on the published discriminator judges 2x2 places.
SIZES = Sizes(smallest=8)

Form = Literal["gaze", "hand"]
Content = Literal["identity", "mean", "max"]

_PUBLISHED_BLOCKS: dict[Form, int] = {"gaze": 4, "hand": 10}
_PUBLISHED_STEPS: dict[Form, int] = {"gaze": 50, "hand": 2}
_RATES = {"sgd": 1e-3, "adam": 2e-4}
_BETAS = (0.5, 0.999)


class Model(settings.Model):
    """Sizes and kinds of the networks.

    Attributes:
        direction: ``"A->B"``: images of the first domain are refined, ``"B->A"``: those of the second; ``None``: those
            of the uni-modal domain, of the first if both are alike; by hms, both.
        form: Published nets: ``"gaze"`` refines by 3x3 and judges patches of 23x23 pixels, ``"hand"`` 7x7 and 71x71.
        width: Channels of the refiners.
        blocks: Residual blocks of a refiner; ``None``: 4 for gazes, 10 for hands, as published.
        discriminator_width: Channels of the discriminators' last layers; the first ones have 3 and 2 times as many.
        style_dim: Of hmu and hms: length of the style of a multi-modal domain, which is drawn; plain has none.
        pool: Refined images that the history of a domain holds, from which half of what its discriminator sees is
            taken: at least half of a batch, better many batches; 0: none.
    """

    direction: Literal["A->B", "B->A"] | None = None
    form: Form = "gaze"
    width: Count = 64
    blocks: Layers | None = None
    discriminator_width: Count = 32
    style_dim: Count = 8
    pool: CountOrZero = 400


class Size(Model):
    """The settings of the networks in numbers.

    Attributes:
        image_size: Side length S in pixels that it is trained with.
        blocks: Residual blocks of a refiner.
    """

    image_size: Count
    blocks: Layers


class _Weights(Section):
    """What :class:`Loss` and :class:`Weights` share.

    Attributes:
        regularisation: Difference of an image's content from that of the image that was refined.
        reduction: ``"mean"`` of that difference over an image, or its ``"sum"``, which needs a far lower weight.
        diversity: Of hmu and hms: difference of two translations at the first step; it falls linearly to 0.
    """

    regularisation: Weight = 5.0
    reduction: Literal["mean", "sum"] = "mean"
    diversity: Weight = 1.0


class Loss(_Weights, settings.Loss):
    """Weights of the losses, each at least 0; the adversarial loss has weight 1.

    Attributes:
        content: What of an image is to stay: ``"identity"``, all of it; the ``"mean"`` or the ``"max"`` (the largest)
            of its channels. ``None``: the mean for hmu and hms, and where the domains' channels cannot be compared;
            else all.
        diversity_steps: Steps until the weight of diversity is 0, those of the pretraining included; ``None``: all
            steps of the run.
        supervised: Supervised loss of hms, in place of the regularisation where the true image is known.
    """

    content: Content | None = None
    diversity_steps: Count | None = None
    supervised: Weight = 10.0


class Weights(_Weights):
    """The weights of the losses in numbers; that of the supervised loss belongs to :class:`ManyToOne`.

    Attributes:
        content: What of an image is to stay.
        diversity_steps: Steps until the diversity weight is 0.
    """

    content: Content = "identity"
    diversity_steps: Count = 100_000


class _Pace(Section):
    """What :class:`Optim` and :class:`Pace` share.

    Attributes:
        pretrain_refiner: First iterations, a step of the refiners each, without discriminators.
        pretrain_discriminator: Iterations after those, a step of the discriminators each.
        discriminator_steps: Steps of the discriminators in every later iteration, each on a batch of its own.
    """

    pretrain_refiner: CountOrZero = 1000
    pretrain_discriminator: CountOrZero = 200
    discriminator_steps: Count = 1


class Pace(_Pace):
    """Which nets are trained in which iteration, and how often.

    Attributes:
        refiner_steps: Steps of the refiners before those of the discriminators, each on a batch of its own.
    """

    refiner_steps: Count = 2


class Optim(_Pace, settings.Optim):
    """Constant rates, the same for all nets, and :class:`Pace`.

    Attributes:
        refiner_steps: Steps of the refiners before those of the discriminators, each on a batch of its own; ``None``:
            50 for gazes, 2 for hands, as published.
        kind: ``"sgd"`` as published, or ``"adam"``.
        lr: Learning rate; ``None``: 1e-3 for sgd, as published, 2e-4 for adam.
        momentum: Of sgd, in [0, 1).
        betas: Of adam: decay rates of its two moments, each in [0, 1).
    """

    refiner_steps: Count | None = None
    kind: Literal["sgd", "adam"] = "sgd"
    lr: Rate | None = None
    momentum: Decay = 0.0
    betas: tuple[Decay, Decay] = _BETAS

    def pretraining(self) -> int:
        """That of refiners and of discriminators."""
        return self.pretrain_refiner + self.pretrain_discriminator

    def optimizer(self, group: str) -> Optimizer:
        """The same for every net."""
        return Optimizer(self.lr or _RATES[self.kind], self.kind, betas=self.betas, momentum=self.momentum)


class SimGANSettings(settings.Settings):
    """All of them."""

    model: Model = Model()
    loss: Loss = Loss()
    optim: Optim = Optim()

    def description(self, domains: Sequence[Domain], rules: ManyToOne, image_size: int) -> dict[str, Any]:
        """See :meth:`m2o_fast.translators.settings.Settings.description`."""
        refined = self.refined(domains, rules)
        content = self.loss.content or content_held(domains, rules)
        steps = self.optim.refiner_steps or _PUBLISHED_STEPS[self.model.form]
        return {
            "domains": [asdict(domain) for domain in domains],
            "rules": asdict(rules),
            "size": self.sizes(image_size),
            "weights": {**self.loss.model_dump(exclude={"supervised"}, exclude_none=True), "content": content},
            "pace": {**self.optim.model_dump(include=set(Pace.model_fields)), "refiner_steps": steps},
            "refiners": refined,
            "discriminators": refined,
        }

    def sizes(self, image_size: int) -> dict[str, Any]:
        """The fields of :class:`Size`."""
        blocks = _PUBLISHED_BLOCKS[self.model.form]
        return {"blocks": blocks, **self.model.model_dump(exclude_none=True), "image_size": image_size}

    def refined(self, domains: Sequence[Domain], rules: ManyToOne) -> list[bool]:
        """Whether images are refined into each of two domains."""
        if self.model.direction is not None:
            return [self.model.direction == "B->A", self.model.direction == "A->B"]
        if rules.supervised_weight > 0:
            return [True, True]
        first, second = (domain.multimodal for domain in domains)
        return [first and not second, second or not first]

    def check(self, image_size: int, rules: ManyToOne) -> None:
        """An optimizer is told nothing that it does not know."""
        if self.optim.kind == "adam" and self.optim.momentum:
            raise ValueError("optim.momentum: adam has none, but optim.betas; leave it out, or take optim.kind=sgd")
        if self.optim.kind == "sgd" and self.optim.betas != _BETAS:
            raise ValueError("optim.betas: sgd has none, but optim.momentum; leave them out, or take optim.kind=adam")

    def check_domains(self, domains: Sequence[Domain], rules: ManyToOne) -> None:
        """What is refined must look like what it becomes, or be told it; hms must have something to tell."""
        for domain in domains:
            if domain.kind != "continuous":
                raise ValueError(
                    f"system: SimGAN refines images into others that look alike, but domain {domain.name!r} holds "
                    "label maps, which no image resembles; take another system"
                )
        if self.loss.content == "identity":
            refuse_incomparable(domains)
            if rules.zero_style:
                raise ValueError(
                    "loss.content: identity holds every channel, so that styles could color nothing; take mean or max, "
                    "or --variant plain"
                )
        if not rules.zero_style or self.model.direction is None:
            return
        (target,) = (domain for domain, chosen in zip(domains, self.refined(domains, rules), strict=True) if chosen)
        if rules.supervised_weight > 0 and target.multimodal:
            raise ValueError(
                f"model.direction: {self.model.direction} leads into multi-modal domain {target.name!r} alone, where "
                "hms compares nothing with the truth, which is one of many. Take --variant hmu, or leave it out"
            )
        if not rules.supervised_weight and not target.multimodal:
            raise ValueError(
                f"model.direction: {self.model.direction} leads into uni-modal domain {target.name!r}, where hmu has "
                "nothing to learn: without style and pairs it is a map of channels that is known. Take --variant hms "
                "or plain, or leave it out"
            )

    def kept(self, steps: int) -> dict[str, int]:
        """The steps within which the diversity weight falls to 0."""
        return {"loss.diversity_steps": self.loss.diversity_steps or steps}

    def widths(self, image_size: int) -> dict[str, int]:
        """Those of refiners and discriminators."""
        return {"model.width": self.model.width, "model.discriminator_width": self.model.discriminator_width}


def content_held(domains: Sequence[Domain], rules: ManyToOne) -> Content:
    """What of an image is to stay where nobody says it."""
    return "mean" if rules.zero_style or not comparable(domains) else "identity"


def refuse_incomparable(domains: Sequence[Domain]) -> None:
    """Raises ``ValueError`` of ``KEY: REASON`` where ``loss.content: identity`` has no meaning."""
    if not comparable(domains):
        counts = " and ".join(str(domain.channels) for domain in domains)
        raise ValueError(f"loss.content: images of {counts} channels cannot be compared; take mean or max")


def comparable(domains: Sequence[Domain]) -> bool:
    """Whether images of both domains can be compared channel by channel; a gray one is repeated."""
    counts = {domain.channels for domain in domains}
    return len(counts - {1}) <= 1

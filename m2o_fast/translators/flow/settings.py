"""What a flow and its many-to-one variant can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field

from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.settings import Count, CountOrZero, Decay, Layers, Rate, Section, Weight
from m2o_fast.translators import settings
from m2o_fast.translators.settings import Optimizer, Sizes, linear_decay

SIZES = Sizes(smallest=16, multiple=4)
#: Images are halved down to so many pixels by default.
_SMALLEST_LEVEL = 8
#: Widths of levels by default: of so few levels as small images have, and of more.
_FEW, _MANY = (1, 2, 2), (1, 1, 2, 2, 4, 4)

Multipliers = Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)]


class Model(settings.Model):
    """Sizes of the network.

    Attributes:
        width: Channels at full resolution, an even number.
        multipliers: The channels of each level in widths; the images of a level are half as large as those of the
            level before. ``None``: levels down to 8 pixels, of 1, 2 and 2 widths, or from four levels on of 1, 1, 2, 2,
            4 and 4.
        blocks: Residual blocks of a level on the way down; on the way up there is one more.
        attention: Levels of at most so many pixels a side have self-attention; 0: none but the middle.
        groups: Of the norms; a power of two, fewer where a group would have less than two channels. Each group loses
            its mean, and so what all pixels have in common: small nets need few groups.
        shift: Times are ``u / (u + shift (1 - u))`` of equally spread u, in training and in use: above 1, more of them
            are near the noise, where looks are decided that many pixels have in common (arXiv 2403.03206, section
            5.3.2); 1: equally spread.
        predicts: Whose squared error is the loss: of the ``"velocity"``, which the net gives, or of the ``"image"``
            where the way ends: what the net gives is added to what the point of the way tells of it as it is, so that
            a look which can be seen already need not go through all layers (arXiv 2206.00364, section 5).
    """

    width: Annotated[Count, Field(multiple_of=2)] = 64
    multipliers: Multipliers | None = None
    blocks: Layers = 2
    attention: CountOrZero = 16
    groups: Literal[1, 2, 4, 8, 16, 32] = 32
    shift: Rate = 1.0
    predicts: Literal["velocity", "image"] = "velocity"


class Size(Model):
    """The settings of the network in numbers.

    Attributes:
        image_size: Side length S in pixels.
        multipliers: The channels of each level in widths.
    """

    image_size: Count
    multipliers: Multipliers


class Loss(settings.Loss):
    """The error of the velocity has weight 1.

    Attributes:
        supervised: Of hms: squared difference from the true translation into uni-modal domains.
    """


class Optim(settings.Optim):
    """AdamW, its rate constant or falling to 0 at the end, and the moving average that is used.

    Attributes:
        lr: Learning rate.
        betas: Decay rates of AdamW's two moments, each in [0, 1).
        weight_decay: Of all parameters, apart from the gradient.
        ema: Decay of the moving average per step; runs of few steps need a lower one.
        decay_from: Steps with the full rate; ``None``: all.
        decay_steps: Steps within which it then falls linearly to 0; ``None``: the rest of the run's.
    """

    lr: Rate = 2e-4
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: Weight = 0.01
    ema: Decay = 0.9999
    decay_from: CountOrZero | None = None
    decay_steps: Count | None = None

    def optimizer(self, group: str) -> Optimizer:
        """That of the one network."""
        schedule = None
        if self.decay_from is not None and self.decay_steps is not None:
            schedule = linear_decay(self.decay_from, self.decay_steps)
        return Optimizer(self.lr, "adamw", self.betas, weight_decay=self.weight_decay, schedule=schedule)

    def kept(self, steps: int) -> dict[str, int]:
        """See :meth:`Settings.kept`."""
        if self.decay_from is None:
            return {}
        return {"optim.decay_steps": self.decay_steps or max(1, steps - self.decay_from)}

    def average(self) -> float:
        """Decay of the moving average."""
        return self.ema


class Sampling(Section):
    """How translations with a style are made; training does not depend on it.

    Attributes:
        steps: Of the way from noise to an image.
        solver: ``"euler"``, which takes the velocity once a step, or ``"heun"``, which takes it twice and is of second
            order.
    """

    steps: Count = 20
    solver: Literal["euler", "heun"] = "heun"

    @property
    def evaluations(self) -> int:
        """How often the velocity is taken on the way."""
        return self.steps * (2 if self.solver == "heun" else 1)


class FlowSettings(settings.Settings):
    """All of them.

    Attributes:
        sampling: How translations are made.
    """

    model: Model = Model()
    loss: Loss = Loss()
    optim: Optim = Optim()
    sampling: Sampling = Sampling()

    def kept(self, steps: int) -> dict[str, int]:
        """Within how many steps the rate falls, where it does."""
        return self.optim.kept(steps)

    def description(self, domains: Sequence[Domain], rules: ManyToOne, image_size: int) -> dict[str, Any]:
        """See :meth:`m2o_fast.translators.settings.Settings.description`."""
        return {
            "domains": [asdict(domain) for domain in domains],
            "rules": asdict(rules),
            "size": self.sizes(image_size),
            "sampling": self.sampling.model_dump(),
        }

    def sizes(self, image_size: int) -> dict[str, Any]:
        """The fields of :class:`Size`."""
        chosen = {"multipliers": multipliers_of(image_size), **self.model.model_dump(exclude_none=True)}
        return {**chosen, "multipliers": list(chosen["multipliers"]), "image_size": image_size}

    def check(self, image_size: int, rules: ManyToOne) -> None:
        """The image must be halved as often as there are levels behind the first; what is said must have a meaning."""
        if self.model.predicts == "image" and (self.sampling.solver, self.sampling.steps) == ("euler", 1):
            raise ValueError("sampling.steps: images as references tell nothing in one step of euler; take 2, or heun")
        if self.optim.decay_steps is not None and self.optim.decay_from is None:
            raise ValueError("optim.decay_steps: the rate is constant without optim.decay_from; name both, or neither")
        levels = len(self.sizes(image_size)["multipliers"])
        if image_size % 2 ** (levels - 1):
            raise ValueError(
                f"model.multipliers: {levels} levels need images whose size is a multiple of {2 ** (levels - 1)}, "
                f"got {image_size}"
            )

    def check_domains(self, domains: Sequence[Domain], rules: ManyToOne) -> None:
        """Velocities lead to images, not to logits of classes."""
        if one_hot := [domain.name for domain in domains if domain.kind == "onehot"]:
            raise ValueError(
                f"data.labels: a flow makes images, but domain {one_hot[0]!r} has a channel for each class, of which "
                "others make probabilities; take data.labels=palette"
            )

    def widths(self, image_size: int) -> dict[str, int]:
        """That of the network."""
        return {"model.width": self.model.width}


def multipliers_of(image_size: int) -> tuple[int, ...]:
    """Those of images of a size where nobody says them."""
    levels = 1
    while image_size % 2 == 0 and image_size // 2 >= _SMALLEST_LEVEL and levels < len(_MANY):
        image_size, levels = image_size // 2, levels + 1
    return _FEW[:levels] if levels <= len(_FEW) else _MANY[:levels]

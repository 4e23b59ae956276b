"""What the settings of all systems have in common, and what a system tells of itself. No torch here.

A system's folder holds one value :class:`SystemFacts`, called ``SYSTEM``, in its ``__init__.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.settings import Count, CountOrZero, Decay, Rate, Section, Weight

if TYPE_CHECKING:
    from m2o_fast.translators.base import Translator


@dataclass(frozen=True)
class Optimizer:
    """How the parameters of one group are moved.

    Attributes:
        lr: Learning rate at the first step.
        kind: ``"adam"`` (weight decay is added to the gradient), ``"adamw"`` (it is not) or ``"sgd"`` (it is).
        betas: Decay rates of Adam's two moments.
        momentum: Of ``"sgd"``, in [0, 1).
        weight_decay: Of the parameters.
        schedule: What the rate is multiplied with in an iteration, a pure function of its 0-based number;
            ``None``: the rate is constant.
    """

    lr: float
    kind: Literal["adam", "adamw", "sgd"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Callable[[int], float] | None = None

    def state_bytes(self, sizes: Sequence[int]) -> int:
        """Bytes that it keeps for parameters of so many bytes each."""
        if self.kind == "sgd":
            return sum(sizes) if self.momentum else 0
        return 2 * sum(sizes) + 4 * len(sizes)  # and a count of steps for each


def linear_decay(constant: int, decay: int) -> Callable[[int], float]:
    """A schedule: 1 for ``constant`` iterations, then falling to 0 within ``decay`` more, as a straight line."""
    return lambda index: max(0.0, 1.0 - max(0, index - constant) / decay)


def halving(every: int, *, early: bool = False) -> Callable[[int], float]:
    """A schedule: 1 for ``every`` iterations, one half for as many more, and so on; ``early``: each half one before."""
    return lambda index: 0.5 ** ((index + early) // every)


class Model(Section):
    """Sizes and kinds of a system's networks."""


class Loss(Section):
    """Weights of a system's losses, each at least 0.

    Attributes:
        supervised: Supervised loss of the variants that learn from pairs; others have none.
    """

    supervised: Weight = 1.0


class Optim(Section):
    """Optimizers, schedules and, where there is one, the moving average."""

    @abstractmethod
    def optimizer(self, group: str) -> Optimizer:
        """How a parameter group of the translator is moved."""

    def average(self) -> float | None:
        """Decay per step of the moving average of the weights; ``None``: there is none."""
        return None

    def pretraining(self) -> int:
        """How many first iterations have other phases than those after them, which are the bulk of a run."""
        return 0


class DecayingAdam(Optim):
    """Adam for all nets, its rate constant at first and then falling linearly to 0.

    Attributes:
        lr: Learning rate.
        betas: Decay rates of Adam's two moments, each in [0, 1).
        decay_from: Steps with the full rate; ``None``: half of the run's.
        decay_steps: Steps within which it then falls to 0; ``None``: the rest of the run's.
    """

    lr: Rate = 2e-4
    betas: tuple[Decay, Decay] = (0.5, 0.999)
    decay_from: CountOrZero | None = None
    decay_steps: Count | None = None

    def optimizer(self, group: str) -> Optimizer:
        """The same for every net; a rate that knows no steps stays as it is."""
        schedule = None
        if self.decay_from is not None and self.decay_steps is not None:
            schedule = linear_decay(self.decay_from, self.decay_steps)
        return Optimizer(self.lr, betas=self.betas, schedule=schedule)

    def kept(self, steps: int) -> dict[str, int]:
        """See :meth:`Settings.kept`."""
        constant = self.decay_from if self.decay_from is not None else steps // 2
        return {"optim.decay_from": constant, "optim.decay_steps": self.decay_steps or max(1, steps - constant)}


class HalvingAdam(Optim):
    """Adam for all nets, its rate halved again and again.

    Attributes:
        lr: Learning rate at the first step.
        betas: Decay rates of Adam's two moments, each in [0, 1).
        weight_decay: Of all parameters, added to the gradient.
        halve_every: Steps after which the rate is halved each time; 0: never.
        halve_early: Halve it, where it is halved, a step before that, as the code published with arXiv 1804.04732 does.
    """

    lr: Rate = 1e-4
    betas: tuple[Decay, Decay] = (0.5, 0.999)
    weight_decay: Weight = 1e-4
    halve_every: CountOrZero = 100_000
    halve_early: bool = False

    def optimizer(self, group: str) -> Optimizer:
        """The same for every net."""
        schedule = halving(self.halve_every, early=self.halve_early) if self.halve_every else None
        return Optimizer(self.lr, betas=self.betas, weight_decay=self.weight_decay, schedule=schedule)

    def check(self, halve_every: int) -> None:
        """Raises ``ValueError`` of ``KEY: REASON`` where a rate that is never halved is to be halved early."""
        if self.halve_early and not halve_every:
            raise ValueError("optim.halve_early: the rate is never halved with optim.halve_every 0; leave it out")


class Settings(Section):
    """The sections that a system adds to the configuration of a run. A subclass narrows their types.

    Attributes:
        model: Its networks.
        loss: Its losses.
        optim: Its optimizers.
    """

    model: Model
    loss: Loss
    optim: Optim

    @abstractmethod
    def description(self, domains: Sequence[Domain], rules: ManyToOne, image_size: int) -> dict[str, Any]:
        """What :meth:`Translator.describe` gives for these settings, but for ``"system"``; plain JSON values.

        Args:
            domains: The domains as the networks see them.
            rules: The many-to-one rules of the variant, with the supervised weight of these settings.
            image_size: Side length S in pixels.
        """

    def supervised(self) -> float:
        """The weight of the supervised loss of the variants that learn from pairs."""
        return self.loss.supervised

    def rules(self, of_variant: ManyToOne) -> ManyToOne:
        """The rules of a variant with the supervised weight of these settings, and whatever else they say of them."""
        supervised = self.supervised() if of_variant.supervised_weight > 0 else 0.0
        return replace(of_variant, supervised_weight=supervised)

    def check(self, image_size: int, rules: ManyToOne) -> None:
        """Raises ``ValueError`` of ``KEY: REASON`` where settings do not go with each other, the size or the rules."""

    def check_sets(self, count: int) -> None:
        """Raises ``ValueError`` of ``KEY: REASON`` where settings do not go with so many data sets."""

    def check_domains(self, domains: Sequence[Domain], rules: ManyToOne) -> None:
        """Raises ``ValueError`` of ``KEY: REASON`` where settings do not go with the domains.

        It is asked before images are read, too, when all domains seem to have 3 channels.
        """

    def kept(self, steps: int) -> dict[str, int]:
        """Dotted keys of what was left to the number of the run's steps, or to other settings, and their numbers.

        Longer runs keep them.
        """
        return {}

    def widths(self, image_size: int) -> dict[str, int]:
        """Dotted keys that make the nets smaller, and their numbers now; for the advice where memory is short."""
        return {}


@dataclass(frozen=True)
class Sizes:
    """Which side lengths of square images a system can be trained with.

    Attributes:
        smallest: The smallest one.
        multiple: What all of them are a multiple of.
        power_of_two: Whether they must be powers of two.
    """

    smallest: int
    multiple: int = 1
    power_of_two: bool = False

    def problem(self, size: int) -> str | None:
        """Why a side length cannot be taken; ``None``: it can."""
        fits = not size & (size - 1) if self.power_of_two else size % self.multiple == 0
        return None if fits and size >= self.smallest else f"the image size must be {self.rule}"

    def at_most(self, side: int) -> int:
        """A good size up to a side length, and the smallest one below it: one that can be halved as often as that."""
        if self.power_of_two:
            return max(self.smallest, 1 << (side.bit_length() - 1))
        return max(1, side // self.smallest) * self.smallest

    @property
    def rule(self) -> str:
        """In words: ``a power of two and at least 32 (32, 64, 128, 256, ...)``."""
        if self.power_of_two:
            shown = ", ".join(str(self.smallest << k) for k in range(4))
            return f"a power of two and at least {self.smallest} ({shown}, ...)"
        multiple = f"a multiple of {self.multiple} and " if self.multiple > 1 else ""
        return f"{multiple}at least {self.smallest}"


def smallest_judged_side(layers: int, scales: int) -> int:
    """The least height and width for discriminators of so many layers of stride 2 over reflected borders and scales."""
    return (2**layers - 1) * 2 ** (scales - 1) + 1


def check_judged_side(side: int, layers: int, scales: int) -> None:
    """Raises ``ValueError`` of ``KEY: REASON`` where images of a side length are too small for such discriminators."""
    if side < (least := smallest_judged_side(layers, scales)):
        raise ValueError(
            f"model.discriminator_layers: {layers} at model.scales {scales} need images of at least {least} pixels, "
            f"not {side}; take fewer"
        )


@dataclass(frozen=True)
class Advice:
    """Which settings help when training goes wrong, in words that follow ``Try`` or ``Train anew with``.

    Attributes:
        not_finite: Losses are not finite.
        no_style: Styles change nothing; empty where there is no style.
        no_colors: All outputs have the same colours; empty where there is no style.
    """

    not_finite: str = "a lower optim.lr"
    no_style: str = ""
    no_colors: str = ""


@dataclass(frozen=True)
class SystemFacts:
    """What a system tells of itself before torch is loaded.

    Attributes:
        name: Its folder, and what ``--system`` takes.
        title: Its name in texts.
        paper: Where it was published.
        settings: The class of its settings.
        translator: Name of its class in the folder's ``translator.py``.
        variants: Variant -> many-to-one rules; the supervised weight is that of the settings where it is above 0.
        sizes: What side lengths it takes.
        refused: Variants that have no meaning -> why.
        needs_pairs: Whether every variant learns from pairs; those with a supervised weight do anyhow.
        two_domains: Whether it is for two domains and no more.
        several_sets: Whether it learns from several data sets, of whose labels an image has those of its own alone. Its
            description then has ``label_sets``, how many of the domains, in their order, are of each, and
            :meth:`~m2o_fast.translators.base.Translator.turns` follow them.
        layouts: Other names of its published weights' layout, for ``m2o-fast convert``.
        advice: What helps when training goes wrong.
    """

    name: str
    title: str
    paper: str
    settings: type[Settings]
    translator: str
    variants: Mapping[str, ManyToOne]
    sizes: Sizes
    refused: Mapping[str, str] = field(default_factory=dict)
    needs_pairs: bool = False
    two_domains: bool = False
    several_sets: bool = False
    layouts: tuple[str, ...] = ()
    advice: Advice = Advice()

    def learns_from_pairs(self, variant: str) -> bool:
        """Whether a variant cannot do without pairs."""
        return self.needs_pairs or self.variants[variant].supervised_weight > 0

    def variant_of(self, rules: ManyToOne) -> str | None:
        """The variant whose rules these are, whatever weight the supervised loss has; ``None``: they are of none."""
        asked = replace(rules, supervised_weight=float(rules.supervised_weight > 0))
        known = {
            name: replace(one, supervised_weight=float(one.supervised_weight > 0))
            for name, one in self.variants.items()
        }
        return next((name for name, one in known.items() if one == asked), None)

    def load(self) -> type[Translator]:
        """Its class; loads torch."""
        module = import_module(f"m2o_fast.translators.{self.name}.translator")
        loaded: type[Translator] = getattr(module, self.translator)
        return loaded

    @cached_property
    def presets(self) -> Mapping[str, Path]:
        """Name of a recipe -> its file in the folder."""
        return self._presets_in("presets")

    def presets_of(self, variant: str) -> Mapping[str, Path]:
        """What a variant has otherwise than the recipe of that name, on top of it."""
        return self._presets_in(f"presets/{variant}")

    def _presets_in(self, folder: str) -> dict[str, Path]:
        path = Path(__file__).with_name(self.name) / folder
        return {path.stem: path for path in sorted(path.glob("*.yaml"))}

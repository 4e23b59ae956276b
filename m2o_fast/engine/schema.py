"""The schema of a run's configuration. What its system and its data add, they define themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, create_model, model_validator

from m2o_fast.data.settings import DataConfig
from m2o_fast.m2o import PLAIN, UNPAIRED, ManyToOne
from m2o_fast.settings import Count, CountOrZero, Section, nearest, number
from m2o_fast.translators import DEFAULT, NAMES, full_name, short_name, system
from m2o_fast.translators.settings import Loss, Model, Optim, Settings, SystemFacts

#: the names of devices, as a regular expression
DEVICES = r"auto|cpu|cuda(:[0-9]{1,3})?"


def _known_device(name: str) -> str:
    if not re.fullmatch(DEVICES, name):
        raise ValueError("unknown device; use 'auto', 'cpu', 'cuda' or 'cuda:<number>'")
    return name


#: measures of a validation, and which values are better; the first one that there is says what is best
BEST_BY: Mapping[str, Literal["lower", "higher"]] = {
    "mse": "lower",
    "miou": "higher",
    "pixel_accuracy": "higher",
    "pixel_color_recall": "higher",
    "structure_variety": "higher",
    "pixel_variety": "higher",
    "references_followed": "higher",
    "content_kept": "higher",
    "color_recall": "higher",
    "mse_nearest": "lower",
}


def _known_measure(name: str | None) -> str | None:
    if name is not None and name not in BEST_BY:
        raise ValueError(f"unknown measure{nearest(name, tuple(BEST_BY))} (measures: {', '.join(BEST_BY)})")
    return name


Threads = Annotated[int, BeforeValidator(number), Field(ge=1, le=1024)]


class Config(Section):
    """Everything that determines a run. :func:`config_class` has the sections of a system in their places.

    Attributes:
        system: Name of the base model.
        variant: Name of the many-to-one rules on it.
        data: What is trained on.
        model: Sizes of the networks, as the system defines them.
        loss: Weights of its losses.
        optim: Its optimizers and moving average.
        steps: Training iterations.
        batch_size: Source images per iteration, over all directions that the system learns; of several data sets, of
            each.
        seed: Seed of everything random.
        init_from: Run, checkpoint, converted weights or published model whose weights a new run begins with, as far as
            they fit; a run keeps the folder, ``@sha256:`` and the hash of what lies in it. ``None``: fresh weights.
        checkpoint_every: Steps between two checkpoints; one more is written at the end.
        keep_checkpoints: How many of the newest checkpoints are kept; 0 keeps all.
        sample_every: Steps between two sample grids.
        log_every: Steps between two lines of the log.
        validate_every: Steps between two validations, each of a fixed sample of the test images; 0: none.
        best_by: The measure whose best validation is kept as ``checkpoints/best``; ``None``: the error against true
            images where it is known, else the colours that are covered, else the variety of looks.
        device: ``"auto"`` (CUDA where there is a device), ``"cpu"``, ``"cuda"`` or ``"cuda:<number>"``.
        threads: CPU threads; ``None`` leaves the choice to torch.
        precision: ``"fp32"``; ``"tf32"`` (NVIDIA GPUs: float32 products with 10 bits of mantissa); ``"bf16"`` (forward
            passes in bfloat16, what stays float32 multiplied as with tf32; less memory, and faster where the device
            has such arithmetic). Weights, optimizer, average, images, losses and what they differentiate twice are
            float32 in all of them.
        cuda_graphs: Whether steps are recorded as CUDA graphs and replayed as a whole: the same numbers, no waiting for
            Python. NVIDIA GPUs, one process.
        compile: Whether ``torch.compile`` compiles the nets that no loss differentiates twice: other rounding; minutes
            before the first step.
        accumulate: Parts that a batch is processed in, each taking its share of the memory; gradients are those of
            the whole batch, to rounding.
        tensorboard: Whether metrics and samples are also written for TensorBoard, which must be installed.
    """

    system: str = DEFAULT[0]
    variant: str = DEFAULT[1]
    data: DataConfig = DataConfig()
    model: Model
    loss: Loss
    optim: Optim
    steps: Count = 1000
    batch_size: Count = 32
    seed: CountOrZero = 777
    init_from: str | None = Field(None, min_length=1, max_length=4096)
    checkpoint_every: Count = 200
    keep_checkpoints: CountOrZero = 3
    sample_every: Count = 200
    log_every: Count = 20
    validate_every: CountOrZero = 0
    best_by: Annotated[str | None, AfterValidator(_known_measure)] = None
    device: Annotated[str, AfterValidator(_known_device)] = "auto"
    threads: Threads | None = None
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    cuda_graphs: StrictBool = False
    compile: StrictBool = False
    accumulate: Count = 1
    tensorboard: StrictBool = False

    @model_validator(mode="after")
    def _agree(self) -> Config:
        if problem := self.facts.sizes.problem(self.data.image_size):
            raise ValueError(f"data.image_size: {problem}")
        if self.data.also and not self.facts.several_sets:
            able = [name for name in NAMES if system(name).several_sets]
            raise ValueError(
                f"data.also: system {self.system!r} reads no labels off images, so data sets need not be kept apart; "
                f"put the folders of all domains into one data set, or take {' or '.join(able)}"
            )
        self._agree_on_pairs()
        self.settings.check(self.data.image_size, self.rules)
        self.settings.check_sets(1 + len(self.data.also))
        return self

    def _agree_on_pairs(self) -> None:
        """What learns from pairs is not to be kept from all of them."""
        needed = {}
        if self.facts.learns_from_pairs(self.variant):
            needed["data.pair_fraction"] = self.data.pair_fraction
        if self.facts.variants[self.variant].supervised_weight > 0:
            needed["loss.supervised"] = self.settings.supervised()
        for key, value in needed.items():
            if value == 0:
                raise ValueError(f"{self.learner} learns from known pairs, but {key} is 0; raise it{self.way_out}")

    @property
    def facts(self) -> SystemFacts:
        """What the system tells of itself."""
        return system(self.system)

    @property
    def settings(self) -> Settings:
        """The sections of the system."""
        facts = self.facts
        return facts.settings.model_construct(**{name: getattr(self, name) for name in facts.settings.model_fields})

    @property
    def rules(self) -> ManyToOne:
        """The many-to-one rules of the variant, as the settings of this configuration have them."""
        return self.settings.rules(self.facts.variants[self.variant])

    @property
    def name(self) -> str:
        """System and variant in one word, as runs are called."""
        return short_name(self.system, self.variant)

    @property
    def title(self) -> str:
        """The same for people."""
        return full_name(self.system, self.variant)

    @property
    def learner(self) -> str:
        """System and variant as errors name them."""
        return f"variant {self.variant!r}" if self.system == DEFAULT[0] else f"{self.system}, variant {self.variant!r},"

    @property
    def way_out(self) -> str:
        """What else can be done where pairs are missing: the end of a sentence, empty where there is nothing."""
        facts = self.facts
        if UNPAIRED not in facts.variants or facts.learns_from_pairs(UNPAIRED):
            return ""
        return f", or train without pairs with variant {UNPAIRED!r}"

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """The same with other values, by dotted key; they are not checked."""
        sections: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            section, _, name = key.rpartition(".")
            sections.setdefault(section, {})[name] = value
        update = sections.pop("", {})
        update |= {name: getattr(self, name).model_copy(update=inside) for name, inside in sections.items()}
        return self.model_copy(update=update)

    def filled(self) -> Config:
        """The same with numbers in the place of what was left to the number of steps."""
        return self.with_values(self.settings.kept(self.steps))


@cache
def config_class(name: str) -> type[Config]:
    """The configuration of a run of a system."""
    facts = system(name)
    fields = facts.settings.model_fields

    def known_variant(variant: str) -> str:
        if variant in facts.refused:
            raise ValueError(f"not with system {name!r}: {facts.refused[variant]}")
        if variant not in facts.variants:
            hint = nearest(variant, (*facts.variants, *NAMES))
            raise ValueError(f"unknown variant{hint} (variants: {', '.join(facts.variants)})")
        return variant

    usual = DEFAULT[1] if name == DEFAULT[0] else PLAIN
    narrowed: dict[str, Any] = {key: (field.annotation, field.default) for key, field in fields.items()}
    variant: Any = (Annotated[str, AfterValidator(known_variant)], usual)
    return create_model("Config", __base__=Config, **narrowed, system=(str, name), variant=variant)

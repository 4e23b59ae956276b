"""Trainings that differ in one thing, to see what decides over the colours: color_causes.py measures them.

What no setting says is put into the code of a training: a norm in the output layer or none, which translations a batch
has, a rate that falls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from m2o_fast.engine.config import load_config
from m2o_fast.engine.loop import train
from m2o_fast.engine.schema import Config
from m2o_fast.nn.stems import OutputStem
from m2o_fast.translators.settings import Optimizer
from m2o_fast.translators.starganv2 import nets
from m2o_fast.translators.starganv2.settings import Optim
from m2o_fast.translators.starganv2.translator import StarGANv2

WHOLE = 2000  # steps of the recipe
#: of digits, HMS; named here, so that the recipe of another day does not change what the arms are
COMMON: dict[str, Any] = {
    "variant": "hms", "data.name": "digits", "threads": 1, "device": "cpu", "batch_size": 8,
    "model.base_width": 8, "model.style_dim": 8, "model.latent_dim": 16, "model.style_op": "demod",
    "model.output": "tanh", "model.fit_styles": False, "loss.r1": 0.2, "loss.diversity": 2.0, "loss.style": 0.3,
    "loss.cycle": 1.0, "loss.supervised": 1.0, "loss.diversity_steps": 8000,
    "optim.mapping_lr": 1e-6, "optim.ema": 0.995, "keep_checkpoints": 0, "sample_every": WHOLE,
}  # fmt: skip
#: color and gray are domains 0 and 1: two of eight go to color in the place of four; as many come from each
FEW_COLORS = ((0, 0), (0, 1), (1, 1), (0, 1), (1, 0), (1, 1), (0, 1), (1, 1))


class Arm(NamedTuple):
    """One way to train.

    Attributes:
        title: As the page calls it.
        settings: What it has otherwise.
        norm: Whether the output layer has an instance norm; ``None``: with AdaIN, as the settings have it.
        few_colors: Half as many translations into colour.
        falling: Whether the generator's rate falls to a tenth over the second half of the recipe's steps.
        steps: How many.
        every: Of them between two checkpoints.
    """

    title: str
    settings: Mapping[str, Any] = {}
    norm: bool | None = None
    few_colors: bool = False
    falling: bool = False
    steps: int = WHOLE // 2
    every: int = 100

    def config(self, seed: int, at_most: int = WHOLE) -> Config:
        """All settings of a run."""
        counts = {"steps": min(self.steps, at_most), "checkpoint_every": self.every}
        return load_config(overrides={**COMMON, **counts, **self.settings, "seed": seed})

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Nets and trainings that are made meanwhile are those of the arm."""
        with ExitStack() as stack:
            if self.norm is not None:
                stack.enter_context(patch.object(nets, "OutputStem", partial(_output_stem, self.norm)))
            if self.few_colors:
                stack.enter_context(patch.object(StarGANv2, "directions", lambda _: FEW_COLORS))
            if self.falling:
                stack.enter_context(patch.object(Optim, "optimizer", _falling(Optim.optimizer)))
            yield

    def train(self, run: Path, seed: int, at_most: int = WHOLE) -> None:
        """Trains a run, or goes on with it, unless it has so many steps."""
        with self.in_place():
            train(self.config(seed, at_most), run, resume="auto", quiet=True)


def _output_stem(norm: bool, *words: Any, normalize: bool, **options: Any) -> OutputStem:
    return OutputStem(*words, normalize=norm, **options)


def _falling(whole: Callable[[Optim, str], Optimizer]) -> Callable[[Optim, str], Optimizer]:
    def optimizer(optim: Optim, group: str) -> Optimizer:
        of = whole(optim, group)
        return replace(of, schedule=tenth) if group == "generator" else of

    return optimizer


def tenth(index: int) -> float:
    """1 for the first half of the recipe's steps, then falling to a tenth as a straight line."""
    half = WHOLE // 2
    return 1 - 0.9 * (max(0, index - half) / half)


LINEAR = {"model.output": "linear"}
ADAIN = {"model.style_op": "adain", **LINEAR}
PRESET = "demod-tanh"
ARMS = {
    PRESET: Arm("demodulation, tanh", steps=WHOLE, every=20),
    "adain": Arm("AdaIN", ADAIN),
    "demod": Arm("demodulation", LINEAR),
    "adain-no-norm": Arm("AdaIN, no norm in the output layer", ADAIN, norm=False),
    "demod-norm": Arm("demodulation, a norm in the output layer", LINEAR, norm=True),
    "latent-64": Arm("latents of length 64", {"model.latent_dim": 64}, steps=WHOLE, every=500),
    "falling": Arm("the generator's rate falls", falling=True, steps=WHOLE, every=20),
    "few-colors": Arm("half as many colour targets", few_colors=True),
    "r1-0.05": Arm("R1 0.05", {"loss.r1": 0.05}),
    "r1-1": Arm("R1 1", {"loss.r1": 1.0}),
}

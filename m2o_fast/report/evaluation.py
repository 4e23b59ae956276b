"""The evaluation files of a run: ``RUN/evaluation/step-<number>.json``, as ``m2o-fast eval`` writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field, ValidationError, model_validator

from m2o_fast.files import read_whole
from m2o_fast.report.svg import drawable

FOLDER = "evaluation"
#: what a measure can be in the file
Value = bool | int | float | str
_GUIDED = {"none": "", "latent": "", "reference": ", by reference"}


class ColorHistogram(BaseModel):
    """Images by the cell of their foreground colour, cell ``(r * bins + g) * bins + b``."""

    bins: int = Field(ge=1, le=16)
    generated: list[int]
    real: list[int]

    @model_validator(mode="after")
    def _agree(self) -> ColorHistogram:
        if {len(self.generated), len(self.real)} != {self.bins**3} or min(*self.generated, *self.real) < 0:
            raise ValueError(f"a colour histogram of {self.bins} bins needs {self.bins**3} counts")
        return self


class Case(BaseModel):
    """One image, and how far its translation is from the truth."""

    index: int = Field(ge=0)
    measure: str
    value: float


class Details(BaseModel):
    """What does not fit into one number per direction."""

    color_histogram: ColorHistogram | None = None
    worst: list[Case] = []
    classes: list[str] = []
    iou: list[float | None] = []


class Row(NamedTuple):
    """The measures of one direction with one kind of guidance (``"latent"``, ``"reference"``, ``"none"``)."""

    direction: str
    guidance: str
    measures: dict[str, Value]

    @property
    def title(self) -> str:
        """For people. Random styles go without saying, so that variants with and without styles stand side by side."""
        return direction_title(self.direction) + _GUIDED.get(self.guidance, f", {self.guidance}")

    @property
    def one_answer(self) -> bool:
        """Whether translations are compared with the one right answer."""
        return any(name in self.measures for name in ("mse", "pixel_accuracy"))


class Evaluation(BaseModel):
    """One evaluation file."""

    format: Literal[1]
    step: int = Field(ge=0)
    directions: dict[str, dict[str, dict[str, Value]]]
    means: dict[str, dict[str, Value]] = {}
    details: dict[str, Details] = {}
    protocol: dict[str, Any] = {}
    cost: dict[str, Any] = {}
    warnings: list[str] = []

    def rows(self) -> Iterator[Row]:
        """Every direction with every kind of guidance."""
        for direction, kinds in self.directions.items():
            for guidance, measures in kinds.items():
                yield Row(direction, guidance, measures)


def direction_title(direction: str) -> str:
    """``"color->gray"`` for people."""
    return direction.replace("->", " \N{RIGHTWARDS ARROW} ")


def is_finite(value: object) -> bool:
    """Whether ``value`` is a number that can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and drawable(value)


def newest_evaluation(run: Path) -> tuple[Evaluation | None, list[str]]:
    """The readable evaluation of a run that was made at the latest step, and what is wrong with later ones."""
    problems: list[str] = []
    for path in sorted((run / FOLDER).glob("step-*.json"), reverse=True):
        found = _read(path)
        if isinstance(found, Evaluation):
            return found, problems
        problems.append(found)
    return None, problems


def evaluation_of(run: Path, step: int) -> Evaluation | None:
    """The evaluation of one step of a run, if there is a readable one."""
    found = _read(run / FOLDER / f"step-{step:08d}.json")
    return found if isinstance(found, Evaluation) and found.step == step else None


def _read(path: Path) -> Evaluation | str:
    """An evaluation file, or what is wrong with it."""
    try:
        return Evaluation.model_validate_json(read_whole(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{path} is damaged or of another version: {place + ': ' if place else ''}{first['msg']}"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"

"""The first screen of a report: four questions, each answered with a word, a number and pictures, whatever the data is.

The words are rules of thumb; the numbers are what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from m2o_fast.report.evaluation import Evaluation, Row, Value, direction_title, is_finite
from m2o_fast.report.pictures import Figure, Strip


class Question(NamedTuple):
    """What is asked of all directions that have an answer.

    Attributes:
        title: The question.
        measures: The first of these that a direction has answers it; higher is better.
        ceilings: Measures that say what a perfect generator would score, where there are such.
        floors: From these on the answer is the first word, or the second one.
        words: From good to poor.
        rows: Labels of the rows of a sample grid that show it; ``"latent "`` is all that begin so.
        absent: Why nothing answers it, most often.
    """

    title: str
    measures: tuple[str, ...]
    ceilings: Mapping[str, str]
    floors: Mapping[str, tuple[float, float]]
    words: tuple[str, str, str]
    rows: tuple[str, ...]
    absent: str


QUESTIONS = (
    Question(
        "Does the uni-modal direction work?",
        ("psnr", "pixel_accuracy"),
        {},
        {"psnr": (22.0, 15.0), "pixel_accuracy": (0.75, 0.4)},
        ("yes", "partly", "no"),
        ("source", "output", "truth"),
        "no direction into a uni-modal domain with known true images was measured",
    ),
    Question(
        "Do the looks vary?",
        ("pixel_variety",),
        {"pixel_variety": "pixel_variety_of_looks"},
        {"pixel_variety": (0.6, 0.3)},
        ("yes", "a little", "hardly"),
        ("source", "latent "),
        "there is one output of each source, or variety was not measured",
    ),
    Question(
        "Are references followed?",
        ("references_followed",),
        {},
        {"references_followed": (0.8, 0.65)},
        ("yes", "partly", "no"),
        ("reference", "guided by it"),
        "the system reads no styles off images, or references were not measured",
    ),
    Question(
        "Is content kept?",
        ("content_kept",),
        {},
        {"content_kept": (0.8, 0.5)},
        ("yes", "partly", "no"),
        ("source", "reconstruction"),
        "the way back is not learned, or was not measured",
    ),
)
_SUFFIXES = {"psnr": " dB"}


@dataclass(frozen=True)
class Answer:
    """What is shown of one question.

    Attributes:
        title: The question.
        word: The answer; ``"not known"`` where nothing was measured.
        grade: 0 good, 1 fair, 2 poor, 3 not known; for the colour of the word.
        name: The measure; empty where nothing was measured.
        value: Its value, the mean over the directions that have it.
        suffix: What stands behind the value, ``" dB"`` say.
        note: Where the value is from, or why there is none.
        strips: Pictures of the direction that is worst.
    """

    title: str
    word: str
    grade: int
    name: str
    value: float | None
    suffix: str
    note: str
    strips: list[Strip]


def answers(evaluation: Evaluation | None, figures: Sequence[Figure]) -> list[Answer]:
    """The answers to all questions; none where nothing was evaluated. Random styles count before those of references.

    Args:
        evaluation: What was measured.
        figures: The fixed styles of the directions.
    """
    if evaluation is None:
        return []
    strips = {figure.title.partition(":")[0]: figure.strips for figure in figures}
    return [_answer(question, list(evaluation.rows()), strips) for question in QUESTIONS]


def _answer(question: Question, rows: Sequence[Row], strips: Mapping[str, Sequence[Strip]]) -> Answer:
    name = next((name for name in question.measures if any(is_finite(row.measures.get(name)) for row in rows)), None)
    if name is None:
        return Answer(question.title, "not known", 3, "", None, "", question.absent, [])
    measured = {row.direction: row.measures for row in reversed(rows) if is_finite(row.measures.get(name))}
    values = {direction: float(measures[name]) for direction, measures in measured.items()}
    shares = {
        direction: _share(measures, name, question.ceilings.get(name, "")) for direction, measures in measured.items()
    }
    worst = min(shares, key=lambda direction: shares[direction])
    good, fair = question.floors[name]
    mean = sum(shares.values()) / len(shares)
    grade = 0 if mean >= good else 1 if mean >= fair else 2
    notes = [direction_title(worst)]
    if len(values) > 1:
        notes = [f"mean over {len(values)} directions; worst: {direction_title(worst)}, {values[worst]:.3g}"]
    if limited := [share for direction, share in shares.items() if share != values[direction]]:
        notes.append(f"{sum(limited) / len(limited):.0%} of what the true looks of one content show")
    shown = [
        strip
        for label in question.rows
        for strip in strips.get(direction_title(worst), ())
        if strip.label.startswith(label)
    ]
    value = sum(values.values()) / len(values)
    return Answer(
        question.title, question.words[grade], grade, name, value, _SUFFIXES.get(name, ""), "; ".join(notes), shown
    )


def _share(measures: Mapping[str, Value], name: str, ceiling: str) -> float:
    """A value, or its share of what a perfect generator would score, where that is known."""
    limit = measures.get(ceiling)
    return float(measures[name]) / (float(limit) if is_finite(limit) and limit else 1.0)

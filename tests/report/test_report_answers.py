"""The first screen of a report: a word, a number and pictures for each question, whatever was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reading import Page
from result_file import evaluation

from m2o_fast.report.answers import QUESTIONS, Answer, answers
from m2o_fast.report.evaluation import Evaluation
from m2o_fast.report.pictures import Figure, Strip

UNI, LOOKS, REFERENCES, CONTENT = range(4)


def asked(directions: dict[str, Any], figures: tuple[Figure, ...] = ()) -> list[Answer]:
    return answers(Evaluation.model_validate(evaluation(directions=directions)), figures)


def figure(direction: str, *labels: str) -> Figure:
    return Figure(
        f"{direction}: fixed styles", "", [Strip(f"{label}", direction, "data:,", 1, 1, 1) for label in labels]
    )


@pytest.mark.parametrize(
    ("number", "name", "values"),
    [
        (UNI, "psnr", (22.0, 21.9, 14.9)),
        (UNI, "pixel_accuracy", (0.75, 0.5, 0.3)),
        (LOOKS, "pixel_variety", (0.6, 0.59, 0.29)),
        (REFERENCES, "references_followed", (0.9, 0.7, 0.5)),
        (CONTENT, "content_kept", (0.95, 0.6, -0.3)),
    ],
)
def test_words_go_with_numbers(number: int, name: str, values: tuple[float, float, float]) -> None:
    for grade, value in enumerate(values):
        answer = asked({"a->b": {"none": {name: value}}})[number]
        assert (answer.grade, answer.word, answer.name) == (grade, QUESTIONS[number].words[grade], name)
        assert answer.value == value and answer.note == "a → b"


def test_what_was_not_measured_is_not_known_and_says_why() -> None:
    found = asked({"a->b": {"none": {"fid_clean": 3.0, "psnr": "high"}}})
    assert [answer.word for answer in found] == ["not known"] * 4
    assert "the way back is not learned" in found[CONTENT].note and found[CONTENT].value is None
    assert answers(None, []) == []


def test_of_several_directions_the_mean_counts_and_the_worst_is_shown() -> None:
    figures = (figure("a → b", "source", "output", "truth"), figure("b → a", "source", "output", "reconstruction"))
    found = asked({"a->b": {"none": {"psnr": 30.0}}, "b->a": {"none": {"psnr": 10.0}}}, figures)[UNI]
    assert (found.value, found.word, found.suffix) == (20.0, "partly", " dB")
    assert found.note == "mean over 2 directions; worst: b → a, 10"
    assert [(strip.label, strip.alt) for strip in found.strips] == [("source", "b → a"), ("output", "b → a")]


def test_variety_is_a_share_of_that_of_true_looks_where_they_are_known() -> None:
    measures = {"pixel_variety": 0.4, "pixel_variety_of_looks": 0.5}
    figures = (figure("a → b", "source", "latent 1", "latent 2", "reference"),)
    found = asked({"a->b": {"latent": measures, "reference": {"pixel_variety": 9.0}}}, figures)[LOOKS]
    assert (found.value, found.word) == (0.4, "yes")  # of random styles
    assert found.note == "a → b; 80% of what the true looks of one content show"
    assert [strip.label for strip in found.strips] == ["source", "latent 1", "latent 2"]


def test_directions_without_true_looks_have_no_share_of_them() -> None:
    looks, none = {"pixel_variety": 0.4, "pixel_variety_of_looks": 0.5}, {"pixel_variety": 0.2}
    found = asked({"a->b": {"latent": looks}, "a->c": {"latent": none}})[LOOKS]
    assert found.note.endswith("; 80% of what the true looks of one content show")
    assert found.word == "a little"  # of the mean of 0.8 and 0.2


def test_the_page_begins_with_the_answers(make_run: Callable[..., Path], report: Callable[..., str]) -> None:
    result = evaluation()
    result["directions"]["gray->color"]["reference"]["references_followed"] = 0.75
    page = Page(report(make_run("first", result)))
    start = page.text.partition("One right answer")[0]
    assert "Does the uni-modal direction work? partly PSNR: 19.08 dB" in start
    assert "Do the looks vary? not known" in start and "Are references followed? partly" in start
    alts = [image["alt"] for image in page.images[:5]]
    assert alts[:3] == [
        f"{row}: 6 {of} images, color → gray"
        for row, of in (("source", "color"), ("output", "gray"), ("truth", "gray"))
    ]
    assert alts[3].startswith("reference:") and alts[4].startswith("guided by it:")

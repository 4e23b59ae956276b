"""The study of Color Recall: its generators have the laws that they claim, theory and record are right, and its page
shows the record."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from source_tree import ROOT

from m2o_fast.data.colorize import draw_colors
from m2o_fast.metrics import Extractor
from m2o_fast.ops import color_histogram, foreground_color
from m2o_fast.randomness import numpy_generator


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # statistics of real images are kept there
    import recall_study

    monkeypatch.setattr(recall_study, "EVERY", 2**14)


def given(*numbers: float, place: float = 0.0, span: tuple[float, float] = (0, 1)):
    """What one picture is made of: the numbers, then zeros; those of its source count down from 0.9."""
    from known_colors import NUMBERS, Draws

    rows = torch.tensor([[*numbers, *([0.0] * (NUMBERS - len(numbers)))]], dtype=torch.float64)
    of_source = torch.linspace(0.9, 0.1, NUMBERS, dtype=torch.float64)[None]
    return Draws(rows, of_source, torch.tensor([place]).double(), torch.tensor([span]).double())


def test_the_right_law_is_that_of_the_data() -> None:
    from known_colors import CELLS, even_draws, right

    ours = color_histogram(right(even_draws(2**16)), 4) / 2**16
    assert ours[0] == 0 and (ours[1:] - 1 / CELLS).abs().max() < 0.01 / CELLS
    count = 40_000
    theirs = torch.from_numpy(draw_colors("rgb", count, numpy_generator(0, "test"))).double()
    mine = right(even_draws(2**16))
    for power in (1, 2):
        moments = theirs.pow(power)
        apart = moments.mean(0) - mine.pow(power).mean(0)
        assert (apart.abs() < 4 * moments.std(0) / math.sqrt(count)).all()
    shares = color_histogram(theirs, 4) / count
    assert shares[0] == 0 and ((shares[1:] - 1 / CELLS).abs() < 5 * math.sqrt(1 / CELLS / count)).all()


def test_colors_by_hand() -> None:
    import known_colors as known

    first = given(0.0, 0.5, 0.5, 0.5)  # the middle of cell (0, 0, 1)
    last = given(0.999, 0.5, 0.5, 0.5)  # of cell (3, 3, 3)
    cases = [
        (known.right, first, [0.125, 0.125, 0.375]),
        (known.right, last, [0.875, 0.875, 0.875]),
        (known.of_cells([5, 6]), given(0.5), [0, 0.25, 0.75]),  # without cell 0 number 6 is cell 7: (0, 1, 3)
        (known.much_red, given(0.0), [0.5, 0, 0]),
        (known.shifted(0.25), first, [0.375, 0.375, 0.625]),
        (known.shifted(0.25), last, [1, 1, 1]),
        (known.narrowed(0.5), first, [0.3125, 0.3125, 0.4375]),
        (known.middles, given(0.0, 0.1, 0.9, 0.3), [0.125, 0.125, 0.375]),
        (known.one_color, last, [0.9, 0.6, 0.1]),
        (known.one_a_source, first, [3.8 / 4, 2.7 / 4, 1.6 / 4]),  # 0.9 * 63 = 56.7: cell 57
        (known.one_a_source_evenly, given(0.3, place=0.5 / 63), [0.8 / 4, 0.7 / 4, 1.6 / 4]),
        (known.by_digit, given(0.5, span=(0.5, 0.6)), [2 / 4, 0 / 4, 3 / 4]),  # 0.55 * 63 = 34.65: cell 35
        (known.partly_black(0.1), given(0.9, 0.5, 0.5, 0.5, 0, 0, 0, 0, 0.09), [0.125, 0.125, 0.125]),
        (known.partly_black(0.1), given(0.0, 0.5, 0.5, 0.5, 0, 0, 0, 0, 0.11), [0.125, 0.125, 0.375]),
    ]
    for colors, draw, expected in cases:
        assert colors(draw)[0].tolist() == pytest.approx(expected), colors


def test_draws_of_sources() -> None:
    from known_colors import draws

    found = draws(torch.tensor([0, 3, 0, 1]), 2, seed=5)
    assert found.span[::2].tolist() == [[0, 0.5], [0.75, 1], [0, 0.5], [0.5, 0.75]]
    assert sorted(found.place[::2].tolist()) == [0.125, 0.375, 0.625, 0.875]
    for part in found[1:]:
        assert torch.equal(part[::2], part[1::2])
    assert len(found.numbers.unique()) == found.numbers.numel() and 0 <= found.numbers.min() <= found.numbers.max() < 1
    assert len(found.of_source[::2].unique(dim=0)) == 4
    assert not torch.equal(draws(torch.tensor([0, 3, 0, 1]), 2, seed=6).numbers, found.numbers)


def test_limits_by_hand() -> None:
    """1/4 more moves each cell to the next one, and 26 of the 27 that get something are as full as they should be; half
    the spread leaves the 8 in the middle."""
    import recall_study as study
    from known_colors import GENERATORS

    hand = {
        "the right law": 1, "3 of 63 cells missing": 60 / 63, "31 of 63 cells missing": 32 / 63,
        "56 of 63 cells missing": 7 / 63, "31 missing, side by side": 32 / 63, "all channels +1/4": 26 / 63,
        "spread x 0.5": 8 / 63, "1 in 10 nearly black": 0.9, "63 colours, one a cell": 1, "one colour for all": 1 / 63,
        "one colour a source": 1, "one a source, evenly": 1, "the digit decides": 1, "two colours": None,
    }  # fmt: skip
    for name, expected in hand.items():
        assert study.limit(GENERATORS[name]) == (None if expected is None else pytest.approx(expected, abs=3e-3)), name
    assert study.limit(GENERATORS["63 colours, one a cell"], 2) == pytest.approx(1, abs=3e-3)


def test_pictures_by_hand() -> None:
    import known_colors as known

    content = torch.zeros(2, 1, 4, 4)
    content[0, 0, :, 1], content[1, 0, :, 3] = 1, 0.5
    draw = known.draws(torch.tensor([0, 1]), 1, seed=0)
    colors, second = known.right(draw), known.second_color(draw)
    assert not torch.isclose(colors, second).any()
    plain = known.in_one_color(content, colors, draw)
    assert torch.allclose(foreground_color(plain, content), colors.float())
    painted = known.on_background(content, colors, draw)
    assert torch.equal(foreground_color(painted, content), foreground_color(plain, content))
    assert torch.equal(painted[0, :, 2, 0], second[0].float())
    halves = known.in_two_colors(content, colors, draw)
    assert torch.equal(halves[:, :, :2], plain[:, :, :2])
    assert torch.allclose(foreground_color(halves[:, :, 2:], content[:, :, 2:]), second.float())
    other = known.of_another_source(content, colors, draw)
    assert torch.equal(other[0, :, 0, 3], colors[0].float() / 2) and not other[0, :, :, 1].any()


def test_noise_has_its_deviation() -> None:
    import known_colors as known

    content = torch.full((2, 1, 64, 64), 0.5)
    draw = known.draws(torch.tensor([0, 1]), 1, seed=0)
    gray = torch.ones(2, 3, dtype=torch.float64)
    noise = known.noisy(0.05)(content, gray, draw) - 0.5
    assert float(noise.std()) == pytest.approx(0.05, rel=0.03) and abs(float(noise.mean())) < 1e-3
    assert torch.equal(noise + 0.5, known.noisy(0.05)(content, gray, draw))


def test_expected_recall_by_hand() -> None:
    """All of one colour against two even ones: recall is the counted share of that one. One picture each: they are the
    same or not. Many in even cells: sums of half-normal numbers."""
    from recall_study import expected_recall

    one, two = torch.tensor([[1.0, 0], [0.5, 0.5]]).double()
    assert expected_recall(one, two, 400) == (pytest.approx(0.5), pytest.approx(0.5 / 20))
    assert expected_recall(two, two, 1)[0] == pytest.approx(0.5) and expected_recall(one, 1 - one, 9)[0] == 0
    even = torch.full((64,), 1 / 64).double()
    mean, deviation = expected_recall(even, even, 10_000)
    assert mean == pytest.approx(1 - math.sqrt(63 / (math.pi * 10_000)), abs=1e-4)
    assert deviation == pytest.approx(math.sqrt((1 - 2 / math.pi) * (1 - 1 / 64) / 20_000))


def test_expected_recall_is_that_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    import recall_study as study

    monkeypatch.setattr(study, "TRIED", study.TRIED[:4])
    for row in study.tried(300, 3):
        error = row["color_recall_deviation"] / math.sqrt(study.SAMPLES)
        assert abs(row["color_recall"] - row["color_recall_by_theory"]) < 4 * error, row
        assert row["color_recall_deviation"] == pytest.approx(row["color_recall_deviation_by_theory"], rel=0.4), row


def test_what_is_measured_of_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real features are those of the mean colour; a tenth of the digits, two pictures of each."""
    import recall_study as study
    from known_colors import GENERATORS

    whole = study.load_digits
    monkeypatch.setattr(study, "load_digits", lambda *words: tuple(part[::10] for part in whole(*words)))
    monkeypatch.setattr(study, "OUTPUTS", 2)
    extractor = Extractor(lambda images: images.mean((2, 3)), name="mean", sha256="", input_size=None)
    real = study.real_of(1, extractor)
    found = {
        name: study.measured(GENERATORS[name], 1, real, extractor)
        for name in ("the right law", "background painted", "one colour for all", "one colour a source")
    }
    right, painted, one, single = found.values()
    assert real.colors[0].images == 72 and not torch.equal(real.colors[0].histogram, real.colors[1].histogram)
    assert painted["color_recall"] == right["color_recall"] and painted["content_mse"] > 0.01 > right["content_mse"]
    assert painted["fid_clean"] > 10 * right["fid_clean"] and painted["precision"] < right["precision"]
    assert one["unique_colors"] == 1 and one["pixel_variety"] == single["pixel_variety"] == 0
    assert right["unique_colors"] == 72 and single["unique_colors"] == 36 and right["recall"] > one["recall"]


def test_a_run_that_ended_early_is_gone_on_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import recall_study as study

    calls: list[object] = []

    def measured(generator, seed, real, extractor):
        calls.append((generator, seed))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"color_recall": float(len(calls))}

    monkeypatch.setattr(study, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(study, "UNFINISHED", tmp_path / "runs" / "record.json")
    monkeypatch.setattr(study, "GENERATORS", dict(list(study.GENERATORS.items())[:2]))
    monkeypatch.setattr(study, "open_features", lambda *_: object())
    monkeypatch.setattr(study, "about", lambda _: {"commit": "abc"})
    monkeypatch.setattr(study, "real_of", lambda *_: object())
    monkeypatch.setattr(study, "measured", measured)
    monkeypatch.setattr(study, "tried", lambda size, bins: iter([{"images": size, "bins": bins}]))
    with pytest.raises(KeyboardInterrupt):
        study.study([1, 2])
    assert not study.RECORD.exists()
    study.study([1, 2])
    record = json.loads(study.RECORD.read_text())
    assert [row["color_recall"] for row in record["generators"]] == [1, 2, 4, 5] and not study.UNFINISHED.exists()
    assert len(record["tried"]) == len(study.SIZES_TRIED) * len(study.BINS_TRIED)
    monkeypatch.setattr(study, "about", lambda _: {"commit": "other"})
    study.UNFINISHED.write_text(json.dumps(record))
    assert study.opened({"commit": "abc"}) == record and study.opened(study.about(None))["generators"] == []


def record() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "color-recall.json").read_text())


def test_the_page_shows_the_record() -> None:
    import recall_page

    assert recall_page.PAGE.read_text() == recall_page.page(record())
    changed = record()
    changed["generators"][0]["color_recall"] += 0.1
    changed["tried"][-1]["color_recall"] += 0.1
    assert len({*recall_page.page(changed).splitlines()} ^ {*recall_page.PAGE.read_text().splitlines()}) > 4


def test_what_the_page_says_in_words_is_so() -> None:
    from recall_page import RECALL, RIGHT, SWEEPS, Found

    found = Found(record())
    ceiling = found.mean(RIGHT, "color_recall_ceiling")
    for steps in SWEEPS.values():
        recalls = [found.mean(name) for name in steps.values()]
        assert recalls == sorted(recalls, reverse=True)
    assert found.mean("one a source, evenly") > ceiling
    assert found.mean("56 of 63 cells missing", "precision") > found.mean(RIGHT, "precision")
    lost = {name: found.mean(RIGHT, name) - found.mean("31 of 63 cells missing", name) for name in (RECALL, "recall")}
    assert lost["recall"] < lost[RECALL] / 2
    scattered, wide = ("31 of 63 cells missing", "31 missing, side by side")
    assert abs(found.mean(scattered) - found.mean(wide)) < 0.02
    assert found.mean(wide, "fid_clean") > 5 * found.mean(scattered, "fid_clean")
    assert found.mean("all channels +1/4") < found.mean(scattered)
    assert abs(found.mean("background painted") - found.mean(RIGHT)) < 1e-3
    assert abs(found.mean("two colours", "pixel_color_recall") - found.mean(RIGHT, "pixel_color_recall")) < 0.03
    black, missing = "1 in 10 nearly black", "16 of 63 cells missing"
    assert not any(found.apart(name, measure) for name in (black, missing) for measure in ("precision", "recall"))
    assert found.apart(missing, "coverage") == -1 and found.apart(black, "coverage") == 0
    assert [found.row("spread x 0.75", bins)["limit"] > 0.9 for bins in found.of_tried("bins")] == [True] + [False] * 4


def test_theory_and_samples_agree() -> None:
    found = record()
    for row in found["tried"]:
        error = row["color_recall_deviation"] / math.sqrt(found["about"]["samples"])
        assert abs(row["color_recall"] - row["color_recall_by_theory"]) < 4 * error + 1e-6, row
        if row["images"] >= 5 * row["bins"] ** 3:
            assert row["color_recall_deviation"] == pytest.approx(row["color_recall_deviation_by_theory"], rel=0.4), row


def test_seeds_are_told_apart_only_without_overlap() -> None:
    from recall_page import RECALL, RIGHT, Found, listed

    values = {RIGHT: (0.9, 0.91), "worse": (0.7, 0.89), "like it": (0.89, 0.905), "better": (0.92, 0.93)}
    rows = [{"generator": name, RECALL: value, "fid_clean": value} for name in values for value in values[name]]
    empty = {"about": {}, "limits": dict.fromkeys(values, 1.0), "processor_seconds": 0, "tried": []}
    found = Found({**empty, "generators": rows})
    assert [found.apart(name, RECALL) for name in found.faulty] == [-1, 0, 1]
    assert [found.apart(name, "fid_clean") for name in found.faulty] == [1, 0, -1]
    assert found.cell("worse", RECALL) == "0.795 ± 0.134" and listed("abc") == "a, b and c"

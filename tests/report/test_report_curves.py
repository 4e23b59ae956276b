"""From the lines of a log to curves and maps."""

from __future__ import annotations

import re

import pytest

from m2o_fast.report.curves import POINTS, direction_maps, group_size, loss_charts, points_of, validation_charts
from m2o_fast.report.evaluation import Row
from m2o_fast.report.measures import duration, show, show_spread
from m2o_fast.report.page import headline, mean_rows, speed


def test_a_long_log_is_averaged_in_groups() -> None:
    lines = [{"step": float(i), "a": float(i % 2)} for i in range(1, 4 * POINTS + 1)]
    points = points_of(lines, "a")
    assert len(points) == POINTS and points[0] == (4, 0.5) and points[-1] == (4 * POINTS, 0.5)


def test_lines_of_validations_are_no_lines_of_the_training() -> None:
    class Fake:
        metrics = [{"step": 1.0, "skipped": 0.0, "a": 1.0}, {"step": 1.0, "validation/a->b/none/mse": 1.0}] * 2 * POINTS

    assert group_size(Fake()) == 2  # type: ignore[arg-type]


def test_a_short_log_is_kept_as_it_is() -> None:
    lines = [{"step": 1.0, "a": 3.0}, {"step": 2.0}, {"step": 3.0, "a": 5.0}]
    assert points_of(lines, "a") == [(1, 3), (3, 5)] and points_of(lines, "b") == [] and points_of([], "a") == []


def test_phases_of_a_net_share_a_chart() -> None:
    names = ("discriminator/real", "generator_latent/cycle", "generator_reference/cycle", "plain")

    class Fake:
        metrics = [{"step": 1.0, **dict.fromkeys(names, 0.5)}, {"step": 2.0, **dict.fromkeys(names, 0.25)}]

    real, cycle = loss_charts(Fake())  # type: ignore[arg-type]
    assert ">discriminator: real</text>" in real and ">generator: cycle</text>" in cycle
    assert ">latent</text>" in cycle and ">reference</text>" in cycle


def test_validations_have_charts_of_their_own() -> None:
    names = [
        "validation/a->b/latent/pixel_variety",
        "validation/a->b/reference/pixel_variety",
        "validation/b->a/none/mse",
    ]

    class Fake:
        metrics = [{"step": 1.0, "generator/cycle": 0.5}, {"step": 1.0, **dict.fromkeys(names, 0.25)}]

    assert len(loss_charts(Fake())) == 1  # type: ignore[arg-type]
    variety, error = validation_charts(Fake())  # type: ignore[arg-type]
    assert ">validation: variety of looks</text>" in variety and ">validation: MSE</text>" in error
    assert ">a → b, latent</text>" in variety and ">a → b, reference</text>" in variety


def test_three_domains_have_a_map_for_each_measure() -> None:
    rows = [Row(f"{a}->{b}", "latent", {"fid_clean": float(ord(b)), "x": True}) for a in "abc" for b in "abc" if a != b]
    (chart,) = direction_maps(rows)
    assert re.findall(r'text-anchor="middle">(\d+)</text>', chart) == ["98", "99", "97", "99", "97", "98"]
    assert direction_maps(rows[:1]) == []


def test_a_headline_has_both_sides_of_the_trade_off() -> None:
    rows = [
        Row("a->b", "none", {"mse": 0.5, "ssim": 0.1, "fid_clean": 3.0}),
        Row("b->a", "latent", {"color_recall": 0.7, "kid_mean": 1.0}),
        Row("b->a", "reference", {"color_recall": 0.6}),
        Row("c->a", "reference", {"fid_clean": 9.0}),
    ]
    right, varied = headline(rows)
    assert [row.measures for row in right.rows] == [{"mse": 0.5}]
    assert [(row.title, row.measures) for row in varied.rows] == [
        ("b → a", {"color_recall": 0.7}),
        ("c → a, by reference", {"fid_clean": 9.0}),
    ]
    assert headline([]) == [] and mean_rows(None) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (True, "yes"),
        (12345, '<data value="12345">12,345</data>'),
        (0.123456789, '<data value="0.123456789">0.1235</data>'),
        (1438.25, '<data value="1438.25">1,438</data>'),
        (float("nan"), "not finite"),
        ("<b>", "&lt;b&gt;"),
        ([], "–"),
        ([1, None], '<data value="1">1</data>, –'),
        ({"<": 2}, '&lt;: <data value="2">2</data>'),
    ],
)
def test_values_keep_all_their_digits(value: object, expected: str) -> None:
    assert show(value) == expected


def test_settings_are_written_without_separators() -> None:
    assert show(2024, grouped=False) == '<data value="2024">2024</data>'


def test_a_single_run_has_no_spread() -> None:
    assert "±" not in show_spread(0.5, None)
    assert show_spread(0.5, 0.125) == '<data value="0.5">0.5</data> ± <data value="0.125">0.12</data>'


def test_the_time_of_all_starts_is_added_up() -> None:
    lines = [
        {"step": step, "seconds": seconds, "images_per_second": rate}
        for step, seconds, rate in ((1, 10.0, 2.0), (2, 20.0, 4.0), (3, 5.0, 6.0), (4, 15.0, 8.0))
    ]

    class Fake:
        timings = lines

    assert speed(Fake()) == {"seconds": 35.0, "images_per_second": 5.0}  # type: ignore[arg-type]


@pytest.mark.parametrize(("seconds", "expected"), [(12.4, "12 s"), (185, "3 min 05 s"), (25320, "7 h 02 min")])
def test_times_are_for_people(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected

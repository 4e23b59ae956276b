"""Charts: places and sizes by hand, well-formed whatever the labels are."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2o_fast.report.svg import Bar, Series, bar_chart, color_cells, heat_map, line_chart, number, shares_of, ticks

NAMESPACE = "{http://www.w3.org/2000/svg}"
HOSTILE = """<script>alert("&'")</script>"""


def parsed(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(chart)


def found(chart: str, tag: str, kind: str = "") -> list[ElementTree.Element]:
    elements = parsed(chart).iter(f"{NAMESPACE}{tag}")
    return [element for element in elements if kind in element.get("class", "").split() or not kind]


@pytest.mark.parametrize(
    "chart",
    [
        line_chart(HOSTILE, [Series(HOSTILE, [(0, 1), (1, 2)]), Series("b", [(0, 1)], 1)], HOSTILE),
        line_chart(HOSTILE, [Series(HOSTILE, [(0, 1)])], HOSTILE, dots=True, legend=True),
        bar_chart(HOSTILE, [Bar(HOSTILE, 0.5)]),
        heat_map(HOSTILE, [HOSTILE, "b"], [HOSTILE, "b"], [[None, 1.0], [2.0, None]]),
        color_cells([1] * 8, [0] * 8, 2),
    ],
    ids=["lines", "dots", "bars", "map", "cells"],
)
def test_charts_are_well_formed_and_say_what_they_show(chart: str) -> None:
    root = parsed(chart)
    assert root.tag == f"{NAMESPACE}svg" and root.get("role") == "img" and root.get("aria-label")
    assert not list(root.iter("script")) and not list(root.iter(f"{NAMESPACE}script"))
    assert "nan" not in chart.lower().replace("foreground", "") and "inf" not in chart


def test_a_line_reaches_from_corner_to_corner() -> None:
    chart = line_chart("y", [Series("a", [(0, 0), (50, 0.5), (100, 1)])])
    (line,) = found(chart, "polyline", "l")
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(float, place.split(","))) for place in line.get("points", "").split())
    rules = found(chart, "line", "g")
    left, right = float(rules[0].get("x1", "")), float(rules[0].get("x2", ""))
    bottom, top = (max(float(rule.get("y1", "")) for rule in rules), min(float(rule.get("y1", "")) for rule in rules))
    assert (x0, y0) == (left, bottom) and (x2, y2) == (right, top)
    assert (x1, y1) == ((left + right) / 2, (bottom + top) / 2)


def test_series_differ_in_dashes_as_well() -> None:
    chart = line_chart("y", [Series(str(i), [(0, i), (1, i)], i) for i in range(12)])
    looks = {(line.get("class"), line.get("stroke-dasharray")) for line in found(chart, "polyline")}
    assert len(looks) == 12


def test_a_spike_does_not_flatten_the_curve_and_is_named() -> None:
    calm = [(float(i), 1.0) for i in range(40)]
    cut = line_chart("y", [Series("a", [*calm, (40.0, 5000.0)])])
    heights = [float(place.split(",")[1]) for place in found(cut, "polyline", "l")[0].get("points", "").split()]
    assert max(heights) - min(heights) > 100
    assert any("cut off: up to 5000" in (text.text or "") for text in found(cut, "text"))
    assert "cut off" not in line_chart("y", [Series("a", calm)])


def test_bars_are_as_long_as_their_values() -> None:
    chart = bar_chart("IoU", [Bar("a", 1.0, (1, 2, 3)), Bar("b", 0.25), Bar("c", 0.0), Bar("d", 7.0)])
    full, quarter, nothing, beyond = (float(bar.get("width", "")) for bar in found(chart, "rect", "s0"))
    assert quarter == pytest.approx(full / 4, abs=0.01) and nothing == 0 and beyond == full
    assert [square.get("fill") for square in found(chart, "rect", "c")] == ["rgb(1,2,3)"]


def test_a_map_is_darkest_where_its_value_is_highest() -> None:
    chart = heat_map("m", ["a", "b"], ["a", "b"], [[None, 1.0], [3.0, 2.0]])
    low, high, middle = (float(cell.get("fill-opacity", "")) for cell in found(chart, "rect", "s0"))
    assert low < middle < high and middle == pytest.approx((low + high) / 2)


def test_cells_have_the_area_of_their_share_and_missed_ones_are_outlined() -> None:
    generated, real = [0] * 8, [0] * 8
    generated[0], generated[7], real[7], real[3], real[4] = 10, 40, 25, 20, 5
    chart = color_cells(generated, real, 2)
    sides = {
        (square.get("fill"), index): float(square.get("width", ""))
        for index, square in enumerate(found(chart, "rect", "c"))
    }
    black, white, dark_blue_green, red, real_white = sides.values()
    assert [fill for fill, _ in sides] == [
        "rgb(64,64,64)",
        "rgb(191,191,191)",
        "rgb(64,191,191)",
        "rgb(191,64,64)",
        "rgb(191,191,191)",
    ]
    assert (black / white) ** 2 == pytest.approx(10 / 40, abs=0.01)
    assert (real_white / white) ** 2 == pytest.approx(25 / 40, abs=0.01)
    assert (dark_blue_green / red) ** 2 == pytest.approx(20 / 5, abs=0.1)
    assert len(found(chart, "rect", "m")) == 2  # cells 3 and 4: real images have them, generated ones do not


def test_no_images_have_no_shares() -> None:
    assert shares_of([0, 0]) == [0, 0] and shares_of([1, 3]) == [0.25, 0.75]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0, 300, [0, 100, 200, 300]),
        (-1, 3, [-1, 0, 1, 2, 3]),
        (5, 5, [4.5, 4.75, 5, 5.25, 5.5]),
        (0, 0, [0, 0.25, 0.5, 0.75, 1]),
        (0, 1e-14, [0, 2.5e-15, 5e-15, 7.5e-15, 1e-14]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_hold_everything_between_them(low: float, width: float) -> None:
    marks = ticks(low, low + width)
    steps = [b - a for a, b in zip(marks, marks[1:], strict=False)]
    slack = 1e-6 * max(steps)
    assert marks[0] <= low + slack and marks[-1] >= low + width - slack
    assert 2 <= len(marks) <= 7 and all(math.isclose(step, steps[0], rel_tol=1e-3) for step in steps)


@pytest.mark.parametrize("low", [0.0, 0.002087, -5.0, 1e17, -1e99])
@pytest.mark.parametrize("width", [0.0, 5e-324, 1e-300, 1e-18, 1e-14, 1e99])
def test_ticks_of_any_size_differ(low: float, width: float) -> None:
    marks = ticks(low, low + width)
    assert 2 <= len(marks) <= 7 and sorted(set(marks)) == marks


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (0.25, "0.25"), (9999, "9999"), (12000, "12k"), (1.5e6, "1.5M"), (-20000, "-20k"), (3.1e-5, "3.1e-05")],
)
def test_numbers_are_short(value: float, expected: str) -> None:
    assert number(value) == expected

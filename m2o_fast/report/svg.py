"""Charts as inline SVG, without a library and without scripts.

Text and axes take the colours of the page around them, and data those of its classes ``s0`` ... ``s5`` (style.html), so
that a chart follows the light and the dark theme. Neighbouring series differ in dash pattern as well as in colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

COLORS = 6
_DASHES = ("", "6 3", "2 2", "8 3 2 3")
_WIDTH, _PLOT_HEIGHT = 360, 170
_LEFT, _RIGHT, _BOTTOM = 48, 12, 36
_TITLE_HEIGHT, _LEGEND_ROW, _LETTER = 20, 16, 6.2  # a letter of 11 px text is about so wide
#: a value so many times the 95th percentile is cut off, or one spike would flatten the whole curve
_SPIKE = 8.0
_TINY, _LARGEST = 1e-100, 1e100
_SAME = 1e-9  # numbers that differ by less, relative to the larger, count as equal


@dataclass(frozen=True)
class Series:
    """One line, or one cloud of dots.

    Attributes:
        label: For the legend; series of one label share an entry.
        points: (x, y), see :func:`drawable`.
        style: Number of its colour and dash pattern.
    """

    label: str
    points: Sequence[tuple[float, float]]
    style: int = 0

    @property
    def color(self) -> str:
        """The class of the page's style sheet."""
        return f"s{self.style % COLORS}"

    @property
    def dash(self) -> str:
        """The SVG dash pattern."""
        return _DASHES[self.style % len(_DASHES)]


def line_chart(
    title: str, series: Sequence[Series], x_label: str = "step", *, dots: bool = False, legend: bool = False
) -> Markup:
    """Lines over a common axis that begins at 0.

    Args:
        title: What the y axis shows.
        series: At least one point in all.
        x_label: What the x axis shows.
        dots: Dots instead of lines, and axes that need not begin at 0.
        legend: A legend even for a single series.

    Returns:
        An ``<svg>`` element.
    """
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    limit = max(ys) if dots else _upper_limit(ys)
    low_x, low_y = (min(xs), min(ys)) if dots else (min(0.0, *xs), min(0.0, *ys))
    x_ticks, y_ticks = ticks(low_x, max(xs)), ticks(low_y, limit)
    entries, top = _legend(series, dots=dots, single=legend)
    frame = _Frame(x_ticks, y_ticks, top)
    parts = [*frame.axes(x_label), *entries]
    for line in series:
        places = [(frame.x(x), frame.y(min(y, limit))) for x, y in line.points]
        parts += [_dot(place, line) for place in places] if dots or len(places) == 1 else [_polyline(places, line)]
    if limit < max(ys):
        note = f"cut off: up to {number(max(ys))}"
        parts.append(_text(_WIDTH - _RIGHT, top + 10, note, anchor="end", quiet=True))
    names = ", ".join(dict.fromkeys(line.label for line in series))
    summary = f"{title} by {x_label}: {names}. From {number(min(ys))} to {number(max(ys))}."
    return _svg(title, summary, parts, _WIDTH, top + _PLOT_HEIGHT + _BOTTOM)


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: What it is of.
        value: In [0, 1].
        color: What the label has in pictures, 8 bits per channel; ``None``: nothing.
    """

    label: str
    value: float
    color: tuple[int, int, int] | None = None


def bar_chart(title: str, bars: Sequence[Bar]) -> Markup:
    """Horizontal bars with their values, one below the other, each in the colour that it has in pictures.

    Args:
        title: What they show.
        bars: At least one.

    Returns:
        An ``<svg>`` element.
    """
    left, right, height, swatch = 126, 42, 17, 10
    parts = []
    for i, bar in enumerate(bars):
        y = _TITLE_HEIGHT + i * height
        width = (_WIDTH - left - right) * min(max(bar.value, 0.0), 1.0)
        parts.append(_text(left - swatch - 8, y + 12, shortened(bar.label, 17), anchor="end"))
        if bar.color is not None:
            parts.append(_colored(bar.color, left - swatch - 4, y + 3, swatch))
        parts.append(_rectangle(left, y + 2, _WIDTH - left - right, height - 4, "track"))
        parts.append(_rectangle(left, y + 2, width, height - 4, "s0"))
        parts.append(_text(left + width + 4, y + 12, f"{bar.value:.3f}"))
    summary = f"{title}: " + ", ".join(f"{bar.label} {bar.value:.3f}" for bar in bars)
    return _svg(title, summary, parts, _WIDTH, _TITLE_HEIGHT + len(bars) * height + 4)


def heat_map(
    title: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]]
) -> Markup:
    """A matrix whose cells are the darker the higher their values, which stand in them.

    Args:
        title: What it shows.
        rows: Labels of the rows.
        columns: Labels of the columns.
        values: ``values[row][column]``; ``None``: nothing there.

    Returns:
        An ``<svg>`` element.
    """
    present = [value for row in values for value in row if value is not None]
    low, high = min(present), max(present)
    left, top, height = 86, _TITLE_HEIGHT + 20, 30
    width = (_WIDTH - left - 4) / len(columns)
    letters = max(3, int(width / _LETTER))
    parts = [
        _text(left + (j + 0.5) * width, top - 6, shortened(name, letters), "middle") for j, name in enumerate(columns)
    ]
    for i, row in enumerate(values):
        parts.append(_text(left - 6, top + (i + 0.5) * height + 4, shortened(rows[i], 13), "end"))
        for j, value in enumerate(row):
            if value is None:
                continue
            strength = 0.12 + 0.5 * ((value - low) / (high - low) if high > low else 0.0)
            x, y = left + j * width, top + i * height
            parts.append(_rectangle(x + 1, y + 1, width - 2, height - 2, "s0", opacity=strength))
            parts.append(_text(x + width / 2, y + height / 2 + 4, number(value), "middle"))
    listed = [
        f"{rows[i]} to {columns[j]} {number(value)}"
        for i, row in enumerate(values)
        for j, value in enumerate(row)
        if value is not None
    ]
    return _svg(title, f"{title}: {', '.join(listed)}", parts, _WIDTH, top + len(rows) * height + 4)


def color_cells(generated: Sequence[int], real: Sequence[int], bins: int) -> Markup:
    """Two colour histograms, one above the other: every cell a square in its own colour, its area the cell's share.

    Cells that real images have and generated ones never hit are outlined.

    Args:
        generated: ``bins^3`` counts, cell ``(r * bins + g) * bins + b``.
        real: The same of real images.
        bins: Bins per channel.

    Returns:
        An ``<svg>`` element.
    """
    shares = {"generated": shares_of(generated), "real": shares_of(real)}
    largest = max(*shares["generated"], *shares["real"], 1e-12)
    gap = 8.0
    side = (_WIDTH - 2 - gap * (bins - 1)) / (bins * bins)
    panel = bins * side + 38
    parts: list[Markup] = []
    for index, (name, share) in enumerate(shares.items()):
        top = _TITLE_HEIGHT + 2 + index * panel
        parts.append(_text(1, top + 10, f"{name} images"))
        for cell, value in enumerate(share):
            r, g, b = cell // bins**2, cell // bins % bins, cell % bins
            x, y = 1 + r * (bins * side + gap) + b * side, top + 18 + g * side
            place = f"red {_range(r, bins)}, green {_range(g, bins)}, blue {_range(b, bins)}"
            words = f"{place}: {shares['generated'][cell]:.2%} of generated, {shares['real'][cell]:.2%} of real images"
            missed = name == "generated" and value == 0 and shares["real"][cell] > 0
            parts.append(_cell(x, y, side, math.sqrt(value / largest), (r, g, b), bins, words, missed))
    missed_cells = sum(a == 0 < b for a, b in zip(generated, real, strict=True))
    height = _TITLE_HEIGHT + 2 + 2 * panel - 18
    summary = (
        f"Shares of the {bins**3} cells of colour among generated and real images; {missed_cells} cells that real "
        "images have are never generated."
    )
    return _svg("Foreground colours", summary, parts, _WIDTH, height)


def shares_of(counts: Sequence[int]) -> list[float]:
    """Counts as shares of their sum; all 0 if that is 0."""
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


# --- numbers and texts ---


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most ``most`` + 1 round numbers at equal distances; the first is <= ``low``, the last >= ``high``."""
    scale = max(abs(low), abs(high))
    if high - low <= max(_SAME * scale, _TINY):  # no ticks between them that floating point could tell apart
        room = max(0.5, 2 * _SAME * scale)
        low, high = (low - room, low + room) if low else (0.0, 1.0)
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = 2 - math.floor(math.log10(step))
    return [round(i * step, digits) for i in range(first, last + 1)]


def drawable(value: float) -> bool:
    """Whether a number has a place in a chart: finite, and with room above it for sums and differences."""
    return abs(value) < _LARGEST


def number(value: float) -> str:
    """A number in few letters: ``0``, ``0.25``, ``12k``, ``3.1e-05``."""
    if abs(value) >= 1e4:
        for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= limit:
                return f"{value / limit:.4g}{letter}"
    return f"{value:.4g}"


def shortened(text: str, letters: int) -> str:
    """``text`` with an ellipsis where it is longer than so many letters."""
    return text if len(text) <= letters else f"{text[: letters - 1]}\N{HORIZONTAL ELLIPSIS}"


def _upper_limit(values: Sequence[float]) -> float:
    """The largest value, or less where a few spikes would flatten the rest."""
    ordered = sorted(values)
    usual = ordered[int(0.95 * (len(ordered) - 1))]
    return usual * _SPIKE if len(values) >= 20 and 0 < usual * _SPIKE < ordered[-1] else ordered[-1]


def _range(index: int, bins: int) -> str:
    return f"{index / bins:.2g} to {(index + 1) / bins:.2g}"


# --- elements ---


class _Frame:
    """The plot area of a chart: from values to places, and its axes."""

    def __init__(self, x_ticks: Sequence[float], y_ticks: Sequence[float], top: float) -> None:
        self._x, self._y, self._top = x_ticks, y_ticks, top

    def x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - self._x[0]) / (self._x[-1] - self._x[0])

    def y(self, value: float) -> float:
        return self._top + _PLOT_HEIGHT * (1 - (value - self._y[0]) / (self._y[-1] - self._y[0]))

    def axes(self, x_label: str) -> list[Markup]:
        bottom = self._top + _PLOT_HEIGHT
        parts = [_rule(_LEFT, self.y(tick), _WIDTH - _RIGHT, self.y(tick)) for tick in self._y]
        parts += [_text(_LEFT - 5, self.y(tick) + 4, number(tick), "end") for tick in self._y]
        parts += [_rule(self.x(tick), bottom, self.x(tick), bottom + 4) for tick in self._x]
        parts += [_text(self.x(tick), bottom + 15, number(tick), "middle") for tick in self._x]
        parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 30, x_label, "middle", quiet=True))
        return parts


def _legend(series: Sequence[Series], *, dots: bool, single: bool) -> tuple[list[Markup], float]:
    """The entries, and where the plot area begins below them; a single series may need none."""
    entries = list({line.label: line for line in series}.values())
    if len(entries) < 2 and not single:
        return [], _TITLE_HEIGHT + 6
    parts, x, y = [], float(_LEFT), _TITLE_HEIGHT + 10.0
    for line in entries:
        label = shortened(line.label, 44)
        width = 26 + len(label) * _LETTER + 12
        if x > _LEFT and x + width > _WIDTH:
            x, y = float(_LEFT), y + _LEGEND_ROW
        sign = _dot((x + 11, y - 4), line) if dots else _polyline([(x, y - 4), (x + 22, y - 4)], line)
        parts += [sign, _text(x + 26, y, label)]
        x += width
    return parts, y + 12


def _svg(title: str, summary: str, parts: Sequence[Markup], width: float, height: float) -> Markup:
    head = Markup('<svg role="img" aria-label="{}" viewBox="0 0 {:g} {:g}" xmlns="http://www.w3.org/2000/svg">')
    heading = Markup('<text class="t" x="1" y="13">{}</text>').format(shortened(title, 52))
    return head.format(summary, width, round(height, 1)) + heading + Markup("").join(parts) + Markup("</svg>")


def _text(x: float, y: float, words: str, anchor: str = "start", *, quiet: bool = False) -> Markup:
    mark = Markup('<text x="{:g}" y="{:g}" text-anchor="{}"{}>{}</text>')
    return mark.format(round(x, 1), round(y, 1), anchor, Markup(' class="q"') if quiet else "", words)


def _rule(x1: float, y1: float, x2: float, y2: float) -> Markup:
    places = (round(place, 1) for place in (x1, y1, x2, y2))
    return Markup('<line class="g" x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}"/>').format(*places)


def _polyline(places: Sequence[tuple[float, float]], series: Series) -> Markup:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dash = Markup(' stroke-dasharray="{}"').format(series.dash) if series.dash else ""
    return Markup('<polyline class="l {}"{} points="{}"/>').format(series.color, dash, points)


def _dot(place: tuple[float, float], series: Series) -> Markup:
    """A round, square, triangular or diamond dot: told apart without colours."""
    x, y = place
    shapes = (
        f"M{x - 4:.1f} {y:.1f}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
        f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8z",
        f"M{x:.1f} {y - 5:.1f}l5 9h-10z",
        f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z",
    )
    return Markup('<path class="d {}" d="{}"/>').format(series.color, shapes[series.style % len(shapes)])


def _rectangle(x: float, y: float, width: float, height: float, kind: str, opacity: float = 1.0) -> Markup:
    places = (round(place, 2) for place in (x, y, width, height))
    faded = Markup(' fill-opacity="{:.2f}"').format(opacity) if opacity < 1 else ""
    return Markup('<rect class="b {}"{} x="{:g}" y="{:g}" width="{:g}" height="{:g}"/>').format(kind, faded, *places)


def _cell(
    x: float, y: float, side: float, filled: float, color: tuple[int, int, int], bins: int, words: str, missed: bool
) -> Markup:
    """One cell of :func:`color_cells`; ``filled``: the side of its square, as a share of the cell's."""
    inner = (side - 2) * filled
    red, green, blue = (round((value + 0.5) / bins * 255) for value in color)
    corner = side / 2 - inner / 2
    drawn = _colored((red, green, blue), x + corner, y + corner, inner) if filled else Markup("")
    outline = Markup('<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>')
    drawn += outline.format("m" if missed else "o", x + 1, y + 1, side - 2, side - 2)
    return Markup("<g><title>{}</title>{}</g>").format(words, drawn)


def _colored(color: tuple[int, int, int], x: float, y: float, side: float) -> Markup:
    """A square in a colour of its own."""
    square = Markup('<rect class="c" fill="rgb({},{},{})" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>')
    return square.format(*color, x, y, side, side)

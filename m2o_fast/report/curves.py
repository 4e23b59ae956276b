"""Curves of a run and of several runs over each other, from the lines of their logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from m2o_fast.engine.runlog import VALIDATION
from m2o_fast.report.evaluation import Row, direction_title, is_finite
from m2o_fast.report.measures import measure
from m2o_fast.report.record import Line, Record
from m2o_fast.report.svg import Series, heat_map, line_chart

POINTS = 160  # per line; more are averaged in groups, since nobody sees them and the page grows
_SPEEDS = {"images_per_second": "images per second", "data_wait_share": "share of the time spent waiting for data"}


def loss_charts(record: Record) -> list[Markup]:
    """A chart for every part of the losses of a net, with a line for every phase that has it."""
    parts: dict[tuple[str, str], list[str]] = {}
    for name in _names(record.metrics):
        phase, slash, part = name.partition("/")
        if slash and phase != VALIDATION:
            parts.setdefault((phase.partition("_")[0], part), []).append(name)
    return [
        line_chart(
            f"{net}: {part.replace('_', ' ')}",
            [Series(_phase(name), points_of(record.metrics, name), style) for style, name in enumerate(names)],
        )
        for (net, part), names in parts.items()
    ]


def _phase(name: str) -> str:
    """``"latent"`` for ``"generator_latent/cycle"``: what tells the phases of one net apart."""
    net, _, phase = name.partition("/")[0].partition("_")
    return phase.replace("_", " ") or net


def sample_charts(record: Record) -> list[Markup]:
    """A chart for everything that was measured on the sample grids, with a line for every direction."""
    kinds: dict[str, list[str]] = {}
    for name in _names(record.samples):
        kinds.setdefault(name.rpartition("/")[2], []).append(name)
    return [
        line_chart(
            kind.replace("_", " "),
            [
                Series(direction_title(name.rpartition("/")[0]), points_of(record.samples, name), style)
                for style, name in enumerate(names)
            ],
        )
        for kind, names in kinds.items()
    ]


def validation_charts(record: Record) -> list[Markup]:
    """A chart for every measure of the validations, with a line for every direction and kind of guidance."""
    kinds: dict[str, list[str]] = {}
    for name in _names(record.metrics):
        if name.startswith(f"{VALIDATION}/"):
            kinds.setdefault(name.rpartition("/")[2], []).append(name)
    return [
        line_chart(
            f"validation: {measure(kind).label}",
            [Series(_guided(name), points_of(record.metrics, name), style) for style, name in enumerate(names)],
        )
        for kind, names in kinds.items()
    ]


def _guided(name: str) -> str:
    """``"gray -> color, latent"`` of the name of a validated measure."""
    _, direction, guidance, _ = name.split("/", 3) if name.count("/") == 3 else ("", name, "none", "")
    return direction_title(direction) + ("" if guidance == "none" else f", {guidance}")


def speed_charts(record: Record) -> list[Markup]:
    """Charts of the speed."""
    return [
        line_chart(title, [Series(title, points_of(record.timings, name))])
        for name, title in _SPEEDS.items()
        if any(name in line for line in record.timings)
    ]


def overlaid_charts(records: Sequence[tuple[Record, str, int]]) -> list[Markup]:
    """A chart for everything that is logged, with a line for every run.

    Args:
        records: Runs with their labels and styles; those of one label belong together.
    """
    charts = []
    for attribute in ("metrics", "samples"):
        names = dict.fromkeys(name for record, *_ in records for name in _names(getattr(record, attribute)))
        for name in names:
            lines = [
                Series(label, points, style)
                for record, label, style in records
                if (points := points_of(getattr(record, attribute), name))
            ]
            title = direction_title(name.replace("_", " ").replace("/", ": "))
            charts.append(line_chart(title, lines, legend=True))
    return charts


def trade_off_chart(
    rows: Iterable[tuple[Mapping[str, Row], str, int]], x: tuple[str, str], y: tuple[str, str]
) -> Markup:
    """Every run as a dot: how right it is where there is one answer, against how varied where there are many.

    Args:
        rows: Evaluations by the titles of their rows, with labels and styles.
        x: Title of a row, and the measure that is the x axis.
        y: The same of the y axis.
    """
    dots = []
    for found, label, style in rows:
        values = [found[title].measures.get(name) if title in found else None for title, name in (x, y)]
        if all(is_finite(value) for value in values):
            dots.append(Series(label, [(float(values[0] or 0), float(values[1] or 0))], style))
    if not dots:
        return Markup("")
    x_label, y_label = (f"{measure(name).label}, {title}" for title, name in (x, y))
    return line_chart(y_label, dots, x_label, dots=True, legend=True)


def direction_maps(rows: Iterable[Row]) -> list[Markup]:
    """For three domains or more: every measure as a map, source by target."""
    tables: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    domains: dict[str, None] = {}
    for row in rows:
        source, _, target = row.direction.partition("->")
        domains |= {source: None, target: None}
        for name, value in row.measures.items():
            if is_finite(value):
                tables.setdefault((name, row.guidance), {})[source, target] = float(value)
    names = list(domains)
    if len(names) < 3:
        return []
    return [
        heat_map(
            measure(name).label + ("" if guidance == "none" else f", {guidance}"),
            names,
            names,
            [[values.get((source, target)) for target in names] for source in names],
        )
        for (name, guidance), values in tables.items()
        if len(values) > 1
    ]


def points_of(lines: Sequence[Line], name: str) -> list[tuple[float, float]]:
    """The values of a name over the steps, averaged in groups where there are more than :data:`POINTS`."""
    points = [(line["step"], line[name]) for line in lines if name in line]
    size = -(-len(points) // POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)] if points else []
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def group_size(record: Record) -> int:
    """How many lines of the training's log one point is the mean of; those of validations do not count."""
    return -(-sum("skipped" in line for line in record.metrics) // POINTS)


def _names(lines: Sequence[Line]) -> list[str]:
    """What is logged, in order of appearance."""
    return [name for name in dict.fromkeys(key for line in lines for key in line) if name not in ("step", "skipped")]

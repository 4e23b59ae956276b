"""The page of several runs: grouped by what was trained, with the spread over the seeds, and side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from m2o_fast.engine.config import flatten
from m2o_fast.engine.start import FREE_KEYS
from m2o_fast.report.curves import overlaid_charts, trade_off_chart
from m2o_fast.report.evaluation import Evaluation, Row, direction_title, is_finite
from m2o_fast.report.measures import HEADLINE, measure
from m2o_fast.report.page import Pictures, Sources, leading, measure_tables, newest_sample, open_painter, render
from m2o_fast.report.pictures import Figure, Strip
from m2o_fast.report.record import Record

#: settings that tell runs of one group apart: the seed, and what changes no number
_WITHIN_GROUP = (FREE_KEYS - {"steps"}) | {"seed", "data.cache"}
#: what a protocol says about the run's seed rather than about how it was measured
_SEEDED = ("data_seed", "data_fingerprint")
_COLUMNS = 8
_REFERENCE = "reference"
_STYLES_SHOWN = ("latent 1", "latent 2", _REFERENCE, "guided by it", "output")


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed.

    Attributes:
        label: For tables and legends.
        records: The runs.
    """

    label: str
    records: list[Record]


def compare_page(records: Sequence[Record], sources: Sources) -> str:
    """The HTML page of several runs."""
    groups = grouped(records)
    labelled = labels(groups, records)
    rows = {record.name: list(record.evaluation.rows()) for record in records if record.evaluation}
    evaluated = [record for record in records if record.name in rows]
    said = [(record.name, problem) for record in records for problem in record.problems]
    said += [(record.name, line) for record in records if record.evaluation for line in record.evaluation.warnings]
    pictures, failures = side_by_side(records, sources)
    return render(
        "compare.html",
        title=f"{len(records)} runs side by side",
        records=records,
        groups=groups,
        settings=differing_settings(records),
        unevaluated=[record for record in records if record.name not in rows],
        summary=summary(groups, rows),
        chart=_trade_off([(record, *labelled[record.name]) for record in evaluated]),
        spreads=spread_tables(groups, rows),
        tables=measure_tables([(record.name, rows[record.name]) for record in evaluated]),
        pictures=pictures,
        curves=overlaid_charts([(record, *labelled[record.name]) for record in records]),
        problems=[*differing_protocols(evaluated), *gathered([*said, *failures])],
    )


# --- groups ---


def grouped(records: Sequence[Record]) -> list[Group]:
    """Runs by everything but their seed; groups of one variant are told apart by the settings that differ."""
    found: dict[object, list[Record]] = {}
    for record in records:
        found.setdefault(_recipe(record) or record.name, []).append(record)
    members = list(found.values())
    titles = [_variant(group[0]) for group in members]
    labelled = []
    for title, group in zip(titles, members, strict=True):
        alike = [other[0] for name, other in zip(titles, members, strict=True) if name == title]
        extra = _distinguishing(group[0], alike)
        labelled.append(Group(f"{title} ({extra})" if extra else title, group))
    return labelled


def _variant(record: Record) -> str:
    return record.config.title if record.config else record.name


def _recipe(record: Record) -> tuple[str, ...]:
    """What two runs of one group have in common."""
    if record.config is None:
        return ()
    return tuple(f"{key}={value}" for key, value in flatten(record.config).items() if key not in _WITHIN_GROUP)


def _distinguishing(record: Record, others: Sequence[Record]) -> str:
    """The settings of ``record`` in which runs of the same variant differ, at most three of them."""
    if record.config is None or len(others) < 2:
        return ""
    settings = [flatten(other.config) for other in others if other.config is not None]
    own = flatten(record.config)
    keys = [key for key in own if key not in _WITHIN_GROUP and any(own[key] != other[key] for other in settings)]
    more = ", ..." if len(keys) > 3 else ""
    return ", ".join(f"{key} {own[key]}" for key in keys[:3]) + more


def labels(groups: Sequence[Group], records: Sequence[Record]) -> dict[str, tuple[str, int]]:
    """Legend entry and style by run: those of its group, or its own where there is one group only."""
    if len(groups) == 1:
        return {record.name: (record.name, style) for style, record in enumerate(records)}
    return {record.name: (group.label, style) for style, group in enumerate(groups) for record in group.records}


# --- tables ---


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a measure over the runs of a group; ``None``: it was not measured."""

    mean: float | None
    deviation: float | None = None
    runs: int = 0


@dataclass(frozen=True)
class SpreadTable:
    """Measures in rows, groups in columns."""

    title: str
    rows: list[tuple[str, list[Spread]]]


def spread_tables(groups: Sequence[Group], rows: dict[str, list[Row]]) -> list[SpreadTable]:
    """All measures of every direction, by group."""
    tables = []
    for title in dict.fromkeys(row.title for found in rows.values() for row in found):
        measures = [_measures_of(group, rows, title) for group in groups]
        names = dict.fromkeys(name for group in measures for run in group for name in run if is_finite(run[name]))
        tables.append(SpreadTable(title, [(name, [_spread(group, name) for group in measures]) for name in names]))
    return [table for table in tables if table.rows]


@dataclass(frozen=True)
class Summary:
    """The measures that count most: groups in rows."""

    columns: list[tuple[str, str]]
    rows: list[tuple[Group, list[Spread]]]
    best: list[float | None]


def summary(groups: Sequence[Group], rows: dict[str, list[Row]]) -> Summary:
    """The trade-off by group."""
    columns = _headlines([row for found in rows.values() for row in leading(found)])[:_COLUMNS]
    table = [(group, [_spread(_measures_of(group, rows, title), name) for title, name in columns]) for group in groups]
    best = [_best([spreads[i].mean for _, spreads in table], name) for i, (_, name) in enumerate(columns)]
    return Summary(columns, table, best)


def _headlines(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What any of the rows has to say of its direction, in the order of importance."""
    found: list[tuple[str, str]] = []
    for title in dict.fromkeys(row.title for row in rows):
        alike = [row for row in rows if row.title == title]
        for name in dict.fromkeys(name for row in alike for name in HEADLINE[row.one_answer]):
            if measure(name).better and any(is_finite(row.measures.get(name)) for row in alike):
                found.append((title, name))
    return found


def _best(means: Sequence[float | None], name: str) -> float | None:
    """The best of the means, where there is more than one."""
    present = [mean for mean in means if mean is not None]
    if len(present) < 2 or len(set(present)) < 2:
        return None
    return min(present) if measure(name).better == "lower" else max(present)


def _measures_of(group: Group, rows: dict[str, list[Row]], title: str) -> list[dict[str, Any]]:
    found = [row.measures for record in group.records for row in rows.get(record.name, []) if row.title == title]
    return [dict(measures) for measures in found]


def _spread(runs: Sequence[dict[str, Any]], name: str) -> Spread:
    values = [float(run[name]) for run in runs if is_finite(run.get(name))]
    if not values:
        return Spread(None)
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def differing_settings(records: Sequence[Record]) -> list[tuple[str, list[object]]]:
    """The settings in which the runs differ, with the value of each; ``None`` where a run has no such setting."""
    flat = [flatten(record.config) if record.config else {} for record in records]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    return [
        (key, [settings.get(key) for settings in flat])
        for key in keys
        if len({repr(settings.get(key)) for settings in flat if settings}) > 1
    ]


def differing_protocols(records: Sequence[Record]) -> list[str]:
    """Warnings where numbers were not measured in the same way, or not after the same number of steps."""
    evaluations = [record.evaluation for record in records if record.evaluation is not None]
    warnings = []
    steps = sorted({evaluation.step for evaluation in evaluations})
    if len(steps) > 1:
        warnings.append(f"the runs were evaluated after different numbers of steps: {', '.join(map(str, steps))}")
    if _other_images(evaluations):
        warnings.append("the runs were evaluated on different images: data_fingerprint differs")
    for key in dict.fromkeys(key for evaluation in evaluations for key in evaluation.protocol):
        values = dict.fromkeys(str(evaluation.protocol.get(key, "not given")) for evaluation in evaluations)
        if len(values) > 1 and key not in _SEEDED:
            warnings.append(f"the protocols differ, so numbers may not compare: {key} is {' or '.join(values)}")
    return warnings


def _other_images(evaluations: Sequence[Evaluation]) -> bool:
    """Whether evaluations of one seed saw different images; the seed may colour the images."""
    seen: dict[str, set[str]] = {}
    for protocol in (evaluation.protocol for evaluation in evaluations):
        seen.setdefault(str(protocol.get("data_seed")), set()).add(str(protocol.get("data_fingerprint")))
    return any(len(fingerprints) > 1 for fingerprints in seen.values())


def gathered(said: Sequence[tuple[str, str]]) -> list[str]:
    """What is said of several runs once, with the names of all of them."""
    names: dict[str, list[str]] = {}
    for name, words in said:
        names.setdefault(words, []).append(name)
    return [f"{', '.join(found)}: {words}" for words, found in names.items()]


def _trade_off(records: Sequence[tuple[Record, str, int]]) -> Markup:
    """The first measure of a direction with one answer against the first of a direction with many."""
    evaluations = [record.evaluation for record, *_ in records if record.evaluation is not None]
    axes: dict[bool, tuple[str, str]] = {}
    for row in (row for evaluation in evaluations for row in evaluation.rows()):
        names = [
            name for name in HEADLINE[row.one_answer] if is_finite(row.measures.get(name)) and measure(name).better
        ]
        if names:
            axes.setdefault(row.one_answer, (row.title, names[0]))
    if len(axes) < 2 or len(evaluations) < 2:
        return Markup("")
    found = [
        ({row.title: row for row in record.evaluation.rows()}, label, style)
        for record, label, style in records
        if record.evaluation
    ]
    return trade_off_chart(found, axes[True], axes[False])


# --- pictures ---


def side_by_side(records: Sequence[Record], sources: Sources) -> tuple[list[Figure], list[tuple[str, str]]]:
    """For every direction the same contents from every run, below each other; and (run, why something is missing)."""
    by_source: dict[str, dict[str, list[Strip]]] = {}  # direction -> source strip -> strips of the runs that have it
    samples = []
    problems: list[tuple[str, str]] = []
    for record in records:
        pictures = Pictures()
        painter = open_painter(record, sources, pictures)
        if painter is not None:
            try:
                for pair in painter.directions():
                    rows = painter.rows(pair)
                    source = rows.pop("source")
                    strips = by_source.setdefault(painter.name(pair), {}).setdefault(source.uri, [source])
                    strips += _shown(record.name, rows, strips)
            except (ValueError, RuntimeError) as error:  # out of memory, for example
                pictures.problems.append(f"not all pictures were made: {' '.join(str(error).split())}")
        elif sample := newest_sample(record, pictures.problems):
            samples.append(Figure(f"Sample grid of {record.name}", "As drawn in training.", [sample]))
        problems += [(record.name, problem) for problem in pictures.problems]
    note = "The contents and styles of the runs' sample grids, below their sources; a column is one content."
    figures = [
        Figure(direction_title(name), note, [strip for strips in found.values() for strip in strips])
        for name, found in by_source.items()
    ]
    return [*figures, *samples], problems


def _shown(name: str, rows: dict[str, Strip], before: Sequence[Strip]) -> list[Strip]:
    """What a run shows below a source. The references of the run before are not shown again."""
    last = next((strip.uri for strip in reversed(before) if strip.label == _REFERENCE), None)
    shown = []
    for label in _STYLES_SHOWN:
        if label == _REFERENCE and label in rows and rows[label].uri != last:
            shown.append(rows[label])
        elif label != _REFERENCE and label in rows:
            strip = rows[label]
            shown.append(replace(strip, label=f"{name}: {strip.label}", alt=f"{name}: {strip.alt}"))
    return shown

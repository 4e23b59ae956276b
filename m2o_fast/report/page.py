"""The page of one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from m2o_fast.engine.best import best_checkpoint
from m2o_fast.engine.build import is_own_data, open_split
from m2o_fast.engine.checkpoint import checkpoint_folder, load_translator, read_manifest
from m2o_fast.engine.runs import find_checkpoint
from m2o_fast.engine.samples import DIRECTIONS
from m2o_fast.engine.step import group_sizes
from m2o_fast.errors import UserError
from m2o_fast.labels import MOST_CLASSES, palette
from m2o_fast.report.answers import answers
from m2o_fast.report.curves import (
    direction_maps,
    group_size,
    loss_charts,
    sample_charts,
    speed_charts,
    validation_charts,
)
from m2o_fast.report.evaluation import Evaluation, Row, direction_title, is_finite
from m2o_fast.report.measures import HEADLINE, duration, measure, show, show_spread
from m2o_fast.report.pictures import Figure, Painter, Strip, sample_picture
from m2o_fast.report.record import Record, config_yaml, repeat_command
from m2o_fast.report.svg import Bar, bar_chart, color_cells
from m2o_fast.version import __version__

_BARS = 50  # classes in one chart
_CLASSES = 1000  # that are drawn or named
_MEANS = {"none": "without styles", "latent": "random styles", "reference": "by reference"}


@dataclass
class Pictures:
    """Everything that is drawn for one run; empty where it could not be.

    Attributes:
        step: Step of the checkpoint they are made with.
        parameters: Net -> number of parameters.
        averaged: Whether they are made with averaged weights.
        sample: The newest sample grid of the run, where the others could not be made.
        problems: Why something is missing.
    """

    step: int | None = None
    parameters: dict[str, int] = field(default_factory=dict)
    averaged: bool = False
    fixed: list[Figure] = field(default_factory=list)
    random: list[Figure] = field(default_factory=list)
    interpolated: list[Figure] = field(default_factory=list)
    worst: list[Figure] = field(default_factory=list)
    sample: Strip | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sources:
    """Where the pictures of a report come from.

    Attributes:
        device: Where to compute.
        data_dir: Folder of the data set, in place of the runs'.
        seed: Seed of the random styles.
    """

    device: torch.device
    data_dir: str | Sequence[str] | None
    seed: int


def render(template: str, **values: Any) -> str:
    """A page from one of the templates beside this file."""
    return _environment().get_template(template).render(version=__version__, **values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"show": show, "duration": duration}
    environment.globals |= {"measure": measure, "show_spread": show_spread}
    return environment


def open_painter(record: Record, sources: Sources, pictures: Pictures) -> Painter | None:
    """What draws the pictures of a run; ``None``, and a reason in ``pictures.problems``, where that is not possible."""
    if record.config is None or not record.has_checkpoint:
        why = "there is no checkpoint" if record.config else "the settings cannot be read"
        pictures.problems.append(f"no pictures were made: {why}")
        return None
    try:
        folder, manifest = _checkpoint(record, pictures.problems)
        translator = load_translator(folder, manifest).to(sources.device)
        pictures.step, pictures.parameters = manifest["step"], dict(group_sizes(translator))
        pictures.averaged = bool(translator.averaged_groups())
        if record.evaluation is not None and record.evaluation.step != pictures.step:
            pictures.problems.append(
                f"the pictures are of step {pictures.step:,}: the checkpoint that was evaluated is not there any more"
            )
        is_own_data(record.folder, manifest, record.config, sources.data_dir)
        data = record.config.data.model_copy(update={"pair_fraction": 1.0})  # pairs to show, not to learn from
        dataset = open_split(record.config.model_copy(update={"data": data}), "test", sources.data_dir)
        return Painter(translator, dataset, record.config.seed, sources.seed)
    except (UserError, OSError, ValueError, RuntimeError) as error:  # the numbers are worth a page without pictures
        pictures.problems.append(f"no pictures were made: {' '.join(str(error).split())}")
        return None


def _checkpoint(record: Record, problems: list[str]) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that the evaluation is of, if it is still there, else the newest good one."""
    if record.evaluation is not None:
        folder = checkpoint_folder(record.folder, record.evaluation.step)
        try:
            if folder.is_dir():
                return folder, read_manifest(folder)
            best = best_checkpoint(record.folder)
            if best is not None and best[1]["step"] == record.evaluation.step:
                return best
        except UserError as error:
            problems.append(str(error))
    folder, manifest, damaged = find_checkpoint(record.folder)
    problems += [problem for problem in damaged if problem not in problems]
    return folder, manifest


def make_pictures(record: Record, sources: Sources) -> Pictures:
    """Draws everything for one run, as far as possible."""
    pictures = Pictures()
    painter = open_painter(record, sources, pictures)
    if painter is not None:
        try:
            pictures.fixed = painter.fixed()
            pictures.random = painter.random()
            pictures.interpolated = painter.interpolated()
            pictures.worst = painter.worst(record.evaluation) if record.evaluation else []
            if painter.count > DIRECTIONS:
                pictures.problems.append(f"the pictures show {DIRECTIONS} of {painter.count} directions")
        except (ValueError, RuntimeError) as error:  # out of memory, for example
            pictures.problems.append(f"not all pictures were made: {' '.join(str(error).split())}")
    if not pictures.fixed:
        pictures.sample = newest_sample(record, pictures.problems)
    return pictures


def newest_sample(record: Record, problems: list[str]) -> Strip | None:
    """The newest sample grid that training has drawn."""
    path = record.sample_picture
    if path is None:
        return None
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return sample_picture(image, f"Sample grid {path.name}: rows of translations, labelled in the picture")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        problems.append(f"{path} cannot be read: {error}")
        return None


def run_page(record: Record, sources: Sources) -> str:
    """The HTML page of one run."""
    pictures = make_pictures(record, sources)
    evaluation = record.evaluation
    rows = list(evaluation.rows()) if evaluation else []
    return render(
        "run.html",
        title=f"{record.name}: {record.title}",
        record=record,
        config=record.config,
        command=repeat_command(record.config) if record.config else "",
        pictures=pictures,
        evaluation=evaluation,
        answers=answers(evaluation, pictures.fixed),
        headline=headline(rows),
        tables=measure_tables([(record.name, [*rows, *mean_rows(evaluation)])]),
        histograms=histograms(evaluation) if evaluation else [],
        classes=class_charts(evaluation) if evaluation else [],
        maps=direction_maps(rows),
        losses=loss_charts(record),
        validations=validation_charts(record),
        averaged=group_size(record),
        samples=sample_charts(record),
        speeds=speed_charts(record),
        speed=speed(record),
        problems=[*record.problems, *pictures.problems],
        yaml=config_yaml(record),
    )


# --- parts of a page ---


@dataclass(frozen=True)
class Side:
    """One side of the trade-off: its heading and, by row, the measures that count most."""

    heading: str
    rows: list[Row]


def headline(rows: Sequence[Row]) -> list[Side]:
    """The trade-off: how right translations are where there is one answer, beside how varied where there are many."""
    sides = []
    for one_answer, heading in ((True, "One right answer"), (False, "Many right answers")):
        chosen = []
        for row in leading(rows):
            names = [name for name in HEADLINE[one_answer] if name in row.measures]
            if row.one_answer == one_answer and names:
                chosen.append(row._replace(measures={name: row.measures[name] for name in names}))
        if chosen:
            sides.append(Side(heading, chosen))
    return sides


def leading(rows: Sequence[Row]) -> list[Row]:
    """The rows for a headline: of a direction that was measured with both kinds of guidance, the latent one."""
    latent = {row.direction for row in rows if row.guidance == "latent"}
    return [row for row in rows if row.guidance != "reference" or row.direction not in latent]


@dataclass(frozen=True)
class Table:
    """The measures of one direction with one kind of guidance: a row for each, a column for each run."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[object]]]


def measure_tables(runs: Sequence[tuple[str, Sequence[Row]]]) -> list[Table]:
    """All measures of some runs, side by side."""
    tables = []
    for title in dict.fromkeys(row.title for _, rows in runs for row in rows if row.measures):
        found = [next((row.measures for row in rows if row.title == title), {}) for _, rows in runs]
        names = dict.fromkeys(name for measures in found for name in measures)
        values: list[tuple[str, list[object]]] = [(name, [measures.get(name) for measures in found]) for name in names]
        tables.append(Table(title, [name for name, _ in runs], values))
    return tables


def mean_rows(evaluation: Evaluation | None) -> list[Row]:
    """The means over the directions, where there is more than one direction with a kind of guidance."""
    if evaluation is None:
        return []
    counts = Counter(row.guidance for row in evaluation.rows())
    means = evaluation.means.items()
    return [
        Row(f"mean over directions, {_MEANS.get(guidance, guidance)}", "none", values)
        for guidance, values in means
        if counts[guidance] > 1
    ]


@dataclass(frozen=True)
class Histogram:
    """The colours of one direction."""

    title: str
    chart: Markup
    cells: int
    missed: int
    invented: int


def histograms(evaluation: Evaluation) -> list[Histogram]:
    """The colours of every direction that has them."""
    charts = []
    for direction, details in evaluation.details.items():
        found = details.color_histogram
        if found is not None:
            pairs = list(zip(found.generated, found.real, strict=True))
            charts.append(
                Histogram(
                    direction_title(direction),
                    color_cells(found.generated, found.real, found.bins),
                    cells=sum(real > 0 for _, real in pairs),
                    missed=sum(generated == 0 < real for generated, real in pairs),
                    invented=sum(real == 0 < generated for generated, real in pairs),
                )
            )
    return charts


@dataclass(frozen=True)
class Classes:
    """The intersection over union of every class of one direction."""

    title: str
    charts: list[Markup]
    never: str
    absent: str
    left_out: int


def class_charts(evaluation: Evaluation) -> list[Classes]:
    """Bars for the classes that are ever right, best first, in charts of at most :data:`_BARS`; the others by name.

    Beyond :data:`_CLASSES` of them, which no page could show, they are counted.
    """
    found = []
    for direction, details in evaluation.details.items():
        names = [*details.classes, *(f"class {k}" for k in range(len(details.classes), len(details.iou)))]
        colors = [(r, g, b) for r, g, b in palette(len(names)).tolist()] if 2 <= len(names) <= MOST_CLASSES else None
        scored = [
            Bar(name, score, colors[k] if colors else None)
            for k, (name, score) in enumerate(zip(names, details.iou, strict=False))
            if score is not None and is_finite(score)
        ]
        bars = sorted((bar for bar in scored if bar.value > 0), key=lambda bar: -bar.value)
        if scored:
            left_out, bars = len(bars[_CLASSES:]), bars[:_CLASSES]
            size = -(-len(bars) // max(1, -(-len(bars) // _BARS)))  # charts of nearly one length
            parts = [bars[i : i + size] for i in range(0, len(bars), size)] if bars else []
            charts = [
                bar_chart(f"IoU of classes {i * size + 1} to {i * size + len(part)}, best first", part)
                for i, part in enumerate(parts)
            ]
            known = zip(names[1:], details.iou[1:], strict=False)  # class 0, void, is never scored
            absent = [name for name, score in known if score is None]
            never = [bar.label for bar in scored if bar.value <= 0]
            found.append(Classes(direction_title(direction), charts, _some(never), _some(absent), left_out))
    return found


def _some(names: Sequence[str]) -> str:
    more = [f"and {len(names) - _CLASSES:,} more"] if len(names) > _CLASSES else []
    return ", ".join([*names[:_CLASSES], *more])


def speed(record: Record) -> dict[str, float]:
    """Time and speed of the whole run; every start of it counts its seconds anew."""
    timed = [line for line in record.timings if "seconds" in line]
    if not timed:
        return {}
    ends = [a["seconds"] for a, b in zip(timed, timed[1:], strict=False) if b["seconds"] < a["seconds"]]
    seconds = sum(ends) + timed[-1]["seconds"]
    facts = {"seconds": seconds}
    facts |= _mean(record.timings, "images_per_second") | _mean(record.timings, "data_wait_share")
    return facts


def _mean(lines: Iterable[dict[str, float]], name: str) -> dict[str, float]:
    values = [line[name] for line in lines if name in line]
    return {name: sum(values) / len(values)} if values else {}

"""Sections of docs/results.md and plots, from what benchmarks/studies.py has measured."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from factorial import CONFIDENCE, FACTORS, LETTERS, Effect, effects
from results_page import COLUMNS, RESULTS, ROOT, Column, cell, is_comparable, makers, measures, seeds_of, table

PLOTS = ROOT / "docs" / "studies"
ERROR, RECALL = "MSE, color to gray", "Color Recall"
MAIN = {title: COLUMNS[title] for title in (ERROR, RECALL)}

Record = dict[str, Any]
Rows = dict[str, list[dict[str, Any]]]


class Page(NamedTuple):
    """How a study is shown.

    Attributes:
        title: Its heading.
        words: What is compared.
        first: What its rows are.
        columns: Of its table; none: it has a line for each measure of each direction.
        more: Lines below the table.
        plot: Draws into a figure of matplotlib, where there is something to draw.
    """

    title: str
    words: str
    first: str
    columns: Mapping[str, Column]
    more: Callable[[Rows], list[str]]
    plot: Callable[[Any, Rows], None] | None


def sections() -> list[str]:
    """Those of all studies that are kept, in the order below."""
    records = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("study-*.json"))]
    order = list(PAGES)
    return [line for record in sorted(records, key=lambda one: order.index(one["study"])) for line in section(record)]


def section(record: Record) -> list[str]:
    """Heading, table and what it shows."""
    page, runs, rows = PAGES[record["study"]], record["runs"], rows_of(record)
    seeds = seeds_of(runs)
    line = f"python benchmarks/studies.py {record['study']} --steps {record['steps']}"
    line += f" --seeds {' '.join(map(str, seeds))}"
    line += "".join(f" --set {shlex.quote(said)}" for said in record["said"])
    if further := record["name"].partition("-")[2]:
        line += f" --as {shlex.quote(further)}"
    hours = sum(run["cost"]["seconds_per_step"] for run in runs) * record["steps"] / 3600
    of_seeds = f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"
    lines = [
        f"\n## {page.title}: {record['steps']:,} steps, {of_seeds}\n",
        f"Made by `{line}` from `benchmarks/results/study-{record['name']}.json`: {makers(runs)}. {len(runs)} runs, "
        f"whose steps take {hours:.1f} core-hours. {page.words}\n",
    ]
    columns = {title: column for title, column in page.columns.items() if is_comparable(column, runs)}
    lines += table(page.first, rows, columns) if page.columns else by_direction(rows)
    lines += page.more(rows)
    if page.plot is not None:
        lines.append(f"\n![{page.title}](studies/{record['name']}.svg)")
    return lines


def rows_of(record: Record) -> Rows:
    """The runs of each row, in the order in which they were measured."""
    rows: Rows = {}
    for run in record["runs"]:
        rows.setdefault(run["row"], []).append(run)
    return rows


def draw(record: Record, folder: Path) -> None:
    """The plot of a study, where it has one."""
    page = PAGES[record["study"]]
    if page.plot is None:
        return
    from publish import pyplot

    plt = pyplot()
    figure = plt.figure(figsize=(7, 3.2), layout="constrained")
    page.plot(figure, rows_of(record))
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / f"{record['name']}.svg", metadata={"Date": None})
    plt.close(figure)


def nothing(rows: Rows) -> list[str]:
    """No lines."""
    return []


def values_of(runs: Sequence[dict[str, Any]], column: Column) -> list[float]:
    """A measure of some runs."""
    at, name, _ = column
    return [measures(run, at)[name] for run in runs]


# --- the factorial of the rules ---


def effects_of(rows: Rows, title: str) -> list[Effect]:
    """What each rule does to a measure."""
    return effects({row: values_of(runs, MAIN[title]) for row, runs in rows.items()})


def effect_lines(rows: Rows) -> list[str]:
    """A table of all effects, which ones are none of chance, and what each of the rules does."""
    if len(seeds_of([run for same in rows.values() for run in same])) < 2:
        return ["\nEffects need two seeds or more, to tell them from chance."]
    found = {title: effects_of(rows, title) for title in MAIN}
    forms = {title: column[2] for title, column in MAIN.items()}
    lines = ["", f"| effect of | {' | '.join(f'{title} | standard error' for title in MAIN)} |"]
    lines.append(f"|---|{'---|' * (2 * len(MAIN))}")
    for same in zip(*found.values(), strict=True):
        cells = [
            f"{mark(effect, signed(form, effect.value))} | {form.format(effect.error)}"
            for form, effect in zip(forms.values(), same, strict=True)
        ]
        lines.append(f"| {same[0].letters} | {' | '.join(cells)} |")
    count = sum(map(len, found.values()))
    lines.append(
        f"\nBold: the {CONFIDENCE:.0%} interval leaves 0 out; of {count} about {(1 - CONFIDENCE) * count:.1f} would by "
        "chance. An effect of one rule is the mean of all cells with it minus that of those without; of two, "
        "half of what the second one changes in the effect of the first."
    )
    for title, form in forms.items():
        told = [f"{letters_in_words(e.letters)} {signed(form, e.value)}" for e in found[title] if is_told(e)]
        lines.append(f"\n{title}: {'; '.join(told) if told else 'no rule and no interaction is told from chance'}.")
    return lines


def signed(form: str, value: float) -> str:
    """A number with its sign."""
    return form.replace("{:", "{:+").format(value)


def is_told(effect: Effect) -> bool:
    """Whether chance does not explain it."""
    return abs(effect.value) > effect.half_width


def mark(effect: Effect, text: str) -> str:
    """Bold where it is told from chance."""
    return f"**{text}**" if is_told(effect) else text


def letters_in_words(letters: str) -> str:
    """The names of rules."""
    names = {letter: name for name, letter in FACTORS.items()}
    return " x ".join(names[letter] for letter in letters)


def plot_effects(figure: Any, rows: Rows) -> None:
    """Effects and their intervals."""
    for place, title in enumerate(MAIN):
        axes = figure.add_subplot(1, len(MAIN), place + 1)
        found = effects_of(rows, title)[::-1]
        values, widths = [effect.value for effect in found], [effect.half_width for effect in found]
        axes.errorbar(values, range(len(found)), xerr=widths, fmt="o", markersize=3, capsize=2)
        axes.set_yticks(range(len(found)), [effect.letters for effect in found])
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.set(xlabel=f"effect on {title}")
        axes.grid(alpha=0.3, axis="x")


# --- curves and bars over the rows ---


def plot_rows(figure: Any, rows: Rows, shown: Mapping[str, Column] = MAIN) -> None:
    """Mean and standard deviation of some measures by row, and every run."""
    for place, (title, column) in enumerate(shown.items()):
        axes = figure.add_subplot(1, len(shown), place + 1)
        found = [values_of(runs, column) for runs in rows.values()]
        for at, values in enumerate(found):
            axes.plot([at] * len(values), values, "k.", markersize=3, alpha=0.5)
        means = [statistics.mean(values) for values in found]
        spread = [statistics.stdev(values) if len(values) > 1 else 0 for values in found]
        axes.errorbar(range(len(found)), means, yerr=spread, fmt="o-", capsize=2)
        axes.set_xticks(range(len(rows)), [row.replace(", ", ",\n") for row in rows])
        axes.set(ylabel=title)
        axes.grid(alpha=0.3)


def gap_to_all(rows: Rows) -> list[str]:
    """How much of what all pairs bring a share of them brings."""
    none, every = (statistics.mean(values_of(rows[row], MAIN[ERROR])) for row in ("0", "1"))
    if none <= every:
        return [f"\nAll pairs bring nothing here: the error is {every:.5f} with all, {none:.5f} without any."]
    taken = {row: none - statistics.mean(values_of(runs, MAIN[ERROR])) for row, runs in rows.items()}
    brought = [
        f"{float(row):.0%} of the pairs bring {less / (none - every):.0%}"
        for row, less in taken.items()
        if row not in ("0", "1")
    ]
    return [f"\nOf what all pairs take off the error: {', '.join(brought)}."]


# --- every direction ---


def by_direction(rows: Rows) -> list[str]:
    """A line for each measure that a direction has, and a column for each row."""
    lines = [f"| direction | measure | {' | '.join(rows)} |", f"|---|---|{'---|' * len(rows)}"]
    for direction in next(iter(rows.values()))[0]["directions"]:
        for name, (title, form) in OF_DIRECTIONS.items():
            cells = [cell([measures(run, direction).get(name) for run in runs], form) for runs in rows.values()]
            if set(cells) != {"-"}:
                lines.append(f"| {direction.replace('->', ' to ')} | {title} | {' | '.join(cells)} |")
    return lines


#: measure -> its title and how it is written
OF_DIRECTIONS = {
    "mse": ("MSE", "{:.5f}"),
    "content_kept": ("content kept", "{:.3f}"),
    "pixel_color_recall": ("colors covered", "{:.3f}"),
    "pixel_variety": ("variety of looks", "{:.3f}"),
}


def what_the_code_brings(rows: Rows) -> list[str]:
    """How the errors of the uni-modal targets compare."""
    told = []
    for direction in rows["code"][0]["directions"]:
        means = [
            statistics.mean(values)
            for runs in rows.values()
            if (values := [found for run in runs if (found := measures(run, direction).get("mse")) is not None])
        ]
        if len(means) == len(rows):
            told.append(f"{direction.replace('->', ' to ')} {means[0] / means[1]:.2f}")
    return [f"\nMSE with the code over that without: {', '.join(told)}."]


# --- label maps ---

ACCURACY = ("scene->labels", "pixel_accuracy", "{:.3f}")
OF_LABELS: dict[str, Column] = {
    "pixel accuracy": ACCURACY,
    "mIoU": ("scene->labels", "miou_present", "{:.3f}"),
    "variety of scenes": ("labels->scene", "pixel_variety", "{:.3f}"),
    "colors covered": ("labels->scene", "pixel_color_recall", "{:.3f}"),
    "content kept": ("labels->scene", "content_kept", "{:.3f}"),
    **{title: column for title, column in COLUMNS.items() if column[0] == "cost"},
}


def what_raises_accuracy(rows: Rows) -> list[str]:
    """Each row against that whose name it continues, or the first."""
    means = {row: statistics.mean(values_of(runs, ACCURACY)) for row, runs in rows.items()}
    first, *others = means
    told = []
    for row in others:
        base = max((name for name in means if row.startswith(f"{name}, ")), key=len, default=first)
        told.append(f"{row} {means[row] - means[base]:+.3f} (from {base})")
    return [f"\nPixel accuracy: {'; '.join(told)}."]


# --- the pages ---

LEGEND = "; ".join(f"{letter}: {name}" for name, letter in FACTORS.items())
PAGES = {
    "factorial": Page(
        "Layers or losses?",
        f"HMS's rules on StarGAN v2, each on and off ({LEGEND}): {LETTERS} is HMS, {LETTERS[:-1]} HMU, and without any "
        "rule it is StarGAN v2. All by AdaIN, with the losses that were found with it. Without a style no two images "
        "of a domain differ, so Z is with D in any case: 12 rows are the 16 cells.",
        "rules that are on",
        COLUMNS,
        effect_lines,
        plot_effects,
    ),
    "layers": Page(
        "Where the layers of a domain sit",
        "HMS with first and last layers that are shared, or with 1x1 adapters around shared ones, with stems of each "
        "domain, and with a residual block more of each.",
        "layers of a domain",
        COLUMNS,
        nothing,
        plot_rows,
    ),
    "pairs": Page(
        "How many pairs?",
        "HMS by the share of digits whose pair is known (`data.pair_fraction`); without any it is HMU.",
        "share of pairs",
        COLUMNS,
        gap_to_all,
        plot_rows,
    ),
    "domains": Page(
        "Several uni-modal and several multi-modal domains",
        "HMS on digits in color, in two tones, in gray and as edges (`benchmarks/drawn_sets.py`), in one model; the "
        "two uni-modal domains are told apart by a code beside the style and by their last layers, or by these alone "
        "(`model.domain_code`).",
        "",
        {},
        what_the_code_brings,
        None,
    ),
    "labels": Page(
        "Label maps",
        "HMS on drawn scenes of 12 classes at 32x32 (`benchmarks/drawn_sets.py`): label maps in the colors of a "
        "palette, or with a channel for each class (`data.labels`), these by the absolute error or by cross-entropy "
        "(`loss.of_labels`); with a generator that halves no image (`model.downsamplings: 0`), so that all detail "
        "reaches the label map, as by skips; and with twice the width.",
        "label maps, generator",
        OF_LABELS,
        what_raises_accuracy,
        partial(plot_rows, shown={"pixel accuracy": ACCURACY, "variety of scenes": OF_LABELS["variety of scenes"]}),
    ),
}

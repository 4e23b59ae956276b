"""docs/color-recall.md and its plots, from benchmarks/results/color-recall.json, which recall_study.py makes.

The text is that of recall_page.md; only its figures are put in here.
"""

from __future__ import annotations

import re
import statistics
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from known_colors import RIGHT
from publish import ROOT, pyplot

TEXT = Path(__file__).with_suffix(".md")
PAGE = ROOT / "docs" / "color-recall.md"
PLOTS = PAGE.with_suffix("")  # a folder
SOME_BINS, SOME_SIZE = 4, 3000  # those of the tables that vary the other one
RECALL = "color_recall"


class Column(NamedTuple):
    """A measure as the page shows it; ``sign`` is 1 where more is better, -1 where less is."""

    title: str
    form: str
    sign: int = 1


COLUMNS = {
    RECALL: Column("Color Recall", ".3f"),
    "coverage": Column("coverage", ".3f"),
    "unique_colors": Column("unique colours", ".0f"),
    "content_mse": Column("content MSE", ".4f", -1),
    "pixel_color_recall": Column("pixel colour recall", ".3f"),
    "pixel_variety": Column("pixel variety", ".3f"),
    "fid_clean": Column("FID", ".2f", -1),
    "precision": Column("precision", ".3f"),
    "recall": Column("recall", ".3f"),
}
#: fault -> how much of it -> its generator
SWEEPS: dict[str, dict[float, str]] = {
    "cells missing, of 63": {0.0: RIGHT} | {count: f"{count} of 63 cells missing" for count in (3, 16, 31, 56)},
    "all channels brighter by": {0: RIGHT} | {1 / part: f"all channels +1/{part}" for part in (32, 16, 8, 4)},
    "spread narrowed by": {0: RIGHT} | {1 - factor: f"spread x {factor}" for factor in (0.9, 0.75, 0.5)},
}


class Found:
    """The figures of a record."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.about, self.limits = record["about"], record["limits"]
        self.seconds = record["processor_seconds"]
        self._rows, self._tried = record["generators"], record["tried"]

    @property
    def seeds(self) -> list[int]:
        """All that were measured."""
        return list(dict.fromkeys(row["seed"] for row in self._rows))

    @property
    def faulty(self) -> list[str]:
        """All generators but the right one."""
        return [name for name in self.limits if name != RIGHT]

    def values(self, generator: str, measure: str) -> list[float]:
        """Of all seeds."""
        return [row[measure] for row in self._rows if row["generator"] == generator]

    def mean(self, generator: str, measure: str = RECALL) -> float:
        """Over the seeds."""
        return statistics.mean(self.values(generator, measure))

    def shown(self, generator: str, measure: str = RECALL) -> str:
        """The mean as the page shows it."""
        return f"{self.mean(generator, measure):{COLUMNS[measure].form}}"

    def cell(self, generator: str, measure: str) -> str:
        """Mean and, where the seeds differ, standard deviation."""
        deviation = f"{statistics.stdev(self.values(generator, measure)):{COLUMNS[measure].form}}"
        return self.shown(generator, measure) + (f" ± {deviation}" if float(deviation) else "")

    def apart(self, generator: str, measure: str) -> int:
        """1: better than the right law, -1: worse, with each seed against each of its; 0: not told apart."""
        values, others = self.values(generator, measure), self.values(RIGHT, measure)
        more, less = min(values) > max(others), max(values) < min(others)
        return COLUMNS[measure].sign * (int(more) - int(less))

    def seen_by(self, generator: str) -> list[str]:
        """Titles of the measures that tell a generator from the right one, Color Recall left out."""
        return [column.title for name, column in COLUMNS.items() if name != RECALL and self.apart(generator, name)]

    def row(self, generator: str, bins: int = SOME_BINS, images: int = SOME_SIZE) -> dict[str, Any]:
        """Of the samples of one size."""
        wanted = (generator, bins, images)
        return next(row for row in self._tried if (row["generator"], row["bins"], row["images"]) == wanted)

    def of_tried(self, what: str) -> list[Any]:
        """The different values of a key of the samples."""
        return list(dict.fromkeys(row[what] for row in self._tried))


def listed(words: Iterable[str]) -> str:
    """``a, b and c``; ``none`` of them, if there are none."""
    *first, last = [*words] or ["none"]
    return f"{', '.join(first)} and {last}" if first else last


# --- the page ---------------------------------------------------------------------------------------------------------


def page(record: dict[str, Any]) -> str:
    """The text of recall_page.md with the figures of a record."""
    found = Found(record)
    figures: dict[str, Any] = {
        **found.about,
        **{measure: {name: found.shown(name, measure) for name in found.limits} for measure in COLUMNS},
        "limit": {name: f"{limit:.3f}" for name, limit in found.limits.items() if limit is not None},
        "seen": {name: listed(found.seen_by(name)) for name in found.faulty},
        "seeds": listed(map(str, found.seeds)),
        "pictures": found.about["sources"] * found.about["outputs_per_source"],
        "seconds": found.seconds,
        "ceiling": found.mean(RIGHT, "color_recall_ceiling"),
        "pixel_ceiling": found.mean(RIGHT, "pixel_color_recall_ceiling"),
        "size": SOME_SIZE,
        **told(found),
        **of_bins(found),
        **of_sizes(found),
        "table": "\n".join(table(found)),
        "bins_table": "\n".join(bins_table(found)),
        "sizes_table": "\n".join(sizes_table(found)),
    }
    return wrapped(TEXT.read_text().format_map(figures))


def wrapped(text: str) -> str:
    """Paragraphs and lists in lines that fit; headings, pictures, tables and formulas as they are."""

    def filled(item: str) -> str:
        indent = "  " if item.startswith("- ") else ""
        return textwrap.fill(
            " ".join(item.split()), 120, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
        )

    blocks = (
        block if block.startswith(("#", "!", "|", "    ")) else "\n".join(map(filled, re.split(r"\n(?=- )", block)))
        for block in text.strip().split("\n\n")
    )
    return "\n\n".join(blocks) + "\n"


def told(found: Found) -> dict[str, Any]:
    """How many generators each measure tells from the right one."""
    seeds, faulty = len(found.seeds), len(found.faulty)
    blind = [name for name in found.faulty if not found.apart(name, RECALL)]
    unseen = [name for name in blind if not found.seen_by(name)]
    counts = {
        column.title: sum(found.apart(name, measure) != 0 for name in found.faulty)
        for measure, column in COLUMNS.items()
    }
    return {
        "count": seeds,
        "faulty": faulty,
        "told": faulty - len(blind),
        "blind": listed(f"*{name}*" for name in blind),
        "unseen": f", and no other measure tells {listed(f'*{name}*' for name in unseen)}"
        if unseen
        else ", each of which another measure tells",
        "counts": listed(
            f"{title} tells {counts[title]}" for title in sorted(counts, key=lambda title: -counts[title])
        ),
    }


def of_bins(found: Found) -> dict[str, Any]:
    """What the sentence on bins says."""
    *_, narrowed, middles = found.of_tried("generator")
    least, *_, most = found.of_tried("bins")
    return {
        "least_bins": least,
        "most_bins": most,
        "some_bins": SOME_BINS,
        "few_bins": found.row(narrowed, least)["limit"],
        "many_bins": found.row(narrowed, most)["limit"],
        "right_many": found.row(RIGHT, most)[RECALL],
        "middles_some": found.row(middles)[RECALL],
        "middles_many": found.row(middles, most)[RECALL],
    }


def of_sizes(found: Found) -> dict[str, Any]:
    """What the sentence on sample sizes says."""
    missing = found.of_tried("generator")[1]
    least, *_, most = found.of_tried("images")
    few, many = (found.row(missing, images=size) for size in (least, most))
    return {
        "least": least,
        "most": most,
        "three": 3 * found.row(missing)[f"{RECALL}_deviation"],
        "few": few[RECALL],
        "many": many[RECALL],
        "few_share": few[RECALL] / few["color_recall_ceiling"],
        "many_share": many[RECALL] / many["color_recall_ceiling"],
    }


def table(found: Found) -> list[str]:
    """Generators x measures."""
    lines = [
        f"| generator | limit | {' | '.join(column.title for column in COLUMNS.values())} |",
        f"|---|---|{'---|' * len(COLUMNS)}",
    ]
    for name, limit in found.limits.items():
        cells = [found.cell(name, measure) for measure in COLUMNS]
        lines.append(f"| {name} | {'' if limit is None else f'{limit:.3f}'} | {' | '.join(cells)} |")
    return lines


def bins_table(found: Found) -> list[str]:
    """Laws x bins."""
    several = found.of_tried("bins")
    lines = [f"| generator | {' | '.join(f'{count} bins' for count in several)} |", f"|---|{'---|' * len(several)}"]
    for name in found.of_tried("generator"):
        rows = [found.row(name, count) for count in several]
        cells = [f"{row['limit']:.3f}; {row[RECALL]:.3f} ± {row[f'{RECALL}_deviation']:.3f}" for row in rows]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def sizes_table(found: Found) -> list[str]:
    """Numbers of pictures x what is counted and what theory says."""
    missing = found.of_tried("generator")[1]
    counted = ("mean", "mean by theory", "standard error", "standard error by theory")
    titles = [f"{name}: {what}" for name in (RIGHT, missing) for what in counted]
    lines = [f"| pictures | ceiling | {' | '.join(titles)} |", f"|---|---|{'---|' * len(titles)}"]
    keys = (RECALL, f"{RECALL}_by_theory", f"{RECALL}_deviation", f"{RECALL}_deviation_by_theory")
    for size in found.of_tried("images"):
        rows = [found.row(name, images=size) for name in (RIGHT, missing)]
        figures = [rows[0]["color_recall_ceiling"], *(row[key] for row in rows for key in keys)]
        lines.append(f"| {size:,} | {' | '.join(f'{figure:.4f}' for figure in figures)} |")
    return lines


# --- plots ------------------------------------------------------------------------------------------------------------


def write_page(record: dict[str, Any]) -> None:
    """docs/color-recall.md and docs/color-recall/*.svg."""
    found = Found(record)
    PLOTS.mkdir(exist_ok=True)
    for name, plot in (("seen", plot_seen), ("faults", plot_faults), ("sizes", plot_sizes)):
        save(PLOTS / f"{name}.svg", plot, found)
    PAGE.write_text(page(record))


def save(path: Path, plot: Callable[[Any, Found], Any], found: Found) -> None:
    """One plot; on white, whatever is around it."""
    plt = pyplot()
    figure = plot(plt, found)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def plot_seen(plt: Any, found: Found) -> Any:
    """Generators x measures: the means, coloured where they are told from the right law."""
    from matplotlib.colors import ListedColormap

    names, measures = list(found.limits), list(COLUMNS)
    sides = [[found.apart(name, measure) for measure in measures] for name in names]
    figure, axes = plt.subplots(figsize=(10, 7))
    axes.imshow(sides, ListedColormap(["#f6b26b", "#ffffff", "#9fc5e8"]), vmin=-1, vmax=1, aspect="auto")
    for y, name in enumerate(names):
        for x, measure in enumerate(measures):
            axes.text(x, y, found.shown(name, measure), ha="center", va="center", fontsize=7)
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(measures)), [column.title.replace(" ", "\n") for column in COLUMNS.values()])
    axes.set_xticks([edge - 0.5 for edge in range(1, len(measures))], minor=True)
    axes.set_yticks([edge - 0.5 for edge in range(1, len(names))], minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.xaxis.tick_top()
    axes.set_xlabel("orange: worse than the right law by this measure, blue: better, white: not told from it")
    return figure


def plot_faults(plt: Any, found: Found) -> Any:
    """Color Recall, its limit, and what features say, over the size of a fault."""
    figure, several = plt.subplots(1, len(SWEEPS), figsize=(10, 3.2), sharey=True)
    for axes, (title, steps) in zip(several, SWEEPS.items(), strict=True):
        limits = [found.limits[name] for name in steps.values()]
        axes.plot(list(steps), limits, "k:", linewidth=1, label="Color Recall, limit")
        for measure, style in ((RECALL, "o-"), ("pixel_color_recall", "s-"), ("precision", "^--"), ("recall", "v--")):
            means = [found.mean(name, measure) for name in steps.values()]
            errors = [statistics.stdev(found.values(name, measure)) for name in steps.values()]
            label = COLUMNS[measure].title
            axes.errorbar(list(steps), means, errors, fmt=style, markersize=4, linewidth=1, capsize=2, label=label)
        axes.axhline(found.mean(RIGHT, "color_recall_ceiling"), color="gray", linewidth=0.8, label="ceiling")
        axes.set_xlabel(title)
        axes.set_ylim(0, 1.02)
    several[0].legend(fontsize=7)
    return figure


def plot_sizes(plt: Any, found: Found) -> Any:
    """Recall and its standard error over the number of pictures."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    several, missing = found.of_tried("images"), found.of_tried("generator")[1]

    def drawn(axes: Any, label: str, measure: str, generator: str, count: int) -> None:
        rows = [found.row(generator, count, size) for size in several]
        (line,) = axes.plot(several, [row[f"{measure}_by_theory"] for row in rows], linewidth=1)
        axes.plot(several, [row[measure] for row in rows], "o", markersize=4, color=line.get_color(), label=label)

    for count in found.of_tried("bins"):
        drawn(left, f"{count} bins", RECALL, RIGHT, count)
    drawn(left, f"{missing}, {SOME_BINS} bins", RECALL, missing, SOME_BINS)
    for name in found.of_tried("generator")[:-1]:
        drawn(right, name, f"{RECALL}_deviation", name, SOME_BINS)
    left.set_ylabel(f"Color Recall; {RIGHT} unless said")
    right.set_ylabel(f"its standard error, {SOME_BINS} bins")
    right.set_yscale("log")
    right.set_yticks([0.005, 0.01, 0.02, 0.04], ["0.005", "0.01", "0.02", "0.04"])
    right.yaxis.minorticks_off()
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("pictures in each sample")
        axes.legend(fontsize=7)
    figure.tight_layout()
    return figure

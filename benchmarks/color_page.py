"""docs/colors.md and its plots, from benchmarks/results/color-causes.json, which color_causes.py makes.

The text is that of color_page.md; only its figures are put in here.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from color_arms import ARMS, PRESET
from publish import RESULTS, ROOT, pyplot
from recall_page import listed, wrapped

RECORD = RESULTS / "color-causes.json"
TEXT = Path(__file__).with_suffix(".md")
PAGE = ROOT / "docs" / "colors.md"
PLOTS = PAGE.with_suffix("")  # a folder
EARLY, LATE = 300, 500  # steps: when arms differ; after which colours change slowly
LENGTHS = ((16, 512), (64, 512), (256, 512), (None, None))  # of latents, and widths of the mapping network
NARROW = (64, 64)
WIDEST = 1 / 12**0.5  # standard deviation of even numbers from 0 to 1; those of the law are nearly so

Row = dict[str, Any]


class Found:
    """The figures of a record."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.about: Row = record["about"]
        self.runs: list[Row] = record["runs"]
        self.latents: list[Row] = record["latents"]

    def run(self, arm: str, seed: int) -> Row:
        """One of them."""
        return next(run for run in self.runs if (run["arm"], run["seed"]) == (arm, seed))

    def at(self, arm: str, seed: int, step: int) -> Row:
        """A measured checkpoint."""
        return next(row for row in self.run(arm, seed)["checkpoints"] if row["step"] == step)

    def seeds_of(self, arms: Sequence[str]) -> list[int]:
        """Those of which all arms have the early step."""
        known = [
            {run["seed"] for run in self.runs if run["arm"] == arm and run["checkpoints"][-1]["step"] >= EARLY}
            for arm in arms
        ]
        return sorted(set.intersection(*known))

    def steps(self) -> list[int]:
        """All that were measured in any run."""
        return sorted({row["step"] for run in self.runs for row in run["checkpoints"]})

    def of_latents(self, length: int | None, width: int | None) -> Row:
        """Means over the fresh nets."""
        row = next(row for row in self.latents if (row["latent_dim"], row["hidden_dim"]) == (length, width))
        return {name: statistics.mean(net[name] for net in row["nets"]) for name in row["nets"][0]}


def label(run: Row) -> str:
    """Arm and seed."""
    return f"{ARMS[run['arm']].title}, seed {run['seed']}"


def rows(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *lines))


# --- the page ---------------------------------------------------------------------------------------------------------


def page(record: dict[str, Any]) -> str:
    """The text of color_page.md with the figures of a record."""
    found = Found(record)
    figures: dict[str, Any] = {
        **found.about,
        **told(found),
        "machines": listed(sorted({f"{run['machine']}, torch {run['torch']}" for run in found.runs})),
        "commits": listed(sorted({run["commit"] for run in found.runs})),
        "latents_table": latents_table(found),
        "factors_table": factors_table(found),
        "arms_table": arms_table(found),
        "directions_table": over_time(found, lambda row: f"{row['averaged']['axes'][-1]:.3f}"),
        "recall_table": over_time(found, lambda row: f"{row['averaged']['recall']:.3f}"),
        "seen_table": over_time(found, _seen),
        "pulls_table": over_time(found, _pulls),
        "windows_table": windows_table(found),
        "swing_table": swing_table(found),
    }
    return wrapped(TEXT.read_text().format_map(figures))


def told(found: Found) -> dict[str, Any]:
    """What the sentences say."""
    at = {f"{run['arm']}-{run['seed']}-{row['step']}": row for run in found.runs for row in run["checkpoints"]}
    late = [row for run in found.runs if "adain" not in run["arm"] for row in run["checkpoints"] if row["step"] > LATE]
    pulls = {name: between(row["pulls"][name] for row in late) for name in late[0]["pulls"]}
    pulls["ratio"] = between(row["pulls"]["diversity"] / row["pulls"]["adversarial"] for row in late)
    pulls |= {"against": sum(row["pulls"]["both"] < 0 for row in late), "count": len(late)}
    adain, without = at["adain-3-500"]["pulls"], at["adain-no-norm-3-300"]["pulls"]
    missing = [arm.title for name, arm in ARMS.items() if name not in {run["arm"] for run in found.runs}]
    swinging = [run for run in found.runs if run["windows"]]
    raw = [[row for row in run["windows"] if "raw" in row] for run in swinging]
    means = [[row for row in run["windows"] if row.get("window", 0) >= 100] for run in swinging]
    whole = [run["checkpoints"][-1]["averaged"]["recall"] for run in swinging]
    return {
        "at": at,
        "times": adain["adversarial"] / adain["diversity"],
        "times_without": without["adversarial"] / without["diversity"],
        "early": EARLY,
        "with_norm": early(found, ("adain", "demod-norm")),
        "without_norm": early(found, ("adain-no-norm", "demod")),
        "not_run": f"Not run: {listed(missing)}." if missing else "",
        "preset": ARMS[PRESET].title,
        "late": LATE,
        "widest": WIDEST,
        "seeds": listed(sorted({str(run["seed"]) for run in found.runs})),
        "most": {length or "normal": f"{found.of_latents(length, width)['recall']:.3f}" for length, width in LENGTHS},
        "narrow": f"{found.of_latents(*NARROW)['recall']:.3f}",
        "seen": {name: between(row["seen"][name] for row in late) for name in late[0]["seen"]},
        "pulls": pulls,
        "swing": {
            "recall": between(row["recall"] for several in raw for row in several),
            "middle": between(statistics.mean(row["middle"] for row in several) for several in raw),
            "window": between(row["recall"] for several in means for row in several),
            "middle_of_mean": between(statistics.mean(row["middle"] for row in several) for several in means),
            "moving": between(whole),
        },
    }


def early(found: Found, arms: Sequence[str]) -> dict[str, str]:
    """Of some arms, all seeds."""
    colors = [found.at(arm, seed, EARLY)["averaged"] for arm in arms for seed in found.seeds_of([arm])]
    axes = between((row["axes"][-1] for row in colors), ".3f")
    return {"axis": axes, "recall": between((row["recall"] for row in colors), ".3f")}


def between(values: Iterable[float], form: str = ".2f") -> str:
    """The least and the largest; one number where both look alike."""
    several = list(values)
    ends = dict.fromkeys((f"{min(several):{form}}", f"{max(several):{form}}"))
    return " to ".join(ends)


def latents_table(found: Found) -> str:
    """Lengths and widths x what their styles are."""
    lines = []
    for row in found.latents:
        normal = row["latent_dim"] is None
        name = "a normal law itself" if normal else f"{row['latent_dim']} | {row['hidden_dim']}"
        recalls = [net["recall"] for net in row["nets"]]
        mean = found.of_latents(row["latent_dim"], row["hidden_dim"])
        span = "" if normal else f" ({min(recalls):.3f} to {max(recalls):.3f})"
        lines.append([f"{name}{' | ' if normal else ''}", f"{mean['recall']:.3f}{span}",
                      f"{mean['kurtosis']:.2f}", f"{mean['evenness']:.2f}"])  # fmt: skip
    return rows(["latents", "width", "Color Recall", "kurtosis", "least / largest deviation"], lines)


def factors_table(found: Found) -> str:
    """What styles act by x whether the output layer has a norm, by seed."""
    factors = (("AdaIN", ("adain", "adain-no-norm")), ("demodulation", ("demod-norm", "demod")))
    lines = []
    for seed in found.seeds_of([arm for _, arms in factors for arm in arms]):
        for title, arms in factors:
            colors = [found.at(arm, seed, EARLY)["averaged"] for arm in arms]
            lines.append([f"{title}, seed {seed}", *(f"{row['axes'][-1]:.3f}; {row['recall']:.3f}" for row in colors)])
    return rows(["styles act by", "with the norm", "without"], lines)


def arms_table(found: Found) -> str:
    """Each run at its last measured step, and what colours it lacks."""
    lines = []
    for run in found.runs:
        row = run["checkpoints"][-1]
        colors = row["averaged"]
        lines.append([
            label(run), str(row["step"]), f"{row['mse']:.4f}", f"{colors['recall']:.3f}", f"{row['raw']['recall']:.3f}",
            *(f"{axis:.3f}" for axis in colors["axes"]), f"{colors['middle']:.2f}", f"{colors['dark']:.2f}",
        ])  # fmt: skip
    titles = [
        "run",
        "step",
        "MSE",
        "Color Recall",
        "of raw weights",
        "widest axis",
        "second",
        "least",
        "middle",
        "dark",
    ]
    return rows(titles, lines)


def over_time(found: Found, cell: Callable[[Row], str]) -> str:
    """Runs x steps."""
    steps = found.steps()
    lines = []
    for run in found.runs:
        known = {row["step"]: cell(row) for row in run["checkpoints"]}
        lines.append([label(run), *(known.get(step, "") for step in steps)])
    return rows(["run", *(f"at {step:,}" for step in steps)], lines)


def _seen(row: Row) -> str:
    return "{correlation:.2f}; {logits:.2f} of {best:.2f}".format_map(row["seen"])


def _pulls(row: Row) -> str:
    pulls = row["pulls"]
    return f"{pulls['adversarial']:.2f} ({pulls['adversarial_alike']:.2f}), {pulls['diversity']:.2f}"


def windows_table(found: Found) -> str:
    """Runs x windows: Color Recall of the mean of raw weights."""
    several = [run for run in found.runs if run["windows"]]
    lengths = sorted({row["window"] for run in several for row in run["windows"] if "window" in row})
    lines = []
    for run in several:
        known = {row["window"]: row for row in run["windows"] if "window" in row}
        moving = run["checkpoints"][-1]["averaged"]
        lines.append([label(run), *(f"{known[length]['recall']:.3f}" for length in lengths), f"{moving['recall']:.3f}"])
    return rows(["run", *(f"{length} steps" for length in lengths), "EMA 0.995"], lines)


def swing_table(found: Found) -> str:
    """Raw weights of the last steps, one by one: recall and how two channels go together, least and largest."""
    lines = []
    for run in found.runs:
        raw = [row for row in run["windows"] if "raw" in row]
        if raw:
            recalls = [row["recall"] for row in raw]
            pairs = list(zip(*(row["together"] for row in raw), strict=True))
            swings = [f"{min(pair):+.2f} to {max(pair):+.2f}" for pair in pairs]
            lines.append([label(run), f"{min(recalls):.3f} to {max(recalls):.3f}", *swings])
    return rows(["run", "Color Recall", "red and green", "red and blue", "green and blue"], lines)


# --- plots ------------------------------------------------------------------------------------------------------------


def write_page(record: dict[str, Any]) -> None:
    """docs/colors.md and docs/colors/*.svg."""
    found = Found(record)
    PLOTS.mkdir(exist_ok=True)
    for name, plot in (("directions", plot_directions), ("causes", plot_causes)):
        plt = pyplot()
        figure = plot(plt, found)
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(PLOTS / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    PAGE.write_text(page(record))


def drawn(axes: Any, found: Found, value: Callable[[Row], float], title: str) -> None:
    """A line for each run; runs of an arm have its colour."""
    colors = {arm: f"C{number}" for number, arm in enumerate(ARMS)}
    for run in found.runs:
        first = run is next(other for other in found.runs if other["arm"] == run["arm"])
        steps = [row["step"] for row in run["checkpoints"]]
        values = [value(row) for row in run["checkpoints"]]
        axes.plot(
            steps, values, "o-", markersize=3, linewidth=1 + (run["arm"] == PRESET), color=colors[run["arm"]],
            label=ARMS[run["arm"]].title if first else None,
        )  # fmt: skip
    axes.set_title(title)
    axes.set_xlabel("step")


def plot_directions(plt: Any, found: Found) -> Any:
    """The least axis and recall over time."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    drawn(left, found, lambda row: row["averaged"]["axes"][-1], "standard deviation along the least axis")
    left.axhline(WIDEST, color="gray", linewidth=0.8)
    drawn(right, found, lambda row: row["averaged"]["recall"], "Color Recall against the law")
    left.legend(fontsize=7)
    figure.tight_layout()
    return figure


def plot_causes(plt: Any, found: Found) -> Any:
    """The discriminator and the gradients over time."""
    figure, several = plt.subplots(2, 2, figsize=(10, 7))
    drawn(several[0][0], found, lambda row: row["seen"]["correlation"], "logits by cell and best logits: correlation")
    drawn(several[0][1], found, lambda row: row["seen"]["logits"] / row["seen"]["best"], "their deviation, of the best")
    drawn(several[1][0], found, lambda row: row["pulls"]["adversarial_alike"], "adversarial gradients: mean cosine")
    drawn(
        several[1][1], found, lambda row: row["pulls"]["diversity"] / row["pulls"]["adversarial"],
        "norm of diversity over adversarial gradient",
    )  # fmt: skip
    several[0][1].legend(fontsize=7)
    figure.tight_layout()
    return figure

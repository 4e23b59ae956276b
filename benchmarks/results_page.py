"""docs/results.md, from what ablation.py, fine_tuning.py and studies.py in benchmarks/ have measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m2o_fast.engine.yaml12 import dump_yaml
from m2o_fast.translators import full_name

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Column = tuple[str, str, str]  # a direction, or "cost"; a measure; how it is written
COLUMNS: dict[str, Column] = {
    "MSE, color to gray": ("color->gray", "mse", "{:.5f}"),
    "Color Recall": ("gray->color", "color_recall", "{:.3f}"),
    "coverage": ("gray->color", "coverage", "{:.3f}"),
    "unique colors": ("gray->color", "unique_colors", "{:.0f}"),
    "content MSE": ("gray->color", "content_mse", "{:.5f}"),
    "FID": ("gray->color", "fid_clean", "{:.2f}"),
    "parameters": ("cost", "parameters", "{:,.0f}"),
    "s per step": ("cost", "seconds_per_step", "{:.3f}"),
    "steps": ("cost", "steps", "{:,.0f}"),
}
PATHS = {"fast": "", "plain": ", plain torch", "bf16": ", bf16"}
FINE_TUNING = RESULTS / "fine-tuning.json"
CURVES = ROOT / "docs" / "fine-tuning.svg"
FRESH, BEGUN = "fresh", "digits"  # what a run of MNIST begins with


def write_page() -> None:
    """Writes docs/results.md."""
    (ROOT / "docs" / "results.md").write_text("\n".join(page()) + "\n")


def page() -> list[str]:
    """The lines of docs/results.md, from every ablation, fine-tuning and study in benchmarks/results/."""
    import features_page  # whose tables are made here
    import study_page

    lines = [
        "# Results\n",
        "Made by `make ablation` (benchmarks/ablation.py) from `benchmarks/results/ablation-*.json`. Each system with",
        "its preset, the test split, averaged weights where a system keeps them, styles of random latents,",
        "mean ± standard deviation over the seeds. What each measure means, and its protocol:",
        "[metrics.md](metrics.md). Further sections are made by `python benchmarks/studies.py NAME` (`factorial`,",
        "`layers`, `pairs`, `domains`, `labels`: settings of StarGAN v2's variants) and by",
        "`python benchmarks/features_study.py`.",
    ]
    for path in sorted(RESULTS.glob("ablation-*.json"), key=lambda path: path.stem):
        lines += section(json.loads(path.read_text()))
    lines += from_digits(json.loads(FINE_TUNING.read_text()))
    return [*lines, *study_page.sections(), *features_page.sections()]


def section(record: dict[str, Any]) -> list[str]:
    """Heading and table of one ablation."""
    runs = record["runs"]
    seeds = sorted({run["seed"] for run in runs})
    several = len({run["path"] for run in runs}) > 1
    ceiling = statistics.mean(measures(run, "gray->color")["color_recall_ceiling"] for run in runs)
    columns = {title: column for title, column in COLUMNS.items() if is_comparable(column, runs)}
    lines = [
        f"\n## {record['data']}, {budget(record)}, {'seeds' if len(seeds) > 1 else 'seed'} "
        + f"{', '.join(map(str, seeds))}{': is quality paid for speed?' if several else ''}\n",
        f"{makers(runs)}. Ceiling of Color Recall at this sample size: {ceiling:.3f}."
        f"{' Seconds of one thread.' if 's per step' in columns else ''}\n",
    ]
    rows: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        rows.setdefault(label(run), []).append(run)
    lines += table("variant", rows, columns)
    return [*lines, *(distances(rows) if several else []), *one_to_one(rows), *earlier_decoder(record)]


def table(title: str, rows: Mapping[str, Sequence[dict[str, Any]]], columns: Mapping[str, Column]) -> list[str]:
    """A line for each row of runs, which differ in their seeds."""
    lines = [f"| {title} | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    seeds = seeds_of([run for same in rows.values() for run in same])
    for name, same in rows.items():
        name += "" if len(same) == len(seeds) else f" (seed {', '.join(str(run['seed']) for run in same)})"
        cells = [cell([measures(run, at).get(what) for run in same], form) for at, what, form in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def budget(record: dict[str, Any]) -> str:
    """How long each run was trained."""
    if "seconds" in record:
        return f"as many steps as {record['seconds']} seconds of one thread"
    return f"{record['steps']:,} steps"


def makers(runs: Sequence[dict[str, Any]]) -> str:
    """Machine, torch and commits of the runs of a table."""
    found = [sorted({run[what] for run in runs}) for what in ("machine", "torch", "commit")]
    machine, torch, commits = map("; ".join, found)
    return f"{machine}, torch {torch}, {'commits' if len(found[-1]) > 1 else 'commit'} {commits}"


def is_comparable(column: Column, runs: Sequence[dict[str, Any]]) -> bool:
    """Whether runs have a measure, on equal terms: distances of features depend on the number of images."""
    at, name, _ = column
    if name.startswith("fid") and len({run["protocol"].get("outputs_per_source") for run in runs}) > 1:
        return False
    return any(name in measures(run, at) for run in runs)


def cell(measured: Sequence[float | None], form: str) -> str:
    """Mean and, of several values that differ, standard deviation; a dash where a system has no such direction."""
    values = [value for value in measured if value is not None]
    if not values:
        return "-"
    mean = form.format(statistics.mean(values))
    return f"{mean} ± {form.format(statistics.stdev(values))}" if len(set(values)) > 1 else mean


def distances(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """How far the means of the other paths are from that of plain torch, in its standard deviations."""
    found = []
    for name, runs in rows.items():
        plain = rows[label({**runs[0], "path": "plain"})]
        if plain is runs:
            continue
        words = []
        for title in ("MSE, color to gray", "Color Recall"):
            at, measure_name, _ = COLUMNS[title]
            expected, found_values = ([measures(run, at)[measure_name] for run in of] for of in (plain, runs))
            away = abs(statistics.mean(found_values) - statistics.mean(expected)) / statistics.stdev(expected)
            words.append(f"{away:.1f} ({title})")
        found.append(f"{name}: {', '.join(words)}")
    return ["\nMeans, in standard deviations of plain torch from its own. " + "; ".join(found) + "."]


def earlier_decoder(record: dict[str, Any]) -> list[str]:
    """What has to be said of records from before HMU and HMS had a decoder of their own: they name AdaIN for all."""
    return ["\nAll by AdaIN, which HMU and HMS had by default then."] if "style_op: adain" in text_of(record) else []


def text_of(record: dict[str, Any]) -> str:
    """The settings of a record as YAML; early ones are kept as that."""
    settings = record["settings"]
    return settings if isinstance(settings, str) else dump_yaml(settings)


def one_to_one(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What a table shows that has systems with and without styles."""
    recalls = {
        name: statistics.mean(measures(run, "gray->color")["color_recall"] for run in runs)
        for name, runs in rows.items()
    }
    without = [name for name, runs in rows.items() if "none" in runs[0]["directions"]["gray->color"]]
    if not without or len(without) == len(rows):
        return []
    most = max(recalls[name] for name in without)
    least = min(recalls[name] for name in rows if name not in without)
    names = " and ".join(filter(None, [", ".join(without[:-1]), without[-1]]))
    return [
        f"\n{names} translate one to one: each gray digit gets a single color, so they cannot make the "
        f"many colors that it could have. Their Color Recall is at most {most:.3f}, that of the others at least "
        f"{least:.3f}."
    ]


def measures(run: dict[str, Any], direction: str) -> dict[str, Any]:
    """The measures of a direction, of random styles where there are styles; earlier records hold no others.

    ``"cost"`` in place of a direction: what training takes.
    """
    found = run.get("cost", {}) if direction == "cost" else run["directions"].get(direction, {})
    measured: dict[str, Any] = found.get("none") or found.get("latent") or found
    return measured


def label(run: dict[str, Any]) -> str:
    """``CycleGAN-HMS``, ``HMS, plain torch``: what a row is called."""
    return full_name(run["system"], run["variant"]) + PATHS[run["path"]]


# --- from digits to MNIST ---


def from_digits(record: dict[str, Any]) -> list[str]:
    """Heading, table and plot for docs/results.md."""
    runs, settings = record["runs"], record["settings"]
    digits, mnist = settings["digits"], settings["mnist"]
    seeds = seeds_of(runs)
    seconds = min(run["cost"]["seconds_per_step"] for run in runs)  # of equal steps, the least disturbed
    lines = [
        f"\n## From digits to MNIST, {mnist['steps']:,} steps, {'seeds' if len(seeds) > 1 else 'seed'} "
        f"{', '.join(map(str, seeds))}\n",
        "Made by `python benchmarks/fine_tuning.py` from `benchmarks/results/fine-tuning.json`: "
        f"{makers([*runs, record['weights']])}. HMS on MNIST by the recipe of the digits with a moving average of "
        f"{mnist['optim']['ema']}, from fresh weights and from those of {digits['steps']:,} steps on the digits, seed "
        f"{digits['seed']} (`--init-from`). MSE of color to gray and `pixel_color_recall` of gray to color, of the "
        "validations, each of the same test images; step 0 is before training. A step takes "
        f"{seconds:.3f} s of one thread; those on the digits are not counted.\n",
        "| step | fresh: MSE | colors | begun with the digits: MSE | colors |",
        "|---|---|---|---|---|",
    ]
    starts = [[run for run in runs if run["start"] == start] for start in (FRESH, BEGUN)]
    for step in sorted({line["step"] for run in runs for line in run["validations"]}):
        cells = [part for same in starts for part in cells_of(same, step)]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    return [*lines, *savings(runs), f"\n![MSE by step, from fresh weights and from those of digits]({CURVES.name})"]


def cells_of(runs: Sequence[dict[str, Any]], step: int) -> list[str]:
    """MSE and colors of runs at a step, over the seeds."""
    found = [line for run in runs for line in run["validations"] if line["step"] == step]
    forms = {"mse": "{:.4f}", "colors": "{:.2f}"}
    return [cell([line[key] for line in found], form) if found else "-" for key, form in forms.items()]


def savings(runs: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each seed: after how many steps each run has the least error that fresh weights come to."""
    sentences = []
    for seed in seeds_of(runs):
        curves = {run["start"]: run["validations"] for run in runs if run["seed"] == seed}
        best = min(curves[FRESH], key=lambda line: line["mse"])
        steps = [line["step"] for line in curves[BEGUN] if line["mse"] <= best["mse"]]
        there = f"is reached after {steps[0]} steps" if steps else "is not reached"
        sentences.append(
            f"Seed {seed}: the least error from fresh weights is {best['mse']:.4f}, after {best['step']} steps; "
            f"begun with the digits it {there}."
        )
    return ["\n" + " ".join(sentences)]


def seeds_of(runs: Sequence[dict[str, Any]]) -> list[int]:
    """The seeds, in order."""
    return sorted({run["seed"] for run in runs})


def plot_fine_tuning(record: dict[str, Any]) -> None:
    """MSE over steps, a line for each run."""
    from publish import pyplot

    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    looks = {FRESH: ("C0--", "fresh weights"), BEGUN: ("C1-", "weights of digits")}
    for run in record["runs"]:
        style, label = looks[run["start"]]
        steps, errors = zip(*((line["step"], line["mse"]) for line in run["validations"]), strict=True)
        axes.plot(steps, errors, style, label=label if run["seed"] == seeds_of(record["runs"])[0] else None)
    axes.set(yscale="log", xlabel="step", ylabel="MSE, color to gray")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(CURVES, metadata={"Date": None})
    plt.close(figure)

"""Three variants, three seeds, equal steps: trains, measures, and writes docs/results.md.

    python benchmarks/ablation.py [--data digits] [--steps N] [--seeds 1 2 3] [--jobs 2]
    python benchmarks/ablation.py --variants hms --paths fast plain      # is quality paid for speed?

A path is how the numbers are computed: `fast` with the fused operations, `plain` with those of torch
(M2O_BACKEND=reference), `bf16` as fast with --precision bf16.

Every run is one `m2o-fast train` and one `m2o-fast eval` in a process of its own with one thread; finished runs are
not trained again. Figures are kept in benchmarks/results/ablation-<data>.json, with several paths in
ablation-<data>-paths.json, with the settings they belong to.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = ("starganv2", "hmu", "hms")
COLUMNS = {
    "MSE, color to gray": ("color->gray", "mse", "{:.5f}"),
    "Color Recall": ("gray->color", "color_recall", "{:.3f}"),
    "coverage": ("gray->color", "coverage", "{:.3f}"),
    "unique colors": ("gray->color", "unique_colors", "{:.0f}"),
    "content MSE": ("gray->color", "content_mse", "{:.5f}"),
    "FID": ("gray->color", "fid_clean", "{:.2f}"),
}
NAMES = {"starganv2": "StarGAN v2", "hmu": "HMU", "hms": "HMS"}
PATHS = {"fast": "", "plain": ", plain torch", "bf16": ", bf16"}


def main() -> None:
    """Runs what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--paths", nargs="+", choices=list(PATHS), default=["fast"])
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="runs at the same time")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "ablation")
    options = parser.parse_args()
    rehearsed = command("train", *arguments(options, "fast", "hms", options.seeds[0]), "--dry-run", "--json")
    settings = json.dumps(json.loads(rehearsed)["settings"])
    # Runs of other settings must not end up in the same table.
    options.folder = options.runs / f"{options.data}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
    runs = [(path, variant, seed) for seed in options.seeds for path in options.paths for variant in options.variants]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda run: measure(*run, options), runs))
    record = {
        "data": options.data,
        "steps": options.steps,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "torch": metadata.version("torch"),
        "commit": commit(),
        "settings": json.loads(settings),
        "runs": results,
    }
    suffix = "-paths" * (len(options.paths) > 1)
    target = ROOT / "benchmarks" / "results" / f"ablation-{options.data}{suffix}.json"
    target.write_text(json.dumps(record, indent=1) + "\n")
    write_results()


def measure(path: str, variant: str, seed: int, options: argparse.Namespace) -> dict:
    """One run, trained (or gone on with) and evaluated."""
    run = options.folder / f"{path}-{variant}-{seed}"
    settings = arguments(options, path, variant, seed)
    command("train", *settings, "--run", str(run), "--resume", "auto", "--quiet", plain=path == "plain")
    result = json.loads(command("eval", str(run), "--json", "--quiet"))
    print(f"{variant}{PATHS[path]}, seed {seed}: {result['directions']}", flush=True)
    named = {"path": path, "variant": variant, "seed": seed}
    return {**named, "directions": result["directions"], "protocol": result["protocol"]}


def arguments(options: argparse.Namespace, path: str, variant: str, seed: int) -> list[str]:
    """What is trained, as options of m2o-fast train."""
    named = ["--variant", variant, "--data", options.data, "--steps", str(options.steps), "--seed", str(seed)]
    return [*named, "--set", "threads=1", "--precision", "bf16" if path == "bf16" else "fp32"]


def commit() -> str:
    """The commit of this checkout, with a mark if it has changes."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip() or "unknown"


def command(*words: str, plain: bool = False) -> str:
    """Output of an m2o-fast command, run with the operations of torch if ``plain``; its errors go to the terminal."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"M2O_BACKEND": "reference"} if plain else {})
    done = subprocess.run(
        [sys.executable, "-m", "m2o_fast.cli", *words], env=environment, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"m2o-fast {' '.join(words)}: exit code {done.returncode}")
    return done.stdout


def write_results() -> None:
    """docs/results.md from every ablation in benchmarks/results/."""
    parts = [
        "# Results\n",
        "Made by `make ablation` (benchmarks/ablation.py) from `benchmarks/results/ablation-*.json`. Equal steps,",
        "equal networks, the test split, EMA weights, styles of random latents; mean ± standard deviation over the",
        "seeds. What each measure means, and its protocol: [metrics.md](metrics.md).",
    ]
    for path in sorted((ROOT / "benchmarks" / "results").glob("ablation-*.json"), key=lambda path: path.stem):
        parts += section(json.loads(path.read_text()))
    (ROOT / "docs" / "results.md").write_text("\n".join(parts) + "\n")


def section(record: dict) -> list[str]:
    """Heading and table of one ablation."""
    seeds = sorted({run["seed"] for run in record["runs"]})
    ceiling = statistics.mean(measures(run, "gray->color")["color_recall_ceiling"] for run in record["runs"])
    columns = {
        title: column
        for title, column in COLUMNS.items()
        if all(column[1] in measures(run, column[0]) for run in record["runs"])
    }
    several = len({run.get("path", "fast") for run in record["runs"]}) > 1
    lines = [
        f"\n## {record['data']}, {record['steps']:,} steps, seeds {', '.join(map(str, seeds))}"
        + f"{': is quality paid for speed?' if several else ''}\n",
        f"{record['machine']}, torch {record['torch']}, commit {record['commit']}. Ceiling of Color Recall at this "
        f"sample size: {ceiling:.3f}.\n",
        f"| variant | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for path, variant in dict.fromkeys((run.get("path", "fast"), run["variant"]) for run in record["runs"]):
        runs = [run for run in record["runs"] if (run.get("path", "fast"), run["variant"]) == (path, variant)]
        cells = []
        for direction, measure_name, form in columns.values():
            values = [measures(run, direction)[measure_name] for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{form.format(statistics.mean(values))} ± {form.format(spread)}")
        lines.append(f"| {NAMES[variant]}{PATHS[path]} | {' | '.join(cells)} |")
    return lines + (distances(record) if several else [])


def distances(record: dict) -> list[str]:
    """How far the means of the other paths are from that of plain torch, in its standard deviations."""
    found = []
    for path, variant in dict.fromkeys(
        (run["path"], run["variant"]) for run in record["runs"] if run["path"] != "plain"
    ):
        words = []
        for title in ("MSE, color to gray", "Color Recall"):
            plain, other = (values(record, at, variant, title) for at in ("plain", path))
            away = abs(statistics.mean(other) - statistics.mean(plain)) / statistics.stdev(plain)
            words.append(f"{away:.1f} ({title})")
        found.append(f"{NAMES[variant]}{PATHS[path]}: {', '.join(words)}")
    return ["\nMeans, in standard deviations of plain torch from its own. " + "; ".join(found) + "."]


def values(record: dict, path: str, variant: str, title: str) -> list[float]:
    """A column of the table for all seeds."""
    direction, name, _ = COLUMNS[title]
    return [
        measures(run, direction)[name] for run in record["runs"] if (run["path"], run["variant"]) == (path, variant)
    ]


def measures(run: dict, direction: str) -> dict:
    """The measures of a direction, of random styles where there are styles; earlier records hold no others."""
    found = run["directions"][direction]
    return found.get("none") or found.get("latent") or found


if __name__ == "__main__":
    main()

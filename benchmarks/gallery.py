"""The three variants side by side on MNIST: trains, measures, and writes docs/gallery.md and docs/gallery/report.html.

    python benchmarks/gallery.py [--steps N] [--seed N] [--jobs 2]
    python benchmarks/gallery.py --only RUN RUN ...      # from runs that are trained and evaluated already

Finished runs are not trained again. Pictures and tables are those of `m2o-fast report`.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from trials import command

from m2o_fast.m2o import VARIANTS
from m2o_fast.report import write_report
from m2o_fast.report.compare import grouped, side_by_side, summary
from m2o_fast.report.measures import measure
from m2o_fast.report.page import Sources
from m2o_fast.report.pictures import Figure, Strip
from m2o_fast.report.record import Record, read_record

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "gallery"
LARGEST = 1_500_000  # bytes of everything that is written: it is kept with the sources


def main() -> None:
    """Runs what is missing, then writes the gallery."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--steps", type=int, help="default: those of the recipe of the data set")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="runs at the same time")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "gallery")
    parser.add_argument("--only", type=Path, nargs="+", metavar="RUN")
    options = parser.parse_args()
    runs = options.only
    if runs is None:
        with ThreadPoolExecutor(options.jobs) as pool:
            runs = list(pool.map(lambda variant: trained(variant, options), VARIANTS))
    written = write_markdown([read_record(run, run.name) for run in runs])  # empties the folder first
    written.append(write_report(runs, PICTURES / "report.html", "cpu"))
    size = sum(path.stat().st_size for path in written)
    print(f"{len(written)} files, {size:,} bytes: {written[0]}, {PICTURES}")
    if size > LARGEST:
        raise SystemExit(f"that is more than {LARGEST:,} bytes: too much to keep; show fewer runs")


def trained(variant: str, options: argparse.Namespace) -> Path:
    """One run, trained (or gone on with) and evaluated."""
    run = options.runs / f"{options.data}-{options.seed}-{options.steps or 'recipe'}" / variant
    steps = ["--steps", str(options.steps)] if options.steps else []
    settings = ["--variant", variant, "--data", options.data, "--seed", str(options.seed), "--set", "threads=1", *steps]
    command("train", *settings, "--run", str(run), "--resume", "auto", "--quiet")
    command("eval", str(run), "--json")
    return run


def write_markdown(records: list[Record]) -> list[Path]:
    """docs/gallery.md and its pictures."""
    figures, problems = side_by_side(records, Sources(torch.device("cpu"), None, 0))
    if problems:
        raise SystemExit("; ".join(problems))
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    config = records[0].config
    assert config is not None  # or there would be problems
    lines = [
        "# Gallery\n",
        "Made by `make gallery` (benchmarks/gallery.py): each variant by its recipe, equal steps, the test split,",
        "averaged weights. The same as one page, with curves and all numbers: [report.html](gallery/report.html),",
        "made by `m2o-fast report` ([report.md](report.md)).\n",
        f"## {config.data.name}, {config.steps:,} steps, seed {config.seed}\n",
        *table(records),
    ]
    written = []
    for figure in figures:
        section, files = pictured(figure)
        lines += section
        written += files
    page = PICTURES.with_suffix(".md")
    page.write_text("\n".join(lines) + "\n")
    return [page, *written]


def table(records: list[Record]) -> list[str]:
    """The trade-off, as the report has it."""
    rows = {record.name: list(record.evaluation.rows()) for record in records if record.evaluation}
    found = summary(grouped(records), rows)
    names = [f"{measure(name).label}, {row} ({measure(name).better} is better)" for row, name in found.columns]
    lines = [f"| variant | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for group, spreads in found.rows:
        cells = ["–" if spread.mean is None else f"{spread.mean:.4g}" for spread in spreads]
        lines.append(f"| {group.label} | {' | '.join(cells)} |")
    return lines


def pictured(figure: Figure) -> tuple[list[str], list[Path]]:
    """A direction as a table of pictures, and their files."""
    stem = figure.title.replace(" ", "").replace("\N{RIGHTWARDS ARROW}", "-to-")
    lines, files = [f"\n## {figure.title}\n", "| | |", "|---|---|"], []
    for number, strip in enumerate(figure.strips):
        path = PICTURES / f"{stem}-{number}.png"
        path.write_bytes(base64.b64decode(strip.uri.partition(",")[2]))
        files.append(path)
        lines.append(f"| {strip.label} | {image(path, strip)} |")
    return [*lines, f"\n{figure.note}"], files


def image(path: Path, strip: Strip) -> str:
    """The picture at twice its size, so that 32 pixels can be looked at."""
    width = strip.width * 2 if strip.height < 64 else strip.width
    return f'<img src="{PICTURES.name}/{path.name}" width="{width}" alt="{strip.alt}">'


if __name__ == "__main__":
    main()

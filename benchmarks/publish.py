"""From pytest-benchmark's report to results/<device>.json, docs/benchmarks.md, the plots and the README's table.

    pytest benchmarks --full --benchmark-json=build/bench.json && python benchmarks/publish.py build/bench.json
    python benchmarks/publish.py            # only the pages, from the results that are there

A row keeps the group (operation, case, mode), the implementation, median, 20th and 80th percentile in seconds, and the
share of the measured copy bandwidth where the case is out of cache.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from comparison import Groups, duration, fastest

from m2o_fast.files import replacing

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PLOTS = ROOT / "docs" / "plots"
BASELINES = ("eager", "compile", "grouped", "numpy", "bincount")
#: the kernels that the package exists for, the least of all gains and a whole iteration
IN_README = ("adain_act", "AdaINResBlock", "modulated_conv2d", "conv2d", "up2_conv3x3", "color_recall", "train_step")


class Target(NamedTuple):
    """What the fused operation has to reach in every group that fits; factors over a baseline, or a share of copy."""

    words: str
    pattern: str  # of the group
    baseline: str  # an implementation, or "copy"
    cpu: float
    gpu: float
    missed_on_cpu: str = ""  # what stands against it, for the reader of a target that was missed


# What stands against targets, from counting memory passes (R, W: reads and writes of the largest tensor) and from
# measuring the convolutions alone.
DOWN2 = (
    "down2 reads x as often, and computes as much, as the case without resampling, but {} passes are counted instead "
    "of {}: at that one's speed, {} of its share. With channels_last, x (and the gradient) come twice from beyond the "
    "second-level cache where an image fills it: {} passes where {} are counted{}."
)
UP2 = "; up2 reads the gradient, four times as large as x, twice: 17 passes where 11 are counted"
MERGE = (
    "without resampling eager takes 7 passes forward + backward (sum 2R 1W, scaling 1R 1W, its gradient 1R 1W) and the "
    "kernels 5 (2R 1W, 1R 1W): 1.4x by counting, forward 1.7x; more only where writing past the caches helps. At 8x8 "
    "0.13 ms of 0.29 ms are autograd's call of Python, which costs eager 0.09 ms; for still smaller images the table "
    "of choices takes torch's own sum and product."
)
LEAKY = "with channels_last the kernel runs about as fast as a copy, so that nothing is left to gain there."

TARGETS = [
    Target("adain_act, forward, over eager", r"^adain_act .*, forward$", "eager", 5, 4),
    Target("adain_act, forward + backward, over eager", r"^adain_act .*, forward\+backward$", "eager", 4, 3),
    Target("adain_act in cache, over torch.compile", r"^adain_act .* in cache, ", "compile", 1.5, 1.3),
    Target("adain_act out of cache, over torch.compile", r"^adain_act .* out of cache, ", "compile", 1.15, 1.3),
    Target(
        "adain_act, forward, of copy speed",
        r"^adain_act .* out of cache, forward$",
        "copy",
        0.8,
        0.9,
        DOWN2.format("1.25", 2, "62 %", 3, 2, ""),
    ),
    Target(
        "adain_act, forward + backward, of copy speed",
        r"^adain_act .*, forward\+backward$",
        "copy",
        0.8,
        0.85,
        DOWN2.format("3.5", 5, "70 %", 8, 5, UP2),
    ),
    Target("residual_merge, over eager", r"^residual_merge ", "eager", 2, 2.5, MERGE),
    Target("leaky_relu_down2, over eager", r"^leaky_relu_down2 ", "eager", 2, 2.5, LEAKY),
    Target("scale_channels chains, over eager", r"^scale_bias_act ", "eager", 2, 2.5),
    Target("modulated_conv2d, over grouped convolution", r"^modulated_conv2d ", "grouped", 3, 2),
    Target("color_histogram, over numpy.histogramdd", r"^color_histogram ", "numpy", 20, 200),
    Target("color_histogram, over torch.bincount", r"^color_histogram ", "bincount", 4, 5),
    Target("AdaIN residual block, forward + backward", r"^AdaINResBlock .*, forward\+backward$", "eager", 1.4, 1.8),
]


def main() -> None:
    """Condenses the report, if one is named, and writes the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, nargs="?", help="what pytest --benchmark-json wrote")
    parser.add_argument("--note", default="", help="what a reader has to know of the run, such as other load")
    options = parser.parse_args()
    if options.report is not None:
        record = condense(json.loads(options.report.read_text()), options.note)
        write_record(RESULTS / f"{record['name']}.json", record)
    records = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    write_pages([record for record in records if "rows" in record])


# --- results ----------------------------------------------------------------------------------------------------------


def condense(report: dict[str, Any], note: str) -> dict[str, Any]:
    """The record of one run on one machine."""
    benches = [bench for bench in report["benchmarks"] if "seconds" in bench["extra_info"]]
    if not benches:
        raise SystemExit("publish: the report holds no benchmark of this project")
    facts = benches[0]["extra_info"]
    on_gpu = facts["device"] == "cuda"
    processor = report["machine_info"]["cpu"].get("brand_raw", "unknown processor")
    hardware = facts["gpu"] if on_gpu else f"{processor}, {facts['threads']} threads"
    return {
        "name": re.sub(r"[^a-z0-9]+", "-", hardware.lower()).strip("-"),
        "device": facts["device"],
        "hardware": hardware,
        "torch": facts["torch"],
        "python": report["machine_info"]["python_version"],
        "commit": commit(),
        "date": report["datetime"][:10],
        "copy_bandwidth": facts["copy_bandwidth"],
        "note": note,
        "rows": [row(bench["group"], bench["extra_info"]) for bench in benches],
    }


def row(group: str, facts: dict[str, Any]) -> dict[str, Any]:
    """One implementation of one group."""
    kept = ("implementation", "seconds", "p20", "p80", "copy_share", "peak_bytes")
    return {"group": group} | {name: float(f"{facts[name]:.4g}") if name != "implementation" else facts[name]
                               for name in kept if name in facts}  # fmt: skip


def write_record(path: Path, record: Any) -> None:
    """Whoever ends the process meanwhile finds the file as it was before."""
    with replacing(path) as file:
        file.write(f"{json.dumps(record, indent=1)}\n".encode())


def commit() -> str:
    """The commit of this checkout, with a mark if it has changes."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip() or "unknown"


def groups_of(record: dict[str, Any]) -> Groups:
    """Rows by group and implementation."""
    groups: Groups = defaultdict(dict)
    for entry in record["rows"]:
        groups[entry["group"]][entry["implementation"]] = entry
    return dict(groups)


def operation(group: str) -> str:
    """The first word, which names the operation."""
    return group.split()[0]


# --- pages ------------------------------------------------------------------------------------------------------------


def write_pages(records: list[dict[str, Any]]) -> None:
    """docs/benchmarks.md, docs/plots/*.svg and the part of the README between its marks, a few of the rows."""
    PLOTS.mkdir(exist_ok=True)
    for old in PLOTS.glob("*.svg"):
        if not old.name.startswith("iteration-"):  # those are profile_step.py's
            old.unlink()
    lines = [
        "# Benchmarks\n",
        "Made by `make bench` (benchmarks/publish.py) from `benchmarks/results/*.json`. Medians, side by side in one",
        "run, after the results were found right; inputs larger than the caches take turns, unless `in cache`.",
        "Copy speed is that of a copy into warm memory, counting the bytes that any implementation has to move.",
        "`pytest benchmarks` measures a part of it in a few minutes (every operation, few shapes, float32) and ends",
        "with one table: how many times as fast as plain torch, `torch.compile` and numpy, on your machine. `--full`",
        "measures all; `--threads N` says with how many threads.\n",
        "## One case of every operation\n",
        *overview(records),
        "## Targets\n",
        *targets(records),
    ]
    for record in records:
        lines += section(record)
        plot(record)
    (ROOT / "docs" / "benchmarks.md").write_text("\n".join(lines) + "\n")
    replace_between(ROOT / "README.md", "benchmarks: made by make bench", "end of benchmarks", headline(records))


def pyplot() -> Any:
    """That of matplotlib, for SVG files that are equal for equal figures. Where one only measures, it is not needed."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "m2o_fast", "font.size": 9})
    return plt


def replace_between(path: Path, begin: str, end: str, lines: list[str]) -> None:
    """Puts the lines between the two marks of a page, which are comments."""
    begin, end = f"<!-- {begin} -->", f"<!-- {end} -->"
    before, _, rest = path.read_text().partition(begin)
    after = rest.partition(end)[2]
    path.write_text(f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}")


def measured(record: dict[str, Any], target: Target) -> list[tuple[float, str]]:
    """What every group that fits reached, the least first. Targets on a CPU are for float32 only."""
    reached = []
    for group, rows in groups_of(record).items():
        ours = fastest(rows)
        if ours is None or not re.search(target.pattern, group):
            continue
        if record["device"] == "cpu" and "float16" in group:  # or bfloat16
            continue
        if target.baseline == "copy" and "copy_share" in ours:
            reached.append((ours["copy_share"], group))
        elif target.baseline in rows:
            reached.append((rows[target.baseline]["seconds"] / ours["seconds"], group))
    return sorted(reached)


def targets(records: list[dict[str, Any]]) -> list[str]:
    """Target and least measured value, per kind of device; below the table, what stands against those missed."""
    remarks = []
    lines = [
        "| target, in every case measured | CPU, float32 | least on a CPU | GPU | least on a GPU |",
        "|---|---|---|---|---|",
    ]
    for target in TARGETS:
        form = "{:.0%}".format if target.baseline == "copy" else "{:.3g}x".format
        cells = [target.words]
        for device, aim in (("cpu", target.cpu), ("cuda", target.gpu)):
            there = [record for record in records if record["device"] == device]
            found = [(value, f"{group}; {record['hardware']}")
                     for record in there for value, group in measured(record, target)]  # fmt: skip
            least = min(found, default=None)
            missing = "not run on a GPU" if device == "cuda" else "not measured"
            met = "" if least is None or least[0] >= aim else f" **missed** ({least[1]})"
            cells += [f">= {form(aim)}", missing if least is None else f"{form(least[0])}{met}"]
            if met and device == "cpu" and target.missed_on_cpu:
                remarks.append(f"- {target.words}: {target.missed_on_cpu}")
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, *(["\nWhat stands against the targets missed on a CPU:\n", *remarks] if remarks else [])]


def section(record: dict[str, Any]) -> list[str]:
    """All rows of one machine."""
    versions = f"torch {record['torch']}, Python {record['python']}, commit {record['commit']}, {record['date']}"
    lines = [f"\n## {record['hardware']}\n", f"{versions}. Copy: {record['copy_bandwidth'] / 1e9:.1f} GB/s."]
    lines += [record["note"]] if record["note"] else []
    for name in dict.fromkeys(map(operation, groups_of(record))):
        lines += [f"\n![{name}](plots/{name}-{record['name']}.svg)\n"]
        lines += ["| case | implementation | median | p20 to p80 | over eager | over torch.compile | of copy speed |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for group, rows in groups_of(record).items():
            if operation(group) == name:
                lines += table_rows(group, rows)
    return lines


def table_rows(group: str, rows: dict[str, dict[str, Any]]) -> list[str]:
    """One line per implementation."""
    lines = []
    for implementation, entry in rows.items():
        factors = [ratio(rows, baseline, entry) for baseline in ("eager", "compile")]
        share = f"{entry['copy_share']:.0%}" if "copy_share" in entry else ""
        spread = f"{duration(entry['p20'])} to {duration(entry['p80'])}" if "p20" in entry else ""
        peak = f", peak {entry['peak_bytes'] / 2**20:.0f} MiB" if "peak_bytes" in entry else ""
        cells = [group, implementation + peak, duration(entry["seconds"]), spread, *factors, share]
        lines.append("| " + " | ".join(cells) + " |")
        group = ""
    return lines


def ratio(rows: dict[str, dict[str, Any]], baseline: str, entry: dict[str, Any]) -> str:
    """How many times as fast as the baseline."""
    return f"{rows[baseline]['seconds'] / entry['seconds']:.2f}x" if baseline in rows else ""


def headline(records: list[dict[str, Any]]) -> list[str]:
    """The README's table."""
    lines = overview(records, IN_README)
    if all(record["device"] == "cpu" for record in records):
        lines.append("GPU: not run on a GPU yet.")
    return [*lines, "All operations, cases, implementations and targets: [docs/benchmarks.md](docs/benchmarks.md)."]


def overview(records: list[dict[str, Any]], operations: Collection[str] | None = None) -> list[str]:
    """One case of every operation, or of those named, with its gradients where it has any, over its first baseline."""
    lines = []
    for record in records:
        lines += [f"{record['hardware']}, torch {record['torch']}:\n"]
        lines += ["| case | baseline | its median | m2o_fast | times as fast |", "|---|---|---|---|---|"]
        groups = groups_of(record)
        for name in dict.fromkeys(map(operation, groups)):
            group = shown_case([group for group in groups if operation(group) == name])
            rows, ours = groups[group], fastest(groups[group])
            baseline = next((name for name in BASELINES if name in rows), None)
            if ours is None or baseline is None or (operations is not None and name not in operations):
                continue
            slow = rows[baseline]["seconds"]
            cells = [group, baseline, duration(slow), duration(ours["seconds"]), f"{slow / ours['seconds']:.1f}x"]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def shown_case(groups: list[str]) -> str:
    """The first of an operation's groups that goes forward and backward, else the first."""
    return next((group for group in groups if group.endswith(", forward+backward")), groups[0])


def plot(record: dict[str, Any]) -> None:
    """Per operation: times as fast as the first baseline, one bar per implementation."""
    plt = pyplot()
    groups = groups_of(record)
    for name in dict.fromkeys(map(operation, groups)):
        chosen = {group: rows for group, rows in groups.items() if operation(group) == name}
        baseline = next(name for name in (*BASELINES, "reference") if all(name in rows for rows in chosen.values()))
        implementations = list(dict.fromkeys(key for rows in chosen.values() for key in rows))
        height = 0.8 / len(implementations)
        figure, axes = plt.subplots(figsize=(9, 0.9 + 0.16 * len(chosen) * (len(implementations) + 1)))
        for index, implementation in enumerate(implementations):
            bars = [(at + index * height, rows[baseline]["seconds"] / rows[implementation]["seconds"])
                    for at, rows in enumerate(chosen.values()) if implementation in rows]  # fmt: skip
            drawn = axes.barh([at for at, _ in bars], [value for _, value in bars], height, label=implementation)
            axes.bar_label(drawn, fmt="%.1f", padding=2, fontsize=7)
        axes.set_yticks(
            [at + 0.4 - height / 2 for at in range(len(chosen))], [group[len(name) + 1 :] for group in chosen]
        )
        axes.invert_yaxis()
        axes.set_xlabel(f"times as fast as {baseline} ({record['hardware']})")
        axes.set_title(name)
        axes.legend(fontsize=7, loc="lower right")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(PLOTS / f"{name}-{record['name']}.svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main()

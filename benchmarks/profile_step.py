"""Where the time of one training iteration goes: benchmarks/results/train-step-<hardware>.json, docs/performance.md.

    python benchmarks/profile_step.py                       # measures on this machine, then writes the page
    python benchmarks/profile_step.py --process-time        # processor time, for a busy machine; one thread
    python benchmarks/profile_step.py --page                # only the page, from the results that are there

The iterations of benchmarks/train_step.py take turns, and the median counts. The shares come from further
iterations in which every operator is timed as it is dispatched; the rest up to the median is Python, allocation and the
dispatch itself. Optimizer and average are one share, whatever operators they use. The file is written anew after each
turn, share and peak, so that a run which is ended early has lost nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from publish import PLOTS, RESULTS, ROOT, commit, pyplot, replace_between, write_record
from torch.utils._python_dispatch import TorchDispatchMode
from train_step import CASES, DEVICE, ITERATIONS, OPT_INS, WARM_UP, Case, is_convolution, peak_bytes, plain

#: kind of work -> what its operators' names hold; the first kind that fits counts
KINDS = {
    "normalisation, activation": r"adain_act|scale_bias_act|batch_norm|leaky_relu(?!_down2)|threshold|relu\.|softplus",
    "optimizer, average": r"_fused_adam|_foreach_",
    "resampling": r"avg_pool|upsample|leaky_relu_down2",
    "elementwise": r"residual_merge|::(add|sub|mul|div|abs|sgn|sign|neg|mean|sum|square|pow|cat|copy|clone|index)",
}
ORDER = ("convolution", *KINDS, "other")
#: iterations whose time is shared out
SHARED = ("plain-fp32", "fast-fp32")
#: iterations whose memory is measured, the columns of the page
PEAKS = (*SHARED, "fast-bf16")
#: sizes for --few
FEW = Case("few", 32, 4, 8, 4)


class Target(NamedTuple):
    """What one iteration has to reach: ``above / below``, figures of two iterations.

    Attributes:
        words: What it is.
        figure: Key of the figures, ``"seconds"`` or ``"peak_bytes"``.
        above: Name of an iteration. Of a fast one, where there is one as a graph too, the better counts.
        below: The same.
        cpu: Value to reach on a CPU; ``None``: there is no such iteration there.
        gpu: The same on a GPU.
        at_least: Whether more is better.
    """

    words: str
    figure: str
    above: str
    below: str
    cpu: float | None
    gpu: float
    at_least: bool


_FP32, _TF32, _BF16 = "fast-fp32", "fast-tf32", "fast-bf16"
TARGETS = [
    Target("times as fast as plain torch, float32", "seconds", "plain-fp32", _FP32, 2.2, 2.5, True),
    Target("times as fast as plain torch, tf32", "seconds", "plain-tf32", _TF32, None, 2.5, True),
    Target("bfloat16, times as fast as plain torch in float32", "seconds", "plain-fp32", _BF16, 3, 6, True),
    Target("bfloat16, times as fast as plain torch in tf32", "seconds", "plain-tf32", _BF16, None, 6, True),
    Target("iteration / its convolutions alone", "seconds", _FP32, "convolutions-fp32", 1.35, 1.6, False),
    Target("peak memory / that of plain torch", "peak_bytes", _FP32, "plain-fp32", 0.7, 0.5, False),
]


# --- measuring --------------------------------------------------------------------------------------------------------


class Profile(TorchDispatchMode):
    """Seconds per kind of work."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock, self.region = clock, ""
        self.seconds: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        begin = self.clock()
        result = func(*args, **(kwargs or {}))
        self.seconds[self.region or kind_of(func)] += self.clock() - begin
        return result

    @contextmanager
    def inside(self, region: str) -> Iterator[None]:
        """Counts all that happens as one kind."""
        self.region = region
        yield
        self.region = ""


def kind_of(function: Any) -> str:
    """The kind of work of a dispatched operator."""
    if is_convolution(function):
        return "convolution"
    name = function.name()
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), "other")


def shares(run: Callable[[], object], clock: Callable[[], float], seconds: float, rounds: int) -> dict[str, float]:
    """Seconds per kind of work in one iteration that takes ``seconds`` when nobody watches."""
    profile = Profile(clock)

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            with profile.inside("optimizer, average"):
                return method(*arguments, **options)

        return wrapper

    with ExitStack() as stack:
        for owner, name in ((torch.optim.Adam, "step"), (plain.TrainerBase, "finish_iteration")):
            stack.enter_context(mock.patch.object(owner, name, counted(getattr(owner, name))))
        with profile:
            for _ in range(rounds):
                run()
    found = {kind: profile.seconds[kind] / rounds for kind in ORDER}
    found["other"] += max(0.0, seconds - sum(found.values()))
    return found


class Options(NamedTuple):
    """How to measure."""

    case: Case
    rounds: int
    clock: Callable[[], float]
    note: str
    folder: Path


class Recording:
    """The record of this machine, which is kept in a file as it grows."""

    def __init__(self, options: Options) -> None:
        self.record = facts(options)
        self.path = options.folder / f"train-step-{self.record['name']}.json"
        self.runs: dict[str, Callable[[], object]] = {}
        self.failed: list[str] = []

    def attempt(self, name: str, action: Callable[[str], None]) -> None:
        """Leaves an iteration out from where it fails: the others are worth measuring all the same."""
        try:
            action(name)
        except Exception as error:
            self.failed.append(name)
            self.runs.pop(name, None)
            print(f"{name} failed: {type(error).__name__}: {error}", flush=True)
        write_record(self.path, self.record)


def measure(options: Options) -> list[str]:
    """Writes the record. Returns the names of the iterations that failed."""
    recording = Recording(options)
    record, runs = recording.record, recording.runs

    def timer() -> float:
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return options.clock()

    def make(name: str) -> None:
        runs[name] = (ITERATIONS | OPT_INS)[name](options.case)
        for _ in range(WARM_UP + 1 if name.startswith("graphed") else 1):
            runs[name]()

    def run_once(name: str) -> None:
        begin = timer()
        runs[name]()
        record["samples"].setdefault(name, []).append(timer() - begin)
        record["seconds"][name] = statistics.median(record["samples"][name])

    def share(name: str) -> None:
        record["shares"][name] = shares(runs[name], timer, record["seconds"][name], 2)

    def peak(name: str) -> None:
        record["peak_bytes"][name] = peak_bytes(name)

    for name in SHARED if options.case == FEW else ITERATIONS | OPT_INS:
        recording.attempt(name, make)
    for turn in range(options.rounds):
        record["rounds"] = turn + 1
        for name in list(runs):
            recording.attempt(name, run_once)
    for name in SHARED:
        if name in runs:
            recording.attempt(name, share)
    if options.case == CASES[0]:  # train_step.py measures no other's memory
        for name in PEAKS:
            if name in runs:
                recording.attempt(name, peak)
    return recording.failed


def facts(options: Options) -> dict[str, Any]:
    """A record without figures."""
    on_gpu = DEVICE.type == "cuda"
    hardware = torch.cuda.get_device_name() if on_gpu else f"{processor()}, {torch.get_num_threads()} threads"
    words = hardware if options.case == CASES[0] else f"{hardware} {options.case.name}"
    return {
        "name": re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-"),
        "device": DEVICE.type,
        "hardware": hardware,
        "case": str(options.case),
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "clock": "processor time" if options.clock is time.process_time else "wall time",
        "note": options.note,
        "rounds": 0,
        "seconds": {},
        "samples": {},
        "shares": {},
        "peak_bytes": {},
    }


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


# --- the page ---------------------------------------------------------------------------------------------------------


def write_page() -> None:
    """The plots, and the part of docs/performance.md between its marks, from the results that are there."""
    records = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("train-step-*.json"))]
    lines = targets(records)
    for record in records:
        lines += section(record)
        if record["shares"]:
            plot(record)
    replace_between(ROOT / "docs" / "performance.md", "measured: made by make bench", "end of measured", lines)


def targets(records: list[dict[str, Any]]) -> list[str]:
    """What was aimed at and what was measured."""
    lines = ["| | target, CPU | target, GPU | " + " | ".join(record["hardware"] for record in records) + " | GPU |"]
    lines += ["|---" * (4 + len(records)) + "|"]
    for target in TARGETS:
        relation = ">=" if target.at_least else "<="
        cells = [target.words, *(f"{relation} {aim}x" if aim else "" for aim in (target.cpu, target.gpu))]
        cells += [reached(record, target) for record in records]
        cells.append("" if any(record["device"] == "cuda" for record in records) else "not run on a GPU")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def reached(record: dict[str, Any], target: Target) -> str:
    """What a machine reached of a target; a dash where it was not measured."""
    aim = target.cpu if record["device"] == "cpu" else target.gpu
    if aim is None:
        return ""
    figures = record[target.figure]
    if target.above not in figures or target.below not in figures:
        return "-"

    def least(name: str) -> float:
        return min(figures[way] for way in (name, name.replace("fast", "graphed")) if way in figures)

    value = least(target.above) / least(target.below)
    met = value >= aim if target.at_least else value <= aim
    return f"{value:.2f}x" + ("" if met else " **missed**")


def section(record: dict[str, Any]) -> list[str]:
    """One machine: medians, and where they come from."""
    facts = f"{record['case']}, torch {record['torch']}, commit {record['commit']}, {record['date']}"
    facts += f"; medians of {record['rounds']} turns, {record['clock']}."
    lines = [f"\n## {record['hardware']}\n", facts]
    lines += [record["note"]] if record["note"] else []
    lines += [f"\n![shares](plots/iteration-{record['name']}.svg)\n"] if record["shares"] else [""]
    lines += ["| | plain, float32 | fast, float32 | share | fast, bfloat16 |", "|---|---|---|---|---|"]
    shares = [record["shares"].get(name, {}) for name in SHARED]
    for kind in ORDER:
        share = f"{shares[1][kind] / sum(shares[1].values()):.0%}" if shares[1] else "-"
        lines.append(f"| {kind} | {in_ms(shares[0], kind)} | {in_ms(shares[1], kind)} | {share} | |")
    seconds, peak = record["seconds"], record["peak_bytes"]
    plain_time, fast_time, half_time = (in_ms(seconds, name) for name in PEAKS)
    lines.append(f"| **iteration** | {plain_time} | {fast_time} | | {half_time} |")
    if record["device"] == "cuda":
        lines.append(f"| as a graph | | {in_ms(seconds, 'graphed-fp32')} | | {in_ms(seconds, 'graphed-bf16')} |")
    lines.append(f"| convolutions alone | | {in_ms(seconds, 'convolutions-fp32')} | | |")
    lines += [f"| opt-in, other numbers: {name} | | {in_ms(seconds, name)} | | |" for name in OPT_INS]
    if peak:
        peaks = (f"{peak[name] / 2**20:.0f} MiB" if name in peak else "-" for name in PEAKS)
        lines.append("| peak memory | {} | {} | | {} |".format(*peaks))
    return lines


def in_ms(seconds: dict[str, float], name: str) -> str:
    """A dash where it was not measured."""
    return f"{seconds[name] * 1e3:.0f} ms" if name in seconds else "-"


def plot(record: dict[str, Any]) -> None:
    """Both iterations as stacked bars."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 2.2))
    begins = {name: 0.0 for name in record["shares"]}
    for kind in ORDER:
        widths = [found[kind] * 1e3 for found in record["shares"].values()]
        axes.barh(list(begins), widths, 0.6, left=list(begins.values()), label=kind)
        begins = {name: begin + width for (name, begin), width in zip(begins.items(), widths, strict=True)}
    bound = record["seconds"].get("convolutions-fp32", math.nan) * 1e3
    axes.plot([bound, bound], [0.6, 1.4], "k--", linewidth=1, label="convolutions alone")
    axes.invert_yaxis()
    axes.set_xlabel(f"ms per iteration ({record['case']}, {record['hardware']}, {record['clock']})")
    axes.legend(fontsize=7, loc="upper center", ncols=4, bbox_to_anchor=(0.5, -0.3))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PLOTS / f"iteration-{record['name']}.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Measures, unless only the page is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--no-page", action="store_true", help="only measure; needs no matplotlib")
    parser.add_argument("--process-time", action="store_true", help="count processor time in place of wall time")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each iteration")
    parser.add_argument("--case", nargs="+", default=[CASES[0].name], help="sizes, each a record of its own")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder for the result")
    parser.add_argument(
        "--few", action="store_true", help="one turn of two iterations that are too small to tell anything"
    )
    parser.add_argument("--note", default="", help="what a reader has to know of the run, such as other load")
    options = parser.parse_args()
    failed: list[str] = []
    if not options.page:
        known = {case.name: case for case in CASES}
        if not options.few and (unknown := [name for name in options.case if name not in known]):
            parser.error(f"no case {', '.join(unknown)} on this device; there are {', '.join(known)}")
        clock = time.process_time if options.process_time else time.perf_counter
        for case in [FEW] if options.few else [known[name] for name in options.case]:
            rounds = 1 if options.few else options.rounds
            failed += measure(Options(case, rounds, clock, options.note, options.out))
    if not options.no_page:
        write_page()
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

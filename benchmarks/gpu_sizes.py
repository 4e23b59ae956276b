"""The operations on images of a GPU's size, in float32 and bfloat16, contiguous and channels_last.

    python benchmarks/gpu_sizes.py build/gpu-sizes.json

The benchmarks of test_adain.py, test_residual.py and test_modulate.py, which find the results right first, timed by
CUDA events. The file, in the form of benchmarks/results/, is written anew after each row, so that a run which is ended
early has lost nothing; what matters most is measured first, and torch.compile, which takes long to compile, last.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from conftest import DEVICE, ImageCase
from publish import commit, row, write_record
from test_adain import test_adain_act
from test_modulate import test_chain
from test_residual import test_leaky_relu_down2, test_residual_merge

LAYOUTS = list(itertools.product([torch.float32, torch.bfloat16], [False, True]))
SHAPES = [(8, 64, 256, 256), (8, 128, 128, 128)]
CASES = [ImageCase(shape, *layout) for shape, layout in itertools.product(SHAPES, LAYOUTS)]
#: for --few
FEW = [ImageCase((2, 4, 8, 8), in_cache=True)]
MODES = ["forward", "forward+backward"]
#: a row takes so many rounds, and more until so many seconds are over
LEAST_ROUNDS, LEAST_SECONDS = 7, 0.1
CALLS = 10  # in a round: their launches overlap, as they do in training

Bench = Callable[["Row", Callable[..., None]], None]


class Row:
    """What a benchmark is handed in place of pytest-benchmark's fixture, and where its result goes."""

    def __init__(self, copy_bandwidth: float) -> None:
        self.copy_bandwidth = copy_bandwidth
        self.group = ""
        self.facts: dict[str, Any] = {}

    def measure(self, call: Callable[[int], object], implementation: str, moved: int | None = None) -> None:
        """Times ``call(i)`` for i = 0, 1, ...; at least ``moved`` bytes go through memory."""
        rounds = sorted(time_rounds(call))
        self.facts = {"implementation": implementation, "seconds": statistics.median(rounds)}
        for name, share in (("p20", 0.2), ("p80", 0.8)):
            self.facts[name] = rounds[round(share * (len(rounds) - 1))]
        if moved is not None:
            self.facts["copy_share"] = moved / self.facts["seconds"] / self.copy_bandwidth


def time_rounds(call: Callable[[int], object]) -> list[float]:
    """Seconds of a call, once per round."""
    turns = itertools.count()
    for _ in range(3):
        call(next(turns))
    rounds: list[float] = []
    while len(rounds) < LEAST_ROUNDS or sum(rounds) * CALLS < LEAST_SECONDS:
        rounds.append(time_round(call, turns))
    return rounds


def time_round(call: Callable[[int], object], turns: Iterator[int]) -> float:
    if DEVICE.type != "cuda":
        begin = time.perf_counter()
        for _ in range(CALLS):
            call(next(turns))
        return (time.perf_counter() - begin) / CALLS
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(CALLS):
        call(next(turns))
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / CALLS


def copy_bandwidth(numbers: int) -> float:
    """Bytes per second, read and written, of a copy."""
    source, target = torch.randn(numbers, device=DEVICE), torch.ones(numbers, device=DEVICE)
    return 8 * numbers / statistics.median(time_rounds(lambda turn: target.copy_(source)))


def benches(few: bool) -> Iterator[Bench]:
    """Every benchmark of a case, mode and implementation, Triton later: its compiler takes seconds per kernel."""
    merge, chain = partial(test_residual_merge, resample=None), partial(test_chain, operation="scale_bias_act")
    cases = FEW if few else CASES
    for implementations in (["eager", "compiled"], ["triton"] * (DEVICE.type == "cuda")):
        every = list(itertools.product(cases, MODES, implementations))
        for operation in (test_adain_act, merge, test_leaky_relu_down2, chain):
            for case, mode, implementation in every:
                yield partial(operation, case=case, mode=mode, implementation=implementation)
        for resample, (case, mode, implementation) in itertools.product(("up2", "down2"), every):
            case = case._replace(resample=resample)
            yield partial(test_adain_act, case=case, mode=mode, implementation=implementation)
    for case, mode in itertools.product([] if few else cases, MODES):
        yield partial(test_adain_act, case=case, mode=mode, implementation="compile")


def facts(bandwidth: float) -> dict[str, Any]:
    """A record without rows, as publish.py reads it."""
    hardware = torch.cuda.get_device_name() if DEVICE.type == "cuda" else platform.machine()
    return {
        "name": re.sub(r"[^a-z0-9]+", "-", hardware.lower()).strip("-"),
        "device": DEVICE.type,
        "hardware": hardware,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "copy_bandwidth": bandwidth,
        "note": "",
        "rows": [],
    }


def main() -> None:
    """Measures all rows; one that fails is printed and costs no other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="the file to write")
    parser.add_argument("--few", action="store_true", help="images that are too small to tell anything")
    options = parser.parse_args()
    record = facts(copy_bandwidth(2**10 if options.few else 2**26))
    failures = 0
    for bench in benches(options.few):
        measured = Row(record["copy_bandwidth"])
        try:
            bench(measured, measured.measure)
        except Exception as error:  # a wrong result, or out of memory
            failures += 1
            print(f"{measured.group}: {type(error).__name__}: {error}", flush=True)
            continue
        record["rows"].append(row(measured.group, measured.facts))
        write_record(options.record, record)
        print(
            f"{measured.group}, {measured.facts['implementation']}: {measured.facts['seconds'] * 1e6:.0f} us",
            flush=True,
        )
    if failures:
        raise SystemExit(f"{failures} failed")


if __name__ == "__main__":
    main()

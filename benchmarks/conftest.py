"""Benchmarks: ``pytest benchmarks`` for the speed of every operation in a few minutes, ``--full`` for all there is.

Without ``--full``, most shapes are left out, 16-bit numbers, channels_last but for conv2d, peak memory, implementations
that are neither ours nor a baseline of the table, and torch.compile but for the first case of an operation, since
compiling takes longer than measuring. A measurement takes a fifth of a second, but at least three rounds.

Every benchmark names its implementation; a table at the end says how many times as fast as the others ours is. The
table of pytest-benchmark, one line for each implementation, appears when one of its options is given.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import statistics
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import comparison
import pytest
import torch

from m2o_fast.ops.adain import Resample

CACHE_BYTES = 1 << 27  # inputs that take turns hold more than this: no cache does
FOLDER = Path(__file__).resolve().parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
QUICK_SECONDS, QUICK_ROUNDS = 0.2, 3
QUICK_IMPLEMENTATIONS = {*comparison.EAGER, *comparison.FUSED, "compile", "numpy", "plain-fp32", "fast-fp32"}
#: options of pytest-benchmark that are about its own table, or that its table carries out
OF_ITS_TABLE = ("columns", "sort", "group-by", "name", "compare", "histogram", "cprofile", "verbose")
LEFT_OUT = pytest.StashKey[int]()


class ImageCase(NamedTuple):
    """Images that an operation is measured on."""

    shape: tuple[int, int, int, int]
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    in_cache: bool = False  # the same tensors every time, else tensors that no cache holds
    resample: Resample | None = None

    def __str__(self) -> str:
        words = ["x".join(map(str, self.shape)), str(self.dtype).removeprefix("torch.")]
        words += ["channels_last"] * self.channels_last + ([self.resample] if self.resample else [])
        return " ".join([*words, "in cache" if self.in_cache else "out of cache"])


def keep_freed_memory() -> None:
    """Makes glibc reuse large blocks instead of handing them back to the kernel.

    Else every large output is fresh memory, and what is measured is page faults, for every implementation alike.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


keep_freed_memory()


def pytest_addoption(parser: pytest.Parser) -> None:
    amount = parser.getgroup("m2o_fast").addoption
    amount("--full", action="store_true", help="all shapes, dtypes, memory layouts and baselines: half an hour")
    amount("--quick", action="store_true", help="what every operation reaches, in a few minutes; the default")
    amount("--threads", type=int, metavar="N", help="threads of torch and of the kernels; default: torch's own choice")


def given(config: pytest.Config, *options: str) -> bool:
    """Whether the command line names one of these options of pytest-benchmark."""
    words = tuple(f"--benchmark-{option}" for option in options)
    return any(argument.startswith(words) for argument in config.invocation_params.args)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: only with --full")
    threads = config.getoption("--threads")
    if threads is not None:
        if threads < 1:
            raise pytest.UsageError(f"--threads must be at least 1, not {threads}")
        os.environ["OMP_NUM_THREADS"] = str(threads)  # of processes that benchmarks start
        torch.set_num_threads(threads)
    if not config.getoption("--full"):
        if not given(config, "max-time"):
            config.option.benchmark_max_time = str(QUICK_SECONDS)
        if not given(config, "min-rounds"):
            config.option.benchmark_min_rounds = QUICK_ROUNDS


def pytest_sessionstart(session: pytest.Session) -> None:
    # only its table, not what it says about files and settings
    session.config._benchmarksession.quiet |= not given(session.config, *OF_ITS_TABLE)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    first: dict[tuple[str, object], dict[str, object]] = {}
    chosen = [item for item in items if item.path.parent != FOLDER or is_quick(item, first)]
    config.stash[LEFT_OUT] = len(items) - len(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
    items[:] = chosen


def is_quick(item: pytest.Item, first: dict[tuple[str, object], dict[str, object]]) -> bool:
    """Whether the item is measured without --full. ``first`` holds the first case of each operation seen so far."""
    facts = dict(item.callspec.params)
    implementation = facts.pop("implementation", facts.pop("way", None))
    if item.get_closest_marker("full") or implementation not in QUICK_IMPLEMENTATIONS:
        return False
    facts.pop("mode", None)
    operation = item.originalname, facts.pop("operation", None)
    return first.setdefault(operation, facts) == facts or implementation != "compile"


@lru_cache(maxsize=1)
def once_for_all(make: Callable[..., Any], *arguments: Any) -> Any:
    """``make(*arguments)``, where all implementations and modes of a case take the same. Only the last is kept."""
    return make(*arguments)


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


@pytest.fixture(scope="session")
def copy_bandwidth(pytestconfig: pytest.Config) -> float:
    """Bytes per second, read and written, of a copy into memory that was touched before and is in no cache."""
    # processor time, --benchmark-timer=time.process_time, is what to compare on a busy machine with one thread
    busy = "process_time" in str(pytestconfig.getoption("benchmark_timer"))
    clock = time.process_time if busy else time.perf_counter
    numbers = CACHE_BYTES // 4
    pairs = [(torch.randn(numbers, device=DEVICE), torch.ones(numbers, device=DEVICE)) for _ in range(2)]
    seconds = []
    for (source, target), _ in zip(itertools.cycle(pairs), range(20), strict=False):
        synchronize()
        start = clock()
        target.copy_(source)
        synchronize()
        seconds.append(clock() - start)
    return 8 * numbers / statistics.median(seconds[4:])


@pytest.fixture(scope="session")
def quick(pytestconfig: pytest.Config) -> bool:
    """Whether only a part is measured, in few rounds."""
    return not pytestconfig.getoption("--full")


@pytest.fixture
def measure(benchmark, copy_bandwidth: float, quick: bool, pytestconfig: pytest.Config) -> Callable[..., None]:
    """Times ``call(i)`` for i = 0, 1, ...; at least ``moved`` bytes go through memory (None: through caches)."""

    def run(call: Callable[[int], object], implementation: str, moved: int | None = None) -> None:
        turn = itertools.count()
        min_rounds = pytestconfig.getoption("benchmark_min_rounds")
        calls = 20 if DEVICE.type == "cuda" else 1  # the launches of one round overlap, as they do in training

        def once() -> None:
            for _ in range(calls):
                call(next(turn))
            synchronize()

        start = time.perf_counter()
        for _ in range(1 if quick else 3):
            once()
        if quick and time.perf_counter() - start > QUICK_SECONDS:
            benchmark.pedantic(once, rounds=min_rounds)  # spares the call that finds out how many to time at once
        else:
            benchmark(once)
        if benchmark.stats is None:  # --benchmark-disable
            return
        seconds = benchmark.stats.stats.median / calls
        benchmark.extra_info |= {"implementation": implementation, "seconds": seconds, "device": DEVICE.type}
        benchmark.extra_info |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
        benchmark.extra_info["copy_bandwidth"] = copy_bandwidth
        if DEVICE.type == "cuda":
            benchmark.extra_info["gpu"] = torch.cuda.get_device_name()
        rounds = sorted(benchmark.stats.stats.data)
        for name, share in (("p20", 0.2), ("p80", 0.8)):
            benchmark.extra_info[name] = rounds[round(share * (len(rounds) - 1))] / calls
        if moved is not None:
            benchmark.extra_info["copy_share"] = moved / seconds / copy_bandwidth

    return run


@pytest.hookimpl(trylast=True)  # below the table of pytest-benchmark
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    config = terminalreporter.config
    session = config._benchmarksession
    groups: comparison.Groups = {}
    for bench in session.benchmarks:
        if "seconds" in bench.extra_info:
            groups.setdefault(bench.group, {})[bench.extra_info["implementation"]] = bench.extra_info
    if any(map(comparison.fastest, groups.values())) and not config.getoption("benchmark_quiet"):
        facts = next(iter(next(iter(groups.values())).values()))
        terminalreporter.section("times as fast as others, on this machine")
        for line in [*heading(facts, session.get_machine_info()), "", *comparison.table(groups)]:
            terminalreporter.write_line(line)
    left_out = config.stash.get(LEFT_OUT, 0)
    if left_out:
        terminalreporter.write_line(
            f"\nLeft out: {left_out} measurements of more shapes, 16-bit numbers, channels_last, torch.compile and "
            "precisions. All: pytest benchmarks --full"
        )


def heading(facts: comparison.Facts, machine: dict) -> list[str]:
    """What was measured on, and what the columns say."""
    processor = machine["cpu"].get("brand_raw", "unknown processor")
    hardware = facts.get("gpu") or f"{processor}, {facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    return [
        f"{hardware}, torch {facts['torch']}, copy speed {facts['copy_bandwidth'] / 1e9:.1f} GB/s",
        "time: median of one call of ours. x eager: times as fast as plain torch; below 1x it is slower.",
        "of copy speed: bytes that any implementation has to read and write in that time, against a copy of memory.",
    ]

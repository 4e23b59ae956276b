"""Benchmarks: ``pytest benchmarks``, or ``pytest benchmarks --quick`` for a first look in less than three minutes.

Quick leaves out most shapes, 16-bit numbers, channels_last but for conv2d, peak memory, and torch.compile but for
adain_act, since compiling takes longer than measuring. It takes a fifth of a second per row, but at least three rounds.

Every benchmark names its implementation; at the end a table sets those of one group side by side.
"""

from __future__ import annotations

import ctypes
import itertools
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from m2o_fast.ops.adain import Resample

CACHE_BYTES = 1 << 27  # inputs that take turns hold more than this: no cache does
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
QUICK_SECONDS, QUICK_ROUNDS = 0.2, 3


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
    parser.addoption("--quick", action="store_true", help="few shapes, few baselines and few rounds")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: left out by --quick")
    if config.getoption("--quick"):
        config.option.benchmark_max_time = QUICK_SECONDS
        config.option.benchmark_min_rounds = QUICK_ROUNDS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        for item in items:
            chosen = item.callspec.params.get("implementation") if hasattr(item, "callspec") else None
            if item.get_closest_marker("full") or (chosen == "compile" and item.originalname != "test_adain_act"):
                item.add_marker(pytest.mark.skip(reason="--quick"))


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
    return pytestconfig.getoption("--quick")


@pytest.fixture
def measure(benchmark, copy_bandwidth: float, quick: bool) -> Callable[..., None]:
    """Times ``call(i)`` for i = 0, 1, ...; at least ``moved`` bytes go through memory (None: through caches)."""

    def run(call: Callable[[int], object], implementation: str, moved: int | None = None) -> None:
        turn = itertools.count()
        calls = 20 if DEVICE.type == "cuda" else 1  # the launches of one round overlap, as they do in training

        def once() -> None:
            for _ in range(calls):
                call(next(turn))
            synchronize()

        start = time.perf_counter()
        for _ in range(1 if quick else 3):
            once()
        if quick and time.perf_counter() - start > QUICK_SECONDS:
            benchmark.pedantic(once, rounds=QUICK_ROUNDS)  # spares the call that finds out how many to time at once
        else:
            benchmark(once)
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


def pytest_terminal_summary(terminalreporter) -> None:
    session = getattr(terminalreporter.config, "_benchmarksession", None)
    groups: dict[str, dict[str, dict]] = {}
    for bench in session.benchmarks if session else ():
        if "seconds" in bench.extra_info:
            groups.setdefault(bench.group, {})[bench.extra_info["implementation"]] = bench.extra_info
    if not groups:
        return
    terminalreporter.section("side by side")
    width = max(map(len, groups))
    titles = f"{'implementation':14} {'median':>11} {'vs eager':>9} {'vs compile':>11} {'of copy speed':>14}"
    terminalreporter.write_line(f"{'':{width}}  {titles}")
    for group, rows in groups.items():
        for implementation, facts in rows.items():
            columns = [f"{group:{width}}  {implementation:14} {facts['seconds'] * 1e6:8.0f} us"]
            for baseline, space in (("eager", 9), ("compile", 11)):
                faster = f"{rows[baseline]['seconds'] / facts['seconds']:.2f}x" if baseline in rows else ""
                columns.append(f"{faster:>{space}}")
            columns.append(f"{facts['copy_share']:>14.0%}" if "copy_share" in facts else "")
            terminalreporter.write_line(" ".join(columns))
            group = ""

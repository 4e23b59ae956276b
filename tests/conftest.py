"""Set up before anything of the package is imported: Triton's interpreter where there is no GPU, and threads."""

import os

_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _processes > 1:  # as many threads in all as there are cores, in this process and in those that tests start
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _processes)))

import signal  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

# What is started in the background of a script ignores Ctrl-C, under nohup also a hang-up, and hands that down.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

import pytest  # noqa: E402
import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(autouse=True)
def _stand_in_an_empty_folder(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees the runs and data of the checkout, and none leaves its own there."""
    monkeypatch.chdir(empty_folder)
    yield
    left = [path.name for path in empty_folder.iterdir()]
    assert not left, f"left in the current folder: {left}"


def pytest_terminal_summary(terminalreporter) -> None:
    skipped = len(terminalreporter.stats.get("skipped", []))
    if skipped:
        terminalreporter.write_line(f"{skipped} skipped: the reasons stand above")

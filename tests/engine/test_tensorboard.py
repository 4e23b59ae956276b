"""TensorBoard beside a run's own files: what is written, once each, and what is said where it is missing."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from tiny import contents, tiny_config

from m2o_fast.engine import runlog
from m2o_fast.engine.loop import train
from m2o_fast.errors import UserError

pytestmark = pytest.mark.usefixtures("tiny_data")


class FakeWriter:
    """Notes what it is told, as ``torch.utils.tensorboard.SummaryWriter`` does."""

    made: list[FakeWriter] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.scalars: list[tuple[int, str, float]] = []
        self.images: list[tuple[int, str, tuple[int, ...]]] = []
        self.closed = False
        FakeWriter.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((step, name, value))

    def add_image(self, name: str, image, step: int, dataformats: str) -> None:
        assert dataformats == "HWC"
        self.images.append((step, name, image.shape))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[FakeWriter]:
    """Fake writers in place of TensorBoard's, whether or not it is installed."""
    FakeWriter.made = []
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = FakeWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr("m2o_fast.engine.start.require_tensorboard", lambda: None)
    return FakeWriter.made


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_scalars_and_samples_are_those_of_the_run(tmp_path: Path, writers: list[FakeWriter]) -> None:
    run = tmp_path / "run"
    train(tiny_config("tensorboard=true", "steps=4", "sample_every=2", "log_every=2"), run, quiet=True)
    (writer,) = writers
    assert (writer.folder, writer.purge_step, writer.closed) == (str(run / "tensorboard"), 1, True)
    written = {(step, name): value for step, name, value in writer.scalars}
    assert len(written) == len(writer.scalars), "a step was written twice"
    for file in ("metrics.jsonl", "samples.jsonl"):
        for record in records(run / file):
            step = record.pop("step")
            assert {name: written.pop((step, name)) for name in record} == record
    assert {name for _, name in written} == {"speed/images_per_second", "speed/data_wait_share"}
    assert [(step, name) for step, name, _ in writer.images] == [(2, "samples"), (4, "samples")]
    assert writer.images[0][2][2] == 3


def test_going_on_replaces_what_was_written_later(
    trained: Callable[[Path, int], Path], tmp_path: Path, writers: list[FakeWriter]
) -> None:
    """The key may change on the way, and nothing else in the run depends on it."""
    whole, run = trained(tmp_path / "whole", 4), trained(tmp_path / "run", 2)
    train(tiny_config("steps=4", "tensorboard=true"), run, "auto", quiet=True)
    (writer,) = writers
    assert writer.purge_step == 3
    assert {step for step, *_ in writer.scalars} == {3, 4}
    assert contents(whole)["metrics.jsonl"] == contents(run)["metrics.jsonl"]


def test_a_full_disk_ends_the_board_and_not_the_run(
    tmp_path: Path, writers: list[FakeWriter], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FakeWriter, "add_scalar", full)
    assert train(tiny_config("tensorboard=true", "steps=2"), tmp_path / "run", quiet=True).step == 2
    assert capsys.readouterr().err == (
        "m2o-fast: warning: TensorBoard: No space left on device; training goes on without it\n"
    )


def test_it_is_not_touched_unless_asked_for(tmp_path: Path, writers: list[FakeWriter]) -> None:
    train(tiny_config("steps=1"), tmp_path / "run", quiet=True)
    assert writers == []
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_missing_tensorboard_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name))
    with pytest.raises(UserError, match=r"pip install 'm2o-fast\[tensorboard\]'"):
        train(tiny_config("tensorboard=true"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_tensorboard_itself_reads_every_step_once(tmp_path: Path) -> None:
    """A run that was killed after step 3 and went on from step 2."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    run.mkdir()
    for first, last in ((0, 3), (2, 5)):
        with runlog.RunLog(run, first, 5, 4, quiet=True, tensorboard=True) as log:
            for step in range(first + 1, last + 1):
                log.tick(step, {"generator_latent/style": 10 * first + step}, 0)
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    events = board.Scalars("generator_latent/style")
    assert [(event.step, event.value) for event in events] == [(1, 1), (2, 2), (3, 23), (4, 24), (5, 25)]

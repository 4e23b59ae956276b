"""What goes wrong in one of several processes: all of them leave, nothing hangs, and the run can go on."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import together
from tiny import contents, tiny_config

from m2o_fast.cli import main
from m2o_fast.data import Dataset
from m2o_fast.engine import build, checkpoint, trainer
from m2o_fast.engine.checkpoint import list_checkpoints
from m2o_fast.engine.config import dump_config
from m2o_fast.engine.loop import train
from m2o_fast.engine.processes import Processes, joined_processes
from m2o_fast.engine.runlog import Log
from m2o_fast.engine.signals import StopRequest
from m2o_fast.engine.trainer import Trainer
from m2o_fast.errors import UserError
from m2o_fast.translators.starganv2.translator import StarGANv2

pytestmark = pytest.mark.usefixtures("tiny_data")


def training(run: Path, *settings: str) -> int:
    """The command line in the tiny setting; goes on where the run stopped."""
    file = run.parent / "settings.yaml"
    if os.environ["RANK"] == "0":
        file.write_text(dump_config(tiny_config("threads=1", *settings)))
        return main(["train", "--run", str(run), "--resume", "auto", "--config", str(file), "--quiet"])
    return main(["train", "--run", str(run), "--resume", "auto", "--quiet"])


def at_step(step: int, rank: int, act) -> None:
    """Calls ``act`` in one process of the training when it asks for the batch of a step."""
    batch = Trainer.batch

    def acting(self: Trainer, index: int):
        if (index, self.processes.rank) == (step, rank):
            act()
        return batch(self, index)

    Trainer.batch = acting  # type: ignore[method-assign]


# --- what the processes run ---


def poisoned(run: Path, steps: list[int], *settings: str) -> int:
    loss, trainer.SKIPS_IN_A_ROW = StarGANv2.loss, 3

    def not_finite(self, phase, batch, iteration):
        value, parts = loss(self, phase, batch, iteration)
        if os.environ["RANK"] == "1" and phase == "generator_latent" and iteration.index in steps:
            nan = float("nan")
            value = value + nan if iteration.index == steps[0] else value * nan  # the gradient is finite, or not either
        return value, parts

    StarGANv2.loss = not_finite  # type: ignore[method-assign]
    return training(run, *settings)


def failing(run: Path, rank: int, error: Exception) -> int:
    def fail() -> None:
        raise error

    at_step(3, rank, fail)
    return training(run, "steps=4")


def signalled(run: Path, rank: int, number: int, times: int) -> int:
    at_step(2, rank, lambda: [signal.raise_signal(number) for _ in range(times)])
    return training(run)


def killed(run: Path, rank: int) -> int:
    at_step(3, rank, lambda: os.kill(os.getpid(), signal.SIGKILL))
    return training(run, "steps=4")


def signalled_while_saving(run: Path) -> int:
    write = checkpoint._write

    def interrupted(path: Path, data: bytes):
        checkpoint._write = write  # the first signal only
        signal.raise_signal(signal.SIGTERM)
        return write(path, data)

    checkpoint._write = interrupted
    return training(run)


def signalled_while_opening(run: Path) -> int:
    build.open_dataset = lambda *_, **__: signal.raise_signal(signal.SIGUSR1)  # type: ignore[assignment]
    return training(run)


def opening(run: Path, message: str, problem: str, *more: str) -> int:
    """Opens data that is warned of, or that is not there."""
    open_dataset = build.open_dataset

    def opened(*arguments: Any, **options: Any) -> Dataset:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        if problem:
            raise UserError(problem)
        return open_dataset(*arguments, **options)

    build.open_dataset = opened
    return main(["train", "--run", str(run), "--steps", "1", "--batch-size", "4", "--device", "cpu", *more])


# --- tests ---


def test_a_loss_that_is_not_finite_in_one_process_is_skipped_by_all(tmp_path: Path) -> None:
    """Too many in a row end all of them, with one message."""
    run = tmp_path / "run"
    outcomes = together(2, tmp_path, poisoned, run, [1, 3, 4, 5])
    assert [outcome.code for outcome in outcomes] == [2, 2], outcomes
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0, 1, 1, 2, 3]
    assert outcomes[0].errors.count("is not finite; the step is skipped") == 4
    assert "3 steps in a row" in outcomes[0].errors and "seed 777 and step 5 determine" in outcomes[0].errors
    assert outcomes[1].errors == ""
    assert [path.name for path in list_checkpoints(run)] == []


def test_too_many_in_a_row_that_a_validation_finds_end_all_processes_with_one_message(tmp_path: Path) -> None:
    pace = [
        f"{name}_every={steps}" for name, steps in (("log", 99), ("sample", 99), ("checkpoint", 99), ("validate", 4))
    ]
    outcomes = together(2, tmp_path, poisoned, tmp_path / "run", [1, 2, 3], *pace)
    assert [outcome.code for outcome in outcomes] == [2, 2], outcomes
    assert "3 steps in a row" in outcomes[0].errors and outcomes[1].errors == ""


@pytest.mark.parametrize(("rank", "error", "code"), [(1, UserError("no such image"), 2), (0, RuntimeError("a bug"), 1)])
def test_an_error_in_one_process_ends_the_others(rank: int, error: Exception, code: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcomes = together(2, tmp_path, failing, run, rank, error)
    assert (outcomes[rank].code, outcomes[1 - rank].code) == (code, 2), outcomes
    assert str(error) in outcomes[rank].errors and "has lost the others" in outcomes[1 - rank].errors
    assert [path.name for path in list_checkpoints(run)] == ["step-00000002"]
    assert train(tiny_config("threads=1", "steps=4"), run, "auto", quiet=True).exit_code == 0


@pytest.mark.parametrize(("number", "code", "rank"), [(signal.SIGINT, 130, 1), (signal.SIGUSR1, 75, 0)])
def test_a_signal_to_one_process_stops_all_at_the_same_step(
    number: signal.Signals, code: int, rank: int, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    outcomes = together(2, tmp_path, signalled, run, rank, number, 1)
    assert [outcome.code for outcome in outcomes] == [code, code], outcomes
    assert list_checkpoints(run)[-1].name == "step-00000003"


def test_a_run_whose_processes_were_killed_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert [outcome.code for outcome in together(2, tmp_path, training, whole, "steps=4")] == [0, 0]
    outcomes = together(2, tmp_path, killed, broken, 1)
    assert [outcome.code for outcome in outcomes] == [2, -signal.SIGKILL], outcomes
    assert "process 0 of 2 has lost the others" in outcomes[0].errors and "--resume auto" in outcomes[0].errors
    assert [outcome.code for outcome in together(2, tmp_path, training, broken, "steps=4")] == [0, 0]
    assert contents(whole) == contents(broken)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_second_signal_ends_a_process_at_once_and_the_others_follow(number: signal.Signals, tmp_path: Path) -> None:
    outcomes = together(2, tmp_path, signalled, tmp_path / "run", 1, number, 2)
    assert [outcome.code for outcome in outcomes] == [2, -number], outcomes
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000002"]


def test_a_signal_to_all_while_they_open_the_data_is_said_once_and_leaves_nothing(tmp_path: Path) -> None:
    outcomes = together(2, tmp_path, signalled_while_opening, tmp_path / "run")
    assert [outcome.code for outcome in outcomes] == [75, 75], outcomes
    assert "stopped by SIGUSR1" in outcomes[0].errors
    assert len(outcomes[0].errors.splitlines()) == 1 and outcomes[1].errors == ""
    assert not (tmp_path / "run").exists()


def test_what_is_odd_about_the_data_is_said_once(tmp_path: Path) -> None:
    """By the leading process alone, although all open the data; what is wrong with it as well."""
    outcomes = together(2, tmp_path, opening, tmp_path / "run", "2 of 9 image files cannot be read", "")
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert outcomes[0].errors.splitlines() == ["m2o-fast: warning: 2 of 9 image files cannot be read"]
    assert outcomes[1].errors == ""
    for more in ([], ["--dry-run"]):
        outcomes = together(2, tmp_path, opening, tmp_path / "other", "odd", "no data here", *more)
        assert [outcome.code for outcome in outcomes] == [2, 2], outcomes
        assert outcomes[0].errors.splitlines() == ["m2o-fast: warning: odd", "m2o-fast: error: no data here"]
        assert outcomes[1].errors == outcomes[1].said == ""
        assert not (tmp_path / "other").exists()


def test_a_signal_while_saving_lets_the_save_finish(tmp_path: Path) -> None:
    outcomes = together(2, tmp_path, signalled_while_saving, tmp_path / "run")
    assert [outcome.code for outcome in outcomes] == [143, 143], outcomes
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]


def test_the_number_of_processes_may_change(tmp_path: Path) -> None:
    """The same samples, so close losses. Training enlarges rounding errors, less so with a low learning rate."""
    settings = ("optim.lr=1e-5", "optim.weight_decay=0", "checkpoint_every=100")
    run = tmp_path / "run"
    for count, steps in ((2, 1), (1, 2), (2, 3)):
        outcomes = together(count, tmp_path, training, run, *settings, f"steps={steps}")
        assert [outcome.code for outcome in outcomes] == [0] * count, outcomes
    assert [path.name for path in list_checkpoints(run)] == [f"step-{step:08d}" for step in (1, 2, 3)]
    train(tiny_config("threads=1", *settings, "steps=3"), tmp_path / "whole", quiet=True)
    changed, whole = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, tmp_path / "whole")
    )
    assert len(changed) == len(whole) == 3
    for first, second in zip(changed, whole, strict=True):
        assert first == pytest.approx(second, rel=1e-3, abs=1e-4)


def test_only_the_leading_process_writes(
    trained: Callable[[Path, int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower that does all the work of a run leaves no file."""
    trained(tmp_path / "run", 2)
    before = contents(tmp_path / "run")
    monkeypatch.setattr(Processes, "leads", property(lambda processes: False))
    trainer = Trainer(tiny_config("steps=3", "sample_every=1"), tmp_path / "run")
    trainer.run_until(3, Log(), StopRequest())
    assert trainer.step == 3
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number, got 'two'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE must be a whole number, got ''"),
        ({"WORLD_SIZE": "²"}, "WORLD_SIZE must be a whole number"),
        ({"WORLD_SIZE": "0"}, "RANK must be below WORLD_SIZE = 0"),
        ({"WORLD_SIZE": "2"}, "RANK must be a whole number, got ''"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK must be below WORLD_SIZE = 2, got 2"),
        ({"RANK": "1"}, "RANK must be below WORLD_SIZE = 1, got 1"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "cannot reach the others at MASTER_ADDR and MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}, "cannot reach .* MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}, "cannot reach"),
    ],
)
def test_contradictory_environments_are_refused(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        with joined_processes():
            pass

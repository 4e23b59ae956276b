"""Stopping on request: which signals, what they do first and second, and with which exit code a run leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import tiny_config

from m2o_fast.engine import signals
from m2o_fast.engine.checkpoint import list_checkpoints
from m2o_fast.engine.loop import Trainer, train
from m2o_fast.engine.signals import SIGNALS, StopRequest


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What comes through to the handlers that were there before."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    numbers: list[int] = []
    previous = {number: signal.signal(number, lambda number, _: numbers.append(number)) for number in SIGNALS}
    yield numbers
    for number, handler in previous.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.usefixtures("tiny_data")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_a_signal_lets_the_step_finish_and_the_run_be_saved(
    number: signal.Signals, code: int, heard: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Trainer.batch
    monkeypatch.setattr(Trainer, "batch", lambda self, step: (send(number), batch(self, step))[1])
    result = train(tiny_config(), tmp_path / "run", quiet=True)
    assert (result.step, result.exit_code, heard) == (1, code, [])
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000001"]


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_acts_as_if_nobody_had_listened(first: int, second: int, heard: list[int]) -> None:
    with StopRequest() as stop:
        send(first)
        assert (stop.signal, heard) == (first, [])
        send(second)
        assert heard == [second]
    send(first)
    assert heard == [second, first]


def test_under_torchrun_the_echo_of_a_signal_is_no_second_one(
    heard: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever signals all processes of a job reaches torchrun too, which passes the signal on."""
    now = 100.0
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(signals.time, "monotonic", lambda: now)
    for late, expected in ((0.5, []), (1.5, [signal.SIGTERM])):
        now = 100.0
        with StopRequest() as stop:
            send(signal.SIGTERM)
            now += late
            send(signal.SIGTERM)
            assert (stop.signal, heard) == (signal.SIGTERM, expected)
    heard.clear()
    for first, second in ((signal.SIGINT, signal.SIGINT), (signal.SIGUSR1, signal.SIGTERM)):
        with StopRequest():
            send(first)
            send(second)
        assert heard.pop() == second


def test_no_signal_no_exit_code(heard: list[int]) -> None:
    with StopRequest() as stop:
        assert stop.exit_code == 0
    for number in SIGNALS:
        send(number)
    assert heard == list(SIGNALS)

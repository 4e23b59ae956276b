"""Stopping on request: which signals, what they do first and second, and with which exit code a run leaves."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tiny import contents, tiny_config, tiny_digits

from m2o_fast.cli import main
from m2o_fast.engine import signals
from m2o_fast.engine.checkpoint import list_checkpoints
from m2o_fast.engine.loop import train
from m2o_fast.engine.signals import SIGNALS, Stopped, StopRequest
from m2o_fast.engine.trainer import Trainer


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
    signal.raise_signal(number)


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


CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)]


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_before_the_first_step_leaves_nothing_behind(
    number: signal.Signals, code: int, heard: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While images are decoded, which may take minutes: neither a folder of a given name nor one of the next number."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", lambda *_, **__: send(number))
    for run in (tmp_path / "run", None):
        with pytest.raises(
            Stopped, match=f"stopped by {number.name} before the first step; the same command"
        ) as caught:
            train(tiny_config(), run, quiet=True)
        assert (caught.value.exit_code, heard) == (code, [])
    assert list(tmp_path.iterdir()) == []
    send(number)
    assert heard == [number]


@pytest.mark.usefixtures("tiny_data")
def test_a_signal_before_the_first_step_of_a_run_that_goes_on_changes_nothing(
    heard: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train(tiny_config("steps=2"), run, quiet=True)
    before = contents(run)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("m2o_fast.engine.build.open_dataset", lambda *_, **__: send(signal.SIGUSR1))
        train(tiny_config("steps=4"), run, "auto", quiet=True)
    assert contents(run) == before
    assert train(tiny_config("steps=4"), run, "auto", quiet=True).step == 4


def test_a_signal_that_somebody_swallowed_stops_the_run_before_its_first_step(
    heard: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python does where it comes while an object is deleted; by then there is something to go on from."""

    def swallowing(*arguments: Any, **options: Any) -> Any:
        with suppress(Stopped):
            send(signal.SIGUSR1)
        return tiny_digits(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("m2o_fast.engine.build.open_dataset", swallowing)
        result = train(tiny_config("steps=2"), tmp_path / "run", quiet=True)
    assert (result.step, result.exit_code) == (0, 75)
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
    assert train(tiny_config("steps=2"), tmp_path / "run", "auto", quiet=True).step == 2


@pytest.mark.parametrize(("number", "code"), CODES)
@pytest.mark.parametrize("place", ["m2o_fast.engine.fitting.load_config", "m2o_fast.engine.build.open_dataset"])
def test_the_command_says_so_in_one_line(
    place: str,
    number: signal.Signals,
    code: int,
    heard: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From before torch is imported, which takes a while; of several processes the leading one alone."""
    monkeypatch.setattr(place, lambda *_, **__: send(number))
    words = ["train", "--run", str(tmp_path / "run"), "--device", "cpu"]
    assert main(words) == code
    said, errors = capsys.readouterr()
    assert errors == f"m2o-fast: stopped by {number.name} before the first step; the same command starts again\n"
    assert said == "" and not (tmp_path / "run").exists() and heard == []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("m2o_fast.engine.fitting.load_config", lambda *_, **__: send(number))
    assert main(words) == code
    assert capsys.readouterr() == ("", "")


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

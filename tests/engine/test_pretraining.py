"""First steps that are unlike the others do not tell what a run takes; and a run may stop in the middle of them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from small import SMALLER, small_config
from tiny import contents, stop_at

from m2o_fast.engine import pace as pace_module
from m2o_fast.engine.loop import train
from m2o_fast.engine.pace import Pace, bench_training
from m2o_fast.engine.scaling import message_sizes
from m2o_fast.engine.schema import Config
from m2o_fast.engine.trainer import Trainer
from m2o_fast.engine.watch import first_alarm

pytestmark = pytest.mark.usefixtures("tiny_data")


def config_of(*more: str, refiner: int = 2, discriminator: int = 1) -> Config:
    pace = [f"optim.pretrain_refiner={refiner}", f"optim.pretrain_discriminator={discriminator}"]
    return small_config(["system=simgan", "variant=hms", *SMALLER["simgan"]], *pace, *more)


def test_what_a_run_takes_is_what_its_bulk_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory, messages, and the pace that is measured."""
    config, without, measured = config_of(), config_of(refiner=0, discriminator=0), []
    assert Trainer(config, tmp_path).plan().memory == Trainer(without, tmp_path).plan().memory
    assert list(message_sizes(config)) == ["refiners", "refiners 2", "discriminators", "agreement on stopping"]
    monkeypatch.setattr(
        pace_module, "measure_pace", lambda trainer, *_: measured.append(trainer.step) or Pace(1.0, 1.0, 1.0, 1, 1)
    )
    bench_training(config, 1)
    assert measured == [3]


def test_the_expected_time_and_the_alarm_wait_for_the_bulk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(config_of("steps=9"), tmp_path / "run")
    shown = capsys.readouterr()
    assert "as in steps 5 to 8" in shown.out and not shown.err
    assert first_alarm(config_of("steps=100", refiner=50)) == 51 + 49 // 10


def test_a_run_of_pretraining_alone_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(config_of("steps=3"), tmp_path / "run", quiet=True)
    assert "steps 3: all of them are pretraining" in capsys.readouterr().err


def test_a_run_that_stopped_in_its_pretraining_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of("steps=4")
    train(config, tmp_path / "whole", quiet=True)
    wanted = contents(tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(0, signal.SIGTERM, patch)
        assert train(config, tmp_path / "parts", quiet=True).step == 1
    train(config, tmp_path / "parts", "auto", quiet=True)
    found = contents(tmp_path / "parts")
    assert [name for name in wanted if wanted[name] != found.get(name)] == []

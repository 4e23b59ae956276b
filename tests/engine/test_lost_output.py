"""Output that nobody takes any more, and a run folder that goes away, cost no work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from tiny import tiny_config

import m2o_fast
from m2o_fast.engine import trainer
from m2o_fast.engine.checkpoint import list_checkpoints
from m2o_fast.engine.loop import train
from m2o_fast.engine.start import Claim
from m2o_fast.engine.trainer import Trainer
from m2o_fast.errors import UserError

TINY = (
    *("model.base_width=4", "model.max_width=8", "model.hidden_dim=8", "model.style_dim=4", "model.latent_dim=4"),
    *("batch_size=4", "steps=2", "checkpoint_every=2", "sample_every=100", "log_every=1", "device=cpu"),
)


def test_training_goes_on_where_nobody_reads_its_output(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "m2o_fast.cli", "train", "--run", str(tmp_path / "run")]
    words += [word for setting in TINY for word in ("--set", setting)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline()
    process.stdout.close()  # as `head -n 1` does
    _, complaints = process.communicate(timeout=600)
    assert (process.returncode, complaints) == (0, "")
    assert list_checkpoints(tmp_path / "run")[-1].name == "step-00000002"


@pytest.mark.usefixtures("tiny_data")
@pytest.mark.parametrize("fate", ["removed", "renamed"])
def test_a_run_folder_that_goes_away_is_made_anew(
    fate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    batch = Trainer.batch

    def interfered(self: Trainer, step: int):
        if step == 3:
            shutil.rmtree(run) if fate == "removed" else os.rename(run, elsewhere)
        return batch(self, step)

    monkeypatch.setattr(Trainer, "batch", interfered)
    assert train(tiny_config("steps=5"), run, quiet=True).exit_code == 0
    assert f"{run} was removed or renamed while training; it is made anew" in capsys.readouterr().err
    monkeypatch.undo()
    assert [folder.name for folder in list_checkpoints(run)] == ["step-00000004", "step-00000005"]
    m2o_fast.load(run)
    assert fate == "removed" or m2o_fast.load(elsewhere)


@pytest.mark.usefixtures("tiny_data")
def test_a_run_that_was_made_anew_is_still_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, refused = tmp_path / "run", []
    batch = Trainer.batch

    def interfered(self: Trainer, step: int):
        if step == 1:
            shutil.rmtree(run)
        elif step == 3:  # the folder is there again, since step 2 was saved
            with pytest.raises(UserError, match="another process is training this run") as refusal:
                train(tiny_config("steps=5"), run, resume="auto", quiet=True)
            refused.append(refusal)
        return batch(self, step)

    monkeypatch.setattr(Trainer, "batch", interfered)
    train(tiny_config("steps=4"), run, quiet=True)
    assert refused


@pytest.mark.usefixtures("tiny_data")
def test_a_folder_that_cannot_be_made_for_a_while_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "a"
    batch = Trainer.batch

    def interfered(self: Trainer, step: int):
        if step == 1:
            shutil.rmtree(run.parent)
            run.parent.write_text("in the way")
        elif step == 3:
            run.parent.unlink()
        return batch(self, step)

    monkeypatch.setattr(Trainer, "batch", interfered)
    assert train(tiny_config("steps=5"), run, quiet=True).exit_code == 0
    assert "step 2 could not be saved: " in capsys.readouterr().err
    assert [folder.name for folder in list_checkpoints(run)] == ["step-00000004", "step-00000005"]


@pytest.mark.usefixtures("tiny_data")
def test_settings_that_could_not_be_written_are_written_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, batch, write_facts = tmp_path / "run", Trainer.batch, trainer.write_facts

    def interfered(self: Trainer, step: int):
        if step == 1:
            shutil.rmtree(run)
            monkeypatch.setattr(trainer, "write_facts", full)
        elif step == 3:
            monkeypatch.setattr(trainer, "write_facts", write_facts)
        return batch(self, step)

    def full(*_: object) -> None:
        raise UserError("no space left on device")

    monkeypatch.setattr(Trainer, "batch", interfered)
    assert train(tiny_config("steps=5"), run, quiet=True).exit_code == 0
    assert "step 2 could not be saved: no space left on device" in capsys.readouterr().err
    m2o_fast.load(run)
    assert (run / "config.yaml").is_file()


@pytest.mark.usefixtures("tiny_data")
def test_the_folder_of_another_run_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run was renamed, and another one began under its name."""
    run, other = tmp_path / "run", tmp_path / "other"
    batch = Trainer.batch

    def interfered(self: Trainer, step: int):
        if step == 3 and not other.exists():
            os.rename(run, other)
            held.enter_context(Claim(run))
            (run / "config.yaml").write_text("theirs")
        return batch(self, step)

    monkeypatch.setattr(Trainer, "batch", interfered)
    with (
        ExitStack() as held,
        pytest.raises(UserError, match="step 5 could not be saved: .*another process is training"),
    ):
        train(tiny_config("steps=5"), run, quiet=True)
    assert (run / "config.yaml").read_text() == "theirs" and list_checkpoints(run) == []
    assert [folder.name for folder in list_checkpoints(other)] == ["step-00000002"]


@pytest.mark.usefixtures("tiny_data")
def test_going_on_with_another_number_of_threads_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    try:
        train(tiny_config("steps=1", "threads=1"), tmp_path / "run", quiet=True)
        train(tiny_config("steps=2", "threads=1"), tmp_path / "run", resume="auto", quiet=True)
        assert capsys.readouterr().err == ""
        train(tiny_config("steps=3", "threads=2"), tmp_path / "run", resume="auto", quiet=True)
        assert "was trained with 1 threads, now with 2: from here on other last digits" in capsys.readouterr().err
    finally:
        torch.set_num_threads(threads)

"""The training loop: exact resume, stopping, skipped steps, full disks, and what it refuses."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import signal
from collections.abc import Callable
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import contents, tiny_config, tiny_digits

from m2o_fast.engine import checkpoint as checkpoint_module
from m2o_fast.engine.checkpoint import list_checkpoints
from m2o_fast.engine.loop import train
from m2o_fast.engine.pace import dry_run
from m2o_fast.engine.trainer import Trainer
from m2o_fast.errors import UserError
from m2o_fast.translators.starganv2.translator import StarGANv2

pytestmark = pytest.mark.usefixtures("tiny_data")
Trained = Callable[[Path, int], Path]


def poison(steps: range, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the first generator loss of some steps NaN."""
    loss = StarGANv2.loss

    def poisoned(self, phase, batch, iteration):
        value, parts = loss(self, phase, batch, iteration)
        return (value * float("nan") if phase == "generator_latent" and iteration.index in steps else value), parts

    monkeypatch.setattr(StarGANv2, "loss", poisoned)


# --- resume ---


def test_resume_before_any_checkpoint_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the first checkpoint: the same command trains from the start, with the same result."""
    config = tiny_config("steps=3", "checkpoint_every=100")
    train(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        patch.setattr(Trainer, "_save_samples", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            train(config, tmp_path / "killed", quiet=True)
    train(config, tmp_path / "killed", "auto", quiet=True)
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")


def test_second_signal_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Trainer.batch

    def twice(self: Trainer, index: int):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return batch(self, index)

    monkeypatch.setattr(Trainer, "batch", twice)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(), tmp_path / "run", quiet=True)


def test_more_steps_may_be_added(trained: Trained, tmp_path: Path) -> None:
    trained(tmp_path / "run", 4)
    assert train(tiny_config("steps=6"), tmp_path / "run", "auto", quiet=True).step == 6


def test_each_split_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cache, opening decodes; going on compares the domains with those of the nets all the same."""
    opened: list[str] = []

    def counted(*arguments: Any, split: str, **options: Any) -> Any:
        opened.append(split)
        return tiny_digits(*arguments, split=split, **options)

    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", counted)
    for step in (1, 2):
        train(tiny_config(f"steps={step}"), tmp_path / "run", "auto", quiet=True)
        assert opened == ["train", "test"]
        opened.clear()
    dry_run(tiny_config("steps=3"), tmp_path / "run", "auto")
    assert opened == ["train", "test"]


def test_resume_from_another_run(trained: Trained, tmp_path: Path) -> None:
    whole, first = trained(tmp_path / "whole", 4), trained(tmp_path / "first", 2)
    train(tiny_config("steps=4"), tmp_path / "second", str(first), quiet=True)
    name = "checkpoints/step-00000004/nets.safetensors"
    assert contents(whole)[name] == contents(tmp_path / "second")[name]


# --- damaged checkpoints ---


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


#: each file and each damage; all other combinations take long
DAMAGES = {("nets.safetensors", "missing"), ("ema.safetensors", "truncated"), ("optimizers.safetensors", "edited")}
DAMAGES |= {("manifest.json", "missing"), ("manifest.json", "edited")}
FILES = ("nets.safetensors", "ema.safetensors", "optimizers.safetensors", "manifest.json")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param(*damage, marks=[] if damage in DAMAGES else pytest.mark.slow)
        for damage in product(FILES, ("missing", "truncated", "edited"))
    ],
)
def test_damaged_checkpoint_is_named_and_passed_over(
    name: str, how: str, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = tiny_config("steps=4"), trained(tmp_path / "run", 4)
    before = contents(run)
    newest = list_checkpoints(run)[-1]
    if name == "manifest.json" and how == "edited":
        (newest / name).write_text((newest / name).read_text().replace('"step": 4', '"step": 3'))
    else:
        damage(newest / name, how)
    with pytest.raises(UserError, match=str(newest)):
        train(config, tmp_path / "other", str(newest), quiet=True)
    assert not (tmp_path / "other").exists()
    train(tiny_config("steps=4"), run, "auto", quiet=True)
    warning = capsys.readouterr().err
    assert str(newest) in warning and "going on from" in warning and "step-00000002" in warning
    assert contents(run) == before


def test_run_with_nothing_but_damaged_checkpoints_is_refused(trained: Trained, tmp_path: Path) -> None:
    trained(tmp_path / "run", 2)
    damage(tmp_path / "run" / "checkpoints" / "step-00000002" / "nets.safetensors", "truncated")
    with pytest.raises(UserError, match="every checkpoint .* is damaged: .*nets.safetensors"):
        train(tiny_config("steps=2"), tmp_path / "run", "auto", quiet=True)


def test_checkpoint_holding_a_pickle_never_runs_it(trained: Trained, tmp_path: Path) -> None:
    """Even with a manifest that vouches for it."""
    trained(tmp_path / "run", 2)
    folder = tmp_path / "run" / "checkpoints" / "step-00000002"
    evil = b"cbuiltins\nexec\n(Vopen('" + str(tmp_path / "ran").encode() + b"', 'w')\ntR."
    facts = checkpoint_module._write(folder / "nets.safetensors", evil)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"]["nets.safetensors"] = facts
    (folder / "manifest.json").write_bytes(checkpoint_module.seal(manifest))
    with pytest.raises(UserError, match="nets.safetensors cannot be read"):
        train(tiny_config("steps=2"), tmp_path / "run", "auto", quiet=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.update(files=[]),
        *(pytest.param(lambda m, key=key: m.pop(key), marks=pytest.mark.slow) for key in ("step", "format")),
    ],
)
def test_manifest_that_lacks_something_counts_as_damaged(edit, trained: Trained, tmp_path: Path) -> None:
    trained(tmp_path / "run", 4)
    path = tmp_path / "run" / "checkpoints" / "step-00000004" / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
    assert train(tiny_config("steps=4"), tmp_path / "run", "auto", quiet=True).step == 4
    assert json.loads(path.read_text())["step"] == 4


# --- losses that are not finite ---


def test_nonfinite_steps_are_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(range(2, 4), monkeypatch)
    train(tiny_config("steps=6"), tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0, 0, 1, 2, 2, 2]
    assert "step 2: the loss of phase generator_latent is not finite" in capsys.readouterr().err
    weights = checkpoint_module.read_tensors(list_checkpoints(tmp_path / "run")[-1], "nets.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_ten_nonfinite_steps_in_a_row_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(range(3, 100), monkeypatch)
    with pytest.raises(
        UserError, match="10 steps in a row .*seed 777 and step 12 .* the last checkpoint is .*step-00000002"
    ):
        train(tiny_config("steps=50"), tmp_path / "run", quiet=True)
    weights = checkpoint_module.read_tensors(list_checkpoints(tmp_path / "run")[-1], "nets.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_a_run_that_ends_while_steps_are_skipped_keeps_what_was_saved_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, names = tmp_path / "run", lambda: [folder.name for folder in list_checkpoints(tmp_path / "run")]
    with monkeypatch.context() as patch:
        poison(range(2, 5), patch)
        train(tiny_config("keep_checkpoints=1", "checkpoint_every=1", "steps=5"), run)
    assert names() == ["step-00000002", "step-00000005"]
    last = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("step 5/5"))
    assert last.endswith(" skipped steps: 3, 0:00 left"), "there are no losses to show"
    train(tiny_config("keep_checkpoints=1", "steps=6"), run, "auto", quiet=True)
    assert names() == ["step-00000006"]


def test_nonfinite_gradient_counts_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finite loss with an infinite gradient must not reach the optimizer."""
    loss = StarGANv2.loss

    def sharp(self, phase, batch, iteration):
        value, parts = loss(self, phase, batch, iteration)
        weight = self.generator.stem_in["0"].weight
        edge = (weight - weight.detach()).abs().sqrt().sum()  # value 0, derivative infinite
        return (value + edge if phase == "generator_latent" else value), parts

    monkeypatch.setattr(StarGANv2, "loss", sharp)
    train(tiny_config("steps=2"), tmp_path / "run", quiet=True)
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["skipped"] == 2


# --- a full disk ---


def test_full_disk_keeps_the_run_and_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, full = checkpoint_module._write, {2, 3}

    def limited(path: Path, data: bytes):
        if any(f"step-{step:08d}" in str(path) for step in full) and path.name == "optimizers.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(checkpoint_module, "_write", limited)
    train(tiny_config("steps=4", "checkpoint_every=1"), tmp_path / "run", quiet=True)
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == [
        "step-00000001",
        "step-00000004",
    ]
    assert "step 2 could not be saved: No space left on device" in capsys.readouterr().err
    full.add(5)
    with pytest.raises(UserError, match="step 5 could not be saved.*--resume auto"):
        train(tiny_config("steps=5"), tmp_path / "run", "auto", quiet=True)
    assert list_checkpoints(tmp_path / "run")[-1].name == "step-00000004"


def test_full_disk_at_the_start_keeps_the_settings(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "run", 2)
    before = contents(tmp_path / "run")

    @contextmanager
    def full(path: Path):
        yield io.BytesIO()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("m2o_fast.engine.runs.replacing", full)
    with pytest.raises(UserError, match="No space left"):
        train(tiny_config("steps=2"), tmp_path / "run", "auto", quiet=True)
    assert contents(tmp_path / "run") == before


def test_samples_that_cannot_be_drawn_do_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("the image has values that are not finite")

    monkeypatch.setattr("m2o_fast.engine.samples.SampleGrid.draw", fail)
    assert train(tiny_config("steps=4"), tmp_path / "run", quiet=True).step == 4
    assert "no sample grid: the image has values that are not finite" in capsys.readouterr().err


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    for keep, kept in ((2, [2, 3]), (0, [1, 2, 3])):
        run = tmp_path / str(keep)
        train(tiny_config("steps=3", "checkpoint_every=1", f"keep_checkpoints={keep}"), run, quiet=True)
        assert [path.name for path in list_checkpoints(run)] == [f"step-{step:08d}" for step in kept]


# --- refusals ---


def test_what_is_in_the_way_is_not_touched(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not a run"):
        train(tiny_config(), folder, "auto", quiet=True)
    with pytest.raises(UserError, match="is a file"):
        train(tiny_config(), folder / "chapter1.txt", quiet=True)
    assert [path.name for path in folder.iterdir()] == ["chapter1.txt"]


def test_existing_run_needs_resume(trained: Trained, tmp_path: Path) -> None:
    trained(tmp_path / "run", 2)
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match="--resume auto"):
        train(tiny_config("steps=2"), tmp_path / "run", quiet=True)
    assert contents(tmp_path / "run") == before


def test_changed_settings_are_listed(trained: Trained, tmp_path: Path) -> None:
    trained(tmp_path / "run", 2)
    with pytest.raises(UserError, match=r"model.max_width: 8 -> 16; optim.lr: 0.001 -> 0.002"):
        train(tiny_config("model.max_width=16", "optim.lr=2e-3"), tmp_path / "run", "auto", quiet=True)
    with pytest.raises(UserError, match=r"size.max_width: 8 -> 16"):
        train(tiny_config("model.max_width=16"), tmp_path / "new", str(tmp_path / "run"), quiet=True)
    with pytest.raises(UserError, match=r"rules.supervised_weight: 4.0 -> 0.0"):
        train(tiny_config("variant=hmu"), tmp_path / "new", str(tmp_path / "run"), quiet=True)


def test_work_that_is_done_is_not_lost(trained: Trained, tmp_path: Path) -> None:
    run, other = trained(tmp_path / "run", 6), trained(tmp_path / "other", 2)
    before = contents(run)
    for start in (run / "checkpoints" / "step-00000002", other):
        with pytest.raises(UserError, match="has newer checkpoints .*step-00000006"):
            train(tiny_config("steps=6"), run, str(start), quiet=True)
    with pytest.raises(UserError, match="6 steps done already, more than the 4 asked for"):
        train(tiny_config("steps=4"), run, "auto", quiet=True)
    assert contents(run) == before


def test_two_processes_cannot_train_one_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with open(run / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is training this run"):
            train(tiny_config("steps=2"), run, quiet=True)
    assert train(tiny_config("steps=2"), run, quiet=True).step == 2


def test_more_steps_do_not_stretch_the_diversity_schedule(tmp_path: Path) -> None:
    """What it falls over is fixed when a run starts: by default its steps then."""
    train(tiny_config("steps=2", "loss.diversity_steps=null"), tmp_path / "run", quiet=True)
    train(tiny_config("steps=3", "loss.diversity_steps=null"), tmp_path / "run", "auto", quiet=True)
    train(tiny_config("steps=3", "loss.diversity_steps=2"), tmp_path / "whole", quiet=True)
    name = "checkpoints/step-00000003/nets.safetensors"
    assert contents(tmp_path / "run")[name] == contents(tmp_path / "whole")[name]


def test_lazy_penalty_and_merged_steps_survive_a_resume(tmp_path: Path) -> None:
    cheaper = ("loss.r1_every=3", "loss.merge_discriminator_steps=true", "sample_every=2")
    train(tiny_config("steps=2", *cheaper), tmp_path / "run", quiet=True)
    train(tiny_config("steps=4", *cheaper), tmp_path / "run", "auto", quiet=True)
    train(tiny_config("steps=4", *cheaper), tmp_path / "whole", quiet=True)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert ["discriminator/r1" in line for line in lines] == [(index + 1) % 3 == 0 for index in range(4)]


def test_hms_without_a_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data.pair_fraction 0.01 of 6 images is none"):
        train(tiny_config("data.pair_fraction=0.01"), tmp_path / "run", quiet=True)


def test_resume_from_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        train(tiny_config(), tmp_path / "new", str(tmp_path / "missing"), quiet=True)


def test_progress_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal: one line per tick, with speed, data wait, time left and losses."""
    train(tiny_config("steps=4", "log_every=2"), tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    ticks = [line for line in lines if line.startswith("step ")]
    assert [line.split(",")[0] for line in ticks] == ["step 2/4", "step 4/4"]
    assert all(part in ticks[0] for part in ("img/s", "data wait", " left", "adversarial", "supervised"))
    assert lines[-1].endswith(f"m2o-fast eval {tmp_path / 'run'}")


def test_a_start_that_fails_leaves_no_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "__init__", fail)
    for run in (None, tmp_path / "named"):
        with pytest.raises(UserError, match="on purpose"):
            train(tiny_config(), run, quiet=True)
    assert not list(tmp_path.rglob("*/*")) and not (tmp_path / "named").exists()


def fail(*_: object) -> None:
    raise UserError("on purpose")

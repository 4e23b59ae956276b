"""Validation while training: what it writes, that it changes nothing, and the best weights, whatever happens."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
import torch
from tiny import contents, stop_at, tiny_config, tiny_digits

from m2o_fast.engine import best, checkpoint
from m2o_fast.engine.best import best_checkpoint, write_best
from m2o_fast.engine.build import build_translator
from m2o_fast.engine.checkpoint import CheckpointError, read_manifest, read_tensors
from m2o_fast.engine.evaluate import evaluate_run
from m2o_fast.engine.evaluation.options import Options
from m2o_fast.engine.loop import train
from m2o_fast.engine.runs import find_checkpoint, fit_of, load_translator
from m2o_fast.engine.training_state import Training
from m2o_fast.engine.validation import Validation
from m2o_fast.errors import UserError
from m2o_fast.report.page import _checkpoint
from m2o_fast.report.record import read_record
from m2o_fast.translators.base import Translator
from m2o_fast.translators.starganv2.translator import StarGANv2

pytestmark = pytest.mark.usefixtures("tiny_data")
SETTINGS = ("steps=4", "keep_checkpoints=0", "sample_every=9", "validate_every=1")
MSE = "validation/color->gray/none/mse"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a validation after every step; not to be changed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
        train(tiny_config(*SETTINGS), run, quiet=True)
    return run


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def best_of(run: Path) -> tuple[Path, dict]:
    found = best_checkpoint(run)
    assert found is not None
    return found


def test_measures_stand_in_the_log_of_losses_and_the_best_weights_are_kept(whole: Path) -> None:
    validated = [line for line in lines(whole) if MSE in line]
    assert [line["step"] for line in validated] == [1, 2, 3, 4] and len(lines(whole)) == 8
    kinds = {name.rpartition("/")[2] for line in validated for name in line} - {"step"}
    assert kinds >= {"mse", "pixel_variety", "structure_variety", "pixel_color_recall", "references_followed"}
    errors = {line["step"]: line[MSE] for line in validated}
    step = min(errors, key=lambda step: errors[step])
    folder, manifest = best_of(whole)
    assert manifest["step"] == step and folder.name == f"best-{step:08d}"
    told = {"measure": "mse", "value": errors[step], "better": "lower", "over": ["color->gray/none"]}
    assert manifest["best"] == told
    averages = read_tensors(whole / "checkpoints" / f"step-{step:08d}", "ema.safetensors") if step % 2 == 0 else {}
    kept = read_tensors(folder, "ema.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in averages.items())
    assert len(list((whole / "checkpoints").glob("best-*"))) == 1


def test_training_is_the_same_without_it(whole: Path, tmp_path: Path) -> None:
    train(tiny_config(*SETTINGS[:-1]), tmp_path / "run", quiet=True)
    named = {name: data for name, data in contents(tmp_path / "run").items() if name.endswith(".safetensors")}
    with_it = contents(whole)
    assert named and all(with_it[name] == data for name, data in named.items())
    assert [line for line in lines(whole) if "skipped" in line] == lines(tmp_path / "run")


def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(2, signal.SIGTERM, patch)
        train(tiny_config(*SETTINGS), tmp_path / "run", quiet=True)
    train(tiny_config(*SETTINGS), tmp_path / "run", "auto", quiet=True)
    wanted, found = contents(whole), contents(tmp_path / "run")
    assert {name for name in wanted if wanted[name] != found.get(name)} == set()


def test_a_run_that_goes_back_to_an_earlier_checkpoint_ends_with_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    """As after a kill: the newest checkpoint is older than validations, whose best weights are there already."""
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    train(tiny_config(*SETTINGS), tmp_path / "run", "auto", quiet=True)
    assert contents(tmp_path / "run") == contents(whole)


def net(value: float) -> Translator:
    data = tiny_digits("", split="test", seed=1, pair_fraction=1.0)
    made = build_translator(tiny_config(), data.domains)
    with torch.no_grad():
        next(made.parameters()).fill_(value)
    return made


def write(run: Path, made: Translator, step: int, **best: Any) -> None:
    facts = {"step": step, "translator": made.describe(), "best": {"measure": "mse", "better": "lower", **best}}
    write_best(run, made.state_dict(), facts)


def die_after(calls: int) -> None:
    """Kills this process when it is about to change the disk once more than so many times."""
    left = [calls]

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return call(*arguments, **keywords)

        return counted

    for module, name in ((os, "rename"), (os, "fsync"), (shutil, "rmtree")):
        setattr(module, name, deadly(getattr(module, name)))


@pytest.mark.parametrize("step", [2, 1])
def test_a_kill_while_the_best_is_written_leaves_the_old_or_the_new(step: int, tmp_path: Path) -> None:
    """At every call that changes the disk, in a process of its own; also where both are of the same step."""
    old, new = net(1.0), net(2.0)
    first = [next(iter(made.state_dict())) for made in (old, new)][0]
    seen = set()
    for moment in range(100):
        run = tmp_path / f"run-{moment}"
        write(run, old, 1, value=0.5)
        child = os.fork()
        if child == 0:
            die_after(moment)
            write(run, new, step, value=0.25)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        folder, manifest = best_of(run)
        assert read_manifest(folder) == manifest
        value = read_tensors(folder, "ema.safetensors")[first].flatten()[0].item()
        assert (manifest["step"], manifest["best"]["value"]) == {1.0: (1, 0.5), 2.0: (step, 0.25)}[value]
        seen.add(value)
        checkpoint.remove_leftovers(run)
        assert best_of(run)[0] == folder
        if not os.WIFSIGNALED(status):
            break
    assert seen == {1.0, 2.0} and moment > 5
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"best-{step:08d}"]


def test_kills_before_do_not_keep_the_best_from_being_written_and_other_folders_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for name in (".writing-removed-best-00000001", "best-00000001.old", "best-of-mine", "best-2"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").touch()
    for step, value in ((1, 0.5), (1, 0.25), (2, 0.125)):
        write(tmp_path, net(1.0), step, value=value)
        assert best_of(tmp_path)[1]["best"]["value"] == value
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        assert names == {"best-of-mine", "best-2", f"best-{step:08d}"}


def test_of_two_the_better_one_counts_and_a_damaged_one_does_not(tmp_path: Path) -> None:
    write(tmp_path, net(1.0), 1, value=0.5)
    kept = (tmp_path / "checkpoints" / "best-00000001").rename(tmp_path / "kept")
    write(tmp_path, net(2.0), 2, value=0.25)
    kept.rename(tmp_path / "checkpoints" / "best-00000001")
    assert best_of(tmp_path)[1]["step"] == 2
    (tmp_path / "checkpoints" / "best-00000002" / "ema.safetensors").write_bytes(b"damaged")
    assert best_of(tmp_path)[1]["step"] == 1
    (tmp_path / "checkpoints" / "best-00000001" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="manifest.json is missing"):
        best_checkpoint(tmp_path)
    write(tmp_path, net(1.0), 3)
    with pytest.raises(CheckpointError, match="does not say what is best"):
        best_checkpoint(tmp_path)


def test_one_that_a_better_one_replaces_while_it_is_read_is_no_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, net(1.0), 1, value=0.5)
    read = best.read_manifest

    def replaced(folder: Path) -> dict[str, Any]:
        monkeypatch.setattr(best, "read_manifest", read)
        write(tmp_path, net(2.0), 2, value=0.25)
        return read(folder)

    monkeypatch.setattr(best, "read_manifest", replaced)
    assert best_of(tmp_path)[1]["step"] == 2


def test_what_is_better_depends_on_the_measure(tmp_path: Path) -> None:
    data, made = tiny_digits("", split="test", seed=1, pair_fraction=1.0), net(1.0)
    training = Training(made, made, {})

    def kept(best_by: str | None, step: int, **values: float) -> str:
        named = {f"validation/a->b/{key.replace('__', '/')}": value for key, value in values.items()}
        return Validation(data, tmp_path, best_by, step - 1).keep_if_best(named, training, {"step": step})

    assert kept(None, 1, none__mse=0.5, latent__pixel_variety=0.1) == "mse 0.5"
    assert kept(None, 2, none__mse=0.5, latent__pixel_variety=0.9) == ""  # not better
    assert kept("pixel_variety", 3, none__mse=0.9, latent__pixel_variety=0.2) == "pixel_variety 0.2"
    assert kept("pixel_variety", 4, latent__pixel_variety=0.1, reference__pixel_variety=0.4) == "pixel_variety 0.25"
    assert kept("pixel_variety", 5, latent__pixel_variety=0.1, reference__pixel_variety=0.3) == ""
    assert kept("mse", 6, latent__pixel_variety=1.0) == ""
    assert best_of(tmp_path)[1]["step"] == 4


def test_the_newest_counts_where_values_cannot_be_compared(tmp_path: Path) -> None:
    """As a kill leaves two beside each other."""
    folder, kept = tmp_path / "checkpoints", tmp_path / "kept"
    measured: list[dict[str, Any]] = [{}, {"measure": "miou", "better": "higher"}, {"over": ["a->b/none"]}]
    for step, more in enumerate(measured):
        write(tmp_path, net(1.0), step, value=0.1 * step, **more)
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        assert best_of(tmp_path)[1]["step"] == step
    assert len(list(folder.iterdir())) == 3


def test_values_of_other_images_other_directions_or_a_discarded_future_are_not_compared(tmp_path: Path) -> None:
    data, made = tiny_digits("", split="test", seed=1, pair_fraction=1.0), net(1.0)
    going_on = Validation(data, tmp_path, None)

    def kept(value: float, step: int, test_data: str, *ways: str, by: Validation = going_on) -> bool:
        named = {f"validation/{way}/none/mse": value for way in ways or ("a->b",)}
        return bool(by.keep_if_best(named, Training(made, made, {}), {"step": step, "test_data": test_data}))

    assert kept(0.1, 1, "images") and not kept(0.2, 2, "images")
    assert kept(0.3, 3, "others")
    assert kept(0.4, 4, "others", "a->b", "c->b") and not kept(0.5, 5, "others", "a->b", "c->b")
    assert kept(0.6, 6, "others")
    behind, ahead = (Validation(data, tmp_path, None, since) for since in (5, 6))
    assert not kept(0.7, 7, "others", by=ahead)
    assert kept(0.7, 7, "others", by=behind) and not kept(0.8, 8, "others", by=behind)


def test_best_stands_for_a_checkpoint_everywhere(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path(shutil.copytree(whole, tmp_path / "run"))
    folder, manifest = best_of(whole)
    assert find_checkpoint(whole, "best")[0] == folder
    assert find_checkpoint(whole / "checkpoints" / "best")[0] == folder
    assert fit_of(whole / "checkpoints" / "best") == "stretch"
    weights = load_translator(whole / "checkpoints" / "best", "cpu").state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in read_tensors(folder, "ema.safetensors").items())
    found = evaluate_run(whole, Options(sources=2, outputs_per_source=2, extractor="none"), checkpoint="best")
    assert found["step"] == manifest["step"]
    shutil.rmtree(whole / "checkpoints" / f"step-{found['step']:08d}", ignore_errors=True)
    assert _checkpoint(read_record(whole, "a"), [])[0] == folder  # the pictures are of the weights that were measured
    monkeypatch.setattr("m2o_fast.engine.runs.newest_run", lambda: whole)
    assert find_checkpoint(Path("best"))[0] == folder and fit_of(Path("best")) == "stretch"
    with pytest.raises(UserError, match="holds no training state"):
        train(tiny_config(*SETTINGS), whole.parent / "other", str(folder), quiet=True)


def test_every_pair_counts_as_known_and_images_are_opened_once_where_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def noted(name: str, *, pair_fraction: float, **more: Any) -> Any:
        opened.append((more["split"], pair_fraction))
        return tiny_digits(name, pair_fraction=pair_fraction, **more)

    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", noted)
    for share in (1.0, 0.5):
        train(
            tiny_config("steps=1", "validate_every=1", f"data.pair_fraction={share}"), tmp_path / str(share), quiet=True
        )
    assert opened == [("train", 1.0), ("test", 1.0), ("train", 0.5), ("test", 0.5), ("test", 1.0)]


def test_a_run_without_validation_has_no_best(tmp_path: Path) -> None:
    train(tiny_config("steps=1"), tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="has no best checkpoint: it was trained without --validate-every"):
        find_checkpoint(tmp_path / "run", "best")


def test_a_validation_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    translate_many = StarGANv2.translate_many
    monkeypatch.setattr(StarGANv2, "translate_many", lambda *args: translate_many(*args) * torch.nan)
    assert train(tiny_config(*SETTINGS, "steps=1"), tmp_path / "run", quiet=True).step == 1
    assert "step 1: validation: gray->color: translations of 6 images" in capsys.readouterr().err
    assert best_checkpoint(tmp_path / "run") is None and len(lines(tmp_path / "run")) == 1


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("std::bad_alloc"), MemoryError()]
)
def test_too_little_memory_for_a_validation_does_not_end_the_run(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Validation, "measure", Mock(side_effect=error))
    assert train(tiny_config(*SETTINGS, "steps=1"), tmp_path / "run", quiet=True).step == 1
    assert "step 1: validation: out of memory; training goes on" in capsys.readouterr().err
    monkeypatch.setattr(Validation, "measure", Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        train(tiny_config(*SETTINGS, "steps=1"), tmp_path / "other", quiet=True)


def test_all_outputs_of_the_sources_make_a_batch_and_domains_share_the_sources() -> None:
    def options(domains: int, size: int) -> Options:
        ways = [(a, b) for a in range(domains) for b in range(domains)]
        parameters = [torch.zeros(1)]
        made = SimpleNamespace(directions=lambda: ways, image_size=size, parameters=lambda: iter(parameters))
        data = tiny_digits("", split="test", seed=1, pair_fraction=1.0)
        return Validation(data, Path("nowhere"), None).options(cast(Translator, made))

    assert [options(domains, 32).sources for domains in (2, 3, 5, 20)] == [64, 32, 16, 8]
    assert [options(2, size).batch_size for size in (32, 64, 256)] == [200 // 8, 50 // 8, 1]


def test_what_was_measured_is_written_down_also_where_the_best_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("m2o_fast.engine.validation.write_best", Mock(side_effect=full))
    train(tiny_config(*SETTINGS, "steps=1"), tmp_path / "run", quiet=True)
    assert MSE in lines(tmp_path / "run")[1]
    assert "step 1: validation: No space left on device; training goes on" in capsys.readouterr().err


def test_a_measure_that_the_data_do_not_have_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny_config(*SETTINGS, "steps=2", "best_by=miou"), tmp_path / "run", quiet=True)
    said = capsys.readouterr().err
    assert said.count("best_by = 'miou' is not measured here (measured: mse, pixel_color_recall, ") == 1
    with pytest.raises(UserError, match="has no best checkpoint: .*, or best_by was never measured"):
        find_checkpoint(tmp_path / "run", "best")


def test_an_unknown_measure_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"best_by = 'mso' in --set: unknown measure; nearest: 'mse' \(measures: mse, miou"
    ):
        tiny_config("best_by=mso")

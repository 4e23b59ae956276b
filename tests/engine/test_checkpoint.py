"""Loading checkpoints for use, and noticing damage. What happens while one is written: test_faults.py."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import tiny_config

import m2o_fast
from m2o_fast.engine.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_weights,
    newest_checkpoint,
    read_manifest,
    read_tensors,
    save_translator,
    seal,
    write_checkpoint,
)
from m2o_fast.engine.loop import train
from m2o_fast.engine.runs import next_run
from m2o_fast.engine.start import check_claim
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.translators import create
from m2o_fast.translators.starganv2.settings import Size
from m2o_fast.translators.starganv2.translator import StarGANv2

pytestmark = pytest.mark.usefixtures("tiny_data")
Trained = Callable[[Path, int], Path]


@pytest.fixture
def translator() -> StarGANv2:
    size = Size(image_size=32, base_width=4, max_width=8, style_dim=4, latent_dim=4, hidden_dim=8)
    return StarGANv2([Domain("color"), Domain("gray", 1, multimodal=False)], ManyToOne(), size).eval()


def test_saved_translator_loads_with_the_same_function(translator: StarGANv2, tmp_path: Path) -> None:
    save_translator(translator, tmp_path / "saved")
    loaded = m2o_fast.load(tmp_path / "saved")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.translate(x, "color", "gray"), translator.translate(x, "color", "gray"))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(UserError, match="exists already"):
        save_translator(translator, tmp_path / "saved")


def test_load_takes_the_average_and_keeps_the_discriminator(trained: Trained, tmp_path: Path) -> None:
    newest = list_checkpoints(trained(tmp_path / "run", 2))[-1]
    nets, average = read_tensors(newest, "nets.safetensors"), read_tensors(newest, "ema.safetensors")
    for folder in (tmp_path / "run", newest):
        state = m2o_fast.load(folder).state_dict()
        assert all(torch.equal(state[name], average.get(name, nets[name])) for name in state)
    assert {name.split(".")[0] for name in average} == {"generator", "mapping_network", "style_encoder"}
    assert any(not torch.equal(average[name], nets[name]) for name in average)


def test_global_random_state_is_left_alone(translator: StarGANv2, tmp_path: Path) -> None:
    save_translator(translator, tmp_path / "saved")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    m2o_fast.load(tmp_path / "saved")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "neither a run .* nor a checkpoint"),
        (lambda folder: (folder.mkdir(), (folder / "config.yaml").write_text("steps: 3")), "has no checkpoint yet"),
        (lambda folder: (folder.mkdir(), (folder / "manifest.json").write_text("[]")), "manifest.json is damaged"),
        (
            lambda folder: (folder.mkdir(), (folder / "manifest.json").write_text('{"format": 9, "files": {}}')),
            "format 9 is not supported",
        ),
    ],
)
def test_what_cannot_be_loaded_is_worded(make, message: str, tmp_path: Path) -> None:
    make(tmp_path / "thing")
    with pytest.raises(UserError, match=message):
        m2o_fast.load(tmp_path / "thing")


def test_misfitting_weights_are_listed(translator: StarGANv2) -> None:
    weights = dict(translator.state_dict())
    name = "generator.stem_in.0.weight"
    weights["other"] = weights.pop("generator.stem_in.0.bias")
    weights[name] = torch.zeros(1)
    with pytest.raises(UserError) as error:
        load_weights(translator, weights, Path("here"))
    for part in ("here", "missing generator.stem_in.0.bias", "superfluous other", f"{name} is [1] instead of"):
        assert part in str(error.value)


def test_unknown_systems_are_refused(translator: StarGANv2) -> None:
    with pytest.raises(ValueError, match="unknown system 'magic'"):
        create({**translator.describe(), "system": "magic"})
    with pytest.raises(ValueError, match="does not fit"):
        create({"system": "starganv2"})


def test_runs_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert next_run(tiny_config()) == Path("runs/hms-digits-001")
    (tmp_path / "runs" / "hms-digits-009").mkdir(parents=True)
    assert next_run(tiny_config()) == Path("runs/hms-digits-010")


# --- damage ---


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])  # 9: of almost every byte one, in turn
def test_every_bit_of_a_manifest_is_guarded(step: int, translator: StarGANv2, tmp_path: Path) -> None:
    folder = save_translator(translator, tmp_path / "saved")
    path = folder / "manifest.json"
    whole = path.read_bytes()
    read_manifest(folder)
    for bit in range(0, 8 * len(whole), step):
        edited = bytearray(whole)
        edited[bit // 8] ^= 1 << bit % 8
        path.write_bytes(edited)
        with pytest.raises(CheckpointError, match="manifest.json|format"):
            read_manifest(folder)


@pytest.mark.parametrize("place", [0.0, 0.001, 0.3, 0.7, 1.0])
def test_a_bit_anywhere_in_the_tensors_is_noticed(place: float, translator: StarGANv2, tmp_path: Path) -> None:
    path = save_translator(translator, tmp_path / "saved") / "ema.safetensors"
    data = bytearray(path.read_bytes())
    for bit in (0, 7):
        edited = data.copy()
        edited[round(place * (len(data) - 1))] ^= 1 << bit
        path.write_bytes(edited)
        with pytest.raises(CheckpointError, match=f"{path} is damaged: its SHA-256"):
            m2o_fast.load(tmp_path / "saved")


def resealed(folder: Path, **changes: object) -> Path:
    """The checkpoint with other facts in its manifest, whole by its own SHA-256; None leaves a fact out."""
    facts = {**json.loads((folder / "manifest.json").read_bytes()), **changes}
    del facts["sha256"]
    (folder / "manifest.json").write_bytes(seal({key: value for key, value in facts.items() if value is not None}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": None}, "'step' must be a whole number from 0 on, got None"),
        ({"step": -1}, "'step' must be a whole number"),
        ({"step": True}, "'step' must be a whole number"),
        ({"step": "7" * 10**6}, "'step' must be a whole number"),
        ({"translator": None}, "'translator' must be an object"),
        ({"translator": {}}, "'translator' must be an object with 'domains', 'rules' and 'size'"),
        (
            {"files": {"optimizers.safetensors": {"bytes": 0, "sha256": "x"}}},
            "'step', 'skipped', 'skipped_in_a_row' must",
        ),
        ({"translator": [1]}, "'translator' must be an object"),
        ({"files": None}, "'files' must be an object"),
        ({"files": {"a": 3}}, "'files' must be an object"),
        ({"files": {"a": {"bytes": "3", "sha256": "x"}}}, "'files' must be an object"),
        *(
            ({"files": {name: {"bytes": 0, "sha256": "x"}}}, "'files' must be an object of plain names")
            for name in ("../../etc/passwd", "/dev/zero", "..", "", "a/b", "a\0b")
        ),
    ],
)
def test_a_sealed_manifest_is_still_looked_at(
    changes: dict[str, object], message: str, translator: StarGANv2, tmp_path: Path
) -> None:
    folder = resealed(save_translator(translator, tmp_path / "saved"), **changes)
    with pytest.raises(CheckpointError, match=f"manifest.json is damaged: {message}") as error:
        m2o_fast.load(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_pipe_in_place_of_a_file_is_not_waited_for(translator: StarGANv2, tmp_path: Path) -> None:
    folder = save_translator(translator, tmp_path / "saved")
    (folder / "ema.safetensors").unlink()
    os.mkfifo(folder / "ema.safetensors")
    with pytest.raises(CheckpointError, match="ema.safetensors is damaged: it is not a regular file"):
        m2o_fast.load(folder)


def test_a_checkpoint_under_the_number_of_another_step_is_passed_over(trained: Trained, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", 4)
    copied = run / "checkpoints" / "step-00000009"
    shutil.copytree(run / "checkpoints" / "step-00000002", copied)
    for name in ("step-\u00b2", "step-x", "step-"):
        (run / "checkpoints" / name).mkdir()
    with pytest.raises(CheckpointError, match="named after step 9, but it is of step 2"):
        read_manifest(copied)
    result = train(tiny_config("steps=5"), run, resume="auto", quiet=True)
    assert result.step == 5
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 5
    shutil.copytree(run / "checkpoints" / "step-00000005", tmp_path / "best")
    assert read_manifest(tmp_path / "best")["step"] == 5  # a name that says nothing of a step


def test_one_that_training_replaces_while_it_is_read_is_no_damaged_one(
    translator: StarGANv2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_translator(translator, tmp_path / "checkpoints" / "step-00000000")

    def replaced(folder: Path) -> dict[str, object]:
        if folder.name == "step-00000000":
            save_translator(translator, tmp_path / "checkpoints" / "step-00000002", {"step": 2})
            shutil.rmtree(folder)
        return read_manifest(folder)

    monkeypatch.setattr("m2o_fast.engine.checkpoint.read_manifest", replaced)
    found = newest_checkpoint(tmp_path)
    assert found is not None and found[1]["step"] == 2 and not found[2]


NAME = "generator.stem_in.0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({f"{NAME}/exp_avg": t[f"{NAME}/exp_avg"][:1]}), "exp_avg of {name} must be float32"),
        (lambda t: t.update({f"{NAME}/exp_avg": t[f"{NAME}/exp_avg"].double()}), "{name} must be float32 .*float64"),
        (lambda t: t.pop(f"{NAME}/exp_avg_sq"), "exp_avg_sq of {name} must be float32 .* is left out"),
        (lambda t: t.pop(f"{NAME}/step"), r"step of {name} must be float32 \[\], is left out"),
        (lambda t: t.update({f"{NAME}/more": torch.zeros(1)}), r"more of {name} must be left out, is float32 \[1\]"),
        (lambda t: [t.pop(key) for key in [*t] if key.startswith(NAME)], "no state of {name}"),
        (lambda t: t.update({"nobody/step": torch.zeros(())}), "unknown parameters: nobody"),
    ],
)
def test_state_of_the_optimizers_that_does_not_fit(change, message: str, trained: Trained, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", 2)
    folder = list_checkpoints(run)[-1]
    tensors = {name: read_tensors(folder, name) for name in ("nets.safetensors", "ema.safetensors")}
    optimizers = read_tensors(folder, "optimizers.safetensors")
    change(optimizers)
    facts = {key: value for key, value in read_manifest(folder).items() if key not in ("format", "files")}
    write_checkpoint(folder, {**tensors, "optimizers.safetensors": optimizers}, facts)
    with pytest.raises(UserError, match=f"optimizers.safetensors: .*{message.format(name=NAME)}") as error:
        train(tiny_config("steps=4"), run, resume="auto", quiet=True)
    assert "\n" not in str(error.value)


def test_what_kills_left_behind_goes_with_the_next_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_config("steps=1"), run, quiet=True)
    before = {path.relative_to(run) for path in run.rglob("*")}
    names = ["metrics.jsonl", "timings.jsonl", "samples.jsonl", "env.json", "config.yaml", "samples/step-00000001.png"]
    for path in map(run.joinpath, names):
        path.parent.mkdir(exist_ok=True)
        path.with_name(f".{path.name}.4711.part").write_bytes(b"x")
    (run / "checkpoints" / ".writing-step-00000002-4711").mkdir()
    by_others = run / ".report.html.4711.part"  # a report may be written while training goes on
    by_others.write_bytes(b"x")
    train(tiny_config("steps=2"), run, "auto", quiet=True)
    hidden = [path for path in run.rglob(".*") if path.relative_to(run) not in before]
    assert hidden == [by_others]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").symlink_to(precious)
    with pytest.raises(UserError, match=r"\.lock is a link, which is not followed; remove it"):
        train(tiny_config("steps=2"), run, quiet=True)
    (run / ".lock").unlink()
    train(tiny_config("steps=2"), run, quiet=True)
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(precious)
    train(tiny_config("steps=4"), run, resume="auto", quiet=True)
    assert precious.read_text() == "keep me"


def test_a_folder_of_a_run_that_is_a_link_is_not_written_to(tmp_path: Path) -> None:
    """It may lead to another run, whose older checkpoints would be removed. The run folder itself may be a link."""
    run, goes_on = tmp_path / "run", tiny_config("steps=2", "keep_checkpoints=1")
    train(tiny_config("steps=1"), run, quiet=True)
    for name in ("checkpoints", "samples"):
        other = (run / name).rename(tmp_path / "other")
        (run / name).symlink_to(other)
        before = {path: path.stat().st_mtime_ns for path in other.rglob("*")}
        for call in (lambda: check_claim(run), lambda: train(goes_on, run, resume="auto", quiet=True)):
            with pytest.raises(UserError, match=f"{name} is a link, which is not followed; remove it, or link"):
                call()
        assert {path: path.stat().st_mtime_ns for path in other.rglob("*")} == before
        (run / name).unlink()
        other.rename(run / name)
    (tmp_path / "link").symlink_to(run)
    assert train(goes_on, tmp_path / "link", resume="auto", quiet=True).step == 2

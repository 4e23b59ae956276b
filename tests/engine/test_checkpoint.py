"""Loading checkpoints for use, and noticing damage. What happens while one is written: test_faults.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_config

import m2o_fast
from m2o_fast.engine.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_weights,
    read_manifest,
    save_translator,
)
from m2o_fast.engine.loop import train
from m2o_fast.engine.runs import next_run
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.translators import StarGANv2, create
from m2o_fast.translators.starganv2_nets import StarGANv2Size

pytestmark = pytest.mark.usefixtures("tiny_data")


@pytest.fixture
def translator() -> StarGANv2:
    size = StarGANv2Size(32, 4, 8, 4, 4, 8)
    return StarGANv2([Domain("color"), Domain("gray", 1, multimodal=False)], ManyToOne(), size).eval()


def test_saved_translator_loads_with_the_same_function(translator: StarGANv2, tmp_path: Path) -> None:
    save_translator(translator, tmp_path / "saved")
    loaded = m2o_fast.load(tmp_path / "saved")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.translate(x, "color", "gray"), translator.translate(x, "color", "gray"))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(UserError, match="exists already"):
        save_translator(translator, tmp_path / "saved")


def test_load_takes_the_average_and_keeps_the_discriminator(tmp_path: Path) -> None:
    train(tiny_config("steps=2"), tmp_path / "run", quiet=True)
    newest = list_checkpoints(tmp_path / "run")[-1]
    from m2o_fast.engine.checkpoint import read_tensors

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
    with pytest.raises(ValueError, match="unknown system 'pix2pix'"):
        create({**translator.describe(), "system": "pix2pix"})
    with pytest.raises(ValueError, match="does not fit"):
        create({"system": "starganv2"})


def test_runs_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert next_run(tiny_config()) == Path("runs/hms-digits-001")
    (tmp_path / "runs" / "hms-digits-009").mkdir(parents=True)
    assert next_run(tiny_config()) == Path("runs/hms-digits-010")


# --- damage ---


def test_every_bit_of_a_manifest_is_guarded(translator: StarGANv2, tmp_path: Path) -> None:
    folder = save_translator(translator, tmp_path / "saved")
    path = folder / "manifest.json"
    whole = path.read_bytes()
    read_manifest(folder)
    for bit in range(8 * len(whole)):
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

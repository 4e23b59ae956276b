"""Checkpoints: complete or not there, whatever kills the process; and loading them for use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import contents, tiny_config

import m2o_fast
from m2o_fast.engine.checkpoint import list_checkpoints, load_weights, save_translator
from m2o_fast.engine.loop import train
from m2o_fast.engine.runs import next_run
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.translators import StarGANv2, create
from m2o_fast.translators.starganv2_nets import StarGANv2Size

pytestmark = pytest.mark.usefixtures("tiny_data")

# Trains, and dies by SIGKILL at one moment of saving the checkpoint of step 4.
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import m2o_fast.engine.checkpoint as checkpoint
import m2o_fast.engine.runs as runs
from m2o_fast.engine.loop import train
from tiny import tiny_config, tiny_digits

runs.open_dataset = tiny_digits
moment, function = sys.argv[3].split(":"), None
module = os if moment[0] == "rename" else checkpoint
name = {"rename": "rename", "write": "_write", "flush": "_flush_folder"}[moment[0]]
function = getattr(module, name)

def deadly(*arguments):
    mine = "step-00000004" in str(arguments[0]) and moment[1] in str(arguments[0])
    if mine and moment[2] == "half":
        Path(arguments[0]).write_bytes(arguments[1][: len(arguments[1]) // 2])
    if mine and moment[2] != "after":
        os.kill(os.getpid(), signal.SIGKILL)
    result = function(*arguments)
    if mine:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(module, name, deadly)
train(tiny_config("steps=6"), Path(sys.argv[2]), quiet=True)
"""


@pytest.mark.parametrize(
    "moment",
    ["write:nets:before", "write:optimizers:half", "write:manifest:half", "rename:step:before", "rename:step:after"],
)
def test_kill_while_saving_leaves_a_loadable_run(moment: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(run), moment]
    killed = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    newest = "step-00000004" if moment.endswith("after") else "step-00000002"
    assert list_checkpoints(run)[-1].name == newest
    assert m2o_fast.load(run).image_size == 32
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(tiny_config("steps=6"), run, "auto", quiet=True)
        train(tiny_config("steps=6"), tmp_path / "whole", quiet=True)
    finally:
        torch.set_num_threads(threads)
    assert contents(run) == contents(tmp_path / "whole")


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

"""Published models: what is read back, and what is refused."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from published import DOMAINS, published_model
from safetensors.torch import load_file, save_file
from small import small_config

import m2o_fast
from m2o_fast.engine.build import build_translator
from m2o_fast.engine.model_folder import CONFIG, WEIGHTS, write_model
from m2o_fast.errors import UserError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_model(tmp_path_factory.mktemp("published"))


def broken(model: Path, to: Path, change: Any) -> Path:
    to.mkdir()
    for path in model.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    change(to)
    return to


def edited(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def gigantic(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["translator"]["size"]["hidden_dim"] = 10**6
    (folder / "config.json").write_text(json.dumps(config))


def longer(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"more": torch.zeros(1)}, folder / "model.safetensors")


def test_who_may_read_the_description_may_read_the_weights(model: Path) -> None:
    assert (model / WEIGHTS).stat().st_mode == (model / CONFIG).stat().st_mode


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edited(library_name="diffusers"), "config.json: not of a model of m2o_fast"),
        (edited(format=2), "config.json: format 2 is not supported"),
        (edited(fit="twist"), "config.json is damaged: 'fit' must be one of"),
        (edited(translator={"system": "none"}), "config.json: unknown system 'none'"),
        (edited(translator=[]), "config.json is damaged: .*'translator' an object"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (lambda folder: (folder / "config.json").write_text("[" * 10**5), "config.json is damaged"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "model.safetensors cannot be read"),
        (longer, "model.safetensors does not fit the nets"),
        (gigantic, "model.safetensors does not fit the nets"),
    ],
)
def test_damaged_folders_are_refused(model: Path, tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        m2o_fast.load(broken(model, tmp_path / "broken", change), "cpu")


def test_a_full_disk_is_said_with_the_file(tmp_path: Path) -> None:
    translator = build_translator(small_config(["system=starganv2", "variant=hms"]), DOMAINS)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room, name in ((100, CONFIG), (8000, WEIGHTS)):  # bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            with pytest.raises(UserError, match=rf"{name}: cannot be written \(.*[Ff]ile too large"):
                write_model(translator, tmp_path, {"fit": "stretch"})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

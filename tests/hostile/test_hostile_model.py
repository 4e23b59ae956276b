"""Door: ``config.json`` of a published model, whose nets are built before their weights are looked at."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small import small_config

from m2o_fast.engine.build import build_translator
from m2o_fast.engine.model_folder import CONFIG, FORMAT, LIBRARY, WEIGHTS
from m2o_fast.m2o import Domain
from m2o_fast.nn.memoryless import memoryless
from m2o_fast.translators import NAMES, system

MANY = 100_000_000
Put = Callable[[Mapping[str, Any]], Path]


@cache
def described(name: str) -> Mapping[str, Any]:
    """The description of small nets of a system."""
    facts = system(name)
    with memoryless():
        config = small_config([f"system={name}", f"variant={list(facts.variants)[0]}"])
        return build_translator(config, (Domain("color"), Domain("gray", multimodal=False))).describe()


def counts(name: str) -> list[str]:
    """What the description of a system's nets counts."""
    return [key for key, value in described(name)["size"].items() if type(value) is int]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """The folder of a published model of this description, with the weights of none."""

    def call(description: Mapping[str, Any]) -> Path:
        folder = tmp_path / "model"
        folder.mkdir()
        config = {"library_name": LIBRARY, "format": FORMAT, "fit": "stretch", "translator": description}
        (folder / CONFIG).write_text(json.dumps(config))
        save_file({"a": torch.zeros(1)}, folder / WEIGHTS)
        return folder

    return call


def translate(refuses, picture: Path, folder: Path) -> str:
    return refuses("translate", picture, "--run", folder, "--to", "gray", "--out", "out.png", names=str(folder))


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in NAMES for key in counts(name)])
def test_gigantic_numbers(name: str, key: str, put: Put, picture: Path, refuses) -> None:
    """Widths need no time without memory; of layers nobody needs so many."""
    description = described(name)
    translate(refuses, picture, put({**description, "size": {**description["size"], key: MANY}}))


@pytest.mark.parametrize("name", NAMES)
def test_all_numbers_as_large_as_they_may_be(name: str, put: Put, picture: Path, refuses) -> None:
    description = described(name)
    size = {**description["size"], **dict.fromkeys(set(counts(name)) - {"image_size"}, 64)}
    translate(refuses, picture, put({**description, "size": size}))


@pytest.mark.parametrize("name", NAMES)
def test_thousands_of_domains(name: str, put: Put, picture: Path, refuses) -> None:
    domains = [{"name": f"d{k}", "multimodal": k > 0} for k in range(5000)]
    translate(refuses, picture, put({**described(name), "domains": domains}))


@pytest.mark.parametrize("name", [name for name in NAMES if "blocks" in counts(name)])
def test_a_setting_of_as_many_blocks(name: str, refuses) -> None:
    refuses("train", "--system", name, "--set", f"model.blocks={MANY}", names="model.blocks")

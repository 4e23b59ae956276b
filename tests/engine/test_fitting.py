"""The recipe for own images that fits a machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from m2o_fast.cli.options import settings_from
from m2o_fast.data.learner import Fitting
from m2o_fast.engine.config import load_config
from m2o_fast.engine.fitting import cpu_preset, fitting, seconds_per_step
from m2o_fast.engine.schema import Config
from m2o_fast.m2o import Domain

DOMAINS = (Domain("color", 3), Domain("line", 1, multimodal=False))
OWN = {"data.name": "folder", "data.dir": "any", "data.uni": ["line"]}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


@pytest.mark.parametrize(("speed", "side", "size"), [(1e-4, 300, 64), (1e-4, 40, 32), (4e-4, 300, 32)])
def test_the_larger_size_that_takes_less_than_an_hour(
    speed: float, side: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes so many seconds for each pixel of a side squared."""

    def seconds(config: Config, domains: Sequence[Domain]) -> float:
        return speed * config.data.image_size**2

    monkeypatch.setattr("m2o_fast.engine.fitting.seconds_per_step", seconds)
    steps = load_config(overrides=OWN, preset="folder-cpu").steps
    more = [] if size == 32 else ["--set", f"data.image_size={size}"]
    assert fitting("starganv2", "hms", DOMAINS, side) == Fitting(
        ["--preset", "folder-cpu", *more], pytest.approx(speed * size**2 * steps / 3600)
    )


@pytest.mark.parametrize(("seconds", "steps"), [(1.81, 1900), (60.0, 500)])
def test_where_no_size_does_there_are_fewer_steps(seconds: float, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2o_fast.engine.fitting.seconds_per_step", lambda config, domains: seconds)
    assert fitting("starganv2", "hms", DOMAINS, 300) == Fitting(
        ["--preset", "folder-cpu", "--steps", str(steps)], pytest.approx(seconds * steps / 3600)
    )


def test_with_a_gpu_or_without_a_recipe_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitting("cyclegan", "hms", DOMAINS, 300) is None
    with_gpu(monkeypatch)
    assert fitting("starganv2", "hms", DOMAINS, 300) is None


def test_it_is_taken_where_no_preset_is_named_and_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert settings_from(None, None, OWN) == load_config(overrides=OWN, preset="folder-cpu")
    assert settings_from(None, None, OWN, "folder") == load_config(overrides=OWN) != settings_from(None, None, OWN)
    assert settings_from(None, ["steps=7"], OWN).steps == 7
    assert settings_from(None, None, {"data.name": "digits"}) == load_config()
    assert settings_from(None, None, OWN | {"system": "cyclegan"}).data.image_size == 256
    with_gpu(monkeypatch)
    assert settings_from(None, None, OWN) == load_config(overrides=OWN)
    assert cpu_preset(load_config(overrides=OWN | {"device": "cpu"})) == "folder-cpu"


def test_a_step_is_timed_without_images() -> None:
    narrow = ["model.base_width=4", "model.max_width=8", "model.hidden_dim=8", "batch_size=4", "device=cpu"]
    config = load_config(overrides=OWN, assignments=narrow, preset="folder-cpu")
    assert 0 < seconds_per_step(config, DOMAINS) < 60

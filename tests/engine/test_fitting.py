"""The recipe for own images that fits a machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from m2o_fast.cli.options import settings_from
from m2o_fast.cli.train import train
from m2o_fast.data.learner import Fitting
from m2o_fast.engine.config import dump_config, load_config
from m2o_fast.engine.fitting import cpu_preset, fitting, seconds_per_step, settings_to_train
from m2o_fast.engine.schema import Config
from m2o_fast.engine.step import Stepper, StepResult
from m2o_fast.m2o import Domain
from m2o_fast.translators import NAMES, system

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

    def seconds(config: Config, domains: Sequence[Domain], sets: Sequence[int]) -> float:
        return speed * config.data.image_size**2

    monkeypatch.setattr("m2o_fast.engine.fitting.seconds_per_step", seconds)
    steps = load_config(overrides=OWN, preset="folder-cpu").steps
    more = [] if size == 32 else ["--set", f"data.image_size={size}"]
    assert fitting("starganv2", "hms", DOMAINS, side) == Fitting(
        ["--preset", "folder-cpu", *more], pytest.approx(speed * size**2 * steps / 3600)
    )


@pytest.mark.parametrize(("seconds", "steps"), [(1.81, 1900), (60.0, 500)])
def test_where_no_size_does_there_are_fewer_steps(seconds: float, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2o_fast.engine.fitting.seconds_per_step", lambda config, domains, sets: seconds)
    assert fitting("starganv2", "hms", DOMAINS, 300) == Fitting(
        ["--preset", "folder-cpu", "--steps", str(steps)], pytest.approx(seconds * steps / 3600)
    )


def test_with_a_gpu_or_without_a_recipe_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitting("cyclegan", "hms", DOMAINS, 300) is None
    with_gpu(monkeypatch)
    assert fitting("starganv2", "hms", DOMAINS, 300) is None


def new_run(assignments: list[str] | None = None, preset: str | None = None, **more: str) -> Config:
    return settings_to_train(None, None, None, assignments, OWN | more, preset)[0]


def test_it_is_taken_where_no_preset_is_named_and_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert new_run() == load_config(overrides=OWN, preset="folder-cpu")
    assert new_run(preset="folder") == load_config(overrides=OWN) != new_run()
    assert new_run(["steps=7"]).steps == 7
    assert settings_to_train(None, None, None, None, {"data.name": "digits"}, None) == (load_config(), "")
    assert new_run(system="cyclegan").data.image_size == 256
    with_gpu(monkeypatch)
    assert new_run() == load_config(overrides=OWN)
    assert cpu_preset(load_config(overrides=OWN | {"device": "cpu"})) == "folder-cpu"


def test_it_is_said_where_it_is_taken() -> None:
    said = settings_to_train(None, None, None, None, OWN, None)[1]
    assert said.startswith("recipe: folder-cpu, small nets and 32 pixels,") and "--preset folder is" in said
    assert settings_to_train(None, None, None, None, OWN, "folder-cpu")[1] == ""


def test_the_command_says_it_before_the_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[Config] = []

    def run_training(config: Config, *_: object) -> SimpleNamespace:
        trained.append(config)
        print("the plan")
        return SimpleNamespace(exit_code=0)

    monkeypatch.setattr("m2o_fast.engine.loop.train", run_training)
    monkeypatch.setattr("m2o_fast.engine.pace.dry_run", lambda *_, **__: {"lines": ["the plan"]})
    said = settings_to_train(None, None, None, None, OWN, None)[1]
    train(data="folder:any", uni=["line"])
    assert trained == [new_run()] and capsys.readouterr().out == f"{said}\nthe plan\n"
    train(data="folder:any", uni=["line"], quiet=True)
    assert capsys.readouterr().out == "the plan\n"
    train(data="folder:any", uni=["line"], dry_run=True)
    assert capsys.readouterr().out.startswith(f"# {said}\n# the plan\n")
    train(data="folder:any", uni=["line"], dry_run=True, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"recipe": said}


def test_a_file_a_run_that_goes_on_and_other_commands_keep_the_usual_recipe(tmp_path: Path) -> None:
    usual = load_config(overrides=OWN)
    assert settings_from(None, None, OWN) == usual
    written, run = tmp_path / "mine.yaml", tmp_path / "run"
    written.write_text("data: {name: folder, dir: any, uni: [line]}\n")
    assert settings_to_train(written, None, None, None, {}, None) == (usual, "")
    run.mkdir()
    (run / "config.yaml").write_text(dump_config(usual))
    assert settings_to_train(None, run, "auto", None, {}, None) == (usual, "")
    assert settings_to_train(None, None, str(run / "checkpoints" / "step-00000001"), None, OWN, None) == (usual, "")
    assert settings_to_train(None, tmp_path / "new", "auto", None, OWN, None)[0] == new_run()


def test_a_step_is_timed_without_images() -> None:
    narrow = ["model.base_width=4", "model.max_width=8", "model.hidden_dim=8", "batch_size=4", "device=cpu"]
    config = load_config(overrides=OWN, assignments=narrow, preset="folder-cpu")
    assert 0 < seconds_per_step(config, DOMAINS) < 60


NARROW = ["system=stargan", "model.width=4", "model.discriminator_width=4", "model.blocks=1", "batch_size=4"]


def test_iterations_count_as_often_as_a_run_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two data sets the discriminator's steps take a second each, the generator's, in every fourth, ten more."""
    now = [0.0]

    class Clocked(Stepper):
        def __call__(self, parts, index, *rest) -> StepResult:
            assert [sum(count > 0 for count in part.source_counts) for part in parts] == [2, 2]
            phases = self.translator.phases(index)
            now[0] += sum(1 if phase.name == "discriminator" else 10 for phase in phases)
            return StepResult({}, torch.zeros(()))

    monkeypatch.setattr("m2o_fast.engine.fitting.Stepper", Clocked)
    monkeypatch.setattr("m2o_fast.engine.fitting.time.perf_counter", lambda: now[0])
    config = load_config(assignments=[*NARROW, "data.name=folder", "data.dir=any", "data.image_size=32", "steps=100"])
    config = config.with_values({"optim.generator_every": 4})
    domains = [Domain("a"), Domain("b"), Domain("c", 1), Domain("d", 1)]
    assert seconds_per_step(config, domains, [2, 2]) == 2 + 20 / 4


def test_systems_of_several_data_sets_have_such_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    several = [name for name in NAMES if system(name).several_sets]
    assert several and {"folder", "folder-cpu"} <= set.intersection(*(set(system(name).presets) for name in several))
    monkeypatch.setattr("m2o_fast.engine.fitting.seconds_per_step", lambda config, domains, sets: len(sets) / 10)
    domains = [Domain(name) for name in "abcd"]
    for name in several:
        steps = load_config(overrides=OWN | {"system": name}, preset="folder-cpu").steps
        options = ["--preset", "folder-cpu", "--set", "data.image_size=64"]
        assert fitting(name, "plain", domains, 64, [2, 2]) == Fitting(options, pytest.approx(0.2 * steps / 3600))

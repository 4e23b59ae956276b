"""What docs/training.md promises holds for every system and variant. A new one is tested here without a line."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from forked import together
from recording import CpuRecorder
from safetensors.torch import load_file
from small import CASES, STEPS, iterations, small_config, state
from tiny import contents, stop_at, tiny_digits
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm

import m2o_fast
from m2o_fast.engine import memory
from m2o_fast.engine.best import best_checkpoint
from m2o_fast.engine.checkpoint import checkpoint_folder
from m2o_fast.engine.evaluate import evaluate_run
from m2o_fast.engine.evaluation.options import Options
from m2o_fast.engine.graphs import GraphedStepper
from m2o_fast.engine.loop import train
from m2o_fast.engine.runlog import Log
from m2o_fast.engine.samples import SampleGrid
from m2o_fast.engine.schema import Config
from m2o_fast.engine.trainer import Trainer
from m2o_fast.errors import UserError
from m2o_fast.metrics.diversity import Lpips
from m2o_fast.nn.batch_norm import BatchNorm2d
from m2o_fast.report import write_report
from m2o_fast.translators.base import Translator


@pytest.fixture(autouse=True)
def _toy(tiny_data: None, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.install(monkeypatch)


@pytest.fixture(scope="module", params=CASES)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Config, Path]]:
    """A configuration and the folder of its run, which nothing stopped."""
    with pytest.MonkeyPatch.context() as patch:
        toy.install(patch)
        patch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
        config, run = small_config(request.param), tmp_path_factory.mktemp("whole") / "run"
        assert train(config, run, quiet=True).exit_code == 0
    yield config, run


def test_a_stopped_run_ends_with_the_same_bytes(
    whole: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, averages, optimizers, pools, metrics and samples: all files."""
    config, run = whole
    with monkeypatch.context() as patch:
        stop_at(2, signal.SIGTERM, patch)
        assert train(config, tmp_path / "run", quiet=True).exit_code == 143
    assert train(config, tmp_path / "run", "auto", quiet=True).step == STEPS
    wanted, found = contents(run), contents(tmp_path / "run")
    assert [name for name in wanted if wanted[name] != found.get(name)] == []


def test_a_validation_changes_nothing(
    whole: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nets, averages, optimizers and pools; and its best weights are there."""
    config, run = whole
    stop_at(1, signal.SIGTERM, monkeypatch)
    assert train(config.model_copy(update={"validate_every": 1}), tmp_path / "run", quiet=True).step == 2
    wanted, found = (
        {path.name: path.read_bytes() for path in checkpoint_folder(place, 2).glob("*.safetensors")}
        for place in (run, tmp_path / "run")
    )
    assert wanted and wanted == found and best_checkpoint(tmp_path / "run") is not None


def test_a_longer_run_begins_as_a_shorter_one(whole: tuple[Config, Path], tmp_path: Path) -> None:
    """What was left to the number of steps, such as the end of a schedule, is not stretched by more of them.

    Where rates have fallen to 0 by then, more steps would change nothing, and are refused.
    """
    config, run = whole
    more = config.model_copy(update={"steps": STEPS + 2})
    assert train(config.model_copy(update={"steps": STEPS}), tmp_path / "run", quiet=True).step == STEPS
    rates = config.with_values(config.settings.kept(STEPS)).settings.optim.optimizer("generators").schedule
    if rates is not None and rates(STEPS + 1) == 0:
        with pytest.raises(UserError, match=f"^steps {STEPS + 2}: the schedule has brought all learning rates to 0"):
            train(more, tmp_path / "run", "auto", quiet=True)
        return
    assert train(more, tmp_path / "run", "auto", quiet=True).step == STEPS + 2
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert lines[:STEPS] == (run / "metrics.jsonl").read_text().splitlines()


def test_a_checkpoint_alone_is_used(whole: tuple[Config, Path]) -> None:
    """Where no average is kept, with the trained weights; its buffers are those of the nets."""
    _, run = whole
    folder = sorted((run / "checkpoints").iterdir())[-1]
    translator = m2o_fast.load(folder, device="cpu")
    saved = load_file(folder / "nets.safetensors") | load_file(folder / "ema.safetensors")
    assert not translator.training and all(
        torch.equal(tensor, saved[name]) for name, tensor in translator.state_dict().items()
    )
    for source, target in translator.directions():
        x = torch.zeros(2, translator.domains[source].channels, 32, 32)
        style = translator.sample_style(2, target, torch.Generator().manual_seed(0))
        made = translator.translate(x, source, target, style=style)
        assert made.shape == (2, translator.domains[target].channels, 32, 32)
        other = translator.translate(x, source, target, style=style + 1)
        assert torch.equal(made, other) != translator.has_style(target)


def test_it_is_measured_and_reported(whole: tuple[Config, Path]) -> None:
    """Every direction that is learned, and no other."""
    config, run = whole
    found = evaluate_run(run, Options(sources=4, outputs_per_source=2, extractor="none"), device="cpu")
    translator = m2o_fast.load(run, device="cpu")
    names = [domain.name for domain in translator.domains]
    ways = sorted((a, b) for a, b in translator.directions() if a != b)
    assert list(found["directions"]) == [f"{names[a]}->{names[b]}" for a, b in ways]
    for (_, b), guidances in zip(ways, found["directions"].values(), strict=True):
        wanted = {"latent"} | ({"reference"} if translator.reads_style(b) else set())
        assert set(guidances) == (wanted if translator.has_style(b) else {"none"})
    averaged, styled = bool(translator.averaged_groups()), any(map(translator.has_style, names))
    assert found["protocol"]["weights"] == ("EMA" if averaged else "of the step")
    assert found["protocol"]["outputs_per_source"] == (2 if styled else 1)
    page = write_report([run], device="cpu").read_text()
    assert config.title in page and ("with the averaged weights of step" in page) == averaged
    for a, b in ways:
        assert f"{names[a]} to {names[b]}" in page or f"{names[a]} \N{RIGHTWARDS ARROW} {names[b]}" in page


def assert_same(first: Path, second: Path) -> None:
    one, other = (load_file(path.with_suffix(".safetensors")) for path in (first, second))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-8, msg=name)
    losses = [json.loads(path.with_suffix(".json").read_text()) for path in (first, second)]
    for mine, theirs in zip(*losses, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("words", CASES)
def test_two_processes_and_several_parts_do_what_one_does(words: list[str], tmp_path: Path) -> None:
    """In float64, to rounding; pools hold the same images. With batch norm, parts are refused.

    Parts and processes are tried together; each alone, with the toy.
    """
    normed = any(isinstance(net, BatchNorm2d) for net in Trainer(small_config(words), tmp_path).translator.modules())
    ways = {"one": (1, []), "two": (2, []), "parts": (1, ["accumulate=2"]), "both": (2, ["accumulate=2"])}
    if normed:
        with pytest.raises(UserError, match="has batch norm, whose statistics are those of the whole batch"):
            Trainer(small_config(words, "accumulate=2"), tmp_path)
        del ways["parts"], ways["both"]
    elif "system=toy" not in words:
        del ways["parts"], ways["two"]
    for name, (count, more) in ways.items():
        if count == 1:
            iterations(tmp_path / name, words, more)
        else:
            ended = together(count, tmp_path, iterations, tmp_path / name, words, more)
            assert [outcome.code for outcome in ended] == [0] * count, ended
        assert_same(tmp_path / "one", tmp_path / name)


@pytest.mark.parametrize("words", CASES)
def test_a_batch_in_parts_takes_the_memory_of_one_part(words: list[str], tmp_path: Path) -> None:
    """Of what autograd keeps, nothing stays when the next part comes, nor what phases could have shared."""
    trainer = Trainer(small_config(words, "batch_size=8"), tmp_path)
    if any(isinstance(net, BatchNorm2d) for net in trainer.translator.modules()):
        return  # has no parts
    trainer = Trainer(small_config(words, "batch_size=8", "accumulate=4"), tmp_path)
    parts = trainer.batch(0)
    images = [x for part in parts for x in (*part.source, *part.reference, *part.reference2, *part.paired)]
    held = memory._Held([*trainer.translator.parameters(), *images])
    with saved_tensors_hooks(held.pack, lambda kept: kept.tensor):
        trainer.stepper(parts, 0)
    assert held.peak <= 1.01 * max(memory.saved_bytes(trainer.translator, part) for part in parts)


@pytest.mark.parametrize("words", CASES)
def test_recorded_steps_have_the_bits_of_others(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2o_fast.engine.graphs.WARM_UP", 1)
    eager, graphed = (Trainer(small_config(words), tmp_path) for _ in range(2))
    step: Callable[..., Any] = GraphedStepper(graphed.stepper, CpuRecorder())
    for index in range(STEPS):
        wanted, found = eager.stepper(eager.batch(index), index), step(graphed.batch(index), index)
        assert all(torch.equal(found.losses[name], loss) for name, loss in wanted.losses.items())
    assert all(torch.equal(state(graphed)[name], tensor) for name, tensor in state(eager).items())


@pytest.mark.parametrize("words", CASES)
def test_bfloat16_has_losses_like_float32(words: list[str], tmp_path: Path) -> None:
    """Of the first step, where the nets are the same; they stay float32, and a second step follows."""
    losses = []
    for precision in ("fp32", "bf16"):
        trainer = Trainer(small_config(words, f"precision={precision}"), tmp_path)
        for weight in trainer.translator.parameters():  # behind a layer that begins at 0 nothing could be seen
            weight.data += 0.01 * (weight == 0).all()
        losses.append(trainer._read(trainer.stepper(trainer.batch(0), 0)))
    assert losses[1] == pytest.approx(losses[0], rel=0.1, abs=0.1) and losses[1] != losses[0]
    assert all(map(math.isfinite, trainer._read(trainer.stepper(trainer.batch(1), 1)).values()))
    assert {parameter.dtype for parameter in trainer.translator.parameters()} == {torch.float32}


@pytest.mark.parametrize("words", CASES)
def test_a_step_that_fails_changes_nothing(words: list[str], tmp_path: Path) -> None:
    """Not even the statistics of norms and the pools; nor does it to estimate the memory that a run takes."""
    trainer = Trainer(small_config(words), tmp_path)
    trainer.advance(Log())
    before = {name: tensor.clone() for name, tensor in state(trainer).items()}
    trainer.plan()
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(trainer).items())
    poisoned = [part.mapped(lambda t: t * float("nan") if t.is_floating_point() else t) for part in trainer.batch(1)]
    assert trainer.stepper(poisoned, 1).failed > 0
    nets = {name for name in before if name.startswith(("nets", "pools"))}
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(trainer).items() if name in nets)


@pytest.mark.parametrize("words", CASES)
def test_batch_norms_are_those_that_processes_share(words: list[str], tmp_path: Path) -> None:
    nets = Trainer(small_config(words), tmp_path).translator.modules()
    assert {type(net) for net in nets if isinstance(net, _BatchNorm)} <= {BatchNorm2d}


def test_samples_are_drawn_in_evaluation(whole: tuple[Config, Path], tmp_path: Path, monkeypatch: Any) -> None:
    """Also where the nets themselves draw them; training goes on as it was."""
    config, _ = whole
    translate, modes = SampleGrid.translate, []

    def noted(self: SampleGrid, translator: Translator) -> Any:
        modes.append(translator.training)
        return translate(self, translator)

    monkeypatch.setattr(SampleGrid, "translate", noted)
    trainer = Trainer(config, tmp_path / "run")
    trainer.advance(Log())
    trainer._save_samples(Log())
    assert modes == [False] and trainer.translator.training


def test_lpips_without_styles_is_told(whole: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, run = whole
    monkeypatch.setattr("m2o_fast.engine.evaluate.open_lpips", lambda *_, **__: Lpips())
    options = Options(sources=2, outputs_per_source=2, extractor="none", lpips="any")
    found = evaluate_run(run, options, device="cpu")
    measured = {name for guidances in found["directions"].values() for one in guidances.values() for name in one}
    assert ("lpips_diversity" in measured) != any("no lpips_diversity" in warning for warning in found["warnings"])

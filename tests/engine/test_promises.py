"""What docs/training.md promises holds for every system and variant. A new one is tested here without a line."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from forked import together
from recording import CpuRecorder
from safetensors.torch import load_file, save_file
from tiny import contents, stop_at, tiny_digits
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

import m2o_fast
from m2o_fast.data import open_dataset
from m2o_fast.engine.checkpoint import POOLS, load_training, save_translator, training_tensors
from m2o_fast.engine.config import ConfigError, load_config
from m2o_fast.engine.evaluate import evaluate_run
from m2o_fast.engine.evaluation.options import Options
from m2o_fast.engine.graphs import GraphedStepper
from m2o_fast.engine.loop import Trainer, train
from m2o_fast.engine.processes import joined_processes
from m2o_fast.engine.runlog import Log
from m2o_fast.engine.samples import SampleGrid
from m2o_fast.engine.schema import Config
from m2o_fast.engine.translate import Request, translate_path
from m2o_fast.errors import UserError
from m2o_fast.metrics.diversity import Lpips
from m2o_fast.nn.batch_norm import BatchNorm2d
from m2o_fast.nn.history import HistoryPool
from m2o_fast.report import write_report
from m2o_fast.translators import NAMES, system
from m2o_fast.translators.base import Translator
from m2o_fast.translators.settings import Optimizer

#: what makes nets small beside their widths
SMALLER = {
    "starganv2": ["model.hidden_dim=8", "model.style_dim=4", "model.latent_dim=4"],
    "cyclegan": ["model.blocks=1", "model.pool=5"],
}
#: of a system with options, more of its kinds
MORE = {
    "toy": [["model.batch_norm=false"], ["model.average=true"]],
    "cyclegan": [["model.style=noise"]],
}
FACTS = {name: system(name) for name in NAMES} | {"toy": toy.SYSTEM}
#: every system with its last variant and in every kind; all other combinations take long
CASES = [
    pytest.param(
        [f"system={name}", f"variant={variant}", *SMALLER.get(name, []), *words],
        id="-".join([name, variant, *words]),
        marks=[] if variant == list(facts.variants)[-1] else pytest.mark.slow,
    )
    for name, facts in FACTS.items()
    for variant in facts.variants
    for words in ([], *MORE.get(name, []))
]
STEPS, WIDTH = 6, 4
PACE = ["batch_size=4", f"steps={STEPS}", "checkpoint_every=2", "keep_checkpoints=0", "log_every=1", "sample_every=3"]


def small_config(words: list[str], *more: str) -> Config:
    """The configuration of a case with the narrowest nets."""
    given = [*words, *PACE, "data.name=digits", "device=cpu", "threads=1"]
    widths = load_config(assignments=given).settings.widths(32)
    return load_config(assignments=[*given, *(f"{key}={WIDTH}" for key in widths), *more])


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


def state(trainer: Trainer) -> dict[str, Tensor]:
    """Everything that training changes."""
    files = training_tensors(trainer._training())
    return {f"{file}/{name}": tensor.double() for file, tensors in files.items() for name, tensor in tensors.items()}


def iterations(out: Path, words: list[str], more: list[str]) -> int:
    """Some iterations in float64; the leading process leaves what training changed, and the losses."""
    with pytest.MonkeyPatch.context() as patch, joined_processes() as processes:
        toy.install(patch)
        # Adam makes a step of full length of a gradient that is 0 but for rounding, as of a bias before a norm.
        config = small_config(words, "batch_size=8", "optim.lr=1e-5", *more)
        trainer = Trainer(config, Path("nowhere"), processes=processes)
        for net in {trainer.translator, trainer.averaged}:
            net.double()
        for pool in trainer.stepper.pools.values():
            pool.to(torch.zeros((), dtype=torch.float64))
        losses = []
        for step in range(STEPS):
            parts = [part.to(dtype=torch.float64) for part in trainer.batch(step)]
            losses.append(trainer._read(trainer.stepper(parts, step)))
        if processes.leads:
            files = {name: tensor for name, tensor in state(trainer).items() if not name.startswith("optimizers")}
            save_file(files, out.with_suffix(".safetensors"))
            out.with_suffix(".json").write_text(json.dumps(losses))
    return 0


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
    """In float64, to rounding; pools hold the same images. With batch norm, parts are refused."""
    normed = any(isinstance(net, BatchNorm2d) for net in Trainer(small_config(words), tmp_path).translator.modules())
    ways = {"one": (1, []), "two": (2, []), "parts": (1, ["accumulate=2"]), "both": (2, ["accumulate=2"])}
    if normed:
        with pytest.raises(UserError, match="has batch norm, whose statistics are those of the whole batch"):
            Trainer(small_config(words, "accumulate=2"), tmp_path)
        del ways["parts"], ways["both"]
    for name, (count, more) in ways.items():
        ended = together(count, tmp_path, iterations, tmp_path / name, words, more)
        assert [outcome.code for outcome in ended] == [0] * count, ended
        assert_same(tmp_path / "one", tmp_path / name)


@pytest.mark.parametrize("words", CASES)
def test_recorded_steps_have_the_bits_of_others(words: list[str], tmp_path: Path) -> None:
    eager, graphed = (Trainer(small_config(words), tmp_path) for _ in range(2))
    step: Callable[..., Any] = GraphedStepper(graphed.stepper, CpuRecorder())
    for index in range(STEPS):
        wanted, found = eager.stepper(eager.batch(index), index), step(graphed.batch(index), index)
        assert all(torch.equal(found.losses[name], loss) for name, loss in wanted.losses.items())
    assert all(torch.equal(state(graphed)[name], tensor) for name, tensor in state(eager).items())


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


# --- what only some systems have ---


def test_statistics_are_copied_to_the_average(tmp_path: Path) -> None:
    trainer = Trainer(small_config(["system=toy", "model.average=true"]), tmp_path)
    trainer.advance(Log())
    copies = dict(trainer.averaged.named_buffers())
    trained = {name: buffer for name, buffer in trainer.translator.named_buffers() if name.startswith("generators.")}
    assert trained and all(torch.equal(copies[name], buffer) for name, buffer in trained.items())
    assert any(name.endswith("running_mean") and buffer.abs().max() > 0 for name, buffer in trained.items())


def test_pools_are_in_the_checkpoint(tmp_path: Path) -> None:
    train(small_config(["system=toy"]), tmp_path / "run", quiet=True)
    pools = load_file(tmp_path / "run" / "checkpoints" / "step-00000002" / POOLS)
    assert {name: int(pools[f"{name}/filled"]) for name in ("color", "gray")} == {"color": 4, "gray": 4}
    assert pools["color/images"].shape == (5, 3, 32, 32)


def test_pools_that_are_missing_or_of_another_capacity_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(["system=toy"])
    train(config, tmp_path / "run", quiet=True)
    folder = tmp_path / "run" / "checkpoints" / "step-00000002"
    monkeypatch.setattr(toy.Toy, "pools", lambda self: {"color": HistoryPool(7, (3, 32, 32))})
    trainer = Trainer(config, tmp_path / "other")
    with pytest.raises(UserError, match="go on with the settings that it was trained with, or train anew"):
        load_training(folder, trainer._training())
    (folder / POOLS).unlink()
    with pytest.raises(UserError, match=r"has no history pools \(pools.safetensors\), but these settings ask for them"):
        load_training(folder, trainer._training())


def test_another_kind_of_optimizer_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(["system=toy"])
    train(config, tmp_path / "run", quiet=True)
    monkeypatch.setattr(toy.Optim, "optimizer", lambda self, group: Optimizer(self.lr))
    with pytest.raises(UserError, match="other optimizers: makers: AdamW -> Adam; judges: SGD -> Adam; go on with"):
        train(config.model_copy(update={"steps": STEPS + 1}), tmp_path / "run", "auto", quiet=True)


def test_rates_follow_their_schedule(tmp_path: Path) -> None:
    trainer = Trainer(small_config(["system=toy"], "optim.decay_steps=4"), tmp_path)
    rates = []
    for _ in range(STEPS):
        trainer.advance(Log())
        rates.append({name: float(of.param_groups[0]["lr"]) for name, of in trainer.stepper.optimizers.items()})
    expected = [0.02, 0.02, 0.02, 0.015, 0.01, 0.005]
    for name in ("makers", "judges"):
        assert [rate[name] for rate in rates] == pytest.approx(expected)
    kinds = {name: type(of).__name__ for name, of in trainer.stepper.optimizers.items()}
    assert kinds == {"makers": "AdamW", "judges": "SGD"}


def test_a_plan_without_operators_has_no_empty_line(tmp_path: Path) -> None:
    lines = Trainer(small_config(["system=toy"]), tmp_path).plan().lines()
    assert lines and not [line for line in lines if line.startswith("kernels") or line.endswith(": ")]


def test_lpips_without_styles_is_told(whole: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, run = whole
    monkeypatch.setattr("m2o_fast.engine.evaluate.open_lpips", lambda *_, **__: Lpips())
    options = Options(sources=2, outputs_per_source=2, extractor="none", lpips="any")
    found = evaluate_run(run, options, device="cpu")
    measured = {name for guidances in found["directions"].values() for one in guidances.values() for name in one}
    assert ("lpips_diversity" in measured) != any("no lpips_diversity" in warning for warning in found["warnings"])


def test_an_average_without_a_decay_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(["system=toy", "model.average=true"])
    monkeypatch.setattr(toy.Optim, "average", lambda self: None)
    with pytest.raises(ValueError, match="an average is to be kept of makers, but the settings give no decay for it"):
        Trainer(config, tmp_path)


def test_shares_without_whole_rounds_are_refused_with_batch_norm(tmp_path: Path) -> None:
    ended = together(2, tmp_path, iterations, tmp_path / "x", ["system=toy"], ["batch_size=2"])
    assert [outcome.code for outcome in ended] != [0, 0]
    assert "batch_size 2: toy has batch norm, so each of 2 processes needs as many" in "".join(o.errors for o in ended)


def test_a_size_that_the_system_takes_is_trained_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", open_dataset)
    trainer = Trainer(small_config(["system=toy", "data.image_size=44"]), tmp_path)
    assert not trainer.advance(Log()).failed
    assert trainer.samples.translate(trainer.averaged)


def test_weights_without_a_run_are_measured_as_those_of_their_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", open_dataset)
    trainer = Trainer(small_config(["system=toy", "data.image_size=44"]), tmp_path)
    folder = save_translator(trainer.translator, tmp_path / "weights")
    found = evaluate_run(folder, Options(sources=4, extractor="none"), data="digits", device="cpu")
    assert found["protocol"]["image_size"] == 44


def test_a_direction_that_was_not_learned_is_not_translated(tmp_path: Path) -> None:
    translator = Trainer(small_config(["system=toy"]), tmp_path).translator
    (tmp_path / "x.png").touch()
    for source, target in (("gray", "gray"), ("color", "color")):
        with pytest.raises(UserError, match=f"{source} -> {target} was not learned; what was: color -> gray, gray -> "):
            translate_path(translator, tmp_path / "x.png", tmp_path / "y.png", Request(target, source))


def test_a_target_that_nothing_leads_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    translator = Trainer(small_config(["system=toy"]), tmp_path).translator
    monkeypatch.setattr(translator, "directions", lambda: ((0, 1),))
    (tmp_path / "x.png").touch()
    with pytest.raises(UserError, match="a way into color was not learned; what was: color -> gray"):
        translate_path(translator, tmp_path / "x.png", tmp_path / "y.png", Request("color"))


def test_what_needs_no_images_is_refused_before_any_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", None)
    with pytest.raises(UserError, match="accumulate 2: toy has batch norm"):
        Trainer(small_config(["system=toy"], "accumulate=2"), tmp_path)
    for name in ("a", "b", "c"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        (tmp_path / "data" / "train" / name / "1.png").touch()
    data = [f"data.dir={tmp_path / 'data'}", "data.name=folder"]
    with pytest.raises(UserError, match="system 'toy' is for two domains, but the data has 3: a, b, c"):
        Trainer(small_config(["system=toy"], *data), tmp_path)
    with pytest.raises(UserError, match="a, b, c are all multi-modal; name those with one image"):
        Trainer(small_config(SMALLER["starganv2"], *data), tmp_path)
    (tmp_path / "data" / "train" / "c" / "1.png").rename(tmp_path / "data" / "train" / "c" / "2.png")
    shutil.rmtree(tmp_path / "data" / "train" / "b")
    with pytest.raises(UserError, match="learns from known pairs, but the data has none"):
        Trainer(small_config(SMALLER["starganv2"], *data, "data.uni=[c]"), tmp_path)


def test_combinations_without_meaning_are_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="variant = 'hmu' in --set: not with system 'toy': toys need to be held"):
        load_config(assignments=["system=toy", "variant=hmu"])
    with pytest.raises(ConfigError, match="data.image_size = 50 in --set: the image size must be a multiple of 4"):
        load_config(assignments=["system=toy", "data.image_size=50"])
    assert load_config(assignments=["system=toy", "data.image_size=48"]).data.image_size == 48


def test_a_key_of_another_system_is_told_apart_from_a_typo() -> None:
    with pytest.raises(
        ConfigError, match="unknown key 'model.max_width' in --set: system 'toy' has none; starganv2 has one; near"
    ):
        load_config(assignments=["system=toy", "model.max_width=3"])
    with pytest.raises(ConfigError, match="system 'starganv2' has none; .* have one; nearest: 'model.max_width'$"):
        load_config(assignments=["model.width=3"])
    with pytest.raises(ConfigError, match="unknown key 'model.widht' in --set; nearest: 'model.width'"):
        load_config(assignments=["system=toy", "model.widht=3"])


def test_a_system_over_the_configuration_of_another_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("system: toy\nmodel: {width: 8, average: true}\nsteps: 3\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, {"system": "starganv2"})
    assert f"system = 'starganv2' in the options, but 'toy' in {file}; " in str(caught.value)
    assert "model.width, model.average do not fit" in str(caught.value)
    assert load_config(file).name == "toy" and load_config(file, {"variant": "hms"}).name == "toy-hms"


def test_all_keys_that_a_file_has_of_another_system_are_named(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: {hidden_dim: 8}\nloss.r1: 2\nsteps: 3\n")
    with pytest.raises(
        ConfigError, match=r"keys of starganv2 in .*c.yaml, which system 'toy' does not have: model.hid"
    ):
        load_config(file, {"system": "toy"})
    with pytest.raises(ConfigError, match=r"does not have: model.hidden_dim, loss.r1$"):
        load_config(file, {"system": "toy"})

"""What only some systems use of the contract with the engine, and what is refused: shown with a toy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import toy
from forked import together
from safetensors.torch import load_file, save_file
from small import CASES, LATER, SMALLER, STEPS, iterations, small_config
from torch import Tensor

from m2o_fast.batch import Batch
from m2o_fast.data import BatchSampler, open_dataset
from m2o_fast.engine.build import build_translator, open_split
from m2o_fast.engine.checkpoint import OPTIMIZERS, save_translator
from m2o_fast.engine.config import ConfigError, load_config
from m2o_fast.engine.evaluate import evaluate_run
from m2o_fast.engine.evaluation.options import Options
from m2o_fast.engine.loop import train
from m2o_fast.engine.runlog import Log
from m2o_fast.engine.trainer import Trainer
from m2o_fast.engine.training_state import POOLS, load_training
from m2o_fast.engine.translate import Request, translate_path
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.nn.history import HistoryPool
from m2o_fast.translators.base import Iteration
from m2o_fast.translators.settings import Optimizer

COLOR, GRAY = Domain("color"), Domain("gray", 1, multimodal=False)
#: beginnings of the names of random numbers that are uniform in [0, 1); all others are standard normal
UNIFORM = ("between", "dropout", "pool", "time")
#: sizes with which nets have dropout
DROPOUT = {"bicyclegan": ["data.image_size=64", "model.levels=6"], "pix2pix": ["data.image_size=64"]}


@pytest.fixture(autouse=True)
def _toy(tiny_data: None, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.install(monkeypatch)


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
    trainer = Trainer(small_config(["system=toy"], "steps=6", "optim.decay_steps=4"), tmp_path)
    rates = []
    for _ in range(6):
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


@pytest.mark.parametrize("words", CASES)
def test_random_numbers_have_their_laws(words: list[str]) -> None:
    """Those that losses use, and the styles that are drawn in use; plain twins are handed the numbers."""
    dropping = DROPOUT.get(words[0].removeprefix("system="), [])
    translator = build_translator(small_config(words, *dropping), (COLOR, GRAY))
    drawn = translator.noise(4000, torch.Generator().manual_seed(0))
    assert all(numbers.dtype == torch.float32 and len(numbers) == 4000 for numbers in drawn.values())
    assert not dropping or any(name.startswith("dropout") for name in drawn)
    if translator.normal_styles and translator.has_style("color"):
        drawn["style in use"] = translator.sample_style(4000, "color", torch.Generator().manual_seed(0)).detach()
    for name, numbers in drawn.items():
        even = numbers if name.startswith(UNIFORM) else torch.special.ndtr(numbers)
        assert 0 <= even.min() and even.max() <= 1, name
        assert even.mean().item() == pytest.approx(1 / 2, abs=0.02), name
        assert even.var().item() == pytest.approx(1 / 12, abs=0.006), name


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


# --- what systems that are not here yet need ---


def test_batches_take_turns(tmp_path: Path) -> None:
    """Each has the directions of its turn, and the images that come next in these; in parts, too."""
    words = ["system=toy", "model.turns=true", "model.batch_norm=false"]
    whole, parts = (Trainer(small_config(words, *more), tmp_path) for more in ([], ["accumulate=2"]))
    wanted = BatchSampler(open_split(whole.config, "train"), whole.translator.domains, 4, whole.config.seed)
    for step in range(5):
        (batch,), divided = whole.batch(step), parts.batch(step)
        source = step % 2
        wanted.directions = ((source, 1 - source),)
        assert batch.source_counts == batch.target_counts[::-1] == ((4, 0) if source == 0 else (0, 4))
        assert torch.equal(batch.source[source], wanted(step // 2).source[source])
        assert torch.equal(batch.source[source], torch.cat([part.source[source] for part in divided]))
        assert torch.equal(batch.noise["pool"], torch.cat([part.noise["pool"] for part in divided]))


def test_a_phase_has_the_next_batch_and_nothing_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches follow each other, whatever the numbers of batches of earlier iterations; losses are their mean."""
    trainer, plain = (Trainer(small_config(words), tmp_path) for words in (["system=toy", *LATER], ["system=toy"]))
    loss, seen, totals = toy.Toy.loss, [], []

    def noted(self: toy.Toy, phase: str, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append((phase, batch.source[0], set(iteration.kept)))
        total, parts = loss(self, phase, batch, iteration)
        totals.append(total.detach())
        return total, parts

    monkeypatch.setattr(toy.Toy, "loss", noted)
    results = [trainer.advance(Log()) for _ in range(3)]
    phases = ["generators", "discriminators", *["generators"] * 3, "discriminators", *["generators"] * 3]
    numbers = [0, 0, 1, 2, 3, 3, 4, 5, 6, 6]
    assert [phase for phase, _, _ in seen] == [*phases, "discriminators"]
    for (phase, images, kept), number in zip(seen, numbers, strict=True):
        assert torch.equal(images, plain.batch(number)[0].source[0])
        assert kept == ({"color", "gray"} if phase == "discriminators" else set())
    torch.testing.assert_close(results[1].losses["generators/total"], torch.stack(totals[2:5]).mean())
    assert len(trainer.batch(2)) == 3 and torch.equal(trainer.batch(1)[0].source[0], plain.batch(1)[0].source[0])


def test_rates_are_halved_or_constant_and_momentum_moves(tmp_path: Path) -> None:
    """SGD moves as written down: velocity v = 0.9 v + g, w = w - rate v."""
    trainer = Trainer(small_config(["system=toy", *LATER]), tmp_path)
    (weight,) = [p for name, p in trainer.translator.named_parameters() if name == "discriminators.0.bias"]
    expected, velocity, rates = weight.detach().clone(), torch.zeros(1), []
    for _ in range(5):
        trainer.advance(Log())
        assert weight.grad is not None
        velocity = 0.9 * velocity + weight.grad
        expected = expected - 0.02 * velocity
        torch.testing.assert_close(weight.detach(), expected)
        rates.append(float(trainer.stepper.optimizers["makers"].param_groups[0]["lr"]))
    assert rates == pytest.approx([0.02, 0.02, 0.01, 0.01, 0.005])


def _largest(like: Tensor) -> float:
    return float("nan") if like.is_floating_point() else torch.iinfo(like.dtype).max


def test_a_first_step_that_fails_leaves_no_momentum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory may hold anything: what torch would begin with is made visible."""
    monkeypatch.setattr(torch, "empty_like", lambda like, **words: torch.full_like(like, _largest(like), **words))
    trainer = Trainer(small_config(["system=toy", *LATER]), tmp_path)
    poisoned = [part.mapped(lambda t: t * float("nan") if t.is_floating_point() else t) for part in trainer.batch(0)]
    assert trainer.stepper(poisoned, 0).failed > 0 and not trainer.stepper(trainer.batch(1), 1).failed
    assert all(parameter.isfinite().all() for parameter in trainer.translator.parameters())


@pytest.mark.parametrize("words", [[], LATER], ids=["adamw and sgd", "with momentum"])
def test_the_memory_of_optimizers_is_that_of_their_kinds(words: list[str], tmp_path: Path) -> None:
    trainer = Trainer(small_config(["system=toy", *words]), tmp_path)
    estimate = trainer.plan().memory.moments
    trainer.advance(Log())
    kept = [
        tensor for of in trainer.stepper.optimizers.values() for state in of.state.values() for tensor in state.values()
    ]
    assert estimate == sum(tensor.nbytes for tensor in kept if tensor is not None)


def test_momentum_is_a_kind_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(["system=toy", *LATER])
    train(config, tmp_path / "run", quiet=True)
    monkeypatch.setattr(toy.Optim, "optimizer", lambda self, group: Optimizer(self.lr, "sgd"))
    with pytest.raises(UserError, match="makers: AdamW -> SGD; judges: SGD with momentum -> SGD; go on with those"):
        train(config.model_copy(update={"steps": STEPS + 1}), tmp_path / "run", "auto", quiet=True)


def test_a_damaged_momentum_is_named(tmp_path: Path) -> None:
    config = small_config(["system=toy", *LATER])
    train(config, tmp_path / "run", quiet=True)
    folder = tmp_path / "run" / "checkpoints" / "step-00000002"
    states = load_file(folder / OPTIMIZERS)
    states["discriminators.0.bias/momentum_buffer"] = torch.zeros(3)
    save_file(states, folder / OPTIMIZERS)
    with pytest.raises(
        UserError, match=r"momentum_buffer of discriminators.0.bias must be float32 \[1\], is float32 \[3\]"
    ):
        load_training(folder, Trainer(config, tmp_path / "other")._training())


def test_a_style_may_be_an_image_of_noise(tmp_path: Path) -> None:
    translator = Trainer(small_config(["system=toy", *LATER]), tmp_path).translator
    assert translator.style_shape("color") == translator.style_shape("gray") == (1, 32, 32)
    x = torch.zeros(2, 1, 32, 32)
    styles = translator.sample_style(6, "color", torch.Generator().manual_seed(0)).view(2, 3, 1, 32, 32)
    many = translator.translate_many(x, "gray", "color", styles)
    assert many.shape == (2, 3, 3, 32, 32) and not torch.equal(many[:, 0], many[:, 1])
    assert torch.equal(many[:, 1], translator.translate(x, "gray", "color", style=styles[:, 1]))
    assert not translator.sample_style(2, "gray").any()
    with pytest.raises(ValueError, match=r"style must be \[2 or 1, 1, 32, 32\], got \[2, 32, 32\]"):
        translator.translate(x, "gray", "color", style=styles[:, 0, 0])


def test_adapters_are_a_domain_s_own_and_the_net_is_shared(tmp_path: Path) -> None:
    """Translating into a domain reaches the layers behind of that domain alone, and those in front of the other one."""
    translator = Trainer(small_config(["system=toy", *LATER]), tmp_path).translator
    (adapted,) = translator.generators
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    translator.translate(x, "color", "gray").sum().backward()
    reached = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert {name.rpartition(".")[0] for name in reached} == {"front.0", "net.0", "net.3", "behind.1"}
    assert adapted.front.layer(0).weight.shape == (3, 3, 1, 1) and adapted.behind.layer(1).weight.shape == (1, 3, 1, 1)
    rules = ManyToOne(domain_layers="adapter")
    assert rules.resolve([COLOR, GRAY]) == (COLOR, GRAY)

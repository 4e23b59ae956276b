"""The two settings that make an iteration cheaper and change its numbers, against the published step, in float64."""

from __future__ import annotations

from dataclasses import replace

import plain_starganv2 as plain
import pytest
import torch
from plain_networks import Nets
from plain_starganv2 import PlainTrainer
from starganv2_cases import (
    COLOR,
    GRAY,
    HYPER,
    SIZE,
    WEIGHTS,
    as_batch,
    assert_same_losses,
    close,
    published_nets,
    published_weights,
    random_samples,
    stepper_for,
)
from torch import Tensor

from m2o_fast.engine.build import build_translator
from m2o_fast.engine.config import load_config
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.translators.starganv2.published import from_official
from m2o_fast.translators.starganv2.settings import Weights
from m2o_fast.translators.starganv2.translator import StarGANv2

DOMAINS = [Domain(name) for name in "ab"]
LAZY = WEIGHTS.model_copy(update={"r1_every": 2})
MERGED = WEIGHTS.model_copy(update={"merge_discriminator_steps": True})


def drawn() -> tuple[list, tuple[Tensor, ...]]:
    """Samples, and the same as the plain trainer takes them."""
    samples = random_samples(DOMAINS, 5)
    labels = [torch.tensor([getattr(sample, key) for sample in samples]) for key in ("source", "target")]
    x, z, z2, ref, ref2 = (torch.stack([getattr(s, key) for s in samples]) for key in ("x", "z", "z2", "ref", "ref2"))
    return samples, (x, *labels, z, z2, ref, ref2)


def assert_same_weights(translator: StarGANv2, nets: Nets) -> None:
    expected = from_official(published_weights(nets))
    for name, parameter in translator.named_parameters():
        assert close(parameter, expected.get_parameter(name), 1e-10), name


def test_lazy_r1_is_taken_every_kth_iteration_times_k() -> None:
    nets = published_nets()
    translator = from_official(published_weights(nets))
    translator.weights = LAZY
    trainer, (stepper, _) = PlainTrainer(nets, HYPER), stepper_for(translator)
    for index in range(3):
        trainer.hyper = replace(HYPER, lambda_reg=2 * LAZY.r1 if index % 2 else 0.0)
        samples, arguments = drawn()
        theirs, ours = trainer.iteration(*arguments), stepper([as_batch(samples, DOMAINS, pairs=False)], index).losses
        assert_same_losses(ours, theirs)
        assert ("discriminator_latent/r1" in ours) == ("discriminator_reference/r1" in ours) == (index % 2 == 1)
    assert_same_weights(translator, nets)


def merged_iteration(trainer: PlainTrainer, arguments: tuple[Tensor, ...]) -> dict[str, float]:
    """The published one with a single discriminator step, on the mean of both totals: real and R1 are equal in both."""
    x, y_org, y_trg, z, z2, ref, ref2 = arguments
    nets, hyper, weight = trainer.nets, trainer.hyper, trainer.hyper.lambda_ds_at(trainer.index)
    styles = {
        "latent": [lambda z=z: nets.mapping(z, y_trg) for z in (z, z2)],
        "reference": [lambda ref=ref: nets.style_encoder(ref, y_trg) for ref in (ref, ref2)],
    }
    steps = [plain.discriminator_losses(nets, hyper, x, y_org, y_trg, first) for first, _ in styles.values()]
    total = (steps[0]["total"] + steps[1]["total"]) / 2
    logs = {"fake_latent": steps[0]["fake"].item(), "fake_reference": steps[1]["fake"].item()}
    logs |= {name: steps[0][name].item() for name in ("real", "r1")}
    trainer.step({"total": total}, ("discriminator",))
    for names, both in zip((("generator", "mapping", "style_encoder"), ("generator",)), styles.values(), strict=True):
        trainer.step(plain.generator_losses(nets, hyper, weight, x, y_org, y_trg, *both), names)
    trainer.finish_iteration()
    return logs


def test_merged_discriminator_step_is_the_mean_of_the_two() -> None:
    nets = published_nets()
    translator = from_official(published_weights(nets))
    translator.weights = MERGED
    trainer, (stepper, _) = PlainTrainer(nets, HYPER), stepper_for(translator)
    for index in range(2):
        samples, arguments = drawn()
        theirs = merged_iteration(trainer, arguments)
        ours = stepper([as_batch(samples, DOMAINS, pairs=False)], index).losses
        for name, value in theirs.items():
            assert ours[f"discriminator/{name}"].item() == pytest.approx(value, rel=1e-10), name
    assert {int(state["step"]) for state in stepper.optimizers["discriminator"].state.values()} == {2}
    assert_same_weights(translator, nets)


def test_both_are_off_unless_asked_for() -> None:
    cheaper = ["loss.r1_every=4", "loss.merge_discriminator_steps=true"]
    off, on = (load_config(assignments=assignments) for assignments in ([], cheaper))
    domains = (COLOR, GRAY)
    names = [[phase.name for phase in build_translator(config, domains).phases(0)] for config in (off, on)]
    assert names[0][:2] == ["discriminator_latent", "discriminator_reference"]
    assert names[1] == ["discriminator", "generator_latent", "generator_reference"]
    published = build_translator(off, domains).weights
    assert (published.r1_every, published.merge_discriminator_steps) == (1, False)
    again = StarGANv2.from_description(build_translator(on, domains).describe())
    assert (again.weights.r1_every, again.weights.merge_discriminator_steps) == (4, True)


def test_description_from_before_these_settings_still_loads() -> None:
    description = StarGANv2([COLOR, GRAY], ManyToOne(), SIZE, WEIGHTS).describe()
    for name in ("r1_every", "merge_discriminator_steps"):
        del description["weights"][name]
    assert StarGANv2.from_description(description).weights == WEIGHTS


def test_penalty_every_zeroth_iteration_is_refused() -> None:
    with pytest.raises(ValueError, match="r1_every\n.*greater than or equal to 1"):
        Weights(r1_every=0)

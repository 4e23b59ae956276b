"""StarGAN on several data sets, each with labels of its own, against plain implementations, in float64."""

from __future__ import annotations

import json
import math

import plain_stargan as plain
import pytest
from gan_steps import EPS
from stargan_cases import (
    MIXED,
    OPTIM,
    WAYS,
    many_nets,
    many_translator,
    of_many,
    plain_batch,
    published_nets,
    random_batch,
    same,
    same_tensors,
    samples,
    steps_for,
    translator_of,
)

from m2o_fast.m2o import Domain
from m2o_fast.translators import create
from m2o_fast.translators.base import Iteration

SETS = [["a", "b", "c"], ["d", "e"]]
OTHER_WAYS = [(3, 4), (4, 3), (4, 4)]


@pytest.mark.parametrize(
    "labels",
    ["exclusive", pytest.param("independent", marks=pytest.mark.slow), ["independent", "exclusive"]],
    ids=str,
)
def test_iterations_on_two_data_sets_are_the_published_ones(labels: str | list[str]) -> None:
    """Two sets of labels and their mask: steps of both nets on the first data set, then on the second."""
    losses = {"labels": labels, "classification": 0.7, "gradient_penalty": 3.0, "cycle": 4.0}
    nets = published_nets(classes=5, mask=2)
    translator = translator_of(nets, losses, every=2, sets=SETS)
    settings = plain.Settings(**OPTIM, eps=EPS, generator_every=2, **losses)
    trainer, steps = plain.Trainer(*nets, settings, [3, 2]), steps_for(translator, **OPTIM)
    domains = list(translator.domains)
    for index in range(2):
        first, second = (random_batch(domains, ways) for ways in (WAYS, OTHER_WAYS))
        same(steps(first, index, second), trainer.iteration(plain_batch(first), plain_batch(second, first=3)))
    same_tensors(translator.state_dict(), translator_of(nets, sets=SETS).state_dict())
    assert steps.stepped == ["discriminator"] * 2 + ["discriminator", "generator"] * 2


@pytest.mark.parametrize(
    ("supervised", "labels"),
    [pytest.param(0.0, ["independent", "exclusive"], marks=pytest.mark.slow), (0.8, "exclusive")],
    ids=str,
)
def test_iterations_on_two_data_sets_are_the_many_to_one_ones(supervised: float, labels: str | list[str]) -> None:
    """The first one mixes channels; the second one has no uni-modal domain, so no pairs count there."""
    losses = {"labels": labels, "cycle": 4.0, "style": 0.9, "diversity": 1.3, "diversity_steps": 4}
    domains = [*MIXED[:2], Domain("d"), Domain("e")]
    nets = many_nets(domains, [2, 2])
    translator = many_translator(nets, domains, losses, 1, supervised)
    settings = plain.Settings(**OPTIM, eps=EPS, generator_every=1, supervised=supervised, **losses)
    trainer, steps = plain.ManyTrainer(nets, settings), steps_for(translator, **OPTIM)
    for index in range(2):
        both = [random_batch(domains, ways, paired=supervised > 0) for ways in ([(0, 1), (1, 0)], [(2, 3), (3, 2)])]
        same(steps(both[0], index, both[1]), trainer.iteration(*(samples(batch, domains) for batch in both)))
    found = translator.state_dict()
    same_tensors(found, of_many(nets, list(found)))


def test_labels_of_the_other_data_set_are_neither_asked_for_nor_given() -> None:
    """Their logits have no gradient, their planes no weight; an image is never made one of the other data set."""
    translator = translator_of(published_nets(classes=5, mask=2), every=1, sets=SETS)
    for turn, own, other in ((0, slice(0, 3), slice(3, 5)), (1, slice(3, 5), slice(0, 3))):
        ways = list(translator.turns()[turn])
        assert {k for way in ways for k in way} == set(range(own.start, own.stop)) and len(ways) == len(set(ways))
        for phase, net in (("discriminator", "discriminator.classes"), ("generator", "generator.stems.0")):
            translator.zero_grad()
            translator.loss(phase, random_batch(list(translator.domains), ways), Iteration(0))[0].backward()
            gradient = translator.get_submodule(net).weight.grad
            known = gradient if phase == "discriminator" else gradient[:, 3:8].transpose(0, 1)
            assert known[own].abs().flatten(1).amax(1).min() > 0 and not known[other].any()
            assert phase == "discriminator" or not gradient[:, 9 - turn].any() and gradient[:, 8 + turn].any()
    with pytest.raises(ValueError, match=r"of one of the label sets of \[3, 2\] domains, there are \[1, 0, 0, 1, 0\]"):
        translator.loss("discriminator", random_batch(list(translator.domains), [(0, 1), (3, 4)]), Iteration(0))


def test_each_data_set_has_a_kind_of_labels_of_its_own() -> None:
    """As published: independent ones for the first, exclusive ones for the second; of heads of zeros."""
    translator = translator_of(published_nets(classes=5, mask=2), {"labels": ["independent", "exclusive"]}, 1, SETS)
    translator.discriminator.classes.weight.data.zero_()
    for ways, wanted in ((WAYS, 3 * math.log(2)), (OTHER_WAYS, math.log(2))):
        parts = translator.loss("discriminator", random_batch(list(translator.domains), ways), Iteration(0))[1]
        assert parts["classification"].item() == pytest.approx(wanted)
    again = create(json.loads(json.dumps(translator.describe())))
    assert again.describe() == translator.describe() and again.label_kinds == ("independent", "exclusive")
    message = "loss.labels: 2 for 1 data set; name one for each, in their order, or one word for all"
    with pytest.raises(ValueError, match=message):
        translator_of(published_nets(), {"labels": ["independent", "exclusive"]})

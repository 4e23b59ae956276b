"""The rules, the randomness, the losses: everything below data and translators."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from m2o_fast.losses import (
    absolute_error,
    adversarial,
    masked_reconstruction_error,
    r1_penalty,
    reconstruction_error,
)
from m2o_fast.m2o import VARIANTS, Domain, ManyToOne
from m2o_fast.randomness import numpy_generator, torch_generator
from m2o_fast.translators.base import schedule_to_zero

COLOR, GRAY = Domain("color", 3), Domain("gray", 1, multimodal=False)


def test_rules_by_variant() -> None:
    for name, style, diversity, supervised in (
        ("plain", (True, True), (True, True), (False, False)),
        ("hmu", (True, False), (True, False), (False, False)),
        ("hms", (True, False), (True, False), (False, True)),
    ):
        rules = VARIANTS[name]
        assert tuple(rules.has_style(d) for d in (COLOR, GRAY)) == style
        assert tuple(rules.rewards_diversity(d) for d in (COLOR, GRAY)) == diversity
        assert tuple(rules.supervises(d) for d in (COLOR, GRAY)) == supervised


def test_style_without_diversity_is_possible() -> None:
    rules = ManyToOne(zero_style=False)
    assert rules.has_style(GRAY) and not rules.rewards_diversity(GRAY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Domain("a b"), "domain name 'a b'"),
        (lambda: Domain("a/b"), "domain name 'a/b'"),
        (lambda: Domain("a", 0), "channels must be at least 1"),
        (lambda: Domain("a", kind="gray"), "'a': kind must be"),
        (lambda: Domain("a", classes=3), "'a': continuous images have no classes"),
        (lambda: Domain("a", 3, kind="palette"), "needs 3 channels and its number of classes"),
        (lambda: Domain("a", 1, kind="palette", classes=5), "needs 3 channels and its number of classes"),
        (lambda: Domain("a", 3, kind="onehot", classes=5), "as many channels as classes, got 'onehot' with 3 channels"),
        (lambda: Domain("a", 1, kind="onehot"), "as many channels as classes"),
        (lambda: ManyToOne(supervised_weight=-1), "must not be negative"),
        (lambda: ManyToOne().resolve([COLOR]), "at least two domains"),
        (lambda: ManyToOne().resolve([COLOR, COLOR]), "must differ"),
        (lambda: ManyToOne(supervised_weight=1).resolve([COLOR, Domain("b")]), "needs a uni-modal domain"),
        (lambda: ManyToOne().resolve([GRAY, Domain("b", multimodal=False)]), "no domain has a style"),
    ],
)
def test_impossible_setups_are_worded(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_channels_of_a_one_hot_domain_are_its_classes() -> None:
    domain = Domain("labels", 7, multimodal=False, kind="onehot")
    assert domain.classes == 7 and domain == Domain("labels", 7, multimodal=False, kind="onehot", classes=7)
    assert Domain(**{"name": "gray", "channels": 1, "multimodal": False}).kind == "continuous"  # as older runs wrote it


def test_randomness_depends_on_all_of_its_key_and_nothing_else() -> None:
    def draw(*key) -> tuple[float, ...]:
        return (*numpy_generator(*key).random(2), *torch.rand(2, generator=torch_generator(*key)).tolist())

    np.random.seed(0)
    torch.manual_seed(0)
    first = draw(7, "color", 3)
    torch.manual_seed(1)
    assert draw(7, "color", 3) == first
    others = {draw(8, "color", 3), draw(7, "noise", 3), draw(7, "color", 4), draw(7, "color"), draw(7, "color", 3, 0)}
    assert len(others | {first}) == 6


def test_losses_on_trivial_inputs() -> None:
    zeros = torch.zeros(5)
    assert adversarial(zeros, real=True).item() == pytest.approx(math.log(2))
    assert adversarial(zeros, real=False).item() == pytest.approx(math.log(2))
    assert adversarial(torch.full((5,), 3.0), real=True).item() == pytest.approx(math.log1p(math.exp(-3)))
    ones = [torch.ones(2, 3, 4, 4), torch.ones(1, 1, 4, 4)]
    half = [torch.full_like(one, 0.5) for one in ones]
    assert absolute_error(ones, half, batch_size=6).item() == pytest.approx(0.5 * 3 / 6)
    assert absolute_error([], [], batch_size=6).item() == 0
    assert absolute_error([torch.ones(0, 3, 4, 4)], [torch.ones(0, 3, 4, 4)], batch_size=6).item() == 0
    mask = torch.tensor([True, False])
    assert masked_reconstruction_error(ones[0], half[0], mask, batch_size=4, one_hot=False).item() == pytest.approx(
        0.5 / 4
    )


def test_cross_entropy_of_one_hot_images_by_hand() -> None:
    """Two pixels, three classes: logits (ln 2, 0, 0) give class 0 the probability 1/2 and the others 1/4."""
    logits = torch.tensor([math.log(2), 0.0, 0.0]).reshape(1, 3, 1, 1).expand(2, 3, 1, 2)
    truth = torch.full((2, 3, 1, 2), -1.0)
    truth[0, 0] = 1  # both pixels of class 0
    truth[1, 1, :, 0] = truth[1, 2, :, 1] = 1  # one of class 1, one of class 2
    nothing = torch.empty(0, 1, 1, 2)
    total = reconstruction_error([logits, nothing], [truth, nothing], [True, False], batch_size=4)
    assert total.item() == pytest.approx((math.log(2) + math.log(4)) / 4)
    known = torch.tensor([False, True])
    masked = masked_reconstruction_error(logits, truth, known, batch_size=4, one_hot=True)
    assert masked.item() == pytest.approx(math.log(4) / 4)
    both = reconstruction_error([logits, nothing + 1], [truth, nothing], [True, False], batch_size=2)
    gray = torch.full((1, 1, 1, 2), 0.5)
    mixed = reconstruction_error([logits, gray], [truth, -gray], [True, False], batch_size=2)
    assert mixed.item() == pytest.approx(both.item() + 1.0 / 2)
    half = reconstruction_error([logits.bfloat16()], [truth.bfloat16()], [True], batch_size=4)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(total.item(), rel=1e-2)


def test_r1_of_a_linear_discriminator() -> None:
    """The gradient of w.x is w for every sample, whatever its domain's channel count."""
    images = [torch.randn(3, 3, 4, 4, requires_grad=True), torch.randn(2, 1, 4, 4, requires_grad=True)]
    weights = [torch.randn(3, 4, 4, requires_grad=True), torch.randn(1, 4, 4)]
    logits = torch.cat([(x * w).flatten(1).sum(1) for x, w in zip(images, weights, strict=True)])
    expected = 0.5 * (3 * weights[0].square().sum() + 2 * weights[1].square().sum()) / 5
    penalty = r1_penalty(logits, images)
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(penalty, weights[0])
    torch.testing.assert_close(gradient, weights[0] * 3 / 5)


def test_schedule_falls_to_zero_and_stays_there() -> None:
    assert [schedule_to_zero(2.0, index, 4) for index in range(6)] == [2.0, 1.5, 1.0, 0.5, 0.0, 0.0]

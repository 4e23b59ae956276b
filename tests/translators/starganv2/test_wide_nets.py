"""Nets so wide that their convolutions take Winograd's form, against the published iteration, in float64."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch
from plain_networks import Discriminator, Generator, MappingNetwork, Nets, StyleEncoder
from plain_starganv2 import PlainTrainer
from starganv2_cases import (
    HYPER,
    WEIGHTS,
    as_batch,
    assert_same_losses,
    close,
    published_weights,
    random_samples,
    stepper_for,
)

from m2o_fast.m2o import Domain
from m2o_fast.ops import _choices, build_info, winograd
from m2o_fast.translators.starganv2.published import from_official


@pytest.mark.skipif(build_info() is None, reason="needs the native library")
def test_iteration_is_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = {name: Mock(wraps=getattr(winograd, name)) for name in ("convolve", "by_input", "by_weight")}
    for name, form in forms.items():
        monkeypatch.setattr(winograd, name, form)
    monkeypatch.setattr(_choices, "WINOGRAD_TILES", 1)
    widths = {"max_width": 32, "base_width": 16}
    nets = Nets(
        Generator(32, 8, **widths),
        MappingNetwork(6, 8, 2, 16),
        StyleEncoder(32, 8, 2, **widths),
        Discriminator(32, 2, **widths),
    )
    translator = from_official(published_weights(nets))
    translator.weights = WEIGHTS
    trainer, (stepper, _) = PlainTrainer(nets, HYPER), stepper_for(translator)
    domains = [Domain("a"), Domain("b")]
    for index in range(2):
        samples = random_samples(domains, 4)
        labels = [torch.tensor([getattr(sample, key) for sample in samples]) for key in ("source", "target")]
        x, *rest = (torch.stack([getattr(s, key) for s in samples]) for key in ("x", "z", "z2", "ref", "ref2"))
        theirs = trainer.iteration(x, *labels, *rest)
        assert_same_losses(stepper([as_batch(samples, domains, pairs=False)], index).losses, theirs)
    assert all(form.call_count > 50 for form in forms.values())
    expected = from_official(published_weights(nets))
    for name, parameter in translator.named_parameters():
        assert close(parameter, expected.get_parameter(name), 1e-9), name

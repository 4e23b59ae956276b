"""Discriminators need something left to judge: the settings refuse exactly where torch would fail."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from m2o_fast.m2o import ManyToOne
from m2o_fast.nn.patch_discriminator import PatchDiscriminator
from m2o_fast.translators.cyclegan.settings import CycleGANSettings
from m2o_fast.translators.pix2pix.settings import Pix2PixSettings


@pytest.mark.parametrize(
    "system", [CycleGANSettings(), Pix2PixSettings()], ids=lambda settings: type(settings).__name__
)
@pytest.mark.parametrize(("size", "layers", "fits"), [(32, 3, True), (32, 4, False), (64, 4, True), (64, 6, False)])
def test_discriminators_that_leave_nothing_are_refused(system, size: int, layers: int, fits: bool) -> None:
    settings = system.model_copy(update={"model": system.model.model_copy(update={"discriminator_layers": layers})})
    with nullcontext() if fits else pytest.raises(ValueError, match=f"model.discriminator_layers {layers} leaves"):
        settings.check(size, ManyToOne())
    scores = PatchDiscriminator(3, 4, layers, "instance")
    with nullcontext() if fits else pytest.raises((RuntimeError, ValueError)):
        assert scores(torch.randn(1, 3, size, size)).shape[2] >= 1

"""StarGAN (arXiv 1711.09020) and its many-to-one variants."""

from __future__ import annotations

from m2o_fast.m2o import VARIANTS
from m2o_fast.translators.settings import Advice, SystemFacts
from m2o_fast.translators.stargan.settings import SIZES, StarGANSettings

SYSTEM = SystemFacts(
    name="stargan",
    title="StarGAN v1",
    paper="arXiv 1711.09020",
    settings=StarGANSettings,
    translator="StarGANv1",
    variants=VARIANTS,
    sizes=SIZES,
    several_sets=True,
    advice=Advice(
        not_finite="a lower optim.lr, or a higher loss.gradient_penalty",
        no_style="a higher loss.style or loss.diversity",
        no_colors="a higher loss.style or loss.diversity",
    ),
)

"""SimGAN (arXiv 1612.07828) and its many-to-one variants."""

from __future__ import annotations

from m2o_fast.m2o import ManyToOne
from m2o_fast.translators.settings import Advice, SystemFacts
from m2o_fast.translators.simgan.settings import SIZES, SimGANSettings

SYSTEM = SystemFacts(
    name="simgan",
    title="SimGAN",
    paper="arXiv 1612.07828",
    settings=SimGANSettings,
    translator="SimGAN",
    # Nets per direction have first and last layers per domain anyhow.
    variants={
        "plain": ManyToOne(domain_layers="stem", zero_style=False, diversity_on_multimodal_only=False),
        "hmu": ManyToOne(),
        "hms": ManyToOne(supervised_weight=1.0),
    },
    sizes=SIZES,
    two_domains=True,
    advice=Advice(
        not_finite="a lower optim.lr",
        no_style="a higher loss.diversity or a lower loss.regularisation",
        no_colors="a higher loss.diversity or a lower loss.regularisation",
    ),
)

"""CycleGAN (arXiv 1703.10593) and its many-to-one variants."""

from __future__ import annotations

from m2o_fast.m2o import ManyToOne
from m2o_fast.translators.cyclegan.settings import SIZES, CycleGANSettings
from m2o_fast.translators.settings import Advice, SystemFacts

SYSTEM = SystemFacts(
    name="cyclegan",
    title="CycleGAN",
    paper="arXiv 1703.10593",
    settings=CycleGANSettings,
    translator="CycleGAN",
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
        no_style="a higher loss.style or loss.diversity",
        no_colors="a higher loss.style or loss.diversity",
    ),
)

"""MUNIT (arXiv 1804.04732) and its many-to-one variants."""

from __future__ import annotations

from m2o_fast.m2o import ManyToOne
from m2o_fast.translators.munit.settings import SIZES, MUNITSettings
from m2o_fast.translators.settings import Advice, SystemFacts

SYSTEM = SystemFacts(
    name="munit",
    title="MUNIT",
    paper="arXiv 1804.04732",
    settings=MUNITSettings,
    translator="MUNIT",
    # Every domain has nets of its own anyhow.
    variants={
        "plain": ManyToOne(domain_layers="stem", zero_style=False, diversity_on_multimodal_only=False),
        "hmu": ManyToOne(),
        "hms": ManyToOne(supervised_weight=1.0),
    },
    sizes=SIZES,
    two_domains=True,
    advice=Advice(
        not_finite="a lower optim.lr",
        no_style="a higher loss.style or, in hmu and hms, loss.diversity",
        no_colors="a higher loss.style or, in hmu and hms, loss.diversity",
    ),
)

"""UNIT (arXiv 1703.00848) and its many-to-one variants."""

from __future__ import annotations

from m2o_fast.m2o import ManyToOne
from m2o_fast.translators.settings import Advice, SystemFacts
from m2o_fast.translators.unit.settings import SIZES, UNITSettings

SYSTEM = SystemFacts(
    name="unit",
    title="UNIT",
    paper="arXiv 1703.00848",
    settings=UNITSettings,
    translator="UNIT",
    # Encoders and decoders have first and last layers per domain anyhow.
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

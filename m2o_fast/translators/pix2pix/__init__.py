"""pix2pix (arXiv 1611.07004) and its many-to-one variant."""

from __future__ import annotations

from m2o_fast.m2o import ManyToOne
from m2o_fast.translators.pix2pix.settings import SIZES, Pix2PixSettings
from m2o_fast.translators.settings import Advice, SystemFacts

SYSTEM = SystemFacts(
    name="pix2pix",
    title="pix2pix",
    paper="arXiv 1611.07004",
    settings=Pix2PixSettings,
    translator="Pix2Pix",
    # Nets per direction have first and last layers per domain anyhow.
    variants={
        "plain": ManyToOne(domain_layers="stem", zero_style=False, diversity_on_multimodal_only=False),
        "hms": ManyToOne(supervised_weight=1.0),
    },
    refused={"hmu": "pix2pix learns from pairs alone, and hmu has none"},
    needs_pairs=True,
    sizes=SIZES,
    two_domains=True,
    advice=Advice(
        not_finite="a lower optim.lr", no_style="a higher loss.diversity", no_colors="a higher loss.diversity"
    ),
)

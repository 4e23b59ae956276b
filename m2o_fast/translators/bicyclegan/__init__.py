"""BicycleGAN (arXiv 1711.11586), its parts, and its many-to-one variant."""

from __future__ import annotations

from m2o_fast.m2o import ManyToOne
from m2o_fast.translators.bicyclegan.settings import SIZES, BicycleGANSettings
from m2o_fast.translators.settings import Advice, SystemFacts

SYSTEM = SystemFacts(
    name="bicyclegan",
    title="BicycleGAN",
    paper="arXiv 1711.11586",
    settings=BicycleGANSettings,
    translator="BicycleGAN",
    # Every direction has first and last layers of its own anyhow.
    variants={
        "plain": ManyToOne(domain_layers="stem", zero_style=False, diversity_on_multimodal_only=False),
        "hms": ManyToOne(supervised_weight=1.0),
    },
    refused={"hmu": "BicycleGAN learns contents from pairs alone, and hmu has none"},
    needs_pairs=True,
    sizes=SIZES,
    two_domains=True,
    advice=Advice(
        not_finite="a lower optim.lr", no_style="a higher loss.latent", no_colors="model.kind=bicycle, or more steps"
    ),
)

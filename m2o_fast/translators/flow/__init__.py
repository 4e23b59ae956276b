"""Conditional flow matching (arXiv 2210.02747) between domains, and its many-to-one variant."""

from __future__ import annotations

from m2o_fast.m2o import ManyToOne
from m2o_fast.translators.flow.settings import SIZES, FlowSettings
from m2o_fast.translators.settings import Advice, SystemFacts

SYSTEM = SystemFacts(
    name="flow",
    title="Flow",
    paper="arXiv 2210.02747",
    settings=FlowSettings,
    translator="Flow",
    variants={
        "plain": ManyToOne(zero_style=False, diversity_on_multimodal_only=False),
        "hms": ManyToOne(supervised_weight=1.0),
    },
    refused={"hmu": "a flow learns from pairs alone, and hmu has none"},
    needs_pairs=True,
    sizes=SIZES,
    advice=Advice(
        not_finite="a lower optim.lr",
        no_style="more steps, or a lower optim.ema",
        no_colors="more steps, or a lower optim.ema",
    ),
)

"""StarGAN v2 (arXiv 1912.01865) and its many-to-one variants HMU and HMS (arXiv 2402.12531)."""

from __future__ import annotations

from m2o_fast.m2o import VARIANTS
from m2o_fast.translators.settings import Advice, SystemFacts
from m2o_fast.translators.starganv2.settings import SIZES, StarGANv2Settings

SYSTEM = SystemFacts(
    name="starganv2",
    title="StarGAN v2",
    paper="arXiv 1912.01865; HMU and HMS: arXiv 2402.12531",
    settings=StarGANv2Settings,
    translator="StarGANv2",
    variants=VARIANTS,
    sizes=SIZES,
    layouts=("stargan-v2",),
    advice=Advice(
        not_finite="a lower optim.lr, or a higher loss.r1",
        no_style="a higher loss.diversity or a longer loss.diversity_steps",
        no_colors="a lower loss.style, a longer loss.diversity_steps or a lower optim.mapping_lr",
    ),
)

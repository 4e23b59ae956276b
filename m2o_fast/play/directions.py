"""Main directions of the styles: what sliders move along."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.randomness import torch_generator
from m2o_fast.translators.base import Translator

COUNT = 4
_SAMPLES = 128
_AT_ONCE = 32  # images in one pass through the nets
_DETAIL = 8  # outputs are compared at this height and width, in pixels


@torch.inference_mode()
def main_directions(translator: Translator, image: Tensor, source: str, target: str) -> Tensor:
    """The directions of a domain's styles along which translations differ most.

    One image is translated with 128 random styles. The principal components of the outputs, averaged down to 8x8
    pixels, say how they differ; a direction is the mean of the styles weighted with one component's scores: how far a
    style changes, on average, where the output changes by one standard deviation. So a step of 1 is of ordinary size,
    and styles that no output depends on are left alone.

    Args:
        translator: In evaluation mode.
        image: Float ``[1, C_source, H, W]`` in [-1, 1].
        source: Name of its domain.
        target: Name of a domain whose styles are vectors.

    Returns:
        Float32 ``[K, style_dim]``, K at most 4; the sign is such that the output becomes brighter. Of a domain without
        styles, or with styles that are images, K = 0.
    """
    shape = translator.style_shape(target)
    if not translator.has_style(target) or len(shape) != 1:
        return torch.zeros(0, *shape)
    styles = translator.sample_style(_SAMPLES, target, torch_generator(0, "main directions"))
    parts = [
        translator.translate(image.expand(len(some), -1, -1, -1), source, target, style=some)
        for some in styles.split(_AT_ONCE)
    ]
    outputs = F.adaptive_avg_pool2d(torch.cat(parts).float().cpu(), _DETAIL).flatten(1).double()
    styles = styles.double().cpu()
    left, sizes, components = torch.linalg.svd(outputs - outputs.mean(0), full_matrices=False)
    signs = components.sum(1).sign()
    count = min(COUNT, len(styles[0]), int((sizes > 1e-6 * sizes[0].clamp(min=1e-6)).sum()))
    scores = (left * signs)[:, :count] * (_SAMPLES - 1) ** 0.5  # of variance 1
    return (scores.T @ (styles - styles.mean(0)) / (_SAMPLES - 1)).float()

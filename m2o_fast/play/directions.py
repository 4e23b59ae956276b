"""Main directions of the styles: what sliders move along."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.engine.evaluation.options import images_at_once
from m2o_fast.randomness import torch_generator
from m2o_fast.translators.base import Translator

COUNT = 4
_SAMPLES = 128
_DETAIL = 8  # outputs are compared at this height and width, in pixels
_PAUSE = 0.002  # seconds between batches: a lock that is taken again at once lets nobody else in


@torch.inference_mode()
def main_directions(
    translator: Translator,
    image: Tensor,
    source: str,
    target: str,
    turn: AbstractContextManager[object] | None = None,
) -> Tensor:
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
        turn: Held while the nets are used, and given up between batches.

    Returns:
        Float32 ``[K, style_dim]``, K at most 4; the sign is such that the output becomes brighter. Of a domain without
        styles, or with styles that are images, and where outputs are not finite, K = 0.
    """
    shape = translator.style_shape(target)
    if not translator.has_style(target) or len(shape) != 1:
        return torch.zeros(0, *shape)
    styles = translator.sample_style(_SAMPLES, target, torch_generator(0, "main directions"))
    parts = []
    for some in styles.split(images_at_once(image.shape[2] * image.shape[3], image.device)):
        with turn or nullcontext():
            made = translator.translate(image.expand(len(some), -1, -1, -1), source, target, style=some)
            parts.append(F.adaptive_avg_pool2d(made.float(), _DETAIL).flatten(1).double().cpu())
        time.sleep(_PAUSE)
    outputs = torch.cat(parts)
    if not outputs.isfinite().all():
        return torch.zeros(0, *shape)
    styles = styles.double().cpu()
    left, sizes, components = torch.linalg.svd(outputs - outputs.mean(0), full_matrices=False)
    signs = torch.where(components.sum(1) < 0, -1.0, 1.0)
    count = min(COUNT, len(styles[0]), int((sizes > 1e-6 * sizes[0].clamp(min=1e-6)).sum()))
    scores = (left * signs)[:, :count] * (_SAMPLES - 1) ** 0.5  # of variance 1
    return (scores.T @ (styles - styles.mean(0)) / (_SAMPLES - 1)).float()

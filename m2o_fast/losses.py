"""Losses as pure functions. Each divides by the full batch, also where it is taken for some samples only.

Dividing by the number of valid samples instead would inflate a masked loss against the others whenever few samples are
valid; dividing by N keeps every sample's trade-off as in the base model (docs/design.md).

What comes in bfloat16 or float16 is taken as float32: differences and means would lose too much.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def adversarial(logits: Tensor, *, real: bool) -> Tensor:
    """Binary cross-entropy of discriminator logits ``[N]`` against real or fake, mean over N."""
    logits = at_least_float32(logits)
    return F.softplus(-logits if real else logits).mean()


def r1_penalty(logits: Tensor, images: Sequence[Tensor]) -> Tensor:
    """Half the squared norm of the logits' gradient with respect to real images, mean over N (arXiv 1801.04406).

    Args:
        logits: ``[N]``, computed from ``images`` with a graph.
        images: One ``[n_k, c_k, S, S]`` per domain, those with rows requiring grad; each norm is over a sample's own
            channels.
    """
    present = [part for part in images if part.shape[0]]
    gradients = torch.autograd.grad(logits.sum(), present, create_graph=True)
    return 0.5 * torch.stack([gradient.square().sum() for gradient in gradients]).sum() / logits.shape[0]


def absolute_error(outputs: Sequence[Tensor], targets: Sequence[Tensor], batch_size: float) -> Tensor:
    """Sum over samples of the mean absolute error per sample, divided by ``batch_size``.

    Args:
        outputs: Tensors ``[n_i, ...]``, for example images by domain.
        targets: Tensors of the same shapes.
        batch_size: N, the full batch; samples that are not among ``outputs`` count as 0.
    """
    return reconstruction_error(outputs, targets, [False] * len(outputs), batch_size)


def reconstruction_error(
    outputs: Sequence[Tensor], images: Sequence[Tensor], one_hot: Sequence[bool], batch_size: float
) -> Tensor:
    """As :func:`absolute_error`, with the cross-entropy in its place where label maps are one-hot.

    Args:
        outputs: Per domain ``[n_k, c_k, S, S]``: images, or the logits of classes where ``one_hot``.
        images: What they should be, of the same shapes.
        one_hot: Per domain, whether its images have one channel per class, the largest that of the true class.
        batch_size: N, the full batch.
    """
    sums = [
        _pixel_errors(output, image, hot).mean() * output.shape[0]
        for output, image, hot in zip(outputs, images, one_hot, strict=True)
        if output.shape[0]
    ]
    if not sums:
        return at_least_float32(outputs[0].new_zeros(())) if outputs else torch.zeros(())
    return torch.stack(sums).sum() / batch_size


def masked_reconstruction_error(
    output: Tensor, image: Tensor, mask: Tensor, batch_size: float, one_hot: bool
) -> Tensor:
    """As :func:`reconstruction_error` for one domain, counting only samples whose ``mask`` (bool ``[n]``) is set."""
    per_sample = _pixel_errors(output, image, one_hot).flatten(1).mean(dim=1)
    return (per_sample * mask.to(per_sample.dtype)).sum() / batch_size


def _pixel_errors(output: Tensor, image: Tensor, one_hot: bool) -> Tensor:
    """``[n, ...]``: absolute errors, or of each pixel the cross-entropy of its logits against its class."""
    output = at_least_float32(output)
    if one_hot:
        return F.cross_entropy(output, image.argmax(dim=1), reduction="none")
    return (output - at_least_float32(image)).abs()


def at_least_float32(numbers: Tensor) -> Tensor:
    """The same numbers, in float32 if they come in bfloat16 or float16."""
    return numbers.float() if numbers.dtype in (torch.bfloat16, torch.float16) else numbers


def least_squares(
    scores: Sequence[Tensor], *, real: bool, batch_size: float, masks: Sequence[Tensor] | None = None
) -> Tensor:
    """Squared distance of discriminator scores to 1 for real, to 0 for fake images (arXiv 1611.04076).

    Args:
        scores: Maps of scores ``[n_i, 1, h, w]``, for example of each direction of a batch.
        real: What the discriminator, or with fake images the generator, wants them to be.
        batch_size: What the sum over samples of the means over their maps is divided by.
        masks: bool ``[n_i]``: which samples count; ``None``: all.
    """
    squares = [(score - float(real)).square() for score in map(at_least_float32, scores)]
    return _weighted_means(squares, batch_size, masks)


def patch_cross_entropy(
    scores: Sequence[Tensor], *, real: bool, batch_size: float, masks: Sequence[Tensor] | None = None
) -> Tensor:
    """As :func:`least_squares`, with the binary cross-entropy of scores that are logits."""
    logits = [at_least_float32(score) for score in scores]
    return _weighted_means([F.softplus(-score if real else score) for score in logits], batch_size, masks)


def _weighted_means(values: Sequence[Tensor], batch_size: float, masks: Sequence[Tensor] | None = None) -> Tensor:
    """Sum over samples of the mean of each one's numbers, divided by ``batch_size``."""
    means = [value.flatten(1).mean(dim=1) for value in values]
    if masks is not None:
        means = [mean * mask.to(mean.dtype) for mean, mask in zip(means, masks, strict=True)]
    return torch.cat(means).sum() / batch_size

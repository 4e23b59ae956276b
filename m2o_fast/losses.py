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


def absolute_error(outputs: Sequence[Tensor], targets: Sequence[Tensor], batch_size: int) -> Tensor:
    """Sum over samples of the mean absolute error per sample, divided by ``batch_size``.

    Args:
        outputs: Tensors ``[n_i, ...]``, for example images by domain.
        targets: Tensors of the same shapes.
        batch_size: N, the full batch; samples that are not among ``outputs`` count as 0.
    """
    pairs = [
        (at_least_float32(output), at_least_float32(target))
        for output, target in zip(outputs, targets, strict=True)
        if output.shape[0]
    ]
    if not pairs:
        return at_least_float32(outputs[0].new_zeros(())) if outputs else torch.zeros(())
    return (
        torch.stack([(output - target).abs().mean() * output.shape[0] for output, target in pairs]).sum() / batch_size
    )


def masked_absolute_error(output: Tensor, target: Tensor, mask: Tensor, batch_size: int) -> Tensor:
    """As :func:`absolute_error` for one tensor, counting only the samples whose ``mask`` (bool ``[n]``) is set."""
    per_sample = (at_least_float32(output) - at_least_float32(target)).abs().flatten(1).mean(dim=1)
    return (per_sample * mask.to(per_sample.dtype)).sum() / batch_size


def at_least_float32(numbers: Tensor) -> Tensor:
    """The same numbers, in float32 if they come in bfloat16 or float16."""
    return numbers.float() if numbers.dtype in (torch.bfloat16, torch.float16) else numbers

"""From a generator's last layer to images."""

from __future__ import annotations

from torch import Tensor

from m2o_fast.m2o import Domain


def as_image(output: Tensor, domain: Domain) -> Tensor:
    """What everybody else sees of an output ``[N, C, H, W]``: its tanh, of one-hot domains class probabilities.

    Probabilities p are 2 p - 1, so that all images are in [-1, 1].
    """
    return 2 * output.softmax(dim=1) - 1 if domain.kind == "onehot" else output.tanh()


def to_compare(output: Tensor, domain: Domain) -> Tensor:
    """What a loss that compares images takes: the image, or the logits of a one-hot domain's classes."""
    return output if domain.kind == "onehot" else output.tanh()

"""The 1797 handwritten digits that come with scikit-learn: real data without a download.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.errors import UserError
from m2o_fast.randomness import numpy_generator

_TEST_EVERY = 5
_BRIGHTEST = 16.0
_SMALLEST = 8  # the side of the originals


def _is_test(labels: np.ndarray) -> np.ndarray:
    """bool ``[n]``: every fifth digit of each class after a fixed shuffle, so both splits have the same shares."""
    shuffled = numpy_generator(0, "digits/split").permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[by_class[::_TEST_EVERY]] = True
    return chosen


def load_digits(split: str, image_size: int) -> tuple[Tensor, Tensor]:
    """The digits of one split, enlarged.

    The originals have 8x8 pixels and 17 gray levels; they get a black frame of one pixel, are enlarged bicubically
    and rounded to uint8. The split is
    fixed (it does not depend on a seed): 1437 for training, 360 for testing, the same class shares in both.

    Args:
        split: ``"train"`` or ``"test"``.
        image_size: Side length S of the result, at least 8.

    Returns:
        uint8 ``[n, 1, S, S]`` with black background, and the labels, int64 ``[n]``.

    Raises:
        UserError: If scikit-learn is not installed, or the size is too small.
    """
    if image_size < _SMALLEST:
        raise UserError(f"digits need an image size of at least {_SMALLEST}, got {image_size}")
    try:
        from sklearn import datasets  # slow to import, and only this set needs it
    except ImportError as error:
        raise UserError("the digits data set is part of scikit-learn: run `pip install scikit-learn`") from error
    bunch = datasets.load_digits()
    labels = np.asarray(bunch.target, dtype=np.int64)
    chosen = _is_test(labels) if split == "test" else ~_is_test(labels)
    small = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32)[chosen, None] / _BRIGHTEST)
    framed = F.pad(small, (1, 1, 1, 1))  # the strokes reach the edge of the 8x8 pixels and would look cut off
    large = F.interpolate(framed, size=(image_size, image_size), mode="bicubic").clamp(0, 1)
    return (large * 255).round().to(torch.uint8), torch.from_numpy(labels[chosen])

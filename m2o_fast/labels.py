"""Label maps as images and back: one colour per class, or one channel per class.

Class 0 is void: pixels that nobody labelled. It is drawn and read like any other class.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from m2o_fast.m2o import Domain

LabelKind = Literal["palette", "onehot"]

#: Class numbers are one byte each, in files and in the cache.
MOST_CLASSES = 256

_CHUNK = 1 << 12  # pixels whose scores of all colours are held at once: 5 MB with 151 classes, for the cache of a core


def palette(classes: int) -> Tensor:
    """One colour per class, far from each other; class 0 is black.

    The colours are points of a face-centred cubic lattice in the RGB cube, which of all lattices has its points
    furthest apart, with as few levels per channel as the number of classes allows: 7 for the 151 of ADE20K, whose
    colours are at least 59 apart. They are taken in the order of farthest points, so the first classes differ most.

    Args:
        classes: Number of classes, void included, 2 to 256.

    Returns:
        uint8 ``[classes, 3]``, all rows different; the caller's own copy.

    Raises:
        ValueError: If ``classes`` is out of range.
    """
    if not 2 <= classes <= MOST_CLASSES:
        raise ValueError(f"classes must be in [2, {MOST_CLASSES}], got {classes}")
    return torch.from_numpy(_palette(classes).copy())


@lru_cache(maxsize=8)
def _palette(classes: int) -> np.ndarray:
    levels = next(n for n in range(2, MOST_CLASSES) if (n**3 + 1) // 2 >= classes)
    grid = np.stack(np.meshgrid(*[np.arange(levels)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    points = grid[grid.sum(axis=1) % 2 == 0]
    chosen = [0]  # the corner (0, 0, 0)
    nearest = ((points - points[0]) ** 2).sum(axis=1)
    while len(chosen) < classes:  # whole numbers, and argmax takes the first of equals: the same on every machine
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return np.rint(points[chosen] * (255 / (levels - 1))).astype(np.uint8)


def draw_labels(labels: Tensor, kind: LabelKind, classes: int) -> Tensor:
    """Label maps as images.

    Args:
        labels: Whole numbers ``[N, H, W]`` in [0, classes), of any integer dtype.
        kind: ``"palette"``: the colours of :func:`palette`. ``"onehot"``: channel k is 1 where the class is k, else 0.
        classes: Number of classes, void included.

    Returns:
        float32 ``[N, 3, H, W]`` or ``[N, classes, H, W]`` in [0, 1], on the device of ``labels``.

    Raises:
        ValueError: For another kind, shape or dtype, or a class number out of range.
    """
    if labels.ndim != 3 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"label maps must be whole numbers [N, H, W], got {labels.dtype} {list(labels.shape)}")
    if labels.numel() and not (0 <= int(labels.min()) and int(labels.max()) < classes):
        raise ValueError(f"classes must be in [0, {classes}), got {int(labels.min())} to {int(labels.max())}")
    if kind == "palette":
        colors = palette(classes).to(labels.device, torch.float32) / 255
        return colors[labels.to(torch.int64)].permute(0, 3, 1, 2).contiguous()
    if kind == "onehot":
        images = torch.zeros(labels.shape[0], classes, *labels.shape[1:], device=labels.device)
        return images.scatter_(1, labels.to(torch.int64)[:, None], 1.0)
    raise ValueError(f"label maps are drawn as 'palette' or 'onehot', got {kind!r}")


def read_labels(images: Tensor, kind: LabelKind, classes: int) -> Tensor:
    """The label maps that images show; of several classes that are equally near, the first one.

    Args:
        images: Float ``[N, 3, H, W]`` or ``[N, classes, H, W]`` in [0, 1]; outputs of a network may leave the range.
        kind: ``"palette"``: the class of the nearest colour (Euclidean distance in RGB). ``"onehot"``: the class of the
            largest channel.
        classes: Number of classes, void included.

    Returns:
        int64 ``[N, H, W]`` on the device of ``images``. :func:`draw_labels` and then 8-bit files are undone exactly.

    Raises:
        ValueError: For another kind or shape.
    """
    if kind not in ("palette", "onehot"):
        raise ValueError(f"label maps are read from 'palette' or 'onehot' images, got {kind!r}")
    channels = 3 if kind == "palette" else classes
    if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point():
        raise ValueError(f"{kind} images must be float [N, {channels}, H, W], got {images.dtype} {list(images.shape)}")
    if kind == "onehot":
        return images.argmax(dim=1)
    return _nearest_colors(images, palette(classes))


def pictures(images: Tensor, domain: Domain) -> Tensor:
    """Images of a domain as pictures to look at: label maps in the colours of their palette, others as they are.

    Args:
        images: Float ``[N, C, H, W]``, about [-1, 1], as translators take and give them.
        domain: Their domain.

    Returns:
        The same, or float32 ``[N, 3, H, W]`` in [-1, 1] with no other colours than those of the palette.
    """
    if domain.kind == "continuous":
        return images
    labels = read_labels((images + 1) / 2, domain.kind, domain.classes)
    return draw_labels(labels, "palette", domain.classes) * 2 - 1


def _nearest_colors(images: Tensor, colors: Tensor) -> Tensor:
    # Nearest is where x.c - |c|^2 / 2 is largest. In float64, which no reduced precision of matrix products touches.
    colors = colors.to(images.device, torch.float64)
    offsets = colors.square().sum(dim=1) / -2
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3)
    chunk = _CHUNK if images.device.type == "cpu" else 64 * _CHUNK  # a GPU is to have enough to do
    classes = [
        torch.addmm(offsets, part.to(torch.float64) * 255, colors.T).argmax(dim=1) for part in pixels.split(chunk)
    ]
    return torch.cat(classes).reshape(images.shape[0], *images.shape[2:])

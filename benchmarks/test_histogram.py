"""Colours of 10,000 images of 32x32: the kernel against the ways one would write it in torch and in numpy.

The images are blobs of content in a random colour, with a little noise.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import CACHE_BYTES, DEVICE
from torch import Tensor

from m2o_fast.ops import (
    color_histogram,
    color_histogram_numpy,
    color_recall,
    foreground_color,
    unique_color_count,
    unique_color_count_numpy,
)

COUNT, SIZE, BATCH, BINS = 10_000, 32, 500, 4


def make_images(seed: int, dtype: str) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-1, 1, SIZE), indexing="ij")
    center = torch.rand(2, COUNT, 1, 1, generator=generator) * 0.6 - 0.3
    content = (3 - 9 * ((row - center[0]) ** 2 + (column - center[1]) ** 2)).clamp(0, 1)[:, None]
    images = content * torch.rand(COUNT, 3, 1, 1, generator=generator)
    images = (images + 0.02 * torch.rand(images.shape, generator=generator)).clamp(0, 1)
    return (images * 255).round().byte() if dtype == "uint8" else images


@pytest.fixture(scope="module", params=["float32", pytest.param("uint8", marks=pytest.mark.full)])
def image_sets(request: pytest.FixtureRequest) -> list[Tensor]:
    """Tensors [N, 3, H, W] that take turns and are in no cache when their turn comes."""
    first = make_images(0, request.param).to(DEVICE)
    turns = max(2, -(-CACHE_BYTES // first.nbytes))
    return [first, *(make_images(seed, request.param).to(DEVICE) for seed in range(1, turns))]


EXACT = ("compiled", "compiled-numpy", "triton")


def counts_of(result: Tensor | np.ndarray) -> np.ndarray:
    return result.cpu().numpy() if isinstance(result, Tensor) else np.asarray(result)


def as_numpy(images: Tensor) -> np.ndarray:
    """[N, H, W, 3], as numpy users hold images."""
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())


# --- the ways one would write it --------------------------------------------------------------------------------------


def colors_in_torch(images: Tensor) -> Tensor:
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    content = images.amax(1, keepdim=True)
    return ((images * content).sum((2, 3)) / (content * content).sum((2, 3)).clamp_min(1e-12)).clamp(0, 1)


def count_by_bincount(colors: Tensor) -> Tensor:
    red, green, blue = (colors * BINS).long().clamp(max=BINS - 1).unbind(1)
    return torch.bincount((red * BINS + green) * BINS + blue, minlength=BINS**3)


def colors_in_numpy(images: np.ndarray) -> np.ndarray:
    images = images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images
    content = images.max(3, keepdims=True)
    square = np.maximum((content * content).sum((1, 2)), 1e-12)
    return ((images * content).sum((1, 2)) / square).clip(0, 1)


def batches(images: np.ndarray) -> list[np.ndarray]:
    return [images[first : first + BATCH] for first in range(0, len(images), BATCH)]


def count_by_histogramdd(colors: np.ndarray) -> np.ndarray:
    return np.histogramdd(colors, bins=BINS, range=[(0, 1)] * 3)[0].ravel()


HISTOGRAMS = {
    "reference": lambda images: color_histogram(images, BINS, backend="reference"),
    "bincount": lambda images: count_by_bincount(colors_in_torch(images)),
    "numpy": lambda images: sum(count_by_histogramdd(colors_in_numpy(batch)) for batch in batches(images)),
    "compiled": lambda images: color_histogram(images, BINS, backend="compiled"),
    "compiled-numpy": lambda images: color_histogram_numpy(images, BINS),
}
if DEVICE.type == "cuda":
    HISTOGRAMS["triton"] = lambda images: color_histogram(images, BINS, backend="triton")


@pytest.mark.parametrize("way", HISTOGRAMS)
def test_color_histogram(measure, benchmark, image_sets, way):
    expected = color_histogram(image_sets[0], BINS, backend="reference").cpu().numpy()
    inputs = [as_numpy(images) for images in image_sets] if "numpy" in way else image_sets
    difference = np.abs(counts_of(HISTOGRAMS[way](inputs[0])) - expected).sum()
    # The other formulations compute in float32 and may round a colour on an edge to the other side.
    assert difference == 0 if way in EXACT else difference <= 0.001 * COUNT
    benchmark.group = f"color_histogram {COUNT}x{SIZE}x{SIZE} {image_sets[0].dtype}"
    measure(lambda i: HISTOGRAMS[way](inputs[i % len(inputs)]), way, image_sets[0].nbytes)


def recall_and_unique(images: Tensor, real: Tensor, backend: str) -> tuple[float, int]:
    """Fits the colours once and counts them twice."""
    colors = foreground_color(images, backend=backend)
    recall = color_recall(color_histogram(colors, BINS, backend=backend), real)
    return recall.item(), unique_color_count(colors, backend=backend).item()


def recall_and_unique_in_torch(images: Tensor, real: Tensor) -> tuple[float, int]:
    colors = colors_in_torch(images)
    counts = count_by_bincount(colors)
    recall = torch.minimum(counts / counts.sum(), real / real.sum()).sum()
    return recall.item(), len(torch.unique((colors * 255).round(), dim=0))


def recall_and_unique_in_numpy(images: np.ndarray, real: Tensor) -> tuple[float, int]:
    colors = np.concatenate([colors_in_numpy(batch) for batch in batches(images)])
    counts, real_counts = count_by_histogramdd(colors), real.cpu().numpy()
    recall = np.minimum(counts / counts.sum(), real_counts / real_counts.sum()).sum()
    return recall, len(np.unique(np.round(colors * 255), axis=0))


RECALLS = {
    "reference": lambda images, real: recall_and_unique(images, real, "reference"),
    "bincount": recall_and_unique_in_torch,
    "numpy": recall_and_unique_in_numpy,
    "compiled": lambda images, real: recall_and_unique(images, real, "compiled"),
}
if DEVICE.type == "cuda":
    RECALLS["triton"] = lambda images, real: recall_and_unique(images, real, "triton")


@pytest.mark.parametrize("way", RECALLS)
def test_color_recall_and_unique_colors(measure, benchmark, image_sets, way):
    real = color_histogram(image_sets[1], BINS, backend="reference")
    expected = RECALLS["reference"](image_sets[0], real)
    inputs = [as_numpy(images) for images in image_sets] if way == "numpy" else image_sets
    assert RECALLS[way](inputs[0], real) == pytest.approx(expected, rel=0 if way in EXACT else 0.002)
    benchmark.group = f"color_recall + unique_color_count {COUNT}x{SIZE}x{SIZE} {image_sets[0].dtype}"
    measure(lambda i: RECALLS[way](inputs[i % len(inputs)], real), way, image_sets[0].nbytes)


def pixel_colors_in_numpy(images: np.ndarray) -> np.ndarray:
    levels = images if images.dtype == np.uint8 else np.round(images * 255)
    codes = levels.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)
    return np.array([np.unique(image).size for image in codes])


PIXEL_COLORS = {
    "reference": lambda images: unique_color_count(images, per_image=True, backend="reference"),
    "numpy": pixel_colors_in_numpy,
    "compiled": lambda images: unique_color_count(images, per_image=True, backend="compiled"),
    "compiled-numpy": lambda images: unique_color_count_numpy(images, per_image=True),
}
if DEVICE.type == "cuda":
    PIXEL_COLORS["triton"] = lambda images: unique_color_count(images, per_image=True, backend="triton")


@pytest.mark.parametrize("way", PIXEL_COLORS)
def test_unique_colors_of_each_image(measure, benchmark, image_sets, way):
    expected = PIXEL_COLORS["reference"](image_sets[0]).cpu().numpy()
    inputs = [as_numpy(images) for images in image_sets] if "numpy" in way else image_sets
    difference = np.abs(counts_of(PIXEL_COLORS[way](inputs[0])) - expected).max()
    assert difference == 0 if way in EXACT else difference <= 2  # a float32 product may round to the other side
    benchmark.group = f"unique_color_count per image {COUNT}x{SIZE}x{SIZE} {image_sets[0].dtype}"
    measure(lambda i: PIXEL_COLORS[way](inputs[i % len(inputs)]), way, image_sets[0].nbytes)

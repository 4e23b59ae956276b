"""Colours of 10,000 images of 32x32: the kernel against the ways one would write it in torch and in numpy.

The images are digits' worth of content times a random colour plus a little noise. Two sets take turns, so that no round
finds the last one's images in the caches.
"""

import itertools

import numpy as np
import pytest
import torch

from m2o_fast.ops import color_histogram, color_histogram_numpy, color_recall, foreground_color, unique_color_count

COUNT, SIZE, BATCH, BINS = 10_000, 32, 500, 4


@pytest.fixture(scope="module", params=["float32", "uint8"])
def image_sets(request):
    """Two tensors [N, 3, H, W]."""
    generator = torch.Generator().manual_seed(0)
    row, column = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-1, 1, SIZE), indexing="ij")
    sets = []
    for _ in range(2):
        center = torch.rand(2, COUNT, 1, 1, generator=generator) * 0.6 - 0.3
        content = (3 - 9 * ((row - center[0]) ** 2 + (column - center[1]) ** 2)).clamp(0, 1)[:, None]
        images = content * torch.rand(COUNT, 3, 1, 1, generator=generator)
        images = (images + 0.02 * torch.rand(images.shape, generator=generator)).clamp(0, 1)
        sets.append((images * 255).round().byte() if request.param == "uint8" else images)
    return sets


def colors_in_torch(images):
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    content = images.amax(1, keepdim=True)
    return ((images * content).sum((2, 3)) / (content * content).sum((2, 3)).clamp_min(1e-12)).clamp(0, 1)


def histogram_by_bincount(images):
    red, green, blue = (colors_in_torch(images) * BINS).long().clamp(max=BINS - 1).unbind(1)
    return torch.bincount((red * BINS + green) * BINS + blue, minlength=BINS**3)


def colors_in_numpy(images):
    """Images [N, H, W, 3], as numpy holds them."""
    for first in range(0, len(images), BATCH):
        batch = images[first : first + BATCH]
        batch = batch.astype(np.float32) / np.float32(255) if batch.dtype == np.uint8 else batch
        content = batch.max(3, keepdims=True)
        square = np.maximum((content * content).sum((1, 2)), 1e-12)
        yield ((batch * content).sum((1, 2)) / square).clip(0, 1)


def histogram_by_histogramdd(images):
    return sum(np.histogramdd(colors, bins=BINS, range=[(0, 1)] * 3)[0].ravel() for colors in colors_in_numpy(images))


def as_numpy(images):
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())


def run(benchmark, function, inputs):
    turns = itertools.cycle(inputs)
    benchmark(lambda: function(next(turns)))


def assert_close_counts(counts, expected):
    """Formulations in float32 may round a colour on an edge to the other side."""
    assert np.abs(np.asarray(counts) - expected.numpy()).sum() <= 0.001 * COUNT


HISTOGRAMS = {
    "reference": lambda images: color_histogram(images, BINS, backend="reference"),
    "bincount": histogram_by_bincount,
    "numpy": histogram_by_histogramdd,
    "compiled": lambda images: color_histogram(images, BINS, backend="compiled"),
    "compiled-numpy": lambda images: color_histogram_numpy(images, BINS),
}


@pytest.mark.parametrize("way", HISTOGRAMS)
@pytest.mark.benchmark(group="color_histogram")
def test_color_histogram(benchmark, image_sets, way):
    expected = color_histogram(image_sets[0], BINS, backend="reference")
    inputs = [as_numpy(images) for images in image_sets] if "numpy" in way else image_sets
    counts = HISTOGRAMS[way](inputs[0])
    if "compiled" in way:
        assert np.array_equal(np.asarray(counts), expected.numpy())
    else:
        assert_close_counts(counts, expected)
    run(benchmark, HISTOGRAMS[way], inputs)


def recall_and_unique(backend):
    """The way to both numbers from images: fit the colours once, then count them twice."""

    def measure(images, real_counts):
        colors = foreground_color(images, backend=backend)
        recall = color_recall(color_histogram(colors, BINS, backend=backend), real_counts)
        return recall.item(), unique_color_count(colors, backend=backend).item()

    return measure


def recall_and_unique_in_torch(images, real_counts):
    colors = colors_in_torch(images)
    red, green, blue = (colors * BINS).long().clamp(max=BINS - 1).unbind(1)
    counts = torch.bincount((red * BINS + green) * BINS + blue, minlength=BINS**3)
    recall = torch.minimum(counts / counts.sum(), real_counts / real_counts.sum()).sum()
    return recall.item(), len(torch.unique((colors * 255).round(), dim=0))


def recall_and_unique_in_numpy(images, real_counts):
    colors = np.concatenate(list(colors_in_numpy(images)))
    counts = np.histogramdd(colors, bins=BINS, range=[(0, 1)] * 3)[0].ravel()
    recall = np.minimum(counts / counts.sum(), real_counts.numpy() / real_counts.sum().item()).sum()
    return recall, len(np.unique(np.round(colors * 255), axis=0))


RECALLS = {
    "reference": recall_and_unique("reference"),
    "bincount": recall_and_unique_in_torch,
    "numpy": recall_and_unique_in_numpy,
    "compiled": recall_and_unique("compiled"),
}


@pytest.mark.parametrize("way", RECALLS)
@pytest.mark.benchmark(group="color_recall and unique_color_count")
def test_color_recall_and_unique_colors(benchmark, image_sets, way):
    real_counts = color_histogram(image_sets[1], BINS, backend="reference")
    expected = RECALLS["reference"](image_sets[0], real_counts)
    inputs = [as_numpy(images) for images in image_sets] if way == "numpy" else image_sets
    assert RECALLS[way](inputs[0], real_counts) == pytest.approx(expected, rel=0 if way == "compiled" else 0.002)
    run(benchmark, lambda images: RECALLS[way](images, real_counts), inputs)


def pixel_colors_in_numpy(images):
    levels = images if images.dtype == np.uint8 else np.round(images * 255)
    codes = levels.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)
    return np.array([np.unique(image).size for image in codes])


PIXEL_COLORS = {
    "reference": lambda images: unique_color_count(images, per_image=True, backend="reference"),
    "numpy": pixel_colors_in_numpy,
    "compiled": lambda images: unique_color_count(images, per_image=True, backend="compiled"),
}


@pytest.mark.parametrize("way", PIXEL_COLORS)
@pytest.mark.benchmark(group="unique_color_count per image")
def test_unique_colors_of_each_image(benchmark, image_sets, way):
    expected = PIXEL_COLORS["reference"](image_sets[0])
    inputs = [as_numpy(images) for images in image_sets] if way == "numpy" else image_sets
    counts = torch.as_tensor(PIXEL_COLORS[way](inputs[0]))
    if way == "compiled":
        assert torch.equal(counts, expected)
    else:
        assert (counts - expected).abs().max() <= 2  # a float32 product may round to the other side
    run(benchmark, PIXEL_COLORS[way], inputs)

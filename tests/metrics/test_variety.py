"""Variety of looks and MS-SSIM: cases by hand, the definitions in plain loops, torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as oracle

from m2o_fast.metrics import LookVariety, variety_report
from m2o_fast.metrics.pixels import multiscale_similarity, structural_similarity


def smooth(*shape: int, seed: int = 0, side: int = 32) -> torch.Tensor:
    """Blurry images in [0, 1], ``[*shape, 3, side, side]``."""
    coarse = torch.rand(int(np.prod(shape)), 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return large.unflatten(0, shape)


# --- MS-SSIM ---


def test_five_scales_are_those_of_torchmetrics() -> None:
    x, y = smooth(4, seed=1, side=176).double(), smooth(4, seed=2, side=176).double()
    y[0], y[1] = x[0], (x[1] + y[1]) / 2
    expected = [float(oracle(a[None], b[None], data_range=1.0, normalize="relu")) for a, b in zip(x, y, strict=True)]
    assert multiscale_similarity(x, y).tolist() == pytest.approx(expected, abs=1e-7)  # its exponents are float32
    assert expected[0] == 1 and 0 <= min(expected) < 0.5 < expected[1] < 1


def plain_maps(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Similarity and contrast around every pixel of one channel, window by window."""
    axis = np.arange(11) - 5
    window = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 1.5**2))
    window /= window.sum()
    padded = [np.pad(image, 5, mode="reflect") for image in (x, y)]
    found = np.zeros((2, *x.shape))
    for top, left in np.ndindex(*x.shape):
        a, b = (image[top : top + 11, left : left + 11] for image in padded)
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        var = (window * (a - mean_a) ** 2).sum() + (window * (b - mean_b) ** 2).sum()
        contrast = (2 * (window * (a - mean_a) * (b - mean_b)).sum() + 9e-4) / (var + 9e-4)
        found[:, top, left] = contrast, contrast * (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    return found[1], found[0]


@pytest.mark.parametrize(("side", "scales"), [(10, 1), (16, 2), (26, 3)])
def test_fewer_scales_are_the_definition(side: int, scales: int) -> None:
    x, y = smooth(1, seed=3, side=side).double()[:, :1], smooth(1, seed=4, side=side).double()[:, :1]
    a, b = x[0, 0].numpy(), ((x + y) / 2)[0, 0].numpy()
    exponents = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    expected = 1.0
    for scale, exponent in enumerate(exponents / exponents.sum() * 1.0001, 1):
        similarity, contrast = plain_maps(a, b)
        compared = similarity if scale == scales else contrast[5:-5, 5:-5]
        expected *= max(compared.mean(), 0) ** exponent
        a, b = (
            image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
            .reshape(image.shape[0] // 2, 2, -1, 2)
            .mean((1, 3))
            for image in (a, b)
        )
    assert float(multiscale_similarity(x, (x + y) / 2)) == pytest.approx(expected, abs=1e-9)
    assert 0.05 < expected < 1


def test_one_scale_is_ssim() -> None:
    x, y = smooth(2, seed=5, side=10).double(), smooth(2, seed=6, side=10).double()
    expected = structural_similarity(x, y).clamp(min=0) ** 1.0001  # the published exponents add up to that
    assert multiscale_similarity(x, y).tolist() == pytest.approx(expected.tolist(), rel=1e-12)


# --- variety ---


def flat(*levels: float) -> torch.Tensor:
    """A group of images of one level each, ``[1, M, 3, 16, 16]``."""
    return torch.tensor(levels, dtype=torch.float64)[None, :, None, None, None].expand(-1, -1, 3, 16, 16)


def test_a_case_by_hand() -> None:
    """Levels 0.2, 0.5, 0.8: squared differences 0.09, 0.09 and 0.36; a pair 0.5 apart has 0.25."""
    outputs, real = LookVariety(), LookVariety()
    outputs.update(flat(0.2, 0.5, 0.8), pairs=1)
    real.update(flat(0.0, 0.5), pairs=1)
    assert outputs.compute()["pixel"] == pytest.approx(0.18**0.5)
    # Flat images have all contrast; luminance is compared at the last of two scales.
    luminance = (2 * 0.2 * 0.5 + 1e-4) / (0.04 + 0.25 + 1e-4)
    exponent = 1.0001 * 0.2856 / (0.0448 + 0.2856)
    assert outputs.compute()["structure"] == pytest.approx(1 - luminance**exponent, abs=1e-6)
    report = variety_report(outputs, real)
    assert report["pixel_variety"] == pytest.approx((0.18 / 0.25) ** 0.5)
    assert set(report) == {"pixel_variety", "structure_variety"}


def test_real_images_in_the_place_of_outputs_have_a_variety_of_one_and_one_look_none() -> None:
    images = smooth(200, 2, seed=7, side=16)
    others, real, stuck = LookVariety(), LookVariety(), LookVariety()
    real.update(images[:100], 1)
    others.update(images[100:], 1)
    stuck.update(images[:100, :1].expand(-1, 4, -1, -1, -1), 2)
    assert variety_report(others, real) == pytest.approx({"pixel_variety": 1, "structure_variety": 1}, abs=0.05)
    assert variety_report(stuck, real, others) == {
        "pixel_variety": pytest.approx(0, abs=1e-6),
        "structure_variety": pytest.approx(0, abs=1e-6),
        "pixel_variety_of_looks": pytest.approx(1, abs=0.05),
        "structure_variety_of_looks": pytest.approx(1, abs=0.05),
    }


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(2, 5), min_size=1, max_size=4), st.integers(0, 4), st.integers(1, 3))
def test_it_is_the_definition_however_it_is_cut(sizes: list[int], cut: int, pairs: int) -> None:
    groups = [smooth(1, size, seed=number, side=10).double() for number, size in enumerate(sizes)]
    whole, first, second = (LookVariety() for _ in range(3))
    squares, structure = [], []
    for number, group in enumerate(groups):
        for measured in (whole, first if number < cut else second):
            measured.update(group, pairs)
        images = group[0]
        every = [(a, b) for i, a in enumerate(images) for b in images[:i]]
        squares.append(sum(float((a - b).square().mean()) for a, b in every) / len(every))
        chosen = [(2 * i, 2 * i + 1) for i in range(min(pairs, len(images) // 2))]
        structure += [1 - float(multiscale_similarity(images[a, None], images[b, None])) for a, b in chosen]
    first.merge_state(second.state())
    expected = {"pixel": (sum(squares) / len(squares)) ** 0.5, "structure": sum(structure) / len(structure)}
    for measured in (whole, first):
        assert measured.compute() == pytest.approx(expected, rel=1e-9)


def test_what_cannot_be_compared_is_absent() -> None:
    outputs, same = LookVariety(), LookVariety()
    outputs.update(flat(0.2, 0.5))
    same.update(flat(0.5, 0.5))
    assert set(outputs.compute()) == {"pixel"}  # no pairs were asked for
    assert variety_report(outputs, same) == {} == variety_report(outputs, LookVariety())
    small = LookVariety()
    small.update(torch.rand(1, 2, 3, 5, 5), pairs=1)
    assert set(small.compute()) == {"pixel"}
    with pytest.raises(ValueError, match="no groups"):
        same.__class__().compute()
    with pytest.raises(ValueError, match=r"\[n, M >= 2, C, H, W\]"):
        small.update(torch.rand(1, 1, 3, 5, 5))

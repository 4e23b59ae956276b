"""Errors of images against the true ones, over a stream."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2o_fast.metrics import PixelErrors
from m2o_fast.metrics.pixels import structural_similarity


def images_of(count, seed, channels=3, height=20, width=17):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.nn.functional.interpolate(
        torch.rand(count, channels, 5, 5, generator=generator), (height, width), mode="bilinear"
    )
    return (truth + 0.1 * torch.randn(truth.shape, generator=generator)).clamp(0, 1), truth


def errors_of(outputs, truth, batch=None):
    errors = PixelErrors()
    for rows in torch.arange(len(outputs)).split(batch or max(1, len(outputs))):
        errors.update(outputs[rows], truth[rows])
    return errors


def plain_ssim(x, y):
    """Of one channel, window by window."""
    axis = np.arange(11) - 5
    window = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 1.5**2))
    window /= window.sum()
    height, width = x.shape
    x, y = np.pad(x, 5, mode="reflect"), np.pad(y, 5, mode="reflect")
    values = []
    for top in range(height):
        for left in range(width):
            a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            cov = (window * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
            values.append(luminance * (2 * cov + 9e-4) / (var_a + var_b + 9e-4))
    return np.mean(values)


def test_errors_by_hand():
    """A difference of 0.1 everywhere is 20 dB; of flat images similarity is that of their brightness."""
    truth = torch.full((2, 3, 12, 12), 0.5, dtype=torch.float64)
    outputs = truth.clone()
    outputs[0] += 0.1
    errors = PixelErrors()
    each = errors.update(outputs, truth)
    brightness = (2 * 0.5 * 0.6 + 1e-4) / (0.25 + 0.36 + 1e-4)
    assert each["mse"].tolist() == pytest.approx([0.01, 0])
    assert each["psnr"].tolist() == pytest.approx([20, 100])
    assert each["ssim"].tolist() == pytest.approx([brightness, 1])
    assert errors.compute() == pytest.approx({"mse": 0.005, "psnr": 10 * np.log10(200), "ssim": (brightness + 1) / 2})
    perfect = errors_of(truth, truth).compute()
    assert perfect == pytest.approx({"mse": 0, "psnr": 100, "ssim": 1})


def test_similarity_equals_the_definition():
    outputs, truth = images_of(2, 0, channels=2, height=14, width=13)
    expected = [
        np.mean([plain_ssim(x.double().numpy(), y.double().numpy()) for x, y in zip(a, b, strict=True)])
        for a, b in zip(outputs, truth, strict=True)
    ]
    assert structural_similarity(outputs.double(), truth.double()).tolist() == pytest.approx(expected, abs=1e-12)
    assert 0.1 < min(expected) < max(expected) < 0.9


@pytest.mark.parametrize("channels", [1, 3])
def test_errors_equal_torchmetrics(channels):
    from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
    from torchmetrics.regression import MeanSquaredError as TheirError

    outputs, truth = (images.double() for images in images_of(5, 1, channels))
    found = errors_of(outputs, truth, batch=2).compute()
    ssim = StructuralSimilarityIndexMeasure(data_range=1.0)(outputs, truth)
    psnr = PeakSignalNoiseRatio(data_range=1.0)(outputs, truth)
    mse = TheirError()(outputs.flatten(), truth.flatten())
    assert found == pytest.approx({"mse": float(mse), "psnr": float(psnr), "ssim": float(ssim)}, rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([torch.bfloat16, torch.float32, torch.float64]))
def test_errors_do_not_depend_on_batches(count, batch, dtype):
    outputs, truth = (images.to(dtype) for images in images_of(count, count, 1, 12, 6))
    whole = errors_of(outputs, truth)
    merged = errors_of(outputs[::2], truth[::2])
    merged.merge_state(errors_of(outputs[1::2], truth[1::2], batch).state())
    order = torch.randperm(count)
    for other in (merged, errors_of(outputs[order], truth[order], batch)):
        assert other.images == count
        assert other.compute() == pytest.approx(whole.compute(), abs=1e-12)
    each = PixelErrors().update(outputs, truth)
    single = [PixelErrors().update(outputs[n : n + 1], truth[n : n + 1]) for n in range(count)]
    for name, values in each.items():
        assert values.tolist() == pytest.approx([float(one[name]) for one in single], abs=1e-12)


def test_small_images_have_no_similarity():
    outputs, truth = images_of(3, 0, height=5, width=20)
    errors = PixelErrors()
    assert errors.update(outputs, truth).keys() == {"mse", "psnr"} == errors.compute().keys()
    errors.update(*images_of(2, 1))
    assert "ssim" not in errors.compute()  # a mean of some of the images would be of another set than mse


def test_non_finite_outputs_show_in_every_error():
    outputs, truth = images_of(2, 0)
    outputs[0, 0, 0, 0] = torch.nan
    assert all(np.isnan(value) for value in errors_of(outputs, truth).compute().values())


def test_wrong_pairs_are_refused_in_words():
    errors = PixelErrors()
    errors.update(torch.zeros(0, 1, 12, 12), torch.zeros(0, 1, 12, 12))
    with pytest.raises(ValueError, match="no images"):
        errors.compute()
    with pytest.raises(ValueError, match=r"must have one shape \[N, C, H, W\], got \[2, 1, 4, 4\] and \[2, 3, 4, 4\]"):
        errors.update(torch.zeros(2, 1, 4, 4), torch.zeros(2, 3, 4, 4))
    with pytest.raises(TypeError, match="outputs must be a floating-point tensor .* got torch.uint8"):
        errors.update(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.zeros(1, 1, 2, 2))

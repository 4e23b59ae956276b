"""Colour statistics and the report made of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2o_fast.metrics import ColorStatistics, color_report

CORNERS = torch.cartesian_prod(*[torch.arange(4)] * 3).double() / 4 + 0.125  # the centres of the 64 cells


def paint(colors, seed=0, size=6):
    """Images of the given colours [N, 3], and their content [N, 1, size, size]."""
    content = torch.rand(len(colors), 1, size, size, dtype=colors.dtype, generator=torch.Generator().manual_seed(seed))
    content[:, :, 0] = 1
    return content * colors[:, :, None, None], content


def statistics_of(images, content=None, batch=None, **settings):
    statistics = ColorStatistics(**settings)
    for first in range(0, len(images), batch or max(1, len(images))):
        part = slice(first, first + (batch or len(images)))
        statistics.update(images[part], None if content is None else content[part])
    return statistics


def random_images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    content = torch.rand(count, 1, 5, 7, generator=generator)
    noise = 0.3 * torch.rand(count, 3, 5, 7, generator=generator)
    return (content * torch.rand(count, 3, 1, 1, generator=generator) + noise).clamp(0, 1), content


def plain_report(generated, real, real_other, bins=4, bits=8):
    """The definitions once more, in numpy; each argument a pair (images, content)."""

    def colors(images, content):
        images, content = images.double().numpy(), content.double().numpy()
        square = (content * content).sum((2, 3))
        return np.clip((images * content).sum((2, 3)) / square, 0, 1).astype(np.float32)

    def share(pair):
        return np.histogramdd(colors(*pair), bins=bins, range=[(0, 1)] * 3)[0].ravel() / len(pair[0])

    images, content = generated
    found = colors(images, content)
    error = images.double().numpy() - content.double().numpy() * found[:, :, None, None]
    p_generated, p_real, p_other = share(generated), share(real), share(real_other)
    return {
        "color_recall": np.minimum(p_generated, p_real).sum(),
        "color_recall_ceiling": np.minimum(p_other, p_real).sum(),
        "coverage": (p_generated[p_real > 0] > 0).mean(),
        "unique_colors": len(np.unique(np.round(found.astype(np.float64) * (2**bits - 1)), axis=0)),
        "content_mse": (error**2).mean((1, 2, 3)).mean(),
    }


def test_colours_spread_evenly_over_the_cube_are_recalled_fully():
    real = statistics_of(*paint(CORNERS, seed=1))
    report = color_report(statistics_of(*paint(CORNERS.flip(0), seed=2)), real, real)
    assert report == pytest.approx(
        {"color_recall": 1, "color_recall_ceiling": 1, "coverage": 1, "unique_colors": 64, "content_mse": 0}
    )
    assert report["color_recall"] == 1 and isinstance(report["unique_colors"], int)


def test_one_colour_recalls_its_own_cell_only():
    one = statistics_of(*paint(CORNERS[:1].expand(64, 3)))
    real = statistics_of(*paint(CORNERS))
    report = color_report(one, real, real)
    assert (report["color_recall"], report["coverage"], report["unique_colors"]) == (1 / 64, 1 / 64, 1)


def test_half_the_cube_recalls_half():
    half = statistics_of(*paint(CORNERS[:32].repeat(2, 1)))
    real = statistics_of(*paint(CORNERS))
    report = color_report(half, real, half)
    assert (report["color_recall"], report["color_recall_ceiling"], report["coverage"]) == (0.5, 0.5, 0.5)


def test_coverage_counts_occupied_real_cells_only():
    real = statistics_of(*paint(CORNERS[[0, 0, 0, 1]]))
    report = color_report(statistics_of(*paint(CORNERS[[0, 5, 6, 7]])), real, real)
    assert (report["coverage"], report["color_recall"]) == (0.5, 0.25)


@pytest.mark.parametrize(("bins", "bits"), [(4, 8), (3, 2), (1, 1)])
def test_report_equals_the_definitions_in_numpy(bins, bits):
    samples = [random_images(80, seed) for seed in (1, 2, 3)]
    report = color_report(*(statistics_of(*sample, bins=bins, bits=bits) for sample in samples))
    assert report == pytest.approx(plain_report(*samples, bins=bins, bits=bits), abs=1e-12)


def test_content_mse_is_the_noise_that_no_colour_explains():
    colors = torch.full((4, 3), 0.5, dtype=torch.float64)
    images, content = paint(colors)
    sign = torch.ones(6, 6, dtype=torch.float64)
    sign[:, ::2] = -1
    content[:] = 0.8  # constant, so that noise of alternating sign does not move the fit
    images = content * 0.5 + 0.1 * sign
    assert statistics_of(images.expand(4, 3, 6, 6), content).content_mse == pytest.approx(0.01, abs=1e-12)


def test_without_content_brightness_stands_in():
    images, _ = paint(torch.tensor([[0.5, 0.25, 0.0], [0.0, 0.2, 0.4]], dtype=torch.float64))
    statistics = statistics_of(images)
    assert statistics.unique_colors == 2
    assert statistics.content_mse == pytest.approx(0, abs=1e-14)
    assert statistics.histogram.nonzero().flatten().tolist() == [0 * 16 + 2 * 4 + 3, 3 * 16 + 2 * 4 + 0]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**31), st.booleans())
def test_batches_order_and_merging_do_not_matter(count, batch, seed, with_content):
    images, content = random_images(count, seed)
    content = content if with_content else None
    whole = statistics_of(images, content)
    order = torch.randperm(count)
    shuffled = statistics_of(images[order], None if content is None else content[order], batch)
    merged = statistics_of(images[: count // 2], None if content is None else content[: count // 2])
    rest = statistics_of(images[count // 2 :], None if content is None else content[count // 2 :], batch)
    gathered = ColorStatistics()
    for state in (rest.state(), merged.state()):
        gathered.merge_state(state)
    merged.merge(rest)
    for other in (shuffled, merged, gathered):
        assert other.images == whole.images == count
        assert torch.equal(other.histogram, whole.histogram)
        assert other.unique_colors == whole.unique_colors
        assert other.content_mse == pytest.approx(whole.content_mse, abs=1e-12)


def test_uint8_and_float_images_give_the_same_report():
    samples = [random_images(40, seed) for seed in (1, 2, 3)]
    whole = [((images * 255).round().byte(), (content * 255).round().byte()) for images, content in samples]
    report = color_report(*(statistics_of(*sample) for sample in whole))
    as_float = color_report(*(statistics_of(*(tensor.float() / 255 for tensor in sample)) for sample in whole))
    assert as_float == pytest.approx(report, abs=1e-6)


def test_images_that_need_a_gradient_are_welcome():
    images, content = random_images(3)
    assert statistics_of(images.requires_grad_(), content).images == 3


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 1, 1), (3, 3, 0, 4)])
def test_small_and_empty_images(shape):
    statistics = statistics_of(torch.full(shape, 0.5))
    assert statistics.images == shape[0] == statistics.histogram.sum()
    assert statistics.unique_colors == min(1, shape[0])
    if shape[0]:
        assert statistics.content_mse == 0


def test_a_refused_batch_leaves_no_trace():
    statistics = statistics_of(*random_images(5))
    before = statistics.histogram.clone(), statistics.images, statistics.unique_colors, statistics.content_mse
    with pytest.raises(ValueError, match="finite"):
        statistics.update(torch.full((2, 3, 4, 4), float("nan")))
    after = statistics.histogram, statistics.images, statistics.unique_colors, statistics.content_mse
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_what_cannot_be_compared_is_refused():
    three, five, empty = (statistics_of(*random_images(count)) for count in (3, 5, 0))
    with pytest.raises(ValueError, match="real has 5 images but generated has 3"):
        color_report(three, five, three)
    with pytest.raises(ValueError, match="real_other has 5 images"):
        color_report(three, three, five)
    with pytest.raises(ValueError, match="no images"):
        color_report(empty, empty, empty)
    with pytest.raises(ValueError, match="no images"):
        _ = empty.content_mse
    with pytest.raises(ValueError, match="bins=4, bits=8 and with bins=2, bits=8"):
        three.merge(ColorStatistics(bins=2))
    with pytest.raises(ValueError, match="bits=7"):
        color_report(three, three, ColorStatistics(bits=7))
    with pytest.raises(ValueError, match="bins must be in"):
        ColorStatistics(bins=0)
    with pytest.raises(ValueError, match="bits must be in"):
        ColorStatistics(bits=9)
    with pytest.raises(ValueError, match=r"\[N, 3, H, W\]"):
        three.update(torch.rand(2, 1, 4, 4))

"""Foreground colours, colour histograms and unique colours of torch tensors: reference and kernel."""

import numpy as np
import pytest
import torch
from cases import TARGETS
from histogram_cases import DTYPES, SHAPES, TARGET_NAMES, make_images, runner

from m2o_fast.ops import color_histogram, foreground_color, unique_color_count
from m2o_fast.ops.histogram import color_codes


@pytest.fixture(params=TARGETS, ids=TARGET_NAMES)
def target(request):
    """Runs a function on a backend and device, see ``runner``."""
    return runner("color_histogram", *request.param)


def lay_out(images, layout):
    """The same values in another memory layout."""
    if layout == "channels_last":
        return images.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return images.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "every second column":
        return torch.stack((images, torch.full_like(images, 7)), -1).flatten(-2)[..., ::2]
    if layout == "inside a larger image":
        return torch.nn.functional.pad(images, (2, 3, 1, 0))[:, :, 1:, 2:-3]
    return images


LAYOUTS = ["contiguous", "channels_last", "transposed", "every second column", "inside a larger image"]


def plain_colors(images, content):
    """A second implementation in float64 loops over images; images [N, H, W, 3], content [N, H, W] or None."""
    colors = []
    for i, image in enumerate(images.astype(np.float64)):
        weight = image.max(-1) if content is None else content[i].astype(np.float64)
        square = float((weight * weight).sum())
        colors.append([np.clip((weight * image[..., k]).sum() / square, 0, 1) if square else 0.0 for k in range(3)])
    return np.array(colors).reshape(-1, 3)


def as_numpy(images):
    return images.double().permute(0, 2, 3, 1).numpy()


# --- foreground colour ------------------------------------------------------------------------------------------------


def test_the_colour_of_content_times_colour_is_found(target):
    content = torch.rand(6, 1, 9, 9, dtype=torch.float64)
    color = torch.rand(6, 3, dtype=torch.float64)
    images = content * color[:, :, None, None]
    torch.testing.assert_close(target(foreground_color, images, content), color, atol=1e-14, rtol=0)
    # Without the content, brightness cannot be told from colour: the largest channel becomes 1.
    normalised = color / color.amax(1, keepdim=True)
    torch.testing.assert_close(target(foreground_color, images), normalised, atol=1e-14, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_black_stays_black_and_colours_are_clamped(target, dtype):
    images = torch.zeros(3, 3, 2, 2, dtype=dtype)
    content = torch.ones(3, 1, 2, 2, dtype=dtype)
    content[0] = 0  # no content at all, but colourful pixels
    images[0] = 1
    images[2] = 2  # brighter than its content
    expected = torch.tensor([[0.0] * 3, [0.0] * 3, [1.0] * 3])
    assert torch.equal(target(foreground_color, images, content).float(), expected)
    assert torch.equal(target(foreground_color, images[1:2]).float(), torch.zeros(1, 3))


@pytest.mark.parametrize("with_content", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_foreground_color_equals_the_plain_formula(target, dtype, shape, with_content):
    images, content = make_images(shape, dtype)
    expected = plain_colors(as_numpy(images), content[:, 0].double().numpy() if with_content else None)
    colors = target(foreground_color, images, content if with_content else None)
    assert colors.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert colors.shape == (shape[0], 3) and colors.is_contiguous()
    rounding = 1e-14 if dtype == torch.float64 else 2**-24  # computed in float64, then rounded once
    np.testing.assert_allclose(colors.numpy(), expected, rtol=0, atol=rounding)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_memory_layout_is_read(target, layout, dtype):
    images, content = make_images((2, 3, 11, 40), dtype)
    expected = target(foreground_color, images, content), target(foreground_color, images)
    assert lay_out(images, layout).equal(images)
    for content_layout in LAYOUTS:
        colors = target(foreground_color, lay_out(images, layout), lay_out(content, content_layout))
        torch.testing.assert_close(colors, expected[0], atol=1e-14, rtol=2e-7)
    torch.testing.assert_close(target(foreground_color, lay_out(images, layout)), expected[1], atol=1e-14, rtol=2e-7)
    expected = unique_color_count(images, per_image=True, backend="reference")
    assert torch.equal(target(unique_color_count, lay_out(images, layout), per_image=True), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("layout", ["contiguous", "inside a larger image"])
def test_images_that_several_programs_share(target, layout, dtype):
    images, content = make_images((1, 3, 130, 127), dtype)
    expected = plain_colors(as_numpy(images), content[:, 0].double().numpy())
    images, content = lay_out(images, layout), lay_out(content, layout)
    np.testing.assert_allclose(target(foreground_color, images, content).numpy(), expected, rtol=0, atol=2**-24)
    for bits in (3, 8):
        counts = target(unique_color_count, images, bits, per_image=True)
        assert torch.equal(counts, unique_color_count(images, bits, per_image=True, backend="reference"))


def test_content_may_lack_the_channel_axis_and_have_another_dtype(target):
    images, content = make_images((4, 3, 8, 8), torch.uint8)
    colors = target(foreground_color, images, content)
    assert torch.equal(target(foreground_color, images, content[:, 0]), colors)
    mixed = target(foreground_color, images, content.float() / 255)
    torch.testing.assert_close(mixed, colors, atol=2e-7, rtol=0)
    assert target(foreground_color, images, content.double() / 255).dtype == torch.float64


@pytest.mark.parametrize("with_content", [False, True])
def test_uint8_and_float_agree(target, with_content):
    images, content = make_images((9, 3, 16, 16), torch.uint8)
    arguments = (images, content) if with_content else (images,)
    colors = target(foreground_color, *arguments)
    as_float = target(foreground_color, *(tensor.float() / 255 for tensor in arguments))
    torch.testing.assert_close(as_float, colors, atol=2e-7, rtol=0)
    counts = target(unique_color_count, images, per_image=True)
    assert torch.equal(target(unique_color_count, images.float() / 255, per_image=True), counts)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["images", "content"])
def test_a_non_finite_value_spoils_its_image_and_only_its_image(target, bad, where):
    images, content = make_images((3, 3, 5, 5))
    {"images": images, "content": content}[where][1, 0, 2, 3] = bad
    colors = target(foreground_color, images, content)
    assert colors[1].isnan().all() and colors[[0, 2]].isfinite().all()
    if where == "images":
        assert target(foreground_color, images).isnan().all(1).tolist() == [False, True, False]
    for count in (color_histogram, unique_color_count):
        with pytest.raises(ValueError, match="finite"):
            target(count, images, content=content)


def test_foreground_color_has_first_and_second_derivatives(target):
    images, content = (tensor.double().requires_grad_() for tensor in make_images((1, 3, 1, 2)))

    def color(*arguments):
        return target(foreground_color, *arguments)

    for arguments in ((images, content), (images,)):
        assert torch.autograd.gradcheck(color, arguments)
        assert torch.autograd.gradgradcheck(color, arguments)


# --- histogram --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bins", [1, 2, 4, 7, 64])
def test_color_histogram_equals_numpy_histogramdd(target, dtype, bins):
    # Multiples of 1/64 lie on the edges of the bins, 1 included.
    colors = (torch.randint(0, 65, (3000, 3), generator=torch.Generator().manual_seed(1)) / 64).to(dtype)
    edges = [np.arange(bins + 1) / bins] * 3
    if bins == 7:  # its edges are not representable: stay off them
        colors = colors * 0.99
    expected = np.histogramdd(colors.double().numpy(), bins=edges)[0]
    counts = target(color_histogram, colors, bins)
    assert counts.dtype == torch.int64 and counts.shape == (bins**3,)
    np.testing.assert_array_equal(counts.numpy(), expected.reshape(-1))


def test_cells_are_ordered_red_green_blue_and_edges_belong_to_the_upper_bin(target):
    colors = torch.tensor([[0.0, 0.0, 0.25], [0.0, 0.25, 0.0], [0.25, 0.0, 0.0], [1.0, 1.0, 1.0], [0.2499, -1.0, 9.0]])
    counts = target(color_histogram, colors)
    assert counts.nonzero().flatten().tolist() == [1, 3, 4, 16, 63]


def test_images_are_counted_by_their_foreground_colours(target):
    images, content = make_images((40, 3, 8, 8))
    for given_content in (None, content):
        colors = target(foreground_color, images, given_content)
        counts = target(color_histogram, images, 5, given_content)
        assert torch.equal(counts, target(color_histogram, colors, 5))


def test_huge_but_finite_colours_are_counted_at_the_ends(target):
    colors = torch.tensor([[1e308, -1e308, 0.5]], dtype=torch.float64)
    assert target(color_histogram, colors, 256)[255 * 256**2 + 128] == 1
    assert target(unique_color_count, colors) == 1


@pytest.mark.parametrize("integer", [np.int64, np.uint8, np.int32])
def test_integers_of_other_libraries_are_integers(target, integer):
    colors, groups = torch.rand(9, 3), torch.arange(9) % 2
    counts = target(color_histogram, colors, integer(40), groups=groups, num_groups=integer(2))
    assert torch.equal(counts, target(color_histogram, colors, 40, groups=groups, num_groups=2))
    assert target(unique_color_count, colors, integer(8)) == target(unique_color_count, colors, 8)
    assert torch.equal(color_codes(colors, integer(8)), color_codes(colors))


def test_groups_are_counted_apart(target):
    colors = torch.rand(500, 3, generator=torch.Generator().manual_seed(2))
    groups = (torch.arange(1000) % 3)[::2]  # strided
    counts = target(color_histogram, colors, 4, groups=groups, num_groups=4)
    assert counts.shape == (4, 64)
    for group in range(4):
        assert torch.equal(counts[group], target(color_histogram, colors[groups == group], 4))


def test_no_colours_give_a_histogram_of_zeros(target):
    assert torch.equal(target(color_histogram, torch.zeros(0, 3)), torch.zeros(64, dtype=torch.int64))
    assert torch.equal(target(color_histogram, torch.zeros(0, 3, 4, 4)), torch.zeros(64, dtype=torch.int64))


# --- unique colours ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_pixel_colours_of_each_image_are_counted(target, bits, dtype, shape):
    images, _ = make_images(shape, dtype)
    fractions = as_numpy(images) / (255 if dtype == torch.uint8 else 1)
    codes = np.round(fractions * (2**bits - 1)).reshape(shape[0], shape[2] * shape[3], 3)
    expected = [len({tuple(pixel) for pixel in image}) for image in codes]
    counts = target(unique_color_count, images, bits, per_image=True)
    assert counts.dtype == torch.int64
    assert counts.tolist() == expected


@pytest.mark.parametrize("bits", [1, 8])
def test_every_level_of_a_channel_has_a_number_of_its_own(target, bits):
    """The highest level of a channel is not the lowest one of the next level of the channel before."""
    step = 255 // (2**bits - 1)
    pixels = [(0, 0, 255), (0, step, 0), (0, 255, 0), (step, 0, 0), (0, 255, 255), (step, 0, 255), (255, 255, 255)]
    image = torch.tensor(pixels, dtype=torch.uint8).T.reshape(1, 3, 1, len(pixels)).contiguous()
    expected = len({tuple(pixel) for pixel in pixels})
    assert target(unique_color_count, image, bits, per_image=True).tolist() == [expected]


def test_colours_of_a_set_are_counted(target):
    colors = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0019], [0.0, 0.0, 0.0020], [1.0, 0.5, 0.0], [1.0, 0.5, 0.0]])
    assert target(unique_color_count, colors).item() == 3  # 0.0019 * 255 rounds to 0, 0.0020 * 255 to 1
    assert target(unique_color_count, colors, bits=1).item() == 2
    assert target(unique_color_count, torch.zeros(0, 3)).item() == 0
    halves = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])  # ties go to the even number
    assert target(unique_color_count, halves, bits=1).item() == 1
    images, content = make_images((30, 3, 4, 4))
    fitted = target(foreground_color, images, content)
    assert target(unique_color_count, images, 3, content=content) == unique_color_count(fitted, 3)
    assert color_codes(colors).unique().numel() == 3


def test_an_image_larger_than_the_kernels_chunk_is_counted_once_per_colour(target):
    images = torch.randint(0, 256, (2, 3, 70, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    images[1] = images[1, :, :1, :1]
    counts = target(unique_color_count, images, per_image=True)
    assert counts.tolist() == unique_color_count(images, per_image=True, backend="reference").tolist()
    assert counts[1] == 1

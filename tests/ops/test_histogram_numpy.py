"""The histogram functions for numpy arrays: native code and numpy reference against the functions for tensors."""

import numpy as np
import pytest
import torch
from cases import needs_native
from histogram_cases import SHAPES, make_images

import m2o_fast.ops.histogram_numpy as histogram_numpy
from m2o_fast.ops import (
    color_histogram,
    color_histogram_numpy,
    foreground_color,
    foreground_color_numpy,
    unique_color_count,
    unique_color_count_numpy,
)


@pytest.fixture(params=["reference", pytest.param("native", marks=needs_native)])
def numpy_backend(request, monkeypatch):
    if request.param == "reference":
        monkeypatch.setattr(histogram_numpy, "_native", lambda: histogram_numpy.NumpyReference)
    return request.param


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_numpy_arrays_give_the_numbers_of_torch_tensors(numpy_backend, dtype, shape):
    images, content = make_images(shape, dtype)
    array, plane = images.permute(0, 2, 3, 1).numpy(), content[:, 0].numpy()
    for arguments, tensors in (((array, plane), (images, content)), ((array,), (images,))):
        colors, expected = foreground_color_numpy(*arguments), foreground_color(*tensors)
        assert isinstance(colors, np.ndarray) and colors.dtype == expected.numpy().dtype
        np.testing.assert_allclose(colors, expected.numpy(), rtol=2e-7, atol=1e-14)
    assert np.array_equal(foreground_color_numpy(array, plane[..., None]), foreground_color_numpy(array, plane))
    if dtype != torch.uint8:
        groups = np.arange(shape[0]) % 2
        counts = color_histogram_numpy(colors, 3, groups=groups, num_groups=2)
        expected = color_histogram(torch.from_numpy(colors), 3, groups=torch.from_numpy(groups), num_groups=2)
        assert counts.dtype == np.int64 and np.array_equal(counts, expected.numpy())
    assert color_histogram_numpy(array, 3, plane).sum() == shape[0]
    expected = unique_color_count(images, 4, per_image=True).numpy()
    assert np.array_equal(unique_color_count_numpy(array, 4, per_image=True), expected)
    assert unique_color_count_numpy(array, 4) == unique_color_count(torch.from_numpy(foreground_color_numpy(array)), 4)


def test_numpy_content_may_have_another_dtype(numpy_backend):
    images, content = (tensor.numpy() for tensor in make_images((4, 3, 8, 8), torch.uint8))
    images, content = images.transpose(0, 2, 3, 1), content[:, 0]
    colors = foreground_color_numpy(images, content)
    np.testing.assert_allclose(foreground_color_numpy(images, content / np.float32(255)), colors, atol=2e-7)
    in_float64 = foreground_color_numpy(images, content / 255)
    assert in_float64.dtype == np.float64
    for order in "<>":
        pairs = ((images, (content / 255).astype(f"{order}f8")), ((images / 255).astype(f"{order}f8"), content))
        for pair in pairs:
            assert foreground_color_numpy(*pair).dtype == np.float64
            np.testing.assert_allclose(foreground_color_numpy(*pair), in_float64, atol=1e-15)
        assert foreground_color_numpy(images, (content / 255).astype(f"{order}f4")).dtype == np.float32


def test_numpy_arrays_of_any_memory_layout(numpy_backend):
    images, content = (tensor.numpy() for tensor in make_images((3, 3, 6, 7)))
    images, content = images.transpose(0, 2, 3, 1), content[:, 0]
    expected = foreground_color_numpy(images, content)
    packed = np.zeros(images.shape, dtype=[("flag", "u1"), ("value", "f4")])  # unaligned elements
    packed["value"] = images
    read_only = images.copy()
    read_only.flags.writeable = False
    for other in (
        images[:, ::-1][:, ::-1],
        images.astype(">f4"),
        packed["value"],
        read_only,
        np.asfortranarray(images),
    ):
        assert np.array_equal(foreground_color_numpy(other, content), expected)
        assert color_histogram_numpy(other).sum() == 3
        assert np.array_equal(unique_color_count_numpy(other, 8, True), unique_color_count_numpy(images, 8, True))
    reversed_rows = foreground_color_numpy(images[:, ::-1, ::-1], content[:, ::-1, ::-1])
    np.testing.assert_allclose(reversed_rows, expected, rtol=2e-7)
    assert np.array_equal(
        color_histogram_numpy(expected[::-1], 4, groups=np.array([1, 0, 0]), num_groups=2),
        color_histogram_numpy(expected, 4, groups=np.array([0, 0, 1]), num_groups=2),
    )


def test_numpy_refuses_non_finite_values_and_wrong_groups(numpy_backend):
    images = np.full((2, 2, 2, 3), np.nan, dtype=np.float32)
    assert np.isnan(foreground_color_numpy(images)).all()
    for count in (color_histogram_numpy, unique_color_count_numpy):
        with pytest.raises(ValueError, match="finite"):
            count(images)
        with pytest.raises(ValueError, match=f"^{count.__name__}: "):
            count(np.full((2, 3), np.inf))
        with pytest.raises(ValueError, match=f"^{count.__name__}: images must have"):
            count(images[:, :, :, :2])
    with pytest.raises(ValueError, match="^color_histogram_numpy: every group number"):
        color_histogram_numpy(np.zeros((2, 3)), groups=np.array([0, 2]), num_groups=2)


@pytest.mark.filterwarnings("error")
def test_numpy_huge_but_finite_colours_are_counted_at_the_ends(numpy_backend):
    colors = np.array([[1e308, -1e308, 0.5]])
    assert color_histogram_numpy(colors, 256)[255 * 256**2 + 128] == 1
    assert unique_color_count_numpy(colors) == 1


@pytest.mark.parametrize("integer", [np.int64, np.uint8, np.int32])
def test_numpy_integers_are_integers(numpy_backend, integer):
    colors = np.random.default_rng(1).random((9, 3))
    groups = np.arange(9) % 2
    counts = color_histogram_numpy(colors, integer(40), groups=groups, num_groups=integer(2))
    assert np.array_equal(counts, color_histogram_numpy(colors, 40, groups=groups, num_groups=2))
    assert np.array_equal(counts, color_histogram_numpy(colors, 40, groups=groups.astype(">i8"), num_groups=2))
    assert unique_color_count_numpy(colors, integer(8)) == unique_color_count_numpy(colors, 8)


ARRAY = np.random.default_rng(0).random((2, 4, 4, 3), dtype=np.float32)
NUMPY_REFUSALS = [
    (foreground_color_numpy, (ARRAY.transpose(0, 3, 1, 2),), ValueError, r"\[N, H, W, 3\], got \[2, 3, 4, 4\]"),
    (foreground_color_numpy, (ARRAY.astype(np.int32),), TypeError, "got int32"),
    (foreground_color_numpy, (ARRAY.tolist(),), TypeError, "got list"),
    (foreground_color_numpy, (ARRAY, ARRAY), ValueError, r"content must have the shape \[2, 4, 4\]"),
    (foreground_color_numpy, (ARRAY, ARRAY[..., 0] > 0), TypeError, "content must be an array"),
    (color_histogram_numpy, (ARRAY[0, 0, :, :2],), ValueError, r"\[N, 3\], got \[4, 2\]"),
    (color_histogram_numpy, (ARRAY, 300), ValueError, "bins must be in"),
    (color_histogram_numpy, (ARRAY, 4, None, np.zeros(2, np.int32), 2), TypeError, "int64 array"),
    (color_histogram_numpy, (ARRAY, 4, None, np.zeros(3, np.int64), 2), ValueError, "groups must have the shape"),
    (color_histogram_numpy, (ARRAY[0, 0], 4, ARRAY[..., 0]), ValueError, "content belongs to images"),
    (unique_color_count_numpy, (ARRAY, 9), ValueError, "bits must be in"),
    (unique_color_count_numpy, (ARRAY, 8, True, ARRAY[..., 0]), ValueError, "takes no content"),
]


@pytest.mark.parametrize(("function", "arguments", "error", "words"), NUMPY_REFUSALS)
def test_wrong_arrays_are_refused_in_words(function, arguments, error, words):
    with pytest.raises(error, match=words) as caught:
        function(*arguments)
    assert str(caught.value).startswith(f"{function.__name__}: ")


@needs_native
def test_calling_the_native_module_wrongly_raises():
    from m2o_fast import _C

    for call in (
        lambda: _C.foreground_color(ARRAY.transpose(0, 3, 1, 2), None),
        lambda: _C.foreground_color(ARRAY, ARRAY[:1, :, :, 0]),
        lambda: _C.foreground_color(ARRAY.astype(np.int16), None),
        lambda: _C.color_histogram(ARRAY[0, 0], 4, np.zeros(1, np.int64), 1),
        lambda: _C.color_histogram(ARRAY[0, 0], 4, None, 0),
        lambda: _C.unique_color_count(ARRAY, 0),
        lambda: _C.color_histogram(np.zeros((2, 3), np.uint8), 4, None, 1),
    ):
        with pytest.raises((RuntimeError, TypeError, ValueError), match=r"(foreground|histogram|unique)\w*_numpy: "):
            call()

"""The functions of :mod:`m2o_fast.ops.histogram` for numpy arrays, whose images are ``[N, H, W, 3]``.

Same definitions, same numbers, no torch tensors in between: the kernel reads the arrays where they lie. Without native
code a plain numpy reference takes over.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2o_fast.ops._color_checks import (
    MAX_BINS,
    MAX_BITS,
    check_groups,
    check_integer,
    check_recall_counts,
    check_recall_shapes,
)
from m2o_fast.ops._library import NATIVE_MISSING

Array = NDArray[Any]
_FLOATS = ("float16", "float32", "float64")


class NumpyReference:
    """The definitions in plain numpy, with the signatures of the native entry points."""

    @staticmethod
    def foreground_color(images: Array, content: Array | None) -> Array:
        """See :func:`foreground_color_numpy`; content ``[N, H, W]`` of the images' dtype."""
        pixels = images.astype(np.float64)  # uint8 needs no division by 255: it cancels, and the sums stay exact
        with np.errstate(invalid="ignore", over="ignore"):
            weight = pixels.max(3) if content is None else content.astype(np.float64)
            square = np.square(weight).sum((1, 2))
            fitted = (pixels * weight[..., None]).sum((1, 2)) / np.where(square == 0, 1, square)[:, None]
        finite = np.isfinite(fitted).all(1, keepdims=True)
        colors = np.where(finite, fitted.clip(0, 1), np.nan)
        return colors.astype(np.float64 if _is_float64(images) else np.float32)

    @staticmethod
    def color_histogram(colors: Array, bins: int, groups: Array | None, num_groups: int) -> Array:
        """See :func:`color_histogram_numpy`; always returns ``[num_groups, bins^3]``."""
        if colors.dtype.kind != "f":
            raise TypeError(f"color_histogram_numpy: colours must be a floating-point array, got {_describe(colors)}")
        _require_finite("color_histogram_numpy", colors)
        with np.errstate(over="ignore"):
            cells = _cells((colors.astype(np.float64) * bins).clip(0, bins - 1).astype(np.int64), bins)
        if groups is not None:
            if ((groups < 0) | (groups >= num_groups)).any():
                raise ValueError("color_histogram_numpy: every group number must be in [0, num_groups)")
            cells = cells + groups * bins**3
        return np.bincount(cells, minlength=num_groups * bins**3).reshape(num_groups, bins**3)

    @staticmethod
    def unique_color_count(images: Array, bits: int) -> Array:
        """Distinct pixel colours per image; images ``[N, H, W, 3]``."""
        _require_finite("unique_color_count_numpy", images)
        fractions = images.astype(np.float64) / (255 if images.dtype == np.uint8 else 1)
        top = 2**bits - 1
        with np.errstate(over="ignore"):
            codes = _cells(np.rint((fractions * top).clip(0, top)).astype(np.int64), top + 1)
        return np.array([np.unique(image).size for image in codes], dtype=np.int64)


def _native() -> Any:
    return NumpyReference if NATIVE_MISSING["cpu"] is not None else importlib.import_module("m2o_fast._C")


def foreground_color_numpy(images: Array, content: Array | None = None) -> Array:
    """:func:`~m2o_fast.ops.foreground_color` for numpy arrays.

    Args:
        images: ``[N, H, W, 3]``, float16, float32 or float64 in [0, 1], or uint8 (standing for ``value / 255``); any
            strides.
        content: The same kinds of dtype, ``[N, H, W]`` or ``[N, H, W, 1]``; without it, the maximum over the channels.

    Returns:
        float32 ``[N, 3]`` (float64 for float64 images or content); black where there is no content, NaN for an image
        that meets a non-finite value.

    Raises:
        TypeError: Not an array, or of another dtype.
        ValueError: Wrong shape.
    """
    return _fit("foreground_color_numpy", images, content)


def _fit(op: str, images: Array, content: Array | None) -> Array:
    """Foreground colours; errors are those of the public function ``op``."""
    _check_images(op, images)
    if content is not None:
        _check_dtype(op, "content", content)
        plane = images.shape[:3]
        if content.shape not in (plane, (*plane, 1)):
            raise ValueError(
                f"{op}: content must have the shape {list(plane)} or {[*plane, 1]} to fit images {list(images.shape)}, "
                f"got {list(content.shape)}"
            )
        content = content.reshape(plane)
        if content.dtype != images.dtype:
            common = np.float64 if _is_float64(images) or _is_float64(content) else np.float32
            images, content = _fractions(images, common), _fractions(content, common)
        content = _addressable(content)
    colors: Array = _native().foreground_color(_addressable(images), content)
    return colors


def color_histogram_numpy(
    colors_or_images: Array,
    bins: int = 4,
    content: Array | None = None,
    groups: Array | None = None,
    num_groups: int | None = None,
) -> Array:
    """:func:`~m2o_fast.ops.color_histogram` for numpy arrays.

    Args:
        colors_or_images: Colours ``[N, 3]``, floating point; or images as :func:`foreground_color_numpy` takes them.
        bins: Bins per channel, 1 to 256.
        content: Content of the images, see :func:`foreground_color_numpy`.
        groups: int64 ``[N]``: the histogram, 0 to ``num_groups - 1``, that each colour belongs to.
        num_groups: Number of histograms; needed with ``groups``.

    Returns:
        int64 ``[bins^3]``, or ``[num_groups, bins^3]`` with groups.

    Raises:
        TypeError: Wrong dtype, or not an array.
        ValueError: Wrong shape; bins out of range; groups without num_groups or the reverse; a group number out of
            range; a colour that is NaN or infinite.
    """
    op = "color_histogram_numpy"
    bins = check_integer(op, "bins", bins, 1, MAX_BINS)
    colors = _colors_of(op, colors_or_images, content)
    if groups is not None:
        if not isinstance(groups, np.ndarray) or groups.dtype.name != "int64":
            raise TypeError(f"{op}: groups must be an int64 array, got {_describe(groups)}")
        groups = _addressable(groups)
    number = check_groups(op, colors.shape[0], None if groups is None else groups.shape, num_groups)
    counts: Array = _native().color_histogram(colors, bins, groups, number)
    return counts[0] if groups is None else counts


def color_recall_numpy(hist_generated: Array, hist_real: Array) -> Array:
    """:func:`~m2o_fast.ops.color_recall` for numpy arrays.

    Args:
        hist_generated: Counts ``[cells]`` or ``[G, cells]``.
        hist_real: Counts of the same shape.

    Returns:
        float64, a scalar or ``[G]``, in [0, 1]; bit by bit what :func:`~m2o_fast.ops.color_recall` gives for whole
        numbers with a product of totals below 2^53.

    Raises:
        TypeError: Not arrays of numbers.
        ValueError: Different shapes, no cells, negative or non-finite counts, or a histogram that counts nothing.
    """
    op = "color_recall_numpy"
    for name, histogram in (("hist_generated", hist_generated), ("hist_real", hist_real)):
        if not isinstance(histogram, np.ndarray) or histogram.dtype.kind not in "iuf":
            raise TypeError(f"{op}: {name} must be an array of counts, got {_describe(histogram)}")
    check_recall_shapes(op, hist_generated.shape, hist_real.shape)
    generated, real = (histogram.astype(np.float64, order="C") for histogram in (hist_generated, hist_real))
    for name, counts in (("hist_generated", generated), ("hist_real", real)):
        valid, something = ((counts >= 0) & np.isfinite(counts)).all(), (counts > 0).any(-1).all()
        check_recall_counts(op, name, bool(valid), bool(something))
    generated, real = _near_one(generated), _near_one(real)
    # The same steps, for the same reasons, as in color_recall.
    generated, real = generated * real.sum(-1, keepdims=True), real * generated.sum(-1, keepdims=True)
    recall: Array = np.minimum(generated, real).sum(-1) / np.maximum(generated.sum(-1), real.sum(-1))
    return recall


def _near_one(counts: Array) -> Array:
    """Counts divided by a power of two, so exactly, that brings the largest into [1, 2)."""
    largest = counts.max(-1, keepdims=True)
    near: Array = counts / (largest / (2 * np.frexp(largest)[0]))
    return near


def unique_color_count_numpy(
    images_or_colors: Array, bits: int = 8, per_image: bool = False, content: Array | None = None
) -> Array:
    """:func:`~m2o_fast.ops.unique_color_count` for numpy arrays.

    Args:
        images_or_colors: Colours ``[N, 3]``, floating point; or images as :func:`foreground_color_numpy` takes them.
        bits: Bits per channel, 1 to 8.
        per_image: ``False`` counts the distinct foreground colours of the whole set, ``True`` (images only) the
            distinct pixel colours inside each image.
        content: Content of the images, only for the count over the set.

    Returns:
        int64: a scalar for the set, ``[N]`` per image.

    Raises:
        TypeError: Wrong dtype, or not an array.
        ValueError: Wrong shape; bits out of range; NaN or infinity; ``per_image`` with colours or with content.
    """
    op = "unique_color_count_numpy"
    bits = check_integer(op, "bits", bits, 1, MAX_BITS)
    if per_image:
        _check_images(op, images_or_colors)
        if content is not None:
            raise ValueError(f"{op}: per_image=True counts pixel colours and takes no content")
        images = _addressable(images_or_colors)
    else:  # the set of colours is one image whose pixels they are
        images = _colors_of(op, images_or_colors, content)[None, None]
    counts: Array = _native().unique_color_count(images, bits)
    return counts if per_image else counts[0]


def _describe(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def _check_dtype(op: str, name: str, values: Any, dtypes: tuple[str, ...] = ("uint8", *_FLOATS)) -> None:
    if not isinstance(values, np.ndarray) or values.dtype.name not in dtypes:
        raise TypeError(f"{op}: {name} must be an array of {', '.join(dtypes)}, got {_describe(values)}")


def _check_images(op: str, images: Any) -> None:
    _check_dtype(op, "images", images)
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"{op}: images must have the shape [N, H, W, 3], got {list(images.shape)}")


def _colors_of(op: str, colors_or_images: Array, content: Array | None) -> Array:
    if isinstance(colors_or_images, np.ndarray) and colors_or_images.ndim == 4:
        return _fit(op, colors_or_images, content)
    _check_dtype(op, "colours", colors_or_images, _FLOATS)
    if colors_or_images.ndim != 2 or colors_or_images.shape[1] != 3:
        raise ValueError(f"{op}: colours must have the shape [N, 3], got {list(colors_or_images.shape)}")
    if content is not None:
        raise ValueError(
            f"{op}: content belongs to images [N, H, W, 3], but got colours {list(colors_or_images.shape)}"
        )
    return _addressable(colors_or_images)


def _is_float64(array: Array) -> bool:
    """In any byte order."""
    return array.dtype.kind == "f" and array.dtype.itemsize == 8


def _addressable(array: Array) -> Array:
    """The array itself, or a copy if its elements are byte-swapped or do not lie at multiples of their size."""
    whole = all(stride % array.itemsize == 0 for stride in array.strides)
    if array.dtype.isnative and array.flags.aligned and whole:
        return array
    return array.astype(array.dtype.newbyteorder("="), copy=True)


def _fractions(values: Array, dtype: Any) -> Array:
    return values.astype(dtype) / dtype(255) if values.dtype == np.uint8 else values.astype(dtype)


def _cells(levels: Array, base: int) -> Array:
    cells: Array = (levels[..., 0] * base + levels[..., 1]) * base + levels[..., 2]
    return cells


def _require_finite(op: str, values: Array) -> None:
    if values.dtype != np.uint8 and not np.isfinite(values).all():
        raise ValueError(f"{op}: every value must be finite, got NaN or infinity")

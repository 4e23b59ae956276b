"""Colours of whole images, as the metrics of colour diversity need them: fit, count, compare.

A colorized image is a content g (how much foreground a pixel has) times a colour c. ``foreground_color`` recovers c,
``color_histogram`` and ``unique_color_count`` describe a set of colours, ``color_recall`` compares two sets. One pass
over the images, exact counts, the same bits in every run and for every number of threads.

Values are fractions in [0, 1], or uint8 standing for ``value / 255``. The same functions for numpy arrays are in
:mod:`m2o_fast.ops.histogram_numpy`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from m2o_fast.ops._color_checks import (
    MAX_BINS,
    MAX_BITS,
    check_colors,
    check_images,
    check_integer,
    check_recall_counts,
    check_recall_shapes,
    check_tensor_groups,
    color_dtype,
    describe,
    fractions,
    match_content,
    refuse_gradient,
    require_finite,
    require_floating,
    require_group_numbers,
)
from m2o_fast.ops._library import (
    NATIVE_MISSING,
    Backend,
    choose_backend,
    declare_backends,
    define,
    recompute_gradients,
    register,
)

for _suffix in ("", "_triton"):
    define(f"foreground_color{_suffix}(Tensor images, Tensor? content) -> Tensor")
    define(f"color_histogram{_suffix}(Tensor colors, int bins, Tensor? groups, int num_groups) -> Tensor")
    define(f"unique_color_count{_suffix}(Tensor images, int bits) -> Tensor")


# --- references: the definitions --------------------------------------------------------------------------------------


def foreground_color_reference(images: Tensor, content: Tensor | None) -> Tensor:
    """The definition of :func:`foreground_color`; images ``[N, 3, H, W]``, content ``[N, H, W]`` of the same dtype."""
    pixels = images.double()  # uint8 needs no division by 255: it cancels in the quotient, and the sums stay exact
    weight = pixels.amax(1) if content is None else content.double()
    square = weight.square().sum((1, 2))
    fitted = (pixels * weight[:, None]).sum((2, 3)) / torch.where(square == 0, 1.0, square)[:, None]
    finite = fitted.isfinite().all(1, keepdim=True)
    return torch.where(finite, fitted.clamp(0, 1), torch.nan).to(color_dtype(images))


def color_histogram_reference(colors: Tensor, bins: int, groups: Tensor | None, num_groups: int) -> Tensor:
    """The definition of :func:`color_histogram`: colours ``[N, 3]``, groups ``[N]`` to ``[num_groups, bins^3]``."""
    require_floating("color_histogram", colors)
    require_finite("color_histogram", colors)
    require_group_numbers("color_histogram", groups, num_groups)
    cells = _cells((colors.double() * bins).clamp(0, bins - 1).long(), bins)
    if groups is not None:
        cells = cells + groups * bins**3
    return torch.bincount(cells, minlength=num_groups * bins**3).view(num_groups, bins**3)


def unique_color_count_reference(images: Tensor, bits: int) -> Tensor:
    """Distinct pixel colours per image, the definition behind :func:`unique_color_count`; images ``[N, 3, H, W]``."""
    codes = _codes("unique_color_count", images, bits).flatten(1).sort(1).values
    if codes.shape[1] == 0:
        return codes.new_zeros(codes.shape[0])
    return (codes[:, 1:] != codes[:, :-1]).sum(1) + 1


def color_codes(colors: Tensor, bits: int = MAX_BITS) -> Tensor:
    """One number for each colour: two colours are the same at ``bits`` bits per channel if their numbers are.

    Args:
        colors: Float ``[N, 3]`` in [0, 1].
        bits: Bits per channel, 1 to 8.

    Returns:
        int64 ``[N]`` in [0, 2^(3 bits)): ``round(value * (2^bits - 1))`` of red, green, blue, red in the highest bits.

    Raises:
        TypeError: Colours are not a floating-point tensor.
        ValueError: A wrong shape, bits out of range, NaN or infinity.
    """
    check_colors("color_codes", colors)
    return _codes("color_codes", colors, check_integer("color_codes", "bits", bits, 1, MAX_BITS))


def _codes(op: str, values: Tensor, bits: int) -> Tensor:
    """Codes of the colours along axis 1."""
    require_finite(op, values)
    top = 2**bits - 1
    return _cells((fractions(values, torch.float64) * top).clamp(0, top).round().long(), top + 1)


def _cells(levels: Tensor, base: int) -> Tensor:
    red, green, blue = levels.unbind(1)
    return (red * base + green) * base + blue


# --- registration -----------------------------------------------------------------------------------------------------


def _save_inputs(ctx: Any, inputs: tuple[Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*(tensor for tensor in inputs if tensor is not None))


def _foreground_color_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
    def color(images: Tensor, content: Tensor | None = None) -> Tensor:
        return foreground_color_reference(images, content)

    inputs = ctx.saved_tensors
    gradients = recompute_gradients(color, inputs, ctx.needs_input_grad[: len(inputs)], gradient)
    return gradients[0], gradients[1] if len(inputs) == 2 else None


def _triton(op: str) -> Callable[..., Tensor]:
    """The launcher of the Triton kernels of ``op``, imported when it is called."""

    def launch(*arguments: Any) -> Tensor:
        result: Tensor = getattr(import_module("m2o_fast.ops.triton.histogram"), op)(*arguments)
        return result

    return launch


#: What :func:`implementation` chooses among, by name.
OPERATORS: dict[str, Callable[..., Tensor]] = {}


def _register(op: str, reference: Callable[..., Tensor], fake: Callable[..., Tensor], **derivative: Any) -> None:
    OPERATORS[op] = register(op, reference=reference, fake=fake, **derivative)
    OPERATORS[f"{op}_triton"] = register(f"{op}_triton", triton=_triton(op), fake=fake, **derivative)
    declare_backends(op)


_register(
    "foreground_color",
    foreground_color_reference,
    fake=lambda images, content: images.new_empty((images.shape[0], 3), dtype=color_dtype(images)),
    backward=_foreground_color_backward,
    setup_context=_save_inputs,
)
_register(
    "color_histogram",
    color_histogram_reference,
    fake=lambda colors, bins, groups, num_groups: colors.new_empty((num_groups, bins**3), dtype=torch.int64),
)
_register(
    "unique_color_count",
    unique_color_count_reference,
    fake=lambda images, bits: images.new_empty((images.shape[0],), dtype=torch.int64),
)


def implementation(
    op: str, reference: Callable[..., Tensor], device: torch.device, backend: str | None, *, reads_values: bool
) -> Callable[..., Tensor]:
    """What computes ``op``: an operator or the reference itself, which forward mode and torch.func see through.

    A reference that reads values (``reads_values``) cannot be traced. Where no kernel stands behind the operator but
    this very reference, torch.compile and meta tensors therefore get the operator.
    """
    chosen = choose_backend(op, device, backend)
    without_values = torch.compiler.is_compiling() or device.type == "meta"
    if chosen == "reference" and not (
        reads_values and without_values and NATIVE_MISSING.get(device.type, "no kernels") is not None
    ):
        return reference
    return OPERATORS[f"{op}_triton" if chosen == "triton" else op]


# --- public functions -------------------------------------------------------------------------------------------------


def foreground_color(images: Tensor, content: Tensor | None = None, *, backend: Backend | None = None) -> Tensor:
    """The one colour c that explains each image best as content times colour: least squares of ``x = g * c``.

    ``c = sum(g * x) / sum(g * g)`` per channel, clamped to [0, 1], summed in float64 (integers are summed exactly).
    Differentiable to any order, by differentiating the reference.

    Args:
        images: ``[N, 3, H, W]``, floating point in [0, 1] or uint8 (standing for ``value / 255``); any strides.
        content: g, the same kinds of dtype, ``[N, 1, H, W]`` or ``[N, H, W]``. Without it g is the maximum over the
            channels of the image itself. The brightness is then normalised away: one channel of every colour is 1.
        backend: ``"reference"``, ``"compiled"`` or ``"triton"``; ``None`` takes the fastest that is there.

    Returns:
        float32 ``[N, 3]`` (float64 for float64 images or content). Black (0, 0, 0) where the content is black all over
        or the image has no pixels; NaN for an image that meets a non-finite value.

    Raises:
        TypeError: Not a tensor, or neither floating point nor uint8.
        ValueError: Wrong shape, or tensors on two devices.
        RuntimeError: The backend is not available.
    """
    return _fit("foreground_color", images, content, backend)


def color_histogram(
    colors_or_images: Tensor,
    bins: int = 4,
    content: Tensor | None = None,
    groups: Tensor | None = None,
    num_groups: int | None = None,
    *,
    backend: Backend | None = None,
) -> Tensor:
    """Joint histogram of colours over ``bins^3`` equal cells of the colour cube; exact.

    A value v falls into bin ``min(int(v * bins), bins - 1)``; values below 0 fall into the first bin. Cell
    ``(r * bins + g) * bins + b`` counts the colours whose red is in bin r, green in bin g and blue in bin b.

    On a GPU the host waits once, to hear whether a colour is not finite or a group number out of range; so a CUDA graph
    cannot capture it.

    Args:
        colors_or_images: Colours ``[N, 3]``, floating point in [0, 1]; or images as :func:`foreground_color` takes
            them, of which the foreground colours are counted.
        bins: Bins per channel, 1 to 256.
        content: Content of the images, see :func:`foreground_color`.
        groups: int64 ``[N]``: the histogram, 0 to ``num_groups - 1``, that each colour belongs to.
        num_groups: Number of histograms; needed with ``groups``.
        backend: ``"reference"``, ``"compiled"`` or ``"triton"``; ``None`` takes the fastest that is there.

    Returns:
        int64 ``[bins^3]``, or ``[num_groups, bins^3]`` with groups.

    Raises:
        TypeError: Wrong dtype, or not a tensor.
        ValueError: Wrong shape; bins out of range; groups without num_groups or the reverse; a group number out of
            range; a colour that is NaN or infinite; tensors on two devices.
        RuntimeError: The input requires a gradient, which a count does not have; or the backend is not available.
    """
    op = "color_histogram"
    refuse_gradient(op, colors_or_images, content)
    bins = check_integer(op, "bins", bins, 1, MAX_BINS)
    colors = colors_of(op, colors_or_images, content, backend)
    number = check_tensor_groups(op, colors, groups, num_groups)
    count = implementation(op, color_histogram_reference, colors.device, backend, reads_values=True)
    counts = count(colors, bins, groups, number)
    return counts[0] if groups is None else counts


def color_recall(hist_generated: Tensor, hist_real: Tensor) -> Tensor:
    """The share of the real colour mass that is generated: the sum over cells of ``min(p_generated, p_real)``.

    The host reads the counts to check them, so it waits for a GPU. torch.compile and meta tensors have no values to
    read: there the counts are not checked, and a histogram that counts nothing gives NaN.

    Args:
        hist_generated: Counts ``[cells]`` or ``[G, cells]``, for instance of :func:`color_histogram`.
        hist_real: Counts of the same shape.

    Returns:
        float64, a scalar or ``[G]``, in [0, 1]: 1 exactly for identical histograms, 0 exactly for histograms without a
        common cell. Proportional ones give 1 up to rounding, and exactly 1 if both are whole numbers and the product of
        their totals is below 2^53.

    Raises:
        TypeError: Not tensors of numbers.
        ValueError: Different shapes or devices, no cells, negative or non-finite counts, or a histogram that counts
            nothing.
    """
    op = "color_recall"
    for name, histogram in (("hist_generated", hist_generated), ("hist_real", hist_real)):
        if not isinstance(histogram, Tensor) or histogram.dtype == torch.bool or histogram.is_complex():
            raise TypeError(f"{op}: {name} must be a tensor of counts, got {describe(histogram)}")
    check_recall_shapes(op, hist_generated.shape, hist_real.shape)
    if hist_generated.device != hist_real.device:
        raise ValueError(f"{op}: hist_generated is on {hist_generated.device} but hist_real is on {hist_real.device}")
    generated, real = hist_generated.double().contiguous(), hist_real.double().contiguous()
    if not torch.compiler.is_compiling() and generated.device.type != "meta":
        for name, counts in (("hist_generated", generated), ("hist_real", real)):
            valid, something = ((counts >= 0) & counts.isfinite()).all(), (counts > 0).any(-1).all()
            check_recall_counts(op, name, bool(valid), bool(something))
    generated, real = _near_one(generated), _near_one(real)
    # Cross-multiplied, so that whole numbers stay what they are: mostly, nothing is rounded before the quotient. Both
    # totals are the same number but for rounding; added up in one order, the minima cannot give more than they.
    generated, real = generated * real.sum(-1, keepdim=True), real * generated.sum(-1, keepdim=True)
    return torch.minimum(generated, real).sum(-1) / torch.maximum(generated.sum(-1), real.sum(-1))


def _near_one(counts: Tensor) -> Tensor:
    """Counts divided by a power of two, so exactly, that brings the largest into [1, 2): no product can overflow."""
    largest = counts.detach().amax(-1, keepdim=True)
    return counts / (largest / (2 * torch.frexp(largest).mantissa))


def unique_color_count(
    images_or_colors: Tensor,
    bits: int = 8,
    per_image: bool = False,
    content: Tensor | None = None,
    *,
    backend: Backend | None = None,
) -> Tensor:
    """How many colours differ when each channel is rounded to ``bits`` bits: ``round(value * (2^bits - 1))``.

    On a GPU the host waits once, to hear whether a value is not finite (not for uint8 pixels, which all are); so a CUDA
    graph cannot capture it.

    Args:
        images_or_colors: Colours ``[N, 3]``, floating point in [0, 1]; or images as :func:`foreground_color` takes
            them.
        bits: Bits per channel, 1 to 8.
        per_image: ``False`` counts the distinct foreground colours of the whole set. ``True`` (images only) counts the
            distinct pixel colours inside each image.
        content: Content of the images, see :func:`foreground_color`; only for the count over the set.
        backend: ``"reference"``, ``"compiled"`` or ``"triton"``; ``None`` takes the fastest that is there.

    Returns:
        int64: a scalar for the set, ``[N]`` per image.

    Raises:
        TypeError: Wrong dtype, or not a tensor.
        ValueError: Wrong shape; bits out of range; NaN or infinity; ``per_image`` with colours or with content.
        RuntimeError: The input requires a gradient, which a count does not have; or the backend is not available.
    """
    op = "unique_color_count"
    refuse_gradient(op, images_or_colors, content)
    bits = check_integer(op, "bits", bits, 1, MAX_BITS)
    if per_image:
        check_images(op, images_or_colors)
        if content is not None:
            raise ValueError(f"{op}: per_image=True counts pixel colours and takes no content")
        images = images_or_colors
    else:  # the set of colours is one image whose pixels they are
        images = colors_of(op, images_or_colors, content, backend).t()[None, :, None, :]
    count = implementation(op, unique_color_count_reference, images.device, backend, reads_values=True)
    counts = count(images, bits)
    return counts if per_image else counts[0]


def colors_of(op: str, colors_or_images: Tensor, content: Tensor | None, backend: Backend | None) -> Tensor:
    """Colours ``[N, 3]`` as they are, or the foreground colours of images."""
    if isinstance(colors_or_images, Tensor) and colors_or_images.dim() == 4:
        return _fit(op, colors_or_images, content, backend)
    check_colors(op, colors_or_images)
    if content is not None:
        raise ValueError(
            f"{op}: content belongs to images [N, 3, H, W], but got colours {list(colors_or_images.shape)}"
        )
    return colors_or_images


def _fit(op: str, images: Tensor, content: Tensor | None, backend: Backend | None) -> Tensor:
    """Foreground colours; errors are those of the public function ``op``."""
    check_images(op, images)
    if content is not None:
        images, content = match_content(op, images, content)
    choose_backend(op, images.device, backend)
    fit = implementation("foreground_color", foreground_color_reference, images.device, backend, reads_values=False)
    return fit(images, content)

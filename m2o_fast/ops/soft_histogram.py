"""A histogram of colours with a derivative: every colour is shared out among the cells around it.

Read from top to bottom: schemas, the reference (it *is* the definition), derivatives, the public function. The counts
that have no derivative, and are exact, are in :mod:`m2o_fast.ops.histogram`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from m2o_fast.ops._color_checks import (
    MAX_BINS,
    check_integer,
    check_tensor_groups,
    color_dtype,
    require_floating,
    require_group_numbers,
)
from m2o_fast.ops._library import Backend, declare_backends, define, needs_torch, recompute_gradients, register
from m2o_fast.ops.histogram import OPERATORS, colors_of, implementation

for _suffix in ("", "_triton"):
    define(f"soft_color_histogram{_suffix}(Tensor colors, int bins, Tensor? groups, int num_groups) -> Tensor")
    define(f"soft_color_histogram{_suffix}_backward(Tensor grad, Tensor colors, int bins, Tensor? groups) -> Tensor")


# --- reference --------------------------------------------------------------------------------------------------------


class _Corners(NamedTuple):
    """The eight cells around each colour; an axis of size 2 for each channel tells the lower bin from the upper one."""

    cells: Tensor  # [N, 2, 2, 2]: where in the histograms
    weights: Tensor  # [N, 3, 2]: of the lower and the upper bin of each channel, float64
    moves: Tensor  # [N, 3]: whether the value is between the outermost centres, so that a change of it shows


def _corners(colors: Tensor, bins: int, groups: Tensor | None) -> _Corners:
    place = colors.double() * bins - 0.5  # the centre of bin i is at i
    position = place.clamp(0, bins - 1)
    lower = position.detach().nan_to_num().floor()
    share = position - lower
    numbers = torch.stack((lower, (lower + 1).clamp(max=bins - 1)), -1).long()
    red, green, blue = numbers.unbind(1)
    cells = (red[:, :, None, None] * bins + green[:, None, :, None]) * bins + blue[:, None, None, :]
    if groups is not None:
        cells = cells + (groups * bins**3)[:, None, None, None]
    return _Corners(cells, torch.stack((1 - share, share), -1), position == place)


def soft_color_histogram_reference(colors: Tensor, bins: int, groups: Tensor | None, num_groups: int) -> Tensor:
    """The definition of :func:`soft_color_histogram`: colours ``[N, 3]`` to ``[num_groups, bins^3]``."""
    require_floating("soft_color_histogram", colors)
    require_group_numbers("soft_color_histogram", groups, num_groups)
    cells, weights, _ = _corners(colors, bins, groups)
    shares = torch.einsum("ni,nj,nk->nijk", *weights.unbind(1))
    counts = shares.new_zeros(num_groups * bins**3).index_add(0, cells.flatten(), shares.flatten())
    # A NaN reaches every cell of its group, as it would in a mean, not only those near its place.
    group = torch.zeros_like(cells[:, 0, 0, 0]) if groups is None else groups
    spoilt = shares.new_zeros(num_groups).index_add(0, group, weights.detach().sum((1, 2)) * 0)
    return (counts.view(num_groups, bins**3) + spoilt[:, None]).to(color_dtype(colors))


def _backward_fallback(grad: Tensor, colors: Tensor, bins: int, groups: Tensor | None) -> Tensor:
    require_group_numbers("soft_color_histogram_backward", groups, grad.shape[0])
    cells, weights, moves = _corners(colors, bins, groups)
    corners = grad.flatten()[cells].double()
    red, green, blue = weights.unbind(1)
    slopes = (
        torch.einsum("njk,nj,nk->n", corners[:, 1] - corners[:, 0], green, blue),
        torch.einsum("nik,ni,nk->n", corners[:, :, 1] - corners[:, :, 0], red, blue),
        torch.einsum("nij,ni,nj->n", corners[..., 1] - corners[..., 0], red, green),
    )
    return torch.where(moves, torch.stack(slopes, 1) * bins, 0).to(colors.dtype)


# --- registration -----------------------------------------------------------------------------------------------------


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    colors, ctx.bins, groups, ctx.num_groups = inputs
    ctx.save_for_backward(colors, groups)


def _backward_through(fused: Callable[..., Tensor]) -> Callable[..., tuple[Tensor | None, ...]]:
    """The derivative of the operator whose backward kernel is ``fused``."""

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        colors, groups = ctx.saved_tensors
        if torch.is_grad_enabled():

            def reference(colors: Tensor) -> Tensor:
                return soft_color_histogram_reference(colors, ctx.bins, groups, ctx.num_groups)

            return recompute_gradients(reference, (colors,), (True,), grad)[0], None, None, None
        function = _backward_fallback if needs_torch() else fused
        return function(grad, colors, ctx.bins, groups), None, None, None

    return backward


def _triton(name: str) -> Callable[..., Tensor]:
    def launch(*arguments: Any) -> Tensor:
        result: Tensor = getattr(import_module("m2o_fast.ops.triton.soft_histogram"), name)(*arguments)
        return result

    return launch


def _forward_fake(colors: Tensor, bins: int, groups: Tensor | None, num_groups: int) -> Tensor:
    return colors.new_empty((num_groups, bins**3), dtype=color_dtype(colors))


def _backward_fake(grad: Tensor, colors: Tensor, bins: int, groups: Tensor | None) -> Tensor:
    return colors.new_empty(colors.shape)


for _name, _forward, _backward in (
    ("soft_color_histogram", {"reference": soft_color_histogram_reference}, {"reference": _backward_fallback}),
    (
        "soft_color_histogram_triton",
        {"triton": _triton("soft_color_histogram")},
        {"triton": _triton("soft_color_histogram_backward")},
    ),
):
    _fused = register(f"{_name}_backward", fake=_backward_fake, **_backward)
    OPERATORS[_name] = register(
        _name, fake=_forward_fake, backward=_backward_through(_fused), setup_context=_setup_context, **_forward
    )
declare_backends("soft_color_histogram")


# --- public function --------------------------------------------------------------------------------------------------


def soft_color_histogram(
    colors_or_images: Tensor,
    bins: int = 4,
    content: Tensor | None = None,
    groups: Tensor | None = None,
    num_groups: int | None = None,
    *,
    backend: Backend | None = None,
) -> Tensor:
    """Joint histogram of colours with linear weights, differentiable in the colours: for losses on their distribution.

    The histogram of :func:`color_histogram` with a triangle in place of the box (trilinear weights, also called Parzen
    windows of first order): along each channel bin i has its centre at ``(i + 1/2) / bins``, and a value between two
    centres is shared between the two bins in proportion to its nearness; a colour gives each of the eight cells around
    it the product of three such shares. So a colour at the centre of a cell counts 1 there and 0 elsewhere, the cell
    that the hard histogram counts gets at least 1/8, and every colour counts 1 in all: a histogram sums to its number
    of colours. Values beyond the outermost centres (also those outside [0, 1], and infinite ones) belong to the
    outermost bin alone, and their derivative is 0. A NaN makes the histogram of its group NaN.

    Differentiable any number of times; piecewise linear in each channel, so at a centre the derivative is the one
    towards the next bin. Weights are computed in float64. The kernels add them up as whole numbers of 2^-s, with s = 62
    minus the bit length of N: no order of the sum, so the same bits in every run and for every number of threads; the
    error of a cell is below N^2 / 2^59. Devices agree on the bits as well, but for float64 colours where bins is not a
    power of two: there a GPU may round a weight once less.

    With groups, on a GPU, the host waits once to hear whether a group number is out of range, and a CUDA graph cannot
    capture the call; without groups it can.

    Args:
        colors_or_images: Colours ``[N, 3]``, floating point in [0, 1], any strides; or images as
            :func:`foreground_color` takes them, of which the foreground colours are counted.
        bins: Bins per channel, 1 to 256.
        content: Content of the images, see :func:`foreground_color`.
        groups: int64 ``[N]``: the histogram, 0 to ``num_groups - 1``, that each colour belongs to.
        num_groups: Number of histograms; needed with ``groups``.
        backend: ``"reference"``, ``"compiled"`` or ``"triton"``; ``None`` takes the fastest that is there.

    Returns:
        float32 (float64 for float64 colours) ``[bins^3]``, or ``[num_groups, bins^3]`` with groups; the cells are
        ordered as in :func:`color_histogram`.

    Raises:
        TypeError: Wrong dtype, or not a tensor.
        ValueError: Wrong shape; bins out of range; groups without num_groups or the reverse; a group number out of
            range; tensors on two devices.
        RuntimeError: The backend is not available.
    """
    op = "soft_color_histogram"
    bins = check_integer(op, "bins", bins, 1, MAX_BINS)
    colors = colors_of(op, colors_or_images, content, backend)
    number = check_tensor_groups(op, colors, groups, num_groups)
    reads_values = groups is not None
    count = implementation(op, soft_color_histogram_reference, colors.device, backend, reads_values=reads_values)
    counts = count(colors, bins, groups, number)
    return counts[0] if groups is None else counts

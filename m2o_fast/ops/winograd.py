"""3x3 convolutions with 4 times fewer multiplications: Winograd's F(4x4, 3x3), arXiv 1509.09308.

A tile of 4x4 outputs depends on 6x6 inputs. Linear maps take inputs and kernel to 36 frequencies each, where the
convolution is one product of matrices (channels by channels) per frequency; another map takes that to the outputs. It
is exact algebra, other rounding: interpolation at 0, +-3/4, +-3/2 and infinity keeps the error about twice that of
torch's convolution in float32 (with the usual 0, +-1, +-2 it is 4 times as large). The derivatives by input and by
weight are the transposed maps, so they need as few multiplications. On a CPU, channels_last, channels in sixteens.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.ops._library import define, in_format, register

TILE, PATCH = 4, 6

define("winograd_convolve(Tensor x, Tensor kernel, Tensor? bias) -> Tensor")  # kernel: frequencies [36, Ci, Co]
define("winograd_by_weight(Tensor grad, Tensor x) -> Tensor")  # frequencies [36, Co, Ci]

# --- references -------------------------------------------------------------------------------------------------------

_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)


def _others(index: int) -> list[float]:
    return [point for at, point in enumerate(_POINTS) if at != index]


def _monomial(roots: list[float]) -> list[float]:
    """Coefficients of the product of all (x - root), the constant first."""
    coefficients = [1.0]
    for root in roots:
        shifted = [0.0, *coefficients]
        coefficients = [high - root * low for high, low in zip(shifted, [*coefficients, 0.0], strict=True)]
    return coefficients


#: [6, 6]: inputs to frequencies; [6, 3]: kernel to frequencies; [4, 6]: frequencies to outputs. Toom and Cook's.
INPUT = [[*_monomial(_others(at)), 0.0] for at in range(5)] + [_monomial(list(_POINTS))]
KERNEL = [[point**k / math.prod(point - other for other in _others(at)) for k in range(3)]
          for at, point in enumerate(_POINTS)] + [[0.0, 0.0, 1.0]]  # fmt: skip
OUTPUT = [[point**k for point in _POINTS] + [float(k == TILE - 1)] for k in range(TILE)]


def _constant(matrix: list[list[float]], like: Tensor) -> Tensor:
    return torch.tensor(matrix, dtype=like.dtype, device=like.device)  # new_tensor refuses negative views


def _tile_count(x: Tensor) -> tuple[int, int]:
    return -(-x.shape[2] // TILE), -(-x.shape[3] // TILE)


def _to_frequencies(squares: Tensor, matrix: list[list[float]]) -> Tensor:
    """``[N, C, rows, columns, k, k]`` to ``[36, tiles, C]``."""
    transform = _constant(matrix, squares)
    found = torch.einsum("iy,jx,ncabyx->ijnabc", transform, transform, squares)
    return found.reshape(PATCH * PATCH, -1, squares.shape[1]).contiguous()


def _input_reference(x: Tensor) -> Tensor:
    rows, columns = _tile_count(x)
    padded = F.pad(x, (1, TILE * columns - x.shape[3] + 1, 1, TILE * rows - x.shape[2] + 1))
    return _to_frequencies(padded.unfold(2, PATCH, TILE).unfold(3, PATCH, TILE), INPUT)


def _output_adjoint_reference(x: Tensor) -> Tensor:
    rows, columns = _tile_count(x)
    padded = F.pad(x, (0, TILE * columns - x.shape[3], 0, TILE * rows - x.shape[2]))
    transposed = [list(column) for column in zip(*OUTPUT, strict=True)]
    return _to_frequencies(padded.unfold(2, TILE, TILE).unfold(3, TILE, TILE), transposed)


def _convolve_reference(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    rows, columns = _tile_count(x)
    transform, channels = _constant(OUTPUT, x), kernel.shape[2]
    squares = (_input_reference(x) @ kernel).view(PATCH, PATCH, -1, rows, columns, channels)
    y = torch.einsum("yi,xj,ijnabc->ncaybx", transform, transform, squares)
    y = y.reshape(-1, channels, TILE * rows, TILE * columns)[:, :, : x.shape[2], : x.shape[3]]
    return in_format(y if bias is None else y + bias[:, None, None], torch.channels_last)


def _by_weight_reference(grad: Tensor, x: Tensor) -> Tensor:
    return _output_adjoint_reference(grad).transpose(1, 2) @ _input_reference(x)


# --- fakes and registration -------------------------------------------------------------------------------------------


def _convolve_fake(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    size = (x.shape[0], kernel.shape[2], *x.shape[2:])
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _by_weight_fake(grad: Tensor, x: Tensor) -> Tensor:
    return x.new_empty((PATCH * PATCH, grad.shape[1], x.shape[1]))


register("winograd_convolve", fake=_convolve_fake, reference=_convolve_reference)
register("winograd_by_weight", fake=_by_weight_fake, reference=_by_weight_reference)


# --- the convolution and its derivatives; m2o_fast.ops.convolution makes them differentiable --------------------------


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``conv2d(x, weight, bias, padding=1)`` for a 3x3 weight; channels_last, float32 or float64, no gradient."""
    kernel = _kernel_frequencies(weight.transpose(0, 1), flipped=False)
    return torch.ops.m2o_fast.winograd_convolve.default(x, kernel, bias)


def by_input(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient by x: a convolution with the weight turned by 180 degrees, from outputs to inputs."""
    return torch.ops.m2o_fast.winograd_convolve.default(grad, _kernel_frequencies(weight, flipped=True), None)


def by_weight(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient by weight ``[Co, Ci, 3, 3]``."""
    frequencies = torch.ops.m2o_fast.winograd_by_weight.default(grad, x)
    taps = _kernel_map(x).T @ frequencies.reshape(PATCH * PATCH, -1)  # flatten knows no batched gradients
    return taps.T.reshape(*frequencies.shape[1:], 3, 3)


def _kernel_map(like: Tensor) -> Tensor:
    """``[36, 9]``: a kernel to its frequencies."""
    rows = _constant(KERNEL, like)
    return torch.kron(rows, rows)


def _kernel_frequencies(weight: Tensor, *, flipped: bool) -> Tensor:
    """``[A, B, 3, 3]`` to ``[36, A, B]``; flipped: of the kernel turned by 180 degrees."""
    maps, taps = _kernel_map(weight), weight.reshape(-1, 9)
    return ((maps.flip(1) if flipped else maps) @ taps.T).view(PATCH * PATCH, *weight.shape[:2])

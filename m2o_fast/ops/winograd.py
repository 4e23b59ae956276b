"""3x3 convolutions with 4 times fewer multiplications: Winograd's F(4x4, 3x3), arXiv 1509.09308.

A tile of 4x4 outputs depends on 6x6 inputs. Linear maps take inputs and kernel to 36 frequencies each, where the
convolution is one product of matrices (channels by channels) per frequency; another map takes that to the outputs. It
is exact algebra, other rounding: interpolation at 0, +-3/4, +-3/2 and infinity keeps the error in float32 about twice
that of a sum taken product by product (with the usual 0, +-1, +-2 it is 4 times as large). The derivatives by input and
by weight are the transposed maps, so they need as few multiplications. On a CPU, for channels in sixteens.

Around the images are zeros or, `reflected`, their own mirror image, one pixel wide, which is read in place. What is
behind such a border is read twice, so the derivative by input is not a convolution over zeros; it adds the tiles of
6x6 inputs, which overlap, where they came from.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.ops._formats import in_format, output_format
from m2o_fast.ops._library import define, register

TILE, PATCH = 4, 6

# transposed: from outputs to inputs, the derivative by input; that of a convolution of reflected images, if reflected
define("winograd_convolve(Tensor x, Tensor weight, Tensor? bias, bool transposed, bool reflected) -> Tensor")
define("winograd_by_weight(Tensor grad, Tensor x, bool reflected, bool channels_last=False) -> Tensor")

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


def _input_reference(x: Tensor, *, reflected: bool) -> Tensor:
    rows, columns = _tile_count(x)
    framed = F.pad(x, (1,) * 4, mode="reflect" if reflected else "constant")
    padded = F.pad(framed, (0, TILE * columns - x.shape[3], 0, TILE * rows - x.shape[2]))
    return _to_frequencies(padded.unfold(2, PATCH, TILE).unfold(3, PATCH, TILE), INPUT)


def _output_adjoint_reference(x: Tensor) -> Tensor:
    rows, columns = _tile_count(x)
    padded = F.pad(x, (0, TILE * columns - x.shape[3], 0, TILE * rows - x.shape[2]))
    transposed = [list(column) for column in zip(*OUTPUT, strict=True)]
    return _to_frequencies(padded.unfold(2, TILE, TILE).unfold(3, TILE, TILE), transposed)


def _kernel_map(like: Tensor) -> Tensor:
    """``[36, 9]``: a kernel to its frequencies."""
    rows = _constant(KERNEL, like)
    return torch.kron(rows, rows)


def _kernel_frequencies(weight: Tensor, *, transposed: bool) -> Tensor:
    """``[Co, Ci, 3, 3]`` to ``[36, Ci, Co]``; transposed: of the weight turned by 180 degrees, to ``[36, Co, Ci]``."""
    weight = weight.flip(2, 3) if transposed else weight.transpose(0, 1)
    return (_kernel_map(weight) @ weight.reshape(-1, 9).T).view(PATCH * PATCH, *weight.shape[:2])


def _convolve_reference(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, reflected: bool) -> Tensor:
    if transposed and reflected:  # by the image with its border, and that to where it came from
        framed = _convolve_reference(F.pad(x, (1,) * 4), weight, bias, True, False)
        size = _convolve_fake(x, weight, bias, True, True)
        folded = torch.ops.aten.reflection_pad2d_backward.default(framed, size, (1,) * 4)
        return in_format(folded, output_format(x))
    rows, columns = _tile_count(x)
    transform, kernel = _constant(OUTPUT, x), _kernel_frequencies(weight, transposed=transposed)
    squares = (_input_reference(x, reflected=reflected) @ kernel).view(PATCH, PATCH, -1, rows, columns, kernel.shape[2])
    y = torch.einsum("yi,xj,ijnabc->ncaybx", transform, transform, squares)
    y = y.reshape(-1, kernel.shape[2], TILE * rows, TILE * columns)[:, :, : x.shape[2], : x.shape[3]]
    return in_format(y if bias is None else y + bias[:, None, None], output_format(x))


def _weight_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _by_weight_reference(grad: Tensor, x: Tensor, reflected: bool, channels_last: bool = False) -> Tensor:
    frequencies = _output_adjoint_reference(grad).transpose(1, 2) @ _input_reference(x, reflected=reflected)
    taps = _kernel_map(x).T @ frequencies.flatten(1)
    taps = taps.T.reshape(*frequencies.shape[1:], 3, 3)
    return in_format(taps, _weight_format(channels_last))


# --- fakes and registration -------------------------------------------------------------------------------------------


def _convolve_fake(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, reflected: bool) -> Tensor:
    size = (x.shape[0], weight.shape[1 if transposed else 0], *x.shape[2:])
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=output_format(x))


def _by_weight_fake(grad: Tensor, x: Tensor, reflected: bool, channels_last: bool = False) -> Tensor:
    size = (grad.shape[1], x.shape[1], 3, 3)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=_weight_format(channels_last))


_convolve_operator = register("winograd_convolve", fake=_convolve_fake, reference=_convolve_reference)
_by_weight_operator = register("winograd_by_weight", fake=_by_weight_fake, reference=_by_weight_reference)


# --- the convolution and its derivatives; m2o_fast.ops.convolution makes them differentiable --------------------------


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *, reflected: bool = False) -> Tensor:
    """``conv2d(x, weight, bias, padding=1)`` for a 3x3 weight; float32 or float64, in the format of x, no gradient.

    Reflected: of ``pad(x, 1, mode="reflect")`` without padding; height and width are at least 2 then.
    """
    found: Tensor = _convolve_operator(x, weight, bias, False, reflected)
    return found


def by_input(grad: Tensor, weight: Tensor, *, reflected: bool = False) -> Tensor:
    """The gradient by x, in the format of ``grad``."""
    found: Tensor = _convolve_operator(grad, weight, None, True, reflected)
    return found


def by_weight(grad: Tensor, x: Tensor, *, reflected: bool = False, channels_last: bool = False) -> Tensor:
    """The gradient by weight ``[Co, Ci, 3, 3]``, contiguous or channels_last, as the weight is."""
    found: Tensor = _by_weight_operator(grad, x, reflected, channels_last)
    return found

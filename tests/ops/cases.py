"""Inputs on which normalisation kernels break, each with its reason, and the rule by which results are judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from m2o_fast.ops._library import NATIVE_MISSING, choose_backend

Target = tuple[str, torch.device]

#: Backends and devices that operators on images are tried on.
TARGETS = [("reference", "cpu"), ("compiled", "cpu"), ("triton", "cpu"), ("compiled", "cuda"), ("triton", "cuda")]

#: Triton without a GPU. It is slow: runs fewer and smaller cases; test_*_triton.py have more.
INTERPRETER = ("triton", torch.device("cpu"))
#: Whether the interpreter runs all cases of a test.
THOROUGH = pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.slow)])


def is_reduced(target: Target, thorough: bool) -> bool:
    """Whether a test marked with ``THOROUGH`` runs fewer cases; skips what other targets have run already."""
    if thorough and target != INTERPRETER:
        pytest.skip("all cases run without it")
    return target == INTERPRETER and not thorough


#: Marks tests of the C++ kernels.
needs_native = pytest.mark.skipif(NATIVE_MISSING["cpu"] is not None, reason=f"no native code: {NATIVE_MISSING['cpu']}")


def available(op: str, backend: str, device: str) -> Target:
    """A backend and the device to run it on; skips where there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    try:
        choose_backend(op, torch.device(device), backend)
    except RuntimeError as error:
        pytest.skip(str(error))
    return backend, torch.device(device)


def _plain(x: Tensor) -> Tensor:
    return x


def _channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


def _sliced(x: Tensor) -> Tensor:
    """The same numbers as a slice of a larger contiguous tensor."""
    n, c, h, w = x.shape
    larger = x.new_full((n + 1, c + 2, h + 3, 2 * w + 1), float("nan"))
    view = larger[1:, 1 : c + 1, 2 : h + 2, 1::2]
    view.copy_(x)
    return view


def _sliced_channels_last(x: Tensor) -> Tensor:
    """The same numbers as a slice of a larger channels_last tensor."""
    n, c, h, w = x.shape
    larger = x.new_full((n, c + 3, h + 2, w + 2), float("nan")).to(memory_format=torch.channels_last)
    view = larger[:, 2 : c + 2, 1 : h + 1, 1 : w + 1]
    view.copy_(x)
    return view


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(2, 3).contiguous().transpose(2, 3)


def _expanded(x: Tensor) -> Tensor:
    """One sample, repeated without memory of its own. Not the same numbers."""
    return x[:1].expand_as(x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": _plain,
    "channels_last": _channels_last,
    "sliced": _sliced,
    "sliced_channels_last": _sliced_channels_last,
    "transposed": _transposed,
    "expanded": _expanded,
}

#: For torch.library.opcheck, which takes up to a second; what kernels make of strides, other tests say.
FEW_LAYOUTS = [
    layout if layout == "sliced_channels_last" else pytest.param(layout, marks=pytest.mark.slow) for layout in LAYOUTS
]

SHAPES: dict[str, tuple[int, int, int, int]] = {
    "one pixel": (3, 5, 1, 1),
    "fewer numbers than lanes": (2, 3, 1, 5),
    "odd": (2, 7, 9, 11),
    "a whole number of tiles": (2, 32, 8, 8),
    "a tile, a vector and a rest": (1, 43, 5, 6),
    "one row": (2, 4, 1, 37),
    "one sample, one channel": (1, 1, 16, 16),
    "more than one block": (1, 2, 70, 67),
    "more rows than a block of them": (2, 9, 9, 16),
}

EMPTY_SHAPES = [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0), (0, 0, 0, 0)]


def _step(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """The mean so far is a bad guess for the second half."""
    second_half = torch.arange(shape[2]) >= (shape[2] + 1) // 2
    return 50 * second_half.double()[:, None].expand(shape) + 1e-3 * _normal(shape, generator)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _flat_with_spots(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    x = torch.zeros(shape, dtype=torch.float64)
    x[:, ::2] = 0.7
    x[..., :1] += (torch.rand(shape[:3], generator=generator, dtype=torch.float64) > 0.8)[..., None]
    return x


CONTENTS: dict[str, Callable[[tuple[int, ...], torch.Generator], Tensor]] = {
    "normal": _normal,
    "far from zero": lambda shape, generator: 1e4 + _normal(shape, generator),
    "flat": lambda shape, generator: torch.full(shape, 0.3, dtype=torch.float64),
    "flat with spots": _flat_with_spots,
    "a step": _step,
    "tiny": lambda shape, generator: 1e-6 * _normal(shape, generator),
}


@dataclass(frozen=True)
class Judgement:
    """Errors of a kernel and of torch in the same dtype, both against float64."""

    kernel: float
    torch: float
    scale: float

    def assert_good(self, what: str, eps: float, condition: float = 1) -> None:
        """At most twice as wrong as torch, or right to a few last places (``eps``) of the largest number.

        ``condition`` is the factor by which the problem itself enlarges a rounding error of its input.
        """
        tiny = 4 * eps * condition * self.scale
        assert self.kernel <= 2 * self.torch + tiny, f"{what}: error {self.kernel:.3g}, torch {self.torch:.3g}"


def judge(kernel: Tensor, torch_result: Tensor, exact: Tensor) -> Judgement:
    """Largest errors. NaN and infinity have to stand in the same places."""
    kernel, torch_result, exact = kernel.double().cpu(), torch_result.double().cpu(), exact.double().cpu()
    finite = exact.isfinite() & torch_result.isfinite()
    assert torch.equal(kernel.isfinite(), finite), "kernel and torch disagree on what is finite"
    if not finite.any():
        return Judgement(0.0, 0.0, 0.0)
    error = (kernel - exact)[finite].abs().max().item()
    return Judgement(error, (torch_result - exact)[finite].abs().max().item(), exact[finite].abs().max().item())


def assert_compiled_is_the_same(function: Callable[..., Tensor], cases: Sequence[Sequence[Tensor]]) -> None:
    """Results, gradients and strides of a function and of what torch.compile makes of it, one graph for all sizes."""
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for inputs in cases:
        results = []
        for version in (function, compiled):
            leaves = [tensor.detach().requires_grad_() for tensor in inputs]
            y = version(*leaves)
            results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
        torch.testing.assert_close(results[1], results[0])
        assert results[1][0].stride() == results[0][0].stride()

"""Every compiled kernel a few times, on small tensors of awkward shapes: for tools that make a run far slower.

compute-sanitizer --tool memcheck python benchmarks/short_op_run.py

Runs on the GPU if there is one, else on the CPU. Results are compared with the reference's, but loosely. Prints each
call before it is made, so that one which ends the process is the last line. With --seconds, the exit code is 124 if
there was no time for all.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator

BEGIN = time.monotonic()  # torch takes long to import

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from m2o_fast import ops  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
#: Planes of one number, odd ones, ones that a few lanes, a block, a cluster of blocks hold, and ones that none does.
SIZES = [(3, 5, 1, 1), (2, 7, 5, 3), (2, 16, 8, 8), (3, 8, 34, 32), (1, 4, 128, 128), (1, 2, 512, 514)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
FORMATS = [torch.contiguous_format, torch.channels_last]

#: Operators that have no gradient.
COUNTS = ("color_histogram", "unique_color_count")

Case = tuple[str, Callable[..., Tensor], list[Tensor]]


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype).to(DEVICE)


def image_cases(shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> Iterator[Case]:
    n, c, h, w = shape

    def images(height: int, width: int) -> Tensor:
        return normal(n, c, height, width, dtype=dtype).contiguous(memory_format=memory_format)

    per_plane = [normal(n, c), normal(n, c)]
    for resample in (None, "up2", "down2") if h % 2 == 0 and w % 2 == 0 else (None, "up2"):
        name = f"adain_act {resample}"
        yield name, lambda *tensors, r=resample: ops.adain_act(*tensors, resample=r), [images(h, w), *per_plane]
        size = {None: (h, w), "up2": (2 * h, 2 * w), "down2": (h // 2, w // 2)}[resample]
        merge = (lambda b, a, r=resample: ops.residual_merge(a, b, resample_b=r)), [images(h, w), images(*size)]
        yield f"residual_merge {resample}", *merge
    yield "leaky_relu_down2", ops.leaky_relu_down2, [images(2 * h, 2 * w)]
    yield "scale_bias_act", ops.scale_bias_act, [images(h, w), per_plane[0], normal(c), per_plane[1]]
    yield "scale_channels", ops.scale_channels, [images(h, w), per_plane[0]]


def color_cases(dtype: torch.dtype) -> Iterator[Case]:
    for count, height, width in ((1, 1, 1), (5, 7, 3), (70, 32, 32)):
        images = torch.rand(count, 3, height, width, dtype=torch.float64)
        images = (images * 255).byte() if dtype == torch.uint8 else images.to(dtype)
        images = images.to(DEVICE)
        groups = torch.arange(count, device=DEVICE) % 2
        yield "foreground_color", ops.foreground_color, [images]
        yield "unique_color_count", lambda x: ops.unique_color_count(x, bits=5, per_image=True), [images]
        colors = torch.rand(count, 3, device=DEVICE)
        yield "color_histogram", lambda x, g: ops.color_histogram(x, 4, groups=g, num_groups=2), [colors, groups]
    colors = torch.rand(500, 3, device=DEVICE)
    yield "soft_color_histogram", lambda x: ops.soft_color_histogram(x, 4), [colors]


def outcome(name: str, function: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """The result and, of operators that have them, the gradients."""
    if name in COUNTS or not tensors[0].is_floating_point():
        return [function(*tensors)]
    inputs = [tensor.detach().requires_grad_() for tensor in tensors]
    result = function(*inputs)
    along = torch.linspace(-1, 1, result.numel(), dtype=torch.float64, device=DEVICE).reshape(result.shape)
    return [result.detach(), *torch.autograd.grad(result, inputs, along.to(result.dtype))]


def compare(name: str, results: list[Tensor], expected: list[Tensor]) -> None:
    for got, wanted in zip(results, expected, strict=True):
        error = (got.double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1)
        if not error <= 0.05:
            raise SystemExit(f"{name}: relative error {error:.3g} against the reference")


def all_cases(few: bool) -> Iterator[Case]:
    """Every kernel early: colours first, then every size in float32, then in the other types."""
    yield from itertools.chain(color_cases(torch.float32), color_cases(torch.uint8))
    sizes, dtypes = (SIZES[:1], DTYPES[:1]) if few else (SIZES, DTYPES)
    for dtype, shape, memory_format in itertools.product(dtypes, sizes, FORMATS):
        if shape in SIZES[:3] or dtype in DTYPES[:2]:
            yield from image_cases(shape, dtype, memory_format)


def main() -> None:
    """Runs everything; exits with a message at the first result that is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no call after these, imports included"
    )
    parser.add_argument("--few", action="store_true", help="only the smallest images, in float32")
    options = parser.parse_args()
    torch.manual_seed(0)
    count = every = 0
    for name, function, tensors in all_cases(options.few):
        every += 1
        if time.monotonic() - BEGIN > options.seconds:
            continue
        words = f"{name} {[list(t.shape) for t in tensors]} {tensors[0].dtype} {tensors[0].stride()}"
        print(words, flush=True)
        with ops.use_backend("compiled"):
            results = outcome(name, function, tensors)
        with ops.use_backend("reference"):
            expected = outcome(name, function, tensors)
        compare(words, results, expected)
        count += 1
    print(f"{count} of {every} calls on {DEVICE} made, all as the reference")
    if count < every:
        sys.exit(124)


if __name__ == "__main__":
    main()

"""Images and conditions that the tests of the histogram operators for torch and for numpy share."""

from collections.abc import Callable

import torch
from cases import TARGETS, available
from torch import Tensor

DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(5, 3, 32, 32), (7, 3, 13, 17), (3, 3, 40, 90), (2, 3, 1, 1), (4, 3, 1, 5), (3, 3, 0, 5), (0, 3, 4, 4)]


def make_images(shape, dtype=torch.float32, seed=0):
    """Images and content with noise, so that the fit is not exact; uint8 uses the whole range."""
    generator = torch.Generator().manual_seed(seed)
    count, _, height, width = shape
    content = torch.rand(count, 1, height, width, generator=generator)
    images = content * torch.rand(count, 3, 1, 1, generator=generator)
    images = (images + 0.2 * torch.rand(shape, generator=generator)).clamp(0, 1)
    if dtype == torch.uint8:
        return (images * 255).round().to(dtype), (content * 255).round().to(dtype)
    return images.to(dtype), content.to(dtype)


TARGET_NAMES = ["-".join(target) for target in TARGETS]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor there, with its strides: ``Tensor.to`` would close the gaps."""
    if device.type == "cpu" or tensor.requires_grad or 0 in tensor.stride():
        return tensor.to(device)
    there = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return there.copy_(tensor)


def runner(op: str, backend: str, device: str) -> Callable[..., Tensor]:
    """``run(function, *arguments, **options)`` on a backend and device; takes CPU tensors and returns one. Or skips."""
    place = available(op, backend, device)[1]

    def move(value):
        return to_device(value, place) if isinstance(value, Tensor) and value.device.type == "cpu" else value

    def run(function, *arguments, **options):
        options = {name: move(value) for name, value in options.items()}
        return function(*map(move, arguments), **options, backend=backend).cpu()

    return run

"""Nets without memory, built to see how large they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def memoryless() -> Iterator[None]:
    """Tensors that are made within are on ``meta``, and draw no numbers."""
    with torch.device("meta"), _NoNumbers():
        yield


class _NoNumbers(TorchFunctionMode):
    """On ``meta``, ``normal_`` does nothing but load torch's compiler, which takes seconds."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__.endswith("normal_"):  # of a tensor, or one of torch.nn.init
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)

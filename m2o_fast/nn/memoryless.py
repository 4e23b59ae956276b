"""Nets without memory, built to see how large they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

#: calls of torch within which nets must be built: those of 256 pixels take 300 to 3,000, a hostile description millions
MOST_CALLS = 30_000


@contextmanager
def memoryless() -> Iterator[None]:
    """Tensors that are made within are on ``meta``, and draw no numbers.

    Raises:
        ValueError: Within, where the nets have far more layers than nets have.
    """
    learns = torch.is_grad_enabled()
    try:
        with torch.device("meta"), _NoNumbers():
            yield
    finally:
        torch.set_grad_enabled(learns)  # a refusal within no_grad refuses the call that would end it, too


class _NoNumbers(TorchFunctionMode):
    """On ``meta``, ``normal_`` does nothing but load torch's compiler, which takes seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self._calls += 1
        if self._calls > MOST_CALLS:
            raise ValueError("nets of so many layers, blocks or domains are refused; take fewer")
        if func.__name__.endswith("normal_"):  # of a tensor, or one of torch.nn.init
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)

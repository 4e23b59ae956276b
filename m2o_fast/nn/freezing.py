"""Nets that a loss goes through without training them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Gradients flow through ``net`` but not into it, and what only its own gradients would need is not kept."""
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in net.parameters():
            parameter.requires_grad_(True)

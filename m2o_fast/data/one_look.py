"""Folders and files that are looked at once, though several ask: a start opens two splits, and each asks for both."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

_seen: ContextVar[dict[Hashable, Any] | None] = ContextVar("_seen", default=None)

T = TypeVar("T")


@contextmanager
def one_look() -> Iterator[None]:
    """Within the ``with`` block, data is as it was when it was looked at first; changes show after it."""
    token = _seen.set({})
    try:
        yield
    finally:
        _seen.reset(token)


def looked(key: Hashable, look: Callable[[], T]) -> T:
    """What ``look`` finds, or found before within :func:`one_look` under the same key."""
    seen = _seen.get()
    if seen is None:
        return look()
    if key not in seen:
        seen[key] = look()
    found: T = seen[key]
    return found

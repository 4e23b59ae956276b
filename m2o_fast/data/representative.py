"""Which images stand for all of them where only some are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from m2o_fast.randomness import numpy_generator

T = TypeVar("T")

_SEED = 2024  # the same for all runs, so that those of several seeds show the same images side by side


def representative(contents: Tensor, count: int, purpose: str) -> list[int]:
    """A fixed choice of images, spread over all and of as many contents as possible.

    The images stand in the order of their contents, which is mostly that of file names, and are cut into as many
    stretches of equal length as are wanted: each gives one. Where there are fewer contents than that, all of them are
    chosen, and the others come from second looks, then third ones.

    Args:
        contents: int64 ``[n]``: a number for what each image shows, the same where two show the same.
        count: How many are wanted.
        purpose: What the choice depends on beside ``contents`` and ``count``, a domain say.

    Returns:
        ``min(n, count)`` different image numbers.
    """
    generator = numpy_generator(_SEED, f"representative/{purpose}", len(contents))
    groups = contents.numpy()
    shuffled = generator.permutation(len(groups))
    by_content = shuffled[np.argsort(groups[shuffled], kind="stable")]  # looks of one content in a random order
    starts = np.flatnonzero(np.diff(groups[by_content], prepend=np.nan))
    turns = np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
    chosen: list[int] = []
    for turn in range(int(turns.max(initial=-1)) + 1):
        candidates = by_content[turns == turn]
        wanted = min(count - len(chosen), len(candidates))
        borders = np.arange(wanted + 1) * len(candidates) // max(wanted, 1)
        chosen += candidates[generator.integers(borders[:-1], borders[1:])].tolist() if wanted else []
    return chosen


def some_of(things: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of some things, spread over all of them, in their order."""
    return [things[number] for number in representative(torch.arange(len(things)), count, "things")]

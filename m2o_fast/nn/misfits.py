"""Whether tensors from a file are those of a net."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_NAMED = 12


def misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What is missing from ``given``, superfluous, or of another shape than in ``wanted``.

    Args:
        wanted: State dict of the net.
        given: State dict from the file.

    Returns:
        The first twelve, in words, and how many there are beyond them; empty if all fit.
    """
    problems = [f"missing {name}" for name in wanted if name not in given]
    problems += [f"superfluous {name}" for name in given if name not in wanted]
    problems += [
        f"{name} is {list(tensor.shape)} instead of {list(wanted[name].shape)}"
        for name, tensor in given.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return "; ".join(problems[:_NAMED]) + more

"""Whether tensors from a file are those of a net."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_NAMED, _LONGEST = 12, 100


def shortened(name: str) -> str:
    """A name from a file, which may be of any length."""
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."


def misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What is missing from ``given``, superfluous, of another shape than in ``wanted``, or no finite number.

    Args:
        wanted: State dict of the net.
        given: State dict from the file.

    Returns:
        The first twelve, in words, and how many there are beyond them; empty if all fit.
    """
    problems = [f"missing {name}" for name in wanted if name not in given]
    problems += [f"superfluous {name}" for name in given if name not in wanted]
    problems += [
        f"{name} {problem}" for name in wanted if name in given if (problem := misfit(wanted[name], given[name]))
    ]
    more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return "; ".join(map(shortened, problems[:_NAMED])) + more


def misfit(wanted: Tensor, given: Tensor) -> str:
    """Why one tensor from a file is not that of a net, as the end of a sentence that begins with its name; or empty."""
    if given.shape != wanted.shape:
        return f"is {list(given.shape)} instead of {list(wanted.shape)}"
    if given.is_floating_point() != wanted.is_floating_point() or given.is_complex():
        return f"holds {given.dtype} instead of {wanted.dtype}"
    return "" if given.isfinite().all() else "has numbers that are not finite"

"""Whom a data folder is for: what the check of it has to know of a system, which it does not name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from m2o_fast.m2o import PAIRED, UNPAIRED

_SMALLEST_SIZE = 32


def _power_of_two(side: int) -> int:
    return max(_SMALLEST_SIZE, 1 << (side.bit_length() - 1))


@dataclass(frozen=True)
class Learner:
    """What system the command to train with is for; without one, any: all take powers of two from 32 on.

    Attributes:
        name: The system; ``None``: the default one.
        variants: Those that it has.
        two_domains: Whether it is for two domains and no more.
        size: A good image size up to a side length.
    """

    name: str | None = None
    variants: Collection[str] = (UNPAIRED, PAIRED)
    two_domains: bool = False
    size: Callable[[int], int] = _power_of_two

    def options(self) -> list[str]:
        """What names it on the command line."""
        return [] if self.name is None else ["--system", self.name]

    def problems(self, domains: Collection[str], paired: bool) -> list[str]:
        """Why it would not train on these domains."""
        found = []
        if self.two_domains and len(domains) > 2:
            found.append(f"system {self.name!r} is for two domains, but there are {len(domains)}: {', '.join(domains)}")
        if not paired and UNPAIRED not in self.variants:
            found.append(f"system {self.name!r} learns from known pairs, but there are none")
        return found

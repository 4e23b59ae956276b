"""Whom a data folder is for: what the check of it has to know of a system, which it does not name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from m2o_fast.m2o import PAIRED, UNPAIRED, Domain

_SMALLEST_SIZE = 32
_USUAL_SIZE = 256


def _power_of_two(side: int) -> int:
    return max(_SMALLEST_SIZE, 1 << (side.bit_length() - 1))


class Fitting(NamedTuple):
    """What makes training on own images fit a machine.

    Attributes:
        options: For the command line.
        hours: What all steps are expected to take; ``None``: not known.
    """

    options: Sequence[str]
    hours: float | None = None


@dataclass(frozen=True)
class Learner:
    """What system the command to train with is for; without one, any: all take powers of two from 32 on.

    Attributes:
        name: The system; ``None``: the default one.
        variants: Those that it has.
        two_domains: Whether it is for two domains and no more.
        several_sets: Whether it learns from several data sets.
        size: A good image size up to a side length.
        fitting: Variant, domains, the usual side length of their images, how many of the domains are of each data set
            -> what makes training fit this machine, in the place of ``size``; ``None``: any machine.
    """

    name: str | None = None
    variants: Collection[str] = (UNPAIRED, PAIRED)
    two_domains: bool = False
    several_sets: bool = False
    size: Callable[[int], int] = _power_of_two
    fitting: Callable[[str, Sequence[Domain], int, Sequence[int]], Fitting | None] | None = None

    def options(self) -> list[str]:
        """What names it on the command line."""
        return [] if self.name is None else ["--system", self.name]

    def fit(self, variant: str, domains: Sequence[Domain], side: int, sets: Sequence[int] = ()) -> Fitting:
        """What makes training on images with such a side length fit; without a word for it, the published size does.

        Args:
            variant: The many-to-one rules.
            domains: As the images have them.
            side: The usual side length of the images.
            sets: How many of the domains, in their order, are of each data set; none: all of one.
        """
        if self.fitting is not None and (found := self.fitting(variant, domains, side, sets)) is not None:
            return found
        size = self.size(side)  # enlarged images cost more and show nothing more
        return Fitting(["--set", f"data.image_size={size}"] if size < _USUAL_SIZE else [])

    def problems_of_several(self) -> list[str]:
        """Why it would not train on several data sets."""
        if self.several_sets:
            return []
        which = "the default system" if self.name is None else f"system {self.name!r}"
        return [f"{which} learns from one data set; check each alone"]

    def problems(self, domains: Collection[str], paired: bool) -> list[str]:
        """Why it would not train on these domains."""
        found = []
        if self.two_domains and len(domains) > 2:
            found.append(f"system {self.name!r} is for two domains, but there are {len(domains)}: {', '.join(domains)}")
        if not paired and UNPAIRED not in self.variants:
            found.append(f"system {self.name!r} learns from known pairs, but there are none")
        return found

"""Looking over the pairs of own images: which images show the same content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from m2o_fast.data.cache import named
from m2o_fast.data.check_report import ImageFacts, counted
from m2o_fast.data.images import read_pixels
from m2o_fast.data.index import FileIndex
from m2o_fast.data.layout import Images


@dataclass(frozen=True)
class Checked:
    """A domain in one split.

    Attributes:
        images: Its n image files.
        files: What is known of them.
        facts: What was found in each of them.
        contents: What each of them shows, int64 ``[n]``, see :func:`numbered`.
    """

    images: Images
    files: FileIndex
    facts: list[ImageFacts]
    contents: np.ndarray

    def readable(self) -> list[ImageFacts]:
        """What was found in the images that can be read."""
        return [fact for fact in self.facts if not fact.problem]

    @cached_property
    def is_readable(self) -> np.ndarray:
        """Which images can be read, bool ``[n]``."""
        return np.array([not fact.problem for fact in self.facts])

    @cached_property
    def shown(self) -> np.ndarray:
        """The contents that the images show that can be read, int64, ascending."""
        return np.unique(self.contents[self.is_readable])

    def showing(self, contents: np.ndarray) -> np.ndarray:
        """The numbers of the images that can be read and show any of some contents, int64, ascending."""
        return np.flatnonzero(self.is_readable & np.isin(self.contents, contents))

    def tile(self, row: int, size: int) -> np.ndarray:
        """An image as uint8 ``[3, size, size]``."""
        return read_pixels(self.files.paths[row], 3, size, self.images.part)


def numbered(contents: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Contents as numbers in the order of their texts: domain -> int64 ``[n]``, the same wherever it is the same."""
    texts = sorted(set().union(*contents.values()))
    numbers = {text: number for number, text in enumerate(texts)}
    return {name: np.array([numbers[text] for text in some], dtype=np.int64) for name, some in contents.items()}


#: folder of a split -> domain -> its images
Found = Mapping[str, Mapping[str, Checked]]


def describe_pairs(found: Found, uni: Sequence[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The pairs into the domains ``uni``, as lines and as JSON values."""
    lines: list[str] = []
    values: dict[str, dict[str, Any]] = {}
    for folder, domains in found.items():
        values[folder] = {}
        for source in (name for name in domains if name not in uni):
            for target in uni:
                described, values[folder][f"{source}->{target}"] = _describe(domains, source, target)
                lines += [f"{folder}: {line}" for line in described]
    return lines, values


def _describe(domains: Mapping[str, Checked], source: str, target: str) -> tuple[list[str], dict[str, Any]]:
    own, there = domains[source], domains[target].shown
    found = own.showing(there)
    keys = own.images.keys()
    missing = [keys[row] for row in own.showing(np.setdiff1d(own.shown, there))]
    counts = np.unique(own.contents[found], return_counts=True)[1]
    line = f"{len(found)} of {counted(len(found) + len(missing), 'image')} of {source} have a pair in {target}"
    lines = [f"{line}; not: {named(missing, ', ')}" if len(found) and missing else line]
    values: dict[str, Any] = {"found": len(found), "missing": missing, "contents": len(counts)}
    if len(counts):
        least, mean, most = int(counts.min()), len(found) / len(counts), int(counts.max())
        values["looks"] = {"least": least, "mean": mean, "most": most}
        if most > 1:
            spread = f"{least} to {most} looks in {source}, mean {mean:.3g}"
            lines.append(f"{counted(len(counts), 'content')} of {target} with {spread}")
    return lines, values


def content_with_looks(domains: Mapping[str, Checked], uni: Sequence[str]) -> list[tuple[Checked, int]]:
    """The image of the content with the most looks in one domain, and those; empty if none has several."""
    best: list[tuple[Checked, int]] = []
    for target in uni:
        there = domains[target]
        for own in (domain for name, domain in domains.items() if name not in uni):
            contents, counts = np.unique(own.contents[own.showing(there.shown)], return_counts=True)
            if counts.max(initial=0) >= max(2, len(best)):
                content = contents[counts.argmax()]
                best = [(there, there.showing(content)[0]), *((own, row) for row in own.showing(content))]
    return best


def contents_in_both(root: Path, found: Found, uni: Sequence[str]) -> list[str]:
    """Notes on contents that have looks in both splits: the image of a uni-modal domain is the same, byte by byte."""
    if len(found) < 2:
        return []
    notes = []
    for name in uni:
        one, other = (domains[name].files for domains in found.values())
        first, second = (_with_looks(domains, name, uni) for domains in found.values())
        _, rows, others = np.intersect1d(one.digests()[first], other.digests()[second], return_indices=True)
        if len(rows):
            pairs = sorted(zip(first[rows], second[others], strict=True))
            where = [
                f"{Path(one.paths[row]).relative_to(root)} and {Path(other.paths[same]).relative_to(root)}"
                for row, same in pairs
            ]
            notes.append(
                f"{counted(len(pairs), 'content')} of {name} with looks in both splits: {named(where)}; "
                "measures then also say how well they were learnt by heart"
            )
    return notes


def _with_looks(domains: Mapping[str, Checked], target: str, uni: Sequence[str]) -> np.ndarray:
    """The numbers of the images of a uni-modal domain that have a look in another one."""
    shown = [domain.shown for name, domain in domains.items() if name not in uni]
    return domains[target].showing(np.concatenate(shown))

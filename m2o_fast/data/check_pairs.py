"""Looking over the pairs of own images: which images show the same content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from m2o_fast.data.cache import named
from m2o_fast.data.check_report import ImageFacts, counted
from m2o_fast.data.index import FileIndex
from m2o_fast.data.layout import Images


@dataclass(frozen=True)
class Checked:
    """A domain in one split.

    Attributes:
        images: Its image files.
        files: What is known of them.
        facts: What was found in each of them.
        contents: What each of them shows.
    """

    images: Images
    files: FileIndex
    facts: list[ImageFacts]
    contents: list[str]

    def readable(self) -> list[ImageFacts]:
        """The images that can be read."""
        return [fact for fact in self.facts if not fact.problem]

    @cached_property
    def by_content(self) -> dict[str, list[ImageFacts]]:
        """The images that can be read by the content that they show."""
        found: dict[str, list[ImageFacts]] = defaultdict(list)
        for content, fact in zip(self.contents, self.facts, strict=True):
            if not fact.problem:
                found[content].append(fact)
        return found


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
    looks, there = domains[source].by_content, domains[target].by_content
    keys = domains[source].images.keys()
    rows = zip(keys, domains[source].contents, domains[source].facts, strict=True)
    missing = [key for key, content, fact in rows if content not in there and not fact.problem]
    counts = [len(facts) for content, facts in looks.items() if content in there]
    line = f"{sum(counts)} of {counted(sum(counts) + len(missing), 'image')} of {source} have a pair in {target}"
    lines = [f"{line}; not: {named(missing, ', ')}" if counts and missing else line]
    values: dict[str, Any] = {"found": sum(counts), "missing": missing, "contents": len(counts)}
    if counts:
        least, mean, most = min(counts), sum(counts) / len(counts), max(counts)
        values["looks"] = {"least": least, "mean": mean, "most": most}
        if most > 1:
            spread = f"{least} to {most} looks in {source}, mean {mean:.3g}"
            lines.append(f"{counted(len(counts), 'content')} of {target} with {spread}")
    return lines, values


def content_with_looks(domains: Mapping[str, Checked], uni: Sequence[str]) -> list[ImageFacts]:
    """The image of the content with the most looks in one domain, and those; empty if none has several."""
    best: list[ImageFacts] = []
    for target in uni:
        there = domains[target].by_content
        for source in (name for name in domains if name not in uni):
            for content, facts in domains[source].by_content.items():
                if content in there and len(facts) >= max(2, len(best)):
                    best = [there[content][0], *facts]
    return best


def contents_in_both(root: Path, found: Found, uni: Sequence[str]) -> list[str]:
    """Notes on contents that have looks in both splits: the image of a uni-modal domain is the same, byte by byte."""
    if len(found) < 2:
        return []
    notes = []
    for domain in uni:
        first, second = (_with_looks(domains, domain, uni) for domains in found.values())
        pairs = sorted((path, second[digest]) for digest, path in first.items() if digest in second)
        if pairs:
            where = [f"{one.relative_to(root)} and {other.relative_to(root)}" for one, other in pairs]
            notes.append(
                f"{counted(len(pairs), 'content')} of {domain} with looks in both splits: {named(where)}; "
                "measures then also say how well they were learnt by heart"
            )
    return notes


def _with_looks(domains: Mapping[str, Checked], target: str, uni: Sequence[str]) -> dict[bytes, Path]:
    """SHA-256 of the images of a uni-modal domain that have a look in another one, and these images."""
    shown = {content for name, domain in domains.items() if name not in uni for content in domain.by_content}
    own = domains[target]
    digests = own.files.digests().tolist()
    rows = zip(digests, own.contents, own.facts, strict=True)
    return {digest: fact.path for digest, content, fact in rows if content in shown and not fact.problem}

"""What the check of a data folder says, and how it looks at image files."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import PIL
from PIL import Image

from m2o_fast.data.cache import Files, named
from m2o_fast.data.images import Part, about_range, largest_value, opened, read_pixels
from m2o_fast.data.index import FileIndex
from m2o_fast.data.parallel import room_for_pixels
from m2o_fast.data.turned import orientation, shown_size
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain

#: A domain with fewer images than this is warned of.
FEW = 10


_FACTS = 2  # another number wherever other facts are found
_STRETCHED = 1.1  # times longer in one direction than in the other
_CROPPED = 2  # the same, where a centred square is half of the image
_BRIGHT = 255
_SIDE = 8  # decoding a file to this size meets whatever is wrong with it
_COMMON = ("1", "L", "RGB", "P", "LA", "RGBA", "PA")


@dataclass(frozen=True)
class CheckReport:
    """What was found in a data folder.

    Attributes:
        lines: What is there.
        total: How much of it can be used, such as ``"3 pairs"``.
        problems: What keeps training from working, one line each; empty if the folder can be used as it is.
        notes: What is odd, and what training makes of it.
        advice: How to train on it; empty if there are problems.
        facts: The same as JSON values.
        rows: What a contact sheet shows: label -> uint8 images ``[3, TILE, TILE]``.
        domains: Of own images without problems: what training makes of them; which are uni-modal is a guess.
    """

    lines: Sequence[str]
    total: str
    problems: Sequence[str]
    notes: Sequence[str] = ()
    advice: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    domains: Sequence[Domain] = ()

    def text(self) -> list[str]:
        """All but the problems, line by line; the last line sums up."""
        notes = [f"note: {note}" for note in self.notes]
        return [*self.lines, *notes, *self.advice, f"{self.total}, {counted(len(self.problems), 'problem')}"]

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {**self.facts, "notes": list(self.notes), "problems": list(self.problems)}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What was found in an image file; files in which the same was found share it, for there may be very many.

    Attributes:
        size: Width and height as it is shown.
        mode: Pillow's name of what its pixels hold, such as ``"L"``, ``"RGB"``, ``"CMYK"``, ``"I;16"``.
        oddities: What is unusual about it, and what training makes of that.
        largest: The largest value in 8 bits.
        problem: Why it cannot be read, beginning with the path; empty if it can.
    """

    size: tuple[int, int] = (0, 0)
    mode: str = ""
    oddities: tuple[str, ...] = ()
    largest: int = _BRIGHT
    problem: str = ""


def examine_all(index: FileIndex, part: Part = "whole") -> list[ImageFacts]:
    """The facts of image files; each is decoded as training would, unless a check did so before.

    Args:
        index: The files.
        part: What of each file is meant.
    """
    column = f"facts {_FACTS}, {part}, Pillow {PIL.__version__}"
    problems: dict[str, ImageFacts] = {}

    def find(path: str) -> bytes:
        facts = _examine(Path(path), part)
        if facts.problem:  # the disk may be at fault: it is read again the next time
            problems[path] = facts
            return b""
        return json.dumps([*facts.size, facts.mode, facts.oddities, facts.largest]).encode()

    known = index.column(column, find, "reading images")
    facts = {text: _from_json(text) for text in np.unique(known).tolist() if text}
    return [facts[text] if text else problems[index.paths[row]] for row, text in enumerate(known)]


def _from_json(text: bytes) -> ImageFacts:
    width, height, mode, oddities, largest = json.loads(text)
    return ImageFacts((width, height), mode, tuple(oddities), largest)


def _examine(path: Path, part: Part) -> ImageFacts:
    try:
        with opened(path) as image, room_for_pixels(image.width * image.height):
            (width, height), mode = shown_size(image), image.mode
            oddities = _oddities(image)
        largest = int(read_pixels(path, 3, _SIDE, part).max())
        if part == "whole" and about_range(largest):  # bright lines may have been averaged away
            largest = largest_value(path)
    except UserError as error:
        return ImageFacts(problem=str(error))
    return ImageFacts((width if part == "whole" else width // 2, height), mode, oddities, largest)


def expected_time(hours: float) -> str:
    """What training is expected to take, for people."""
    return f"expected time on this machine: about {max(1, round(hours * 60))} min"


def _oddities(image: Image.Image) -> tuple[str, ...]:
    turn, animated = orientation(image), False
    with suppress(Exception):  # what follows the first frame may be damaged, which is none of our business
        animated = getattr(image, "is_animated", False)
    deep = image.mode == "F" or image.mode.startswith("I")
    found = {
        "with several frames, of which the first is taken": animated,
        "turned as EXIF says": turn in range(2, 9),
        "with more than 8 bits, which are rounded to 8": deep,
        "with transparent parts, which become black": image.has_transparency_data,
        f"of mode {image.mode}, converted to RGB": not deep and image.mode not in _COMMON,
    }
    return tuple(what for what, is_so in found.items() if is_so)


def described(facts: Sequence[ImageFacts]) -> tuple[str, dict[str, Any]]:
    """Number, sizes and modes of image files that can be read, as a line and as JSON values."""
    sizes = sorted((fact.size for fact in facts), key=lambda size: (size[0] * size[1], size))
    modes = Counter(fact.mode for fact in facts)
    values = {"images": len(facts), "modes": dict(modes)}
    if not facts:
        return "0 images", values
    smallest, median, largest = sizes[0], sizes[len(sizes) // 2], sizes[-1]
    values["sizes"] = {"smallest": list(smallest), "median": list(median), "largest": list(largest)}
    names = [f"{width}x{height}" for width, height in (smallest, largest, median)]
    shown = f"all {names[0]}" if sizes[0] == sizes[-1] else "{} to {}, median {}".format(*names)
    return f"{counted(len(facts), 'image')}, {shown}, {', '.join(f'{mode} {n}' for mode, n in modes.items())}", values


def oddity_notes(where: str, names: Sequence[str], facts: Sequence[ImageFacts]) -> list[str]:
    """A note on every kind of oddity, which names the first five files that have it, and on images that are all dim."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, fact in zip(names, facts, strict=True):
        for oddity in fact.oddities:
            found[oddity].append(os.path.basename(name))
    notes = [
        f"{where}: {counted(len(names), 'image')} {oddity}: {named(names, ', ')}" for oddity, names in found.items()
    ]
    largest = max((fact.largest for fact in facts if not fact.problem), default=_BRIGHT)
    if sentence := about_range(largest):
        notes.append(f"{where}: {sentence}")
    return notes


def aspect_notes(where: str, facts: Sequence[ImageFacts]) -> list[str]:
    """What to do about images of several aspect ratios, where stretching would change some of them visibly."""
    ratios = [width / height for width, height in (fact.size for fact in facts if not fact.problem)]
    odd = [stretch for ratio in ratios if (stretch := max(ratio, 1 / ratio)) > _STRETCHED]
    if not odd or max(ratios) <= _STRETCHED * min(ratios):
        return []
    fits = ["crop, which takes the middle of each", "pad, which keeps all of each"]
    better, other = fits if median(odd) <= _CROPPED else reversed(fits)
    return [
        f"{where}: {len(odd)} of {counted(len(ratios), 'image')} would be stretched by more than {_STRETCHED - 1:.0%} "
        f"(width / height from {min(ratios):.2g} to {max(ratios):.2g}); take --set data.fit={better}, or {other}"
    ]


def by_kind(messages: Iterable[str]) -> list[list[str]]:
    """Messages about files, ``path: reason``, together where the reasons differ in numbers alone."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for message in messages:
        _, _, reason = message.partition(": ")
        kinds[re.sub(r"\d+", "#", reason)].append(message)
    return list(kinds.values())


def share_option(max_unreadable: float) -> list[str]:
    """What makes training allow as many unreadable files as the check did."""
    return [] if max_unreadable == Files.max_unreadable else ["--set", f"data.max_unreadable={max_unreadable:g}"]


def counted(number: int, thing: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"

"""What a page asks for, checked: images as data URLs, and looks."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from m2o_fast.errors import UserError

MOST_LOOKS = 24
_PLAIN = {"seed", "reference", "slides"}
_FARTHEST = 10.0  # a slide, in ordinary steps
_LARGEST_SEED = 2**53 - 1  # the largest whole number that a page can say exactly


@dataclass(frozen=True)
class Look:
    """Where a style comes from.

    Attributes:
        seed: Of a random style; the style is that of ``m2o-fast translate --seed``.
        reference: In place of the seed, the image file whose style is taken.
        slides: Steps along the main directions of the styles.
        other: A second look to go towards.
        share: How far, 0 to 1.
    """

    seed: int = 0
    reference: bytes | None = None
    slides: tuple[float, ...] = ()
    other: Look | None = None
    share: float = 0.0

    def plain(self) -> Look:
        """This look alone, without the second one."""
        return replace(self, other=None, share=0.0)

    def facts(self) -> dict[str, Any]:
        """The same as JSON values; of an image only that it was one."""
        found: dict[str, Any] = {"seed": self.seed} if self.reference is None else {"reference": "an image"}
        if any(self.slides):
            found["slides"] = list(self.slides)
        if self.other is not None:
            found |= {"other": self.other.facts(), "share": self.share}
        return found


def read_look(value: Any) -> Look:
    """A look as the page sends it.

    Raises:
        UserError: It is none.
    """
    fields = _object(value, "a look", {*_PLAIN, "other", "share"})
    other = fields.get("other")
    return replace(
        _plain_look(fields),
        other=None if other is None else _plain_look(_object(other, "look B", _PLAIN)),
        share=_number(fields.get("share", 0.0), "share", 0.0, 1.0),
    )


def _plain_look(fields: Mapping[str, Any]) -> Look:
    slides = fields.get("slides", [])
    if not isinstance(slides, list) or len(slides) > 64:
        raise UserError("slides must be a list of numbers")
    return Look(
        seed=whole(fields.get("seed", 0), "seed", _LARGEST_SEED),
        reference=None if fields.get("reference") is None else read_image_of(fields["reference"]).file,
        slides=tuple(_number(slide, "a slide", -_FARTHEST, _FARTHEST) for slide in slides),
    )


@dataclass(frozen=True)
class Picture:
    """An image of the page.

    Attributes:
        file: The image file.
        drawn: Whether it was drawn on an empty canvas, and has no size of its own.
    """

    file: bytes
    drawn: bool = False


def read_image_of(value: Any) -> Picture:
    """An image as the page sends it: ``{"file": "data:...;base64,...", "drawn": true}``.

    Raises:
        UserError: It is none.
    """
    fields = _object(value, "an image", {"file", "drawn"})
    file = fields.get("file")
    head, comma, data = file.partition(",") if isinstance(file, str) else ("", "", "")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise UserError("an image must be a file as a base64 data URL")
    try:
        return Picture(base64.b64decode(data, validate=True), fields.get("drawn") is True)
    except ValueError:  # binascii's, and that of characters which are not ASCII
        raise UserError("the image is damaged: its base64 cannot be read") from None


def whole(value: Any, name: str, largest: int) -> int:
    """A whole number from 0 on.

    Raises:
        UserError: It is none, or too large.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise UserError(f"{name} must be a whole number from 0 to {largest}")
    return value


def _number(value: Any, name: str, least: float, most: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be a number")
    return float(min(max(value, least), most))  # clamped first: an int may be too large for a float


def _object(value: Any, name: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or set(value) - known:
        raise UserError(f"{name} must be an object with keys of {', '.join(sorted(known))}")
    return value

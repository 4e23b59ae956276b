"""What every schema of settings is made of: sections that cannot change, and numbers with their limits."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_LONGEST_WORD = 200  # characters; resemblance takes their square


def nearest(word: str, known: Iterable[str], at_least: float = 0.5) -> str:
    """``"; nearest: 'hms'"`` where a known word resembles ``word`` (1: is the same), else the empty string."""
    if len(word) > _LONGEST_WORD:
        return ""

    def resemblance(candidate: str) -> tuple[float, float]:
        order = difflib.SequenceMatcher(None, word, candidate).ratio()
        # Between equally similar words, prefer the one with the same letters: 'hsm' is a mistyped 'hms', not 'hmu'.
        letters = difflib.SequenceMatcher(None, sorted(word), sorted(candidate)).ratio()
        return order, letters

    best = max(known, key=resemblance)
    return f"; nearest: {best!r}" if resemblance(best)[0] >= at_least else ""


def number(value: object) -> object:
    """``value`` as it is. Raises ``ValueError`` for true and false, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Count = Annotated[int, BeforeValidator(number), Field(ge=1, lt=2**53)]
CountOrZero = Annotated[int, BeforeValidator(number), Field(ge=0, lt=2**53)]
#: Layers of a kind, one behind the other: published nets have nine at most, and a description asks for no millions.
Layers = Annotated[Count, Field(le=64)]
LayersOrZero = Annotated[CountOrZero, Field(le=64)]
Rate = Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(number), Field(ge=0, le=1)]
Decay = Annotated[float, BeforeValidator(number), Field(ge=0, lt=1)]


class Section(BaseModel):
    """Settings that belong together; frozen, and no key beside those that it names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

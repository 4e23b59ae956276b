"""The systems, one file each, all behind :class:`m2o_fast.translators.base.Translator`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from m2o_fast.translators.base import Translator
from m2o_fast.translators.starganv2 import StarGANv2

#: "system" of a description -> its class
SYSTEMS: dict[str, type[Translator]] = {"starganv2": StarGANv2}


def create(description: Mapping[str, Any]) -> Translator:
    """Builds the translator that :meth:`Translator.describe` described, with fresh weights.

    Raises:
        ValueError: An unknown system, or a description that lacks something.
    """
    name = description.get("system")
    if name not in SYSTEMS:
        raise ValueError(f"unknown system {name!r}; the systems are {', '.join(SYSTEMS)}")
    try:
        return SYSTEMS[name].from_description(description)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the description of the {name} translator does not fit: {error}") from error


__all__ = ["SYSTEMS", "StarGANv2", "Translator", "create"]

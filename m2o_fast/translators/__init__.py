"""The systems, a folder each, all behind :class:`Translator`.

Neither torch nor pydantic is imported before one is asked for: help pages name them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

from m2o_fast.errors import UserError
from m2o_fast.m2o import PAIRED, PLAIN

if TYPE_CHECKING:
    from torch import Tensor

    from m2o_fast.translators.base import Translator
    from m2o_fast.translators.settings import SystemFacts

#: the systems, by the names of their folders; the first one is meant where none is named
NAMES = ("starganv2", "pix2pix", "cyclegan", "simgan", "munit", "unit", "bicyclegan", "stargan", "flow")
#: what is trained where neither system nor variant is named
DEFAULT = (NAMES[0], PAIRED)
#: a setting that all systems have, as an example of how one is given
EXAMPLE_SETTING = "optim.lr=2e-4"
#: systems and published weights, as m2o-fast convert takes them: nets in one file, and a file for each
EXAMPLE_WEIGHTS = ("starganv2 nets_ema.ckpt", "cyclegan G_A=net_G_A.pth G_B=net_G_B.pth")


@cache
def system(name: str) -> SystemFacts:
    """What a system tells of itself.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in NAMES:
        raise ValueError(f"unknown system {name!r}; the systems are {', '.join(NAMES)}")
    facts: SystemFacts = import_module(f"m2o_fast.translators.{name}").SYSTEM
    return facts


def short_name(name: str, variant: str) -> str:
    """``hms`` for the default system, whose variants have names of their own, else ``system-variant`` or ``system``."""
    if variant == PLAIN:
        return name
    return variant if name == NAMES[0] else f"{name}-{variant}"


def full_name(name: str, variant: str) -> str:
    """The same for people: ``HMS``, ``StarGAN v2``, ``CycleGAN-HMS``."""
    if variant != PLAIN and name == NAMES[0]:  # help pages ask for it: nothing of the system is loaded
        return variant.upper()
    full = system(name).title
    return full if variant == PLAIN else f"{full}-{variant.upper()}"


def create(description: Mapping[str, Any]) -> Translator:
    """Builds the translator that :meth:`Translator.describe` described, with fresh weights.

    Raises:
        ValueError: An unknown system, or a description that lacks something.
    """
    from pydantic import ValidationError

    name = description.get("system")
    if not isinstance(name, str):
        raise ValueError(f"unknown system {name!r}; the systems are {', '.join(NAMES)}")
    chosen = system(name).load()
    try:
        return chosen.from_description(description)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ValueError(f"the description of the {name} translator does not fit: {wrong}") from None
    except (KeyError, TypeError) as error:
        raise ValueError(f"the description of the {name} translator does not fit: {error}") from error


def from_official(
    layout: str | Mapping[str, Any] = NAMES[0],
    state_dicts: Mapping[str, Any] | Sequence[str] | None = None,
    **settings: Any,
) -> Translator:
    """A translator with published weights, in evaluation mode.

    Args:
        layout: The system whose layout the weights have. State dicts alone are those of the default system, and its
            names of domains may follow them.
        state_dicts: Net name -> state dict in the published layout.
        settings: What shapes cannot tell, as the system's ``published.py`` says; ``domains``: their names.

    Raises:
        UserError: An unknown layout, weights that do not fit it, or settings that it does not know.
    """
    if not isinstance(layout, str):
        if state_dicts is not None:
            settings = {"domains": state_dicts, **settings}
        layout, state_dicts = NAMES[0], layout
    make = published(layout).from_official
    known = list(signature(make).parameters)[1:]
    if unknown := [name for name in settings if name not in known]:
        raise UserError(f"weights of layout {layout!r} take no {', '.join(unknown)}; they take {', '.join(known)}")
    translator: Translator = make(state_dicts, **settings)
    return translator


def to_official(translator: Translator) -> dict[str, dict[str, Tensor]]:
    """The reverse of :func:`from_official`: the published state dicts of a translator's nets, by net name.

    Its tensors are contiguous, as safetensors wants them; where a weight is not, it is a copy.

    Raises:
        UserError: Its nets have parts for which there is no published layout.
    """
    found: dict[str, dict[str, Tensor]] = published(translator.describe()["system"]).to_official(translator)
    return found


def layouts() -> dict[str, str]:
    """Names of layouts of published weights -> their systems."""
    return {layout: name for name in NAMES for layout in (name, *system(name).layouts)}


def published(layout: str) -> Any:
    """The module ``published.py`` of the system whose published weights have a layout."""
    known = layouts()
    if layout not in known:
        from m2o_fast.settings import nearest  # costs pydantic, which help pages do without

        raise UserError(f"unknown layout {layout!r}{nearest(layout, known)} (layouts: {', '.join(known)})")
    return import_module(f"m2o_fast.translators.{known[layout]}.published")

"""Weights of a flow's net, in and out. None were published; the layout is that of the net here.

One state dict, ``V``, the velocity of two domains or more. A domain that has no first layer for noise is uni-modal, the
others are multi-modal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from torch import Tensor

from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.translators import state_dicts as layouts
from m2o_fast.translators.flow import SYSTEM
from m2o_fast.translators.flow.settings import FlowSettings, Size
from m2o_fast.translators.flow.translator import Flow
from m2o_fast.translators.state_dicts import StateDict, dimension

NETS = ("V",)
#: Name of the file of a net; each holds one state dict.
FILE = "flow_{net}.pth"
_AS_HERE = {"": ""}


def from_official(
    state_dicts: Mapping[str, StateDict],
    domains: Sequence[str] | None = None,
    image_size: int = 32,
    groups: int = 32,
    shift: float = 1.0,
    predicts: str = "velocity",
) -> Flow:
    """A translator with given weights, in evaluation mode.

    Args:
        state_dicts: ``{"V": state dict}``.
        domains: Names of the domains; ``None``: ``A``, ``B``, ``C``, ...
        image_size: Side length in pixels. The shapes do not tell it, nor what follows.
        groups: ``model.groups`` of the net.
        shift: ``model.shift`` of its times.
        predicts: ``model.predicts`` of the net.

    Returns:
        A translator with these weights, in their dtype.

    Raises:
        UserError: Lists what is missing, superfluous or does not fit.
    """
    nets = layouts.checked_nets(state_dicts, NETS)
    told = {"groups": groups, "shift": shift, "predicts": predicts}
    size = _size(nets["V"], image_size, told)
    known, rules = _domains(nets["V"], domains, size.width * size.multipliers[0])
    return layouts.loaded(lambda: Flow(known, rules, size), lambda flow, _: [(flow.velocity, _AS_HERE)], nets)


def to_official(translator: Flow) -> dict[str, dict[str, Tensor]]:
    """The state dict of a translator's net, by name."""
    return {"V": {key: tensor.contiguous() for key, tensor in translator.velocity.state_dict().items()}}


def _domains(net: StateDict, names: Sequence[str] | None, width: int) -> tuple[list[Domain], ManyToOne]:
    """The domains and the rules that a net was made for; of layers of a wrong shape and those after them, nothing."""
    names_of_heads = takewhile(net.__contains__, (f"heads.{k}.weight" for k in range(len(net))))
    heads = takewhile(lambda head: head.shape[1:] == (width, 3, 3), (net[name] for name in names_of_heads))
    channels = [len(head) for head in heads]
    styled = [f"noises.{k}.weight" in net for k in range(len(channels))]
    names = [chr(ord("A") + k) for k in range(min(len(channels), 26))] if names is None else list(names)
    if len(names) != len(channels):
        raise UserError(f"the weights have {len(channels)} domains, but {len(names)} names were given: {names}")
    rules = SYSTEM.variants["plain" if all(styled) else "hms"]
    try:
        known = [Domain(*parts) for parts in zip(names, channels, styled, strict=True)]
        return list(rules.resolve(known)), rules
    except ValueError as error:
        raise UserError(f"V: {error}") from error


def _size(net: StateDict, image_size: int, told: dict[str, Any]) -> Size:
    """Widths of levels are those of their blocks; a convolution of stride 2 lies between two levels."""
    if problem := SYSTEM.sizes.problem(image_size):
        raise UserError(problem)
    width = dimension(net, "V", "conditions.0.weight", 0)
    levels = _levels(net, width)
    if len({len(blocks) for blocks in levels}) > 1 or not levels[0]:
        raise UserError("V: expected as many residual blocks (down.0.conv1.weight, ...) in each level")
    sides = [image_size >> level for level, blocks in enumerate(levels) if blocks[0].attentive]
    model = {
        "width": width,
        "multipliers": [blocks[0].channels // width for blocks in levels],
        "blocks": len(levels[0]),
        "attention": max(sides, default=0),
    }
    settings = layouts.settings_of(FlowSettings, model | told)
    try:
        settings.check(image_size, SYSTEM.variants["plain"])
    except ValueError as error:
        raise UserError(str(error)) from error
    return Size(**settings.sizes(image_size))


class _Block(NamedTuple):
    """A residual block on the way down: its channels, and whether it has self-attention."""

    channels: int
    attentive: bool


def _levels(net: StateDict, channels: int) -> list[list[_Block]]:
    """The blocks of each level, up to the first layer of a wrong shape."""
    levels: list[list[_Block]] = [[]]
    for number in range(len(net)):
        block, halving = (net.get(f"down.{number}.{name}.weight") for name in ("conv1", "conv"))
        if block is not None and block.shape[1:] == (channels, 3, 3):
            channels = len(block)
            levels[-1].append(_Block(channels, f"down.{number}.attention.norm.weight" in net))
        elif halving is not None and halving.shape == (channels, channels, 3, 3):
            levels.append([])
        else:
            break
    return levels

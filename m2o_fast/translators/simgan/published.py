"""Weights of SimGAN's nets, in and out. None were published; the layout is that of the nets here.

A state dict per net: ``R`` refines images of A into images of B, and ``D`` judges images of B; ``R_BA`` and ``D_BA``
the other way round. Nets may be missing. A refiner with a style has its first layer in two: ``stem.weight`` of the
image, ``stem.style`` of the style's planes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from m2o_fast.errors import UserError
from m2o_fast.translators import state_dicts as layouts
from m2o_fast.translators.simgan import SYSTEM
from m2o_fast.translators.simgan.nets import FORMS
from m2o_fast.translators.simgan.settings import SimGANSettings, Size, Weights, content_held
from m2o_fast.translators.simgan.translator import SimGAN
from m2o_fast.translators.state_dicts import StateDict, dimension

NETS = ("R", "D", "R_BA", "D_BA")
#: Name of the file of a net; each holds one state dict.
FILE = "simgan_{net}.pth"
#: Index of the domain that a net makes images of, or judges.
_TARGETS = {"R": 1, "D": 1, "R_BA": 0, "D_BA": 0}
_AS_HERE = {"": ""}
_STEM, _STYLE = "stem.weight", "stem.style"


def from_official(
    state_dicts: Mapping[str, StateDict], domains: Sequence[str] | None = None, image_size: int = 32
) -> SimGAN:
    """A translator with given weights, in evaluation mode.

    Args:
        state_dicts: Net name -> state dict; any of ``NETS``.
        domains: Names of the domains; ``None``: ``A`` and ``B``.
        image_size: Side length in pixels that the nets were trained with, which their shapes do not tell. Images of any
            size can be refined.

    Returns:
        A translator with these nets, in the weights' dtype: by the rules of hmu where a refiner has a style, of hms
        where one goes the other way, too.

    Raises:
        UserError: Lists what is missing, superfluous or does not fit.
    """
    nets = layouts.checked_nets(state_dicts, NETS)
    styled = [_TARGETS[name] for name, net in nets.items() if name.startswith("R") and _STYLE in net]
    if len(styled) > 1:
        raise UserError(
            "R and R_BA both have a style, but a domain of SimGAN's variants has none; leave one of them out"
        )
    known, variant = layouts.domains_of(domains, _channels(nets)), "plain"
    if styled:
        known = [replace(domain, multimodal=k in styled) for k, domain in enumerate(known)]
        variant = "hms" if {"R", "R_BA"} <= nets.keys() else "hmu"
    rules = SYSTEM.variants[variant]
    size, weights = _size(nets, image_size), Weights(content=content_held(known, rules))
    made, judged = ["R_BA" in nets, "R" in nets], ["D_BA" in nets, "D" in nets]
    return layouts.loaded(
        lambda: SimGAN(known, rules, size, weights, refiners=made, discriminators=judged),
        lambda translator, name: [(_net(translator, name), _AS_HERE)],
        {name: _joined(net, name) for name, net in nets.items()},
    )


def to_official(translator: SimGAN) -> dict[str, dict[str, Tensor]]:
    """The state dicts of a translator's nets, those that there are."""
    found = {name: layouts.saved(_net(translator, name), _AS_HERE) for name in NETS if _has(translator, name)}
    for name in found:
        if name.startswith("R") and _TARGETS[name] in translator.styled:
            found[name] = _parted(found[name], translator.domains[1 - _TARGETS[name]].channels)
    return found


def _parted(net: StateDict, channels: int) -> dict[str, Tensor]:
    image, style = (part.contiguous() for part in net[_STEM].tensor_split([channels], dim=1))
    return {_STEM: image, _STYLE: style, **{key: tensor for key, tensor in net.items() if key != _STEM}}


def _joined(net: StateDict, name: str) -> StateDict:
    if not name.startswith("R") or _STYLE not in net:
        return net
    parts = net[_STEM], net[_STYLE]
    if {part.shape[:1] + part.shape[2:] for part in parts} != {parts[0].shape[:1] + parts[0].shape[2:]}:
        raise UserError(f"{name}: {_STYLE} {list(parts[1].shape)} does not go with {_STEM} {list(parts[0].shape)}")
    rest = {key: tensor for key, tensor in net.items() if key not in (_STEM, _STYLE)}
    return {_STEM: torch.cat(parts, dim=1), **rest}


def _nets(translator: SimGAN, name: str) -> nn.ModuleDict:
    return translator.refiners if name.startswith("R") else translator.discriminators


def _has(translator: SimGAN, name: str) -> bool:
    return str(_TARGETS[name]) in _nets(translator, name)


def _net(translator: SimGAN, name: str) -> nn.Module:
    return _nets(translator, name)[str(_TARGETS[name])]


def _size(nets: Mapping[str, StateDict], image_size: int) -> Size:
    if problem := SYSTEM.sizes.problem(image_size):
        raise UserError(problem)
    refiners = {name: net for name, net in nets.items() if name.startswith("R")}
    judges = {name: net for name, net in nets.items() if name.startswith("D")}
    forms = {name: _form(net, name) for name, net in nets.items()}
    read: dict[str, Any] = {"form": layouts.the_only(forms, "the form")}
    if refiners:
        widths = {name: dimension(net, name, "head.weight", 1) for name, net in refiners.items()}
        blocks = {name: _blocks(net, name) for name, net in refiners.items()}
        read["width"] = layouts.the_only(widths, "the width")
        read["blocks"] = layouts.the_only(blocks, "the number of residual blocks")
        for name in (name for name, net in refiners.items() if _STYLE in net):
            read["style_dim"] = dimension(refiners[name], name, _STYLE, 1)
    if judges:
        widths = {name: dimension(net, name, "head.weight", 1) for name, net in judges.items()}
        read["discriminator_width"] = layouts.the_only(widths, "the width")
    return Size(**layouts.settings_of(SimGANSettings, read).sizes(image_size))


def _form(net: StateDict, name: str) -> str:
    side = dimension(net, name, _first(name), 2)
    found = [form for form, known in FORMS.items() if known.kernel == side]
    if not found:
        raise UserError(f"{name}: its first kernel has a side of {side}; those of SimGAN have 3 or 7")
    return found[0]


def _first(name: str) -> str:
    return "stem.weight" if name.startswith("R") else "convs.0.weight"


def _blocks(net: StateDict, name: str) -> int:
    width, side = dimension(net, name, "head.weight", 1), dimension(net, name, "stem.weight", 2)
    blocks = layouts.numbered(net, lambda k: (f"blocks.{k}.conv1.weight", [width, width, side, side]))
    if not blocks:
        raise UserError(f"{name}: expected a refiner (blocks.0.conv1.weight, ...)")
    return blocks


def _channels(nets: Mapping[str, StateDict]) -> list[int]:
    """Of both domains, where a net tells them, otherwise as many as the other's."""
    found: dict[int, dict[str, int]] = {0: {}, 1: {}}
    for name, net in nets.items():
        target = _TARGETS[name]
        if name.startswith("R"):
            found[1 - target][name] = dimension(net, name, "stem.weight", 1)
            found[target][name] = dimension(net, name, "head.weight", 0)
        else:
            found[target][name] = dimension(net, name, "convs.0.weight", 1)
    channels = {k: layouts.the_only(counts, "the number of channels") for k, counts in found.items() if counts}
    return [channels.get(k, next(iter(channels.values()))) for k in range(2)]

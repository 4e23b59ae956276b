"""Published pix2pix weights, in and out.

A state dict per net: generator ``G`` and discriminator ``D`` of the direction from A to B, ``G_BA`` and ``D_BA`` of the
other one. Nets may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from m2o_fast.errors import UserError
from m2o_fast.translators import state_dicts as layouts
from m2o_fast.translators.pix2pix import SYSTEM
from m2o_fast.translators.pix2pix.settings import Pix2PixSettings, Size
from m2o_fast.translators.pix2pix.translator import Pix2Pix
from m2o_fast.translators.state_dicts import StateDict, dimension

NETS = ("G", "D", "G_BA", "D_BA")
#: Name of the file of a net; each holds one state dict.
FILE = "latest_net_{net}.pth"
#: Index of the domain that a net makes images of, or judges.
_TARGETS = {"G": 1, "D": 1, "G_BA": 0, "D_BA": 0}


def from_official(
    state_dicts: Mapping[str, StateDict],
    domains: Sequence[str] | None = None,
    image_size: int | None = None,
    dropout: bool = True,
) -> Pix2Pix:
    """A translator with published weights, in evaluation mode.

    Args:
        state_dicts: Net name -> state dict in the published layout; any of ``NETS``.
        domains: Names of the domains; ``None``: ``A`` and ``B``.
        image_size: Side length in pixels that the nets were trained with; ``None``: the smallest that the generator
            takes, as published. Images of any multiple of that can be translated.
        dropout: Whether the generators were trained with dropout, which their shapes do not tell. It has no effect in
            evaluation mode.

    Returns:
        A translator whose functions are those of the published nets in evaluation mode, in the weights' dtype.

    Raises:
        UserError: Lists what is missing, superfluous or does not fit.
    """
    nets = layouts.checked_nets(state_dicts, NETS)
    known, size = layouts.domains_of(domains, _channels(nets)), _size(nets, image_size, dropout)
    made, judged = ["G_BA" in nets, "G" in nets], ["D_BA" in nets, "D" in nets]
    return layouts.loaded(
        lambda: Pix2Pix(known, SYSTEM.variants["plain"], size, generators=made, discriminators=judged),
        lambda translator, name: [published_net(translator, name)],
        nets,
    )


def to_official(translator: Pix2Pix) -> dict[str, dict[str, Tensor]]:
    """The published state dicts of a translator's nets, those that there are.

    Raises:
        UserError: A generator has a style, for which there is no published layout.
    """
    if translator.styled:
        name = translator.domains[translator.styled[0]].name
        raise UserError(f"the generator into domain {name!r} has a style, for which there is no published layout")
    return {name: layouts.saved(*published_net(translator, name)) for name in NETS if _has(translator, name)}


def _has(translator: Pix2Pix, name: str) -> bool:
    return str(_TARGETS[name]) in (translator.generators if name.startswith("G") else translator.discriminators)


def published_net(translator: Pix2Pix, name: str) -> tuple[Any, dict[str, str]]:
    """Our net of a published name, and how its names become published ones."""
    size, key = translator.size, str(_TARGETS[name])
    if name.startswith("G"):
        return translator.generators[key], _unet_prefixes(size.levels)
    return translator.discriminators[key], layouts.patch_discriminator_prefixes(size.discriminator_layers)


def _level(k: int) -> str:
    """Each level of the published U-Net is a module of the one around it."""
    return "model.model." + ("1.model." + "3.model." * (k - 1) if k else "")


def _unet_prefixes(levels: int) -> dict[str, str]:
    prefixes = {"down.0.": f"{_level(0)}0.", "up.0.": f"{_level(0)}3."}
    for k in range(1, levels):
        innermost = k == levels - 1
        prefixes[f"down.{k}."] = f"{_level(k)}1."
        prefixes[f"up.{k}."] = f"{_level(k)}{3 if innermost else 5}."
        prefixes[f"up_norm.{k - 1}.batch."] = f"{_level(k)}{4 if innermost else 6}."
        if not innermost:
            prefixes[f"down_norm.{k - 1}.batch."] = f"{_level(k)}2."
    return prefixes


def _levels(net: StateDict, name: str) -> int:
    levels = 1
    while f"{_level(levels)}1.weight" in net:
        levels += 1
    if levels < 2:
        raise UserError(f"{name}: expected a U-Net (model.model.0.weight, model.model.1.model.1.weight, ...)")
    return levels


def _size(nets: Mapping[str, StateDict], image_size: int | None, dropout: bool) -> Size:
    read: dict[str, Any] = {"dropout": dropout, "direction": "both" if {"G_BA", "D_BA"} & set(nets) else "A->B"}
    norms: dict[str, str] = {}
    generators = {name: net for name, net in nets.items() if name.startswith("G")}
    judges = {name: net for name, net in nets.items() if name.startswith("D")}
    if generators:
        levels = {name: _levels(net, name) for name, net in generators.items()}
        read["levels"] = layouts.the_only(levels, "the number of levels")
        widths = {name: dimension(net, name, f"{_level(0)}0.weight", 0) for name, net in generators.items()}
        read["width"] = layouts.the_only(widths, "the width")
        inner = _level(read["levels"] - 1)
        norms |= {name: layouts.norm_of(net, name, f"{inner}3", f"{inner}4") for name, net in generators.items()}
    if judges:
        layers = {name: layouts.patch_discriminator_layers(net, name) for name, net in judges.items()}
        read["discriminator_layers"] = layouts.the_only(layers, "the number of layers")
        first, at = ("model.0.weight", "model.2") if read["discriminator_layers"] else ("net.0.weight", "net.2")
        widths = {name: dimension(net, name, first, 0) for name, net in judges.items()}
        read["discriminator_width"] = layouts.the_only(widths, "the width")
        behind = f"{at[:-1]}3"
        norms |= {name: layouts.norm_of(net, name, at, behind) for name, net in judges.items()}
    read["norm"] = layouts.the_only(norms, "the norm")
    side = image_size or max(2 ** read.get("levels", 8), SYSTEM.sizes.smallest)
    settings = layouts.settings_of(Pix2PixSettings, read)
    try:
        settings.check(side, SYSTEM.variants["plain"])
    except ValueError as error:
        raise UserError(str(error)) from error
    return Size(**settings.sizes(side))


def _channels(nets: Mapping[str, StateDict]) -> list[int]:
    """Of both domains, as generators tell them; a discriminator alone sees both in equal shares."""
    found: dict[int, dict[str, int]] = {0: {}, 1: {}}
    judged = {}
    for name, net in nets.items():
        target = _TARGETS[name]
        if name.startswith("D"):
            first = "model.0.weight" if "model.0.weight" in net else "net.0.weight"
            judged[name] = dimension(net, name, first, 1)
        else:
            found[1 - target][name] = dimension(net, name, f"{_level(0)}0.weight", 1)
            found[target][name] = dimension(net, name, f"{_level(0)}3.weight", 1)
    if not found[0]:
        both = layouts.the_only(judged, "the number of channels")
        if both % 2:
            raise UserError("a discriminator alone does not tell how many of its channels belong to which domain")
        return [both // 2, both // 2]
    return [layouts.the_only(counts, "the number of channels") for counts in (found[0], found[1])]

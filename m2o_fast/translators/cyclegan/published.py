"""Published CycleGAN weights, in and out.

A state dict per net: ``G_A`` makes images of B from those of A, and ``D_A`` judges images of B; ``G_B`` and ``D_B``
the other way round. Nets may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from m2o_fast.errors import UserError
from m2o_fast.translators import state_dicts as layouts
from m2o_fast.translators.cyclegan import SYSTEM
from m2o_fast.translators.cyclegan.settings import CycleGANSettings, Size
from m2o_fast.translators.cyclegan.translator import CycleGAN
from m2o_fast.translators.state_dicts import StateDict, dimension

NETS = ("G_A", "G_B", "D_A", "D_B")
#: Name of the file of a net; each holds one state dict.
FILE = "latest_net_{net}.pth"
#: Index of the domain that a net makes images of, or judges.
_TARGETS = {"G_A": 1, "G_B": 0, "D_A": 1, "D_B": 0}


def from_official(
    state_dicts: Mapping[str, StateDict], domains: Sequence[str] | None = None, image_size: int = 256
) -> CycleGAN:
    """A translator with published weights, in evaluation mode.

    Args:
        state_dicts: Net name -> state dict in the published layout; any of ``NETS``.
        domains: Names of the domains; ``None``: ``A`` and ``B``.
        image_size: Side length in pixels that the nets were trained with, which their shapes do not tell. Images of any
            size can be translated.

    Returns:
        A translator whose functions are those of the published nets in evaluation mode, in the weights' dtype.

    Raises:
        UserError: Lists what is missing, superfluous or does not fit.
    """
    nets = layouts.checked_nets(state_dicts, NETS)
    known, size = layouts.domains_of(domains, _channels(nets)), _size(nets, image_size)
    made, judged = ["G_B" in nets, "G_A" in nets], ["D_B" in nets, "D_A" in nets]
    return layouts.loaded(
        lambda: CycleGAN(known, SYSTEM.variants["plain"], size, generators=made, discriminators=judged),
        lambda translator, name: [published_net(translator, name)],
        nets,
    )


def to_official(translator: CycleGAN) -> dict[str, dict[str, Tensor]]:
    """The published state dicts of a translator's nets, those that there are.

    Raises:
        UserError: A generator has a style, for which there is no published layout.
    """
    if translator.styled:
        name = translator.domains[translator.styled[0]].name
        raise UserError(f"the generator into domain {name!r} has a style, for which there is no published layout")
    return {name: layouts.saved(*published_net(translator, name)) for name in NETS if _has(translator, name)}


def _has(translator: CycleGAN, name: str) -> bool:
    kind = translator.generators if name.startswith("G") else translator.discriminators
    return str(_TARGETS[name]) in kind


def published_net(translator: CycleGAN, name: str) -> tuple[Any, dict[str, str]]:
    """Our net of a published name, and how its names become published ones."""
    size, key = translator.size, str(_TARGETS[name])
    if name.startswith("G"):
        return translator.generators[key], _generator_prefixes(size.blocks)
    return translator.discriminators[key], layouts.patch_discriminator_prefixes(size.discriminator_layers)


def _generator_prefixes(blocks: int) -> dict[str, str]:
    prefixes = {"stem.": "model.1.", "stem_norm.batch.": "model.2.", "head.": f"model.{blocks + 17}."}
    for k in range(2):
        prefixes |= {f"down.{k}.": f"model.{3 * k + 4}.", f"down_norm.{k}.batch.": f"model.{3 * k + 5}."}
        up = blocks + 10 + 3 * k
        prefixes |= {f"up.{k}.": f"model.{up}.", f"up_norm.{k}.batch.": f"model.{up + 1}."}
    for k in range(blocks):
        layers = {"conv1": 1, "norm1.batch": 2, "conv2": 5, "norm2.batch": 6}
        prefixes |= {f"blocks.{k}.{ours}.": f"model.{k + 10}.conv_block.{at}." for ours, at in layers.items()}
    return prefixes


def _blocks(net: StateDict, name: str) -> int:
    if any(re.fullmatch(r"model\.\d+\.conv_block\.6\.weight", key) and net[key].dim() == 4 for key in net):
        raise UserError(f"{name}: its residual blocks have dropout, which CycleGAN has not")
    width = 4 * dimension(net, name, "model.1.weight", 0)
    blocks = layouts.numbered(net, lambda k: (f"model.{k + 10}.conv_block.1.weight", [width, width, 3, 3]))
    if not blocks:
        raise UserError(f"{name}: expected a ResNet generator (model.10.conv_block.1.weight, ...)")
    return blocks


def _size(nets: Mapping[str, StateDict], image_size: int) -> Size:
    generators = {name: net for name, net in nets.items() if name.startswith("G")}
    judges = {name: net for name, net in nets.items() if name.startswith("D")}
    if problem := SYSTEM.sizes.problem(image_size):
        raise UserError(problem)
    read: dict[str, Any] = {"norm": layouts.the_only(_norms(generators, judges), "the norm")}
    if generators:
        widths = {name: dimension(net, name, "model.1.weight", 0) for name, net in generators.items()}
        read["width"] = layouts.the_only(widths, "the width")
        blocks = {name: _blocks(net, name) for name, net in generators.items()}
        read["blocks"] = layouts.the_only(blocks, "the number of residual blocks")
    if judges:
        layers = {name: layouts.patch_discriminator_layers(net, name) for name, net in judges.items()}
        read["discriminator_layers"] = layouts.the_only(layers, "the number of layers")
        widths = {name: dimension(net, name, _first(net), 0) for name, net in judges.items()}
        read["discriminator_width"] = layouts.the_only(widths, "the width")
    settings = layouts.settings_of(CycleGANSettings, read)
    return Size(**settings.sizes(image_size))


def _norms(generators: Mapping[str, StateDict], judges: Mapping[str, StateDict]) -> dict[str, str]:
    norms: dict[str, str] = {name: layouts.norm_of(net, name, "model.1", "model.2") for name, net in generators.items()}
    for name, net in judges.items():
        at = ("model.2", "model.3") if "model.0.weight" in net else ("net.2", "net.3")
        norms[name] = layouts.norm_of(net, name, *at)
    return norms


def _first(judge: StateDict) -> str:
    return "model.0.weight" if "model.0.weight" in judge else "net.0.weight"


def _channels(nets: Mapping[str, StateDict]) -> list[int]:
    """Of both domains, where a net tells them, otherwise as many as the other's."""
    found: dict[int, dict[str, int]] = {0: {}, 1: {}}
    for name, net in nets.items():
        target = _TARGETS[name]
        if name.startswith("D"):
            found[target][name] = dimension(net, name, _first(net), 1)
        else:
            found[1 - target][name] = dimension(net, name, "model.1.weight", 1)
            found[target][name] = dimension(net, name, f"model.{_blocks(net, name) + 17}.weight", 0)
    channels = {k: layouts.the_only(counts, "the number of channels") for k, counts in found.items() if counts}
    return [channels.get(k, next(iter(channels.values()))) for k in range(2)]

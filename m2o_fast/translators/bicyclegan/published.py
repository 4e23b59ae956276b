"""Published BicycleGAN weights, in and out.

A state dict per net of the direction from A to B: generator ``G``, style encoder ``E``, discriminators ``D`` and, of
drawn styles, ``D2``; ``G_BA``, ``E_BA``, ``D_BA`` and ``D2_BA`` of the other one. Generators are those in which the
style enters every level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from m2o_fast.errors import UserError
from m2o_fast.translators import state_dicts as layouts
from m2o_fast.translators.bicyclegan import SYSTEM
from m2o_fast.translators.bicyclegan.settings import BicycleGANSettings, Size
from m2o_fast.translators.bicyclegan.translator import BicycleGAN
from m2o_fast.translators.state_dicts import StateDict, dimension

_OF_B, _OF_A = ("G", "E", "D", "D2"), ("G_BA", "E_BA", "D_BA", "D2_BA")
NETS = (*_OF_B, *_OF_A)
#: Name of the file of a net; each holds one state dict.
FILE = "latest_net_{net}.pth"

_FIRST = "model.down.0.weight"


def from_official(
    state_dicts: Mapping[str, StateDict],
    domains: Sequence[str] | None = None,
    image_size: int | None = None,
    dropout: bool = True,
) -> BicycleGAN:
    """A translator with published weights, in evaluation mode.

    Which nets there are tells what was learned: with ``E``, ``D`` and no ``D2`` the autoencoder alone, with ``D2`` and
    no ``D`` the latent regressor, with ``D`` alone pix2pix with noise, else the hybrid.

    Args:
        state_dicts: Net name -> state dict in the published layout; ``G`` and any other of ``NETS``, of the other
            direction the same ones or none.
        domains: Names of the domains; ``None``: ``A`` and ``B``.
        image_size: Side length in pixels that the nets were trained with; ``None``: the smallest that the generator
            takes, as published. Images of any multiple of that can be translated.
        dropout: Whether the generators were trained with dropout, which their shapes do not tell. It has no effect in
            evaluation mode.

    Returns:
        A translator whose functions are those of the published nets in evaluation mode, in the weights' dtype. Style
        encoders take the mean over all pixels in place of 8x8 of them, which is the same at the published sizes.

    Raises:
        UserError: Lists what is missing, superfluous or does not fit.
    """
    given = layouts.checked_nets(state_dicts, NETS)
    for name in [name for name in ("G", "G_BA") if name == "G" or any(net in given for net in _OF_A)]:
        if name not in given:
            raise UserError(f"missing nets: {name}")
    there = [name for name in _OF_B[1:] if name in given]
    if "G_BA" in given and [f"{name}_BA" for name in there] != [name for name in _OF_A[1:] if name in given]:
        raise UserError(f"the nets do not belong together: {', '.join(given)}; give the same ones of both directions")
    known, size = layouts.domains_of(domains, _channels(given)), _size(given, image_size, dropout)
    return layouts.loaded(lambda: BicycleGAN(known, SYSTEM.variants["plain"], size, nets=there), published_net, given)


def to_official(translator: BicycleGAN) -> dict[str, dict[str, Tensor]]:
    """The published state dicts of a translator's nets, those that there are. A shared trunk is in both generators.

    Raises:
        UserError: A generator has no style, for which there is no published layout.
    """
    targets = {target for _, target in translator.directions()}
    if plain := [translator.domains[k].name for k in targets if k not in translator.styled]:
        raise UserError(f"the generator into domain {plain[0]!r} has no style, for which there is no published layout")
    names = [name for name in NETS if _target(name) in targets and _has(translator, name)]
    return {
        name: {key: tensor for part in published_net(translator, name) for key, tensor in layouts.saved(*part).items()}
        for name in names
    }


def _target(name: str) -> int:
    """Index of the domain that a net makes images of, reads or judges."""
    return 0 if name.endswith("_BA") else 1


def _has(translator: BicycleGAN, name: str) -> bool:
    kind, k = name.removesuffix("_BA"), _target(name)
    if kind in ("D", "D2"):
        return f"{kind}_{k}" in translator.discriminators
    return kind == "G" or str(k) in translator.encoders


def published_net(translator: BicycleGAN, name: str) -> layouts.Parts:
    """Our layers that a net of a published name consists of, in its order, each with its name there."""
    return [(layer, {"": published}) for published, layer in _layers_of(translator, name).items()]


def _layers_of(translator: BicycleGAN, name: str) -> dict[str, nn.Module]:
    kind, k = name.removesuffix("_BA"), _target(name)
    if kind == "G":
        return _unet_layers(translator, k)
    if kind == "E":
        return _encoder_layers(translator.encoders[str(k)])
    judge: Any = translator.discriminators[f"{kind}_{k}"]
    prefixes = layouts.patch_discriminator_prefixes(translator.size.discriminator_layers)
    return {
        theirs.replace("model.", f"model_{scale}."): net.convs[layer]
        for scale, net in enumerate(judge.scales)
        for layer, theirs in enumerate(theirs for ours, theirs in prefixes.items() if ours.startswith("convs."))
    }


def _level(k: int) -> str:
    """Each level of the published U-Net is a module of the one around it."""
    return "model." + "submodule." * k


def _unet_layers(translator: BicycleGAN, k: int) -> dict[str, nn.Module]:
    net = translator.generators.into(k)
    down = {f"{_level(level)}down.1.": layer for level, layer in enumerate(net.down, start=1)}
    up = {f"{_level(level)}up.1.": layer for level, layer in enumerate(net.up, start=1)}
    outermost = {f"{_level(0)}down.0.": net.first[str(k)]}
    return {**outermost, **down, **dict(reversed(up.items())), f"{_level(0)}up.1.": net.last[str(k)]}


def _encoder_layers(net: Any) -> dict[str, nn.Module]:
    layers = {"fc.0.": net.mean, "fcVar.0.": net.log_variance, "conv.0.": net.stem}
    for k, block in enumerate(net.blocks, start=1):
        layers |= {f"conv.{k}.conv.2.": block.conv1, f"conv.{k}.conv.5.0.": block.conv2}
        layers[f"conv.{k}.shortcut.1."] = block.conv1x1
    return layers


# --- sizes ------------------------------------------------------------------------------------------------------------


def _style_dim(net: StateDict, name: str) -> int:
    planes = dimension(net, name, f"{_level(1)}down.1.weight", 1) - dimension(net, name, _FIRST, 0)
    if not 1 <= planes < dimension(net, name, _FIRST, 1):
        raise UserError(f"{name}: expected a U-Net with a style at every level ({_level(1)}down.1.weight, ...)")
    return planes


def _levels(net: StateDict, name: str) -> int:
    width, planes = dimension(net, name, _FIRST, 0), _style_dim(net, name)

    def below_the_first(k: int) -> tuple[str, list[int]]:
        above, own = (width * 2 ** min(level, 3) for level in (k, k + 1))
        return f"{_level(k + 1)}down.1.weight", [own, above + planes, 4, 4]

    return 1 + layouts.numbered(net, below_the_first)


def _blocks(net: StateDict, name: str) -> int:
    width = dimension(net, name, "conv.0.weight", 0)

    def first_of_a_block(k: int) -> tuple[str, list[int]]:
        wide = width * min(k + 1, 4)
        return f"conv.{k + 1}.conv.2.weight", [wide, wide, 3, 3]

    return layouts.numbered(net, first_of_a_block)


def _scales(net: StateDict, name: str) -> int:
    width, channels = (dimension(net, name, "model_0.0.weight", axis) for axis in (0, 1))
    return layouts.numbered(net, lambda k: (f"model_{k}.0.weight", [round(width / 2**k), channels, 4, 4]))


def _layers(net: StateDict, name: str) -> int:
    finest = {key.replace("model_0.", "model.", 1): tensor for key, tensor in net.items()}
    return layouts.patch_discriminator_layers(finest, name)


#: by kind of net, what is read off its weights, as fields of :class:`Size`
_READ: dict[str, dict[str, Callable[[StateDict, str], int]]] = {
    "G": {"width": lambda net, name: dimension(net, name, _FIRST, 0), "levels": _levels, "style_dim": _style_dim},
    "E": {"encoder_width": lambda net, name: dimension(net, name, "conv.0.weight", 0), "encoder_blocks": _blocks},
    "D": {
        "discriminator_width": lambda net, name: dimension(net, name, "model_0.0.weight", 0),
        "discriminator_layers": _layers,
        "scales": _scales,
    },
}


def _size(given: Mapping[str, StateDict], image_size: int | None, dropout: bool) -> Size:
    judges = {name for name in ("D", "D2") if name in given}
    alone: dict[tuple[str, ...], str] = {("D",): "cvae" if "E" in given else "pix2pix_noise", ("D2",): "clr"}
    read: dict[str, Any] = {
        "kind": alone.get(tuple(judges), "bicycle"),
        "direction": "both" if "G_BA" in given else "A->B",
        "dropout": dropout,
    }
    for kind, fields in _READ.items():
        nets = {name: net for name, net in given.items() if name.startswith(kind)}
        for field, of in fields.items() if nets else ():
            found = {name: of(net, name) for name, net in nets.items()}
            read[field] = layouts.the_only(found, f"{field.replace('_', ' ')}")
    side = image_size or max(2 ** read["levels"], SYSTEM.sizes.smallest)
    settings = layouts.settings_of(BicycleGANSettings, read)
    try:
        settings.check(side, SYSTEM.variants["plain"])
    except ValueError as error:
        raise UserError(str(error)) from error
    return Size(**settings.sizes(side))


def _channels(given: Mapping[str, StateDict]) -> list[int]:
    """Of both domains; style encoders and discriminators must agree."""
    found: dict[int, dict[str, int]] = {0: {}, 1: {}}
    for name, net in given.items():
        target = _target(name)
        if name.startswith("G"):
            found[1 - target][name] = dimension(net, name, _FIRST, 1) - _style_dim(net, name)
            found[target][name] = dimension(net, name, f"{_level(0)}up.1.weight", 1)
        else:
            first = "conv.0.weight" if name.startswith("E") else "model_0.0.weight"
            found[target][name] = dimension(net, name, first, 1)
    return [layouts.the_only(counts, "the number of channels") for counts in found.values()]

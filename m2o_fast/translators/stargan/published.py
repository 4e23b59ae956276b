"""Published StarGAN weights, in and out.

State dicts of the generator ``G`` and the discriminator ``D``, which may be missing. Instance norms carry running
statistics, which training updates and nothing uses: the generator is never put into evaluation mode. They are dropped,
and made anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.translators import state_dicts as layouts
from m2o_fast.translators.stargan import SYSTEM
from m2o_fast.translators.stargan.settings import Size
from m2o_fast.translators.stargan.translator import StarGANv1
from m2o_fast.translators.state_dicts import Parts, StateDict, dimension, numbered

NETS = ("G", "D")
#: Name of the file of a net; published names have the number of iterations.
FILE = "200000-{net}.ckpt"
_SIDE = 256

#: names of the statistics that norms carry, and of the weight before them
_STATISTIC = re.compile(r"(main\.\d+\.(?:main\.\d+\.)?)(?:running_mean|running_var|num_batches_tracked)"), r"\1weight"


def from_official(
    state_dicts: Mapping[str, StateDict],
    labels: Sequence[str] | Sequence[Sequence[str]] | None = None,
    domains: Sequence[str] | None = None,
    image_size: int | None = None,
) -> StarGANv1:
    """A translator with published weights, in evaluation mode.

    Args:
        state_dicts: ``G`` -> its state dict in the published layout; ``D`` may be missing.
        labels: Names of the labels in their order, of which every one is a domain; of nets that were trained on several
            data sets, a list of them for each. ``None``: ``domain0``, ``domain1``, ... of one data set.
        domains: The same as ``labels``, for one data set.
        image_size: Side length in pixels that the nets were trained with; ``None``: what ``D`` tells, 256 without it.
            Images of any multiple of 4 can be translated.

    Returns:
        A translator whose functions are those of the published nets as they are used, with statistics of each image, in
        the weights' dtype.

    Raises:
        UserError: Lists what is missing, superfluous or does not fit.
    """
    given = layouts.checked_nets(state_dicts, NETS, dropped=_STATISTIC)
    if "G" not in given:
        raise UserError("missing net: G")
    if labels is not None and domains is not None:
        raise UserError("labels and domains are the same; give one of them")
    size = _size(given, image_size)
    sets = _label_sets(given, labels if domains is None else domains, size.blocks)
    channels = _channels(given, size.blocks)
    try:
        named = SYSTEM.variants["plain"].resolve([Domain(name, channels) for names in sets for name in names])
    except ValueError as error:
        raise UserError(str(error)) from error
    numbers = [len(names) for names in sets]
    return layouts.loaded(
        lambda: StarGANv1(named, SYSTEM.variants["plain"], size, label_sets=numbers, discriminator="D" in given),
        published_net,
        given,
    )


def to_official(translator: StarGANv1) -> dict[str, dict[str, Tensor]]:
    """The published state dicts of a translator's nets, those that there are.

    Raises:
        UserError: Domains have layers of their own, for which there is no published layout.
    """
    if translator.rules.domain_layers is not None:
        raise UserError("the domains have layers of their own, for which there is no published layout")
    names = [name for name in NETS if name == "G" or translator.discriminator is not None]
    found = {name: layouts.saved(*published_net(translator, name)[0]) for name in names}
    return {name: dict(_with_statistics(_heads_last(net))) for name, net in found.items()}


def published_net(translator: StarGANv1, name: str) -> Parts:
    """Our net of a published name, and how its names become published ones."""
    if name == "G":
        return [(translator.generator, generator_prefixes(translator.size.blocks))]
    convs = {f"convs.{k}.": f"main.{2 * k + 2}." for k in range(translator.size.discriminator_layers - 1)}
    net: Any = translator.discriminator
    return [(net, {"stems.0.": "main.0.", **convs, "score.": "conv1.", "classes.": "conv2."})]


def generator_prefixes(blocks: int) -> dict[str, str]:
    """Of a generator whose domains share first and last layers."""
    prefixes = {"stems.0.": "main.0.", "heads.0.": f"main.{blocks + 15}."}
    prefixes |= {f"down.{k}.": f"main.{3 * k + 3}." for k in range(2)}
    prefixes |= {f"down_norm.{k}.": f"main.{3 * k + 1}." for k in range(3)}
    for k in range(blocks):
        layers = {"conv1": 0, "norm1": 1, "conv2": 3, "norm2": 4}
        prefixes |= {f"blocks.{k}.{ours}.": f"main.{k + 9}.main.{at}." for ours, at in layers.items()}
    for k in range(2):
        prefixes |= {f"up.{k}.": f"main.{blocks + 3 * k + 9}.", f"up_norm.{k}.": f"main.{blocks + 3 * k + 10}."}
    return prefixes


def _heads_last(net: StateDict) -> StateDict:
    return dict(sorted(net.items(), key=lambda item: not item[0].startswith("main.")))


def _with_statistics(net: StateDict) -> Iterator[tuple[str, Tensor]]:
    """With what published norms carry: means of 0, variances of 1, no batch seen."""
    for key, tensor in net.items():
        yield key, tensor
        layer, _, kind = key.rpartition(".")
        if kind == "bias" and net[f"{layer}.weight"].dim() == 1:
            yield f"{layer}.running_mean", torch.zeros_like(tensor)
            yield f"{layer}.running_var", torch.ones_like(tensor)
            yield f"{layer}.num_batches_tracked", torch.tensor(0)


# --- sizes ------------------------------------------------------------------------------------------------------------

_STEM = "main.0.weight"
_CLASSES = "conv2.weight"


def _size(given: Mapping[str, StateDict], image_size: int | None) -> Size:
    generator, judge = given["G"], given.get("D")
    read = {"width": dimension(generator, "G", _STEM, 0), "blocks": _blocks(generator), "discriminator_layers": 1}
    if not read["blocks"]:
        raise UserError("G: expected two halvings and residual blocks (main.9.main.0.weight)")
    side = image_size
    if judge is not None:
        read["discriminator_width"] = dimension(judge, "D", _STEM, 0)
        layers = read["discriminator_layers"] = _layers(judge)
        seen = dimension(judge, "D", _CLASSES, 2)
        side = seen << layers if image_size is None else image_size
        if side >> layers != seen:
            raise UserError(f"D: classes are read off {seen}x{seen} places of {layers} halvings, not of {side} pixels")
    if problem := SYSTEM.sizes.problem(_SIDE if side is None else side):
        raise UserError(problem)
    return Size(**read, image_size=_SIDE if side is None else side)


def _blocks(generator: StateDict) -> int:
    wide = 4 * generator[_STEM].shape[0]
    return numbered(generator, lambda k: (f"main.{k + 9}.main.0.weight", [wide, wide, 3, 3]))


def _layers(judge: StateDict) -> int:
    """Layers of stride 2, each with twice the channels of that before."""
    width, channels = judge[_STEM].shape[:2]
    return numbered(judge, lambda k: (f"main.{2 * k}.weight", [width << k, width << k - 1 if k else channels, 4, 4]))


def _channels(given: Mapping[str, StateDict], blocks: int) -> int:
    found = {"G": dimension(given["G"], "G", f"main.{blocks + 15}.weight", 0)}
    if "D" in given:
        found["D"] = dimension(given["D"], "D", _STEM, 1)
    return layouts.the_only(found, "the number of channels")


def _label_sets(given: Mapping[str, StateDict], labels: Any, blocks: int) -> list[list[str]]:
    """Names of labels by data set, as many as the nets have."""
    length = dimension(given["G"], "G", _STEM, 1) - _channels(given, blocks)
    if labels is None:
        labels = [f"domain{k}" for k in range(length)]
    if isinstance(labels, str) or not isinstance(labels, Sequence) or not labels:
        raise UserError("labels: expected a list of names, or of several data sets a list of lists")
    sets = [list(labels)] if all(isinstance(name, str) for name in labels) else [*map(_names, labels)]
    known = sum(map(len, sets))
    classes = dimension(given["D"], "D", _CLASSES, 0) if "D" in given else known
    mask = len(sets) if len(sets) > 1 else 0
    if known + mask != length or classes != known:
        said = f"{known} names" + (f" in {mask} data sets" if mask else "")
        judged = f" and D {classes}" if "D" in given else ""
        raise UserError(
            f"labels: G takes {length} numbers{judged}, but {said} were given, which are {known + mask} numbers; of "
            "nets of several data sets, which have one more for each, give a list of names for each"
        )
    return sets


def _names(names: Any) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UserError("labels: expected a list of names, or of several data sets a list of lists")
    return list(names)

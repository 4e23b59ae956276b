"""Published MUNIT weights, in and out.

A state dict of encoders, decoder and MLP per domain, ``gen_a`` and ``gen_b``, and one of its discriminator, ``dis_a``
and ``dis_b``; the files ``gen`` and ``dis`` hold them as ``a`` and ``b``. Discriminators may be missing. Their AdaIN
layers carry running statistics that nothing changes or uses: these are dropped, and made anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from m2o_fast.errors import UserError
from m2o_fast.translators import reflected_layout as reflected
from m2o_fast.translators import state_dicts as layouts
from m2o_fast.translators.munit import SYSTEM
from m2o_fast.translators.munit.settings import MUNITSettings, Size
from m2o_fast.translators.munit.translator import MUNIT
from m2o_fast.translators.state_dicts import Parts, StateDict, dimension

NETS = ("gen_a", "gen_b", "dis_a", "dis_b")
#: A file, and by key in it the net.
FILES = {name: {letter: f"{name}_{letter}" for letter in "ab"} for name in ("gen", "dis")}
#: Name of a file; each holds the nets of both domains. Published names have the number of iterations.
FILE = "{net}_00000000.pt"

_STEM = reflected.stem("enc_content")


def from_official(state_dicts: Mapping[str, Any], domains: Sequence[str] | None = None, image_size: int = 256) -> MUNIT:
    """A translator with published weights, in evaluation mode.

    Args:
        state_dicts: Net name -> state dict in the published layout, both ``gen_a`` and ``gen_b`` and any of ``dis_a``
            and ``dis_b``; or ``gen`` and ``dis``, each with ``a`` and ``b``.
        domains: Names of the domains; ``None``: ``A`` and ``B``.
        image_size: Side length in pixels that the nets were trained with, which their shapes do not tell. Images of any
            multiple of 4 can be translated.

    Returns:
        A translator whose functions are those of the published nets, in the weights' dtype.

    Raises:
        UserError: Lists what is missing, superfluous or does not fit.
    """
    given = layouts.checked_nets(layouts.taken_apart(state_dicts, FILES), NETS, dropped=_STATISTIC)
    if missing := [name for name in NETS[:2] if name not in given]:
        raise UserError(f"missing nets: {', '.join(missing)}")
    channels = _channels(given)
    for name in NETS[:2]:
        if not reflected.encoder_blocks(given[name], "enc_content"):
            raise UserError(
                f"{name}: expected a content encoder of two halvings and residual blocks (enc_content.model.3.)"
            )
    known, size = layouts.domains_of(domains, channels), _size(given, image_size)
    judged = ["dis_a" in given, "dis_b" in given]
    return layouts.loaded(
        lambda: MUNIT(known, SYSTEM.variants["plain"], size, discriminators=judged), published_net, given
    )


def to_official(translator: MUNIT) -> dict[str, dict[str, Tensor]]:
    """The published state dicts of a translator's nets, those that there are.

    Raises:
        UserError: A domain has no style, for which there is no published layout.
    """
    if plain := [domain.name for k, domain in enumerate(translator.domains) if k not in translator.styled]:
        raise UserError(f"domain {plain[0]!r} has no style, for which there is no published layout")
    found = {}
    for name in NETS:
        if name.startswith("gen") or str("ab".index(name[-1])) in translator.discriminators:
            parts = (layouts.saved(*part).items() for part in published_net(translator, name))
            found[name] = _with_statistics(key_and_tensor for part in parts for key_and_tensor in part)
    return found


#: names of the statistics that AdaIN layers carry, and of the weight before them
_STATISTIC = re.compile(r"(dec\.model\.0\.model\.\d+\.model\.[01]\.)norm\.running_(?:mean|var)"), r"\1conv.weight"


def _with_statistics(tensors: Any) -> dict[str, Tensor]:
    """With what the published AdaIN layers carry, in front of their convolutions: means of 0, variances of 1."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors:
        if re.fullmatch(r"dec\.model\.0\..*\.conv\.weight", key):
            norm = key.removesuffix("conv.weight") + "norm.running_"
            found |= {
                f"{norm}mean": torch.zeros_like(tensor[:, 0, 0, 0]),
                f"{norm}var": torch.ones_like(tensor[:, 0, 0, 0]),
            }
        found[key] = tensor
    return found


def published_net(translator: MUNIT, name: str) -> Parts:
    """Our nets that one of a published name consists of, in its order, and how their names become published ones."""
    k, size = "ab".index(name[-1]), translator.size
    if name.startswith("dis"):
        prefixes = reflected.discriminator_prefixes(size.discriminator_layers, size.scales)
        return [(translator.discriminators[str(k)], prefixes)]
    net: Any = translator.generators[k]
    return [
        (net.style_encoder, _style_encoder_prefixes(len(net.style_encoder.down))),
        (net.content_encoder, reflected.encoder_prefixes("enc_content", size.blocks)),
        (net.decoder, reflected.decoder_prefixes("dec", size.blocks)),
        (net.mlp, {f"{2 * layer}.": f"mlp.model.{layer}.fc." for layer in range(3)}),
    ]


def _style_encoder_prefixes(halvings: int) -> dict[str, str]:
    down = {f"down.{k}.": f"enc_style.model.{k + 1}.conv." for k in range(halvings)}
    return {"stem.": "enc_style.model.0.conv.", **down, "head.": f"enc_style.model.{halvings + 2}."}


def _size(given: Mapping[str, StateDict], image_size: int) -> Size:
    generators = {name: net for name, net in given.items() if name.startswith("gen")}
    judges = {name: net for name, net in given.items() if name.startswith("dis")}
    if problem := SYSTEM.sizes.problem(image_size):
        raise UserError(problem)
    read: dict[str, Any] = {}
    for field, what, of in (
        ("width", "the width", lambda net, name: dimension(net, name, _STEM, 0)),
        ("blocks", "the number of residual blocks", lambda net, name: reflected.encoder_blocks(net, "enc_content")),
        ("style_dim", "the length of a style", lambda net, name: dimension(net, name, "enc_style.model.6.weight", 0)),
        ("mlp_width", "the width of the MLP", _mlp_width),
    ):
        read[field] = layouts.the_only({name: of(net, name) for name, net in generators.items()}, what)
    for field, what, of in (
        ("discriminator_width", "the width", lambda net, name: dimension(net, name, reflected.FIRST, 0)),
        ("discriminator_layers", "the number of layers", lambda net, name: reflected.discriminator_layers(net)),
        ("scales", "the number of scales", lambda net, name: reflected.discriminator_scales(net)),
    ):
        if judges:
            read[field] = layouts.the_only({name: of(net, name) for name, net in judges.items()}, what)
    settings = layouts.settings_of(MUNITSettings, read)
    try:
        settings.check(image_size, SYSTEM.variants["plain"])
    except ValueError as error:
        raise UserError(str(error)) from None
    return Size(**settings.sizes(image_size))


def _mlp_width(net: StateDict, name: str) -> int:
    key = "mlp.model.1.fc.weight"
    if key not in net or net[key].dim() != 2 or net[key].shape[0] != net[key].shape[1]:
        raise UserError(f"{name}: missing {key} with as many rows as columns, from which sizes are read")
    return net[key].shape[0]


def _channels(given: Mapping[str, StateDict]) -> list[int]:
    """Of both domains; a discriminator must agree."""
    channels = []
    for letter in "ab":
        found = {f"gen_{letter}": dimension(given[f"gen_{letter}"], f"gen_{letter}", _STEM, 1)}
        if f"dis_{letter}" in given:
            found[f"dis_{letter}"] = dimension(given[f"dis_{letter}"], f"dis_{letter}", reflected.FIRST, 1)
        channels.append(layouts.the_only(found, "the number of channels"))
    return channels

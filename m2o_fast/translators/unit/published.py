"""Published UNIT weights, in and out.

The re-release has a state dict of encoder and decoder per domain, ``gen_a`` and ``gen_b``, and one of its
discriminator, ``dis_a`` and ``dis_b``; or files ``gen`` and ``dis`` hold them as ``a`` and ``b``. The paper's form has
one of both domains each, ``gen`` and ``dis``. Discriminators may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from m2o_fast.errors import UserError
from m2o_fast.translators import reflected_layout as reflected
from m2o_fast.translators import state_dicts as layouts
from m2o_fast.translators.state_dicts import Parts, StateDict, dimension
from m2o_fast.translators.unit import SYSTEM
from m2o_fast.translators.unit.settings import Size, UNITSettings, Weights
from m2o_fast.translators.unit.translator import UNIT

#: By form; both domains' generators are needed.
_NETS = {"rerelease": ("gen_a", "gen_b", "dis_a", "dis_b"), "paper": ("gen", "dis")}
NETS = (*_NETS["rerelease"], *_NETS["paper"])
#: Of the re-release: a file, and by key in it the net. The paper's form has a net in each.
FILES = {name: {letter: f"{name}_{letter}" for letter in "ab"} for name in ("gen", "dis")}
FILE = "{net}_00000000.pt"


def from_official(
    state_dicts: Mapping[str, Any],
    domains: Sequence[str] | None = None,
    image_size: int = 256,
    form: str | None = None,
) -> UNIT:
    """A translator with published weights, in evaluation mode.

    Residual blocks next to the latent whose weights are the same in both domains are shared.

    Args:
        state_dicts: Net name -> state dict in the published layout: ``gen_a``, ``gen_b``, ``dis_a``, ``dis_b``, or
            ``gen`` and ``dis`` with ``a`` and ``b`` in them; of the paper's form ``gen`` and ``dis``.
        domains: Names of the domains; ``None``: ``A`` and ``B``.
        image_size: Side length in pixels that the nets were trained with, which their shapes do not tell. Images of any
            multiple of 4 can be translated.
        form: ``"rerelease"`` or ``"paper"``; ``None``: that of the names of the nets.

    Returns:
        A translator whose functions are those of the published nets in evaluation mode, in the weights' dtype; the
        weights of its losses are those of the form.

    Raises:
        UserError: Lists what is missing, superfluous or does not fit.
    """
    given = layouts.taken_apart(state_dicts, FILES)
    form = _form(given, form)
    nets = layouts.checked_nets(given, _NETS[form])
    if missing := [name for name in _NETS[form] if name.startswith("gen") and name not in nets]:
        raise UserError(f"missing nets: {', '.join(missing)}")
    channels, model = (_paper if form == "paper" else _rerelease)(nets)
    settings = _checked(model, image_size)
    known, size, weights = layouts.domains_of(domains, channels), settings.sizes(image_size), settings.weights()
    judged = [form == "paper" and "dis" in nets or f"dis_{letter}" in nets for letter in "ab"]
    return layouts.loaded(
        lambda: UNIT(known, SYSTEM.variants["plain"], Size(**size), Weights(**weights), discriminators=judged),
        published_net,
        nets,
    )


def to_official(translator: UNIT) -> dict[str, dict[str, Tensor]]:
    """The published state dicts of a translator's nets, those that there are.

    Of the re-release, shared blocks are in those of both domains.

    Raises:
        UserError: A decoder has a style, for which there is no published layout.
    """
    if translator.styled:
        name = translator.domains[translator.styled[0]].name
        raise UserError(f"the decoder of domain {name!r} has a style, for which there is no published layout")
    return {
        name: {key: tensor for part in published_net(translator, name) for key, tensor in layouts.saved(*part).items()}
        for name in _NETS[translator.size.form]
        if name.startswith("gen") or translator.discriminators.judges("ab".find(name[-1]) if "_" in name else 0)
    }


def published_net(translator: UNIT, name: str) -> Parts:
    """Our nets that a published one consists of."""
    if translator.size.form == "paper":
        return _paper_generator(translator) if name == "gen" else _paper_discriminator(translator)
    k, size = "ab".index(name[-1]), translator.size
    if name.startswith("gen"):
        return _generator(translator, k)
    prefixes = reflected.discriminator_prefixes(size.discriminator_layers, size.scales)
    return [(translator.discriminators.own[str(k)], prefixes)]


def _form(given: Any, form: str | None) -> str:
    """That of the names of the nets, which must be the one that was asked for."""
    if form is not None and form not in _NETS:
        raise UserError(f"unknown form {form!r}; the forms are {', '.join(_NETS)}")
    names = given.keys() if isinstance(given, Mapping) else ()
    found = [one for one, nets in _NETS.items() if set(nets) & set(names)]
    if form and found and form not in found:
        raise UserError(
            f"the nets {', '.join(map(str, names))[:200]} are of form {found[0]!r}, not {form!r}; leave it out"
        )
    return form or (found[-1] if found else "rerelease")


def _checked(model: dict[str, Any], image_size: int) -> UNITSettings:
    if problem := SYSTEM.sizes.problem(image_size):
        raise UserError(problem)
    settings = layouts.settings_of(UNITSettings, model)
    try:
        settings.check(image_size, SYSTEM.variants["plain"])
    except ValueError as error:
        raise UserError(str(error)) from error
    return settings


# --- the re-release ---------------------------------------------------------------------------------------------------

_ENCODER, _DECODER = "enc.model.3.model", "dec.model.0.model"


def _rerelease(nets: Mapping[str, StateDict]) -> tuple[list[int], dict[str, Any]]:
    """Channels of the domains, and settings of the nets."""
    generators = {name: net for name, net in nets.items() if name.startswith("gen")}
    judges = {name: net for name, net in nets.items() if name.startswith("dis")}
    widths = {name: dimension(net, name, reflected.stem("enc"), 0) for name, net in generators.items()}
    blocks = {name: reflected.encoder_blocks(net, "enc") for name, net in generators.items()}
    read = {
        "width": layouts.the_only(widths, "the width"),
        "blocks": layouts.the_only(blocks, "the number of residual blocks"),
    }
    if not read["blocks"]:
        raise UserError(f"gen_a: expected an encoder with two halvings and residual blocks ({_ENCODER}.0..., ...)")
    read["share"] = _shared(nets["gen_a"], nets["gen_b"], read["blocks"])
    if judges:
        widths = {name: dimension(net, name, reflected.FIRST, 0) for name, net in judges.items()}
        layers = {name: reflected.discriminator_layers(net) for name, net in judges.items()}
        scales = {name: reflected.discriminator_scales(net) for name, net in judges.items()}
        read["discriminator_width"] = layouts.the_only(widths, "the width of discriminators")
        read["discriminator_layers"] = layouts.the_only(layers, "the number of layers")
        read["scales"] = layouts.the_only(scales, "the number of scales")
    channels = [dimension(nets[f"gen_{letter}"], f"gen_{letter}", reflected.stem("enc"), 1) for letter in "ab"]
    return channels, {"form": "rerelease", **read}


def _shared(a: StateDict, b: StateDict, blocks: int) -> int:
    """How many blocks next to the latent have the same weights in both domains."""

    def same(stack: str, number: int) -> bool:
        names = [f"{stack}.{number}.model.{layer}.conv.{kind}" for layer in range(2) for kind in ("weight", "bias")]
        return all(name in a and name in b and torch.equal(a[name], b[name]) for name in names)

    share = 0
    while share < blocks and same(_ENCODER, blocks - 1 - share) and same(_DECODER, share):
        share += 1
    return share


def _generator(translator: UNIT, k: int) -> Parts:
    own, share = translator.size.blocks - translator.size.share, translator.size.share
    net = translator.generator
    return [
        (net.encoders[str(k)], reflected.encoder_prefixes("enc", own)),
        (net.shared_encoder, reflected.block_prefixes("", share, f"{_ENCODER}.", own)),
        (net.shared_decoder, reflected.block_prefixes("", share, f"{_DECODER}.")),
        (net.decoders[str(k)], reflected.decoder_prefixes("dec", own, share)),
    ]


# --- the paper's form -------------------------------------------------------------------------------------------------


def _paper(nets: Mapping[str, StateDict]) -> tuple[list[int], dict[str, Any]]:
    """Channels of the domains, and settings of the nets."""
    net, stems = nets["gen"], [f"encode_{letter}.0.model.0.weight" for letter in "AB"]
    width = dimension(net, "gen", stems[0], 0)
    block = [4 * width, 4 * width, 3, 3]
    share = layouts.numbered(net, lambda k: (f"enc_shared.{k}.model.3.weight", block))
    own = layouts.numbered(net, lambda k: (f"encode_A.{k + 3}.model.3.weight", block))
    read = {"width": width, "blocks": share + own, "share": share}
    if not read["blocks"]:
        raise UserError("gen: expected residual blocks (enc_shared.0.model.0.weight, ...)")
    if judge := nets.get("dis"):
        width = dimension(judge, "dis", "model_A.0.model.0.weight", 0)
        own = 1 + _doubling(judge, "model_A", 1, width)
        deep = _doubling(judge, "model_S", 0, width << own - 1)
        read |= {"discriminator_width": width, "discriminator_layers": own + deep, "discriminator_share": deep}
    return [dimension(net, "gen", stem, 1) for stem in stems], {"form": "paper", **read}


def _doubling(net: StateDict, name: str, first: int, width: int) -> int:
    """How many layers double the channels of what comes in, of so many channels."""
    return layouts.numbered(net, lambda k: (f"{name}.{first + k}.model.0.weight", [2 * width << k, width << k, 3, 3]))


def _paper_generator(translator: UNIT) -> Parts:
    own, share = translator.size.blocks - translator.size.share, translator.size.share
    net = translator.generator
    parts: Parts = []
    for letter, encoder in zip("AB", net.encoders.values(), strict=True):
        front = {f"convs.{layer}.": f"encode_{letter}.{layer}.model.0." for layer in range(3)}
        parts.append((encoder, front | _paper_blocks("blocks.", own, f"encode_{letter}.", 3)))
    parts.append((net.shared_encoder, _paper_blocks("", share, "enc_shared.")))
    parts.append((net.shared_decoder, _paper_blocks("", share, "dec_shared.")))
    for letter, decoder in zip("AB", net.decoders.values(), strict=True):
        back = {f"up.{layer}.": f"decode_{letter}.{own + layer}.model.0." for layer in range(2)}
        back |= _paper_blocks("blocks.", own, f"decode_{letter}.") | {"head.": f"decode_{letter}.{own + 2}."}
        parts.append((decoder, back))
    return parts


def _paper_blocks(ours: str, count: int, theirs: str, first: int = 0) -> dict[str, str]:
    return {
        f"{ours}{block}.conv{k}.": f"{theirs}{first + block}.model.{layer}."
        for block in range(count)
        for k, layer in ((1, 0), (2, 3))
    }


def _paper_discriminator(translator: UNIT) -> Parts:
    share, net = translator.size.discriminator_share, translator.discriminators
    own = translator.size.discriminator_layers - share

    def prefixes(name: str, strided: int, *, head: bool) -> dict[str, str]:
        names = {f"{layer}.": f"{name}.{layer}.model.0." for layer in range(strided)}
        return names | ({f"{strided}.": f"{name}.{strided}."} if head else {})

    parts: Parts = [
        (net.own[str(k)], prefixes(f"model_{letter}", own, head=not share)) for k, letter in enumerate("AB")
    ]
    return [*parts, (net.shared, prefixes("model_S", share, head=True))] if share else parts

"""Published StarGAN v2 weights: from their layout to a :class:`StarGANv2`.

The layout is a dict of state dicts: ``generator``, ``mapping_network``, ``style_encoder`` and optionally
``discriminator``, each with or without a ``module.`` prefix. Image size, widths, style size and the number of domains
are read off the shapes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.nn.style_fit import StyleFit
from m2o_fast.translators import state_dicts as layouts
from m2o_fast.translators.starganv2 import SYSTEM
from m2o_fast.translators.starganv2.settings import Size
from m2o_fast.translators.starganv2.translator import StarGANv2
from m2o_fast.translators.state_dicts import Prefixes, StateDict

NETS = ("generator", "mapping_network", "style_encoder", "discriminator")
#: Name of the file that holds the state dicts of all nets.
FILE = "nets_ema.ckpt"
_OPTIONAL = ("discriminator",)

# Our name -> the published one, by prefix. In the style encoder and the discriminator the published nets count stem,
# residual blocks, activations and convolutions as layers of one sequence; {a} is the 4x4 convolution, {b} the last one.
_PUBLISHED: dict[str, dict[str, str]] = {
    "generator": {
        "stem_in.0.": "from_rgb.",
        "encoder.": "encode.",
        "decoder.": "decode.",
        "stem_out.0.norm.": "to_rgb.0.",
        "stem_out.0.conv.": "to_rgb.2.",
    },
    "mapping_network": {"shared.": "shared.", "heads.": "unshared."},
    "style_encoder": {"stem_in.0.": "shared.0.", "conv4x4.": "shared.{a}.", "heads.": "unshared."},
    "discriminator": {"stem_in.0.": "main.0.", "conv4x4.": "main.{a}.", "head.": "main.{b}."},
}


def from_official(state_dicts: Mapping[str, StateDict], domains: Sequence[str] | None = None) -> StarGANv2:
    """A translator with published StarGAN v2 weights (w_hpf = 0), in evaluation mode.

    Args:
        state_dicts: Net name -> state dict in the published layout; without ``discriminator`` the translator has none.
        domains: Names of the domains in their order (the published data sets sort them by name); ``None``:
            ``domain0``, ``domain1``, ...

    Returns:
        A translator whose functions are those of the published networks, in the weights' dtype.

    Raises:
        UserError: Lists the nets, names and shapes that are missing, superfluous or do not fit.
    """
    nets = _checked_nets(state_dicts)
    size, count = _read_size(nets)
    names = list(domains) if domains is not None else [f"domain{k}" for k in range(count)]
    if len(names) != count:
        raise UserError(f"the weights have {count} domains, but {len(names)} names were given: {', '.join(names)}")
    known, judged = [Domain(name) for name in names], "discriminator" in nets
    return layouts.loaded(
        lambda: StarGANv2(known, ManyToOne.symmetric(), size, discriminator=judged),
        lambda translator, _: [(translator, _prefixes(translator.size))],
        {SYSTEM.title: {f"{net}.{key}": tensor for net, tensors in nets.items() for key, tensor in tensors.items()}},
    )


def to_official(translator: StarGANv2) -> dict[str, dict[str, Tensor]]:
    """The published state dicts of a translator's nets, by net name; the reverse of :func:`from_official`.

    Raises:
        UserError: It has layers of its own for each domain, or another decoder.
    """
    if translator.rules != ManyToOne.symmetric() or not translator.size.as_published:
        raise UserError(
            "there is no published layout for these nets: it has no first and last layers per domain, no domain "
            "without style, no weight demodulation, no tanh and no bottleneck but 16x16; train with --variant plain"
        )
    prefixes = _prefixes(translator.size)
    nets: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _without_fits(translator).items():
        net, _, key = layouts.published_name(name, prefixes).partition(".")
        nets.setdefault(net, {})[key] = tensor.contiguous()
    return nets


def _without_fits(translator: StarGANv2) -> dict[str, Tensor]:
    """All weights; the map behind a head of the mapping network is part of the last layer of that head."""
    network, tensors = translator.mapping_network, translator.state_dict()
    for k, fit in network.fits.items():
        head = network.heads[k]
        assert isinstance(fit, StyleFit) and isinstance(head, nn.Sequential)
        last = f"mapping_network.heads.{k}.{len(head) - 1}"
        weight, bias, matrix = (t.double() for t in (tensors[f"{last}.weight"], tensors[f"{last}.bias"], fit.matrix))
        tensors[f"{last}.weight"] = (matrix @ weight).to(fit.matrix.dtype)
        tensors[f"{last}.bias"] = (matrix @ bias + fit.shift).to(fit.matrix.dtype)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("mapping_network.fits.")}


def _checked_nets(state_dicts: Mapping[str, StateDict]) -> dict[str, dict[str, Tensor]]:
    if not isinstance(state_dicts, Mapping):
        raise UserError(f"expected a dict of state dicts ({', '.join(NETS)}), got {type(state_dicts).__name__}")
    missing = [name for name in NETS if name not in state_dicts and name not in _OPTIONAL]
    if missing:
        found = ", ".join(map(str, state_dicts)) or "nothing"
        raise UserError(f"missing nets: {', '.join(missing)} (found: {found[:200]})")
    nets = layouts.checked_nets({name: state_dicts[name] for name in NETS if name in state_dicts}, NETS)
    if any(key.startswith("hpf.") for key in nets["generator"]) or _has_extra_block(nets):
        raise UserError(
            "these weights were trained with w_hpf > 0 (hpf.*, or one block more): their generator needs face "
            "landmarks, which m2o_fast does not compute. Weights trained with w_hpf = 0 can be converted"
        )
    return nets


def _has_extra_block(nets: Mapping[str, StateDict]) -> bool:
    """With w_hpf > 0 the generator goes down to 8x8: one encoder block more than the style encoder's log2(S) - 2."""
    return len(_blocks(nets["generator"], "encode")) > len(_blocks(nets["style_encoder"], "shared"))


def _blocks(net: StateDict, stem: str) -> list[str]:
    return [key for key in net if re.fullmatch(rf"{stem}\.\d+\.conv1\.weight", key)]


def _read_size(nets: Mapping[str, dict[str, Tensor]]) -> tuple[Size, int]:
    generator, mapping, encoder = nets["generator"], nets["mapping_network"], nets["style_encoder"]
    base_width = _dimension(generator, "generator", "from_rgb.weight", 0)
    style_dim = _dimension(generator, "generator", "decode.0.norm1.fc.weight", 1)
    last_width = _dimension(encoder, "style_encoder", "unshared.0.weight", 1)
    widths = [min(base_width << k, last_width) for k in range(len(encoder))]
    blocks = layouts.numbered(encoder, lambda k: (f"shared.{k + 1}.conv1.weight", [widths[k], widths[k], 3, 3]))
    domains = layouts.numbered(encoder, lambda k: (f"unshared.{k}.weight", [style_dim, last_width]))
    if domains < 2:
        raise UserError("style_encoder: expected heads of two domains at least (unshared.0.weight, unshared.1.weight)")
    image_size = 4 * 2**blocks
    if problem := SYSTEM.sizes.problem(image_size):
        raise UserError(
            f"style_encoder: {blocks} residual blocks (shared.1.conv1.weight, ...) are for images of "
            f"{image_size} pixels, and {problem}"
        )
    size = Size(
        image_size=image_size,
        base_width=base_width,
        max_width=last_width,  # wider limits than any width reached would build the same nets
        style_dim=style_dim,
        latent_dim=_dimension(mapping, "mapping_network", "shared.0.weight", 1),
        hidden_dim=_dimension(mapping, "mapping_network", "shared.0.weight", 0),
    )
    return size, domains


def _dimension(net: StateDict, net_name: str, key: str, axis: int) -> int:
    if key not in net or net[key].dim() <= axis:
        raise UserError(f"{net_name}: missing {key}, from which the sizes are read")
    return net[key].shape[axis]


def _prefixes(size: Size) -> Prefixes:
    blocks = int(math.log2(size.image_size)) - 2
    named = {
        f"{net}.{ours}": f"{net}.{published.format(a=blocks + 2, b=blocks + 4)}"
        for net, names in _PUBLISHED.items()
        for ours, published in names.items()
    }
    trunks = (("style_encoder", "shared"), ("discriminator", "main"))
    return named | {f"{net}.trunk.{k}.": f"{net}.{stem}.{k + 1}." for net, stem in trunks for k in range(blocks)}

"""How the encoders, decoders and discriminators over reflected borders are laid out where their weights were published.

Those of :mod:`m2o_fast.nn.autoencoder` and :mod:`m2o_fast.nn.multi_scale_discriminator`.
"""

from __future__ import annotations

from m2o_fast.translators.state_dicts import StateDict, numbered

#: the first weight of a discriminator: ``[width, channels, 4, 4]``
FIRST = "cnns.0.0.conv.weight"


def encoder_prefixes(name: str, blocks: int) -> dict[str, str]:
    """Those of a content encoder that is published under a name."""
    layers = {"stem.": 0, "down.0.": 1, "down.1.": 2}
    front = {ours: f"{name}.model.{at}.conv." for ours, at in layers.items()}
    return front | block_prefixes("blocks.", blocks, f"{name}.model.3.model.")


def decoder_prefixes(name: str, blocks: int, first: int = 0) -> dict[str, str]:
    """Those of a decoder, whose blocks are those from the ``first`` one on."""
    prefixes = block_prefixes("blocks.", blocks, f"{name}.model.0.model.", first)
    for k in range(2):
        at = f"{name}.model.{2 * k + 2}"
        prefixes |= {f"up.{k}.": f"{at}.conv.", f"up_norm.{k}.": f"{at}.norm."}
    return prefixes | {"head.": f"{name}.model.5.conv."}


def block_prefixes(ours: str, count: int, theirs: str, first: int = 0) -> dict[str, str]:
    """Those of residual blocks; ``first``: the published number of ours of number 0."""
    return {
        f"{ours}{block}.conv{layer + 1}.": f"{theirs}{first + block}.model.{layer}.conv."
        for block in range(count)
        for layer in range(2)
    }


def discriminator_prefixes(layers: int, scales: int) -> dict[str, str]:
    """Those of a multi-scale discriminator."""
    prefixes = {}
    for scale in range(scales):
        for k in range(layers):
            prefixes[f"scales.{scale}.convs.{k}."] = f"cnns.{scale}.{k}.conv."
        prefixes[f"scales.{scale}.convs.{layers}."] = f"cnns.{scale}.{layers}."
    return prefixes


def stem(name: str) -> str:
    """The first weight of a content encoder that is published under a name: ``[width, channels, 7, 7]``."""
    return f"{name}.model.0.conv.weight"


def encoder_blocks(net: StateDict, name: str) -> int:
    """Residual blocks of a content encoder, whose stem is there."""
    wide = 4 * net[stem(name)].shape[0]
    return numbered(net, lambda k: (f"{name}.model.3.model.{k}.model.0.conv.weight", [wide, wide, 3, 3]))


def discriminator_layers(net: StateDict) -> int:
    """Convolutions of stride 2 of a discriminator, whose first weight is there; each doubles the channels."""
    width, channels = net[FIRST].shape[:2]

    def layer(k: int) -> tuple[str, list[int]]:
        return f"cnns.0.{k}.conv.weight", [width << k, width << k - 1 if k else channels, 4, 4]

    return numbered(net, layer)


def discriminator_scales(net: StateDict) -> int:
    """Its scales."""
    return numbered(net, lambda k: (f"cnns.{k}.0.conv.weight", net[FIRST].shape))

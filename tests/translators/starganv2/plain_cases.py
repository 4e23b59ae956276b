"""What the tests of the plain implementations share: small networks and random samples."""

import plain_networks as networks
import torch
from plain_many_to_one import PlainDomain, Sample, Setup
from torch import nn

SIZE, STYLE, LATENT, HIDDEN = 32, 8, 4, 16
MULTI, UNI = PlainDomain(3, True), PlainDomain(1, False)


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def plain_nets(domains=2):
    return networks.Nets(
        networks.Generator(SIZE, STYLE, max_width=8, base_width=4),
        networks.MappingNetwork(LATENT, STYLE, domains, HIDDEN),
        networks.StyleEncoder(SIZE, STYLE, domains, max_width=8, base_width=4),
        networks.Discriminator(SIZE, domains, max_width=8, base_width=4),
    )


def setup_of(*domains, style_op="adain"):
    return Setup(domains, SIZE, STYLE, LATENT, HIDDEN, base_width=4, max_width=8, style_op=style_op)


def image(channels):
    return torch.rand(channels, SIZE, SIZE) * 2 - 1


def sample_of(setup, source, target, paired=False):
    channels = setup.domains[target].channels
    return Sample(
        image(setup.domains[source].channels),
        source,
        target,
        torch.randn(LATENT),
        torch.randn(LATENT),
        image(channels),
        image(channels),
        image(channels) if paired else None,
    )


def state(net):
    return {name: value.detach().clone() for name, value in net.named_parameters()}


def make_flat(layer):
    """Make the output of a layer 0 for every input."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)

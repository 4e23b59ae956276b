"""The plain networks against facts that can be worked out by hand."""

import math

import plain_networks as networks
import pytest
import torch
from plain_cases import (
    SIZE,
    STYLE,
    count,
    make_flat,
    plain_nets,
    state,
)
from torch import nn


@pytest.mark.parametrize(
    ("size", "max_width", "generator", "style_encoder", "discriminator"),
    [
        (256, 512, 33_892_995, 20_916_928, 20_852_290),
        (128, 512, 33_632_003, 20_799_744, 20_735_106),
        (64, 512, 32_634_883, 20_327_808, 20_263_170),
        (64, 256, 9_720_067, 5_809_536, 5_777_154),
        (32, 512, 28_740_099, 18_433_664, 18_369_026),
        (32, 256, 12_316_419, 7_127_168, 7_094_786),
        (32, 128, 7_381_379, 3_898_752, 3_882_498),
    ],
)
def test_parameter_counts_are_the_published_ones(size, max_width, generator, style_encoder, discriminator):
    with torch.device("meta"):
        assert count(networks.Generator(size, max_width=max_width)) == generator
        assert count(networks.StyleEncoder(size, max_width=max_width)) == style_encoder
        assert count(networks.Discriminator(size, max_width=max_width)) == discriminator


def test_parameter_counts_of_the_celeba_model_and_of_three_domains():
    with torch.device("meta"):
        assert count(networks.Generator(256, w_hpf=1)) == 43_467_395
        assert count(networks.MappingNetwork()) == 2_438_272
        assert count(networks.MappingNetwork(domains=3)) == 3_259_072
        assert count(networks.StyleEncoder(256, domains=3)) == 20_949_760
        assert count(networks.Discriminator(256, domains=3)) == 20_852_803


def test_parameter_names_are_those_of_the_published_checkpoints():
    nets = plain_nets()
    generator = state(nets.generator)
    assert generator["from_rgb.weight"].shape == (4, 3, 3, 3)
    assert generator["encode.0.conv1.weight"].shape == (4, 4, 3, 3)
    assert generator["encode.0.conv2.weight"].shape == (8, 4, 3, 3)
    assert generator["encode.0.conv1x1.weight"].shape == (8, 4, 1, 1)
    assert generator["encode.2.norm2.bias"].shape == (8,)
    assert generator["decode.2.conv1.weight"].shape == (4, 8, 3, 3)
    assert generator["decode.2.conv1x1.weight"].shape == (4, 8, 1, 1)
    assert generator["decode.2.norm1.fc.weight"].shape == (16, STYLE)
    assert generator["to_rgb.0.weight"].shape == (4,)
    assert generator["to_rgb.2.weight"].shape == (3, 4, 1, 1)
    assert not {"decode.0.conv1x1.weight", "encode.0.conv1x1.bias", "encode.3.conv1.weight"} & set(generator)
    assert [name for name in state(nets.mapping) if name.startswith("unshared.1") and name.endswith("weight")] == [
        f"unshared.1.{i}.weight" for i in (0, 2, 4, 6)
    ]
    assert state(nets.style_encoder)["shared.5.weight"].shape == (8, 8, 4, 4)
    assert state(nets.style_encoder)["unshared.1.weight"].shape == (STYLE, 8)
    assert state(nets.discriminator)["main.7.weight"].shape == (2, 8, 1, 1)


@pytest.mark.parametrize("w_hpf", [0, 1])
@pytest.mark.parametrize("size", [32, 64])
def test_output_shapes(size, w_hpf):
    x, labels = torch.zeros(2, 3, size, size), torch.tensor([1, 0])
    generator = networks.Generator(size, STYLE, max_width=8, w_hpf=w_hpf, base_width=4)
    assert generator(x, torch.zeros(2, STYLE)).shape == x.shape
    encoder = networks.StyleEncoder(size, STYLE, 2, max_width=8, base_width=4)
    assert encoder(x, labels).shape == (2, STYLE)
    assert networks.Discriminator(size, 2, max_width=8, base_width=4)(x, labels).shape == (2,)


@pytest.mark.parametrize("size", [16, 28, 48])
def test_undefined_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"power of two and at least 32, got {size}"):
        networks.Generator(size)


def test_initial_weights_are_he_normal_and_biases_zero():
    mapping = state(networks.MappingNetwork(domains=1))
    assert mapping["shared.2.weight"].std() == pytest.approx(math.sqrt(2 / 512), rel=0.02)
    assert not mapping["shared.2.bias"].any()
    conv = state(networks.Generator(256, max_width=64))["encode.3.conv1.weight"]
    assert conv.std() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.03)


def test_adain_by_hand():
    adain = networks.AdaIN(1, 1)
    nn.init.constant_(adain.fc.weight, 1.0)
    with torch.no_grad():
        adain.fc.bias.copy_(torch.tensor([0.0, 3.0]))
    x = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]])[None, None]
    out = adain(x, torch.tensor([[0.5]]))
    torch.testing.assert_close(out, 1.5 * x / math.sqrt(1 + 1e-5) + 3.5)


def test_down_block_without_residual_is_the_pooled_shortcut():
    block = networks.ResBlk(2, 2, down=True)
    make_flat(block.conv2)
    x = torch.arange(16.0).view(1, 1, 4, 4).repeat(1, 2, 1, 1)
    assert block(x)[0, 0, 0, 0].item() == pytest.approx((0 + 1 + 4 + 5) / 4 / math.sqrt(2))


def normed(v):
    return (v - v.mean()) / (v.var(correction=0) + 1e-5).sqrt()


def leaky(v):
    return torch.where(v > 0, v, 0.2 * v)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_block_with_pointwise_convolutions_by_hand(kind):
    encoder = kind == "encoder"
    block = networks.ResBlk(1, 1, norm=True, down=True) if encoder else networks.AdainResBlk(1, 1, STYLE, up=True)
    for conv in (block.conv1, block.conv2):
        nn.init.dirac_(conv.weight)
        conv.weight.data.mul_(-3)
        nn.init.zeros_(conv.bias)
    if not encoder:
        make_flat(block.norm1.fc)
        make_flat(block.norm2.fc)
    # Pairs of equal columns, so that pooling changes no value.
    values = torch.tensor([-2.0, -1.0, 0.5, 1.0])
    x = values.repeat_interleave(2).expand(1, 1, 8, 8)
    out = block(x) if encoder else block(x, torch.zeros(1, STYLE))
    columns = (-3 * leaky(normed(-3 * leaky(normed(values)))) + values) / math.sqrt(2)
    size = 4 if encoder else 16
    torch.testing.assert_close(out, columns.repeat_interleave(size // 4).expand(1, 1, size, size))


def test_without_shortcut_the_residual_is_not_scaled():
    x, style = torch.randn(1, 4, 4, 4), torch.randn(1, STYLE)
    block = networks.AdainResBlk(4, 2, STYLE, up=True, with_shortcut=False)
    out = block(x, style)
    block.with_shortcut = True
    torch.testing.assert_close(block(x, style), (out + block.shortcut(x)) / math.sqrt(2))


def test_labels_choose_the_head():
    nets = plain_nets()
    x = torch.rand(3, 3, SIZE, SIZE)
    mixed = nets.discriminator(x, torch.tensor([1, 0, 1]))
    torch.testing.assert_close(mixed, nets.discriminator.main(x).flatten(1)[[0, 1, 2], [1, 0, 1]])
    heads = [nets.style_encoder(x, torch.full((3,), k)) for k in range(2)]
    torch.testing.assert_close(nets.style_encoder(x, torch.tensor([1, 0, 1]))[1], heads[0][1])
    assert not torch.allclose(heads[0], heads[1])

"""Published StarGAN v2 weights: the same functions, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from starganv2_cases import (
    SIZE,
    close,
    published_nets,
    published_weights,
)

import m2o_fast
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.nn.memoryless import memoryless
from m2o_fast.translators.starganv2.published import from_official
from m2o_fast.translators.starganv2.settings import Size, Weights
from m2o_fast.translators.starganv2.translator import StarGANv2


def test_functions_are_the_published_networks() -> None:
    nets = published_nets(domains=3)
    translator = from_official(published_weights(nets), domains=["cat", "dog", "wild"])
    x, z = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, SIZE.latent_dim)
    for k, name in enumerate(("cat", "dog", "wild")):
        labels = torch.full((4,), k)
        style = translator.map_style(z, name)
        assert close(style, nets.mapping(z, labels))
        assert close(translator.encode_style(x, name), nets.style_encoder(x, labels))
        assert close(translator.discriminate(x, k), nets.discriminator(x, labels))
        assert close(translator.translate(x, 0, name, style=style), nets.generator(x, style))
        reference = torch.rand(4, 3, 32, 32)
        expected = nets.generator(x, nets.style_encoder(reference, labels))
        assert close(translator.translate(x, 0, name, reference=reference), expected)


def test_the_same_weights_come_out_and_are_contiguous(tmp_path: Path) -> None:
    weights = published_weights(published_nets())
    translator = from_official(weights).to(memory_format=torch.channels_last)
    for name, net in m2o_fast.to_official(translator).items():
        assert net.keys() == weights[name].keys()
        assert all(torch.equal(net[key], tensor) for key, tensor in weights[name].items())
        save_file(net, tmp_path / name)  # refuses what is not contiguous


@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_sizes_are_read_off_the_weights(prefix: str) -> None:
    nets = published_nets(domains=3)
    weights = {
        net: {prefix + key: tensor for key, tensor in state.items()} for net, state in published_weights(nets).items()
    }
    del weights["discriminator"]
    translator = from_official(weights)
    assert translator.size == SIZE
    assert [domain.name for domain in translator.domains] == ["domain0", "domain1", "domain2"]
    with pytest.raises(ValueError, match="without a discriminator"):
        translator.discriminate(torch.zeros(1, 3, 32, 32), 0)


def test_misfitting_published_weights_are_listed() -> None:
    weights = published_weights(published_nets())
    weights["generator"]["extra.weight"] = torch.zeros(1)
    del weights["style_encoder"]["unshared.0.bias"]
    del weights["discriminator"]["main.5.weight"]
    weights["generator"]["encode.0.conv1.weight"] = torch.zeros(5, 4, 3, 3)
    with pytest.raises(ValueError) as error:
        from_official(weights)
    for part in (
        "superfluous generator.extra.weight",
        "missing style_encoder.unshared.0.bias",
        "missing discriminator.main.5.weight",
        "generator.encode.0.conv1.weight is [5, 4, 3, 3] instead of [4, 4, 3, 3]",
    ):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="missing nets: mapping_network"):
        from_official({"generator": weights["generator"], "style_encoder": weights["style_encoder"]})
    with pytest.raises(ValueError, match="w_hpf > 0"):
        from_official({**weights, "generator": {**weights["generator"], "hpf.filter": torch.zeros(3, 3)}})
    with pytest.raises(ValueError, match="2 domains, but 3 names"):
        from_official(published_weights(published_nets()), domains=["a", "b", "c"])


@pytest.mark.parametrize(
    ("image_size", "max_width", "expected"),
    [
        (256, 512, (33_892_995, 2_438_272, 20_916_928, 20_852_290)),
        (128, 512, (33_632_003, 2_438_272, 20_799_744, 20_735_106)),
        (64, 256, (9_720_067, 2_438_272, 5_809_536, 5_777_154)),
        (32, 128, (7_381_379, 2_438_272, 3_898_752, 3_882_498)),
    ],
)
def test_parameter_counts_of_the_published_nets(image_size: int, max_width: int, expected: tuple[int, ...]) -> None:
    size = Size(image_size=image_size, base_width=2**14 // image_size, max_width=max_width)
    with memoryless():
        translator = StarGANv2([Domain("a"), Domain("b")], ManyToOne.symmetric(), size)
    counts = [sum(p.numel() for p in net.parameters()) for net in translator.children()]
    assert tuple(counts) == expected


def test_what_is_left_out_is_as_it_was_published() -> None:
    with memoryless():
        translator = m2o_fast.StarGANv2([Domain("a"), Domain("b", 1, multimodal=False)])
    assert translator.rules == ManyToOne() and translator.image_size == 256
    assert translator.size.widths(6) == [64, 128, 256, 512, 512, 512, 512]


def test_weights_go_by_their_old_keyword_and_unknown_settings_are_named() -> None:
    with pytest.raises(UserError, match="missing nets: generator"):
        m2o_fast.from_official(state_dicts={"other": {}})
    with pytest.raises(UserError, match="weights of layout 'starganv2' take no image_size; they take domains"):
        m2o_fast.from_official({"other": {}}, image_size=32)


def test_the_supervised_weight_is_that_of_the_rules_alone() -> None:
    with pytest.raises(ValueError, match="supervised"):
        Weights(supervised=1.0)

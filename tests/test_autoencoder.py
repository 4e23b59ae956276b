"""Encoders, decoders and multi-scale discriminators over reflected borders, against nets in plain torch."""

from __future__ import annotations

import statistics

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2o_fast.nn.autoencoder import ContentEncoder, Decoder, LayerNormAct
from m2o_fast.nn.multi_scale_discriminator import MultiScaleDiscriminator
from m2o_fast.ops import _choices
from m2o_fast.translators.settings import smallest_judged_side

DOUBLE = torch.float64


def convolved(x: Tensor, layer: nn.Module, beyond: int, stride: int = 1) -> Tensor:
    return F.conv2d(F.pad(x, (beyond,) * 4, mode="reflect"), layer.weight, layer.bias, stride)


def plain_block(x: Tensor, block: nn.Module, affines: Tensor | None) -> Tensor:
    y = x
    for k, layer in enumerate((block.conv1, block.conv2)):
        y = F.instance_norm(convolved(y, layer, 1))
        if affines is not None:
            beta, gamma = affines[:, k, :, :, None, None].unbind(1)
            y = gamma * y + beta
        y = y if k else y.relu()
    return x + y


def plain_encoder(net: ContentEncoder, x: Tensor) -> Tensor:
    x = F.instance_norm(convolved(x, net.stem, 3)).relu()
    for layer in net.down:
        x = F.instance_norm(convolved(x, layer, 1, 2)).relu()
    for block in net.blocks:
        x = plain_block(x, block, None)
    return x


def plain_decoder(net: Decoder, x: Tensor, affines: Tensor | None) -> Tensor:
    for k, block in enumerate(net.blocks):
        given = None if affines is None else affines.view(len(affines), len(net.blocks), 2, 2, -1)[:, k]
        x = plain_block(x, block, given)
    for layer, norm in zip(net.up, net.up_norm, strict=True):
        x = convolved(F.interpolate(x, scale_factor=2), layer, 2)
        flat = x.flatten(1)
        mean, std = (number(1)[:, None, None, None] for number in (flat.mean, flat.std))
        x = (norm.gamma[:, None, None] * (x - mean) / (std + 1e-5) + norm.beta[:, None, None]).relu()
    return convolved(x, net.head, 3)


def random_(net: nn.Module) -> nn.Module:
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net.double()


@pytest.mark.parametrize(("steered", "folded"), [("images", True), ("all alike", False), ("not", True)])
def test_functions_and_gradients(steered: str, folded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_choices, "WORTH_FOLDING_5X5", 1 if folded else 2**60)
    torch.manual_seed(0)
    encoder, decoder = random_(ContentEncoder(3, 4, 2)), random_(Decoder(2, 4, 2))
    x = torch.randn(2, 3, 12, 16, dtype=DOUBLE)
    affines = {"images": torch.randn(2, decoder.steered, dtype=DOUBLE).requires_grad_(), "not": None}.get(
        steered, torch.randn(decoder.steered, dtype=DOUBLE).requires_grad_()
    )
    rows = affines.expand(2, -1) if steered == "all alike" else affines
    ours = decoder(encoder(x), affines)
    theirs = plain_decoder(decoder, plain_encoder(encoder, x), rows)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    along = torch.randn_like(ours)
    inputs = [*encoder.parameters(), *decoder.parameters()] + ([] if affines is None else [affines])
    expected = torch.autograd.grad(theirs, inputs, along)
    for mine, right in zip(torch.autograd.grad(ours, inputs, along, allow_unused=True), expected, strict=True):
        # A bias in front of an instance norm does nothing, and is left out.
        torch.testing.assert_close(torch.zeros_like(right) if mine is None else mine, right, rtol=1e-8, atol=1e-9)


def test_published_numbers_of_parameters() -> None:
    nets = ContentEncoder(3), Decoder(3), MultiScaleDiscriminator(3)
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == [5_385_856, 5_754_627, 8_271_171]
    assert nets[1].steered == 4096


def test_initial_weights() -> None:
    torch.manual_seed(0)
    decoder, judge = Decoder(3, 16), MultiScaleDiscriminator(3, 16)
    assert decoder.blocks[0].conv1.weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.05)
    assert decoder.up[0].weight.std().item() == pytest.approx((2 / 1600) ** 0.5, rel=0.05)
    assert judge.scales[2].convs[2].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not any(
        p.any() for net in (decoder, judge) for n, p in net.named_parameters() if n.endswith(("bias", "beta"))
    )
    gamma = LayerNormAct(1000).gamma
    assert 0 <= gamma.min() < 0.01 and 0.99 < gamma.max() <= 1


def test_layer_norm_of_a_flat_image() -> None:
    """Its deviation is 0: the result is beta, and gradients are finite."""
    norm, x = LayerNormAct(3), torch.full((2, 3, 4, 4), 0.5, requires_grad=True)
    norm.beta.data.fill_(0.25)
    y = norm(x)
    torch.testing.assert_close(y, torch.full_like(y, 0.25))
    y.sum().backward()
    assert x.grad.isfinite().all() and norm.gamma.grad.isfinite().all()


def test_scales_see_averaged_images() -> None:
    judge = random_(MultiScaleDiscriminator(2, 3, 2, 3))
    x = torch.randn(2, 2, 20, 24, dtype=DOUBLE)
    scores = judge(x)
    assert [tuple(score.shape) for score in scores] == [(2, 1, 5, 6), (2, 1, 2, 3), (2, 1, 1, 1)]
    for net, score in zip(judge.scales, scores, strict=True):
        y = x
        for layer in net.convs[:-1]:
            y = F.leaky_relu(convolved(y, layer, 1, 2), 0.2)
        torch.testing.assert_close(score, F.conv2d(y, net.convs[-1].weight, net.convs[-1].bias), rtol=1e-10, atol=1e-10)
        x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)


@pytest.mark.parametrize(("layers", "scales"), [(4, 3), (3, 2), (3, 3), (1, 1)])
def test_smallest_side(layers: int, scales: int) -> None:
    side = smallest_judged_side(layers, scales)
    judge = MultiScaleDiscriminator(1, 1, layers, scales)
    assert judge(torch.randn(1, 1, side, side))[-1].shape[2:] == (1, 1)
    with pytest.raises(RuntimeError):
        judge(torch.randn(1, 1, side - 1, side - 1))


def test_bfloat16_keeps_images_in_float32() -> None:
    """How far bfloat16 is off depends on the weights, so the error is the median of many nets."""
    torch.manual_seed(0)
    judge, errors = MultiScaleDiscriminator(3, 4, 2, 1), []
    for _ in range(32):
        encoder, decoder = ContentEncoder(3, 4, 1), Decoder(3, 4, 1)
        x, affines = torch.rand(2, 3, 8, 8), torch.randn(2, decoder.steered)
        plainly = decoder(encoder(x), affines)
        with torch.autocast("cpu", torch.bfloat16):
            content = encoder(x)
            images = decoder(content, affines)
            scores = judge(images)
        assert content.dtype == torch.bfloat16 and images.dtype == scores[0].dtype == torch.float32
        assert not torch.equal(images, images.bfloat16().float())  # not merely stored so
        errors.append(float((images - plainly).detach().abs().mean() / plainly.detach().abs().mean()))
    images.sum().backward()
    assert encoder.stem.weight.grad.isfinite().all()
    assert statistics.median(errors) < 0.05

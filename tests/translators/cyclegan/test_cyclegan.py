"""CycleGAN and its many-to-one variants against plain implementations that share nothing with them, in float64."""

from __future__ import annotations

import plain_cyclegan as plain
import pytest
import torch
from cyclegan_cases import (
    BLOCKS,
    SIDE,
    STYLE_DIM,
    WIDTH,
    many_to_one_pair,
    plain_iteration,
    published_nets,
    random_batch,
    steps_for,
    styled_layers,
    weights,
)
from gan_steps import EPS

from m2o_fast.m2o import Domain
from m2o_fast.nn.patch_discriminator import PatchDiscriminator
from m2o_fast.nn.resnet_generator import ResNetGenerator
from m2o_fast.translators.base import Iteration
from m2o_fast.translators.cyclegan import SYSTEM
from m2o_fast.translators.cyclegan.published import from_official
from m2o_fast.translators.cyclegan.settings import CycleGANSettings, Size, Weights
from m2o_fast.translators.cyclegan.translator import CycleGAN

# Rates whose steps are seen, and a pool that is full in the second iteration.
OPTIM = {"lr": 1e-3, "decay_from": 1, "decay_steps": 3}
PLAIN = plain.Settings(lr=1e-3, eps=EPS, constant=1, decay=3, pool=3)


def same(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-10, abs=1e-12), name


def same_weights(translator: CycleGAN, nets: plain.Nets) -> None:
    expected = from_official(weights(nets)).state_dict()
    for name, tensor in translator.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize(("a", "b", "norm"), [(3, 3, "instance"), (2, 5, "instance"), (3, 3, "batch"), (1, 1, "none")])
def test_iterations_are_the_published_ones(a: int, b: int, norm: str) -> None:
    """Losses, all weights and running statistics of three iterations: a rate that falls, a pool that is full."""
    nets = published_nets(a, b, norm)
    translator = from_official(weights(nets), image_size=SIDE)
    translator.size = translator.size.model_copy(update={"pool": 3})
    trainer, steps = plain.Trainer(nets, PLAIN), steps_for(translator, **OPTIM)
    for index in range(3):
        batch = random_batch(a, b, 2)
        same(steps(batch, index), plain_iteration(trainer, batch))
    same_weights(translator, nets)


@pytest.mark.parametrize("supervised", [0.0, 0.8])
@pytest.mark.parametrize("style", ["encoder", "noise"])
@pytest.mark.parametrize("channels", [1, 3])
def test_iterations_are_the_many_to_one_ones(channels: int, style: str, supervised: float) -> None:
    """Losses and all weights of two iterations; identity only where the channels allow it."""
    losses = {"cycle": 3.0, "identity": 0.4, "style": 0.9, "diversity": 1.3, "diversity_steps": 4}
    nets, translator = many_to_one_pair(channels, style, supervised, losses)
    trainer = plain.Trainer(nets, plain.Settings(lr=1e-3, eps=EPS, many_to_one=True, supervised=supervised, **losses))
    steps = steps_for(translator, lr=1e-3)
    for index in range(2):
        batch = random_batch(3, channels, 2, styled=True, paired=supervised > 0)
        same(steps(batch, index), plain_iteration(trainer, batch))
    for mine, affine in zip(styled_layers(translator.generators["0"]), nets.G_B.affines, strict=True):
        torch.testing.assert_close(mine.weight, affine.weight, rtol=1e-9, atol=1e-10)
    if nets.E_A is not None:
        for mine, theirs in zip(translator.style_encoders["0"].parameters(), nets.E_A.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(translator.generators["1"].head.weight, nets.G_A.model[-2].weight, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(translator.discriminators["0"].convs[0].weight, nets.D_B.model[0].weight)


def test_both_generators_step_before_both_discriminators() -> None:
    nets, translator = many_to_one_pair(1, "encoder", 0.0)
    steps = steps_for(translator)
    steps(random_batch(3, 1, 1, styled=True), 0)
    assert steps.stepped == ["generators", "style_encoders", "discriminators"]
    assert [len(modules) for modules in translator.groups().values()] == [2, 2, 1]


def test_losses_of_trivial_scores() -> None:
    """All scores 0: each discriminator 0.5, each generator 1; generators that change nothing restore and keep all."""
    translator = from_official(weights(published_nets()), image_size=SIDE)
    for judge in translator.discriminators.values():
        judge.convs[-1].weight.zero_()
        judge.convs[-1].bias.zero_()
    batch = random_batch(3, 3, 2)
    for generator in translator.generators.values():  # tanh undoes the inverse of tanh
        generator.forward = lambda x, style=None: x.clamp(-0.999, 0.999).atanh()
    translator.requires_grad_(True)
    batch.source[0].clamp_(-0.9, 0.9), batch.source[1].clamp_(-0.9, 0.9)
    iteration = Iteration(0, pools=translator.pools())
    total, parts = translator.loss("generators", batch, iteration)
    assert parts["adversarial"] == 2 and total.item() == pytest.approx(2)
    assert parts["cycle"] == pytest.approx(0, abs=1e-12) and parts["identity"] == pytest.approx(0, abs=1e-12)
    assert translator.loss("discriminators", batch, iteration)[0] == 1


# --- many-to-one rules ---


def test_unimodal_output_ignores_every_style() -> None:
    """Bit for bit the same for any style, reference and seed; the style changes the other direction."""
    _, translator = many_to_one_pair(1, "encoder", 0.0)
    a, b = (torch.rand(2, c, SIDE, SIDE) * 2 - 1 for c in (3, 1))
    styles = [translator.sample_style(2, "B", torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert all(style.shape == (2, STYLE_DIM) and not style.any() for style in styles)
    assert not translator.encode_style(b, "B").any()
    plainly = translator.translate(a, "A", "B")
    for given in ({"style": torch.randn(2, STYLE_DIM)}, {"reference": b}, {"style": styles[1]}):
        assert torch.equal(translator.translate(a, "A", "B", **given), plainly)
    first, second = (
        translator.translate(b, "B", "A", style=translator.sample_style(2, "A", torch.Generator().manual_seed(seed)))
        for seed in (0, 1)
    )
    assert (first - second).abs().mean() > 1e-3
    by_reference = translator.translate(b, "B", "A", reference=a)
    assert torch.equal(by_reference, translator.translate(b, "B", "A", style=translator.encode_style(a, "A")))


def test_plain_has_no_style() -> None:
    translator = from_official(weights(published_nets()))
    assert not translator.has_style("A") and not translator.has_style("B")
    assert translator.sample_style(3, "A").shape == (3, 0)
    assert translator.encode_style(torch.zeros(3, 3, 8, 8), "B").shape == (3, 0)
    assert list(translator.noise(2, torch.Generator())) == ["pool"]


def test_noise_gives_up_the_cycle_that_is_ill_posed() -> None:
    """Without an encoder a colour image cannot be restored from its gray one, and there is nothing to encode with."""
    nets, translator = many_to_one_pair(1, "noise", 0.0)
    batch = random_batch(3, 1, 2, styled=True)
    parts = translator.loss("generators", batch, Iteration(0))[1]
    gray, z = batch.source[1], batch.noise["latent"][:2]
    assert parts["cycle"].item() == pytest.approx((nets.G_A(nets.G_B(gray, z)) - gray).abs().mean().item())
    assert "style" not in parts and "style_encoders" not in translator.groups()
    with pytest.raises(ValueError, match="model.style noise has no style encoder|no style encoder"):
        translator.encode_style(batch.source[0], "A")


def test_layers_are_those_of_the_domains() -> None:
    _, translator = many_to_one_pair(1, "encoder", 0.0)
    assert translator.generators["0"].stem.in_channels == translator.generators["1"].head.out_channels == 1
    assert translator.generators["1"].stem.in_channels == translator.generators["0"].head.out_channels == 3
    assert list(translator.style_encoders) == ["0"]


def test_a_one_hot_domain_is_compared_by_its_logits() -> None:
    """Images are class probabilities; the supervised loss is the cross-entropy."""
    domains = [Domain("scene", 3), Domain("labels", 4, multimodal=False, kind="onehot")]
    settings = CycleGANSettings.model_validate({"model": {"width": WIDTH, "blocks": 1, "discriminator_width": WIDTH}})
    translator = CycleGAN(domains, SYSTEM.variants["hms"], Size(**settings.sizes(SIDE)))
    images = translator.translate(torch.rand(2, 3, SIDE, SIDE), "scene", "labels")
    torch.testing.assert_close(((images + 1) / 2).sum(1), torch.ones(2, SIDE, SIDE))
    translator.generators["1"].head.weight.data.zero_()
    batch = random_batch(3, 4, 2, styled=True, paired=True)
    noise = {name: torch.randn(4, 8) for name in ("latent", "latent2")} | {"pool": batch.noise["pool"]}
    batch = type(batch)(**{**vars(batch), "noise": noise})
    parts = translator.loss("generators", batch, Iteration(0))[1]
    assert parts["supervised"].item() == pytest.approx(torch.tensor(4.0).log().item() / 2)  # every second has a pair


# --- nets ---


def count(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_published_numbers_of_parameters() -> None:
    assert count(ResNetGenerator(3, 3)) == count(plain.Generator(3, 3)) == 11_378_179
    assert count(ResNetGenerator(3, 3, blocks=6)) == 7_837_699
    assert count(PatchDiscriminator(3, norm="instance")) == count(plain.Discriminator(3)) == 2_764_737
    assert count(PatchDiscriminator(3, layers=2, norm="instance")) == 662_977


@pytest.mark.parametrize(("layers", "field"), [(0, 1), (1, 16), (2, 34), (3, 70), (4, 142)])
def test_receptive_field(layers: int, field: int) -> None:
    """A score in the middle depends on exactly that many pixels."""
    judge = PatchDiscriminator(1, width=2, layers=layers, norm="none")
    for layer in judge.convs:
        layer.weight.data.fill_(0.1)
    x = torch.ones(1, 1, 256, 256, requires_grad=True)
    scores = judge(x)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    assert x.grad is not None
    assert x.grad[0, 0].ne(0).any(dim=0).sum() == x.grad[0, 0].ne(0).any(dim=1).sum() == field


def test_a_style_of_bfloat16_steers_every_norm() -> None:
    """One that was read off an image under autocast is; the last norm stands outside of it."""
    generator = ResNetGenerator(3, 3, WIDTH, 1, style_dim=STYLE_DIM).float()
    x, style = torch.rand(2, 3, SIDE, SIDE, dtype=torch.float32), torch.randn(2, STYLE_DIM).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = generator(x, style)
    assert y.dtype is torch.float32
    y.sum().backward()
    assert all(layer.weight.grad is not None for layer in styled_layers(generator))


def test_any_size_that_is_a_multiple_of_4() -> None:
    translator = from_official(weights(published_nets(blocks=BLOCKS)))
    assert translator.translate(torch.rand(1, 3, 20, 44), "A", "B").shape == (1, 3, 20, 44)
    with pytest.raises(ValueError, match="multiples of 4"):
        translator.translate(torch.rand(1, 3, 20, 42), "A", "B")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.translate(torch.rand(1, 3, 8, 8), "A", "A"), "no net from domain 'A' to itself"),
        (lambda t: t.translate(torch.rand(1, 3, 8, 8), "A", "C"), "unknown domain 'C'"),
        (lambda t: t.loss("other", random_batch(3, 3, 1), Iteration(0)), "the phases are generators, discriminators"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(from_official(weights(published_nets())))  # type: ignore[operator]


def test_two_domains() -> None:
    settings = CycleGANSettings()
    with pytest.raises(ValueError, match="between two domains, got 3"):
        CycleGAN([Domain(name) for name in "abc"], SYSTEM.variants["hmu"], Size(**settings.sizes(SIDE)), Weights())


def test_initial_weights() -> None:
    """Normal with standard deviation 0.02, biases 0; the style encoder's are larger, since nothing normalises them."""
    torch.manual_seed(0)
    settings = CycleGANSettings.model_validate({"model": {"width": 16, "discriminator_width": 16}})
    domains = [Domain("A", 3), Domain("B", 1, multimodal=False)]
    translator = CycleGAN(domains, SYSTEM.variants["hmu"], Size(**settings.sizes(SIDE)))
    for name, parameter in translator.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "style_encoders.0.convs" in name:
            assert parameter.std().item() > 0.03, name
        elif parameter.numel() > 5000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name

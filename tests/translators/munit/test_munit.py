"""MUNIT and its many-to-one variants against plain implementations that share nothing with them, in float64."""

from __future__ import annotations

import plain_munit as plain
import pytest
import torch
from gan_steps import EPS
from munit_cases import (
    MODEL,
    SIDE,
    STYLE_DIM,
    plain_iteration,
    published_nets,
    random_batch,
    size,
    steps_for,
    translator_of,
    variant,
)
from torch import nn

from m2o_fast.m2o import Domain
from m2o_fast.nn.memoryless import memoryless
from m2o_fast.nn.multi_scale_discriminator import MultiScaleDiscriminator
from m2o_fast.ops import _choices
from m2o_fast.translators.base import Iteration
from m2o_fast.translators.munit.settings import MUNITSettings, Size
from m2o_fast.translators.munit.translator import MUNIT
from m2o_fast.translators.settings import HalvingAdam

OPTIM = {"lr": 1e-3, "halve_every": 2, "halve_early": True}
PLAIN = {"lr": 1e-3, "eps": EPS, "halve_every": 2, "halve_early": True}


def same(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-10, abs=1e-12), name


def same_weights(translator: MUNIT, nets: plain.Nets, first: int = 0) -> None:
    expected = translator_of(nets, first=first).state_dict()
    for name, tensor in translator.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    ("a", "b", "cycle", "folded", "counts"), [(3, 3, 0.0, False, (2, None)), (2, 5, 0.7, True, (1, 2))]
)
def test_iterations_are_the_published_ones(
    a: int, b: int, cycle: float, folded: bool, counts: tuple[int, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and all weights of two iterations, the second of which has half the rate, as in the published code."""
    monkeypatch.setattr(_choices, "WORTH_FOLDING_5X5", 1 if folded else 2**60)
    nets = published_nets(a, b)
    translator = translator_of(nets, {"cycle": cycle})
    trainer, steps = plain.Trainer(nets, plain.Settings(**PLAIN, cycle=cycle)), steps_for(translator, **OPTIM)
    for index in range(2):
        batch = random_batch(a, b, *counts)
        same(steps(batch, index), plain_iteration(trainer, batch))
    same_weights(translator, nets)
    assert steps.stepped == ["discriminators", "generators"] * 2


@pytest.mark.parametrize(
    ("cycle", "supervised", "styled", "counts"),
    [(0.0, 0.0, 0, (2, None)), (0.7, 0.0, 1, (2, 1)), (0.0, 0.8, 1, (2, 3)), (0.7, 0.8, 0, (2, 1))],
)
def test_iterations_are_the_many_to_one_ones(
    cycle: float, supervised: float, styled: int, counts: tuple[int, int | None]
) -> None:
    """Losses and all weights of two iterations; either domain may be the one that has a style."""
    losses = {
        "reconstruction": 3.0,
        "content": 0.4,
        "style": 0.9,
        "cycle": cycle,
        "diversity": 1.3,
        "diversity_steps": 4,
    }
    nets = published_nets(3, 1, styled=False)
    translator = translator_of(nets, losses, supervised, styled)
    settings = plain.Settings(**PLAIN, many_to_one=True, supervised=supervised, **losses)
    trainer, steps = plain.Trainer(nets, settings), steps_for(translator, **OPTIM)
    for index in range(2):
        batch = random_batch(*((1, 3) if styled else (3, 1)), *counts, paired=supervised > 0)
        same(steps(batch, index), plain_iteration(trainer, batch, styled))
    same_weights(translator, nets, styled)


def test_losses_do_not_depend_on_what_phases_share() -> None:
    """With accumulate a phase finds what the other left in ``kept`` alone; alone it finds nothing."""
    translator = translator_of(published_nets(3, 1, styled=False), supervised=1.0)
    batch, iteration = random_batch(3, 1, 2, paired=True), Iteration(0)
    translator.loss("discriminators", batch, iteration)
    emptied = Iteration(0, kept=iteration.kept)
    moved = Iteration(0, kept={name: images + 1 for name, images in iteration.kept.items()})
    shared, kept, alone = (translator.loss("generators", batch, each)[1] for each in (iteration, emptied, Iteration(0)))
    for name, value in shared.items():
        for found in (kept, alone):
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12, msg=name)
    # What was kept is what translations differ from: it is not made again by weights that have moved since.
    assert translator.loss("generators", batch, moved)[1]["diversity"] > shared["diversity"] + 0.1


def test_what_does_not_last_is_not_made() -> None:
    """With accumulate the discriminators' phase decodes no image as its own domain, and keeps no graph."""
    translator = translator_of(published_nets(3, 1, styled=False)).requires_grad_(True)
    batch, rows = random_batch(3, 1, 2, 3), []
    decode = translator.generators[1].decode
    translator.generators[1].decode = lambda content, style: rows.append(len(content)) or decode(content, style)
    found = []
    for lasting, count in ((True, 5), (False, 2)):
        iteration = Iteration(0, lasting=lasting)
        found.append(translator.loss("discriminators", batch, iteration)[0])
        assert rows.pop() == count
        assert iteration.cache["codes"].content[0].requires_grad == lasting
    torch.testing.assert_close(*found)


def test_losses_of_a_part_without_images_of_a_domain() -> None:
    """A part of a batch may have one direction alone; the halves add up to the whole."""
    translator = translator_of(published_nets(3, 1, styled=False), supervised=1.0)
    batch = random_batch(3, 1, 2, paired=True)
    halves = []
    for source, rows in ((0, slice(2, 4)), (1, slice(0, 2))):
        half = dict(vars(batch))
        half["source"] = tuple(x if k == source else x[:0] for k, x in enumerate(batch.source))
        half["paired"] = tuple(x if k != source else x[:0] for k, x in enumerate(batch.paired))
        half["target_counts"] = tuple(0 if k == source else 2 for k in range(2))
        half["to_target"], half["has_pair"] = torch.arange(2), batch.has_pair[rows]
        half["noise"] = {name: numbers[rows] for name, numbers in batch.noise.items()}
        halves.append(type(batch)(**half))
    for phase in ("discriminators", "generators"):
        whole = translator.loss(phase, batch, Iteration(0))[1]
        found = [translator.loss(phase, half, Iteration(0))[1] for half in halves]
        for name, value in whole.items():
            total = sum(part[name] for part in found) / 2  # their means are over half as many samples
            torch.testing.assert_close(total, value, rtol=1e-10, atol=1e-12, msg=name)


def test_losses_of_trivial_scores() -> None:
    """All scores 0, three scales: 3 for each discriminator and each generator."""
    settings = MUNITSettings.model_validate({"model": {**MODEL, "scales": 3}})
    translator = MUNIT([Domain("A"), Domain("B")], variant("plain"), Size(**settings.sizes(SIDE)))
    for judge in translator.discriminators.values():
        for net in judge.scales:
            net.convs[-1].weight.data.zero_()
    batch = random_batch(3, 3, 2)
    total, parts = translator.loss("discriminators", batch, Iteration(0))
    assert total.item() == parts["real"].item() == 6 and parts["fake"] == 0
    assert translator.loss("generators", batch, Iteration(0))[1]["adversarial"].item() == 6


def test_images_that_are_restored_cost_nothing() -> None:
    translator = translator_of(published_nets())
    batch = random_batch(3, 3, 2)
    for net, images in zip(translator.generators, batch.source, strict=True):
        net.decode = lambda content, style, images=images: torch.cat([images, images]).clamp(-0.99, 0.99).atanh()
    for images in batch.source:
        images.clamp_(-0.9, 0.9)
    parts = translator.loss("generators", batch, Iteration(0))[1]
    assert parts["reconstruction"].item() == pytest.approx(0, abs=1e-12)


# --- many-to-one rules ---


def test_unimodal_output_ignores_every_style() -> None:
    """Bit for bit the same for any style, reference and seed; the style changes the other direction."""
    translator = translator_of(published_nets(3, 1, styled=False))
    a, b = (torch.rand(2, c, SIDE, SIDE) * 2 - 1 for c in (3, 1))
    styles = [translator.sample_style(2, "B", torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert all(style.shape == (2, STYLE_DIM) and not style.any() for style in styles)
    assert not translator.encode_style(b, "B").any() and not translator.has_style("B")
    plainly = translator.translate(a, "A", "B")
    for given in ({"style": torch.randn(2, STYLE_DIM)}, {"reference": b}, {"style": styles[1]}):
        assert torch.equal(translator.translate(a, "A", "B", **given), plainly)
    decode, decoded = translator.generators[1].decode, []
    translator.generators[1].decode = lambda *given: decoded.append(given) or decode(*given)
    many = translator.translate_many(a, "A", "B", torch.randn(2, 3, STYLE_DIM))
    assert many.shape[1] == 3 and all(torch.equal(one, plainly) for one in many.unbind(1)) and len(decoded) == 1
    first, second = (
        translator.translate(b, "B", "A", style=translator.sample_style(2, "A", torch.Generator().manual_seed(seed)))
        for seed in (0, 1)
    )
    assert (first - second).abs().mean() > 1e-3
    by_reference = translator.translate(b, "B", "A", reference=a)
    assert torch.equal(by_reference, translator.translate(b, "B", "A", style=translator.encode_style(a, "A")))


def test_a_domain_without_style_has_neither_encoder_nor_mlp() -> None:
    """With the published widths it saves 3,881,608 parameters: 2,764,936 and 1,120,768 for 4,096."""
    settings = MUNITSettings()
    domains = [Domain("A"), Domain("B", multimodal=False)]
    with memoryless():
        nets = MUNIT(domains, variant("hmu"), Size(**settings.sizes(256))).generators
    assert {name.split(".")[0] for name, _ in nets[1].named_parameters()} == {"content_encoder", "decoder", "affines"}
    assert count(nets[0]) == 15_026_187 and count(nets[0]) - count(nets[1]) == 3_881_608
    assert [count(net) for net in (nets[0].style_encoder, nets[0].mlp)] == [2_764_936, 1_120_768]
    assert nets[1].affines.numel() == 4096


def test_affines_start_as_those_of_an_instance_norm() -> None:
    net = MUNIT([Domain("A"), Domain("B", multimodal=False)], variant("hmu"), size()).generators[1]
    content = torch.randn(1, 16, 4, 4)
    torch.testing.assert_close(net.decode(content, None), net.decoder(content))


def test_diversity_is_of_multimodal_targets_alone() -> None:
    batch = random_batch(3, 1, 2)
    assert "diversity" not in translator_of(published_nets(3, 1)).loss("generators", batch, Iteration(0))[1]
    translator = translator_of(published_nets(3, 1, styled=False))
    same_styles = dict(vars(batch), noise={name: batch.noise["latent"] for name in batch.noise})
    parts = translator.loss("generators", type(batch)(**same_styles), Iteration(0))[1]
    assert parts["diversity"].item() == pytest.approx(0, abs=1e-12)  # the gray images do not count


def test_what_has_no_weight_is_not_computed() -> None:
    batch, calls = random_batch(3, 1, 2), []
    losses = {"content": 0.0, "style": 0.0, "diversity": 0.0}
    translator = translator_of(published_nets(3, 1, styled=False), losses)
    for k, name in ((0, "style_encoder"), (0, "content_encoder"), (1, "content_encoder")):
        getattr(translator.generators[k], name).register_forward_hook(lambda *_, name=name: calls.append(name))
    assert list(translator.loss("generators", batch, Iteration(0))[1]) == ["adversarial", "reconstruction"]
    assert sorted(calls) == ["content_encoder", "content_encoder", "style_encoder"]  # of the images themselves


# --- wiring ---


def test_adain_gives_planes_the_mean_and_deviation_that_the_style_asks_for() -> None:
    translator = translator_of(published_nets())
    net = translator.generators[0]
    seen: list[torch.Tensor] = []
    for block in net.decoder.blocks[:1]:
        first = block._norms

        def watched(affines: torch.Tensor, first: object = first) -> object:
            norms = first(affines)  # type: ignore[operator]
            return norms[0], lambda y: seen.append(norms[1](y)) or seen[-1]

        block._norms = watched
    style = torch.randn(2, STYLE_DIM)
    net.decode(torch.randn(2, 16, 6, 6), style)
    _, _, beta, gamma = net.mlp(style).chunk(2, dim=1)[0].chunk(4, dim=1)
    torch.testing.assert_close(seen[0].mean((2, 3)), beta)
    torch.testing.assert_close(seen[0].std((2, 3), correction=0), gamma.abs(), rtol=1e-3, atol=1e-4)


def test_a_one_hot_domain_is_compared_by_its_logits() -> None:
    """Images are class probabilities; the supervised loss is the cross-entropy."""
    domains = [Domain("scene", 3), Domain("labels", 4, multimodal=False, kind="onehot")]
    translator = MUNIT(domains, variant("hms"), size())
    images = translator.translate(torch.rand(2, 3, SIDE, SIDE), "scene", "labels")
    torch.testing.assert_close(((images + 1) / 2).sum(1), torch.ones(2, SIDE, SIDE))
    translator.generators[1].decoder.head.weight.data.zero_()
    parts = translator.loss("generators", random_batch(3, 4, 2, paired=True), Iteration(0))[1]
    assert parts["supervised"].item() == pytest.approx(torch.tensor(4.0).log().item() / 2)  # every second has a pair


# --- sizes, settings ---


def test_published_numbers() -> None:
    """Of an image of 256 pixels: shapes, and by layers and scales the receptive field; the zeroed head gives 0."""
    with memoryless(), torch.no_grad():
        translator = MUNIT([Domain("A"), Domain("B")], variant("plain"), Size(**MUNITSettings().sizes(256)))
        image = torch.zeros(1, 3, 256, 256)
        net, judge = translator.generators[0], translator.discriminators["0"]
        assert [score.shape[2:] for score in judge(image)] == [(side, side) for side in (16, 8, 4)]
        assert net.content_encoder(image).shape == (1, 256, 64, 64) and net.style_encoder(image).shape == (1, 8)
        settings = MUNITSettings.model_validate({"model": {"width": 32, "discriminator_width": 32}})
        small = MUNIT([Domain("A"), Domain("B")], variant("plain"), Size(**settings.sizes(32)))
    assert (count(small.generators[0]), count(small.discriminators["0"])) == (4_079_883, 331_458)
    assert HalvingAdam().optimizer("").schedule(100_000) == 0.5
    translator = translator_of(published_nets())
    nn.init.zeros_(translator.generators[1].decoder.head.weight)
    nn.init.zeros_(translator.generators[1].decoder.head.bias)
    x = torch.rand(1, 3, SIDE, SIDE)
    assert not translator.translate(x, "A", "B", style=torch.randn(1, STYLE_DIM)).any()


@pytest.mark.parametrize(("layers", "field", "stride"), [(4, 46, 16), (3, 22, 8)])
def test_receptive_field_of_a_score(layers: int, field: int, stride: int) -> None:
    """Of the finest scale: the pixels that a score depends on, and how far those of the next one are."""
    net = MultiScaleDiscriminator(1, 1, layers, 1)
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.1)
    x = torch.ones(1, 1, 128, 128, requires_grad=True)
    (scores,) = net(x)
    middle, starts = scores.shape[3] // 2, []
    for k in (middle, middle + 1):
        (seen,) = torch.autograd.grad(scores[0, 0, middle, k], x, retain_graph=True)
        columns = seen[0, 0].any(0).nonzero()
        assert columns.numel() == field == columns[-1] - columns[0] + 1
        starts.append(columns[0].item())
    assert starts[1] - starts[0] == stride


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_sizes_are_those_of_the_image() -> None:
    settings = MUNITSettings()
    assert [settings.sizes(side)["discriminator_layers"] for side in (32, 64, 256)] == [3, 4, 4]
    assert [settings.sizes(side)["scales"] for side in (32, 64, 256)] == [2, 3, 3]
    settings.check(32, variant("plain"))
    published = MUNITSettings.model_validate({"model": {"discriminator_layers": 4, "scales": 3}})
    published.check(64, variant("plain"))
    with pytest.raises(ValueError, match="^model.discriminator_layers: 4 at model.scales 3 need .* at least 61 "):
        published.check(32, variant("plain"))


def test_any_size_that_is_a_multiple_of_4() -> None:
    translator = translator_of(published_nets(3, 1, styled=False))
    for height, width in ((4, 4), (20, 44)):
        x = torch.rand(1, 3, height, width)
        assert translator.translate(x, "A", "B").shape == (1, 1, height, width)
        assert translator.translate(x, "A", "A", style=torch.zeros(1, STYLE_DIM)).shape == (1, 3, height, width)
    assert translator.encode_content(x, "A").shape == (1, 16, 5, 11)
    many = translator.translate_many(x, "A", "A", torch.randn(1, 2, STYLE_DIM))
    assert many.shape == (1, 2, 3, 20, 44)


def test_halving_rates() -> None:
    """The published code halves a step early: 1, 1, .5, .5, .5, .25 with three steps each."""
    found = [
        [HalvingAdam(halve_every=3, halve_early=early).optimizer("").schedule(k) for k in range(6)]
        for early in (False, True)
    ]
    assert found == [[1, 1, 1, 0.5, 0.5, 0.5], [1, 1, 0.5, 0.5, 0.5, 0.25]]
    assert HalvingAdam(halve_every=0).optimizer("").schedule is None
    never = MUNITSettings.model_validate({"optim": {"halve_every": 0, "halve_early": True}})
    with pytest.raises(ValueError, match="^optim.halve_early: the rate is never halved"):
        never.check(32, variant("plain"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.translate(torch.rand(1, 3, 8, 6), "A", "B"), "multiples of 4"),
        (lambda t: t.translate(torch.rand(1, 3, 8, 8), "A", "C"), "unknown domain 'C'"),
        (lambda t: t.translate(torch.rand(1, 1, 8, 8), "B", "A"), "domain 'A' needs either style= or reference="),
        (lambda t: t.encode_style(torch.rand(1, 3, 12, 16), "A"), "need at least 16x16 pixels"),
        (lambda t: t.discriminate(torch.rand(1, 3, 4, 16), "A"), "discriminate: images need at least 7x7 pixels"),
        (lambda t: t.loss("other", random_batch(3, 1, 1), Iteration(0)), "the phases are discriminators, generators"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(translator_of(published_nets(3, 1, styled=False)))  # type: ignore[operator]


def test_two_domains() -> None:
    with pytest.raises(ValueError, match="between two domains, got 3"):
        MUNIT([Domain(name) for name in "abc"], variant("hmu"), size())

"""StarGAN and its many-to-one variants against plain implementations that share nothing with them, in float64."""

from __future__ import annotations

import math

import plain_stargan as plain
import pytest
import torch
import torch.nn.functional as F
from gan_steps import EPS
from stargan_cases import (
    ALIKE,
    MIXED,
    MIXED_WAYS,
    OPTIM,
    SIDE,
    STYLE_DIM,
    WAYS,
    WIDTH,
    many_nets,
    many_translator,
    of_many,
    plain_batch,
    published_nets,
    random_batch,
    same,
    same_tensors,
    samples,
    size,
    steps_for,
    translator_of,
)
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.export import Dim
from torch.fx.experimental import _config as symbolic

from m2o_fast.m2o import Domain
from m2o_fast.translators import create
from m2o_fast.translators.base import Iteration
from m2o_fast.translators.stargan import SYSTEM
from m2o_fast.translators.stargan.nets import Discriminator, Generator, LabelledStem, of_planes
from m2o_fast.translators.stargan.settings import Size, StarGANSettings, Weights
from m2o_fast.translators.stargan.translator import StarGANv1


@pytest.mark.parametrize("labels", ["exclusive", "independent"])
def test_iterations_are_the_published_ones(labels: str) -> None:
    """Losses and all weights of four iterations, every second one with a step of the generator, at falling rates."""
    losses = {"labels": labels, "classification": 0.7, "gradient_penalty": 3.0, "cycle": 4.0}
    nets = published_nets()
    translator = translator_of(nets, losses, every=2)
    trainer = plain.Trainer(*nets, plain.Settings(**OPTIM, eps=EPS, generator_every=2, **losses))
    steps = steps_for(translator, **OPTIM)
    for index in range(4):
        batch = random_batch(ALIKE, WAYS)
        same(steps(batch, index), trainer.iteration(plain_batch(batch)))
    same_tensors(translator.state_dict(), translator_of(nets).state_dict())
    assert steps.stepped == ["discriminator", "discriminator", "generator"] * 2


@pytest.mark.parametrize("supervised", [0.0, 0.8])
def test_iterations_are_the_many_to_one_ones(supervised: float) -> None:
    """Losses and all weights of two iterations with a step of the generator each; three numbers of channels."""
    losses = {"cycle": 4.0, "style": 0.9, "diversity": 1.3, "diversity_steps": 4}
    nets = many_nets(MIXED)
    translator = many_translator(nets, MIXED, losses, 1, supervised)
    settings = plain.Settings(**OPTIM, eps=EPS, generator_every=1, supervised=supervised, **losses)
    trainer, steps = plain.ManyTrainer(nets, settings), steps_for(translator, **OPTIM)
    for index in range(2):
        batch = random_batch(MIXED, MIXED_WAYS, paired=supervised > 0)
        same(steps(batch, index), trainer.iteration(samples(batch, MIXED)))
    found = translator.state_dict()
    same_tensors(found, of_many(nets, list(found)))


def test_the_generator_steps_in_every_fifth_iteration() -> None:
    translator = translator_of(published_nets())
    steps = steps_for(translator)
    logs = [steps(random_batch(ALIKE, WAYS), index) for index in range(10)]
    assert steps.stepped == (["discriminator"] * 5 + ["generator"]) * 2
    assert [k + 1 for k, log in enumerate(logs) if "generator/cycle" in log] == [5, 10]


def test_the_discriminators_phase_keeps_no_graph_that_nothing_needs() -> None:
    translator = translator_of(published_nets())
    for index, lasting, kept in ((3, True, False), (4, True, True), (4, False, False)):
        iteration = Iteration(index, lasting=lasting)
        translator.loss("discriminator", random_batch(ALIKE, WAYS), iteration)
        assert iteration.cache["outputs"][0].requires_grad == kept


def test_of_a_residual_block_two_tensors_are_kept() -> None:
    """What its convolutions give, of which norms, activation and sum are made again."""

    def kept(blocks: int) -> int:
        net = Generator(size().model_copy(update={"width": 4, "blocks": blocks}), ALIKE, 3, shared=True)
        held: dict[int, Tensor] = {}
        with saved_tensors_hooks(lambda tensor: held.setdefault(tensor.data_ptr(), tensor), lambda tensor: tensor):
            made = net([torch.rand(2, 3, SIDE, SIDE)], torch.rand(2, 3), None, [2])
        made[0].sum().backward()
        return sum(tensor.shape == (2, 16, SIDE // 4, SIDE // 4) for tensor in held.values())

    assert kept(3) - kept(1) == 2 * 2


def test_losses_do_not_depend_on_what_phases_share() -> None:
    """With accumulate, the generator's phase finds nothing."""
    translator = many_translator(many_nets(MIXED), MIXED, {}, 1, 1.0)
    batch, iteration = random_batch(MIXED, MIXED_WAYS, paired=True), Iteration(0)
    translator.loss("discriminator", batch, iteration)
    shared, alone = (translator.loss("generator", batch, each)[1] for each in (iteration, Iteration(0)))
    for name, value in shared.items():
        torch.testing.assert_close(alone[name], value, rtol=1e-10, atol=1e-12, msg=name)


def test_losses_of_a_batch_without_images_of_some_domains() -> None:
    """Parts of a batch may have one direction alone."""
    translator = many_translator(many_nets(MIXED), MIXED, {}, 1, 1.0)
    for way in ((0, 1), (1, 0), (2, 2)):
        batch = random_batch(MIXED, [way], paired=True)
        for phase in ("discriminator", "generator"):
            loss, parts = translator.loss(phase, batch, Iteration(0))
            assert loss.isfinite() and all(value.isfinite() for value in parts.values())
        assert (parts["supervised"] > 0) == (parts["diversity"] == 0) == (way[1] == 0)


# --- oracles ---


def judge_of(side: int, channels: int, layers: int, width: int = 1) -> Discriminator:
    model = {"discriminator_width": width, "discriminator_layers": layers}
    chosen = Size(**StarGANSettings.model_validate({"model": model}).sizes(side))
    return Discriminator(chosen, [Domain("a", channels), Domain("b", channels)], 2, shared=True)


def penalty_of(translator: StarGANv1) -> float:
    return translator.loss("discriminator", random_batch(ALIKE, WAYS), Iteration(0))[1]["gradient_penalty"].item()


def test_the_penalty_of_a_linear_and_of_a_constant_critic() -> None:
    """(|w| - 1)^2 exactly, where w is the gradient of the summed scores; 1."""
    translator = translator_of(published_nets())
    judge = translator.discriminator
    for layer in [judge.stems["0"], *judge.convs, judge.score]:
        layer.weight.data.abs_()  # with positive weights and biases so large no activation has its kink in the way
    for layer in [judge.stems["0"], *judge.convs]:
        layer.bias.data.fill_(1e6)
    w = torch.zeros(1, 3, SIDE, SIDE, requires_grad=True)
    (gradient,) = torch.autograd.grad(judge.scores(judge.features([w])).sum(), w)
    assert penalty_of(translator) == pytest.approx((gradient.norm().item() - 1) ** 2, rel=1e-12)
    judge.score.weight.data.zero_()
    assert penalty_of(translator) == 1


@pytest.mark.parametrize(("side", "layers"), [(16, 2), (18, 3)])
def test_slopes_are_gradients_and_so_are_their_derivatives(side: int, layers: int) -> None:
    """Against autograd, twice differentiated; odd sides, too, of which a layer leaves out the last row."""
    judge = judge_of(side, 2, layers, width=3)
    x = torch.randn(3, 2, side, side, requires_grad=True)
    (wanted,) = torch.autograd.grad(judge.scores(judge.features([x])).sum(), x, create_graph=True)
    (found,) = judge.slopes([x.detach()])
    torch.testing.assert_close(found, wanted)
    chosen = [layer.weight for layer in (judge.stems["0"], *judge.convs, judge.score)]
    along = torch.randn_like(x)
    pairs = (torch.autograd.grad((made.square() * along).sum(), chosen) for made in (found, wanted))
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_penalty_is_the_same_in_bfloat16() -> None:
    translator = translator_of(published_nets()).float()
    batch, losses = random_batch(ALIKE, WAYS).to(dtype=torch.float32), []
    for enabled in (False, True):
        iteration = Iteration(0)
        translator._outputs(batch, iteration, training=False)  # the same fakes
        with torch.autocast("cpu", enabled=enabled):
            losses.append(translator.loss("discriminator", batch, iteration)[1])
    assert losses[0]["gradient_penalty"] == losses[1]["gradient_penalty"] and losses[0]["real"] != losses[1]["real"]


@pytest.mark.parametrize(("labels", "wanted"), [("exclusive", math.log(5)), ("independent", 5 * math.log(2))])
def test_losses_of_trivial_scores(labels: str, wanted: float) -> None:
    """Heads of zeros: the classes are all alike, and fakes look as real as anything."""
    domains = [Domain(name) for name in "abcde"]
    translator = StarGANv1(domains, SYSTEM.variants["plain"], size(), Weights(labels=labels), generator_every=1)
    for layer in (translator.discriminator.score, translator.discriminator.classes):
        layer.weight.data.zero_()
    batch = random_batch(domains, [(0, 1), (2, 3), (4, 4)])
    judged, made = (translator.loss(phase, batch, Iteration(0))[1] for phase in ("discriminator", "generator"))
    assert judged["real"] == judged["fake"] == made["adversarial"] == 0
    assert judged["classification"].item() == pytest.approx(wanted) == made["classification"].item()
    assert labels != "independent" or wanted == pytest.approx(3.4657, abs=1e-4)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_parameter_counts() -> None:
    """At the published sizes; five labels, and five and eight of two data sets with their mask."""
    rules = SYSTEM.variants["plain"]

    def built(side: int, *sets: int) -> StarGANv1:
        domains = [Domain(f"d{k}") for k in range(sum(sets))]
        with torch.device("meta"):
            return StarGANv1(domains, rules, Size(**StarGANSettings().sizes(side)), label_sets=sets)

    for sets, wanted in (((5,), 8_430_528), ((5, 8), 8_461_888), ((2,), 8_421_120)):
        assert count(built(32, *sets).generator) == wanted
    judges = {(128, 5): 44_762_048, (128, 8): 44_786_624, (256, 5): 44_884_928, (256, 13): 45_147_072}
    for (side, classes), wanted in (judges | {(32, 2): 2_765_248}).items():
        assert count(built(side, classes).discriminator) == wanted


def test_labels_do_not_vanish() -> None:
    """Behind an instance norm, planes between reflected borders do nothing; between borders of zeros they do."""
    stem, x = LabelledStem(3, 1, WIDTH), torch.rand(1, 3, SIDE, SIDE) * 2 - 1
    labels = torch.zeros(1, 1), torch.ones(1, 1)
    zeros = [F.instance_norm(stem(x, label)) for label in labels]
    planes = [F.pad(plain.with_planes(x, label), (3,) * 4, mode="reflect") for label in labels]
    mirrored = [F.instance_norm(F.conv2d(padded, stem.weight)) for padded in planes]
    assert (zeros[0] - zeros[1]).abs().max() > 0.1 and (mirrored[0] - mirrored[1]).abs().max() < 1e-5


@pytest.mark.parametrize(("k", "height", "width"), [(7, 9, 12), (7, 4, 2), (3, 5, 1)])
def test_planes_that_are_not_made(k: int, height: int, width: int) -> None:
    numbers = torch.randn(2, 3, requires_grad=True)
    weight = torch.randn(4, 3, k, k, requires_grad=True)
    made = F.conv2d(numbers[:, :, None, None].expand(-1, -1, height, width), weight, padding=k // 2)
    found, along = of_planes(numbers, weight, (height, width)), torch.randn_like(made)
    torch.testing.assert_close(found, made)
    pairs = (torch.autograd.grad((out * along).sum(), (numbers, weight)) for out in (found, made))
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_planes_are_followed_for_any_number_of_labels() -> None:
    class Planes(nn.Module):
        def forward(self, numbers: Tensor, image: Tensor) -> Tensor:
            return of_planes(numbers, weight, (image.shape[2], image.shape[3]))

    weight = torch.randn(4, 3, 3, 3)
    free = {0: Dim.DYNAMIC}, {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    inputs = torch.randn(2, 3), torch.randn(2, 1, 5, 6)
    with symbolic.patch(backed_size_oblivious=True):
        program = torch.export.export(Planes(), inputs, dynamic_shapes=free, strict=False).module()
    given = torch.randn(1, 3), torch.randn(1, 1, 4, 7)
    torch.testing.assert_close(program(*given), Planes()(*given))


def test_the_discriminator_sees_wide_patches() -> None:
    """3 * 2^r - 2 pixels in a row, and 2^r on both sides for the score: 318 of six layers, 38 of three."""
    judge = judge_of(128, 1, 3)
    for parameter in judge.parameters():
        nn.init.constant_(parameter, 0.1)
    x = torch.zeros(1, 1, 128, 128, requires_grad=True)
    (gradient,) = torch.autograd.grad(judge.scores(judge.features([x]))[0, 0, 8, 8], x)
    assert gradient[0, 0].any(dim=0).sum() == gradient[0, 0].any(dim=1).sum() == 38


# --- many-to-one rules ---


def test_a_unimodal_output_ignores_every_style() -> None:
    """Bit for bit the same for any style, reference and seed; styles change images of multi-modal domains."""
    translator = many_translator(many_nets(MIXED), MIXED, {}, 5, 0.0)
    gray, color = torch.rand(2, 1, SIDE, SIDE) * 2 - 1, torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    styles = [translator.sample_style(2, "gray", torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert all(style.shape == (2, STYLE_DIM) and not style.any() for style in styles)
    assert not translator.encode_style(gray, "gray").any()
    assert [translator.has_style(k) for k in range(3)] == [False, True, True]
    plainly = translator.translate(color, "color", "gray")
    for given in ({"style": torch.randn(2, STYLE_DIM)}, {"reference": gray}, {"style": styles[1]}):
        assert torch.equal(translator.translate(color, "color", "gray", **given), plainly)
    for source, x in (("gray", gray), ("color", color)):
        drawn = (translator.sample_style(2, "wide", torch.Generator().manual_seed(seed)) for seed in (0, 1))
        first, second = (translator.translate(x, source, "wide", style=style) for style in drawn)
        assert first.shape == (2, 4, SIDE, SIDE) and (first - second).abs().mean() > 1e-3
    by_reference = translator.translate(gray, "gray", "color", reference=color)
    assert torch.equal(
        by_reference, translator.translate(gray, "gray", "color", style=translator.encode_style(color, 1))
    )


def test_domains_have_layers_of_their_own() -> None:
    translator = many_translator(many_nets(MIXED), MIXED, {}, 5, 0.0)
    names = {name: tuple(tensor.shape) for name, tensor in translator.state_dict().items()}
    for k, domain in enumerate(MIXED):
        c = domain.channels
        assert names[f"generator.stems.{k}.weight"] == (WIDTH, c + 3 + STYLE_DIM, 7, 7)
        assert names[f"generator.heads.{k}.weight"] == (c, WIDTH, 7, 7)
        assert names[f"discriminator.stems.{k}.weight"] == (WIDTH, c, 4, 4)
        assert (f"style_encoders.{k}.head.weight" in names) == domain.multimodal
    assert {name.split(".")[1] for name in names if name.startswith("style")} == {"1", "2"}
    assert translator.references() == 1 and translator_of(published_nets()).references() == 0


def test_plain_domains_share_everything() -> None:
    """A gray domain takes the channels of the others, and none has a style."""
    translator = StarGANv1(MIXED[:2], SYSTEM.variants["plain"], size())
    assert [domain.channels for domain in translator.domains] == [3, 3]
    assert not any(map(translator.has_style, range(2))) and translator.style_shape(0) == (0,)
    assert set(translator.groups()) == {"generator", "discriminator"} and len(translator.generator.stems) == 1
    x = torch.rand(2, 3, SIDE, SIDE)
    given = translator.translate(x, 0, 1), translator.translate(x, 1, 1, style=torch.randn(2, 0))
    assert torch.equal(*given) and not torch.equal(given[0], translator.translate(x, 0, 0))


def test_label_maps_come_out_as_probabilities() -> None:
    domains = [Domain("photo"), Domain("map", 4, multimodal=False, kind="onehot")]
    translator = StarGANv1(domains, SYSTEM.variants["hms"], size(), generator_every=1)
    made = translator.translate(torch.rand(2, 3, SIDE, SIDE), "photo", "map")
    torch.testing.assert_close(((made + 1) / 2).sum(dim=1), torch.ones(2, SIDE, SIDE))


def test_label_maps_are_compared_by_the_cross_entropy_of_their_classes() -> None:
    """With known translations, and where they are restored; image by image, of the probabilities that users see."""
    domains = [Domain("photo"), Domain("map", 4, multimodal=False, kind="onehot")]
    translator = StarGANv1(domains, SYSTEM.variants["hms"], size(), generator_every=1)
    batch = random_batch(domains, [(0, 1), (1, 0), (0, 0), (1, 1)], paired=True)
    assert translator.loss("discriminator", batch, Iteration(0))[0].isfinite()
    _, parts = translator.loss("generator", batch, Iteration(0))

    def error(made: Tensor, wanted: Tensor, domain: int) -> Tensor:
        if domain == 0:
            return (made - wanted).abs().mean()
        return F.cross_entropy(((made + 1) / 2).log(), wanted.argmax(1))

    given, wanted = samples(batch, domains), {"supervised": torch.zeros(()), "cycle": torch.zeros(())}
    assert [sample.b for sample in given if sample.truth is not None] == [1]
    for sample in given:
        fake = translator.translate(sample.x, sample.a, sample.b, style=sample.style)
        if sample.truth is not None:
            wanted["supervised"] += error(fake, sample.truth, sample.b) / len(given)
        restored = translator.translate(fake, sample.b, sample.a, style=translator.encode_style(sample.x, sample.a))
        wanted["cycle"] += error(restored, sample.x, sample.a) / len(given)
    for name, value in wanted.items():
        torch.testing.assert_close(parts[name], value.detach(), rtol=1e-10, atol=1e-12, msg=name)


# --- sizes, use ---


def test_layers_that_leave_nothing_are_refused() -> None:
    """torch would build the last layer with a kernel of 0."""
    assert [StarGANSettings().sizes(side)["discriminator_layers"] for side in (32, 36, 64, 128, 256)] == [4, 4, 5, 6, 6]
    deep = StarGANSettings.model_validate({"model": {"discriminator_layers": 6}})
    deep.check(64, SYSTEM.variants["plain"])
    with pytest.raises(
        ValueError, match="model.discriminator_layers 6 leaves nothing to judge of 32 pixels; take fewer"
    ):
        deep.check(32, SYSTEM.variants["plain"])


def test_a_translator_is_described() -> None:
    translator = many_translator(many_nets(MIXED), MIXED, {"cycle": 3.0}, 2, 0.5)
    again = create(translator.describe())
    again.load_state_dict(translator.state_dict())
    assert again.describe() == translator.describe() and again.phases(1) == translator.phases(1)
    narrow = {"width": 2, "blocks": 1, "discriminator_width": 2}
    settings = StarGANSettings.model_validate({"model": narrow, "optim": {"generator_every": 3}})
    made = create({"system": "stargan", **settings.description(MIXED, SYSTEM.variants["hmu"], 64)})
    assert len(made.phases(2)) == 2 and made.size.discriminator_layers == 5 and made.image_size == 64


def test_images_of_any_multiple_of_four() -> None:
    translator, many = translator_of(published_nets()), many_translator(many_nets(MIXED), MIXED, {}, 5, 0.0)
    x = torch.rand(1, 3, 20, 12)
    assert translator.translate(x, "domain0", "domain2").shape == x.shape
    assert translator.discriminate(x, 0)[0].shape == (1, 1, 2, 1)
    for call, message in (
        (lambda: translator.classify(x), "classify: images must have 32x32 pixels"),
        (lambda: translator.discriminate(x[..., :4], 0), "discriminate: images need at least 8x8 pixels"),
        (lambda: translator.translate(x[..., :10], 0, 1), "multiples of 4"),
        (lambda: translator.translate_labels(x, torch.ones(1, 2)), r"labels must be \[1 or 1, 3\], got \[1, 2\]"),
        (lambda: many.translate_labels(x, x), "layers of their own"),
        (lambda: many.translate(x, 1, 2), "domain 'wide' needs either style= or reference="),
        (lambda: many.encode_style(x[..., :4], 1), "encode_style: images need at least 8x8 pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_without_a_discriminator_it_translates() -> None:
    translator = StarGANv1(ALIKE, SYSTEM.variants["plain"], size(), discriminator=False)
    assert translator.translate(torch.rand(1, 3, SIDE, SIDE), 0, 1).shape == (1, 3, SIDE, SIDE)
    with pytest.raises(ValueError, match="without a discriminator"):
        translator.discriminate(torch.rand(1, 3, SIDE, SIDE), 0)
    with pytest.raises(ValueError, match=r"label_sets: \[2, 2\] do not add up to 3 domains"):
        StarGANv1(ALIKE, SYSTEM.variants["plain"], size(), label_sets=[2, 2])

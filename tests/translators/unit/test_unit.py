"""UNIT and its many-to-one variants against plain implementations that share nothing with them, in float64."""

from __future__ import annotations

from dataclasses import replace
from math import log

import plain_unit_trainer as training
import pytest
import torch
from gan_steps import EPS
from torch import Tensor
from unit_cases import (
    FORMS,
    SIDE,
    STYLE_DIM,
    WIDTH,
    PlainNets,
    copy_styles,
    many_to_one_pair,
    new_translator,
    plain_iteration,
    published_nets,
    random_batch,
    steps_for,
    weights,
)

from m2o_fast.batch import Batch
from m2o_fast.m2o import Domain
from m2o_fast.translators.base import Iteration
from m2o_fast.translators.unit import SYSTEM
from m2o_fast.translators.unit.published import from_official
from m2o_fast.translators.unit.settings import Weights
from m2o_fast.translators.unit.translator import UNIT

LOSSES = {"adversarial": 2.0, "reconstruction": 3.0, "cycle": 4.0, "kl": 0.5, "cycle_kl": 0.7}


def same(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-10, abs=1e-12), name


def floats(parts: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in parts.items()}


def same_weights(translator: UNIT, nets: PlainNets) -> None:
    """Every parameter; those of styles, where the plain nets have a style."""
    expected = from_official(weights(nets), image_size=SIDE).state_dict()
    if nets.styles:
        expected = translator.state_dict() | expected
        wanted = UNIT.from_description(translator.describe())
        wanted.load_state_dict(expected)
        copy_styles(nets, wanted)
        expected = wanted.state_dict()
    for name, tensor in translator.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    ("form", "a", "b", "share", "slips"),
    [
        ("rerelease", 3, 3, 0, False),
        ("rerelease", 2, 1, 1, False),
        ("rerelease", 3, 3, 2, True),
        ("paper", 3, 3, 1, True),
        ("paper", 1, 2, 2, False),
    ],
)
def test_iterations_are_the_published_ones(form: str, a: int, b: int, share: int, slips: bool) -> None:
    """Losses and all weights of two iterations, with the published slips and without them; a rate that is halved."""
    nets = published_nets(form, a, b, share, deep=share)
    translator = from_official(weights(nets), image_size=SIDE)
    assert (translator.size.form, translator.size.share) == (form, share)
    translator.weights = Weights(**LOSSES, kl_of="sample" if slips else "mean")
    settings = training.Settings(
        paper=form == "paper",
        lr=1e-3,
        eps=EPS,
        halve_every=2 if slips else 1,
        halve_early=slips,
        kl_of_sample=slips,
        **LOSSES,
    )
    trainer = training.Trainer(nets, settings)
    steps = steps_for(translator, lr=1e-3, halve_every=settings.halve_every, halve_early=slips)
    for index in range(2):
        batch = random_batch(a, b, 2)
        same(steps(batch, index), plain_iteration(trainer, batch))
    same_weights(translator, nets)


@pytest.mark.parametrize(
    ("form", "channels", "styled", "supervised", "kl_of", "blocks", "counts"),
    [
        ("rerelease", 1, (0,), 0.8, "mean", 2, (2, None)),
        ("rerelease", 3, (1,), 0.8, "sample", 3, (2, 1)),
        ("rerelease", 2, (0, 1), 0.0, "mean", 3, (1, 2)),
        ("paper", 1, (0,), 0.8, "sample", 3, (2, 3)),
        ("paper", 3, (0, 1), 0.0, "mean", 2, (2, 1)),
    ],
)
def test_iterations_are_the_many_to_one_ones(
    form: str,
    channels: int,
    styled: tuple[int, ...],
    supervised: float,
    kl_of: str,
    blocks: int,
    counts: tuple[int, int | None],
) -> None:
    """Losses and all weights of two iterations: a uni-modal domain has no noise, each multi-modal one a style."""
    losses = LOSSES | {"style": 0.9, "diversity": 1.3, "diversity_steps": 4}
    nets, translator = many_to_one_pair(
        form, channels, supervised, losses | {"kl_of": kl_of}, styled=styled, blocks=blocks
    )
    settings = training.Settings(
        paper=form == "paper",
        lr=1e-3,
        eps=EPS,
        styled=styled,
        supervised=supervised,
        kl_of_sample=kl_of == "sample",
        **losses,
    )
    trainer, steps = training.Trainer(nets, settings), steps_for(translator, lr=1e-3)
    for index in range(2):
        batch = random_batch(3, channels, *counts, styled=styled, paired=supervised > 0)
        same(steps(batch, index), plain_iteration(trainer, batch))
    same_weights(translator, nets)


def test_discriminators_step_before_everything_else() -> None:
    _, translator = many_to_one_pair()
    steps = steps_for(translator)
    steps(random_batch(3, 1, 1, styled=[0]), 0)
    assert steps.stepped == ["discriminators", "generators"]


def test_phases_alone_have_the_numbers_of_phases_that_share() -> None:
    """What a phase does not find it computes; when a batch comes in parts, it leaves no more than it needs itself."""
    _, translator = many_to_one_pair()
    batch, shared, parts = random_batch(3, 1, 2, styled=[0]), Iteration(0), Iteration(0, lasting=False)
    translator.requires_grad_(True)
    for phase in ("discriminators", "generators"):
        together, alone = (translator.loss(phase, batch, iteration)[0] for iteration in (shared, parts))
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
        if phase == "discriminators":
            assert "decoded1" in shared.cache and list(parts.cache) == ["latents"]
            assert not any(latent.requires_grad for latent in parts.cache.pop("latents").values())


def alone(batch: Batch, k: int) -> Batch:
    """The images of one domain: what is left of a batch of two in parts of one."""
    rows = slice(0, batch.target_counts[0]) if k else slice(batch.target_counts[0], None)
    counts = tuple(count if target != k else 0 for target, count in enumerate(batch.target_counts))
    assert batch.has_pair is not None
    return replace(
        batch,
        source=tuple(images if domain == k else images[:0] for domain, images in enumerate(batch.source)),
        to_target=torch.arange(batch.source[k].shape[0]),
        target_counts=counts,
        paired=tuple(images[:count] for images, count in zip(batch.paired, counts, strict=True)),
        has_pair=batch.has_pair[rows],
        noise={name: numbers[rows] for name, numbers in batch.noise.items()},
    )


@pytest.mark.parametrize("kl_of", ["mean", "sample"])
@pytest.mark.parametrize("form", FORMS)
def test_a_part_may_have_images_of_one_domain_alone(form: str, kl_of: str) -> None:
    """The losses of a batch are the means of those of its parts, also where no latent of a part gets noise."""
    _, translator = many_to_one_pair(form, 1, 0.8, LOSSES | {"kl_of": kl_of})
    batch = random_batch(3, 1, 1, styled=[0], paired=True)
    for phase in ("discriminators", "generators"):
        expected, whole = translator.loss(phase, batch, Iteration(0))
        losses = [translator.loss(phase, alone(batch, k), Iteration(0)) for k in range(2)]
        torch.testing.assert_close(sum(loss for loss, _ in losses) / 2, expected)
        same({name: sum(parts[name].item() for _, parts in losses) / 2 for name in whole}, floats(whole))


@pytest.mark.parametrize(
    ("left_out", "decoded"),
    [((), 5), (("diversity",), 4), (("cycle",), 3), (("cycle", "cycle_kl"), 3), (("cycle", "diversity"), 2)],
)
def test_what_has_no_weight_is_not_computed(left_out: tuple[str, ...], decoded: int) -> None:
    """A decoding of each domain, one more of each for the cycle, and a second one into colours."""
    _, translator = many_to_one_pair(losses=dict.fromkeys(left_out, 0.0))
    calls, decode = [], translator.generator.decode
    translator.generator.decode = lambda *given: calls.append(given[1]) or decode(*given)
    parts = translator.loss("generators", random_batch(3, 1, 1, styled=[0]), Iteration(0))[1]
    assert len(calls) == decoded
    assert {"adversarial", "reconstruction", "kl", "cycle", "cycle_kl", "style", "diversity"} - {*left_out} == {*parts}


def test_many_styles_of_a_domain_without_style_are_one_translation() -> None:
    _, translator = many_to_one_pair()
    x, calls, decode = torch.rand(2, 3, SIDE, SIDE), [], translator.generator.decode
    translator.generator.decode = lambda *given: calls.append(given[1]) or decode(*given)
    many = translator.translate_many(x, "A", "B", torch.zeros(2, 3, STYLE_DIM))
    assert calls == [1]
    expected = translator.translate(x, "A", "B")
    assert many.shape == (2, 3, 1, SIDE, SIDE) and all(torch.equal(one, expected) for one in many.unbind(1))


@pytest.mark.parametrize(("form", "judged", "fooled"), [("rerelease", 3, 3), ("paper", 2 * log(2), log(2))])
def test_losses_of_trivial_nets(form: str, judged: float, fooled: float) -> None:
    """All scores 0, at 3 scales; latents 1 everywhere have a mean square of 1, and images restored exactly no error."""
    scales = {"scales": 3, "discriminator_layers": 2} if form == "rerelease" else {}
    translator = new_translator({"form": form, **scales}, "plain")
    for parameter in translator.discriminators.parameters():
        parameter.data.zero_()
    image, generator = torch.full((2, 3, SIDE, SIDE), 0.5), translator.generator
    generator.encode = lambda x, k: torch.ones(len(x), 4 * WIDTH, SIDE // 4, SIDE // 4)
    generator.decode = lambda z, k, style=None: image[:1].atanh().repeat(len(z), 1, 1, 1)
    batch = random_batch(3, 3, 2)
    batch = type(batch)(**{**vars(batch), "source": (image, image), "noise": translator.noise(4, torch.Generator())})
    iteration = Iteration(0)
    translator.weights = Weights()
    assert translator.loss("discriminators", batch, iteration)[0].item() == pytest.approx(2 * judged)
    parts = translator.loss("generators", batch, iteration)[1]
    expected = {"adversarial": 2 * fooled, "reconstruction": 0, "cycle": 0, "kl": 2, "cycle_kl": 2}
    assert floats(parts) == pytest.approx(expected, abs=1e-12)


# --- wiring ---


@pytest.mark.parametrize("form", FORMS)
def test_a_loss_on_a_domain_changes_what_is_shared_and_nothing_of_the_other_domain(form: str) -> None:
    """Blocks that are shared are there once, in the latents and decoders of both domains."""
    translator = from_official(weights(published_nets(form)), image_size=SIDE).requires_grad_(True)
    x = torch.rand(1, 3, SIDE, SIDE)
    translator.generator.decode(translator.encode_content(x, "A"), 0).abs().mean().backward()
    sum(scores.sum() for scores in translator.discriminate(x, "A")).backward()
    everything = {name for name, _ in translator.named_parameters()}
    touched = {name for name, parameter in translator.named_parameters() if parameter.grad is not None}
    of_b = ("generator.encoders.1.", "generator.decoders.1.", "discriminators.own.1.")
    untouched = {name for name in everything - touched if not name.startswith(of_b)}
    assert not any(name.startswith(of_b) for name in touched)
    assert all(name.endswith(".bias") for name in untouched)  # in front of instance norms, where they have no effect
    assert len([name for name in touched if name.startswith("generator.shared_")]) == 4
    parameters = [p for nets in translator.groups().values() for net in nets for p in net.parameters()]
    assert len(parameters) == len(set(map(id, parameters))) == len(everything)


def test_latents_are_the_mean_at_test_and_have_noise_in_training() -> None:
    """Noise of the multi-modal domain alone, with a standard deviation of 1."""
    _, translator = many_to_one_pair()
    numbers = translator.noise(64, torch.Generator().manual_seed(0))["latent"].double()
    assert numbers.shape == (64, 4 * WIDTH, SIDE // 4, SIDE // 4)
    assert numbers.mean().abs() < 0.01 and numbers.std().item() == pytest.approx(1, abs=0.01)
    decoded: list[tuple[int, Tensor]] = []
    decode = translator.generator.decode
    translator.generator.decode = lambda z, k, style=None: decoded.append((k, z)) or decode(z, k, style)
    batch = random_batch(3, 1, 2, styled=[0])
    translator.loss("generators", batch, Iteration(0))
    means = [translator.encode_content(x, k) for k, x in enumerate(batch.source)]
    noise = batch.noise["latent"].split(2)[::-1]
    first = dict(reversed(decoded))
    torch.testing.assert_close(first[0], torch.cat([means[0] + noise[0], means[1] + noise[1]]))
    torch.testing.assert_close(first[1], torch.cat([means[1], means[0]]))
    decoded.clear()
    translator.translate(batch.source[0], "A", "B")
    translator.translate(batch.source[1], "B", "A", style=torch.zeros(1, STYLE_DIM))
    assert [k for k, _ in decoded] == [1, 0]
    assert torch.equal(decoded[0][1], means[0]) and torch.equal(decoded[1][1], means[1])


# --- many-to-one rules ---


@pytest.mark.parametrize("form", FORMS)
def test_unimodal_output_ignores_every_style(form: str) -> None:
    """Bit for bit the same for any style, reference and seed; the style changes the other direction."""
    _, translator = many_to_one_pair(form)
    a, b = (torch.rand(2, c, SIDE, SIDE) * 2 - 1 for c in (3, 1))
    styles = [translator.sample_style(2, "B", torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert all(style.shape == (2, STYLE_DIM) and not style.any() for style in styles)
    assert not translator.encode_style(b, "B").any()
    plainly = translator.translate(a, "A", "B")
    for given in ({"style": torch.randn(2, STYLE_DIM)}, {"reference": b}, {"style": styles[1]}):
        assert torch.equal(translator.translate(a, "A", "B", **given), plainly)
    drawn = translator.sample_style(4, "A", torch.Generator().manual_seed(0)).view(2, 2, STYLE_DIM)
    many = translator.translate_many(b, "B", "A", drawn)
    assert (many[:, 0] - many[:, 1]).abs().mean() > 1e-3
    assert torch.equal(many[:, 1], translator.translate(b, "B", "A", style=drawn[:, 1]))
    by_reference = translator.translate(b, "B", "A", reference=a)
    assert torch.equal(by_reference, translator.translate(b, "B", "A", style=translator.encode_style(a, "A")))


def test_plain_has_no_style() -> None:
    translator = new_translator({}, "plain")
    assert not translator.has_style("A") and not translator.has_style("B")
    assert translator.sample_style(3, "A").shape == (3, 0)
    assert translator.encode_style(torch.zeros(3, 3, 8, 8), "B").shape == (3, 0)
    assert list(translator.noise(2, torch.Generator())) == ["latent_discriminators", "latent", "latent_cycle"]


def test_a_one_hot_domain_is_compared_by_its_logits() -> None:
    """Images are class probabilities; the supervised loss is the cross-entropy."""
    domains = [Domain("scene", 3), Domain("labels", 4, multimodal=False, kind="onehot")]
    size = new_translator({"style_dim": STYLE_DIM}).size
    translator = UNIT(domains, SYSTEM.variants["hms"], size)
    images = translator.translate(torch.rand(2, 3, SIDE, SIDE), "scene", "labels")
    torch.testing.assert_close(((images + 1) / 2).sum(1), torch.ones(2, SIDE, SIDE))
    translator.generator.decoders["1"].head.weight.data.zero_()
    parts = translator.loss("generators", random_batch(3, 4, 2, styled=[0], paired=True), Iteration(0))[1]
    logarithm = torch.tensor(4.0).log().item()
    assert parts["supervised"].item() == pytest.approx(logarithm / 2)  # every second has a pair


@pytest.mark.parametrize("form", FORMS)
def test_the_smallest_size_trains(form: str) -> None:
    """Its discriminators have a score left at every scale; no map becomes too small for a border."""
    translator = new_translator({"form": form, "style_dim": STYLE_DIM}, channels=1).train()
    losses = steps_for(translator)(random_batch(3, 1, 1, styled=[0], paired=True), 0)
    assert all(torch.tensor(value).isfinite() for value in losses.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.translate(torch.rand(1, 3, 8, 8), "A", "C"), "unknown domain 'C'"),
        (lambda t: t.loss("other", random_batch(3, 3, 1), Iteration(0)), "the phases are discriminators, generators"),
        (lambda t: many_to_one_pair()[1].translate(torch.rand(1, 1, 8, 8), "B", "A"), "needs either style= or refer"),
        (lambda t: many_to_one_pair()[1].encode_style(torch.rand(1, 3, 8, 4), "A"), "at least 8x8 pixels, got .*8, 4"),
        (lambda t: t.discriminate(torch.rand(1, 3, 4, 8), "A"), "^discriminate: images need at least 7x7 pixels"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(from_official(weights(published_nets())))  # type: ignore[operator]


def test_the_smallest_images_that_are_judged_and_have_a_style() -> None:
    assert many_to_one_pair()[1].encode_style(torch.rand(1, 3, 8, 8), "A").shape == (1, STYLE_DIM)
    assert from_official(weights(published_nets("paper"))).discriminate(torch.rand(1, 3, 4, 4), "A")[0].numel() == 1
    sides = [
        scores.shape[-1]
        for scores in from_official(weights(published_nets())).discriminate(torch.rand(1, 3, 8, 8), "A")
    ]
    assert sides == [2, 1]


def test_nothing_is_learned_without_a_discriminator() -> None:
    """Its group has nothing to train; a loss says what is missing."""
    nets = weights(published_nets())
    for given in (["gen_a", "gen_b", "dis_b"], ["gen_a", "gen_b"]):
        translator = from_official({name: nets[name] for name in given}, image_size=SIDE)
        assert ("discriminators" in translator.groups()) == ("dis_b" in given)
        for phase in ("discriminators", "generators"):
            with pytest.raises(ValueError, match="came without the discriminator of domain 'A'"):
                translator.loss(phase, random_batch(3, 3, 1), Iteration(0))


@pytest.mark.parametrize(("form", "operators"), [("rerelease", ("adain", "modulation")), ("paper", ("adain",))])
def test_operators_are_those_that_are_called(form: str, operators: tuple[str, ...]) -> None:
    _, translator = many_to_one_pair(form)
    assert translator.operators() == operators
    with torch.profiler.profile() as profile:
        translator.translate(torch.rand(1, 1, SIDE, SIDE), "B", "A", style=torch.rand(1, STYLE_DIM))
    called = {event.key for event in profile.key_averages()}
    assert any("scale_bias_act" in name for name in called) == ("modulation" in operators)


def test_two_domains() -> None:
    with pytest.raises(ValueError, match="between two domains, got 3"):
        UNIT([Domain(name) for name in "abc"], SYSTEM.variants["hmu"], new_translator({}).size)


def test_an_image_restored_has_its_own_style() -> None:
    _, translator = many_to_one_pair()
    x = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    restored = translator.translate(x, "A", "A", reference=x)
    latent, style = translator.encode_content(x, "A"), translator.encode_style(x, "A")
    assert torch.equal(restored, translator.generator.decode(latent, 0, style).tanh())

"""BicycleGAN, its parts and its many-to-one variant against plain implementations that share nothing with them."""

from __future__ import annotations

import plain_bicyclegan as plain
import pytest
import torch
import torch.nn.functional as F
from bicyclegan_cases import (
    COLOR,
    GRAY,
    LEVELS,
    OPTIM,
    PLAIN,
    STYLE_DIM,
    WIDTH,
    direction,
    random_batch,
    randomize,
    same_weights,
    share_of,
    size,
    translator_of,
    variant,
    weights,
)
from gan_steps import Steps
from torch import nn

from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.translators.base import Iteration
from m2o_fast.translators.bicyclegan import SYSTEM
from m2o_fast.translators.bicyclegan.published import from_official
from m2o_fast.translators.bicyclegan.settings import JUDGES, BicycleGANSettings, Weights
from m2o_fast.translators.bicyclegan.translator import BicycleGAN

LOSSES = {"reconstruction": 7.0, "latent": 0.7, "kl": 0.02}
HMS = ManyToOne(supervised_weight=80.0)


def same(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-10, abs=1e-12), name


def same_steps(translator: BicycleGAN, there: plain.Direction, back: plain.Direction | None, kind: str) -> None:
    """Losses and weights of two iterations with a rate that falls; one pair is not known."""
    ways = [(1, there)] + ([] if back is None else [(0, back)])
    trainer = plain.Trainer([way for _, way in ways], plain.Settings(kind, **PLAIN, **LOSSES, supervised=80.0))
    steps = Steps(translator, BicycleGANSettings.model_validate({"optim": OPTIM}).optim)
    for index in range(2):
        batch = random_batch(translator, 2)
        assert batch.has_pair is not None
        batch.has_pair[1] = False
        logs = steps(batch, index)
        theirs = trainer.iteration([share_of(translator, batch, k) for k, _ in ways])
        same({name.rpartition("/")[2]: value for name, value in logs.items()}, theirs)
    same_weights(translator, weights(there, back))


@pytest.mark.parametrize("kind", JUDGES)
def test_iterations_are_the_published_ones(kind: str) -> None:
    """Of one direction, with dropout."""
    there = direction(2, 3, kind)
    translator = from_official(weights(there))
    assert translator.size.kind == kind
    assert any(name.startswith("dropout4_") for name in translator.noise(1, torch.Generator()))
    with_losses = BicycleGAN(translator.domains, translator.rules, translator.size, Weights(**LOSSES))
    with_losses.load_state_dict(translator.state_dict())
    same_steps(with_losses, there, None, kind)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", JUDGES)
def test_iterations_are_the_many_to_one_ones(kind: str, shared: bool) -> None:
    """The hybrid or a part of it into colour; into gray a supervised GAN with style 0, by the same trunk or its own."""
    back = direction(1, 3, kind)
    there = direction(3, 1, kind, styled=False)
    if shared:
        trunk = back.G.model.submodule
        there.G = randomize(plain.Generator(3, 1, WIDTH, LEVELS, 0, trunk))
    translator = translator_of(there, back, HMS, Weights(**LOSSES), kind=kind, shared_trunk=shared)
    same_steps(translator, there, back, kind)


def test_iterations_of_both_directions_with_style() -> None:
    there, back = direction(3, 1), direction(1, 3)
    same_steps(translator_of(there, back, variant("plain"), Weights(**LOSSES)), there, back, "bicycle")


def test_generators_and_encoders_step_before_discriminators() -> None:
    translator = from_official(weights(direction(2, 3)))
    steps = Steps(translator, BicycleGANSettings().optim)
    steps(random_batch(translator, 1), 0)
    assert steps.stepped == ["generators", "encoders", "discriminators"]


# --- which loss reaches which net ---


def gradients(translator: BicycleGAN, losses: dict[str, float]) -> dict[str, float]:
    """The largest gradient in each group of nets, of the generators' loss with these weights."""
    again = BicycleGAN(translator.domains, translator.rules, translator.size, Weights(**losses))
    again.load_state_dict(translator.state_dict())
    torch.manual_seed(0)
    total, _ = again.loss("generators", random_batch(again, 2), Iteration(0))
    parameters = {name: [p for net in nets for p in net.parameters()] for name, nets in again.groups().items()}
    found = torch.autograd.grad(total, sum(parameters.values(), []), allow_unused=True)
    largest = iter([0.0 if gradient is None else float(gradient.abs().max()) for gradient in found])
    return {name: max(next(largest) for _ in group) for name, group in parameters.items()}


@pytest.mark.parametrize(("kind", "reads"), [("bicycle", False), ("clr", True)])
def test_drawn_styles_are_found_again_by_the_generator(kind: str, reads: bool) -> None:
    """Alone: the style encoder of the hybrid learns from the truth, that of the regressor from nothing else."""
    translator = from_official(weights(direction(2, 3, kind))).requires_grad_(True)
    none = {"reconstruction": 0.0, "kl": 0.0, "latent": 0.0}
    silent, heard = (gradients(translator, {**none, "latent": weight}) for weight in (0.0, 1000.0))
    if reads:
        assert silent["encoders"] == 0 < heard["encoders"]
    else:
        assert silent["encoders"] == heard["encoders"] > 0
    assert heard["generators"] > 2 * silent["generators"] and heard["discriminators"] == 0


def test_second_discriminators_see_other_real_images() -> None:
    translator = from_official(weights(direction(2, 3))).requires_grad_(True)
    assert translator.references() == 1
    batch, iteration = random_batch(translator, 2), Iteration(0)
    translator.loss("generators", batch, iteration)
    for images in (batch.paired[1], batch.reference[1]):
        images.requires_grad_(True)
    _, parts = translator.loss("discriminators", batch, iteration)
    total, _ = translator.loss("discriminators", batch, iteration)
    nets = {name: list(translator.discriminators[f"{name}_1"].parameters()) for name in ("D", "D2")}
    for name, seen in (("D", batch.paired[1]), ("D2", batch.reference[1])):
        (slope,) = torch.autograd.grad(total, nets[name][:1], create_graph=True)
        of = torch.autograd.grad(slope.square().sum(), [batch.paired[1], batch.reference[1]], allow_unused=True)
        moved = [gradient is not None and bool(gradient.any()) for gradient in of]
        assert moved == [seen is batch.paired[1], seen is batch.reference[1]]
    assert parts.keys() == {"real", "fake", "real2", "fake2"}


def test_parts_have_the_nets_that_they_learn_with() -> None:
    for kind, (judges, reads, references) in {
        "bicycle": (["D", "D2"], True, 1),
        "cvae": (["D"], True, 0),
        "clr": (["D2"], True, 1),
        "pix2pix_noise": (["D"], False, 0),
    }.items():
        translator = BicycleGAN([COLOR, GRAY], HMS, size(kind=kind))
        assert set(translator.discriminators) == {"D_1", *(f"{judge}_0" for judge in judges)}
        assert translator.references() == references and translator.reads_style("color") == reads
        assert not translator.reads_style("gray")


@pytest.mark.parametrize("kind", ["continuous", "onehot"])
def test_one_direction_into_a_unimodal_domain_is_a_supervised_gan(kind: str) -> None:
    """Also of label maps, which are told apart by their classes; nothing is drawn but what dropout keeps."""
    labels = Domain("labels", 4, multimodal=False, kind=kind)
    translator = randomize(BicycleGAN([COLOR, labels], HMS, size(direction="A->B")))
    assert translator.references() == 0 and translator.style_shape(1) == (0,)
    assert list(translator.groups()) == ["generators", "discriminators"]
    batch, iteration = random_batch(translator, 2), Iteration(0)
    assert list(batch.noise) == ["dropout4_none"] and batch.has_pair is not None
    batch.has_pair[1] = False
    _, made = translator.loss("generators", batch, iteration)
    _, judged = translator.loss("discriminators", batch, iteration)
    assert made.keys() == {"adversarial", "supervised"} and judged.keys() == {"real", "fake"}
    fake, truth = iteration.kept["labels/none"][:1], batch.paired[1][:1]
    wanted = (fake - truth).abs().mean()
    if kind == "onehot":
        wanted = F.cross_entropy(((fake + 1) / 2).log(), truth.argmax(1))
        image = translator.translate(batch.source[0], 0, 1)
        torch.testing.assert_close(image.sum(1), torch.full((2, 64, 64), -2.0))
    torch.testing.assert_close(made["supervised"], wanted / 2)  # of two, one has no known pair


def test_divergence_is_a_sum_over_the_batch() -> None:
    """Of standard normal styles 0; of means 1 in 8 dimensions 4 a sample, with weight 0.01."""
    way = direction(2, 3)
    nn.init.zeros_(way.E.fc[0].weight), nn.init.zeros_(way.E.fcVar[0].weight), nn.init.zeros_(way.E.fcVar[0].bias)
    for mean, count, shares in ((0.0, 1, 1), (1.0, 1, 1), (1.0, 2, 1), (1.0, 1, 2)):
        nn.init.constant_(way.E.fc[0].bias, mean)
        translator = from_official(weights(way))
        batch = random_batch(translator, count)
        totals = []
        for kl in (0.0, 0.01):
            one = BicycleGAN(translator.domains, translator.rules, translator.size, Weights(kl=kl))
            one.load_state_dict(translator.state_dict())
            total, parts = one.loss("generators", batch, Iteration(0, shares=shares))
            assert parts["kl"].item() == pytest.approx(mean * STYLE_DIM / 2 * count * shares)
            totals.append(total)
        assert (totals[1] - totals[0]).item() == pytest.approx(0.01 * mean * STYLE_DIM / 2 * count * shares)


def test_losses_of_trivial_scores() -> None:
    """All scores 0: 1 at each of two scales, for the generators and for the discriminators."""
    way = direction(2, 3)
    for judge in (way.D, way.D2):
        for scale in (judge.model_0, judge.model_1):
            nn.init.zeros_(scale[-1].weight), nn.init.zeros_(scale[-1].bias)
    translator = from_official(weights(way))
    batch, iteration = random_batch(translator, 2), Iteration(0)
    _, made = translator.loss("generators", batch, iteration)
    _, judged = translator.loss("discriminators", batch, iteration)
    assert made["adversarial"].item() == made["adversarial2"].item() == 2
    assert {name: value.item() for name, value in judged.items()} == {"real": 2, "real2": 2, "fake": 0, "fake2": 0}


# --- many-to-one rules ---


@pytest.mark.parametrize("shared", [False, True])
def test_unimodal_output_ignores_every_style(shared: bool) -> None:
    """Bit for bit the same for any style, reference and seed; the style changes the other direction."""
    translator = randomize(BicycleGAN([COLOR, GRAY], HMS, size(shared_trunk=shared))).eval()
    color, gray = (torch.rand(2, c, 64, 64) * 2 - 1 for c in (3, 1))
    plainly = translator.translate(color, "color", "gray")
    for given in ({"style": torch.randn(2, STYLE_DIM)}, {"reference": gray}):
        assert torch.equal(translator.translate(color, "color", "gray", **given), plainly)
    assert not translator.sample_style(2, "gray").any() and not translator.encode_style(gray, "gray").any()
    styles = [translator.sample_style(2, "color", torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    first, second = (translator.translate(gray, "gray", "color", style=style) for style in styles)
    assert (first - second).abs().mean() > 1e-3
    assert torch.equal(first, translator.translate(gray, "gray", "color", style=styles[0]))
    guided = translator.translate(gray, "gray", "color", reference=color)
    assert torch.equal(guided, translator.translate(gray, "gray", "color", style=translator.encode_style(color, 0)))


def test_a_shared_trunk_is_one_net_between_ends_of_the_domains() -> None:
    shared, own = (BicycleGAN([COLOR, GRAY], HMS, size(shared_trunk=flag)) for flag in (True, False))
    first, last = shared.generators.nets[0].first, shared.generators.nets[0].last
    assert len(shared.generators.nets) == 1 and len(own.generators.nets) == 2
    assert {k: layer.in_channels for k, layer in first.items()} == {"1": 3, "0": 1 + STYLE_DIM}
    assert {k: layer.out_channels for k, layer in last.items()} == {"1": 1, "0": 3}
    assert {layer.in_channels for layer in own.generators.into(1).down} == {2, 4, 8, 16}
    steps, inner = Steps(shared, BicycleGANSettings().optim), shared.generators.nets[0].down[0].weight
    before = inner.detach().clone()
    steps(random_batch(shared, 1), 0)
    assert not torch.equal(before, inner)


def test_hmu_has_no_meaning() -> None:
    assert "hmu" not in SYSTEM.variants and "pairs" in SYSTEM.refused["hmu"]


def test_what_is_not_there_is_said() -> None:
    one_way = from_official({"G": weights(direction(2, 3))["G"]})
    x, y = torch.rand(1, 2, 64, 64), torch.rand(1, 3, 64, 64)
    for call, message in (
        (lambda: one_way.translate(y, "B", "A"), "no generator into domain 'A'"),
        (lambda: one_way.translate(x, "A", "A"), "no net from domain 'A' to itself"),
        (lambda: one_way.translate(x, "A", "B"), "domain 'B' needs either style= or reference="),
        (lambda: one_way.encode_style(y, "B"), "no style encoder of domain 'B'"),
        (lambda: one_way.discriminate(y, "B", which="D2"), "no discriminator D2 of domain 'B'"),
        (lambda: one_way.loss("generators", random_batch(one_way, 1), Iteration(0)), "no style encoder of domain 'B'"),
        (
            lambda: one_way.loss("x", random_batch(one_way, 1), Iteration(0)),
            "the phases are generators, discriminators",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("model", "side", "message"),
    [
        ({"levels": 6}, 96, "model.levels 6 needs images whose size is a multiple of 64, got 96"),
        ({"encoder_blocks": 5}, 32, "model.encoder_blocks 5 needs images whose size is a multiple of 64, got 32"),
        ({"discriminator_layers": 3}, 32, "model.discriminator_layers 3 at 2 scales leaves nothing to judge of 32"),
        ({"scales": 4}, 32, "model.discriminator_layers 2 at 4 scales leaves nothing"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(model: dict[str, int], side: int, message: str) -> None:
    settings = BicycleGANSettings.model_validate({"model": model})
    with pytest.raises(ValueError, match=message):
        settings.check(side, SYSTEM.variants["plain"])


def test_sizes_follow_the_image() -> None:
    chosen = [BicycleGANSettings().sizes(side) for side in (32, 36, 64, 128, 256, 512)]
    assert [size["encoder_blocks"] for size in chosen] == [1, 1, 2, 3, 4, 4]
    assert [size["levels"] for size in chosen] == [5, 2, 6, 7, 8, 8]
    assert [size["discriminator_layers"] for size in chosen] == [2, 2, 2, 2, 3, 3]
    for side in (32, 36):
        BicycleGANSettings().check(side, SYSTEM.variants["hms"])
        translator = BicycleGAN([COLOR, GRAY], HMS, size(side, encoder_blocks=None, discriminator_layers=None))
        total, _ = translator.loss("generators", random_batch(translator, 1), Iteration(0))
        assert bool(torch.isfinite(total))

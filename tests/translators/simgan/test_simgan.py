"""SimGAN and its many-to-one variants against a plain implementation that shares nothing with them, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from simgan_cases import (
    SIDE,
    STYLE_DIM,
    copy,
    plain_iteration,
    plain_trainer,
    random_batch,
    settings_of,
    shares_of,
    stepper_of,
    translator_of,
)
from torch import Tensor, nn

from m2o_fast.engine.config import load_config
from m2o_fast.m2o import Domain
from m2o_fast.translators.base import Iteration, batches_of
from m2o_fast.translators.simgan import SYSTEM
from m2o_fast.translators.simgan.nets import Discriminator, Form, Refiner
from m2o_fast.translators.simgan.settings import SimGANSettings, Size, Weights
from m2o_fast.translators.simgan.translator import SimGAN

CASES = [
    pytest.param("plain", 4, (3, 3), {}, {}, {}, id="plain"),
    pytest.param(
        "plain", 2, (1, 3), {"form": "hand"}, {"reduction": "sum", "regularisation": 1e-3}, {}, id="hand, sum"
    ),
    pytest.param("plain", 1, (3, 2), {}, {}, {"kind": "adam"}, id="adam, mean of channels, one image"),
    pytest.param(
        *("hmu", 3, (1, 3), {}, {"content": "max", "diversity_steps": 9}),
        {"kind": "adam", "discriminator_steps": 2},
        id="hmu, odd, two steps of the discriminator",
    ),
    pytest.param("hms", (2, 4), (1, 3), {}, {"supervised": 0.8, "diversity": 1.3}, {"momentum": 0.9}, id="hms"),
]


@pytest.mark.parametrize(("variant", "images", "channels", "model", "loss", "optim"), CASES)
def test_iterations_are_the_published_ones(
    variant: str,
    images: int | tuple[int, int],
    channels: tuple[int, int],
    model: dict[str, Any],
    loss: dict[str, Any],
    optim: dict[str, Any],
) -> None:
    """Losses, the history and all weights: the refiner alone, the discriminator alone, both with a full history."""
    settings = settings_of(model, loss=loss, optim={"lr": 0.01, **optim})
    translator = translator_of(settings, variant, *channels)
    trainer, stepper = plain_trainer(translator, settings), stepper_of(translator, settings)
    for index in range(6):
        count = batches_of(translator.phases(index))
        batches = [random_batch(translator, images, 10 * index + k) for k in range(count)]
        ours = {name: float(value) for name, value in stepper(batches, index).losses.items()}
        theirs = plain_iteration(trainer, [shares_of(translator, batch) for batch in batches], index)
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-10, abs=1e-12), (index, name)
    for (_, b), way in zip(translator.directions(), trainer.directions, strict=True):
        pairs = ((translator.refiners, way.R), (translator.discriminators, way.D))
        for mine, theirs in pairs:
            for one, other in zip(mine[str(b)].parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        pool = stepper.pools[translator.domains[b].name]
        stored = pool.images[: int(pool.filled)]
        torch.testing.assert_close(stored, torch.stack(way.history.images), rtol=1e-10, atol=1e-12)


def test_every_step_has_a_batch_of_its_own() -> None:
    """K_g steps of the refiners and no more, then K_d of the discriminators; each moves its own nets alone."""
    settings = settings_of(optim={"refiner_steps": 3, "discriminator_steps": 2})
    translator = translator_of(settings)
    stepper, seen, loss = stepper_of(translator, settings), [], translator.loss

    def noted(phase: str, batch: Any, iteration: Iteration) -> Any:
        seen.append((phase, id(batch)))
        return loss(phase, batch, iteration)

    translator.loss = noted  # type: ignore[method-assign]
    before = {name: p.detach().clone() for name, p in translator.named_parameters()}
    for index, phases in (
        (0, ["pretraining"]),
        (2, ["discriminators"]),
        (3, ["refiners"] * 3 + ["discriminators"] * 2),
    ):
        seen.clear()
        batches = [random_batch(translator, 2, k) for k in range(len(phases))]
        stepper(batches, index)
        assert seen == [(phase, id(batch)) for phase, batch in zip(phases, batches, strict=True)]
        moved = {name.split(".")[0] for name, p in translator.named_parameters() if not torch.equal(p, before[name])}
        assert moved == ({"refiners"} if index == 0 else {"refiners", "discriminators"})


def test_half_of_what_a_discriminator_sees_is_of_earlier_steps() -> None:
    """And the history does fill, also of a direction that some batches have no images for."""
    translator = translator_of(settings_of(), "hms")
    pools, shown = translator.pools(), []
    translator.discriminators["1"].register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    for turn in range(4):
        stored = pools["B"].images.clone().float()
        batch = random_batch(translator, 2, turn, without=None if turn % 2 else 0)
        total, _ = translator.loss("discriminators", batch, Iteration(turn, pools=pools))
        for pool in pools.values():
            pool.settle()
        assert total.isfinite() and (int(pools["A"].filled), int(pools["B"].filled)) == ((turn + 1) // 2, turn + 1)
        x = batch.source[0][batch.to_target[-2:]]
        current = translator.translate(x, "A", "B", style=batch.noise["latent"][-2:]).float()
        seen, real = shown.pop().float().split([2, 2])
        fresh = [k for k in range(2) if torch.equal(seen[k], current[k])]
        assert torch.equal(real, batch.reference[1].float()) and len(fresh) == (1 if turn else 2)
        assert all(any(torch.equal(seen[k], image) for image in stored[:turn]) for k in {0, 1} - set(fresh))


def test_losses_of_trivial_scores() -> None:
    """All logits 0: ln 2 at every place; a refiner whose last layer is 0 gives 0."""
    translator = translator_of(settings_of(loss={"content": "mean"}), "hmu")
    for net in (translator.refiners["1"], translator.discriminators["1"]):
        net.head.weight.data.zero_(), net.head.bias.data.zero_()
    batch = random_batch(translator, 2)
    x, style = batch.source[0], batch.noise["latent"]
    assert not translator.translate(x, "A", "B", style=style).any()
    iteration = Iteration(0, pools=translator.pools())
    total, parts = translator.loss("discriminators", batch, iteration)
    assert [parts[name].item() for name in ("refined", "real")] == pytest.approx([math.log(2)] * 2)
    assert total.item() == pytest.approx(2 * math.log(2))
    total, parts = translator.loss("refiners", batch, iteration)
    assert parts["adversarial"].item() == pytest.approx(math.log(2)) and parts["diversity"] == 0
    assert parts["regularisation"].item() == pytest.approx(x.abs().mean().item())
    assert total.item() == pytest.approx(math.log(2) + 5 * x.abs().mean().item())
    assert list(translator.loss("pretraining", batch, iteration)[1]) == ["regularisation"]


def test_logits_have_no_activation() -> None:
    logits = translator_of(settings_of()).discriminate(torch.randn(4, 3, SIDE, SIDE), "B")[0]
    assert logits.shape == (4, 2, 3, 3) and (logits.amin((0, 2, 3)) < 0).any()
    judge = Discriminator(3)
    judge.head.bias.data.fill_(-1)
    judge.head.weight.data.zero_()
    assert (judge(torch.randn(1, 3, 8, 8)) == -1).all()


# --- many-to-one rules ---


def test_colors_of_one_content_cost_nothing() -> None:
    """By hmu the largest channel, or the mean, is to stay; as published every channel is."""
    gray = torch.rand(2, 1, SIDE, SIDE) * 2 - 1
    red = torch.cat([gray, gray.new_full((2, 2, SIDE, SIDE), -1)], dim=1)
    cost = {}
    for content in ("max", "mean", "identity"):
        translator = translator_of(settings_of(loss={"content": content}), "hmu")
        cost[content] = translator._changed({1: red}, {1: gray}, {}, 2).item()
    assert cost["max"] == 0 < cost["mean"] == pytest.approx(cost["identity"])
    many = translator_of(settings_of(loss={"content": "mean"}), "hmu")
    varied = torch.cat([gray + 0.1, gray - 0.1, gray], dim=1)
    assert many._changed({1: varied}, {1: gray}, {}, 2).item() == pytest.approx(0, abs=1e-12)


def test_what_is_refined_and_what_stays_by_default() -> None:
    """Plain and hmu one way, out of the uni-modal domain; hms both ways."""
    gray, color, other = Domain("gray", 1, multimodal=False), Domain("color", 3), Domain("other", 4)
    cases = [
        ("plain", (color, gray), [True, False], "identity"),
        ("plain", (gray, color), [False, True], "identity"),
        ("plain", (color, other), [False, True], "mean"),
        ("hmu", (color, gray), [True, False], "mean"),
        ("hms", (color, gray), [True, True], "mean"),
    ]
    for variant, domains, refined, content in cases:
        described = SimGANSettings().description(domains, SYSTEM.variants[variant], SIDE)
        assert described["refiners"] == described["discriminators"] == refined
        assert described["weights"]["content"] == content
    back = settings_of({"direction": "A->B"}).description((color, gray), SYSTEM.variants["plain"], SIDE)
    assert back["refiners"] == [False, True]


def test_unimodal_output_ignores_every_style() -> None:
    """Bit for bit the same for any style; the style changes the other direction, and its refiner has planes for it."""
    translator = translator_of(settings_of(), "hms")
    gray, color = (torch.rand(2, c, SIDE, SIDE) * 2 - 1 for c in (1, 3))
    assert not translator.sample_style(2, "A").any() and not translator.encode_style(gray, "A").any()
    plainly = translator.translate(color, "B", "A")
    assert torch.equal(translator.translate(color, "B", "A", style=torch.randn(2, STYLE_DIM)), plainly)
    first, second = (translator.translate(gray, "A", "B", style=torch.randn(2, STYLE_DIM)) for _ in range(2))
    assert (first - second).abs().mean() > 1e-3
    assert [translator.refiners[k].stem.in_channels for k in "01"] == [3, 1 + STYLE_DIM]
    assert translator.paired_directions() == ((1, 0),) and translator.references() == 1


def test_plain_has_no_style() -> None:
    translator = translator_of(settings_of())
    assert not translator.has_style("A") and not translator.has_style("B")
    assert translator.sample_style(3, "B").shape == (3, 0)
    assert list(translator.noise(2, torch.Generator())) == ["pool"]
    without = translator_of(settings_of({"pool": 0}))
    assert without.pools() == without.noise(2, torch.Generator()) == {}


# --- nets ---


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_published_numbers_of_parameters() -> None:
    assert [count(Refiner(c, c)) for c in (1, 3)] == [296_129, 297_411]
    assert [count(Refiner(c, c, form="hand", blocks=10)) for c in (1, 3)] == [4_018_625, 4_025_027]
    assert [count(Discriminator(c)) for c in (1, 3)] == [75_906, 77_634]
    assert [count(Discriminator(c, form="hand")) for c in (1, 3)] == [178_050, 187_458]
    assert [settings_of({"form": form, "blocks": None}).sizes(32)["blocks"] for form in ("gaze", "hand")] == [4, 10]


@pytest.mark.parametrize(
    ("net", "field"),
    [
        (Refiner(1, 1, 1, "gaze", 4), 19),
        (Refiner(1, 1, 1, "hand", 10), 127),
        (Discriminator(1, 1, "gaze"), 23),
        (Discriminator(1, 1, "hand"), 71),
    ],
    ids=["refiner, gaze", "refiner, hand", "discriminator, gaze", "discriminator, hand"],
)
def test_receptive_field(net: nn.Module, field: int) -> None:
    """An output in the middle depends on exactly that many pixels in a row."""
    for parameter in net.parameters():
        parameter.data.fill_(0.1 if parameter.dim() == 4 else 0)
    dots = torch.eye(160)[:, None, None]  # images of one row, of which a pixel is set
    outputs = net.double()(dots)
    assert (outputs[:, 0, 0, outputs.shape[3] // 2] > 0).sum() == field


@pytest.mark.parametrize(
    ("form", "size", "places"), [("gaze", (35, 55), (9, 14)), ("gaze", (32, 32), (8, 8)), ("hand", (224, 224), (7, 7))]
)
def test_places_that_are_judged(form: Form, size: tuple[int, int], places: tuple[int, int]) -> None:
    assert Discriminator(1, 1, form)(torch.zeros(1, 1, *size)).shape == (1, 2, *places)


@pytest.mark.parametrize(("form", "places"), [("gaze", 2), ("hand", 1)])
def test_any_size(form: Form, places: int) -> None:
    translator = translator_of(settings_of({"form": form}))
    assert translator.translate(torch.rand(1, 1, 5, 9), "A", "B").shape == (1, 3, 5, 9)
    assert translator.discriminate(torch.rand(1, 3, 8, 8), "B")[0].shape == (1, 2, places, places)
    assert SYSTEM.sizes.problem(8) is None and SYSTEM.sizes.problem(7) == "the image size must be at least 8"


def test_bfloat16_rounds_no_images() -> None:
    refiner = Refiner(1, 3, 4).float()
    with torch.autocast("cpu", torch.bfloat16):
        images = refiner(torch.rand(1, 1, 8, 8, dtype=torch.float32))
    assert images.dtype == torch.float32 and not torch.equal(images, images.bfloat16().float())


def test_initial_weights_keep_ten_blocks_in_range() -> None:
    torch.manual_seed(0)
    refiner = Refiner(3, 3, 16, "hand", 10)
    outputs = refiner(torch.rand(2, 3, 32, 32) * 2 - 1)
    assert 0.05 < outputs.std() < 3
    assert not any(p.any() for name, p in refiner.named_parameters() if name.endswith("bias"))


# --- refused ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.translate(torch.rand(1, 3, 8, 8), "B", "B"), "no net from domain 'B' to itself"),
        (lambda t: t.translate(torch.rand(1, 3, 8, 8), "B", "A"), "there is no refiner into domain 'A'"),
        (lambda t: t.discriminate(torch.rand(1, 1, 8, 8), "A"), "there is no discriminator of domain 'A'"),
        (lambda t: t.translate(torch.rand(1, 1, 8, 8), "A", "B"), "domain 'B' needs style="),
        (lambda t: t.encode_style(torch.rand(1, 3, 8, 8), "B"), "has no style encoder"),
        (lambda t: t.loss("x", random_batch(t, 2), Iteration(0)), "phases are pretraining, refiners, discriminators"),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(translator_of(settings_of(), "hmu"))


def test_domains_that_do_not_fit() -> None:
    size = Size(**settings_of().sizes(SIDE))
    both = {"refiners": [True, True], "discriminators": [True, True]}
    with pytest.raises(ValueError, match="between two domains, got 3"):
        SimGAN([Domain(name) for name in "abc"], SYSTEM.variants["plain"], size, **both)
    with pytest.raises(ValueError, match="loss.content: images of 3 and 2 channels cannot be compared"):
        SimGAN([Domain("a", 3), Domain("b", 2)], SYSTEM.variants["plain"], size, Weights(), **both)


@pytest.mark.parametrize(
    ("variant", "direction", "message"),
    [
        ("hmu", "A->B", "model.direction: A->B leads into uni-modal domain 'gray', where hmu has nothing to learn"),
        ("hms", "B->A", "model.direction: B->A leads into multi-modal domain 'color' alone, where hms compares"),
        ("hmu", "B->A", None),
        ("hms", "A->B", None),
        ("plain", "A->B", None),
    ],
)
def test_directions_without_meaning_are_refused(variant: str, direction: str, message: str | None) -> None:
    domains = [Domain("color", 3), Domain("gray", 1, multimodal=False)]
    settings = settings_of({"direction": direction})
    if message is None:
        settings.check_domains(domains, SYSTEM.variants[variant])
        return
    with pytest.raises(ValueError, match=message):
        settings.check_domains(domains, SYSTEM.variants[variant])


@pytest.mark.parametrize(
    ("variant", "channels", "content", "message"),
    [
        ("hmu", 1, "identity", "loss.content: identity holds every channel, so that styles could color nothing"),
        ("hms", 1, "identity", "loss.content: identity holds every channel"),
        ("plain", 2, "identity", "loss.content: images of 3 and 2 channels cannot be compared; take mean or max"),
        ("hmu", 2, "max", None),
        ("plain", 1, "identity", None),
    ],
)
def test_contents_without_meaning_are_refused(variant: str, channels: int, content: str, message: str | None) -> None:
    domains = [Domain("color", 3), Domain("gray", channels, multimodal=False)]
    settings = settings_of(loss={"content": content})
    if message is None:
        settings.check_domains(domains, SYSTEM.variants[variant])
        return
    with pytest.raises(ValueError, match=message):
        settings.check_domains(domains, SYSTEM.variants[variant])


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        ({"kind": "adam", "momentum": 0.9}, "optim.momentum: adam has none"),
        ({"kind": "sgd", "betas": (0.9, 0.999)}, "optim.betas: sgd has none"),
        ({"kind": "adam", "betas": (0.9, 0.999)}, None),
        ({"kind": "sgd", "momentum": 0.9}, None),
    ],
)
def test_an_optimizer_is_told_nothing_that_it_does_not_know(optim: dict[str, Any], message: str | None) -> None:
    settings = settings_of(optim=optim)
    if message is None:
        settings.check(SIDE, SYSTEM.variants["plain"])
        return
    with pytest.raises(ValueError, match=message):
        settings.check(SIDE, SYSTEM.variants["plain"])


def test_the_published_regime_is_the_default() -> None:
    domains, rules = [Domain("sim"), Domain("real")], SYSTEM.variants["plain"]
    for form, steps in (("gaze", 50), ("hand", 2)):
        settings = SimGANSettings.model_validate({"model": {"form": form}})
        pace = {"pretrain_refiner": 1000, "pretrain_discriminator": 200, "refiner_steps": steps}
        assert settings.description(domains, rules, SIDE)["pace"] == {**pace, "discriminator_steps": 1}
    rates = {kind: settings_of(optim={"kind": kind}).optim.optimizer("refiners").lr for kind in ("sgd", "adam")}
    assert rates == {"sgd": 1e-3, "adam": 2e-4}
    assert settings_of(optim={"lr": 0.1}).optim.optimizer("refiners").lr == 0.1


def test_the_recipe_for_own_images_leaves_the_rate_to_the_optimizer() -> None:
    words = ["system=simgan", "data.name=folder", "data.dir=nowhere"]
    found = [load_config(assignments=[*words, *more]).optim.optimizer("refiners") for more in ([], ["optim.kind=adam"])]
    assert [(optimizer.kind, optimizer.lr) for optimizer in found] == [("sgd", 1e-3), ("adam", 2e-4)]


def test_what_has_no_weight_is_not_computed() -> None:
    translator, refined = translator_of(settings_of(loss={"diversity": 0.0}), "hmu"), []
    translator.refiners["1"].register_forward_hook(lambda *_: refined.append(1))
    parts = translator.loss("refiners", random_batch(translator, 2), Iteration(0))[1]
    assert list(parts) == ["regularisation", "adversarial"] and len(refined) == 1


def test_the_recipe_for_digits_leaves_the_published_loss_to_plain() -> None:
    contents = {}
    for variant in SYSTEM.variants:
        contents[variant] = load_config(assignments=["system=simgan", f"variant={variant}", "data.name=digits"]).loss
    assert {name: loss.content for name, loss in contents.items()} == {"plain": "identity", "hmu": "max", "hms": "max"}


def test_a_domain_that_nothing_is_refined_into_has_no_style() -> None:
    back = translator_of(settings_of({"direction": "B->A"}), "hms")
    assert not back.has_style("B") and back.style_shape("B") == (0,) and back.sample_style(2, "B").shape == (2, 0)


def test_label_maps_are_refused() -> None:
    domains = [Domain("scene", 3), Domain("labels", 3, multimodal=False, kind="palette", classes=5)]
    with pytest.raises(ValueError, match="domain 'labels' holds label maps, which no image resembles"):
        settings_of().check_domains(domains, SYSTEM.variants["hmu"])


def test_it_is_built_again_from_its_description() -> None:
    translator = translator_of(settings_of(), "hms")
    again = SimGAN.from_description(translator.describe())
    assert again.describe() == translator.describe()
    copy(translator, again)
    x: Tensor = torch.rand(1, 3, 8, 8)
    assert torch.equal(again.translate(x, "B", "A"), translator.translate(x, "B", "A"))

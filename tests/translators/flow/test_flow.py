"""The flow and its many-to-one variant against a plain implementation that shares nothing with them, in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import plain_flow as plain
import pytest
import torch
from flow_cases import COLOR, GRAY, MAP, SIDE, plain_net, random_batch, settings_of, translator_of
from torch import Tensor, nn
from torch.export import Dim
from torch.fx.experimental import _config as symbolic

from m2o_fast.engine.config import ConfigError, load_config
from m2o_fast.engine.step import Stepper
from m2o_fast.m2o import Domain
from m2o_fast.ops import use_backend
from m2o_fast.translators.base import Iteration
from m2o_fast.translators.flow import SYSTEM
from m2o_fast.translators.flow.nets import Velocity
from m2o_fast.translators.flow.settings import FlowSettings, multipliers_of
from m2o_fast.translators.flow.translator import Flow

IMAGE = torch.zeros(1, 3, SIDE, SIDE)
CASES = [
    pytest.param("plain", (COLOR, GRAY), {}, {}, id="plain"),
    pytest.param("hms", (COLOR, GRAY), {"shift": 2.5}, {"supervised": 0.7}, id="hms, shifted times"),
    pytest.param(
        "hms",
        (GRAY, COLOR, MAP),
        {"multipliers": [1, 2, 3], "blocks": 2, "attention": 16, "groups": 1},
        {},
        id="hms, three domains, attention everywhere",
    ),
    pytest.param("hms", (COLOR, GRAY), {"shift": 3.0, "predicts": "image"}, {}, id="hms, images"),
]


@pytest.mark.parametrize(("variant", "domains", "model", "loss"), CASES)
def test_iterations_are_those_of_the_plain_flow(
    variant: str, domains: tuple[Domain, ...], model: dict[str, Any], loss: dict[str, Any]
) -> None:
    """Losses, weights and averages of two iterations at a falling rate, where not all pairs are known."""
    lr = 2**-7  # a rate that changes is a number of float32
    optim = {"lr": lr, "weight_decay": 0.1, "ema": 0.7, "decay_from": 0, "decay_steps": 4}
    settings = settings_of(model, loss=loss, optim=optim)
    translator = translator_of(settings, variant, *domains)
    net = plain_net(translator)
    images = settings.model.predicts == "image"
    trainer = plain.Trainer(net, translator.styled, settings.loss.supervised, images, lr=lr, decay=0.1, ema=0.7)
    averaged = copy.deepcopy(translator)
    stepper = Stepper(translator, averaged, settings.optim)
    for index in range(2):
        batch, pairs = random_batch(translator, 2, index)
        ours = {name: float(value) for name, value in stepper([batch], index).losses.items()}
        theirs = trainer.iteration(pairs, rate=1 - index / 4)
        for name, value in theirs.items():
            assert ours.get(f"velocity/{name}", 0.0) == pytest.approx(value, rel=1e-10), (index, name)
    for mine, plainly in ((translator, net), (averaged, trainer.average)):
        for one, other in zip(mine.velocity.parameters(), plainly.parameters(), strict=True):
            torch.testing.assert_close(one, other.view_as(one), rtol=1e-8, atol=1e-10)


def taken(translator: Flow, velocity: Callable[..., Tensor]) -> Flow:
    """The translator with another velocity: ``(x, state, time, target)``, of samples of one direction, to a velocity.

    The images x and the states come by domain; an empty part has no velocity.
    """

    class Stub(nn.Module):
        def forward(self, x: list[Tensor], order: Any, states: list[Tensor], time: Tensor) -> list[Tensor]:
            x = torch.cat([part.mean(1, keepdim=True) for part in x])
            x = (x if order is None else x[order]).split([len(state) for state in states])
            times = time[:, None, None, None].split([len(state) for state in states])
            return [
                velocity(one, state, at, k) + torch.zeros_like(state)
                for k, (one, state, at) in enumerate(zip(x, states, times, strict=True))
            ]

    translator.velocity = Stub()  # type: ignore[assignment]
    return translator


def test_ways_end_at_noise_and_image() -> None:
    """At time 0 the net sees the noise, at 1 the image, in between a point of the straight line; of gray, zeros."""
    translator, seen = translator_of(settings_of()), []
    batch, _ = random_batch(translator, 3)
    batch.noise["time"][:3] = torch.tensor([0.0, 1.0, 0.25])
    taken(translator, lambda x, state, time, k: seen.append(state) or state)
    translator.loss("velocity", batch, Iteration(0))
    base, y = batch.noise["base"][:3], batch.paired[0]
    torch.testing.assert_close(seen[0], torch.stack([base[0], y[1], 0.75 * base[2] + 0.25 * y[2]]))
    assert not seen[1].any()


@pytest.mark.parametrize("variant", ["plain", "hms"])
def test_the_true_velocity_costs_nothing(variant: str) -> None:
    translator = translator_of(settings_of(), variant)
    batch, _ = random_batch(translator, 3)
    known = batch.has_pair.split(list(batch.target_counts))
    bases = batch.noise["base"].split(list(batch.target_counts))
    wanted = [y - base[:, : y.shape[1]] for y, base in zip(batch.paired, bases, strict=True)]
    wanted = [y if k not in translator.styled else wanted[k] for k, y in enumerate(batch.paired)]
    # Where the pair is not known, nothing is right or wrong.
    wanted = [torch.where(mask[:, None, None, None], y, 99.0) for y, mask in zip(wanted, known, strict=True)]
    taken(translator, lambda x, state, time, k: wanted[k])
    total, parts = translator.loss("velocity", batch, Iteration(0))
    assert total == 0 and set(parts) == ({"velocity"} if variant == "plain" else {"velocity", "supervised"})


# --- the uni-modal direction ---


def test_a_unimodal_target_is_one_step_from_zero() -> None:
    """Bit for bit v(0, 0), whatever style, reference and seed; the style changes the other direction."""
    translator = translator_of(settings_of())
    color, gray = torch.rand(2, 3, SIDE, SIDE) * 2 - 1, torch.rand(2, 1, SIDE, SIDE) * 2 - 1
    velocity = plain_net(translator)(color, 0, None, torch.zeros(2), 1)
    found = translator.translate(color, "color", "gray")
    torch.testing.assert_close(found, velocity.clamp(-1, 1), rtol=1e-10, atol=1e-12)
    assert (velocity.abs() < 1).any() and not translator.has_style("gray")
    for seed in range(2):
        torch.manual_seed(seed)
        style = torch.randn(2, 3, SIDE, SIDE)
        assert torch.equal(translator.translate(color, "color", "gray", style=style), found)
        assert torch.equal(translator.translate(color, "color", "gray", reference=torch.rand_like(gray)), found)
    assert not translator.sample_style(2, "gray").any() and not translator.encode_style(gray, "gray").any()
    assert list(translator.velocity.noises) == ["0"]
    assert [translator.evaluations(k) for k in ("color", "gray")] == [40, 1]


def test_a_unimodal_target_is_a_regression_in_training() -> None:
    """Its loss and gradients are those of the squared error of v(0, 0), and depend on no noise and no time."""
    translator = translator_of(settings_of(loss={"supervised": 0.3}))
    batch, _ = random_batch(translator, 2)
    head, losses, gradients = translator.velocity.heads[1].weight, [], []
    for seed in range(2):
        batch.noise.update({name: torch.rand_like(numbers) for name, numbers in batch.noise.items()})
        total, parts = translator.loss("velocity", batch, Iteration(seed))
        losses.append(parts["supervised"])
        gradients.append(torch.autograd.grad(total, head)[0])
    assert torch.equal(losses[0], losses[1]) and torch.equal(gradients[0], gradients[1])
    found = plain_net(translator)(batch.source[0], 0, None, torch.zeros(2), 1)
    error = ((found - batch.paired[1]) ** 2).mean((1, 2, 3))[batch.has_pair[2:]].sum() / 4
    assert float(losses[0]) == pytest.approx(error.item(), rel=1e-12)


# --- solvers ---


@pytest.mark.parametrize(("solver", "shift"), [("euler", 1.0), ("heun", 3.0)])
def test_solvers(solver: str, shift: float) -> None:
    """There and back, with 3 steps, as the plain solver and the plain net give it; shifted times are more at first."""
    translator = translator_of(settings_of({"shift": shift}, sampling={"steps": 3, "solver": solver}))
    times = [0, 1 / 3, 2 / 3, 1] if shift == 1 else [0, 1 / 7, 2 / 5, 1]
    net = plain_net(translator)
    gray, z = torch.rand(2, 1, SIDE, SIDE) * 2 - 1, 0.1 * torch.randn(2, 3, SIDE, SIDE)

    def velocity(state: Tensor, time: float) -> Tensor:
        return net(gray, 1, state, torch.full((2,), time), 0)

    with torch.no_grad():
        wanted = plain.solve(velocity, z, times, solver)
        found = translator.translate(gray, "gray", "color", style=z)
        torch.testing.assert_close(found, wanted.clamp(-1, 1), rtol=1e-9, atol=1e-11)
        y = wanted.clamp(-1, 1)
        back = plain.solve(velocity, y, times[::-1], solver)
        torch.testing.assert_close(translator.invert(y, gray, "gray", "color"), back, rtol=1e-9, atol=1e-11)
    assert translator.evaluations("color") == {"euler": 3, "heun": 6}[solver]


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_solvers_of_predicted_images(solver: str) -> None:
    """The velocity is made of the image; the last step forth ends in it, the first one back starts with its own."""
    translator = translator_of(settings_of({"predicts": "image"}, sampling={"steps": 3, "solver": solver}))
    net, seen = plain_net(translator), []
    gray, z = torch.rand(2, 1, SIDE, SIDE) * 2 - 1, 0.1 * torch.randn(2, 3, SIDE, SIDE)

    def image(state: Tensor, time: float) -> Tensor:
        seen.append(time)
        return plain.image_of(net(gray, 1, state, torch.full((2,), time), 0), state, time)

    with torch.no_grad():
        wanted = plain.solve(plain.velocity_of(image), z, [0, 1 / 3, 2 / 3, 1], solver, last="euler").clamp(-1, 1)
        assert len(seen) == translator.evaluations("color") == {"euler": 3, "heun": 5}[solver]
        found = translator.translate(gray, "gray", "color", style=z)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
        back = plain.solve(plain.velocity_of(image), wanted, [1, 2 / 3, 1 / 3, 0], solver)
        found = translator.invert(wanted, gray, "gray", "color")
        torch.testing.assert_close(found, back, rtol=1e-9, atol=1e-11)
        color = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
        regressed = net(color, 0, None, torch.zeros(2), 1).clamp(-1, 1)
        torch.testing.assert_close(translator.translate(color, "color", "gray"), regressed, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_solvers_have_their_order(solver: str, order: int) -> None:
    """Of x' = t x, whose solution is x exp(1/2): twice as many steps, an error 2 or 4 times as small."""
    errors = []
    for steps in (8, 16):
        settings = settings_of(sampling={"steps": steps, "solver": solver})
        translator = taken(translator_of(settings), lambda x, state, time, k: time * state)
        translator.register_parameter("where", nn.Parameter(torch.zeros(1)))
        found = translator.translate(
            torch.zeros(1, 1, SIDE, SIDE), "gray", "color", style=torch.full((1, 3, SIDE, SIDE), 0.5)
        )
        errors.append(float((found - 0.5 * math.exp(0.5)).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


def test_seeds() -> None:
    """The same seed gives the same image, another one another image; one style may serve for all."""
    translator = translator_of(settings_of(sampling={"steps": 1}))
    gray = torch.rand(2, 1, SIDE, SIDE) * 2 - 1
    styles = [translator.sample_style(1, "color", torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    made = [translator.translate(gray, "gray", "color", style=style) for style in styles]
    assert torch.equal(made[0], made[1]) and (made[0] - made[2]).abs().mean() > 1e-2
    assert styles[0].shape == (1, *translator.style_shape("color")) == (1, 3, SIDE, SIDE)


# --- references ---


def test_a_reference_is_made_again_from_its_noise() -> None:
    """The more steps, the better; from what it was made of, in both variants."""
    for variant in ("plain", "hms"):
        errors = []
        for steps in (2, 4):
            translator = translator_of(settings_of(sampling={"steps": steps}), variant)
            torch.manual_seed(1)
            for parameter in translator.parameters():
                nn.init.normal_(parameter, std=0.1)
            reference = torch.rand(2, 3, SIDE, SIDE) - 0.5
            start = translator.sample_style(1, "gray", torch.Generator()) * 0
            made_of = translator.translate(reference, "color", "gray", style=start)
            style = translator.encode_style(reference, "color")
            assert torch.equal(style, translator.invert(reference, made_of, "gray", "color"))
            again = translator.translate(made_of, "gray", "color", style=style)
            assert torch.equal(again, translator.translate(made_of, "gray", "color", reference=reference))
            errors.append((again - reference).abs().max().item())
        assert errors[1] < errors[0] / 3 and errors[1] < 1e-3, errors


def test_a_reference_gives_its_look_to_other_contents() -> None:
    """Of a flow whose images are content plus noise: what is read off a reference is the noise it was made with."""

    def velocity(x: Tensor, state: Tensor, time: Tensor, k: int) -> Tensor:
        return x if k == 0 else 3 * x  # content; the mean of the channels is a third of the only one that is not 0

    translator = taken(translator_of(settings_of(sampling={"steps": 2})), velocity)
    translator.register_parameter("where", nn.Parameter(torch.zeros(1)))
    gray = 0.4 * torch.rand(2, 1, SIDE, SIDE)
    # A look has channels that add up to 0 but for a third of the content: the mean of an image is its content / 3.
    look = torch.tensor([0.5, -0.2, -0.3])[:, None, None].expand(1, 3, SIDE, SIDE) - 2 / 3 * gray[:1]
    reference = translator.translate(gray[:1], "gray", "color", style=look)
    torch.testing.assert_close(translator.encode_style(reference, "color"), look)
    made = translator.translate(gray[1:], "gray", "color", reference=reference)
    torch.testing.assert_close(made, gray[1:] + look)


def test_what_a_reference_was_made_of_is_unimodal_where_it_can_be() -> None:
    for variant, partner in (("hms", "gray"), ("plain", "paint")):
        settings = settings_of(sampling={"steps": 1, "solver": "euler"})
        translator = translator_of(settings, variant, COLOR, Domain("paint", 4), GRAY)
        y, none = torch.rand(1, 3, SIDE, SIDE), torch.zeros(1, *translator.style_shape(partner))
        wanted = translator.invert(y, translator.translate(y, "color", partner, style=none), partner, "color")
        assert torch.equal(translator.encode_style(y, "color"), wanted)
        assert [translator.style_shape(k)[0] for k in range(3)] == [3, 4, 1 if variant == "plain" else 3]


# --- the net ---


def test_numbers_of_parameters() -> None:
    """Of one source and one target, the embedding of the target aside."""
    for side, count in ((32, 7_282_435), (256, 31_050_307)):
        multipliers = multipliers_of(side)
        attention = [side >> level <= 16 for level in range(len(multipliers))]
        with torch.device("meta"):
            net = Velocity([3], {0: 3}, [3], 64, multipliers, 2, attention)
        assert sum(parameter.numel() for parameter in net.parameters()) - 256 == count


def test_levels_by_default() -> None:
    assert [multipliers_of(side) for side in (16, 32, 48)] == [(1, 2), (1, 2, 2), (1, 2, 2)]
    assert [multipliers_of(side) for side in (64, 256, 1024)] == [(1, 1, 2, 2), *[(1, 1, 2, 2, 4, 4)] * 2]
    assert multipliers_of(20) == (1, 2)


def test_descriptions_from_before_mean_what_they_meant() -> None:
    """They do not name what is predicted: velocities."""
    described = translator_of(settings_of()).describe()
    del described["size"]["predicts"]
    assert Flow.from_description(described).size.predicts == "velocity"
    again = Flow.from_description(translator_of(settings_of({"predicts": "image"})).describe())
    assert again.size.predicts == "image"


def test_a_new_net_stands_still() -> None:
    """Its last layers are zeros."""
    described = settings_of().description((COLOR, GRAY), SYSTEM.variants["hms"], SIDE)
    translator = Flow.from_description(described)
    z = translator.sample_style(1, "color") / 5
    assert torch.equal(translator.translate(torch.rand(1, 1, SIDE, SIDE), "gray", "color", style=z), z.clamp(-1, 1))
    assert not translator.translate(torch.rand(1, 3, SIDE, SIDE), "color", "gray").any()


# --- what it is told, and what is refused ---


def test_a_reference_is_not_read_in_one_step_of_euler() -> None:
    """Backwards from an image the first slope is the image itself, so one step ends at 0, whatever the image."""
    sampling = {"steps": 1, "solver": "euler"}
    translator = translator_of(settings_of({"predicts": "image"}, sampling=sampling))
    with pytest.raises(ValueError, match=r"one step of Euler; set sampling.steps to 2"):
        translator.encode_style(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64), "color")
    made_of = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"one step of Euler; set sampling.steps to 2"):
        translator.invert(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64), made_of, "gray", "color")
    for model, change in (("velocity", {}), ("image", {"steps": 2}), ("image", {"solver": "heun"})):
        translator = translator_of(settings_of({"predicts": model}, sampling=sampling | change))
        assert translator.encode_style(torch.ones(1, 3, SIDE, SIDE, dtype=torch.float64), "color").any()


def test_sampling_is_a_section_of_its_own() -> None:
    config = load_config(assignments=["system=flow", "sampling.steps=7", "sampling.solver=euler"])
    assert config.settings.sampling.evaluations == 7
    described = config.settings.description((COLOR, GRAY), config.rules, 32)
    assert Flow.from_description({**described, "size": settings_of().sizes(32)}).evaluations("color") == 7
    with pytest.raises(ConfigError, match="sampling.solver = 'rk4' in --set: must be 'euler' or 'heun'"):
        load_config(assignments=["system=flow", "sampling.solver=rk4"])
    with pytest.raises(ConfigError, match="system 'munit' has none; flow has one"):
        load_config(assignments=["system=munit", "sampling.steps=7"])


def test_the_rate_falls_where_that_is_said() -> None:
    """From a step on, over the rest of the run; longer runs keep that."""
    words = ["system=flow", "data.name=digits", "steps=6"]
    constant, falling = (load_config(assignments=[*words, f"optim.decay_from={at}"]).filled() for at in ("null", "4"))
    assert constant.optim.optimizer("velocity").schedule is None
    assert falling.optim.decay_steps == 2
    rate = falling.optim.optimizer("velocity").schedule
    assert rate is not None and [rate(index) for index in range(7)] == [1, 1, 1, 1, 1, 0.5, 0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["variant=hmu"], "not with system 'flow': a flow learns from pairs alone, and hmu has none"),
        (["model.width=5"], "model.width = 5 in --set: must be a multiple of 2"),
        (["optim.decay_from=null", "optim.decay_steps=5"], "decay_steps = 5 in --set: the rate is constant without"),
        (["sampling.steps=1", "sampling.solver=euler"], "steps = 1 in --set: images as references tell nothing"),
        (["model.predicts=noise"], "model.predicts = 'noise' in --set: must be 'velocity' or 'image'"),
        (["model.multipliers=[1,1,1,1,1,1,1]"], "model.multipliers.*: 7 levels need .* a multiple of 64"),
        (["data.pair_fraction=0"], "flow, variant 'plain', learns from known pairs, but data.pair_fraction is 0"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(assignments=["system=flow", "data.name=digits", *words])


def test_one_hot_label_maps_are_refused() -> None:
    """A way that ends in them would end in no probabilities; those of a palette are images as any."""
    palette = Domain("map", 3, multimodal=False, kind="palette", classes=4)
    one_hot = Domain("map", 4, multimodal=False, kind="onehot")
    for variant in SYSTEM.variants.values():
        FlowSettings().check_domains([COLOR, palette], variant)
        with pytest.raises(ValueError, match="data.labels: .* domain 'map' has a channel .*; take data.labels=palette"):
            FlowSettings().check_domains([COLOR, one_hot], variant)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.translate(IMAGE, "color", "color"), "does not learn domain 'color' to itself"),
        (lambda t: t.translate(IMAGE[:, :1], "gray", "color"), "'color' needs either style= or reference="),
        (
            lambda t: t.translate(IMAGE[:, :1], "gray", "color", style=IMAGE, reference=IMAGE),
            "'color' needs either style= or reference=",
        ),
        (lambda t: t.translate(IMAGE[:, :1, 1:], "gray", "color"), r"x: domain 'gray' needs .* 1, 16, 16\]"),
        (lambda t: t.translate(IMAGE[:, :1], "gray", "color", style=IMAGE[0]), r"style must be \[1 or 1, 3, 16, 16\]"),
        (lambda t: t.invert(IMAGE[:, :1], IMAGE, "color", "gray"), "domain 'gray' has no style"),
        (lambda t: t.loss("x", random_batch(t, 1)[0], Iteration(0)), "unknown phase 'x'; the only one is velocity"),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(translator_of(settings_of()))


def test_a_batch_without_pairs_is_refused() -> None:
    translator = translator_of(settings_of())
    batch = replace(random_batch(translator, 1)[0], paired=())
    with pytest.raises(ValueError, match="a flow learns from pairs, and this batch has none"):
        translator.loss("velocity", batch, Iteration(0))
    assert translator.directions() == translator.paired_directions() == ((0, 1), (1, 0))
    assert FlowSettings().optim.optimizer("velocity").kind == "adamw"


@pytest.mark.slow
def test_ways_are_followed_for_any_number_of_images() -> None:
    """Numbers of samples stay free, and times are numbers of the graph."""
    model = {"multipliers": [1], "predicts": "image"}
    translator = translator_of(settings_of(model, sampling={"steps": 2})).eval()

    class Translation(nn.Module):
        def forward(self, image: Tensor, style: Tensor) -> Tensor:
            return translator.translate(image, "gray", "color", style=style)

    inputs = torch.zeros(2, 1, SIDE, SIDE), torch.zeros(2, 3, SIDE, SIDE)
    with torch.no_grad(), symbolic.patch(backed_size_oblivious=True), use_backend("reference"):
        program = torch.export.export(Translation(), inputs, dynamic_shapes=[{0: Dim.DYNAMIC}] * 2, strict=False)
        assert torch.ops.aten._local_scalar_dense.default not in [node.target for node in program.graph.nodes]
        given = torch.randn(3, 1, SIDE, SIDE).clamp(-1, 1), torch.randn(3, 3, SIDE, SIDE)
        torch.testing.assert_close(program.module()(*given), Translation()(*given))

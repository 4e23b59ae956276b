"""accelerate(): networks of the shapes that people have, written here, give the same before and after."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from foreign_networks import (
    AdaIN,
    CycleGANGenerator,
    MUNITGenerator,
    StarGANv2Generator,
    randomised,
)
from torch import Tensor, nn

from m2o_fast.nn import accelerate
from m2o_fast.nn.deferral import Deferred


def results(model: nn.Module, *inputs: Tensor) -> list[Tensor]:
    output = model(*inputs)
    gradients = torch.autograd.grad(output.square().sum(), list(model.parameters()), allow_unused=True)
    return [output.detach(), *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize(
    ("network", "styled", "expected"),
    [
        (CycleGANGenerator, False, {"InstanceNorm2d + ReLU": 5, "InstanceNorm2d": 2}),
        (
            MUNITGenerator,
            True,
            {"InstanceNorm2d + ReLU": 1, "InstanceNorm2d": 1}
            | {"AdaptiveInstanceNorm2d + ReLU": 1, "AdaptiveInstanceNorm2d": 1},
        ),
        (StarGANv2Generator, True, {"InstanceNorm2d + LeakyReLU": 3, "AdaIN + LeakyReLU": 4}),
    ],
)
def test_networks_give_the_same(network, styled, expected) -> None:
    model = randomised(network())
    fast = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)]
    if styled:
        inputs.append(torch.randn(2, 5, generator=generator, dtype=torch.float64))
    before = results(model, *inputs)
    report = accelerate(fast)
    counts = {was: sum(row.was == was for row in report.replaced) for was in {row.was for row in report.replaced}}
    assert counts == expected, str(report)
    assert report.left_alone == ()
    after = results(fast, *inputs)
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-9, atol=1e-9)
    assert list(fast.state_dict()) == list(model.state_dict())


def test_a_second_time_there_is_nothing_left() -> None:
    model = StarGANv2Generator()
    accelerate(model)
    report = accelerate(model)
    assert report == ((), ())
    assert str(report) == "0 replaced, 0 left alone"


def test_modules_stay_what_they_are() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.1), AdaIN(5, 4))
    norm, adain, weight = model[1], model[3], model[1].weight
    report = accelerate(model)
    assert model[1] is norm and model[3] is adain and model[1].weight is weight
    assert isinstance(model[1], nn.InstanceNorm2d) and isinstance(model[3], AdaIN)
    assert type(model[3]).__name__ == "AdaIN"
    assert isinstance(model[2], nn.LeakyReLU) and model[2].negative_slope == 0.1
    assert str(report).splitlines()[1] == "  1: InstanceNorm2d + LeakyReLU -> instance_norm_act"


def test_copies_work_too() -> None:
    model, x, style = StarGANv2Generator(), torch.randn(2, 3, 8, 8), torch.randn(2, 5)
    accelerate(model)
    assert torch.equal(copy.deepcopy(model)(x, style), model(x, style))


def test_a_network_that_has_run_already() -> None:
    """Its AdaIN modules hold tensors that cannot be copied."""
    model, x, style = MUNITGenerator(), torch.randn(2, 3, 8, 8), torch.randn(2, 5)
    before = model(x, style)
    assert len(accelerate(model).replaced) == 4
    assert isinstance(model.decoder[0].activation, nn.ReLU)
    torch.testing.assert_close(model(x, style), before)


def test_random_numbers_of_the_program_are_not_used_up() -> None:
    model = StarGANv2Generator()
    state = torch.get_rng_state()
    accelerate(model)
    assert torch.equal(torch.get_rng_state(), state)


class Branches(nn.Module):
    """An activation whose input is needed twice works by itself."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.norm, self.act = nn.InstanceNorm2d(3), nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        normalised = self.norm(x)
        if self.kind == "input used twice":
            return self.act(normalised) + normalised
        if self.kind == "norm called twice":
            return self.act(normalised) + self.norm(2 * x)
        if self.kind == "control flow on data" and x.sum() > 0:
            return self.act(normalised)
        return normalised


@pytest.mark.parametrize("kind", ["input used twice", "norm called twice", "control flow on data"])
def test_only_the_norm_where_the_activation_is_needed_elsewhere(kind) -> None:
    model = Branches(kind)
    x = torch.randn(2, 3, 6, 6).abs()
    before = model(x)
    report = accelerate(model)
    assert [row.was for row in report.replaced] == ["InstanceNorm2d"]
    assert [(row.name, row.was) for row in report.left_alone] == [("act", "LeakyReLU")]
    torch.testing.assert_close(model(x), before)


class Seen(nn.Module):
    """The norm's output is seen by somebody else, in one way or another."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.how, self.last = how, None
        self.norm, self.act = nn.InstanceNorm2d(3), nn.LeakyReLU(0.2)

    def forward(self, x: Tensor, act: bool = True) -> Tensor:
        with torch.set_grad_enabled(self.how != "detached"):
            h = self.norm(x)
        if self.how == "kept":
            self.last = h
        if not act or (self.how == "training" and self.training) or self.how == "off":
            return h * 1
        return self.act(h)


def plainly_normalised(x: Tensor) -> Tensor:
    """By the formula, whatever modules do."""
    return (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()


def plainly_activated(x: Tensor) -> Tensor:
    h = plainly_normalised(x)
    return torch.where(h > 0, h, 0.2 * h)


def number_of_fused(calls: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    from m2o_fast.nn import acceleration

    real = acceleration.instance_norm_act
    monkeypatch.setattr(
        acceleration, "instance_norm_act", lambda *args, **kw: calls.append(kw["slope"]) or real(*args, **kw)
    )


IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_norm_and_activation_are_one_call_where_nobody_looks(monkeypatch) -> None:
    slopes: list[float] = []
    number_of_fused(slopes, monkeypatch)
    model = Seen()
    accelerate(model)
    torch.testing.assert_close(model(IMAGES), plainly_activated(IMAGES))
    assert slopes == [0.2]
    torch.testing.assert_close(model.eval()(x=IMAGES), plainly_activated(IMAGES))
    assert slopes == [0.2, 0.2]
    torch.testing.assert_close(model(IMAGES, act=False), plainly_normalised(IMAGES))
    assert slopes == [0.2, 0.2, 1.0]


@pytest.mark.parametrize(
    ("how", "use", "plain"),
    [
        ("", lambda model: model(IMAGES, act=False), plainly_normalised),
        ("", lambda model: model(IMAGES, False), plainly_normalised),
        ("", lambda model: model.norm(IMAGES), plainly_normalised),
        ("", lambda model: model.act(IMAGES), lambda x: torch.where(x > 0, x, 0.2 * x)),
        ("training", lambda model: model.train()(IMAGES), plainly_normalised),
        ("training", lambda model: model.eval()(IMAGES), plainly_activated),
        ("kept", lambda model: (model(IMAGES), model.last)[1], plainly_normalised),
        ("kept", lambda model: model(IMAGES), plainly_activated),
        ("", lambda model: (setattr(model, "how", "off"), model(IMAGES))[1], plainly_normalised),
        ("", lambda model: copy.deepcopy(model).norm(IMAGES), plainly_normalised),
        ("", lambda model: copy.deepcopy(model)(IMAGES), plainly_activated),
        ("", lambda model: (setattr(model, "act", nn.Identity()), model(IMAGES))[1], plainly_normalised),
    ],
)
def test_whoever_takes_the_output_of_the_norm_gets_it(how, use, plain) -> None:
    model = Seen(how)
    accelerate(model)
    result = use(model)
    assert type(result) is Tensor
    torch.testing.assert_close(result, plain(IMAGES))


def test_a_parent_that_calls_the_norm_of_its_child() -> None:
    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.child = Seen()

        def forward(self, x: Tensor) -> Tensor:
            return self.child(x) + self.child.norm(2 + x)

    model = Parent()
    assert [row.was for row in accelerate(model).replaced] == ["InstanceNorm2d + LeakyReLU"]
    torch.testing.assert_close(model(IMAGES), plainly_activated(IMAGES) + plainly_normalised(2 + IMAGES))


def test_features_slices_and_later_hooks_of_a_sequential() -> None:
    model = nn.Sequential(nn.InstanceNorm2d(3), nn.LeakyReLU(0.2), nn.Identity())
    assert [row.was for row in accelerate(model).replaced] == ["InstanceNorm2d + LeakyReLU"]
    features = [IMAGES]
    for layer in model:
        features.append(layer(features[-1]))
    torch.testing.assert_close(features[1], plainly_normalised(IMAGES))
    torch.testing.assert_close(features[2], plainly_activated(IMAGES))
    torch.testing.assert_close(model[:1](IMAGES), plainly_normalised(IMAGES))
    torch.testing.assert_close(model[1:](IMAGES), torch.where(IMAGES > 0, IMAGES, 0.2 * IMAGES))
    torch.testing.assert_close(nn.Sequential(*list(model)[:2])(IMAGES), plainly_activated(IMAGES))
    seen: list[Tensor] = []
    handles = [
        model[0].register_forward_hook(lambda _, __, output: seen.append(output)),
        model[1].register_forward_pre_hook(lambda _, args: seen.append(args[0])),
    ]
    for kept in (handles, handles[1:]):
        seen.clear()
        torch.testing.assert_close(model(IMAGES), plainly_activated(IMAGES))
        assert len(seen) == len(kept) and all(type(value) is Tensor for value in seen)
        for value in seen:
            torch.testing.assert_close(value, plainly_normalised(IMAGES))
        kept[0].remove()


def test_a_norm_without_gradients_stays_without() -> None:
    model = Seen("detached")
    accelerate(model)
    x = IMAGES.clone().requires_grad_()
    y = model(x)
    assert not y.requires_grad
    torch.testing.assert_close(y, plainly_activated(IMAGES))


def test_an_error_in_a_call_leaves_nothing_behind() -> None:
    model = Seen()
    accelerate(model)
    with pytest.raises(ValueError):
        model(IMAGES[0, 0])
    torch.testing.assert_close(model.norm(IMAGES), plainly_normalised(IMAGES))


def test_what_waits_is_a_tensor_to_everybody_else() -> None:
    def deferred() -> Deferred:
        return Deferred(lambda slope: torch.where(IMAGES > 0, IMAGES, slope * IMAGES), (IMAGES,))

    assert torch.equal(2 * deferred() - 1, 2 * IMAGES - 1)
    assert torch.equal(IMAGES - deferred(), torch.zeros_like(IMAGES))
    assert torch.equal(deferred()[0, 1:], IMAGES[0, 1:])
    assert torch.equal(torch.cat([deferred(), IMAGES]), torch.cat([IMAGES, IMAGES]))
    assert torch.equal(F.relu(deferred()), IMAGES.clamp(min=0)) and deferred().shape == IMAGES.shape
    assert torch.equal(deferred() > 0, IMAGES > 0) and len(deferred()) == 2 and torch.equal(-deferred(), -IMAGES)
    once = deferred()
    expected = torch.where(IMAGES > 0, IMAGES, 0.2 * IMAGES)
    assert torch.equal(once.activated(0.2, inplace=True), expected) and torch.equal(once.value(), expected)


def test_an_input_that_changed_meanwhile_is_an_error_not_another_number() -> None:
    x = IMAGES.clone()
    waiting = Deferred(lambda slope: x * slope, (x,))
    x.add_(1)
    with pytest.raises(RuntimeError, match="changed in place before its output was used"):
        waiting.value()


def test_an_activation_that_also_works_elsewhere() -> None:
    class Also(Seen):
        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.norm(x)) + self.act(x)

    model = Also()
    assert [row.was for row in accelerate(model).replaced] == ["InstanceNorm2d + LeakyReLU"]
    torch.testing.assert_close(model(IMAGES), plainly_activated(IMAGES) + torch.where(IMAGES > 0, IMAGES, 0.2 * IMAGES))


def test_an_activation_under_two_names() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.InstanceNorm2d(3), nn.InstanceNorm2d(3)
            self.act = self.other = nn.LeakyReLU(0.2)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.norm1(x)) + self.other(self.norm2(2 + x))

    model, x = Twice(), torch.randn(2, 3, 6, 6)
    before = model(x)
    assert len(accelerate(model).replaced) == 2
    torch.testing.assert_close(model(x), before)


def test_what_is_left_alone_is_named_with_the_reason() -> None:
    class Other(AdaIN):
        def forward(self, x: Tensor, s: Tensor) -> Tensor:
            return super().forward(x, s).tanh()

    model = nn.ModuleDict(
        {"stats": nn.InstanceNorm2d(3, track_running_stats=True), "other": Other(5, 3), "hooked": nn.InstanceNorm2d(3)}
    )
    model["hooked"].register_forward_hook(lambda *_: None)
    report = accelerate(model)
    assert report.replaced == ()
    assert [(row.name, row.was) for row in report.left_alone] == [
        ("stats", "InstanceNorm2d"),
        ("other", "Other"),
        ("hooked", "InstanceNorm2d"),
    ]
    assert "running statistics" in report.left_alone[0].why
    assert "scale * norm(x) + shift" in report.left_alone[1].why
    assert "hooks" in report.left_alone[2].why
    assert "left alone: it has hooks" in str(report)


def test_the_model_itself_may_be_the_norm() -> None:
    norm = nn.InstanceNorm2d(3)
    x = torch.randn(3, 6, 6)  # without a batch dimension
    before = norm(x)
    assert accelerate(norm).replaced == (("", "InstanceNorm2d", "instance_norm_act"),)
    torch.testing.assert_close(norm(x), before)


def test_the_model_itself_may_be_an_adain() -> None:
    adain, x, style = AdaIN(5, 3), torch.randn(2, 3, 6, 6), torch.randn(2, 5)
    before = adain(x, style)
    assert accelerate(adain).replaced == (("", "AdaIN", "adain_act"),)
    assert type(adain.norm) is nn.InstanceNorm2d
    torch.testing.assert_close(adain(x, style), before)


def test_wrong_type() -> None:
    with pytest.raises(TypeError, match="accelerate: model must be an nn.Module, got dict"):
        accelerate({})

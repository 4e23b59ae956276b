"""Number formats and batches in parts: what changes the numbers, what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_config
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from m2o_fast.engine.loop import train
from m2o_fast.engine.precision import autocast, float32_products, precision_note
from m2o_fast.engine.step import StepResult
from m2o_fast.engine.trainer import Trainer
from m2o_fast.errors import UserError
from m2o_fast.losses import absolute_error, adversarial, masked_reconstruction_error
from m2o_fast.ops import _choices, use_backend

pytestmark = pytest.mark.usefixtures("tiny_data")
#: without weight decay: a bias in front of an instance norm has rounding noise for a gradient, which Adam enlarges
STILL = ("optim.weight_decay=0", "optim.lr=1e-5", "batch_size=8")


def iterations(*assignments: str, count: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Trainer, StepResult]:
    trainer = Trainer(tiny_config(*assignments), Path("nowhere"))
    for nets in (trainer.translator, trainer.averaged):
        nets.to(dtype)
    result = None
    for step in range(count):
        result = trainer.stepper([part.to(dtype=dtype) for part in trainer.batch(step)], step)
    assert result is not None
    return trainer, result


# --- batches in parts ---


@pytest.mark.slow  # test_promises.py does the same with each system
@pytest.mark.parametrize(
    ("variant", "style_op", "parts"), [("hms", "adain", 2), ("hmu", "demod", 4), ("starganv2", "adain", 8)]
)
def test_parts_of_a_batch_do_what_the_whole_does(variant: str, style_op: str, parts: int) -> None:
    settings = (*STILL, f"variant={variant}", f"model.style_op={style_op}")
    whole, losses = iterations(*settings, count=6, dtype=torch.float64)
    several, same_losses = iterations(*settings, f"accumulate={parts}", count=6, dtype=torch.float64)
    assert len(several.batch(0)) == parts
    for name, value in losses.losses.items():
        assert same_losses.losses[name].item() == pytest.approx(value.item(), rel=1e-9, abs=1e-12), name
    for nets in ("translator", "averaged"):
        for name, value in getattr(whole, nets).state_dict().items():
            torch.testing.assert_close(getattr(several, nets).state_dict()[name], value, rtol=0, atol=1e-10, msg=name)


def test_parts_keep_no_graph_between_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the memory would be that of the whole batch."""
    trainer = Trainer(tiny_config("accumulate=2"), Path("nowhere"))
    loss, caches = trainer.translator.loss, []

    def watched(phase, batch, iteration):
        assert not iteration.cache and not iteration.lasting
        caches.append(phase)
        return loss(phase, batch, iteration)

    monkeypatch.setattr(trainer.translator, "loss", watched)
    trainer.stepper(trainer.batch(0), 0)
    assert caches == [phase.name for phase in trainer.translator.phases(0) for _ in range(2)]


def test_one_bad_part_fails_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(tiny_config("accumulate=2"), Path("nowhere"))
    loss, calls = trainer.translator.loss, []

    def poisoned(phase, batch, iteration):
        value, parts = loss(phase, batch, iteration)
        calls.append(phase)
        return (value * float("nan") if calls.count("generator_latent") == 1 else value), parts

    monkeypatch.setattr(trainer.translator, "loss", poisoned)
    before = {name: value.clone() for name, value in trainer.translator.state_dict().items()}
    assert trainer.stepper(trainer.batch(0), 0).failed == 3
    for name, value in trainer.translator.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("discriminator.")), name
    assert not any(value["step"] for value in trainer.stepper.optimizers["generator"].state.values())


def test_a_batch_that_cannot_be_parted_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"batch_size 4 cannot be shared among 3 parts \(accumulate\); .* of 3$"):
        train(tiny_config("accumulate=3"), None, quiet=True)
    assert list(tmp_path.iterdir()) == [], "no folder for a run that cannot begin"


# --- number formats ---


def test_bf16_computes_in_bfloat16_and_keeps_float32() -> None:
    trainer, exact = iterations()
    seen: set[torch.dtype] = set()
    other = Trainer(tiny_config("precision=bf16"), Path("nowhere"))
    for net in (other.translator.generator, other.translator.discriminator):
        for module in net.modules():
            module.register_forward_hook(lambda module, inputs, output: seen.update(dtypes(output)))
    result = other.stepper(other.batch(0), 0)
    assert torch.bfloat16 in seen
    for name, value in result.losses.items():
        assert value.dtype is torch.float32, name
        assert value.item() == pytest.approx(exact.losses[name].item(), rel=0.05, abs=0.05), name
    with autocast("bf16", other.device):
        translated = other.translator.translate(other.batch(0)[0].source[0], 0, 1)
    assert translated.dtype is torch.float32 and not torch.equal(translated, translated.bfloat16().float())
    # R1 and the real half of the first phase take place before any weight has changed, and in float32
    for part in ("real", "r1"):
        assert torch.equal(
            result.losses[f"discriminator_latent/{part}"], exact.losses[f"discriminator_latent/{part}"]
        ), part
    assert not torch.equal(result.losses["discriminator_latent/fake"], exact.losses["discriminator_latent/fake"])
    for nets in (other.translator, other.averaged):
        assert {value.dtype for value in nets.state_dict().values()} == {torch.float32}
    for optimizer in other.stepper.optimizers.values():
        assert {value.dtype for state in optimizer.state.values() for value in state.values()} == {torch.float32}


def test_what_bf16_means_on_a_cpu_without_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(_choices, "WITHOUT_BFLOAT16", (torch.backends.cpu.get_cpu_capability(),))
    assert precision_note("bf16", cpu) == "less memory, not faster: this CPU multiplies in float32"
    assert precision_note("fp32", cpu) == precision_note("bf16", torch.device("cuda")) == ""
    assert precision_note("bf16", cpu, compiled=True) == "SLOW: torch emulates it on this CPU"
    with use_backend("reference"):
        assert precision_note("bf16", cpu) == "SLOW: torch emulates it on this CPU"
    monkeypatch.setattr(_choices, "WITHOUT_BFLOAT16", ())
    assert precision_note("bf16", cpu) == ""


class Products(TorchDispatchMode):
    """Types of the operands of convolutions and matrix products, derivatives included."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(word in func.name() for word in ("conv", "mm", "matmul", "::dot", "linear")):
            self.dtypes |= {argument.dtype for argument in args if isinstance(argument, Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("style_op", ["adain", "demod"])
@pytest.mark.parametrize("emulates", [True, False])
def test_bf16_products_are_float32s_where_a_cpu_has_no_others(
    emulates: bool, style_op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of a whole step, or torch would emulate it."""
    capability = torch.backends.cpu.get_cpu_capability()
    monkeypatch.setattr(_choices, "WITHOUT_BFLOAT16", (capability,) if emulates else ())
    trainer = Trainer(tiny_config("precision=bf16", f"model.style_op={style_op}"), Path("nowhere"))
    with Products() as products:
        trainer.stepper(trainer.batch(0), 0)
    assert (torch.bfloat16 in products.dtypes) != emulates and torch.float32 in products.dtypes


def dtypes(output: object) -> set[torch.dtype]:
    if isinstance(output, Tensor):
        return {output.dtype}
    values = output.values() if isinstance(output, dict) else output if isinstance(output, (list, tuple)) else ()
    return {value.dtype for value in values if isinstance(value, Tensor)}


def test_bf16_gradients_point_where_float32_ones_do() -> None:
    """Also those of the first phase's graph, which the third phase goes back through."""
    exact, rounded = (phase_gradients(f"precision={precision}", "model.base_width=8") for precision in ("fp32", "bf16"))
    assert exact.keys() == rounded.keys()
    for name, gradients in exact.items():
        whole = [torch.cat([gradient.flatten() for gradient in found]) for found in (gradients, rounded[name])]
        assert torch.cosine_similarity(*whole, dim=0) > 0.8, name
        for number, (gradient, other) in enumerate(zip(gradients, rounded[name], strict=True)):
            assert bool(gradient.any()) == bool(other.any()), f"{name}, parameter {number}"


def phase_gradients(*assignments: str) -> dict[str, list[Tensor]]:
    """The gradients of every phase and group, at weights that stay what they are."""
    trainer = Trainer(tiny_config(*assignments), Path("nowhere"))
    for optimizer in trainer.stepper.optimizers.values():
        optimizer.param_groups[0]["lr"] = 0.0
    result = {}
    descend = trainer.stepper._descend

    def recorded(phase, *rest):
        for group in phase.groups:
            found = [p.grad for p in trainer.stepper.parameters[group] if p.grad is not None]
            result[f"{phase.name} {group}"] = [gradient.clone() for gradient in found]
        return descend(phase, *rest)

    trainer.stepper._descend = recorded
    trainer.stepper(trainer.batch(0), 0)
    return result


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_are_float32(dtype: torch.dtype) -> None:
    a, b = torch.full((4, 1, 2, 2), 100.0), torch.full((4, 1, 2, 2), 100.25)
    assert absolute_error([a.to(dtype)], [b], 4).item() == 0.25  # bfloat16 would round 100.25 to 100
    assert masked_reconstruction_error(a.to(dtype), b, torch.ones(4, dtype=torch.bool), 4, False).item() == 0.25
    assert absolute_error([a[:0].to(dtype)], [b[:0]], 4).dtype is torch.float32
    assert adversarial(a.to(dtype), real=False).dtype is torch.float32


def test_tf32_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="precision tf32 is a format of NVIDIA GPUs; on a CPU use fp32 or bf16"):
        train(tiny_config("precision=tf32"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("precision", "setting"), [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "tf32")])
def test_float32_products_are_as_said_and_as_before_afterwards(precision: str, setting: str) -> None:
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in settings]
    with pytest.raises(KeyError), float32_products(precision):
        assert [backend.fp32_precision for backend in settings] == [setting, setting]
        raise KeyError
    assert [backend.fp32_precision for backend in settings] == before

"""The memory estimate against what training really allocates, and what is said when there is too little."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_config
from torch.profiler import ProfilerActivity, profile

from m2o_fast import ops
from m2o_fast.engine import memory as memory_module
from m2o_fast.engine.checkpoint import list_checkpoints
from m2o_fast.engine.loop import train
from m2o_fast.engine.memory import (
    blank_batch,
    estimate_memory,
    explains_out_of_memory,
    free_memory,
    is_out_of_memory,
    saved_bytes,
)
from m2o_fast.engine.processes import Processes
from m2o_fast.engine.runlog import Log
from m2o_fast.engine.schema import Config
from m2o_fast.engine.start import check_device
from m2o_fast.engine.trainer import Trainer
from m2o_fast.errors import UserError
from m2o_fast.translators.base import Phase
from m2o_fast.translators.starganv2.translator import StarGANv2

pytestmark = pytest.mark.usefixtures("tiny_data")

CASES = [
    # 16 channels: with AVX-512, copies that torch makes for convolutions have as many at least, which nobody counts
    ("variant=hms", "batch_size=16", "model.base_width=16", "model.max_width=16"),
    ("variant=hmu", "batch_size=8", "data.image_size=32", "model.base_width=16", "model.max_width=32"),
    ("variant=starganv2", "batch_size=12", "model.style_op=demod"),
]


def size_of(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_what_stays_is_counted_exactly(case, tmp_path: Path) -> None:
    trainer = Trainer(tiny_config(*case), tmp_path)
    memory = estimate_memory(trainer.translator, trainer.averaged, trainer.config.optim, trainer.config.batch_size)
    trainer.advance(Log())
    parameters = list(trainer.translator.parameters())
    states = [state for optimizer in trainer.stepper.optimizers.values() for state in optimizer.state.values()]
    assert memory.weights == size_of(trainer.translator.state_dict().values())
    assert memory.gradients == size_of(parameter.grad for parameter in parameters)
    assert memory.moments == size_of(tensor for state in states for tensor in state.values())
    assert memory.averages == size_of(trainer.averaged.state_dict().values())
    assert memory.total == memory.weights + memory.gradients + memory.moments + memory.averages + memory.activations


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_few_blank_images_tell_what_the_whole_batch_saves(case, tmp_path: Path) -> None:
    trainer = Trainer(tiny_config(*case), tmp_path)
    memory = estimate_memory(trainer.translator, trainer.averaged, trainer.config.optim, trainer.config.batch_size)
    whole = saved_bytes(trainer.translator, trainer.batch(0)[0])
    assert whole == pytest.approx(memory.activations, rel=0.1)


@pytest.mark.parametrize(
    "case", [CASES[0], *(pytest.param(case, marks=pytest.mark.slow) for case in CASES[1:])], ids=lambda case: case[0]
)
def test_the_peak_of_a_step_is_what_was_estimated(case, tmp_path: Path) -> None:
    """All allocations of a step as torch reports them; the end of a step is the beginning of the next."""
    trainer = Trainer(tiny_config(*case), tmp_path)
    estimate = estimate_memory(
        trainer.translator, trainer.averaged, trainer.config.optim, trainer.config.batch_size
    ).activations
    trainer.advance(Log())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trainer.advance(Log())
    held, peak = 0, 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert peak - held == pytest.approx(estimate, rel=0.2)


@pytest.mark.parametrize(
    "variant", ["hms", *(pytest.param(name, marks=pytest.mark.slow) for name in ("hmu", "starganv2"))]
)
def test_small_batches_are_measured_as_they_are(variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the hungriest batch that the sampler may draw, with no more images than it has."""
    probed: list[int] = []
    probe = memory_module.saved_bytes
    for size in (1, 2, 3, 4):
        trainer = Trainer(tiny_config(f"variant={variant}", f"batch_size={size}"), tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(memory_module, "saved_bytes", lambda t, b, *rest: probed.append(b.size) or probe(t, b, *rest))
            estimate = trainer.plan().memory.activations
        drawn = max(saved_bytes(trainer.translator, trainer.batch(step)[0]) for step in range(4))
        assert estimate == pytest.approx(drawn, rel=0.06), size
    assert probed == [1, 2, 3, 4]


def test_what_does_not_grow_with_the_batch_is_not_scaled(tmp_path: Path) -> None:
    """In wide nets, folded kernels are a good part of what is saved, whether the batch or its parts are large."""
    wide = ("model.base_width=32", "model.max_width=128")
    for images, parts in ((16, 1), (4, 2)):
        trainer = Trainer(tiny_config(*wide, f"batch_size={images}", f"accumulate={parts}"), tmp_path)
        estimate = trainer.plan().memory.activations
        whole = saved_bytes(trainer.translator, trainer.batch(0)[0])
        assert estimate == pytest.approx(whole, rel=0.06), (images, parts)


def test_the_estimate_leaves_everything_as_it_was(tmp_path: Path) -> None:
    trainer = Trainer(tiny_config(), tmp_path)
    before = {name: tensor.clone() for name, tensor in trainer.translator.state_dict().items()}
    state = torch.random.get_rng_state()
    estimate_memory(trainer.translator, trainer.averaged, trainer.config.optim, 4)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.translator.state_dict().items())
    assert all(parameter.grad is None for parameter in trainer.translator.parameters())


def test_a_tensor_that_is_saved_twice_counts_once_and_goes_when_dropped() -> None:
    class Twice(torch.nn.Module):
        def pools(self):
            return {}

        def phases(self, index):
            return [Phase("only", ())] * 2

        def loss(self, phase, batch, iteration):
            y = batch.leaf * 1  # saves nothing that is not there: a number
            return (y * y).sum(), {}  # saves y twice: 4,000 bytes; the second phase begins after the first is dropped

    batch = type("Batch", (), dict.fromkeys(("source", "reference", "reference2", "paired"), ()))()
    batch.leaf = batch.to_target = torch.ones(1000, requires_grad=True)
    assert saved_bytes(Twice(), batch) == 4000


def test_the_blank_batch_is_a_batch(tmp_path: Path) -> None:
    trainer = Trainer(tiny_config("batch_size=4"), tmp_path)
    blank, (real,) = blank_batch(trainer.translator, 4), trainer.batch(0)
    assert [part.shape for part in blank.source] == [part.shape for part in real.source]
    assert [part.shape for part in blank.paired] == [part.shape for part in real.paired]
    assert sorted(blank.to_target.tolist()) == list(range(4))
    assert blank.target_counts == real.target_counts
    odd = blank_batch(trainer.translator, 3)
    assert [domain.name for domain in trainer.translator.domains if domain.multimodal] == ["color"]
    assert (
        odd.source_counts
        == odd.target_counts
        == tuple(2 if domain.multimodal else 1 for domain in trainer.translator.domains)
    )


def test_a_batch_whose_images_alone_do_not_fit_is_refused_before_any_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of several processes holds its share of it. Parts of a batch are there together."""
    config, cpu = tiny_config("batch_size=1024", "accumulate=4"), torch.device("cpu")
    free: list[int | None] = [4 * config.data.image_size**2 * 1024]
    monkeypatch.setattr("m2o_fast.engine.start.free_memory", lambda device: free[0])
    check_device(config, cpu, Processes())
    free[0] -= 1
    check_device(config, cpu, Processes(count=2))
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", None)
    for call in (lambda: Trainer(config, tmp_path), lambda: train(config, tmp_path / "run", quiet=True)):
        with pytest.raises(UserError, match="^batch_size 1024: its images alone take .* lower it, or data.image_size"):
            call()
    assert not (tmp_path / "run").exists()
    free[0] = None
    check_device(config, cpu, Processes())


def test_free_memory() -> None:
    free = free_memory(torch.device("cpu"))
    assert free is None or 1e6 < free < 1e15


# --- too little ---


def exhaust(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets step ``step`` ask for a petabyte."""
    loss = StarGANv2.loss

    def greedy(self, phase, batch, iteration):
        if iteration.index == step:
            torch.empty(1 << 50, dtype=torch.uint8)
        return loss(self, phase, batch, iteration)

    monkeypatch.setattr(StarGANv2, "loss", greedy)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "processes", "parts"),
    [(4, 1, 1, 2), (6, 1, 2, 3), (7, 1, 1, 7), (8, 2, 2, 4), (4, 2, 2, 0), (4, 4, 1, 0)],
)
def test_advice_is_a_number_of_parts_that_the_batch_has(
    batch_size: int, accumulate: int, processes: int, parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    config = tiny_config(f"batch_size={batch_size}", f"accumulate={accumulate}")
    put_checkpoint(tmp_path)

    @explains_out_of_memory
    def greedy(config: Config, run: Path) -> None:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    with pytest.raises(UserError, match="^out of memory: ") as caught:
        greedy(config, tmp_path)
    assert ("raise accumulate" in str(caught.value)) == bool(parts)
    assert str(caught.value).endswith(f"--resume auto --accumulate {parts}" if parts else "--resume auto")


def put_checkpoint(run: Path) -> None:
    """Puts an empty checkpoint there, which is all that the advice looks for."""
    (run / "checkpoints" / "step-00000001").mkdir(parents=True)


def test_out_of_memory_says_what_helps_and_keeps_what_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        exhaust(3, patch)
        with pytest.raises(UserError) as caught:
            train(tiny_config(), run, quiet=True)
    saved = run / "checkpoints" / "step-00000002"
    message = str(caught.value)
    for part in (
        "raise accumulate (now 1)",
        "batch_size (now 4)",
        "model.base_width (now 4)",
        "model.max_width (now 8)",
        "data.image_size (now 32)",
    ):
        assert part in message
    assert f"{saved} is kept; go on with: m2o-fast train --run {run} --resume auto --accumulate 2" in message
    assert list_checkpoints(run) == [saved]
    assert train(tiny_config("steps=3", "accumulate=2"), run, "auto", quiet=True).step == 3  # the advice works


def test_out_of_memory_before_anything_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exhaust(0, monkeypatch)
    with pytest.raises(UserError, match="nothing was saved yet"):
        train(tiny_config(), tmp_path / "run", quiet=True)


def test_every_way_to_run_out_of_memory_is_known() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


X, VECTOR = torch.zeros(1).expand(1, 16, 1 << 22, 1 << 22), torch.zeros(1, 16)  # more bytes than there are addresses
KERNELS = {
    "adain_act": lambda: ops.adain_act(X, VECTOR, VECTOR),
    "instance_norm_act": lambda: ops.instance_norm_act(X),
    "leaky_relu_down2": lambda: ops.leaky_relu_down2(X),
    "residual_merge": lambda: ops.residual_merge(X, X),
    "scale_bias_act": lambda: ops.scale_bias_act(X, VECTOR),
    "scale_channels": lambda: ops.scale_channels(X, VECTOR),
}


@pytest.mark.parametrize("operation", KERNELS)
def test_compiled_kernels_that_run_out_of_memory_say_so(operation: str) -> None:
    with ops.use_backend("compiled"), pytest.raises(RuntimeError) as caught:
        KERNELS[operation]()
    assert "torch/csrc" not in str(caught.value) and "API call failed" not in str(caught.value)
    # what the stable ABI of an older torch leaves out cannot be known
    assert is_out_of_memory(caught.value) or tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13)


def test_other_errors_stay_what_they_are() -> None:
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(KeyError("DefaultCPUAllocator"))

    @explains_out_of_memory
    def broken(config, run):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="^shapes do not match$"):
        broken(tiny_config(), Path("run"))

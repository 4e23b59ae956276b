"""Steps that are recorded and replayed as a whole. A CPU records with a stand-in that keeps to the rules of a GPU."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recording import CannotBeRecordedError, CpuRecorder
from starganv2_cases import SIZE
from tiny import contents, tiny_config, tiny_digits
from torch import Tensor

from m2o_fast.batch import Batch
from m2o_fast.cli import main
from m2o_fast.data.sampler import BatchSampler
from m2o_fast.engine import graphs
from m2o_fast.engine.graphs import CudaRecorder, GraphedStepper, Recorder, check_cuda_graphs
from m2o_fast.engine.loop import train
from m2o_fast.engine.processes import Processes
from m2o_fast.engine.runlog import Log
from m2o_fast.engine.step import Stepper, StepResult, compile_nets
from m2o_fast.engine.trainer import Trainer
from m2o_fast.errors import UserError
from m2o_fast.m2o import VARIANTS, Domain
from m2o_fast.randomness import torch_generator
from m2o_fast.translators.base import Iteration
from m2o_fast.translators.starganv2.settings import Optim, Weights
from m2o_fast.translators.starganv2.translator import StarGANv2

DOMAINS = (Domain("color", 3), Domain("gray", 1, multimodal=False))
WARM_UP = graphs.WARM_UP if torch.cuda.is_available() else 1  # which makes the state of optimizers
STEPS = WARM_UP + 2  # one is recorded and run, one replayed alone
TURNS = 2 * WARM_UP + 2  # of two graphs that take turns: each is recorded and run once


@pytest.fixture(autouse=True)
def _warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "WARM_UP", WARM_UP)


class Setup:
    """A stepper with its own nets, and the batches of every step."""

    def __init__(
        self, variant: str, device: str = "cpu", batch_size: int = 4, precision: str = "fp32", **weights: Any
    ) -> None:
        torch.manual_seed(0)
        loss = Weights(diversity=1.3, diversity_steps=6, **weights)
        self.translator = StarGANv2(DOMAINS, VARIANTS[variant], SIZE, loss).to(device)
        self.averaged = copy.deepcopy(self.translator).requires_grad_(False)
        self.stepper = Stepper(self.translator, self.averaged, Optim(lr=1e-3, ema=0.9), precision=precision)
        dataset = tiny_digits("digits", split="train", seed=0, pair_fraction=1.0)
        pairs = self.translator.paired_directions()
        self.sampler = BatchSampler(dataset, self.translator.domains, batch_size, seed=0, pairs=pairs)
        self.device = device

    def batch(self, step: int) -> Batch:
        batch = self.sampler(step)
        noise = self.translator.noise(batch.size, torch_generator(0, "noise", step))
        dtype = next(self.translator.parameters()).dtype
        return Batch(**(vars(batch) | {"noise": noise})).to(self.device, dtype)

    def parts(self, step: int, parts: int) -> list[Batch]:
        return [self.batch(step * parts + part) for part in range(parts)]

    def tensors(self) -> list[Tensor]:
        """Weights, averages and the state of Adam."""
        nets = [*self.translator.state_dict().values(), *self.averaged.state_dict().values()]
        optimizers = self.stepper.optimizers.values()
        return nets + [t for one in optimizers for state in one.state.values() for t in state.values()]


def trained(setup: Setup, step: Callable[..., StepResult], parts: int = 1, steps: int = STEPS) -> list[StepResult]:
    return [step(setup.parts(index, parts), index) for index in range(steps)]


def assert_graphed_is_eager(recorder: Recorder, parts: int = 1, steps: int = STEPS, **settings: Any) -> None:
    eager, graphed = Setup(**settings), Setup(**settings)
    expected = trained(eager, eager.stepper, parts, steps)
    found = trained(graphed, GraphedStepper(graphed.stepper, recorder), parts, steps)
    for theirs, ours in zip(expected, found, strict=True):
        assert ours.losses.keys() == theirs.losses.keys()
        assert all(torch.equal(ours.losses[name], loss) for name, loss in theirs.losses.items())
        assert not ours.failed and not theirs.failed
    assert all(torch.equal(a, b) for a, b in zip(graphed.tensors(), eager.tensors(), strict=True))


CASES = {
    "plain": {"variant": "plain"},
    "hmu": {"variant": "hmu"},
    "hms": {"variant": "hms"},
    "two parts": {"variant": "hms", "parts": 2},
    "merged": {"variant": "hms", "merge_discriminator_steps": True},
    "bf16": {"variant": "hms", "precision": "bf16"},
}


#: other tests replay hmu in several graphs; that of the promises replays hms, of every system
ALONE = [case if case in ("two parts", "bf16") else pytest.param(case, marks=pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize("case", ALONE)
def test_replayed_steps_are_the_same_to_the_bit(case: str) -> None:
    recorder = CpuRecorder()
    assert_graphed_is_eager(recorder, **CASES[case])
    assert (recorder.recorded, recorder.replayed) == (1, STEPS - WARM_UP)


def test_lazy_r1_takes_two_graphs() -> None:
    recorder = CpuRecorder()
    assert_graphed_is_eager(recorder, variant="hmu", r1_every=2, steps=TURNS)
    assert (recorder.recorded, recorder.replayed) == (2, TURNS - 2 * WARM_UP)


def test_batches_of_other_shapes_take_other_graphs() -> None:
    recorder = CpuRecorder()
    assert_graphed_is_eager(recorder, variant="hmu", batch_size=2, steps=TURNS)  # two compositions
    assert (recorder.recorded, recorder.replayed) == (2, TURNS - 2 * WARM_UP)


def test_results_stay_when_the_next_step_runs() -> None:
    setup = Setup("hms")
    step = GraphedStepper(setup.stepper, CpuRecorder())
    results = trained(setup, step)
    kept = [
        {name: loss.item() for name, loss in step([setup.batch(index)], index).losses.items()}
        for index in (STEPS, STEPS + 1)
    ]
    assert kept[0] != kept[1]
    values = [result.losses["generator_latent/cycle"].item() for result in results]
    assert len(set(values)) == STEPS


def test_step_that_is_not_finite_changes_nothing_in_a_replay_either() -> None:
    setup = Setup("hms")
    step = GraphedStepper(setup.stepper, CpuRecorder())
    trained(setup, step)
    before = [tensor.clone() for tensor in setup.tensors()]
    batch = setup.batch(STEPS)
    batch.source[0][0, 0, 0, 0] = torch.nan
    bad = step([batch], STEPS)
    assert bad.failed == 1
    weights = len(setup.translator.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(setup.tensors()[:weights], before[:weights], strict=True))
    assert step([setup.batch(STEPS)], STEPS).failed == 0 and bad.failed == 1  # the loop reads both, later
    assert not all(torch.equal(a, b) for a, b in zip(setup.tensors()[:weights], before[:weights], strict=True))


def test_index_that_enters_as_a_number_of_python_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own test: the schedule of the diversity weight, baked into the recording."""
    monkeypatch.setattr("m2o_fast.engine.graphs._ScheduledIteration.number", Iteration.number)
    with pytest.raises(AssertionError):
        assert_graphed_is_eager(CpuRecorder(), variant="hmu")


def test_reading_back_is_refused_by_the_stand_in() -> None:
    def reads() -> StepResult:
        return StepResult({}, torch.tensor([1.0]).sum() * float(torch.ones(()).sum()))

    with pytest.raises(CannotBeRecordedError):
        CpuRecorder().record(reads)


@pytest.mark.parametrize(
    ("device", "count", "words"), [("cpu", 1, "NVIDIA GPU"), ("cuda", 2, "single process, there are 2")]
)
def test_refused_where_there_are_none(device: str, count: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_cuda_graphs(torch.device(device), Processes(rank=0, count=count))


def test_training_refuses_them_on_a_cpu_before_anything_is_made(tmp_path) -> None:
    with pytest.raises(UserError, match="leave out --cuda-graphs"):
        train(tiny_config("cuda_graphs=true"), tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("tiny_data")
def test_a_run_of_a_gpu_goes_on_without_them_by_the_words_of_the_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(tiny_config("steps=1"), run, quiet=True)
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("cuda_graphs: false", "cuda_graphs: true"))
    words = ["train", "--run", str(run), "--resume", "auto", "--steps", "2", "--quiet"]
    assert main(words) == 2
    advised = re.search(r"add (--set \S+) where", capsys.readouterr().err)
    assert advised and main([*words, *advised[1].split()]) == 0


@pytest.mark.usefixtures("tiny_data")
def test_training_records_its_steps_and_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = CpuRecorder()
    monkeypatch.setattr("m2o_fast.engine.start.check_cuda_graphs", lambda *_: None)
    monkeypatch.setattr("m2o_fast.engine.trainer.CudaRecorder", lambda device: recorder)
    for setting in ("false", "true"):
        train(tiny_config(f"steps={WARM_UP + 2}", f"cuda_graphs={setting}"), tmp_path / setting, quiet=True)
    assert (recorder.recorded, recorder.replayed) == (1, 2)
    eager, graphed = contents(tmp_path / "false"), contents(tmp_path / "true")
    del eager["config.yaml"], graphed["config.yaml"]
    assert graphed == eager


@pytest.mark.parametrize(
    ("failure", "error"), [(RuntimeError, UserError), (torch.OutOfMemoryError, torch.OutOfMemoryError)]
)
def test_what_cannot_be_recorded_says_how_to_go_on(
    failure: type[Exception], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: CpuRecorder, body: Callable[[], StepResult]) -> None:
        raise failure("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(CpuRecorder, "record", fails)
    setup = Setup("hmu")
    step = GraphedStepper(setup.stepper, CpuRecorder())
    with pytest.raises(error, match="not permitted when stream is capturing") as caught:
        trained(setup, step)
    advised = f"step {WARM_UP} " in str(caught.value) and "--set cuda_graphs=false" in str(caught.value)
    assert advised == (error is UserError)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES)
def test_cuda_graphs_give_the_bits_of_eager_steps(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # else two eager runs may differ
    assert_graphed_is_eager(CudaRecorder(torch.device("cuda")), device="cuda", **CASES[case])


# --- torch.compile ---


def test_training_compiles_the_nets_in_its_first_step_and_no_earlier(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan runs them on a few images, which is not worth minutes. Here the smaller ones alone, which suffices."""
    compiled, programs = torch.compile, []

    def as_it_is(program: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        programs.append(program)
        return program.forward

    def compile_small(method: Any, **options: Any) -> Any:
        return compiled(method, backend=as_it_is, **options) if method.__name__ == "forward" else method

    monkeypatch.setattr(torch, "compile", compile_small)
    trainer = Trainer(tiny_config("compile=true"), tmp_path)
    trainer.plan()
    assert not programs
    trainer.advance(Log())
    assert programs


@pytest.mark.parametrize(
    ("backend", "left_out"),
    [
        ("eager", "decode"),  # of which there are most programs
        *(pytest.param(backend, "", marks=pytest.mark.slow) for backend in ("eager", "inductor")),
    ],
)
def test_compiled_nets_give_the_same_numbers(backend: str, left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where machine code is made it takes minutes; what the compiler traces is the same without."""
    compiled = torch.compile
    seen = []

    def compile_for(method: Any, **options: Any) -> Any:
        seen.append(method.__name__)
        return method if method.__name__ == left_out else compiled(method, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", compile_for)
    eager, ours = Setup("hms"), Setup("hms")
    for setup in (eager, ours):
        setup.translator.double(), setup.averaged.double()
    compile_nets(ours.translator)
    assert seen == ["encode", "decode", "forward", "forward"]
    theirs = [eager.stepper([eager.batch(index)], index).losses for index in range(2)]
    found = [ours.stepper([ours.batch(index)], index).losses for index in range(2)]
    for name in theirs[0]:
        for a, b in zip(found, theirs, strict=True):
            assert a[name].item() == pytest.approx(b[name].item(), rel=1e-9, abs=1e-12), name
    assert ours.translator.state_dict().keys() == eager.translator.state_dict().keys()

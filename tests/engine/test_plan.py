"""What is said about a run before it starts, and how fast it will go."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny import contents, tiny_config

from m2o_fast.engine import pace as pace_module
from m2o_fast.engine import plan as plan_module
from m2o_fast.engine import runlog
from m2o_fast.engine.loop import train
from m2o_fast.engine.pace import Pace, bench_training, dry_run, duration, measure_pace, pace_line
from m2o_fast.engine.processes import Processes
from m2o_fast.engine.trainer import Trainer
from m2o_fast.errors import UserError
from m2o_fast.ops import use_backend

pytestmark = pytest.mark.usefixtures("tiny_data")


def test_the_plan_says_what_will_run(tmp_path: Path) -> None:
    plan = Trainer(tiny_config("steps=8", "threads=1"), tmp_path).plan()
    first, device, kernels, parameters, memory = plan.lines()
    assert first == "hms on digits: 6 images, 8 steps; batch 4 = 1 process x 4"
    assert device.startswith("device: cpu (") and device.endswith("), 1 thread, fp32")
    assert kernels.startswith("kernels: ")
    assert all(f"{net} " in parameters for net in ("generator", "mapping network", "style encoder", "discriminator"))
    assert "activations" in memory
    assert json.loads(json.dumps(plan.as_json()))["memory"]["total"] == plan.memory.total


def test_the_batch_is_shared(tmp_path: Path) -> None:
    """Each process holds the nets, and the activations of its share."""
    alone = Trainer(tiny_config(), tmp_path).plan()
    shared = Trainer(tiny_config(), tmp_path, processes=Processes(0, 2)).plan()
    assert "batch 4 = 2 processes x 2" in shared.lines()[0]
    assert " each, " in shared.lines()[1] and " each, " not in alone.lines()[1]
    parts = Trainer(tiny_config("accumulate=2"), tmp_path, processes=Processes(0, 2)).plan()
    assert "batch 4 = 2 processes x 2 parts x 1" in parts.lines()[0]
    assert shared.memory.activations == pytest.approx(alone.memory.activations / 2, rel=0.1)
    assert shared.memory.moments == alone.memory.moments


def test_too_little_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "free_memory", lambda device: 1000)
    assert Trainer(tiny_config(), tmp_path).plan().lines()[-1].endswith("0 MB free: TOO LITTLE")
    monkeypatch.setattr(plan_module, "free_memory", lambda device: None)
    assert Trainer(tiny_config(), tmp_path).plan().lines()[-1].endswith("activations)")


ALWAYS = ("adain", "residual")


def test_kernels_and_why() -> None:
    with use_backend("reference"):
        used = plan_module.kernels_in_use("cpu", ALWAYS)
    assert set(used) == {"adain", "residual"}
    assert used["adain"] == {"backend": "reference (plain torch)", "why": "because use_backend demands it"}
    assert set(plan_module.kernels_in_use("cpu", (*ALWAYS, "modulation"))) == {"adain", "residual", "modulation"}


def test_kernels_where_the_native_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {
        "chosen": "reference",
        "available": {"reference": True, "compiled": False},
        "why": "the fastest that is there; compiled: m2o_fast._C was not built",
    }
    monkeypatch.setattr(plan_module, "forced_backend", lambda: None)
    monkeypatch.setattr(plan_module, "backends", lambda: dict.fromkeys(sum(FAMILIES, ()), {"cpu": facts}))
    used = plan_module.kernels_in_use("cpu", ALWAYS)
    expected = {"backend": "reference (plain torch)", "why": "because of compiled: m2o_fast._C was not built"}
    assert used == {"adain": expected, "residual": expected}


def test_a_demand_that_cannot_be_met_is_an_error_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"chosen": "triton", "available": {"triton": False}, "why": "demanded, but not available: no triton"}
    monkeypatch.setattr(plan_module, "backends", lambda: dict.fromkeys(sum(FAMILIES, ()), {"cpu": facts}))
    with pytest.raises(UserError, match="adain_act on cpu: demanded, but not available: no triton"):
        plan_module.kernels_in_use("cpu", ALWAYS)


FAMILIES = list(plan_module._FAMILIES.values())


def test_kernels_demanded_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2O_BACKEND", "reference")
    with use_backend("reference"):  # as the variable does where it is there at the start
        assert plan_module.kernels_in_use("cpu", ["adain"])["adain"]["why"] == "because M2O_BACKEND=reference"


def test_a_run_begins_with_its_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train(tiny_config("steps=7", "log_every=7"), run)
    lines = capsys.readouterr().out.splitlines()
    starts = ["hms on digits", "device: ", "kernels: ", "parameters: ", "memory: ", "run folder: ", "expected time: "]
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=False)] == [True] * len(starts)
    assert "as in steps 2 to 5" in lines[6]
    train(tiny_config("steps=8"), run, "auto")
    lines = capsys.readouterr().out.splitlines()
    assert lines[6] == f"going on from {run / 'checkpoints' / 'step-00000007'}, step 7"
    assert not any("expected time" in line for line in lines), "one step is no time to speak of"


# --- pace ---


def test_pace_is_the_median_without_the_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(tiny_config("steps=7200"), tmp_path)
    clock = [0.0]
    seconds = iter([50.0, 9.0, 1.0, 2.0, 30.0])
    monkeypatch.setattr(pace_module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(trainer, "advance", lambda log: clock.__setitem__(0, clock[0] + next(seconds)))
    pace = measure_pace(trainer, steps=3, warm_up=2)
    assert pace == Pace(2.0, 4 / 2.0, 2.0 * 7200 / 3600, measured_steps=3, warm_up_steps=2)
    assert pace.steps_per_second == 0.5
    assert pace_line(pace) == (
        "expected time: 4.0 h at 2.0 img/s (0.50 steps/s), the median of 3 measured steps after 2 of warm-up"
    )


def test_pace_is_that_of_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is given to a GPU in no time; what it was given before the first one does not count."""
    trainer = Trainer(tiny_config(), tmp_path)
    device = FakeDevice(monkeypatch, pace_module, queued=100.0)
    monkeypatch.setattr(trainer, "settle", device.settle)
    monkeypatch.setattr(trainer, "advance", lambda log: device.queue(2.0))
    assert measure_pace(trainer, steps=2, warm_up=0).seconds_per_step == 2.0


def test_the_expected_time_of_a_run_is_that_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = FakeDevice(monkeypatch, runlog, queued=100.0)
    line = "expected time: {} at 4 img/s, as in steps {}"
    for total, warm_up, expected in (
        (100, 1, [line.format("15:50", "2 to 5")]),
        (100, 4, [line.format("15:20", "5 to 8")]),
        (5, 1, []),
    ):
        with runlog.RunLog(tmp_path, 0, total, 40, quiet=False, warm_up=warm_up, settle=device.settle) as log:
            for step in range(1, 10):
                device.queue(1000.0 if step <= warm_up else 10.0)
                log.advance(step)
        assert [line.partition(";")[0] for line in capsys.readouterr().out.splitlines()] == expected
    assert device.waits == 4, "a run of five steps has no expected time, so nothing to wait for"


class FakeDevice:
    """Work that a host has handed on and goes by only while it waits for it; tells the time of ``module``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType, queued: float) -> None:
        self.clock, self.queued, self.waits = 0.0, queued, 0
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.clock)

    def queue(self, seconds: float) -> None:
        self.queued += seconds

    def settle(self) -> None:
        self.clock, self.queued, self.waits = self.clock + self.queued, 0.0, self.waits + 1


def test_only_a_gpu_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, waited = Trainer(tiny_config(), tmp_path), []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    trainer.settle()
    trainer.device = torch.device("cuda", 1)
    trainer.settle()
    assert waited == [torch.device("cuda", 1)]


def test_pace_of_slow_steps_is_measured_no_longer_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(tiny_config(), tmp_path)
    clock = [0.0]
    monkeypatch.setattr(pace_module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(trainer, "advance", lambda log: clock.__setitem__(0, clock[0] + 60.0))
    pace = measure_pace(trainer, steps=20, warm_up=3, limit=5.0)
    assert (pace.seconds_per_step, pace.measured_steps, pace.warm_up_steps) == (60.0, 1, 0)


@pytest.mark.parametrize(("hours", "text"), [(0.01, "36 s"), (0.5, "30 min"), (1.9, "114 min"), (30.25, "30.2 h")])
def test_duration(hours: float, text: str) -> None:
    assert duration(hours) == text


def test_measuring_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan, pace = bench_training(tiny_config(), 2)
    assert (plan.batch_size, pace.measured_steps, pace.warm_up_steps) == (4, 2, 3)
    result = dry_run(tiny_config())
    assert result["settings"] == tiny_config().model_dump(mode="json")
    assert result["lines"][:4] == plan.lines()[:4]
    assert result["lines"][-1].startswith("expected time: ")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_would_go_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UserError("no data here")

    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", fail)
    assert dry_run(tiny_config()) == {"settings": tiny_config().model_dump(mode="json"), "problem": "no data here"}


def test_a_dry_run_takes_no_memory_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step is tried where the estimate is more than what is free: the system would end the process unsaid."""
    monkeypatch.setattr("m2o_fast.engine.pace.measure_pace", lambda *_: pytest.fail("a step was tried"))
    monkeypatch.setattr(plan_module, "free_memory", lambda device: 1000)
    result = dry_run(tiny_config())
    assert "problem" not in result and result["pace"] is None
    needs = r"a step needs about \d+\.\d GB more than are free"
    assert re.fullmatch(f"expected time: not measured, as {needs}", result["lines"][-1])
    with pytest.raises(UserError, match=rf"{needs}: raise accumulate \(now 1\)"):
        bench_training(tiny_config(), 2)
    with monkeypatch.context() as elsewhere:  # another process lacks more than this one
        elsewhere.setattr(Processes, "agree_on_largest", lambda self, number: 3_000_000_000)
        assert "a step needs about 3.0 GB more than are free" in dry_run(tiny_config())["lines"][-1]
    memory = result["plan"]["memory"]
    there = memory["weights"] + memory["averages"]
    for free, lacking in ((memory["total"] - there, 0), (memory["total"] - there - 1, 1)):
        monkeypatch.setattr(plan_module, "free_memory", lambda device, free=free: free)
        assert Trainer(tiny_config(), Path("nowhere")).plan().lacking == lacking


def test_a_dry_run_says_where_training_would_not_begin(
    trained: Callable[[Path, int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path / "run", 2)
    before = contents(run)
    assert "is a run already" in dry_run(tiny_config("steps=2"), run)["problem"]
    assert "trained with other settings" in dry_run(tiny_config("seed=5"), run, "auto")["problem"]
    assert "more than the 1 asked for" in dry_run(tiny_config("steps=1"), run, "auto")["problem"]
    assert "no such folder" in dry_run(tiny_config(), None, "elsewhere")["problem"]
    assert "problem" not in dry_run(tiny_config("steps=4"), run, "auto")
    assert contents(run) == before
    monkeypatch.setattr("m2o_fast.engine.tensorboard.importlib.util.find_spec", lambda name: None)
    assert "tensorboard is not installed" in dry_run(tiny_config("tensorboard=true"))["problem"]

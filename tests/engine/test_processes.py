"""Several processes train what one would: same numbers, one run folder, one end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import free_port, together
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from source_tree import ROOT
from tiny import contents

from m2o_fast.cli import main
from m2o_fast.data import rows_of_share
from m2o_fast.data.sampler import _plan
from m2o_fast.engine.config import load_config
from m2o_fast.engine.processes import joined_processes
from m2o_fast.engine.trainer import Trainer

SIZES = ("base_width=4", "max_width=8", "hidden_dim=32", "style_dim=8", "latent_dim=8")
SETTINGS = [word for size in SIZES for word in ("--set", f"model.{size}")]

ITERATIONS = 8
#: The command line, in which each process is killed in the middle of a step, once.
KILLED = """
import os, signal, sys
from pathlib import Path
from m2o_fast.cli import main
from m2o_fast.engine.trainer import Trainer
batch, moments = Trainer.batch, {1: 3, 0: 5}

def deadly(self, step):
    marker = Path(f"killed-{self.processes.rank}")
    if step == moments[self.processes.rank] and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return batch(self, step)

Trainer.batch = deadly
sys.exit(main(sys.argv[1:]))
"""


def start(count: int, *command: str) -> list[subprocess.Popen[str]]:
    """The same Python command in ``count`` processes, as a launcher starts them."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def outcomes(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each."""
    printed = [process.communicate(timeout=600) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, printed, strict=True)]


def training(run: Path, *more: str) -> list[str]:
    pace = ("batch_size=4", "checkpoint_every=2", "sample_every=4", "log_every=1", "keep_checkpoints=0", "threads=1")
    given = [word for setting in pace for word in ("--set", setting)]
    return ["train", "--steps", "8", "--device", "cpu", *given, *SETTINGS, "--run-dir", str(run), *more]


def started_training(run: Path) -> list[subprocess.Popen[str]]:
    """Two processes that have done a step of a long training."""
    processes = start(2, "-m", "m2o_fast.cli", *training(run, "--set", "steps=100000"))
    assert processes[0].stdout is not None
    next(line for line in processes[0].stdout if line.startswith("step "))
    return processes


def iterations(out: Path, assignments: list[str], count: int) -> int:
    """Some iterations in float64; the leading process leaves the weights and the losses of the whole batch."""
    with joined_processes() as processes:
        config = load_config(assignments=[*assignments, "batch_size=8", "device=cpu", "threads=1"])
        trainer = Trainer(config, Path("nowhere"), processes=processes)
        for net in (trainer.translator, trainer.averaged):
            net.double()
        losses = []
        for step in range(count):
            parts = [part.to(dtype=torch.float64) for part in trainer.batch(step)]
            losses.append(trainer._read(trainer.stepper(parts, step)))
        if processes.leads:
            nets = {"nets": trainer.translator, "averaged": trainer.averaged}
            tensors = {f"{name}/{key}": value for name in nets for key, value in nets[name].state_dict().items()}
            save_file(tensors, out.with_suffix(".safetensors"))
            out.with_suffix(".json").write_text(json.dumps(losses))
    return 0


@given(
    ways=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, unique=True),
    shares=st.integers(1, 4), size=st.integers(1, 12), step=st.integers(0, 10_000),
)  # fmt: skip
def test_shares_have_the_rows_of_their_samples(ways: list[tuple[int, int]], shares: int, size: int, step: int) -> None:
    batch_size = size * shares
    targets = _plan(step * batch_size, batch_size, ways).targets
    whole = sorted(range(batch_size), key=lambda sample: targets[sample])  # sorted keeps the order of equals
    for share in range(shares):
        own = _plan((step * shares + share) * size, size, ways).targets
        mine = sorted(range(size), key=lambda sample: own[sample])
        rows = rows_of_share(step, batch_size, ways, share, shares).tolist()
        assert [whole[row] for row in rows] == [share * size + sample for sample in mine]


@pytest.mark.slow  # test_promises.py does the same with each system
@pytest.mark.parametrize(
    ("variant", "style_op", "parts"), [("hmu", "demod", 2), ("hms", "adain", 1), ("starganv2", "adain", 1)]
)
def test_two_processes_do_what_one_does(variant: str, style_op: str, parts: int, tmp_path: Path) -> None:
    """In float64, to rounding. At a learning rate of 1e-3, training itself enlarges rounding errors fourfold per step.

    Without weight decay: a bias in front of an instance norm has a gradient of 0, so of rounding noise plus weight
    decay, and Adam would enlarge the noise. Such a bias changes no image.
    """
    settings = [f"variant={variant}", f"model.style_op={style_op}", "optim.weight_decay=0", "optim.lr=1e-5"]
    settings += [f"model.{size}" for size in SIZES]
    for count, words in ((1, []), (2, [f"accumulate={parts}"])):
        ended = together(count, tmp_path, iterations, tmp_path / str(count), [*settings, *words], ITERATIONS)
        assert [outcome.code for outcome in ended] == [0] * count, ended
    one, two = (load_file(tmp_path / f"{count}.safetensors") for count in (1, 2))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-9, msg=name)
    for first, second in zip(*(json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 2)), strict=True):
        assert first == pytest.approx(second, rel=1e-7, abs=1e-9)


def test_leading_process_alone_writes_and_speaks(tmp_path: Path) -> None:
    (code, said, errors), (other_code, other_said, other_errors) = together(
        2, tmp_path, main, training(tmp_path / "run")
    )
    assert (code, other_code) == (0, 0), errors + other_errors
    assert "2 processes x 2" in said and "1 thread each" in said and "Done: 8 steps" in said
    assert other_said == other_errors == ""
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 8


@pytest.mark.slow
def test_signal_to_one_process_stops_all_and_saves(tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = started_training(run)
    processes[1].send_signal(signal.SIGTERM)
    (code, said, errors), (other_code, *_) = outcomes(processes)
    assert (code, other_code) == (143, 143), errors
    assert "Stopped and saved at step" in said
    assert list((run / "checkpoints").glob("step-*"))


@pytest.mark.slow
def test_process_that_loses_another_says_so_and_keeps_what_is_saved(tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = started_training(run)
    processes[1].kill()
    (code, _, errors), _ = outcomes(processes)
    assert code == 2
    assert "process 0 of 2 has lost the others" in errors and "--resume auto" in errors
    assert load_config(run / "config.yaml").steps == 100_000


def test_mistakes_end_all_processes_with_one_message(tmp_path: Path) -> None:
    settings = training(tmp_path / "run", "--set", "batch_size=3")
    (code, _, errors), (other_code, _, other_errors) = together(2, tmp_path, main, settings)
    assert (code, other_code) == (2, 2)
    assert errors.count("batch_size 3 cannot be shared among 2 processes") == 1
    assert other_errors == ""


@pytest.mark.slow
def test_killed_processes_are_restarted_and_the_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """First the other process dies, then the leading one."""
    whole = start(2, "-m", "m2o_fast.cli", *training(tmp_path / "whole"))
    assert [code for code, *_ in outcomes(whole)] == [0, 0]
    (tmp_path / "killed.py").write_text(KILLED)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, "killed.py", *training(Path("broken"), "--resume", "auto")],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed-0").exists() and (tmp_path / "killed-1").exists()
    assert contents(tmp_path / "whole") == contents(tmp_path / "broken")

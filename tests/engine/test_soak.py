"""A long run holds no more memory and files in the end than after its warm-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LONG = """
import json, os, re, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
import m2o_fast.engine.build as build
from m2o_fast.engine.loop import train
from m2o_fast.engine.trainer import Trainer
from tiny import tiny_config, tiny_digits

build.open_dataset = tiny_digits
torch.set_num_threads(1)
batch, seen = Trainer.batch, []

def measured(self, step):
    if step % 500 >= 450 and step % 5 == 0:
        status = Path("/proc/self/status").read_text()
        memory = int(re.search(r"VmRSS:\\s*(\\d+)", status)[1])
        files, threads = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
        seen.append({"step": step, "kB": memory, "files": files, "threads": threads})
    return batch(self, step)

Trainer.batch = measured
pace = ("steps=2000", "checkpoint_every=50", "sample_every=100", "log_every=10", "threads=1")
train(tiny_config(*pace), Path(sys.argv[2]), quiet=True)
print(json.dumps(seen))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads Linux's own count of memory and files")
def test_memory_and_files_stay_the_same_over_2000_steps(tmp_path: Path) -> None:
    """With 40 checkpoints, 20 sample grids and 200 lines of the log."""
    done = subprocess.run(
        [sys.executable, "-c", LONG, str(Path(__file__).parent), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    first, last = ([at for at in seen if at["step"] // 500 == quarter] for quarter in (0, 3))
    assert len(first) == len(last) == 10
    # The least of ten: memory comes and goes by a percent while checkpoints are written.
    assert min(at["kB"] for at in last) < 1.01 * min(at["kB"] for at in first), seen
    assert {(at["files"], at["threads"]) for at in last} == {(at["files"], at["threads"]) for at in first}, seen

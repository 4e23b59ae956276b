"""Systems x variants, equal steps or equal time, and seeds: trains, measures, and writes docs/results.md.

    python benchmarks/ablation.py [--data digits] [--steps N] [--seeds 1 2 3] [--jobs 2]
    python benchmarks/ablation.py --seconds 400    # as many steps as a row takes in that processor time, measured first
    python benchmarks/ablation.py --systems cyclegan pix2pix --variants plain hms --seeds 1
    python benchmarks/ablation.py --systems starganv2 --variants hms --paths fast plain    # is quality paid for speed?

Each system has its preset for the data; variants that it refuses are left out. A path is how the numbers are computed:
`fast` with the fused operations, `plain` with those of torch (M2O_BACKEND=reference), `bf16` as fast with
--precision bf16.

Every run is one `m2o-fast train` and one `m2o-fast eval` in a process of its own with one thread, in a folder named
after its settings; runs that are measured are not trained again, others are gone on with. Figures are kept in
benchmarks/results/ablation-<data>.json for the first system, ablation-<data>-systems.json for all of them, with the
names of the systems for others; -paths is added with several paths, -<n>s with --seconds. The settings they belong to
lie beside them: what such a file holds already is not trained again either.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from publish import commit, write_record
from pydantic import ValidationError
from results_page import PATHS, RESULTS, ROOT, label, write_page

from m2o_fast.engine.config import dump_config, load_config
from m2o_fast.engine.device import cpu_model
from m2o_fast.engine.schema import Config
from m2o_fast.m2o import VARIANTS
from m2o_fast.translators import NAMES, short_name, system

WARM_UP, TIMED = 3, 20  # steps


class Run(NamedTuple):
    """What is trained once."""

    system: str
    variant: str
    path: str
    seed: int


def main() -> None:
    """Runs what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, default=2000)
    budget.add_argument("--seconds", type=int, help="processor time that the steps of a run may take")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--systems", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--paths", nargs="+", choices=list(PATHS), default=["fast"])
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="runs at the same time")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "ablation")
    options = parser.parse_args()
    if len(options.paths) > 1 and ("plain" not in options.paths or len(options.seeds) < 2):
        parser.error("paths are compared with plain, in its standard deviations: --paths plain ..., and two --seeds")
    if options.seconds and options.paths != ["fast"]:
        parser.error("paths are compared at equal steps: --paths with --steps")
    runs = [
        Run(name, variant, path, seed)
        for seed in options.seeds
        for path in options.paths
        for name in options.systems
        for variant in options.variants
        if variant in system(name).variants
    ]
    suffix = of_systems(options.systems) + "-paths" * (len(options.paths) > 1)
    suffix += f"-{options.seconds}s" if options.seconds else ""
    file = RESULTS / f"ablation-{options.data}{suffix}.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    steps = [steps_of(run, options, known) for run in runs]
    amount = {"seconds": options.seconds} if options.seconds else {"steps": options.steps}
    settings = {
        label(run._asdict()): config_of(run, options.data, count).model_dump(mode="json")
        for run, count in zip(runs, steps, strict=True)
    }
    # A process for each run: its processor time is its own, and so is the backend that it imports.
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        results = list(pool.map(partial(measure, options=options, known=known), runs, steps))
    record = {"data": options.data, **amount, "settings": settings, "runs": results}
    write_record(file, record)
    write_page()


def of_systems(chosen: Sequence[str]) -> str:
    """What the file's name says of the systems in it, so that no record takes the place of another."""
    if set(chosen) == set(NAMES):
        return "-systems"
    return "" if list(chosen) == [NAMES[0]] else "-" + "-".join(sorted(chosen))


def config_of(run: Run, data: str, steps: int) -> Config:
    """The settings of a run: the preset of its system for the data, and what all runs have in common."""
    common = {"data.name": data, "steps": steps, "seed": run.seed, "threads": 1, "device": "cpu"}
    precision = "bf16" if run.path == "bf16" else "fp32"
    chosen = {"system": run.system, "variant": run.variant, "precision": precision}
    return load_config(overrides=common | chosen)


def steps_of(run: Run, options: argparse.Namespace, known: dict[str, Any]) -> int:
    """Of a run: the same for all seeds, kept so that all are begun with it."""
    if not options.seconds:
        return int(options.steps)
    row = label(run._asdict())
    if row in settings_of(known):
        return int(settings_of(known)[row]["steps"])
    file = options.runs / f"{row}-{options.data}-{options.seconds}s.steps"
    if not file.exists():
        options.runs.mkdir(parents=True, exist_ok=True)
        seconds = cost(config_of(run, options.data, 1000))["seconds_per_step"]
        write_record(file, max(1, int(options.seconds / seconds)))
    return int(json.loads(file.read_text()))


def settings_of(record: dict[str, Any]) -> dict[str, Any]:
    """Of a record, by row; early ones kept them as text."""
    settings = record.get("settings", {})
    return settings if isinstance(settings, dict) else {}


def measure(run: Run, steps: int, options: argparse.Namespace, known: dict[str, Any]) -> dict[str, Any]:
    """One run, trained (or gone on with) and evaluated, if that was not done before."""
    os.environ |= {"OMP_NUM_THREADS": "1"} | ({"M2O_BACKEND": "reference"} if run.path == "plain" else {})
    config = config_of(run, options.data, steps)
    result = recorded(run, config, known) or trained(run, config, options.seconds, options.runs)
    print(f"{label(result)}, seed {run.seed}: {result['directions']}, {result['cost']}", flush=True)
    return result


def recorded(run: Run, config: Config, known: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier record holds of a run with these settings."""
    settings = settings_of(known).get(label(run._asdict()))
    try:
        same = settings is not None and type(config).model_validate(settings | {"seed": run.seed}) == config
    except ValidationError:  # what was a setting is none any more
        same = False
    if not same:
        return None
    return next((found for found in known["runs"] if found | run._asdict() == found), None)


def trained(run: Run, config: Config, seconds: int | None, runs: Path) -> dict[str, Any]:
    """What a run's folder holds of it, after it was trained if need be."""
    settings = dump_config(config)
    # Runs of other settings must not end up in the same table.
    name = f"{short_name(run.system, run.variant)}-{config.data.name}-{run.path}-{run.seed}"
    folder = runs / f"{name}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
    measured = folder / "ablation.json"
    if not measured.exists():
        runs.mkdir(parents=True, exist_ok=True)
        file = folder.with_suffix(".yaml")
        file.write_text(settings)
        command("train", "--config", str(file), "--run", str(folder), "--resume", "auto", "--quiet")
        found = json.loads(command("eval", str(folder), "--json", "--quiet"))
        kept = {name: found[name] for name in ("directions", "protocol")}
        took = cost(config) | ({"steps": config.steps} if seconds else {})
        write_record(measured, {**run._asdict(), **made_by(), **kept, "cost": took})
    result: dict[str, Any] = json.loads(measured.read_text())
    return result


def cost(config: Config) -> dict[str, float]:
    """Parameters of all nets, and processor time of a training step: the median of a few, of fresh nets."""
    from m2o_fast.engine.runlog import Log
    from m2o_fast.engine.step import group_sizes
    from m2o_fast.engine.trainer import Trainer

    trainer = Trainer(config, Path("nowhere"))
    seconds = []
    for _ in range(WARM_UP + TIMED):
        started = time.process_time()
        trainer.advance(Log())
        seconds.append(time.process_time() - started)
    sizes = group_sizes(trainer.translator).values()
    return {"parameters": sum(sizes), "seconds_per_step": statistics.median(seconds[WARM_UP:])}


def made_by() -> dict[str, str]:
    """What stands with each run, for those of one table may have been made at different commits."""
    machine = f"{os.cpu_count()} cores, {cpu_model() or platform.machine()}"
    return {"machine": machine, "torch": metadata.version("torch"), "commit": commit()}


def command(*words: str) -> str:
    """Output of an m2o-fast command; its errors go to the terminal."""
    done = subprocess.run([sys.executable, "-m", "m2o_fast.cli", *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"m2o-fast {' '.join(words)}: exit code {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()

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
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from publish import write_record
from results_page import PATHS, RESULTS, ROOT, label, write_page
from trials import Trial, cost, recorded, settings_of, trained
from trials import made_by as made_by  # recall_study.py, of which a record holds the hash, looks for it here

from m2o_fast.engine.config import load_config
from m2o_fast.engine.schema import Config
from m2o_fast.m2o import VARIANTS
from m2o_fast.translators import NAMES, short_name, system


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


def measure(run: Run, steps: int, options: argparse.Namespace, known: dict[str, Any]) -> dict[str, Any]:
    """One run, trained (or gone on with) and evaluated, if that was not done before."""
    os.environ |= {"OMP_NUM_THREADS": "1"} | ({"M2O_BACKEND": "reference"} if run.path == "plain" else {})
    config = config_of(run, options.data, steps)
    trial = trial_of(run, config)
    name = f"{short_name(run.system, run.variant)}-{config.data.name}-{run.path}-{run.seed}"
    result = recorded(trial, known) or trained(trial, options.runs, name, timed=bool(options.seconds))
    print(f"{label(result)}, seed {run.seed}: {result['directions']}, {result['cost']}", flush=True)
    return result


def trial_of(run: Run, config: Config) -> Trial:
    """The same for what all such commands share."""
    return Trial(label(run._asdict()), run._asdict(), config)


if __name__ == "__main__":
    main()

"""What the commands that compare settings share: every trial is trained and measured once, and never again.

A trial is one `m2o-fast train` and one `m2o-fast eval` with one thread, in a folder named after its settings. One that
is measured is not trained again, one that was stopped is gone on with, and what a record in benchmarks/results/ holds
of equal settings is taken from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from publish import commit, write_record
from pydantic import ValidationError

from m2o_fast.engine.config import dump_config
from m2o_fast.engine.device import cpu_model
from m2o_fast.engine.schema import Config

WARM_UP, TIMED = 3, 20  # steps


class Trial(NamedTuple):
    """What is trained once.

    Attributes:
        row: Under which its settings stand in the record; those of all seeds are the same but for the seed.
        facts: What tells it from the others of its record.
        config: Its settings.
    """

    row: str
    facts: dict[str, Any]
    config: Config


def settings_of(record: dict[str, Any]) -> dict[str, Any]:
    """Of a record, by row; early ones kept them as text."""
    settings = record.get("settings", {})
    return settings if isinstance(settings, dict) else {}


def recorded(trial: Trial, known: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier record holds of a trial with these settings."""
    settings, config = settings_of(known).get(trial.row), trial.config
    try:
        same = settings is not None and type(config).model_validate(settings | {"seed": config.seed}) == config
    except ValidationError:  # what was a setting is none any more
        same = False
    if not same:
        return None
    return next((found for found in known["runs"] if found | trial.facts == found), None)


def trained(trial: Trial, runs: Path, name: str, *, timed: bool = False) -> dict[str, Any]:
    """What a trial's folder, whose name begins with ``name``, holds of it, after it was trained if need be."""
    config = trial.config
    settings = dump_config(config)
    # Runs of other settings must not end up in the same table.
    folder = runs / f"{name}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
    measured = folder / "ablation.json"
    if not measured.exists():
        runs.mkdir(parents=True, exist_ok=True)
        file = folder.with_suffix(".yaml")
        file.write_text(settings)
        command("train", "--config", str(file), "--run", str(folder), "--resume", "auto", "--quiet")
        found = json.loads(command("eval", str(folder), "--json", "--quiet"))
        kept = {name: found[name] for name in ("directions", "protocol")}
        took = cost(config) | ({"steps": config.steps} if timed else {})
        write_record(measured, {**trial.facts, **made_by(), **kept, "cost": took})
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

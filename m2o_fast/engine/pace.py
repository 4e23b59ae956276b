"""How fast a configuration trains on this machine, from a few steps that leave nothing behind; and the dry run."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2o_fast.data.cache import Report, silent
from m2o_fast.engine.memory import explains_out_of_memory, too_little
from m2o_fast.engine.plan import Plan
from m2o_fast.engine.precision import float32_products
from m2o_fast.engine.processes import Processes, joined_processes
from m2o_fast.engine.runlog import Log
from m2o_fast.engine.runs import RUNS
from m2o_fast.engine.schema import Config
from m2o_fast.engine.start import Start, as_kept, check_claim, check_settings, check_shares, find_start
from m2o_fast.engine.trainer import Trainer
from m2o_fast.errors import UserError

WARM_UP = 3
#: a dry run measures no longer than this, but one step at least
_DRY_SECONDS = 3.0
#: a folder that is not there, for a trainer that never saves
_NOWHERE = Path("nowhere") / "at-all"


@dataclass(frozen=True)
class Pace:
    """How fast training goes.

    Attributes:
        seconds_per_step: Median over the measured steps.
        images_per_second: Source images, of all processes together.
        hours: What all steps of the configuration take at this pace, without checkpoints and samples.
        measured_steps: How many steps were measured.
        warm_up_steps: How many steps before them were not.
    """

    seconds_per_step: float
    images_per_second: float
    hours: float
    measured_steps: int
    warm_up_steps: int

    @property
    def steps_per_second(self) -> float:
        """Training iterations per second."""
        return 1 / self.seconds_per_step

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {**vars(self), "steps_per_second": self.steps_per_second}


def measure_pace(trainer: Trainer, steps: int, warm_up: int, limit: float | None = None) -> Pace:
    """Trains a few steps and times them; the trainer's nets are worth nothing afterwards.

    Every step is timed until the device has done it: on a GPU rather too long, as training draws batches meanwhile.

    Args:
        trainer: What is measured.
        steps: Steps to measure.
        warm_up: Steps before them.
        limit: Seconds after which no further step is begun; where not even a step behind the warm-up was done by
            then, the last one of the warm-up counts.
    """
    seconds: list[float] = []
    trainer.settle()
    began = time.perf_counter()
    while len(seconds) < warm_up + steps:
        started = time.perf_counter()
        trainer.advance(Log())
        trainer.settle()
        seconds.append(time.perf_counter() - started)
        late = limit is not None and time.perf_counter() - began > limit
        if trainer.processes.agree_on_largest(int(late)):
            break
    measured = seconds[warm_up:] or seconds[-1:]
    median = statistics.median(measured)
    config = trainer.config
    return Pace(
        seconds_per_step=median,
        images_per_second=config.batch_size / median,
        hours=median * config.steps / 3600,
        measured_steps=len(measured),
        warm_up_steps=len(seconds) - len(measured),
    )


def bench_training(config: Config, steps: int, report: Report = silent) -> tuple[Plan, Pace] | None:
    """The pace of a configuration on this machine. Writes nothing.

    Args:
        config: What would be trained.
        steps: Steps to measure, after a warm-up.
        report: Called with a line of text while images are decoded.

    Returns:
        What was trained and how fast; ``None`` in all processes but the leading one.

    Raises:
        UserError: It cannot be trained here: no data, no device, too little memory.
    """
    with joined_processes() as processes:
        with processes.at_once():
            check_shares(config, processes)
        plan, pace = _rehearse(config, _NOWHERE, Start(), processes, report, steps, WARM_UP)
        if isinstance(pace, str):
            raise too_little(config, _NOWHERE, pace)
        return (plan, pace) if processes.leads else None


def dry_run(
    config: Config, run: Path | None = None, resume: str = "never", report: Report = silent
) -> dict[str, Any] | None:
    """What training with a configuration would do. Writes nothing.

    Args:
        config: What to train.
        run: Run folder, as for :func:`m2o_fast.engine.loop.train`.
        resume: Where to go on from, as there. The expected time is that of all steps all the same.
        report: Called with a line of text while images are decoded.

    Returns:
        ``settings``, nested; ``plan`` and ``pace`` as JSON values, and ``lines``, the same for people; where
        training would fail, ``problem`` in place of these. ``pace`` is ``None`` where a step is estimated to need more
        memory than is free: it is not tried. ``None`` in all processes but the leading one.
    """
    result: dict[str, Any] = {"settings": config.model_dump(mode="json")}
    with joined_processes() as processes:
        try:
            folder = run or _NOWHERE
            with processes.at_once():
                check_settings(config, processes)
                config = as_kept(config, folder)
                start = find_start(config, folder, resume)
                check_claim(run or RUNS)
            plan, pace = _rehearse(config, _NOWHERE, start, processes, report, 3, 1, _DRY_SECONDS)
        except UserError as error:
            if not processes.leads:
                raise
            result |= {"problem": str(error)}
        else:
            values = None if isinstance(pace, str) else pace.as_json()
            time_line = f"expected time: not measured, as {pace}" if isinstance(pace, str) else pace_line(pace)
            result |= {"plan": plan.as_json(), "pace": values, "lines": [*plan.lines(), time_line]}
        return result if processes.leads else None


@explains_out_of_memory
def _rehearse(
    config: Config,
    run: Path,
    start: Start,
    processes: Processes,
    report: Report,
    steps: int,
    warm_up: int,
    limit: float | None = None,
) -> tuple[Plan, Pace | str]:
    """The plan, and the pace, or why no step is tried."""
    with processes.at_once():
        report = report if processes.leads else silent
        trainer = Trainer(config, run, start, processes, report)
        trainer.step = max(trainer.step, config.optim.pretraining())  # what most steps are like
    with float32_products(config.precision):
        plan = trainer.plan()
        if lacking := processes.agree_on_largest(plan.lacking):  # else the system might end this process, or others
            return plan, f"a step needs about {lacking / 1e9:,.1f} GB more than are free"
        return plan, measure_pace(trainer, steps, max(warm_up, trainer.warm_up), limit)


def pace_line(pace: Pace) -> str:
    """The pace for people."""
    behind = f" after {pace.warm_up_steps} of warm-up" if pace.warm_up_steps else ""
    return (
        f"expected time: {duration(pace.hours)} at {pace.images_per_second:.1f} img/s "
        f"({pace.steps_per_second:.2f} steps/s), the median of {pace.measured_steps} measured steps{behind}"
    )


def duration(hours: float) -> str:
    """Hours in the unit that fits: seconds, minutes or hours."""
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h"

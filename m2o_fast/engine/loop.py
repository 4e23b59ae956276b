"""Training a run: from its start or from a checkpoint, alone or with other processes, to its end or to a stop."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from m2o_fast.data.cache import silent
from m2o_fast.engine.checkpoint import (
    read_manifest,
)
from m2o_fast.engine.memory import explains_out_of_memory
from m2o_fast.engine.precision import float32_products
from m2o_fast.engine.processes import Processes, joined_processes
from m2o_fast.engine.runlog import Log, RunLog, show
from m2o_fast.engine.runs import next_run, write_facts
from m2o_fast.engine.schema import Config, config_class
from m2o_fast.engine.signals import StopRequest
from m2o_fast.engine.start import (
    ANEW,
    Claim,
    Start,
    as_kept,
    check_settings,
    find_start,
    remove_unused,
)
from m2o_fast.engine.trainer import Trainer
from m2o_fast.errors import UserError


@dataclass(frozen=True)
class TrainResult:
    """How training ended.

    Attributes:
        run: The run folder.
        step: Steps that are done.
        exit_code: 0: all steps done; 130, 143 or 75: stopped by Ctrl-C, SIGTERM or SIGUSR1 after saving.
    """

    run: Path
    step: int
    exit_code: int


def train(
    config: Config, run: Path | None, resume: str = "never", quiet: bool = False, stop: StopRequest | None = None
) -> TrainResult:
    """Trains a run from its start or from a checkpoint; together with a launcher's other processes, if there are any.

    Args:
        config: What to train.
        run: Run folder. A new one is made; one that exists is only touched to go on with it. ``None``: a new one below
            ``runs/``.
        resume: ``"never"``; ``"auto"``: from the newest good checkpoint of ``run``; else the path of a checkpoint, or
            of a run whose newest one is taken.
        quiet: Show nothing but warnings.
        stop: Who listens for signals already; ``None``: nobody yet.

    Raises:
        UserError: The folder is in the way, the checkpoint does not fit or is damaged, or too many steps in a row were
            not finite.
        Stopped: A signal came before the first step; nothing was written.
    """
    with ExitStack() as outer, joined_processes() as processes, ExitStack() as cleanup:
        stop = stop or outer.enter_context(StopRequest(starting=True))
        if not processes.leads:
            return _train(*_follow(processes), quiet, processes, stop)
        try:
            check_settings(config, processes)
            if run is None:
                run = next_run(config)
                cleanup.callback(remove_unused, run)
            config = as_kept(config, run)
            start = find_start(config, run, resume)
            claim = cleanup.enter_context(Claim(run))
        except UserError as error:
            processes.tell({"error": str(error)})
            raise
        checkpoint = str(start.checkpoint) if start.checkpoint else None
        processes.tell({"config": config.model_dump(mode="json"), "run": str(run), "checkpoint": checkpoint})
        return _train(config, run, start, quiet, processes, stop, claim)


def _follow(processes: Processes) -> tuple[Config, Path, Start]:
    """What the leading process found out. Ends this process if that one ends with an error, which it will print."""
    heard = processes.tell(None)
    if "error" in heard:
        raise SystemExit(2)
    checkpoint = Path(heard["checkpoint"]) if heard["checkpoint"] else None
    start = Start(checkpoint, read_manifest(checkpoint)) if checkpoint else ANEW
    return config_class(heard["config"]["system"]).model_validate(heard["config"]), Path(heard["run"]), start


@explains_out_of_memory
def _train(
    config: Config,
    run: Path,
    start: Start,
    quiet: bool,
    processes: Processes,
    stop: StopRequest,
    claim: Claim | None = None,
) -> TrainResult:
    report = show if processes.leads and not quiet else silent
    with processes.at_once():
        trainer = Trainer(config, run, start, processes, report, claim)
    stop.begin(alone=processes.count == 1)
    log: Log = Log()
    if processes.leads:
        write_facts(config, run)
        log = RunLog(
            run,
            trainer.step,
            config.steps,
            config.batch_size,
            quiet=quiet,
            tensorboard=config.tensorboard,
            warm_up=trainer.warm_up + max(0, config.optim.pretraining() - trainer.step),
            settle=trainer.settle,
        )
    with log, float32_products(config.precision):
        for problem in start.problems:
            log.warn(problem)
        for line in [*trainer.plan().lines(), f"run folder: {run}"] if processes.leads and not quiet else []:
            log.say(line)
        if start.manifest.get("data", trainer.fingerprint) != trainer.fingerprint:
            log.warn("the training images are not those that this run was begun with; it goes on with the new ones")
        threads, before = torch.get_num_threads(), start.manifest.get("threads")
        if before not in (None, threads) and trainer.device.type == "cpu":
            log.warn(f"this run was trained with {before} threads, now with {threads}: from here on other last digits")
        if config.optim.pretraining() >= config.steps:
            log.warn(
                f"steps {config.steps}: all of them are pretraining, behind which the training proper begins; raise "
                f"steps above {config.optim.pretraining()}"
            )
        if start.checkpoint:
            log.say(f"going on from {start.checkpoint}, step {trainer.step}")
        trainer.run_until(config.steps, log, stop)
        if trainer.step < config.steps:
            log.say(f"Stopped and saved at step {trainer.step}. Go on with: m2o-fast train --run {run} --resume auto")
        else:
            log.say(f"Done: {trainer.step} steps in {run}. Measure it with: m2o-fast eval {run}")
    return TrainResult(run, trainer.step, stop.exit_code if trainer.step < config.steps else 0)

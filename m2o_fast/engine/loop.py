"""The training loop: batches, steps, log, samples, checkpoints, and every way a run can be stopped and go on."""

from __future__ import annotations

import copy
import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from m2o_fast.batch import Batch
from m2o_fast.data.files import replacing
from m2o_fast.engine.checkpoint import (
    checkpoint_folder,
    list_checkpoints,
    load_training,
    newest_checkpoint,
    remove_old_checkpoints,
    training_tensors,
    write_checkpoint,
)
from m2o_fast.engine.config import differences, dump_config, load_config
from m2o_fast.engine.runlog import RunLog, environment
from m2o_fast.engine.runs import (
    CONFIG,
    build_sampler,
    build_translator,
    choose_device,
    find_checkpoint,
    is_run,
    open_split,
)
from m2o_fast.engine.samples import SampleGrid
from m2o_fast.engine.schema import Config
from m2o_fast.engine.signals import StopRequest
from m2o_fast.engine.step import NonFinite, Stepper, group_sizes
from m2o_fast.errors import UserError
from m2o_fast.randomness import torch_generator

#: keys that may change when a run goes on: they say how long and where, not what is trained
FREE_KEYS = frozenset(
    {
        "steps",
        "checkpoint_every",
        "keep_checkpoints",
        "sample_every",
        "log_every",
        "device",
        "threads",
        "data.dir",
    }
)
SKIPS_IN_A_ROW = 10
LOCK = ".lock"


@dataclass(frozen=True)
class TrainResult:
    """How training ended.

    Attributes:
        run: The run folder.
        step: Steps that are done.
        exit_code: 0: all steps done; 130 or 143: stopped by Ctrl-C or SIGTERM after saving.
    """

    run: Path
    step: int
    exit_code: int


def train(config: Config, run: Path, resume: str = "never", quiet: bool = False) -> TrainResult:
    """Trains a run from its start or from a checkpoint.

    Args:
        config: What to train.
        run: Run folder. A new one is made; one that exists is only touched to go on with it.
        resume: ``"never"``; ``"auto"``: from the newest good checkpoint of ``run``; else the path of a checkpoint, or
            of a run whose newest one is taken.
        quiet: Show nothing but warnings.

    Raises:
        UserError: The folder is in the way, the checkpoint does not fit or is damaged, or too many steps in a row were
            not finite.
    """
    config = _with_fixed_schedule(config, run)
    start = _find_start(config, run, resume)
    with _claimed(run):
        return _train(config, run, start, quiet)


def _train(config: Config, run: Path, start: _Start, quiet: bool) -> TrainResult:
    trainer = Trainer(config, run, start.checkpoint, start.manifest)
    _write_facts(config, run)
    with RunLog(run, trainer.step, config.steps, config.batch_size, quiet=quiet) as log, StopRequest() as stop:
        for problem in start.problems:
            log.warn(problem)
        for line in trainer.banner(resumed=start.checkpoint):
            log.say(line)
        trainer.run_until(config.steps, log, stop)
        if trainer.step < config.steps:
            log.say(f"Stopped and saved at step {trainer.step}. Go on with: m2o-fast train --run {run} --resume auto")
        else:
            log.say(f"Done: {trainer.step} steps in {run}. Measure it with: m2o-fast eval {run}")
    return TrainResult(run, trainer.step, stop.exit_code if trainer.step < config.steps else 0)


# --- where to start ---


@dataclass(frozen=True)
class _Start:
    checkpoint: Path | None = None
    manifest: Mapping[str, Any] | None = None
    problems: tuple[str, ...] = ()


def _with_fixed_schedule(config: Config, run: Path) -> Config:
    """``config`` with the diversity schedule as a number, so that adding steps later does not stretch it."""
    if config.loss.diversity_steps is not None:
        return config
    steps = load_config(run / CONFIG).diversity_steps if is_run(run) else config.diversity_steps
    return config.model_copy(update={"loss": config.loss.model_copy(update={"diversity_steps": steps})})


@contextmanager
def _claimed(run: Path) -> Iterator[None]:
    """Makes the run folder if needed and keeps other processes from training in it at the same time."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = open(run / LOCK, "w")  # noqa: SIM115  (closed below, which also releases the lock)
    except OSError as error:
        raise UserError(f"{run}: cannot write the run folder: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{run}: another process is training this run; name another folder") from None
        yield


def _find_start(config: Config, run: Path, resume: str) -> _Start:
    if run.exists() and not run.is_dir():
        raise UserError(f"{run} is a file; name another run folder")
    if run.is_dir() and any(path.name != LOCK for path in run.iterdir()):
        if not is_run(run):
            raise UserError(f"{run} exists and is not a run (it has no {CONFIG}); name another folder")
        if resume == "never":
            raise UserError(f"{run} is a run already; add --resume auto to go on with it, or name another folder")
        _refuse_changes(config, run)
    if resume == "never":
        return _Start()
    if resume == "auto":
        found = newest_checkpoint(run)
    else:
        found = find_checkpoint(Path(resume))
    if found is None:
        return _Start()
    folder, manifest, problems = found
    _refuse_other_nets(config, folder, manifest)
    _refuse_lost_work(config, run, resume, folder, manifest["step"])
    return _Start(folder, manifest, tuple(f"{problem}; going on from {folder}" for problem in problems))


def _refuse_changes(config: Config, run: Path) -> None:
    changed = differences(load_config(run / CONFIG), config)
    refused = [f"{key}: {old!r} -> {new!r}" for key, (old, new) in changed.items() if key not in FREE_KEYS]
    if refused:
        raise UserError(
            f"{run} was trained with other settings: {'; '.join(refused)}. Leave them out to go on with it, or name "
            "another folder to train anew"
        )


def _refuse_other_nets(config: Config, checkpoint: Path, manifest: Mapping[str, Any]) -> None:
    if "optimizers.safetensors" not in manifest["files"]:
        raise UserError(f"{checkpoint} holds no training state (converted weights?); it can be used, not trained on")
    domains = open_split(config, "train").domains
    with torch.device("meta"):
        wanted = build_translator(config, domains).describe()
    saved = manifest["translator"]
    changed = [
        f"{part}.{key}: {saved[part].get(key)!r} -> {value!r}"
        for part in ("size", "rules")
        for key, value in json.loads(json.dumps(wanted[part])).items()
        if saved[part].get(key) != value
    ]
    if changed:
        raise UserError(f"{checkpoint} holds other nets than the settings describe: {'; '.join(changed)}")


def _refuse_lost_work(config: Config, run: Path, resume: str, checkpoint: Path, step: int) -> None:
    if step > config.steps:
        raise UserError(f"{checkpoint} has {step} steps done already, more than the {config.steps} asked for")
    newer = [folder.name for folder in list_checkpoints(run) if folder > checkpoint_folder(run, step)]
    if newer and resume != "auto":  # auto has passed over newer ones because they are damaged
        raise UserError(f"{run} has newer checkpoints ({', '.join(newer)}); name another folder with --run")


def _write_facts(config: Config, run: Path) -> None:
    try:
        for name, text in ((CONFIG, dump_config(config)), ("env.json", json.dumps(environment(), indent=1) + "\n")):
            with replacing(run / name) as file:
                file.write(text.encode())
    except OSError as error:
        raise UserError(f"{run}: cannot write the run folder: {error.strerror}") from None


# --- the loop ---


class Trainer:
    """The state of a run and the loop over its steps.

    Args:
        config: What to train.
        run: Run folder.
        checkpoint: Where to go on from; ``None`` starts anew.
        manifest: Manifest of that checkpoint.
    """

    def __init__(self, config: Config, run: Path, checkpoint: Path | None, manifest: Mapping[str, Any] | None) -> None:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.config, self.run = config, run
        self.device = choose_device(config.device)
        dataset = open_split(config, "train")
        self.translator = build_translator(config, dataset.domains).to(self.device)
        self.averaged = copy.deepcopy(self.translator).eval().requires_grad_(False)
        self.stepper = Stepper(self.translator, self.averaged, config.optim)
        self.sampler = build_sampler(config, dataset, self.translator.domains)
        self.samples = SampleGrid(open_split(config, "test"), self.translator, config.seed)
        self.images = dataset.count(0)
        self.step = self.skipped = self.skipped_in_a_row = 0
        self._saved_at: int | None = None
        if checkpoint is not None and manifest is not None:
            load_training(checkpoint, self.translator, self.averaged, self.stepper.optimizers)
            self.step = manifest["step"]
            self.skipped, self.skipped_in_a_row = manifest["skipped"], manifest["skipped_in_a_row"]
            self._saved_at = self.step if checkpoint == checkpoint_folder(run, self.step) else None

    def banner(self, resumed: Path | None) -> list[str]:
        """What is about to run, for the person who waits."""
        config, sizes = self.config, group_sizes(self.translator)
        lines = [
            f"{config.variant} on {config.data.name}: {self.images} images, {config.steps} steps of {config.batch_size}"
            f" on {self.device}, {torch.get_num_threads()} threads",
            "parameters: " + ", ".join(f"{name.replace('_', ' ')} {size:,}" for name, size in sizes.items()),
            f"run folder: {self.run}",
        ]
        return lines + ([f"going on from {resumed}, step {self.step}"] if resumed else [])

    def run_until(self, steps: int, log: RunLog, stop: StopRequest) -> None:
        """Trains until ``steps`` steps are done or a stop is requested, and saves."""
        while self.step < steps and stop.signal is None:
            values = self._advance(log)
            if self.step % self.config.log_every == 0 or self.step == steps:
                log.tick(self.step, {name: value.item() for name, value in values.items()}, self.skipped)
            if self.step % self.config.sample_every == 0 or self.step == steps:
                self._save_samples(log)
            # During a streak of skipped steps the weights may be on their way out: better keep what is saved.
            if self.step % self.config.checkpoint_every == 0 and self.step < steps and not self.skipped_in_a_row:
                self._save(log, last=False)
        self._save(log, last=True)

    def _advance(self, log: RunLog) -> dict[str, torch.Tensor]:
        started = time.perf_counter()
        batch = self.batch(self.step)
        log.waited(time.perf_counter() - started)
        values: dict[str, torch.Tensor] = {}
        try:
            values = self.stepper(batch, self.step)
            self.skipped_in_a_row = 0
        except NonFinite as error:
            self.skipped += 1
            self.skipped_in_a_row += 1
            self._complain(log, str(error))
        self.step += 1
        log.advance(self.step)
        return values

    def batch(self, step: int) -> Batch:
        """The batch of a step with its noise, on the device; a pure function of the seed and the step."""
        batch = self.sampler(step)
        noise = self.translator.noise(batch.size, torch_generator(self.config.seed, "noise", step))
        return replace(batch, noise=noise).to(self.device)

    def _complain(self, log: RunLog, phase: str) -> None:
        log.warn(f"step {self.step}: the loss of phase {phase} is not finite; the step is skipped")
        if self.skipped_in_a_row < SKIPS_IN_A_ROW:
            return
        found = newest_checkpoint(self.run)
        kept = f"the last checkpoint is {found[0]}" if found else "there is no checkpoint yet"
        raise UserError(
            f"{SKIPS_IN_A_ROW} steps in a row had a loss that is not finite (phase {phase}, step {self.step}); {kept}. "
            "Train anew with a lower optim.lr, or a higher loss.r1"
        )

    def _save_samples(self, log: RunLog) -> None:
        with _going_on(log):
            with replacing(self.run / "samples" / f"step-{self.step:08d}.png") as file:
                self.samples.draw(self.averaged).save(file, format="PNG")

    def _save(self, log: RunLog, *, last: bool) -> None:
        """Writes a checkpoint. A full disk does not end the run before its last step: older checkpoints stay."""
        if self._saved_at == self.step:
            return
        facts = {
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "translator": self.translator.describe(),
        }
        tensors = training_tensors(self.translator, self.averaged, self.stepper.optimizers)
        try:
            write_checkpoint(checkpoint_folder(self.run, self.step), tensors, facts)
            self._saved_at = self.step
            remove_old_checkpoints(self.run, self.config.keep_checkpoints)
        except OSError as error:
            message = f"step {self.step} could not be saved: {error.strerror or error}; older checkpoints are kept"
            if last:
                raise UserError(f"{message}. Make room, then: m2o-fast train --run {self.run} --resume auto") from None
            log.warn(message)


@contextmanager
def _going_on(log: RunLog) -> Iterator[None]:
    """Samples are for looking at: what keeps them from being written must not end a run."""
    try:
        yield
    except (OSError, ValueError) as error:
        log.warn(f"no sample grid: {error}; training goes on")

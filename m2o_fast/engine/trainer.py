"""The state of a run and the loop over its steps: batches, log, samples, validations, checkpoints."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from m2o_fast.batch import Batch
from m2o_fast.data.cache import Report, silent
from m2o_fast.data.one_look import one_look
from m2o_fast.engine.batches import Batches
from m2o_fast.engine.build import build_translator, check_listing, open_split
from m2o_fast.engine.checkpoint import (
    COUNTERS,
    checkpoint_folder,
    newest_checkpoint,
    read_manifest,
    remove_leftovers,
    remove_old_checkpoints,
    write_checkpoint,
)
from m2o_fast.engine.device import choose_device
from m2o_fast.engine.graphs import WARM_UP, CudaRecorder, GraphedStepper
from m2o_fast.engine.initial import begin_with
from m2o_fast.engine.plan import Plan, make_plan
from m2o_fast.engine.processes import Processes
from m2o_fast.engine.runlog import Log, going_on, going_on_without
from m2o_fast.engine.runs import is_run, write_facts
from m2o_fast.engine.samples import SampleGrid, in_evaluation
from m2o_fast.engine.schema import Config
from m2o_fast.engine.signals import StopRequest
from m2o_fast.engine.start import (
    ANEW,
    Claim,
    Start,
    check_batch_norm,
    check_device,
    check_nets,
    check_optimizers,
    check_schedule,
)
from m2o_fast.engine.step import Stepper, StepResult, compile_nets
from m2o_fast.engine.style_fitting import StyleFitting
from m2o_fast.engine.training_state import Training, load_training, optimizer_kinds, training_tensors
from m2o_fast.engine.validation import open_validation
from m2o_fast.engine.watch import StyleWatch
from m2o_fast.errors import UserError
from m2o_fast.files import replacing

SKIPS_IN_A_ROW = 10


class Trainer:
    """The state of a run and the loop over its steps.

    Args:
        config: What to train.
        run: Run folder.
        start: Where to go on from.
        processes: Those that train this run together; each does an equal share of every batch.
        report: Called with a line of text while images are decoded.
        claim: That of the process that writes the run folder.
    """

    @one_look()
    def __init__(
        self,
        config: Config,
        run: Path,
        start: Start = ANEW,
        processes: Processes | None = None,
        report: Report = silent,
        claim: Claim | None = None,
    ) -> None:
        self._claim = claim
        self.processes = processes or Processes()
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.config, self.run = config, run
        self.device = choose_device(config.device, self.processes)
        check_device(config, self.device, self.processes)
        check_batch_norm(config, self.processes)
        check_listing(config)
        dataset = open_split(config, "train", report=report)
        self.translator = build_translator(config, dataset.domains, dataset.sets).to(self.device)
        self._begun_with: tuple[str, ...] = ()
        if start.checkpoint is None and config.init_from is not None:
            self._begun_with = begin_with(self.translator, config.init_from)
        if start.checkpoint is not None:
            check_nets(self.translator.describe(), start.checkpoint, start.manifest)
        self.averaged = self.translator  # what samples are drawn with
        if self.translator.averaged_groups():
            self.averaged = copy.deepcopy(self.translator).eval().requires_grad_(False)
        optim = config.filled().optim
        self.stepper = Stepper(self.translator, self.averaged, optim, self.processes, config.precision)
        check_schedule(self.stepper, config.steps)
        self._advance: Callable[[Sequence[Batch], int], StepResult] = self.stepper
        #: first steps that take longer than the others
        self.warm_up = 1
        if config.cuda_graphs:
            self.warm_up = WARM_UP + 1  # then they are recorded
            self._advance = GraphedStepper(self.stepper, CudaRecorder(self.device))
        if config.compile:
            compile_nets(self.translator)
        self.batches = Batches(config, dataset, self.translator, self.processes, self.device)
        held_out = open_split(config, "test", report=report)
        self.samples = SampleGrid(held_out, self.translator, config.seed)
        self.watch = StyleWatch(held_out, self.translator, config)
        self.validation = None
        if self.processes.leads and config.validate_every:
            self.validation = open_validation(config, run, held_out, start.manifest.get("step", 0))
        at_once = 4 * config.batch_size // (config.accumulate * self.processes.count)  # no graphs are kept for these
        self._style_fitting = StyleFitting(dataset, config.seed, at_once)
        self.images = {domain.name: dataset.count(domain.name) for domain in dataset.domains}
        self.fingerprint, self.test_fingerprint = dataset.fingerprint, held_out.fingerprint
        self.step = self.skipped = self.skipped_in_a_row = 0
        self._unread: list[tuple[int, torch.Tensor]] = []  # steps whose outcome the host has not looked at
        self._saved_at: int | None = None
        if start.checkpoint is not None:
            check_optimizers(optimizer_kinds(self.stepper.optimizers), start.checkpoint, start.manifest)
            load_training(start.checkpoint, self._training())
            self.step, self.skipped, self.skipped_in_a_row = (start.manifest[key] for key in COUNTERS)
            self._saved_at = self.step if start.checkpoint == checkpoint_folder(run, self.step) else None
        self._fitted_at = self.step  # what a checkpoint holds is fitted

    def plan(self) -> Plan:
        """What is about to run."""
        # The estimate of memory runs the nets on a few images, which is not worth compiling them.
        with torch.compiler.set_stance("force_eager") if self.config.compile else nullcontext():
            return make_plan(self.config, self.translator, self.averaged, self.processes, self.images, self._begun_with)

    def run_until(self, steps: int, log: Log, stop: StopRequest) -> None:
        """Trains until ``steps`` steps are done or a stop is requested, and saves."""
        while self.step < steps and not self._must_stop(stop):
            result = self.advance(log)
            if self._due(self.config.log_every, steps):
                self._look_back(log)
                log.tick(self.step, self._read(result), self.skipped)
            if self._due(self.config.sample_every, steps):
                self._save_samples(log)
            if self.config.validate_every and self._due(self.config.validate_every, steps):
                self._look_back(log)
                self._validate(log)
            if self.step < steps and self._due(self.config.checkpoint_every, steps):
                self._look_back(log)
                # During a streak of skipped steps the weights may be on their way out: better keep what is saved.
                if not self.skipped_in_a_row:
                    self._save(log, last=False)
        self._look_back(log)
        self._save(log, last=True)

    def _due(self, every: int, steps: int) -> bool:
        return self.step % every == 0 or self.step == steps

    def _must_stop(self, stop: StopRequest) -> bool:
        """Whether any process was asked to; all of them stop at the same step."""
        agreed = self.processes.agree_on_largest(stop.signal or 0)
        if agreed:  # never None: a signal may have come in meanwhile, which the next step heeds
            stop.signal = agreed
        return bool(agreed)

    def _read(self, result: StepResult) -> dict[str, float]:
        """The losses as numbers, of the whole batch; none of a step that failed."""
        if result.failed:
            return {}
        together = torch.stack(list(result.losses.values()))
        self.processes.average([together])
        return dict(zip(result.losses, together.tolist(), strict=True))

    def advance(self, log: Log) -> StepResult:
        """Trains one step; nothing of its result has been read from the device yet."""
        started = time.perf_counter()
        parts = self.batch(self.step)
        log.waited(time.perf_counter() - started)
        result = self._advance(parts, self.step)
        self._unread.append((self.step, result.failed))
        self.step += 1
        log.advance(self.step)
        return result

    def batch(self, step: int) -> list[Batch]:
        """This process's share of the batches of a step, in parts."""
        return self.batches(step)

    def settle(self) -> None:
        """Waits until the device has done everything that it was given; for clocks."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _look_back(self, log: Log) -> None:
        """Counts the steps since the last look that failed. Only here the host waits for the device to have done them.

        Raises:
            UserError: Too many failed in a row.
        """
        numbers = torch.stack([failed for _, failed in self._unread]).tolist() if self._unread else []
        for (step, _), number in zip(self._unread, numbers, strict=True):
            self.skipped_in_a_row = self.skipped_in_a_row + 1 if number else 0
            if number:
                self.skipped += 1
                self._complain(log, step, self.translator.phases(step)[number - 1].name)
        self._unread.clear()

    def _complain(self, log: Log, step: int, phase: str) -> None:
        log.warn(f"step {step}: the loss of phase {phase} is not finite; the step is skipped")
        if self.skipped_in_a_row < SKIPS_IN_A_ROW:
            return
        if not self.processes.leads:  # all of them come here; one message is enough
            raise SystemExit(2)
        found = newest_checkpoint(self.run)
        kept = f"the last checkpoint is {found[0]}" if found else "there is no checkpoint yet"
        raise UserError(
            f"{SKIPS_IN_A_ROW} steps in a row had a loss that is not finite (phase {phase}; seed {self.config.seed} "
            f"and step {step} determine the batch); {kept}. Train anew with {self.config.facts.advice.not_finite}"
        )

    def _save_samples(self, log: Log) -> None:
        if not self.processes.leads:
            return
        with going_on(log):
            self._fit_styles(log)
            with in_evaluation(self.averaged):
                directions = self.samples.translate(self.averaged)
            picture = self.samples.draw(self.averaged, directions)
            with replacing(self.run / "samples" / f"step-{self.step:08d}.png") as file:
                picture.save(file, format="PNG")
            values = self.watch.measure(directions)
            log.sampled(self.step, values, picture)
            for warning in self.watch.alarms(self.step, values):
                log.warn(warning)

    def _validate(self, log: Log) -> None:
        if self.validation is None:  # the leading process alone has one
            return
        self._fit_styles(log)
        facts = {"step": self.step, "data": self.fingerprint, "test_data": self.test_fingerprint}
        # During a streak of skipped steps the weights may be on their way out: none are kept.
        self.validation.validate(self._training(), facts, log, keep=not self.skipped_in_a_row)

    def _save(self, log: Log, *, last: bool) -> None:
        """Writes a checkpoint. A full disk does not end the run before its last step: older checkpoints stay."""
        if self._saved_at == self.step or not self.processes.leads:
            return
        facts = {
            **dict(zip(COUNTERS, (self.step, self.skipped, self.skipped_in_a_row), strict=True)),
            "translator": self.translator.describe(),
            "optimizers": optimizer_kinds(self.stepper.optimizers),
            "data": self.fingerprint,
            "test_data": self.test_fingerprint,
            "threads": torch.get_num_threads(),
        }
        self._fit_styles(log)
        tensors = training_tensors(self._training())
        try:
            self._keep_folder(log)
            remove_leftovers(self.run)  # they take up room
            folder = write_checkpoint(checkpoint_folder(self.run, self.step), tensors, facts)
            read_manifest(folder)  # older ones go only when this one can be read
        except (OSError, UserError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            message = f"step {self.step} could not be saved: {reason}; older checkpoints are kept"
            if last:
                raise UserError(f"{message}. Make room, then: m2o-fast train --run {self.run} --resume auto") from None
            log.warn(message)
            return
        self._saved_at = self.step
        if self.skipped_in_a_row:  # at the end of a run that may not have been well: what was saved before it stays
            return
        try:
            remove_old_checkpoints(self.run, self.config.keep_checkpoints, self.step)
        except OSError as error:
            log.warn(f"old checkpoints could not be removed: {error}")

    def _fit_styles(self, log: Log) -> None:
        """Of the weights in use; a step undoes it, since buffers are copied from the nets that are trained."""
        if self._fitted_at == self.step:
            return
        self._fitted_at = self.step
        with going_on_without(f"step {self.step}: styles are not fitted", log), in_evaluation(self.averaged):
            self._style_fitting.fit(self.averaged, at_most=self.step * self.config.batch_size)

    def _training(self) -> Training:
        """What a checkpoint holds."""
        return Training(self.translator, self.averaged, self.stepper.optimizers, self.stepper.pools)

    def _keep_folder(self, log: Log) -> None:
        """Makes the run folder anew where it has gone: with a checkpoint alone nothing could be done."""
        if self._claim is not None and self._claim.renew():
            log.warn(f"{self.run} was removed or renamed while training; it is made anew without what was in it")
        if self._claim is not None and not is_run(self.run):  # also where writing it failed the last time
            write_facts(self.config, self.run)

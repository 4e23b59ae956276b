"""Whether and where a run starts: what is refused, a checkpoint that fits, and who may write its folder."""

from __future__ import annotations

import errno
import fcntl
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from m2o_fast.engine.build import build_translator, named_domains
from m2o_fast.engine.checkpoint import (
    MANIFEST,
    OPTIMIZERS,
    checkpoint_folder,
    described_translator,
    list_checkpoints,
    newest_checkpoint,
)
from m2o_fast.engine.config import differences, flatten, load_config
from m2o_fast.engine.device import choose_device
from m2o_fast.engine.graphs import check_cuda_graphs
from m2o_fast.engine.initial import pinned
from m2o_fast.engine.memory import free_memory
from m2o_fast.engine.precision import check_precision
from m2o_fast.engine.processes import Processes
from m2o_fast.engine.runs import CONFIG, RUNS, find_checkpoint, is_run
from m2o_fast.engine.schema import Config
from m2o_fast.engine.step import Stepper
from m2o_fast.engine.tensorboard import require_tensorboard
from m2o_fast.errors import UserError
from m2o_fast.files import no_links
from m2o_fast.m2o import Domain
from m2o_fast.nn.batch_norm import BatchNorm2d
from m2o_fast.nn.memoryless import memoryless

#: keys that may change when a run goes on: they say how long and where, not what is trained
FREE_KEYS = frozenset(
    {
        "steps",
        "checkpoint_every",
        "keep_checkpoints",
        "sample_every",
        "log_every",
        "validate_every",
        "best_by",
        "device",
        "threads",
        "accumulate",
        "cuda_graphs",
        "compile",
        "data.dir",
        "data.also",
        "data.cache",
        "data.verify",
        "data.max_unreadable",
        "tensorboard",
    }
)
LOCK = ".lock"


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Attributes:
        checkpoint: What it goes on from; ``None``: anew.
        manifest: Manifest of that checkpoint; empty without one.
        problems: What is wrong with newer checkpoints, which are passed over.
    """

    checkpoint: Path | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


ANEW = Start()


def check_settings(config: Config, processes: Processes) -> None:
    """Raises ``UserError`` where training is refused whatever the data and the run folder are."""
    if config.tensorboard:
        require_tensorboard()
    check_shares(config, processes)
    check_device(config, choose_device(config.device, processes), processes)


def check_device(config: Config, device: torch.device, processes: Processes) -> None:
    """Raises ``UserError`` where the device, or so many processes, cannot do what is asked for, or hold a batch."""
    check_precision(config.precision, device)
    if config.cuda_graphs:
        check_cuda_graphs(device, processes)
    side, free = config.data.image_size, free_memory(device)
    least = 4 * side * side * config.batch_size // processes.count  # bytes of float32, of one channel
    if free is not None and least > free:
        raise UserError(
            f"batch_size {config.batch_size}: its images alone take {least / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB "
            f"are free; lower it, or data.image_size (now {side})"
        )


def check_schedule(stepper: Stepper, steps: int) -> None:
    """Raises ``UserError`` where the last steps would change nothing: a run is made longer than its schedule."""
    if stepper.is_over(steps - 1):
        raise UserError(
            f"steps {steps}: the schedule has brought all learning rates to 0 before the last of them, and nothing "
            "more would be learned; take fewer steps, or train anew with so many, in another folder"
        )


def check_shares(config: Config, processes: Processes) -> None:
    """Raises ``UserError`` where the batch cannot be shared equally."""
    shares = processes.count * config.accumulate
    if config.batch_size % shares:
        words = [f"{processes.count} processes"] * (processes.count > 1)
        words += [f"{config.accumulate} parts (accumulate)"] * (config.accumulate > 1)
        raise UserError(
            f"batch_size {config.batch_size} cannot be shared among {' of '.join(words)}; use a multiple of {shares}"
        )


def check_batch_norm(config: Config, processes: Processes) -> None:
    """Raises ``UserError`` where batch norm would not see the whole batch at once; needs no data."""
    if config.accumulate == processes.count == 1:
        return
    with memoryless():  # nets of any two domains, of which nothing is kept but what they are made of
        translator = build_translator(config, (Domain("a"), Domain("b", multimodal=False)))
    if not any(isinstance(net, BatchNorm2d) for net in translator.modules()):
        return
    if config.accumulate > 1:
        raise UserError(
            f"accumulate {config.accumulate}: {config.name} has batch norm, whose statistics are those of the whole "
            "batch; leave --accumulate out"
        )
    ways, images = math.lcm(*map(len, translator.turns())), config.batch_size // processes.count
    if processes.count > 1 and images % ways:
        raise UserError(
            f"batch_size {config.batch_size}: {config.name} has batch norm, so each of {processes.count} processes "
            f"needs as many images of each direction; use a multiple of {ways * processes.count}"
        )


def as_kept(config: Config, run: Path) -> Config:
    """``config`` as a run keeps it, whatever is asked of it later and from wherever.

    What was left to the number of steps, as the end of a schedule, is a number, so that adding steps does not stretch
    it; the folder of the data is absolute, so that another one of its name is not mistaken for it, and so is that of
    the weights that it begins with, whose hash is kept.

    Raises:
        UserError: There are no such weights.
    """
    begun = load_config(run / CONFIG) if is_run(run) else config
    left = {key for key, value in flatten(config).items() if value is None}
    values: dict[str, Any] = {key: number for key, number in begun.settings.kept(begun.steps).items() if key in left}
    if config.data.dir is not None:
        values["data.dir"] = os.path.abspath(config.data.dir)
        values["data.also"] = tuple(map(os.path.abspath, config.data.also))
    values |= pinned(config, run)
    return config.with_values(values)


class Claim:
    """Keeps other processes from training in a run folder at the same time, within a ``with`` block; makes the folder.

    Args:
        run: The folder.

    Raises:
        UserError: Another process is training there, the folder cannot be written, or what is written there would lie
            elsewhere.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._lock: IO[Any] | None = None

    def __enter__(self) -> Claim:
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock:
            self._lock.close()  # which releases the lock
        remove_unused(self._run)

    def renew(self) -> bool:
        """Claims the folder once more where it is not the one that was claimed, and says whether it was not."""
        if self._is_held():
            return False
        self._take()
        return True

    def _is_held(self) -> bool:
        try:
            return self._lock is not None and os.path.samestat(
                os.fstat(self._lock.fileno()), os.lstat(self._run / LOCK)
            )
        except OSError:
            return False

    def _take(self) -> None:
        _check_links(self._run)
        try:
            self._run.mkdir(parents=True, exist_ok=True)
            lock = open(self._run / LOCK, "a", opener=no_links)  # noqa: SIM115  (closed at the end of the block)
        except OSError as error:
            raise _unwritable(self._run, error) from None
        try:
            _lock(lock, self._run, fcntl.LOCK_EX)
        except UserError:
            lock.close()
            raise
        if self._lock:
            self._lock.close()
        self._lock = lock


def check_claim(run: Path) -> None:
    """Raises the ``UserError`` that :class:`Claim` would raise, and touches nothing."""
    _check_links(run)
    try:
        with open(run / LOCK, "rb", opener=no_links) as lock:
            _lock(lock, run, fcntl.LOCK_SH)
    except FileNotFoundError:
        nearest = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise _unwritable(run, PermissionError(errno.EACCES, os.strerror(errno.EACCES))) from None
    except OSError as error:  # a file is in the way
        raise _unwritable(run, error) from None


def _check_links(run: Path) -> None:
    """Older checkpoints are removed, and what kills left behind: not those of another run."""
    for name in ("checkpoints", "samples"):
        if (run / name).is_symlink():
            raise UserError(f"{run / name} is a link, which is not followed; remove it, or link the whole run folder")


def _lock(lock: IO[Any], run: Path, kind: int) -> None:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{run}: another process is training this run; name another folder") from None
    except OSError:  # a file system without locks, as some network drives are
        pass


def _unwritable(run: Path, error: OSError) -> UserError:
    if error.errno == errno.ELOOP:
        return UserError(f"{run / LOCK} is a link, which is not followed; remove it")
    return UserError(f"{run}: cannot write the run folder: {error.strerror}")


def remove_unused(run: Path) -> None:
    """A start that failed leaves no folder behind."""
    with suppress(OSError):
        if all(path.name == LOCK for path in run.iterdir()):
            (run / LOCK).unlink(missing_ok=True)
            run.rmdir()
            if run.parent == RUNS:
                RUNS.rmdir()  # if it is empty


def find_start(config: Config, run: Path, resume: str) -> Start:
    """Where training of ``config`` in the folder ``run`` starts, given ``--resume``.

    Raises:
        UserError: The folder is in the way, or the checkpoint does not fit, is damaged or would cost newer work.
    """
    if run.exists() and not run.is_dir():
        raise UserError(f"{run} is a file; name another run folder")
    if run.is_dir() and any(path.name != LOCK for path in run.iterdir()):
        if not is_run(run):
            raise UserError(f"{run} exists and is not a run (it has no {CONFIG}); name another folder")
        if resume == "never":
            raise UserError(f"{run} is a run already; add --resume auto to go on with it, or name another folder")
        _refuse_changes(config, run)
    if resume == "never":
        return ANEW
    if resume == "auto":
        found = newest_checkpoint(run)
    else:
        found = find_checkpoint(Path(resume))
    if found is None:
        return ANEW
    folder, manifest, problems = found
    if OPTIMIZERS not in manifest["files"]:
        raise UserError(f"{folder} holds no training state (converted weights?); it can be used, not trained on")
    _refuse_lost_work(config, run, resume, folder, manifest["step"])
    return Start(folder, manifest, tuple(f"{problem}; going on from {folder}" for problem in problems))


def _refuse_changes(config: Config, run: Path) -> None:
    changed = differences(load_config(run / CONFIG), config)
    refused = [f"{key}: {old!r} -> {new!r}" for key, (old, new) in changed.items() if key not in FREE_KEYS]
    if refused:
        raise UserError(
            f"{run} was trained with other settings: {'; '.join(refused)}. Leave them out to go on with it, or name "
            "another folder to train anew"
        )


def check_nets(wanted: Mapping[str, Any], checkpoint: Path, manifest: Mapping[str, Any]) -> None:
    """Raises ``UserError`` where a checkpoint holds other nets than those that :meth:`Translator.describe` told of."""
    saved = manifest["translator"]
    if saved.get("system") != wanted["system"]:
        found, asked = saved.get("system"), wanted["system"]
        raise UserError(f"{checkpoint} holds nets of system {found!r}, but the settings are of {asked!r}")
    with memoryless():  # described as today: what is younger than the checkpoint has its default
        saved = described_translator(manifest, checkpoint / MANIFEST).describe()
    changed = [
        f"{part}.{key}: {saved[part].get(key)!r} -> {value!r}"
        for part in ("size", "rules")
        for key, value in wanted[part].items()
        if saved[part].get(key) != value
    ]
    if changed:
        raise UserError(f"{checkpoint} holds other nets than the settings describe: {'; '.join(changed)}")
    if saved.get("label_sets") != wanted.get("label_sets"):
        raise UserError(
            f"{checkpoint} holds nets for {_in_sets(saved)}, but the data has {_in_sets(wanted)}; name the folders as "
            "they were, or train anew"
        )
    before, now = ([Domain(**domain) for domain in described["domains"]] for described in (saved, wanted))
    if before != now:  # nets know domains by their number alone: others of the same shape would be mistaken for them
        raise UserError(
            f"{checkpoint} holds nets for {named_domains(before)}, but the data has {named_domains(now)}; make the "
            "folders as they were, or train anew"
        )


def _in_sets(described: Mapping[str, Any]) -> str:
    """``data sets of 3 and 2 domains``."""
    sizes = described["label_sets"]
    return f"{'data sets' if len(sizes) > 1 else 'a data set'} of {' and '.join(map(str, sizes))} domains"


def check_optimizers(wanted: Mapping[str, str], checkpoint: Path, manifest: Mapping[str, Any]) -> None:
    """Raises ``UserError`` where groups are moved by other kinds of optimizers, whose state means something else.

    Checkpoints of earlier versions do not say which kinds theirs were.
    """
    saved = manifest.get("optimizers", wanted)
    changed = [f"{name}: {saved.get(name)} -> {kind}" for name, kind in wanted.items() if saved.get(name) != kind]
    if changed:
        raise UserError(
            f"{checkpoint} was trained with other optimizers: {'; '.join(changed)}; go on with those, or train anew"
        )


def _refuse_lost_work(config: Config, run: Path, resume: str, checkpoint: Path, step: int) -> None:
    if step > config.steps:
        raise UserError(f"{checkpoint} has {step} steps done already, more than the {config.steps} asked for")
    newer = [folder.name for folder in list_checkpoints(run) if folder > checkpoint_folder(run, step)]
    if newer and resume != "auto":  # auto has passed over newer ones because they are damaged
        raise UserError(f"{run} has newer checkpoints ({', '.join(newer)}); name another folder with --run")

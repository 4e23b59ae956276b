"""Where a run starts: anew, or from a checkpoint that fits; and who may write its folder."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from m2o_fast.engine.checkpoint import checkpoint_folder, list_checkpoints, newest_checkpoint
from m2o_fast.engine.config import differences, load_config
from m2o_fast.engine.runs import CONFIG, build_translator, find_checkpoint, is_run, named_domains, open_split
from m2o_fast.engine.schema import Config
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain

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
        "accumulate",
        "cuda_graphs",
        "compile",
        "data.dir",
        "data.cache",
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
        manifest: Manifest of that checkpoint.
        problems: What is wrong with newer checkpoints, which are passed over.
    """

    checkpoint: Path | None = None
    manifest: Mapping[str, Any] | None = None
    problems: tuple[str, ...] = ()


def with_fixed_schedule(config: Config, run: Path) -> Config:
    """``config`` with the diversity schedule as a number, so that adding steps later does not stretch it."""
    if config.loss.diversity_steps is not None:
        return config
    steps = load_config(run / CONFIG).diversity_steps if is_run(run) else config.diversity_steps
    return config.model_copy(update={"loss": config.loss.model_copy(update={"diversity_steps": steps})})


@contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Makes the run folder if needed and keeps other processes from training in it at the same time."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = open(run / LOCK, "w")  # noqa: SIM115  (closed below, which also releases the lock)
    except OSError as error:
        raise UserError(f"{run}: cannot write the run folder: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{run}: another process is training this run; name another folder") from None
        except OSError:  # a file system without locks, as some network drives are
            pass
        try:
            yield
        finally:
            _remove_unused(run)


def _remove_unused(run: Path) -> None:
    """A start that failed leaves no folder behind."""
    with suppress(OSError):
        if [path.name for path in run.iterdir()] == [LOCK]:
            (run / LOCK).unlink()
            run.rmdir()


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
        return Start()
    if resume == "auto":
        found = newest_checkpoint(run)
    else:
        found = find_checkpoint(Path(resume))
    if found is None:
        return Start()
    folder, manifest, problems = found
    _refuse_other_nets(config, folder, manifest)
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
    before, now = ([Domain(**domain) for domain in described["domains"]] for described in (saved, wanted))
    if before != now:  # nets know domains by their number alone: others of the same shape would be mistaken for them
        raise UserError(
            f"{checkpoint} holds nets for {named_domains(before)}, but the data has {named_domains(now)}; make the "
            "folders as they were, or train anew"
        )


def _refuse_lost_work(config: Config, run: Path, resume: str, checkpoint: Path, step: int) -> None:
    if step > config.steps:
        raise UserError(f"{checkpoint} has {step} steps done already, more than the {config.steps} asked for")
    newer = [folder.name for folder in list_checkpoints(run) if folder > checkpoint_folder(run, step)]
    if newer and resume != "auto":  # auto has passed over newer ones because they are damaged
        raise UserError(f"{run} has newer checkpoints ({', '.join(newer)}); name another folder with --run")

"""Run folders: naming them, finding them, loading what they hold."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

from m2o_fast.data.fit import Fit
from m2o_fast.engine.best import BEST, best_checkpoint
from m2o_fast.engine.checkpoint import (
    MANIFEST,
    CheckpointError,
    list_checkpoints,
    newest_checkpoint,
    read_manifest,
)
from m2o_fast.engine.checkpoint import (
    load_translator as load_checkpoint,
)
from m2o_fast.engine.config import dump_config, load_config
from m2o_fast.engine.device import choose_device
from m2o_fast.engine.hub import fetched, is_hub_name
from m2o_fast.engine.model_folder import fit_of_model, is_model, load_model
from m2o_fast.engine.runlog import environment
from m2o_fast.engine.schema import Config
from m2o_fast.errors import UserError
from m2o_fast.files import replacing
from m2o_fast.translators.base import Translator

RUNS = Path("runs")
CONFIG = "config.yaml"


# --- finding runs ---


def is_run(folder: Path) -> bool:
    """Whether ``folder`` is the folder of a run."""
    return (folder / CONFIG).is_file()


def next_run(config: Config) -> Path:
    """Makes a folder below ``runs/`` that nobody else has: ``<name>-<data>-<number>``."""
    stem = f"{config.name}-{config.data.name}"
    pattern = re.compile(rf"{re.escape(stem)}-(\d+)")
    while True:
        RUNS.mkdir(exist_ok=True)
        taken = [int(found[1]) for path in RUNS.glob(f"{stem}-*") if (found := pattern.fullmatch(path.name))]
        run = RUNS / f"{stem}-{max(taken, default=0) + 1:03d}"
        try:
            run.mkdir()  # fails if another process has just taken this number
            return run
        except (FileExistsError, FileNotFoundError):  # or has just removed runs/, which was empty
            continue


def newest_run() -> Path:
    """The run below ``runs/`` that was started last.

    Raises:
        UserError: There is none.
    """
    found = [path for path in RUNS.glob("*") if is_run(path)]
    if not found:
        raise UserError(f"there is no run below {RUNS}/; train one with m2o-fast train, or name a run folder")
    return max(found, key=lambda path: (path / CONFIG).stat().st_mtime_ns)


def require_run(folder: Path | None) -> Path:
    """``folder`` if it is a run, the newest run for ``None``.

    Raises:
        UserError: It does not exist or is not a run.
    """
    if folder is None:
        return newest_run()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not is_run(folder):
        raise UserError(f"{folder} is not a run: it has no {CONFIG}")
    return folder


def config_to_resume(run: Path | None, resume: str | None) -> Path | None:
    """The configuration file of the run that ``--resume`` goes on with, or starts from, if there is one."""
    if resume in (None, "never"):
        return None
    places = [run] if run is not None else []
    if resume != "auto":
        places += [Path(resume), run_of(Path(resume)) or Path(resume)]
    return next((place / CONFIG for place in places if is_run(place)), None)


def write_facts(config: Config, run: Path) -> None:
    """Writes what a run was started with: its settings, and what its numbers may depend on besides them.

    Raises:
        UserError: They cannot be written.
    """
    try:
        for name, text in ((CONFIG, dump_config(config)), ("env.json", json.dumps(environment(), indent=1) + "\n")):
            with replacing(run / name) as file:
                file.write(text.encode())
    except OSError as error:
        raise UserError(f"{run}: cannot write the run folder: {error.strerror}") from None


# --- loading ---


def find_checkpoint(path: Path | None, checkpoint: str | None = None) -> tuple[Path, dict[str, Any], list[str]]:
    """The checkpoint that a run folder, a checkpoint folder or ``None`` (the newest run) means.

    Args:
        path: Run, checkpoint, or ``None``. ``RUN/checkpoints/best``, or ``best`` alone for the newest run, is the one
            with the best validation.
        checkpoint: Name of one checkpoint of the run, such as ``step-00000400``, or ``best``; ``None``: its newest good
            one.

    Returns:
        Its folder, its manifest, and what is wrong with newer checkpoints that were passed over.

    Raises:
        UserError: Nothing usable there; says what was found.
    """
    is_checkpoint = path is not None and (is_best(path) or (path / MANIFEST).is_file())
    if is_checkpoint and checkpoint is not None:
        raise UserError(f"{path} is a checkpoint; leave out --checkpoint, or name its run")
    if path is not None and is_best(path):
        path, checkpoint = run_of_best(path), BEST
    if path is not None and (path / MANIFEST).is_file():
        return path, read_manifest(path), []
    if path is not None and (is_hub_name(path) or is_model(path)):
        raise UserError(f"{path} is a published model; this needs a run, a checkpoint or converted weights")
    if path is not None and path.is_dir() and not is_run(path):
        raise UserError(f"{path} is neither a run (no {CONFIG}) nor a checkpoint (no {MANIFEST})")
    run = require_run(path)
    if checkpoint == BEST:
        best = best_checkpoint(run)
        if best is None:
            raise UserError(
                f"{run} has no best checkpoint: it was trained without --validate-every, or best_by was never measured"
            )
        return *best, []
    if checkpoint is not None:
        folder = run / "checkpoints" / checkpoint
        if not folder.is_dir() or folder.parent != run / "checkpoints":  # a path may lead to another run
            names = ", ".join(found.name for found in list_checkpoints(run)) or "none"
            raise UserError(f"{run} has no checkpoint {checkpoint!r}; it has: {names}")
        return folder, read_manifest(folder), []
    found = newest_checkpoint(run)
    if found is None:
        raise CheckpointError(f"{run} has no checkpoint yet")
    return found


def is_best(path: Path) -> bool:
    """Whether a path means the best checkpoint of a run: ``RUN/checkpoints/best``, or ``best`` for the newest run."""
    return path.name == BEST and not path.exists() and (path == Path(BEST) or path.parent.name == "checkpoints")


def run_of_best(path: Path) -> Path | None:
    """The run that such a path names; ``None``: the newest."""
    return None if path == Path(BEST) else path.parent.parent


def warn_of_damage(problems: list[str], used: Path) -> None:
    """Warns that newer checkpoints were passed over."""
    for problem in problems:
        warnings.warn(f"{problem}; using {used}", RuntimeWarning, stacklevel=3)


def load_translator(
    path: str | Path | None = None,
    device: str = "auto",
    checkpoint: str | None = None,
    *,
    revision: str | None = None,
) -> Translator:
    """The trained translator of a run, a checkpoint, converted weights or a published model, ready to use.

    Args:
        path: Run folder (its newest good checkpoint), checkpoint folder, ``RUN/checkpoints/best``, folder of a
            published model, ``"hf:ORG/NAME"`` for one on the Hugging Face hub, or ``None``: the newest run below
            ``runs/``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<number>"``.
        checkpoint: Name of one checkpoint of the run, or ``"best"``.
        revision: Branch, tag or commit of a model on the hub.

    Returns:
        The translator with averaged (EMA) weights, in evaluation mode, without gradients.

    Raises:
        UserError: No such run or checkpoint, or a damaged one; names the file.
    """
    place = local(path, revision)
    if place is not None and is_model(place):
        if checkpoint is not None:
            raise UserError(f"{path} is a published model, without other checkpoints; leave {checkpoint} out")
        return load_model(place).to(choose_device(device))
    folder, manifest, problems = find_checkpoint(place, checkpoint)
    warn_of_damage(problems, folder)
    return load_checkpoint(folder, manifest).to(choose_device(device))


def local(path: str | Path | None, revision: str | None = None) -> Path | None:
    """The folder that is meant: a model on the hub is fetched, every other path stays as it is.

    Raises:
        UserError: A model that cannot be fetched, or a revision of what has none.
    """
    if is_hub_name(path):
        return fetched(str(path), revision)
    if revision is not None:
        raise UserError(f"{path}: only a model on the hub has revisions; leave revision out")
    return None if path is None else Path(path)


def fit_of(path: Path | None) -> Fit:
    """How images of other aspect ratios became squares in a run, or that of a checkpoint; converted weights have none.

    Args:
        path: Run, checkpoint, published model, or ``None``: the newest run; a model on the hub by its :func:`local`
            folder.
    """
    if path is not None and is_model(path):
        return fit_of_model(path)
    if path is not None and is_best(path):
        path = run_of_best(path)
    place = newest_run() if path is None else path
    run = place if is_run(place) else run_of(place)
    return "stretch" if run is None else load_config(run / CONFIG).data.fit


def run_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint lies in, also as ``.`` from inside it, or by a link to it."""
    places = (checkpoint, checkpoint.absolute(), checkpoint.resolve())
    return next((run for place in places if len(place.parts) > 2 and is_run(run := place.parent.parent)), None)

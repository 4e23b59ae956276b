"""Run folders: naming them, finding them, building and loading what they hold."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from m2o_fast.data import Augment, BatchSampler, Dataset, open_dataset
from m2o_fast.data.cache import Report, named, silent
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
from m2o_fast.engine.config import load_config
from m2o_fast.engine.processes import Processes
from m2o_fast.engine.schema import DEVICES, Config
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.randomness import torch_generator
from m2o_fast.translators import Translator, create

RUNS = Path("runs")
CONFIG = "config.yaml"


# --- finding runs ---


def is_run(folder: Path) -> bool:
    """Whether ``folder`` is the folder of a run."""
    return (folder / CONFIG).is_file()


def next_run(config: Config) -> Path:
    """Makes a folder below ``runs/`` that nobody else has: ``<variant>-<data>-<number>``."""
    stem = f"{config.variant}-{config.data.name}"
    pattern = re.compile(rf"{re.escape(stem)}-(\d+)")
    RUNS.mkdir(exist_ok=True)
    while True:
        taken = [int(found[1]) for path in RUNS.glob(f"{stem}-*") if (found := pattern.fullmatch(path.name))]
        run = RUNS / f"{stem}-{max(taken, default=0) + 1:03d}"
        try:
            run.mkdir()  # fails if another process has just taken this number
            return run
        except FileExistsError:
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
        places += [Path(resume), Path(resume).parent.parent]
    return next((place / CONFIG for place in places if is_run(place)), None)


# --- building what a configuration describes ---


def open_split(config: Config, split: str, data_dir: str | None = None, report: Report = silent) -> Dataset:
    """The ``"train"`` or ``"test"`` images of a configuration; ``data_dir`` replaces its folder.

    ``report`` is called with a line of text for what takes long.
    """
    data = config.data
    return open_dataset(
        data.name,
        split="train" if split == "train" else "test",
        data_dir=data_dir or data.dir,
        image_size=data.image_size,
        color_law=data.color_law,
        seed=config.seed,
        pair_fraction=data.pair_fraction,
        uni=data.uni,
        labels=data.labels,
        cache=data.cache,
        max_unreadable=data.max_unreadable,
        report=report,
    )


def is_own_data(run: Path, manifest: Mapping[str, Any], config: Config, data_dir: str | None) -> bool:
    """Whether the data's folder holds the images that a run was begun with: its test images, which it is measured on.

    Args:
        run: The run.
        manifest: Manifest of a checkpoint of it; one of earlier versions knows the training images alone.
        config: Configuration of the run.
        data_dir: A folder that somebody named in place of the run's.

    Raises:
        UserError: It does not, and nobody named this folder.
    """
    if config.data.dir is None:  # data that is the same everywhere
        return True
    split, key = ("test", "test_data") if "test_data" in manifest else ("train", "data")
    fingerprint = open_split(config, split, data_dir).fingerprint
    if manifest.get(key, fingerprint) == fingerprint:
        return True
    if data_dir is None:
        raise UserError(
            f"the {split} images of {config.data.name!r} in {config.data.dir} are not those that {run} was begun with; "
            "name the right folder with --data-dir (to measure on this one all the same, name it with --data-dir)"
        )
    return False


def build_sampler(config: Config, dataset: Dataset, domains: tuple[Domain, ...]) -> BatchSampler:
    """The training batches of a configuration; pairs are handed over only where the rules use them."""
    pairs = config.rules.supervised_weight > 0
    if pairs and not dataset.has_pairs():
        why = "the data has none: the images of a pair have the same name in the folders of both domains. Rename them"
        if config.data.pair_fraction < 1:
            share = f"data.pair_fraction {config.data.pair_fraction} of {dataset.count(0)} images"
            why = f"{share} is none; raise it"
        raise UserError(
            f"variant {config.variant!r} learns from known pairs, but {why}, or train without pairs with variant 'hmu'"
        )
    augment = Augment(config.data.crop_probability, config.data.flip_probability)
    return BatchSampler(dataset, domains, config.batch_size, config.seed, pairs=pairs, augment=augment)


def build_translator(config: Config, domains: tuple[Domain, ...]) -> Translator:
    """A translator with fresh weights, which depend on the seed alone.

    Raises:
        UserError: The domains are not what the variant is for.
    """
    if config.rules.zero_style and len({domain.multimodal for domain in domains}) == 1:
        kind, advice = "uni-modal", "name fewer of them with --uni (data.uni)"
        if domains[0].multimodal:
            kind, advice = "multi-modal", "name those with one image for each content with --uni DOMAIN (data.uni)"
        names = ", ".join(domain.name for domain in domains)
        raise UserError(
            f"variant {config.variant!r} is for multi-modal and uni-modal domains, but {names} are all {kind}; "
            f"{advice}, or train the symmetric 'starganv2'"
        )
    description = {
        "system": "starganv2",
        "domains": [vars(domain) for domain in config.rules.resolve(domains)],
        "rules": vars(config.rules),
        "size": {
            "image_size": config.data.image_size,
            "base_width": config.base_width,
            **config.model.model_dump(exclude={"base_width"}),
        },
        "weights": {
            **config.loss.model_dump(exclude={"supervised", "diversity_steps"}),
            "diversity_steps": config.diversity_steps,
        },
        "discriminator": True,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(config.seed, "weights").initial_seed())
        return create(description)


def named_domains(domains: Sequence[Domain]) -> str:
    """Domains as an error shows them: ``photo (3 channels, multi-modal), sketch (1 channel, uni-modal)``."""
    shown = [
        f"{domain.name} ({domain.channels} {'channel' if domain.channels == 1 else 'channels'}, "
        f"{'multi' if domain.multimodal else 'uni'}-modal{'' if domain.kind == 'continuous' else f', {domain.kind}'})"
        for domain in domains
    ]
    return named(shown, ", ")


def choose_device(name: str, processes: Processes | None = None) -> torch.device:
    """The device of a name; ``"auto"`` takes CUDA where there is a device. Of several processes each takes its own.

    Raises:
        UserError: CUDA was asked for and is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and processes is not None and processes.count > 1:
        name = f"cuda:{processes.local_rank}"
    if not re.fullmatch(DEVICES, name):
        raise UserError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:<number>")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is not there: {torch.cuda.device_count()} CUDA devices found")
    return device


# --- loading ---


def find_checkpoint(path: Path | None, checkpoint: str | None = None) -> tuple[Path, dict[str, Any], list[str]]:
    """The checkpoint that a run folder, a checkpoint folder or ``None`` (the newest run) means.

    Args:
        path: Run, checkpoint, or ``None``.
        checkpoint: Name of one checkpoint of the run, such as ``step-00000400``; ``None``: its newest good one.

    Returns:
        Its folder, its manifest, and what is wrong with newer checkpoints that were passed over.

    Raises:
        UserError: Nothing usable there; says what was found.
    """
    if path is not None and (path / MANIFEST).is_file():
        if checkpoint is not None:
            raise UserError(f"{path} is a checkpoint; leave out --checkpoint, or name its run")
        return path, read_manifest(path), []
    if path is not None and path.is_dir() and not is_run(path):
        raise UserError(f"{path} is neither a run (no {CONFIG}) nor a checkpoint (no {MANIFEST})")
    run = require_run(path)
    if checkpoint is not None:
        folder = run / "checkpoints" / checkpoint
        if not folder.is_dir():
            names = ", ".join(found.name for found in list_checkpoints(run)) or "none"
            raise UserError(f"{run} has no checkpoint {checkpoint!r}; it has: {names}")
        return folder, read_manifest(folder), []
    found = newest_checkpoint(run)
    if found is None:
        raise CheckpointError(f"{run} has no checkpoint yet")
    return found


def warn_of_damage(problems: list[str], used: Path) -> None:
    """Warns that newer checkpoints were passed over."""
    for problem in problems:
        warnings.warn(f"{problem}; using {used}", RuntimeWarning, stacklevel=3)


def load_translator(path: str | Path | None = None, device: str = "auto") -> Translator:
    """The trained translator of a run, a checkpoint or converted weights, ready to use.

    Args:
        path: Run folder (its newest good checkpoint), checkpoint folder, or ``None``: the newest run below ``runs/``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<number>"``.

    Returns:
        The translator with averaged (EMA) weights, in evaluation mode, without gradients.

    Raises:
        UserError: No such run or checkpoint, or a damaged one; names the file.
    """
    folder, manifest, problems = find_checkpoint(None if path is None else Path(path))
    warn_of_damage(problems, folder)
    return load_checkpoint(folder, manifest).to(choose_device(device))


def run_config(checkpoint: Path) -> Config:
    """The configuration of the run that a checkpoint belongs to.

    Raises:
        UserError: The checkpoint lies in no run (converted weights, for example).
    """
    run = checkpoint.parent.parent
    if not is_run(run):
        raise UserError(f"{checkpoint} belongs to no run: there is no {run / CONFIG}")
    return load_config(run / CONFIG)

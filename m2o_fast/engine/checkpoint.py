"""Checkpoints: safetensors files and a JSON manifest, complete or not there at all. Nothing in them can run code.

A checkpoint is a folder. It is written under a temporary name, every file is flushed to the disk, the manifest with
sizes and SHA-256 of the others comes last, and one rename makes it appear.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from m2o_fast.errors import UserError
from m2o_fast.files import require_new
from m2o_fast.nn.memoryless import memoryless
from m2o_fast.nn.misfits import misfits, shortened
from m2o_fast.translators import create
from m2o_fast.translators.base import Translator

FORMAT = 1
MANIFEST = "manifest.json"
NETS, AVERAGED, OPTIMIZERS = "nets.safetensors", "ema.safetensors", "optimizers.safetensors"
#: what the manifest of a training checkpoint counts
COUNTERS = ("step", "skipped", "skipped_in_a_row")
_LARGEST_MANIFEST = 1 << 24  # bytes
_PREFIX = "step-"
_LEFTOVER = ".writing-"


class CheckpointError(UserError):
    """A checkpoint that is damaged, incomplete, or not one."""


def write_checkpoint(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> Path:
    """Writes a checkpoint and makes it appear at once.

    Args:
        folder: Where it shall appear. What is there already (a damaged checkpoint of the same step) is replaced.
        tensors: File name -> tensors by name.
        facts: JSON values for the manifest.

    Raises:
        OSError: The disk is full or not writable; nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f"{_LEFTOVER}{folder.name}-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # a killed process of the same number may have left one
        temporary.mkdir()
        files = {name: _write(temporary / name, save(plain_tensors(parts))) for name, parts in tensors.items()}
        _write(temporary / MANIFEST, seal({"format": FORMAT, **facts, "files": files}))
        _flush_folder(temporary)
        remove_checkpoint(folder)
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush_folder(folder.parent)
    return folder


def seal(facts: Mapping[str, Any]) -> bytes:
    """A manifest with the given facts and their own SHA-256, so that an edited one is noticed."""
    return (json.dumps({**facts, "sha256": digest_of(facts)}, indent=1) + "\n").encode()


def digest_of(facts: Mapping[str, Any]) -> str:
    """The SHA-256 of a manifest, which has those of all files."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def remove_checkpoint(folder: Path) -> None:
    """Removes a checkpoint, if it is there. Renamed first: an interrupted removal must not look like a damaged one."""
    if folder.exists():
        condemned = folder.with_name(f"{_LEFTOVER}removed-{folder.name}")
        shutil.rmtree(condemned, ignore_errors=True)  # of an interrupted removal
        os.rename(folder, condemned)
        shutil.rmtree(condemned, ignore_errors=True)


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _write(path: Path, data: bytes) -> dict[str, Any]:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are all there and unchanged.

    Raises:
        CheckpointError: Names the file and what is wrong with it.
    """
    path = folder / MANIFEST
    _check_readable(path)
    try:
        manifest = json.loads(path.read_bytes())
        version, digest = manifest["format"], manifest.pop("sha256", None)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is not a complete checkpoint: {MANIFEST} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    if version != FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {version!r:.40} is not supported, only {FORMAT}")
    if digest != digest_of(manifest):
        raise CheckpointError(f"{path} is damaged: it was edited, its SHA-256 does not fit")
    _check_facts(manifest, path)
    for name, expected in manifest["files"].items():
        _verify(folder / name, expected)
    return manifest


def _check_readable(path: Path) -> None:
    """Raises ``CheckpointError`` for what may never end: pipes, devices, and gigabytes of text."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is damaged: it is not a regular file")
    if path.is_file() and path.stat().st_size > _LARGEST_MANIFEST:
        raise CheckpointError(f"{path} is damaged: {path.stat().st_size} bytes are too many for a manifest")


def _check_facts(manifest: Mapping[str, Any], path: Path) -> None:
    """Raises ``CheckpointError`` where a whole manifest, as anybody can seal one, does not hold what it has to."""
    step, described, files = (manifest.get(key) for key in ("step", "translator", "files"))
    named = _numbered(path.parent)
    if not _are_files(files):
        raise CheckpointError(f"{path} is damaged: 'files' must be an object of plain names with 'bytes' and 'sha256'")
    problems = {
        f"'step' must be a whole number from 0 on, got {step!r:.40}": type(step) is not int or step < 0,
        "'translator' must be an object with 'domains', 'rules' and 'size'": not _is_described(described),
        f"{', '.join(map(repr, COUNTERS))} must be whole numbers from 0 on": not _are_counted(manifest),
        "'optimizers' must be an object": not isinstance(manifest.get("optimizers", {}), dict),
        f"its folder is named after step {named}, but it is of step {step!r:.40}": named not in (None, step),
    }
    if wrong := [problem for problem, is_so in problems.items() if is_so]:
        raise CheckpointError(f"{path} is damaged: {wrong[0]}")


def _is_described(translator: Any) -> bool:
    """Whether this can be what :meth:`Translator.describe` gave."""
    parts = {"domains": list, "rules": dict, "size": dict}
    return isinstance(translator, dict) and all(isinstance(translator.get(key), kind) for key, kind in parts.items())


def _are_counted(manifest: Mapping[str, Any]) -> bool:
    """Whether a checkpoint that can be trained on says how training went."""
    if OPTIMIZERS not in manifest["files"]:
        return True
    return all(type(manifest.get(key)) is int and manifest[key] >= 0 for key in COUNTERS)


def _are_files(files: Any) -> bool:
    """Whether these can be the files of a checkpoint: names lead nowhere else."""
    return isinstance(files, dict) and all(
        name not in ("", ".", "..") and not set(name) & {"/", "\0"}
        and isinstance(facts, dict)
        and {"bytes": int, "sha256": str} == {key: type(value) for key, value in facts.items()}
        for name, facts in files.items()
    )  # fmt: skip


def _verify(path: Path, expected: Mapping[str, Any]) -> None:
    if path.exists() and not path.is_file():  # see _check_readable
        raise CheckpointError(f"{path} is damaged: it is not a regular file")
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(f"{path} is damaged: {size} bytes, the manifest says {expected['bytes']}")
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if digest != expected["sha256"]:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in the manifest")


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one file of a checkpoint, on the CPU."""
    try:
        return load_file(folder / name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / name} cannot be read: {error}") from None


def load_weights(translator: Translator, tensors: Mapping[str, Tensor], origin: Path) -> None:
    """Fills a translator; every name and shape must fit.

    Raises:
        CheckpointError: Lists what is missing, superfluous, or of another shape.
    """
    _check_weights(translator, tensors, origin)
    translator.load_state_dict(tensors)


def _check_weights(translator: Translator, tensors: Mapping[str, Tensor], origin: Path) -> None:
    if problems := misfits(translator.state_dict(), tensors):
        raise CheckpointError(f"{origin} does not fit the nets: {problems}")


# --- folders of checkpoints ---


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies in a run."""
    return run / "checkpoints" / f"{_PREFIX}{step:08d}"


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, damaged ones included."""
    found = (run / "checkpoints").glob(f"{_PREFIX}*")
    return sorted((path for path in found if path.is_dir() and _numbered(path) is not None), key=_step)


def _numbered(folder: Path) -> int | None:
    """The step that a folder is named after, if it is."""
    prefix, number = folder.name[: len(_PREFIX)], folder.name[len(_PREFIX) :]
    return int(number) if prefix == _PREFIX and number.isascii() and number.isdecimal() and len(number) < 20 else None


def _step(folder: Path) -> int:
    return int(folder.name[len(_PREFIX) :])


def newest_checkpoint(run: Path) -> tuple[Path, dict[str, Any], list[str]] | None:
    """The newest undamaged checkpoint of a run, its manifest, and what is wrong with newer ones.

    ``None``: there is no checkpoint.

    Raises:
        CheckpointError: There are checkpoints, but every one is damaged.
    """
    problems: list[str] = []
    for folder in reversed(list_checkpoints(run)):
        try:
            return folder, read_manifest(folder), problems
        except CheckpointError as error:
            if not folder.exists():  # training goes on, and has put a newer one in its place
                return newest_checkpoint(run)
            problems.append(str(error))
    if problems:
        raise CheckpointError(f"every checkpoint of {run} is damaged: {'; '.join(problems)}")
    return None


def remove_leftovers(run: Path) -> None:
    """Removes what interrupted writes and removals left behind."""
    for leftover in (run / "checkpoints").glob(f"{_LEFTOVER}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    # of a report or an evaluation they may be written just now, by another process
    for pattern in (".*.jsonl.*.part", ".env.json.*.part", ".config.yaml.*.part", "samples/.*.part"):
        for part in run.glob(pattern):
            part.unlink(missing_ok=True)


def remove_old_checkpoints(run: Path, keep: int, step: int) -> None:
    """Removes the checkpoints before ``step`` but for the newest, so that ``keep`` stay with that of ``step``; 0: all.

    Later ones do not count: training went back behind them because they are damaged.
    """
    older = [folder for folder in list_checkpoints(run) if _step(folder) < step]
    for folder in older[: max(len(older) + 1 - keep, 0)] if keep else []:
        remove_checkpoint(folder)


# --- translators for use ---


def save_translator(translator: Translator, folder: Path, facts: Mapping[str, Any] | None = None) -> Path:
    """Writes a translator without training state, for :func:`load_translator`; ``folder`` must not exist."""
    require_new(folder)
    facts = {"step": 0, "translator": translator.describe(), **(facts or {})}
    return write_checkpoint(folder, {AVERAGED: translator.state_dict()}, facts)


def load_translator(folder: Path, manifest: Mapping[str, Any]) -> Translator:
    """The translator of a checkpoint in evaluation mode on the CPU, with averaged weights where an average is kept."""
    like = weightless(manifest, folder / MANIFEST)
    return with_weights(manifest, like, tensors_in_use(folder, manifest, like), folder)


def weightless(facts: Mapping[str, Any], origin: Path) -> Translator:
    """The nets of :func:`described_translator` without memory: a description may ask for any size.

    The files must have that size before memory is taken for it.
    """
    with memoryless():
        return described_translator(facts, origin)


def with_weights(facts: Mapping[str, Any], like: Translator, tensors: Mapping[str, Tensor], origin: Path) -> Translator:
    """The nets that are described, with these weights, on the CPU, in evaluation mode and without gradients.

    Args:
        facts: Hold the description.
        like: Those nets, without memory.
        tensors: All weights by name.
        origin: Where they were read.

    Raises:
        CheckpointError: They do not fit.
    """
    _check_weights(like, tensors, origin)
    with torch.random.fork_rng(devices=[]):
        translator = create(facts["translator"])
    translator.load_state_dict(tensors)
    return translator.eval().requires_grad_(False)


def tensors_in_use(folder: Path, manifest: Mapping[str, Any], like: Translator | None = None) -> dict[str, Tensor]:
    """All weights of a checkpoint by name, averages in the place of those that have one.

    Raises:
        CheckpointError: A file cannot be read, or the averages are not those that ``like`` keeps.
    """
    average = read_tensors(folder, AVERAGED)
    if NETS not in manifest["files"]:
        return average
    if like is not None:
        check_average(like, average, folder / AVERAGED)
    return read_tensors(folder, NETS) | average


def described_translator(facts: Mapping[str, Any], origin: Path) -> Translator:
    """The nets that the manifest of a checkpoint or ``config.json`` of a model describes, with fresh weights.

    Raises:
        CheckpointError: They cannot be built; names the file, ``origin``.
    """
    try:
        return create(facts["translator"])
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:  # torch's own for absurd sizes
        raise CheckpointError(f"{origin}: {error}") from None


def averaged_names(translator: Translator) -> set[str]:
    """Names of the weights and buffers of which an average is kept."""
    names, groups = {net: name for name, net in translator.named_modules()}, translator.groups()
    keep = tuple(f"{names[net]}." for group in translator.averaged_groups() for net in groups[group])
    return {name for name in translator.state_dict() if name.startswith(keep)}


def check_average(translator: Translator, average: Mapping[str, Tensor], origin: Path) -> None:
    """Raises ``CheckpointError`` where the file of averages has other names than those that are averaged."""
    names = averaged_names(translator)
    if wrong := sorted(names ^ set(average)):
        kind = "missing" if wrong[0] in names else "superfluous"
        raise CheckpointError(f"{origin} does not fit the nets: {kind} {shortened(wrong[0])}; {len(wrong)} such names")

"""The weights of a run that were best in a validation: written whole or not at all, whatever is killed when."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from m2o_fast.engine.checkpoint import (
    AVERAGED,
    MANIFEST,
    CheckpointError,
    read_manifest,
    remove_checkpoint,
    write_checkpoint,
)

#: what stands for them where a checkpoint is named
BEST = "best"
_PREFIX, _ASIDE = "best-", ".old"
_NAME = re.compile(rf"{_PREFIX}([0-9]{{8,19}})({re.escape(_ASIDE)})?")


def write_best(run: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes the weights of a step as the best ones of a run, and only then removes those that were.

    Args:
        run: The run folder.
        weights: Those to use, and all others, by name.
        facts: For the manifest: ``"step"``, ``"translator"``, ``"best"`` as :func:`best_checkpoint` has it, and more.

    Raises:
        OSError: The disk is full or not writable; those that were are kept.
        CheckpointError: What was written cannot be read.
    """
    folder = run / "checkpoints" / f"{_PREFIX}{facts['step']:08d}"
    if folder.exists():  # those of this step go to a name that counts as well
        aside = folder.with_name(folder.name + _ASIDE)
        remove_checkpoint(aside)
        os.rename(folder, aside)
    write_checkpoint(folder, {AVERAGED: weights}, facts)
    read_manifest(folder)
    for other in _bests(run):
        if other != folder:
            remove_checkpoint(other)


def _bests(run: Path) -> list[Path]:
    """The best weights of a run, the newest first: by step, and of one step those that were moved aside last."""
    named = {path: _NAME.fullmatch(path.name) for path in (run / "checkpoints").glob(f"{_PREFIX}*")}
    found = {path: (int(name[1]), name[2] is None) for path, name in named.items() if name and path.is_dir()}
    return sorted(found, key=lambda path: found[path], reverse=True)


def comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the manifests of best weights tell which are better: measured alike, on the same images."""
    alike = all(one["best"].get(key) == other["best"].get(key) for key in ("measure", "better", "over"))
    return alike and one.get("test_data") == other.get("test_data")


def best_checkpoint(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """The weights with the best validation of a run and their manifest; ``None``: there are none.

    The manifest's ``"best"`` says by which ``"measure"``, of which ``"value"``, ``"over"`` which directions and
    guidances, and which are ``"better"``, the ``"lower"`` or the ``"higher"``. A kill while new ones are written leaves
    the old ones beside them: the better ones count, or the newest where they cannot be compared.

    Raises:
        CheckpointError: There are some, but all are damaged.
    """
    found, problems = [], []
    for folder in _bests(run):
        try:
            manifest = read_manifest(folder)
            best = manifest.get("best")
            if not isinstance(best, dict) or not isinstance(best.get("value"), float) or not _is_named(best):
                raise CheckpointError(f"{folder / MANIFEST} is damaged: it does not say what is best")
            found.append((folder, manifest))
        except CheckpointError as error:
            if not folder.exists():  # training goes on, and has found better ones
                return best_checkpoint(run)
            problems.append(str(error))
    if not found and problems:
        raise CheckpointError("; ".join(problems))
    alike = [one for one in found if comparable(one[1], found[0][1])]
    return max(alike, key=lambda one: _merit(one[1]["best"]), default=None)


def _is_named(best: Mapping[str, Any]) -> bool:
    return isinstance(best.get("measure"), str) and best.get("better") in ("lower", "higher")


def _merit(best: Mapping[str, Any]) -> float:
    return float(best["value"]) if best["better"] == "higher" else -float(best["value"])

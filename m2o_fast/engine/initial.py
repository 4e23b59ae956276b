"""Weights that a run begins with: those of another run, of a checkpoint, converted or published, as far as they fit."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from m2o_fast.engine.build import named_domains
from m2o_fast.engine.checkpoint import (
    MANIFEST,
    CheckpointError,
    digest_of,
    read_tensors,
    tensors_in_use,
    weightless,
)
from m2o_fast.engine.config import load_config
from m2o_fast.engine.hub import fetched, is_hub_name
from m2o_fast.engine.model_folder import CONFIG as DESCRIPTION
from m2o_fast.engine.model_folder import WEIGHTS, is_model, read_config
from m2o_fast.engine.runs import CONFIG, find_checkpoint, is_run, run_of, warn_of_damage
from m2o_fast.engine.schema import Config
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.nn.misfits import misfit, shortened
from m2o_fast.translators.base import Translator

_PINNED = re.compile(r"(.+)@sha256:([0-9a-f]{64})", re.DOTALL)
_NAMED = 12  # tensors, or parts of nets, that a line names


def pinned(config: Config, run: Path) -> dict[str, str]:
    """``init_from`` as a run keeps it: the folder of a checkpoint or model, absolute, and the hash of what lies in it.

    Args:
        config: What is asked for; what a run has pinned is left as it is, so that its weights may be gone by now.
        run: The run folder, which may be that of a run already.

    Raises:
        UserError: There is nothing usable there.
    """
    if config.init_from is None or _PINNED.fullmatch(config.init_from):
        return {}
    asked = Path(config.init_from)
    begun = load_config(run / CONFIG).init_from if is_run(run) else None
    if begun is not None and Path(os.path.abspath(asked)) in _meant(Path(_unpinned(begun)[0])):
        return {"init_from": begun}
    source = _found(config.init_from)
    return {"init_from": f"{os.path.abspath(source.folder)}@sha256:{source.digest}"}


class _Source(NamedTuple):
    """Weights to begin with.

    Attributes:
        folder: Of the checkpoint or the published model.
        digest: SHA-256 of all that lies in it.
        described: The description of their nets.
        origin: The file that has it.
        tensors: Reads the weights.
    """

    folder: Path
    digest: str
    described: Mapping[str, Any]
    origin: Path
    tensors: Callable[[], dict[str, Tensor]]


def _found(init_from: str) -> _Source:
    """Raises ``UserError`` where there is nothing usable."""
    path = fetched(init_from) if is_hub_name(init_from) else Path(init_from)
    if is_model(path):
        config, weights = read_config(path / DESCRIPTION), path / WEIGHTS
        with weights.open("rb") as file:
            digest = digest_of({**config, "weights": hashlib.file_digest(file, "sha256").hexdigest()})
        return _Source(path, digest, config["translator"], path / DESCRIPTION, partial(read_tensors, path, WEIGHTS))
    folder, manifest, problems = find_checkpoint(path)
    warn_of_damage(problems, folder)
    tensors = partial(tensors_in_use, folder, manifest)
    return _Source(folder, digest_of(manifest), manifest["translator"], folder / MANIFEST, tensors)


def _unpinned(init_from: str) -> tuple[str, str | None]:
    found = _PINNED.fullmatch(init_from)
    return (found[1], found[2]) if found else (init_from, None)


def _meant(checkpoint: Path) -> tuple[Path, ...]:
    """The paths that stand for a checkpoint: its own, and that of its run."""
    run = run_of(checkpoint) or checkpoint.parent.parent
    return checkpoint, run, run / "checkpoints" / "best"


def begin_with(translator: Translator, init_from: str) -> tuple[str, ...]:
    """Puts all weights of a checkpoint that fit by name and shape into nets, averages where there are some.

    Layers that domains have for themselves go by the domain's number.

    Args:
        translator: Fresh nets.
        init_from: Run, checkpoint, converted weights, or published model, also as ``hf:ORG/NAME``; a hash behind
            ``@sha256:`` must be theirs.

    Returns:
        Lines of text: how many were taken, and which were not and why.

    Raises:
        UserError: Nothing usable there, other weights than those of the hash, those of another system, domains in
            another order, or none that fit.
    """
    path, wanted = _unpinned(init_from)
    source = _found(path)
    folder, digest = source.folder, source.digest
    if wanted not in (None, digest):
        raise UserError(
            f"{folder} is not what this run was to begin with: its SHA-256 is {digest[:12]}..., not {wanted[:12]}...; "
            "name the weights anew with --init-from, and another run folder"
        )
    before = _domains(source)
    _check_system(translator, source)
    _check_order(translator.domains, before, folder)
    own, given = translator.state_dict(), source.tensors()
    odd = {name: misfit(own[name], given[name]) for name in own if name in given}
    taken = {name: given[name] for name, problem in odd.items() if not problem}
    if not any(tensor.is_floating_point() for tensor in taken.values()):
        raise UserError(f"{folder}: none of its {len(given)} weights fits these nets by name and shape; leave it out")
    translator.load_state_dict(taken, strict=False)
    return (
        f"weights: {len(taken)} of {len(own)} tensors are those of {folder} (SHA-256 {digest[:12]}...)",
        *_about_domains(translator.domains, before),
        *_listed("these nets are to work otherwise", _about_sizes(translator, source)),
        *_listed("begins anew, as it is not among them", _parts([n for n in own if n not in given], given)),
        *_listed("begins anew", [f"{name}, which {problem}" for name, problem in odd.items() if problem]),
        *_listed("left out, as these nets have no such part", _parts([n for n in given if n not in own], own)),
    )


def _domains(source: _Source) -> list[Domain]:
    try:
        return [Domain(**domain) for domain in source.described["domains"]]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source.origin}: no domains: {error}") from None


def _check_system(translator: Translator, source: _Source) -> None:
    found, asked = source.described.get("system"), translator.describe()["system"]
    if found != asked:
        raise UserError(f"{source.folder} holds nets of system {found!r:.40}, but the settings are of {asked!r}")


def _check_order(now: Sequence[Domain], before: Sequence[Domain], folder: Path) -> None:
    places = {domain.name: k for k, domain in enumerate(before)}
    moved = [domain.name for k, domain in enumerate(now) if places.get(domain.name, k) != k]
    if moved:
        raise UserError(
            f"{folder} has the domains {', '.join(places)}, but the data has {', '.join(d.name for d in now)}: layers "
            f"go by the number of a domain, and {', '.join(moved)} would get those of another; rename the folders so "
            "that their order is the same"
        )


def _about_domains(now: Sequence[Domain], before: Sequence[Domain]) -> list[str]:
    """What explains the weights that do not fit, and names that changed."""
    lines = [
        f"domain {k} was {named_domains([old])}, and is {named_domains([new])}"
        for k, (old, new) in enumerate(zip(before, now, strict=False))
        if old != new
    ]
    return lines + [f"domain {len(before) + k}, {domain.name}, is new" for k, domain in enumerate(now[len(before) :])]


def _parts(names: Sequence[str], others: Collection[str]) -> list[str]:
    """The largest parts of nets that hold these tensors and none of the others."""
    taken = {name[:end] for name in others for end in _ends(name)}
    return list(dict.fromkeys(next(name[:end] for end in _ends(name) if name[:end] not in taken) for name in names))


def _ends(name: str) -> list[int]:
    return [*(found.start() for found in re.finditer(r"\.", name)), len(name)]


def _about_sizes(translator: Translator, source: _Source) -> list[str]:
    """What weights that fit by name and shape do not tell."""
    # Described as today: what is younger than the weights has its default.
    before = weightless({"translator": source.described}, source.origin).describe()["size"]
    now = translator.describe()["size"]
    return [f"{key} was {before[key]!r}, and is {now[key]!r}" for key in now if before[key] != now[key]]


def _listed(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [f"{what}: {'; '.join(map(shortened, names[:_NAMED]))}{more}"]

"""Weights that a run begins with: those of another run, of a checkpoint or converted ones, as far as they fit."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from m2o_fast.engine.build import named_domains
from m2o_fast.engine.checkpoint import MANIFEST, CheckpointError, digest_of, tensors_in_use
from m2o_fast.engine.config import load_config
from m2o_fast.engine.runs import CONFIG, find_checkpoint, is_run, run_of, warn_of_damage
from m2o_fast.engine.schema import Config
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.nn.misfits import misfit, shortened
from m2o_fast.translators.base import Translator

_PINNED = re.compile(r"(.+)@sha256:([0-9a-f]{64})", re.DOTALL)
_NAMED = 12  # tensors, or parts of nets, that a line names


def pinned(config: Config, run: Path) -> dict[str, str]:
    """``init_from`` as a run keeps it: the folder of one checkpoint, absolute, and the hash of what lies in it.

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
    folder, manifest, problems = find_checkpoint(asked)
    warn_of_damage(problems, folder)
    return {"init_from": f"{os.path.abspath(folder)}@sha256:{digest_of(manifest)}"}


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
        init_from: Run, checkpoint or converted weights; a hash behind ``@sha256:`` must be theirs.

    Returns:
        Lines of text: how many were taken, and which were not and why.

    Raises:
        UserError: Nothing usable there, other weights than those of the hash, those of another system, domains in
            another order, or none that fit.
    """
    path, wanted = _unpinned(init_from)
    folder, manifest, problems = find_checkpoint(Path(path))
    warn_of_damage(problems, folder)
    digest = digest_of(manifest)
    if wanted not in (None, digest):
        raise UserError(
            f"{folder} is not what this run was to begin with: its SHA-256 is {digest[:12]}..., not {wanted[:12]}...; "
            "name the weights anew with --init-from, and another run folder"
        )
    before = _domains(folder, manifest)
    _check_system(translator, folder, manifest)
    _check_order(translator.domains, before, folder)
    own, given = translator.state_dict(), tensors_in_use(folder, manifest)
    odd = {name: misfit(own[name], given[name]) for name in own if name in given}
    taken = {name: given[name] for name, problem in odd.items() if not problem}
    if not any(tensor.is_floating_point() for tensor in taken.values()):
        raise UserError(f"{folder}: none of its {len(given)} weights fits these nets by name and shape; leave it out")
    translator.load_state_dict(taken, strict=False)
    return (
        f"weights: {len(taken)} of {len(own)} tensors are those of {folder} (SHA-256 {digest[:12]}...)",
        *_about_domains(translator.domains, before),
        *_listed("begins anew, as it is not among them", _parts([n for n in own if n not in given], given)),
        *_listed("begins anew", [f"{name}, which {problem}" for name, problem in odd.items() if problem]),
        *_listed("left out, as these nets have no such part", _parts([n for n in given if n not in own], own)),
    )


def _domains(folder: Path, manifest: Mapping[str, Any]) -> list[Domain]:
    try:
        return [Domain(**domain) for domain in manifest["translator"]["domains"]]
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: {error}") from None


def _check_system(translator: Translator, folder: Path, manifest: Mapping[str, Any]) -> None:
    found, asked = manifest["translator"].get("system"), translator.describe()["system"]
    if found != asked:
        raise UserError(f"{folder} holds nets of system {found!r:.40}, but the settings are of {asked!r}")


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


def _listed(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [f"{what}: {'; '.join(map(shortened, names[:_NAMED]))}{more}"]

"""Looking over several data sets of own images, which are to be trained on together."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from m2o_fast.data.cache import Report, silent
from m2o_fast.data.check_images import check_images
from m2o_fast.data.check_report import CheckReport, counted, expected_time, share_option
from m2o_fast.data.folder import names_apart
from m2o_fast.data.learner import Learner
from m2o_fast.errors import UserError
from m2o_fast.m2o import PLAIN


def check_several(
    roots: Sequence[Path],
    max_unreadable: float,
    verify: bool = False,
    report: Report = silent,
    learner: Learner = Learner(),  # noqa: B008  (frozen)
) -> CheckReport:
    """Check folders of own images, each a data set with labels of its own.

    Args:
        roots: The folders.
        max_unreadable: Share of a domain's files that may be unreadable.
        verify: Whether all files are read again, whatever their dates say.
        report: Called with a line of text for what takes long.
        learner: What the command to train with is for.

    Returns:
        What is found in each, what keeps them from being trained on together, and the command to do so; it sums up like
        ``2 data sets, 0 problems``.
    """
    if missing := [root for root in roots if not root.is_dir()]:
        raise UserError(f"{missing[0]}: no such folder")
    alone = replace(learner, fitting=None)
    each = [check_images(root, max_unreadable, verify, report, alone) for root in roots]
    problems = [_of(root, problem) for root, found in zip(roots, each, strict=True) for problem in found.problems]
    problems += learner.problems_of_several()
    try:
        names_apart(roots)
    except UserError as error:
        problems += [str(error)] if str(error) not in problems else []
    facts: dict[str, Any] = {"layout": "folder", "data_sets": [_without_command(found.facts) for found in each]}
    advice = []
    if not problems:
        side = int(np.median([side for found in each for side in _sides(found)]))
        words = ["m2o-fast", "train", *learner.options()]
        words += [word for root in roots for word in ("--data", f"folder:{root}")]
        domains = [domain for found in each for domain in found.domains]
        fitting = learner.fit(PLAIN, domains, side, [len(found.domains) for found in each])
        facts["command"] = shlex.join([*words, *fitting.options, *share_option(max_unreadable)])
        advice = [facts["command"]]
        if fitting.hours is not None:
            facts["expected_hours"] = fitting.hours
            advice.append(expected_time(fitting.hours))
    return CheckReport(
        [line for found in each for line in found.lines],
        counted(len(roots), "data set"),
        problems,
        [_of(root, note) for root, found in zip(roots, each, strict=True) for note in found.notes],
        advice,
        facts,
        {label: row for found in each for label, row in found.rows.items()},
    )


def _of(root: Path, sentence: str) -> str:
    """A sentence about what lies in a folder, which may not name it."""
    return sentence if sentence.startswith(str(root)) else f"{root}: {sentence}"


def _without_command(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in ("command", "expected_hours")}


def _sides(found: CheckReport) -> Iterator[int]:
    """The shorter side of the usual image of each domain."""
    for domains in found.facts["splits"].values():
        yield from (min(domain["sizes"]["median"]) for domain in domains.values())

"""Looking over own images."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from m2o_fast.data.cache import Report, allowed_unreadable, named, silent
from m2o_fast.data.check_pairs import Checked, Found, content_with_looks, contents_in_both, describe_pairs, numbered
from m2o_fast.data.check_report import (
    FEW,
    CheckReport,
    ImageFacts,
    aspect_notes,
    counted,
    described,
    examine_all,
    expected_time,
    oddity_notes,
    share_option,
)
from m2o_fast.data.contact_sheet import COLUMNS, TILE
from m2o_fast.data.contents import contents_of, named_by_folders
from m2o_fast.data.folder import channels_of
from m2o_fast.data.images import Part, colors_of, is_gray
from m2o_fast.data.index import FileIndex
from m2o_fast.data.layout import (
    Split,
    about_layout,
    about_test_folder,
    indices_of,
    is_hidden,
    list_domains,
    splits_of,
)
from m2o_fast.data.learner import Learner
from m2o_fast.data.near_misses import near_misses
from m2o_fast.data.pairs_table import Listing
from m2o_fast.data.representative import some_of
from m2o_fast.errors import UserError
from m2o_fast.m2o import PAIRED, UNPAIRED, Domain

_LOOKED_AT = 16  # images of a domain whose colours are counted
_FEW_COLORS = 256


T = TypeVar("T")


class _Guess(NamedTuple):
    domains: tuple[str, ...]
    why: str


def check_images(
    root: Path,
    max_unreadable: float,
    verify: bool = False,
    report: Report = silent,
    learner: Learner = Learner(),  # noqa: B008  (frozen)
) -> CheckReport:
    """Check a folder of own images, ``DIR/{train,val}/<domain>/...``.

    Every file is decoded as training would, but for those that a check decoded before. What would end training is a
    problem, what it makes do with is a note.

    Args:
        root: The folder.
        max_unreadable: Share of a domain's files that may be unreadable.
        verify: Whether all files are read again, whatever their dates say.
        report: Called with a line of text for what takes long.
        learner: What the command to train with is for.

    Returns:
        Counts, sizes and modes of every domain, pairs, and the command to train with; it sums up like
        ``3 pairs, 0 problems``.
    """
    lines = [f"{root}: own images"]
    facts: dict[str, Any] = {"layout": "folder", "folder": str(root)}
    try:
        folders = splits_of(root)
        listing = list_domains(root, folders)
        lines = [": ".join(filter(None, (lines[0], about_layout(folders))))]
    except UserError as error:
        return CheckReport(lines, "0 pairs", [str(error)], facts=facts)
    index = indices_of(listing, verify=verify, report=report)
    facts_of = {
        split: {name: examine_all(index[split][name], images.part) for name, images in domains.items()}
        for split, domains in listing.items()
    }
    seen = _trained_on(listing)
    guess = _guess(
        {name: images.keys() for name, images in seen.items()},
        {
            name: _some_of(_trained_on(index)[name], _trained_on(facts_of)[name], images.part)
            for name, images in seen.items()
        },
    )
    contents, unclear, nearly = _contents(root, folders, listing, guess.domains)
    found = {
        folders[split].name: {
            name: Checked(images, index[split][name], facts_of[split][name], contents[split][name])
            for name, images in domains.items()
        }
        for split, domains in listing.items()
    }
    described_lines, splits = _describe(found)
    pair_lines, pairs = describe_pairs(found, guess.domains)
    problems, notes = _remarks(found, max_unreadable)
    problems += unclear
    paired = _are_paired(found, guess)
    problems += learner.problems(_trained_on(found).keys(), paired)
    notes += nearly + contents_in_both(root, found, guess.domains)
    notes = [*_stray(root, found), *notes]
    if len(found) == 1:
        notes.insert(0, f"{root} has a {next(iter(found))} folder alone: it serves for training and testing")
    if sentence := about_test_folder(root):
        notes.insert(0, sentence)
    lines += [*described_lines, *pair_lines]
    facts |= {"splits": splits, "pairs": pairs, "uni_guess": list(guess.domains)}
    advice: list[str] = []
    trained: list[Domain] = []
    if not problems:
        trained = [_domain(name, found, guess) for name in _trained_on(found)]
        facts["command"], hours = _command(root, found, trained, max_unreadable, learner, paired)
        advice = [f"uni-modal: {' and '.join(guess.domains)} (a guess: {guess.why})", facts["command"]]
        if hours is not None:
            facts["expected_hours"] = hours
            advice.append(expected_time(hours))
    total = sum(direction["found"] for directions in pairs.values() for direction in directions.values())
    rows = _sheet_rows(found, guess.domains)
    return CheckReport(lines, counted(total, "pair"), problems, notes, advice, facts, rows, trained)


def _contents(
    root: Path, folders: Mapping[Split, Path], listing: Listing, uni: Sequence[str]
) -> tuple[Mapping[Split, Mapping[str, np.ndarray]], list[str], list[str]]:
    """What images show, as numbers; what is wrong with how it is said; and notes on names that nearly say it."""
    found: dict[Split, dict[str, np.ndarray]] = {}
    problems: dict[str, None] = {}
    notes: list[str] = []
    for split, domains in listing.items():
        try:
            contents = contents_of(root, listing, uni, split)
        except UserError as error:
            contents = {name: images.keys() for name, images in domains.items()}
            problems[str(error)] = None
        if all(contents[name] == images.keys() for name, images in domains.items()):  # names alone say it
            notes += [f"{folders[split].name}: {sentence}" for sentence in near_misses(contents, uni)]
        found[split] = numbered(contents)
    return found, list(problems), notes


def _trained_on(found: Mapping[Any, T]) -> T:
    """What is said of the split that training takes."""
    return found.get("train") or next(iter(found.values()))


def _describe(found: Found) -> tuple[list[str], dict[str, Any]]:
    """Counts, sizes and modes of every domain, as lines and as JSON values."""
    lines: list[str] = []
    values: dict[str, Any] = {}
    for folder, domains in found.items():
        values[folder] = {}
        for name, domain in domains.items():
            line, values[folder][name] = described(domain.readable())
            values[folder][name] |= {
                "unreadable": [fact.problem for fact in domain.facts if fact.problem],
                "others": [os.path.basename(name) for name in domain.images.others],
            }
            lines.append(f"{folder}/{name}: {line}")
    return lines, values


def _stray(root: Path, found: Found) -> list[str]:
    """Notes on files beside the folders of the domains."""
    stray = {
        folder: sorted(path.name for path in (root / folder).iterdir() if path.is_file() and not is_hidden(path))
        for folder, domains in found.items()
        if all(domain.images.folder.parent == root / folder for domain in domains.values())
    }
    return [
        f"{folder}: {counted(len(names), 'file')} in no domain, ignored: {named(names, ', ')}"
        for folder, names in stray.items()
        if names
    ]


def _remarks(found: Found, max_unreadable: float) -> tuple[list[str], list[str]]:
    """What ends training, and what it makes do with."""
    problems: list[str] = []
    notes: list[str] = []
    for folder, domains in found.items():
        for name, domain in domains.items():
            bad, odd = _remarks_on(f"{folder}/{name}", domain, max_unreadable)
            problems += bad
            notes += odd
        notes += aspect_notes(folder, [fact for domain in domains.values() for fact in domain.readable()])
    return problems, notes


def _remarks_on(where: str, domain: Checked, max_unreadable: float) -> tuple[list[str], list[str]]:
    readable = domain.readable()
    problems, notes = [], oddity_notes(where, domain.images.names, domain.facts)
    if unreadable := [fact.problem for fact in domain.facts if fact.problem]:
        text = f"{where}: {len(unreadable)} of {len(domain.facts)} image files cannot be read: {named(unreadable)}"
        if not readable or len(unreadable) > allowed_unreadable(len(domain.facts), max_unreadable):
            problems.append(text)
        else:
            notes.append(f"{text}; training leaves them out")
    if others := [os.path.basename(name) for name in domain.images.others]:
        notes.append(f"{where}: {counted(len(others), 'file')} of other kinds, ignored: {named(others, ', ')}")
    if 0 < len(readable) < FEW:
        notes.append(f"{where}: {counted(len(readable), 'image')}, which is few to train or measure with")
    return problems, notes


def _some_of(files: FileIndex, facts: Sequence[ImageFacts], part: Part) -> list[tuple[str, Part]]:
    """Some images that can be read: their files, and what of each is meant."""
    readable = [row for row, fact in enumerate(facts) if not fact.problem]
    return [(files.paths[row], part) for row in readable[:: max(1, len(readable) // _LOOKED_AT)][:_LOOKED_AT]]


def _guess(names: Mapping[str, Sequence[str]], images: Mapping[str, Sequence[tuple[str, Part]]]) -> _Guess:
    """The domains that look uni-modal, unless subfolders named like images of others say which these are."""
    guess, named_so = guess_uni(images), named_by_folders(names)
    if not named_so or len(named_so) == len(names) or set(guess.domains) <= set(named_so):
        return guess
    return _Guess(named_so, f"subfolders are named like {'its' if len(named_so) == 1 else 'their'} images")


def guess_uni(domains: Mapping[str, Sequence[tuple[str, Part]]]) -> _Guess:
    """The domains that look uni-modal: drawings and label maps are gray, or have few colours.

    Args:
        domains: domain -> some of its images: their files, and what of each is meant.
    """
    colors = {name: _colors(images) for name, images in domains.items()}
    for limit, why in ((0, "all its images are gray"), (_FEW_COLORS, "its images have few colours")):
        chosen = tuple(name for name, number in colors.items() if number <= limit)
        if 0 < len(chosen) < len(domains):
            return _Guess(chosen, why.replace("its", "their") if len(chosen) > 1 else why)
    fewest = min(colors, key=lambda name: colors[name])
    return _Guess((fewest,), "its images have the fewest colours")


def _colors(images: Sequence[tuple[str, Part]]) -> float:
    """The median number of colours in an image; 0 if all are gray."""
    numbers = [0 if is_gray(file) else colors_of(Path(file), part) for file, part in images]
    return float(np.median(numbers)) if any(numbers) else 0.0


def _are_paired(found: Found, guess: _Guess) -> bool:
    """Whether images that are trained on have their content in common with one of a uni-modal domain."""
    domains = _trained_on(found)
    uni = np.concatenate([domains[name].shown for name in guess.domains])
    return any(len(domain.showing(uni)) for name, domain in domains.items() if name not in guess.domains)


def _command(
    root: Path, found: Found, trained: Sequence[Domain], max_unreadable: float, learner: Learner, paired: bool
) -> tuple[str, float | None]:
    """What trains on this folder, and how many hours that is expected to take, where this is known."""
    domains = _trained_on(found)
    variant = PAIRED if paired and PAIRED in learner.variants else UNPAIRED
    words = ["m2o-fast", "train", *learner.options(), "--variant", variant, "--data", f"folder:{root}"]
    words += [word for domain in trained if not domain.multimodal for word in ("--uni", domain.name)]
    sides = [min(fact.size) for domain in domains.values() for fact in domain.readable()]
    fitting = learner.fit(variant, trained, int(np.median(sides)))
    words += [*fitting.options, *share_option(max_unreadable)]
    return shlex.join(words), fitting.hours


def _domain(name: str, found: Found, guess: _Guess) -> Domain:
    """What training will make of a domain."""
    channels = channels_of([domains[name].files for domains in found.values()])
    return Domain(name, channels, multimodal=name not in guess.domains)


def _sheet_rows(found: Found, uni: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Some contents of every domain, those that all domains have first, in the same order; one with its looks."""
    rows = {}
    for folder, domains in found.items():
        common = reduce(np.intersect1d, [domain.shown for domain in domains.values()])
        for name, domain in domains.items():
            others = np.setdiff1d(domain.shown, common)
            contents = [*some_of(common.tolist(), COLUMNS), *some_of(others.tolist(), COLUMNS)][:COLUMNS]
            looks = (some_of(domain.showing(content).tolist(), 1) for content in contents)
            rows[f"{folder}/{name}"] = [domain.tile(row, TILE) for (row,) in looks]
    if one := content_with_looks(_trained_on(found), uni):
        rows["one content, its looks"] = [domain.tile(row, TILE) for domain, row in one[:COLUMNS]]
    return rows

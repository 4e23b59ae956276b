"""Looking over a data folder before a long training run does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from m2o_fast.data.ade20k import is_full_release, scene_parsing_folder
from m2o_fast.data.cache import Report, silent
from m2o_fast.data.check_ade20k import check_ade20k
from m2o_fast.data.check_images import check_images
from m2o_fast.data.check_mnist import NAMES, check_mnist, mnist_folder
from m2o_fast.data.check_report import CheckReport
from m2o_fast.data.check_several import check_several
from m2o_fast.data.contact_sheet import DEFAULT_SHEET, require_place, write_contact_sheet
from m2o_fast.data.layout import half_of_a_split, splits_of
from m2o_fast.data.learner import Learner
from m2o_fast.errors import UserError


def check_folder(
    directory: str | Path | Sequence[str | Path],
    max_unreadable: float = 0.01,
    sheet: Path | None = None,
    *,
    verify: bool = False,
    report: Report = silent,
    learner: Learner = Learner(),  # noqa: B008  (frozen)
) -> CheckReport:
    """Recognise the data set in a folder and check it.

    Args:
        directory: The folder; of several data sets of own images, which are to be trained on together, a list.
        max_unreadable: Share of the files that training would leave out if they cannot be read.
        sheet: A PNG file to draw some of own images and of ADE20K in; ``None`` draws nothing. Where the
            default one cannot be written, that is a note.
        verify: Whether all image files are read again, whatever their dates say.
        report: Called with a line of text for what takes long.
        learner: What the command to train on own images is for.

    Raises:
        UserError: If the folder does not exist or holds no data set that is known here, or the sheet cannot be written.
    """
    roots = [Path(each).expanduser() for each in ([directory] if isinstance(directory, str | Path) else directory)]
    if sheet is not None and sheet != DEFAULT_SHEET:
        require_place(sheet)
    check = partial(_check, roots[0]) if len(roots) == 1 else partial(check_several, roots)
    found = check(max_unreadable, verify, report, learner)
    if sheet is None:
        return found
    if not any(found.rows.values()):
        return found if sheet == DEFAULT_SHEET else replace(found, notes=[*found.notes, f"{sheet}: nothing to draw"])
    try:
        write_contact_sheet(found.rows, sheet)
    except UserError as error:
        if sheet != DEFAULT_SHEET:
            raise
        return replace(found, notes=[*found.notes, str(error)])
    lines = [*found.lines, f"some images of each domain: {sheet}"]
    return replace(found, lines=lines, facts={**found.facts, "sheet": str(sheet)})


def _check(root: Path, max_unreadable: float, verify: bool, report: Report, learner: Learner) -> CheckReport:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    if mnist_folder(root) is not None:
        return check_mnist(root)
    if splits_of(root) or half_of_a_split(root):
        return check_images(root, max_unreadable, verify, report, learner)
    try:
        scenes = scene_parsing_folder(root)
    except UserError:
        if is_full_release(root):
            raise
    else:
        return check_ade20k(scenes, max_unreadable, verify, report)
    raise UserError(
        f"{root}: no data set recognised. Known are own images, {root / 'train' / '<domain>'} and "
        f"{root / 'val' / '<domain>'}; ADE20K scene parsing, with folders images and annotations; and MNIST: "
        f"{', '.join(NAMES)}, each plain or .gz, in this folder, in its mnist or in its MNIST/raw (docs/data.md)"
    )

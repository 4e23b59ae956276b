"""Looking over a data folder before a long training run does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from m2o_fast.data.ade20k import is_full_release, scene_parsing_folder
from m2o_fast.data.check_ade20k import check_ade20k
from m2o_fast.data.check_images import check_images
from m2o_fast.data.check_mnist import NAMES, check_mnist, mnist_folder
from m2o_fast.data.check_report import CheckReport
from m2o_fast.data.contact_sheet import DEFAULT, require_place, write_contact_sheet
from m2o_fast.data.layout import splits_of
from m2o_fast.errors import UserError


def check_folder(directory: str | Path, max_unreadable: float = 0.01, sheet: Path | None = None) -> CheckReport:
    """Recognise the data set in a folder and check it.

    Args:
        directory: The folder.
        max_unreadable: Share of the files that training would leave out if they cannot be read.
        sheet: A PNG file to draw the first images of own images and of ADE20K in; ``None`` draws nothing. Where the
            default one cannot be written, that is a note.

    Raises:
        UserError: If the folder does not exist or holds no data set that is known here, or the sheet cannot be written.
    """
    root = Path(directory).expanduser()
    if sheet is not None and sheet != DEFAULT:
        require_place(sheet)
    report = _check(root, max_unreadable)
    if sheet is None:
        return report
    if not any(report.rows.values()):
        return report if sheet == DEFAULT else replace(report, notes=[*report.notes, f"{sheet}: nothing to draw"])
    try:
        write_contact_sheet(report.rows, sheet)
    except UserError as error:
        if sheet != DEFAULT:
            raise
        return replace(report, notes=[*report.notes, str(error)])
    lines = [*report.lines, f"the first images of each domain: {sheet}"]
    return replace(report, lines=lines, facts={**report.facts, "sheet": str(sheet)})


def _check(root: Path, max_unreadable: float) -> CheckReport:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    if mnist_folder(root) is not None:
        return check_mnist(root)
    if splits_of(root):
        return check_images(root, max_unreadable)
    try:
        scenes = scene_parsing_folder(root)
    except UserError:
        if is_full_release(root):
            raise
    else:
        return check_ade20k(scenes, max_unreadable)
    raise UserError(
        f"{root}: no data set recognised. Known are own images, {root / 'train' / '<domain>'} and "
        f"{root / 'val' / '<domain>'}; ADE20K scene parsing, with folders images and annotations; and MNIST: "
        f"{', '.join(NAMES)}, each plain or .gz, in this folder, in its mnist or in its MNIST/raw (docs/data.md)"
    )

"""The report of a run, or of several side by side: one HTML file that needs nothing else to be read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from m2o_fast.engine.device import choose_device
from m2o_fast.engine.runs import require_run
from m2o_fast.errors import UserError
from m2o_fast.files import replacing
from m2o_fast.report.compare import compare_page
from m2o_fast.report.page import Sources, run_page
from m2o_fast.report.record import read_record

__all__ = ["FILE", "write_report"]

FILE = "report.html"


def write_report(
    runs: Sequence[Path],
    out: Path | None = None,
    device: str = "auto",
    *,
    data_dir: str | Sequence[str] | None = None,
    seed: int = 0,
) -> Path:
    """Writes the report of one run, or of several side by side.

    The page holds its pictures and charts, loads nothing, and runs no scripts. What a run folder lacks, or holds
    damaged, is said in it.

    Args:
        runs: Run folders; none: the newest below ``runs/``.
        out: File to write; ``None``: ``report.html`` in the run, or in the folder that all of several runs are in.
        device: Where the pictures are computed.
        data_dir: Folder of the data set, or of each, in place of the runs'.
        seed: Seed of the random styles of the pictures.

    Returns:
        The file.

    Raises:
        UserError: No such run, nothing in it to report, or a file that cannot be written.
    """
    folders = [require_run(folder) for folder in runs] or [require_run(None)]
    resolved = [folder.resolve() for folder in folders]
    if twice := [folder for number, folder in enumerate(folders) if resolved[number] in resolved[:number]]:
        raise UserError(f"{twice[0]}: named twice; name each run once")
    target = _target(folders, out)
    sources = Sources(choose_device(device), data_dir, seed)
    records = [read_record(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    page = run_page(records[0], sources) if len(records) == 1 else compare_page(records, sources)
    try:
        with replacing(target) as file:
            file.write(page.encode(errors="replace"))  # a file name may be no valid text
    except OSError as error:
        raise UserError(f"{target}: cannot write the report: {error.strerror or error}") from None
    return target


def _target(folders: Sequence[Path], out: Path | None) -> Path:
    """The file to write. Only HTML files are: a mistyped ``--out`` shall not cost a configuration."""
    if out is None and len(folders) == 1:
        return folders[0] / FILE
    if out is None:
        common = Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
        if common == Path(common.anchor):
            raise UserError("the runs have no folder in common; name the file with --out FILE.html")
        return common / FILE
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file, such as {out / FILE}")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{out}: the report is an HTML file; give a name that ends in .html")
    return out


def _names(folders: Sequence[Path]) -> list[str]:
    """The names of the folders, or their paths where two have the same."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]

"""Looking over a data folder before a long training run does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from m2o_fast.data.fetch import content_problem
from m2o_fast.data.mnist import FILES, candidate_directories, find_file, read_split
from m2o_fast.errors import UserError


@dataclass(frozen=True)
class CheckReport:
    """What was found in a data folder.

    Attributes:
        lines: What is there, one line for each file; the last line sums up.
        problems: What is wrong, one line each; empty if the folder can be used as it is.
    """

    lines: tuple[str, ...]
    problems: tuple[str, ...]


def check_folder(directory: str | Path) -> CheckReport:
    """Recognise the data set in a folder and check it.

    Raises:
        UserError: If the folder does not exist or holds no data set that is known here.
    """
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    if _mnist_folder(root) is None:
        raise UserError(
            f"{root}: no data set recognised. Known is MNIST: {', '.join(_mnist_names())}, each plain or .gz, in this "
            f"folder, in its mnist or in its MNIST/raw"
        )
    return check_mnist(root)


def check_mnist(directory: str | Path) -> CheckReport:
    """Check that the four MNIST files are there, can be read, fit together and are the published ones.

    Args:
        directory: The folder, or one whose ``mnist`` or ``MNIST/raw`` has the files.

    Returns:
        Counts, sizes and checksums; the last line is like ``60000 train, 10000 test images, 0 problems``.
    """
    root = Path(directory).expanduser()
    folder = _mnist_folder(root) or root
    lines: list[str] = []
    problems: list[str] = []
    counts = {}
    for split, names in FILES.items():
        counts[split] = 0
        paths = [path for name in names if (path := find_file(folder, name)) is not None]
        missing = [name for name in names if find_file(folder, name) is None]
        differences = {path: content_problem(path, path.name.removesuffix(".gz")) for path in paths}
        lines += [
            f"{path}: {path.stat().st_size} bytes, {difference or 'published content'}"
            for path, difference in differences.items()
        ]
        found = [f"{path}: {difference}" for path, difference in differences.items() if difference]
        if missing:
            found += [f"{folder / name}: missing, and so is {name}.gz" for name in missing]
        else:
            try:
                counts[split] = len(read_split(*paths)[0])
            except UserError as error:  # says more about unreadable files than that their content differs
                found = [str(error)]
        problems += found
    number = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
    lines.append(f"{counts['train']} train, {counts['test']} test images, {number}")
    return CheckReport(tuple(lines), tuple(problems))


def _mnist_folder(root: Path) -> Path | None:
    """The folder in or below ``root`` that has at least one of the MNIST files."""
    folders = candidate_directories(root)
    return next((folder for folder in folders if any(find_file(folder, name) for name in _mnist_names())), None)


def _mnist_names() -> list[str]:
    return [name for names in FILES.values() for name in names]

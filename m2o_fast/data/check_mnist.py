"""Looking over MNIST files."""

from __future__ import annotations

from pathlib import Path

from m2o_fast.data.check_report import CheckReport
from m2o_fast.data.fetch import content_problem
from m2o_fast.data.mnist import FILES, candidate_directories, find_file, read_split
from m2o_fast.errors import UserError

#: The files, each of which may also carry the suffix ``.gz``.
NAMES = tuple(name for names in FILES.values() for name in names)


def mnist_folder(root: Path) -> Path | None:
    """The folder in or below ``root`` that has at least one of the MNIST files."""
    folders = candidate_directories(root)
    return next((folder for folder in folders if any(find_file(folder, name) for name in NAMES)), None)


def check_mnist(directory: str | Path) -> CheckReport:
    """Check that the four MNIST files are there, can be read, fit together and are the published ones.

    Args:
        directory: The folder, or one whose ``mnist`` or ``MNIST/raw`` has the files.

    Returns:
        Counts, sizes and checksums; it sums up like ``60000 train, 10000 test images, 0 problems``.
    """
    root = Path(directory).expanduser()
    folder = mnist_folder(root) or root
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
    facts = {"layout": "mnist", "folder": str(folder), "images": counts}
    total = f"{counts['train']} train, {counts['test']} test images"
    return CheckReport(lines, total, problems, facts=facts)

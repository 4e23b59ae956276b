"""How fast a folder of PNG files is translated: image by image, and in batches. A table of docs/use.md.

    python benchmarks/translate_folder.py [--images 600] [--rounds 5] [--folder DIR]

Real digits of 32 x 32 pixels become colored ones, by runs of a few steps of their recipes. Three ways take turns in
one process with one thread of torch: a translation of each file by itself, as of `m2o-fast translate FILE` without its
start; the folder with `--batch-size 1`; and the folder as the command does it by itself. Figures are kept in
benchmarks/results/translate-folder.json, those of the last measurement for each kind of disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from publish import RESULTS, ROOT, replace_between, write_record
from trials import made_by

import m2o_fast
from m2o_fast.data import open_dataset
from m2o_fast.data.images import save_image
from m2o_fast.engine.looks import Request
from m2o_fast.engine.translate import translate_path
from m2o_fast.translators import system
from m2o_fast.translators.base import Translator

RECORD = RESULTS / "translate-folder.json"
PAGE = ROOT / "docs" / "use.md"
SIDE, STEPS = 32, 20
SYSTEMS = {"starganv2": "hms", "munit": "hms"}  # one that is bound to a size, and one of any size
CLOCKS = ("clock", "processor")
WAYS = {"files": "file by file", "ones": "`--batch-size 1`", "batches": "in batches"}

Measured = dict[str, dict[str, float]]


def main() -> None:
    """Measures, and writes the record and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, help="where files are read and written (default: that of temporary ones)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        images = make_images(Path(folder) / "images", options.images)
        found = {}
        for name, variant in SYSTEMS.items():
            run = m2o_fast.train(
                system=name, variant=variant, data="digits", steps=STEPS, run=Path(folder) / name, quiet=True
            )
            found[name] = measured(m2o_fast.load(run, "cpu"), images, Path(folder), options.rounds)
            print(name, json.dumps(found[name]), flush=True)
        disk = file_system(Path(folder))
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    known[disk] = {**made_by(), "images": options.images, "rounds": options.rounds, "systems": found}
    write_record(RECORD, known)
    write_page()


def make_images(folder: Path, count: int) -> Path:
    """A folder with so many digits in gray."""
    digits = open_dataset("digits", split="train", image_size=SIDE)
    for number in range(count):
        image = digits.images("gray", [number % digits.count("gray")])
        save_image(image, folder / f"{number:05d}.png", note="a digit")
    return folder


def measured(translator: Translator, images: Path, folder: Path, rounds: int) -> Measured:
    """Milliseconds that an image takes each way, on the clock and of the processor: medians of the rounds."""
    out, files = folder / "out", sorted(images.iterdir())
    request = Request("color", source="gray")

    def one_by_one() -> None:
        for file in files:
            translate_path(translator, file, out / file.name, request)

    ways: dict[str, Callable[[], object]] = {
        "files": one_by_one,
        "ones": lambda: translate_path(translator, images, out, Request("color", source="gray", batch_size=1)),
        "batches": lambda: translate_path(translator, images, out, request),
    }
    took: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(1 + rounds):  # the first one warms up
        for way, run in ways.items():
            shutil.rmtree(out, ignore_errors=True)
            clock, processor = time.perf_counter(), time.process_time()
            run()
            took[way].append((time.perf_counter() - clock, time.process_time() - processor))
    return {
        way: {name: 1000 * statistics.median(row[i] for row in rows[1:]) / len(files) for i, name in enumerate(CLOCKS)}
        for way, rows in took.items()
    }


def file_system(folder: Path) -> str:
    """The kind of disk that a folder lies on: `tmpfs` is memory."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return max((m for m in mounts if folder.resolve().is_relative_to(m[1])), key=lambda m: len(m[1]))[2]


def write_page() -> None:
    """Writes the table of docs/use.md."""
    replace_between(
        PAGE, "folders: made by translate_folder.py", "end of folders", table(json.loads(RECORD.read_text()))
    )


def table(record: dict[str, Any]) -> list[str]:
    """The lines of the table."""
    facts = [
        f"{found['images']} files on {disk}, {found['rounds']} rounds, {found['machine']}, torch {found['torch']}, "
        f"commit {found['commit']}"
        for disk, found in sorted(record.items())
    ]
    lines = [
        f"Made by `python benchmarks/translate_folder.py` from `benchmarks/results/{RECORD.name}`: gray digits of "
        f"{SIDE} x {SIDE} pixels become colored ones, PNG files in and out, one thread of torch, beside other work. "
        "Milliseconds of the processor for each image, in brackets those of the clock, medians of all rounds; then how "
        "many times as fast batches are. File by file is a call for each, which has its file flushed to the disk. "
        f"Disks, of which tmpfs is memory: {'; '.join(facts)}.\n",
        f"| system, disk | {' | '.join(WAYS.values())} | over file by file | over `--batch-size 1` |",
        f"|{'---|' * (len(WAYS) + 3)}",
    ]
    for name in SYSTEMS:
        for disk, found in sorted(record.items()):
            ways = found["systems"][name]
            cells = [f"{ways[way]['processor']:.2f} ({ways[way]['clock']:.2f})" for way in WAYS]
            title = f"{system(name).title}, {SYSTEMS[name]}, {disk}"
            lines.append(f"| {title} | {' | '.join([*cells, factor(ways, 'files'), factor(ways, 'ones')])} |")
    return lines


def factor(ways: Measured, way: str) -> str:
    """How many times as many images are translated in batches."""
    processor, clock = (ways[way][time] / ways["batches"][time] for time in ("processor", "clock"))
    return f"{processor:.1f} ({clock:.1f})"


if __name__ == "__main__":
    main()

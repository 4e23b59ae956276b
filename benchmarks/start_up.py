"""What the start of a training takes on many made-up images of 32 pixels: the first one, and one that finds all again.

    python benchmarks/start_up.py 50000
    python benchmarks/start_up.py 500000 --different 500   # in each folder, the others are links to them

Needs room for the images and the cache in the folder for temporary files.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from m2o_fast.data import open_dataset
from m2o_fast.data.check import check_folder
from m2o_fast.data.layout import list_domains, splits_of
from m2o_fast.data.one_look import one_look

SIDE = 32
SHARES = {"train": 0.45, "val": 0.05}  # of the images, in each of two domains


def make_images(root: Path, count: int, different: int) -> None:
    """Noise, in colour and gray; after ``different`` ones in a folder come links to them, in turn."""
    random = np.random.default_rng(0)
    for split, share in SHARES.items():
        for domain, shape in (("photo", (SIDE, SIDE, 3)), ("map", (SIDE, SIDE))):
            folder = root / split / domain
            folder.mkdir(parents=True)
            for number in range(round(share * count)):
                file = folder / f"{number:06d}.png"
                if number < different:
                    pixels = random.integers(0, 256, shape, dtype=np.uint8)
                    Image.fromarray(pixels).save(file, compress_level=1)
                else:
                    os.link(folder / f"{number % different:06d}.png", file)


def own_memory() -> int:
    """Kilobytes of this process alone: without what it maps from files, the cache and libraries."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1])


@contextmanager
def watched() -> Iterator[list[int]]:
    """The most of :func:`own_memory` within the ``with`` block, when it is over."""
    most, over = [own_memory()], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            most[0] = max(most[0], own_memory())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield most
    finally:
        over.set()
        watching.join()


def measure(root: Path) -> None:
    """Prints seconds on the clock and of the processor, and the largest memory."""

    def start() -> None:
        options = {"data_dir": root, "image_size": SIDE, "uni": ("map",)}
        with one_look():
            list_domains(root, splits_of(root))  # training looks at the names first
            _ = [open_dataset("folder", split=split, **options) for split in ("train", "test")]

    print(f"before: {own_memory() / 1024:.0f} MB of its own")
    for what, call in (("start", start), ("data check", lambda: check_folder(root))):
        for name in ("first", "again", "again"):
            clock, processor = time.perf_counter(), time.process_time()
            with watched() as most:
                call()
            took = time.perf_counter() - clock, time.process_time() - processor
            seconds = f"{took[0]:.2f} s, {took[1]:.2f} s of processor time"
            print(f"{what}, {name}: {seconds}, {most[0] / 1024:.0f} MB of its own", flush=True)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at most, with all mapped files")


def main() -> None:
    """Makes images, and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, help="images in all")
    parser.add_argument("--different", type=int, help="images in a folder that are files of their own (default: all)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        root = Path(folder) / "images"
        make_images(root, options.count, options.different or options.count)
        time.sleep(3)  # what is new is not believed
        measure(root)


if __name__ == "__main__":
    main()

"""Folders of real pictures that are not digits, to train on: no image of them is part of the project.

    python benchmarks/real_sets.py typefaces OUT --fonts /usr/share/fonts     # Debian: apt-get install fonts-...
    python benchmarks/real_sets.py pictograms OUT --images package/img/twitter/64   # npm pack emoji-datasource-twitter
    python benchmarks/real_sets.py patches OUT                                # scikit-learn's photographs

Each makes OUT/train and OUT/val with two domains: letters of many typefaces and one skeleton for each letter (pairs of
many to one), coloured pictograms and their edges, patches in colour and in gray. Then: m2o-fast data check OUT.
"""

from __future__ import annotations

import argparse
import itertools
import string
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

SIDE = 32
VAL_EVERY = 5  # so many pictures, typefaces or blocks apart one is for testing
PLAIN = "DejaVuSans.ttf"  # the typeface whose letters the skeletons are of
_EDGE = 0.15

T = TypeVar("T")


def split_of(number: int) -> str:
    """Which split something belongs to."""
    return "val" if number % VAL_EVERY == VAL_EVERY - 1 else "train"


def save(picture: Image.Image, path: Path) -> None:
    """Writes a picture and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


# --- typefaces ---


def letter(font: Path, character: str) -> Image.Image | None:
    """A letter in black on white, in the middle of a square; ``None`` where the typeface has none."""
    try:
        drawn = ImageFont.truetype(str(font), 4 * SIDE)
        left, top, right, bottom = drawn.getbbox(character)
    except OSError:
        return None
    if right - left < 4 or bottom - top < 4:
        return None
    side = int(max(right - left, bottom - top) * 1.2)
    picture = Image.new("L", (side, side), 255)
    place = ((side - right - left) // 2, (side - bottom - top) // 2)
    ImageDraw.Draw(picture).text(place, character, font=drawn, fill=0)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def skeleton(picture: Image.Image) -> Image.Image:
    """The middle lines of what is black, one pixel wide (Zhang and Suen, doi 10.1145/357994.358023)."""
    ink = np.pad(np.asarray(picture) < 128, 1)
    changed = True
    while changed:
        changed = False
        for first in (True, False):
            around = [np.roll(ink, shift, (0, 1)) for shift in
                      ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))]  # fmt: skip
            north, east, south, west = around[0], around[2], around[4], around[6]
            count = sum(part.astype(int) for part in around)
            turns = sum((~a & b).astype(int) for a, b in zip(around, [*around[1:], around[0]], strict=True))
            corners = (
                (north & east & south, east & south & west) if first else (north & east & west, north & south & west)
            )
            gone = ink & (count >= 2) & (count <= 6) & (turns == 1) & ~corners[0] & ~corners[1]
            ink = ink & ~gone
            changed = changed or bool(gone.any())
    return Image.fromarray(np.where(ink[1:-1, 1:-1], 0, 255).astype(np.uint8))


def spread(things: list[T], most: int) -> list[T]:
    """At most so many of some things, from the first to the last of them."""
    count = min(most, len(things))
    return [things[number * len(things) // count] for number in range(count)]


def typefaces(out: Path, fonts: Path, most: int = 100) -> None:
    """Letters of at most so many typefaces, ``letter/A/<typeface>.png``, and ``skeleton/A.png``."""
    # A typeface in both formats is taken once.
    files = {path.stem: path for pattern in ("*.otf", "*.ttf") for path in sorted(fonts.rglob(pattern))}
    plain = next((path for path in files.values() if path.name == PLAIN), None)
    if plain is None:
        raise SystemExit(f"{fonts} has no {PLAIN}, which the skeletons are of: apt-get install fonts-dejavu-core")
    chosen = spread([files[stem] for stem in sorted(files)], most)
    for character in string.ascii_uppercase:
        drawn = letter(plain, character)
        assert drawn is not None
        for split in ("train", "val"):
            save(skeleton(drawn), out / split / "skeleton" / f"{character}.png")
        for number, font in enumerate(chosen):
            picture = letter(font, character)
            if picture is not None:
                save(picture, out / split_of(number) / "letter" / character / f"{font.stem}.png")


# --- pictograms ---


def edges(picture: Image.Image) -> Image.Image:
    """Where the colours of a picture change, in black on white."""
    values = np.asarray(picture, dtype=np.float64) / 255
    steps = [np.abs(np.diff(values, axis=axis)).max(2) for axis in (0, 1)]
    strong = np.maximum(np.pad(steps[0], ((0, 1), (0, 0))), np.pad(steps[1], ((0, 0), (0, 1)))) > _EDGE
    return Image.fromarray(np.where(strong, 0, 255).astype(np.uint8))


def pictograms(out: Path, images: Path) -> None:
    """Pictograms on white, ``color/<name>.png``, and their edges, ``line/<name>.png``."""
    files = sorted(images.glob("*.png"))
    if not files:
        raise SystemExit(f"{images} has no PNG files")
    for number, path in enumerate(files):
        with Image.open(path) as picture:
            drawn = picture.convert("RGBA")
        white = Image.new("RGBA", drawn.size, "white")
        flat = Image.alpha_composite(white, drawn).convert("RGB")
        flat = ImageOps.pad(flat, (SIDE, SIDE), Image.Resampling.LANCZOS, color="white")
        save(flat, out / split_of(number) / "color" / path.name)
        save(edges(flat), out / split_of(number) / "line" / path.name)


# --- patches ---


class Block(NamedTuple):
    """A square of a photograph, twice as wide as patches; none overlaps another.

    Attributes:
        photograph: The number of the photograph.
        place: Its row plus its column: odd or even, as the colours of a chessboard.
        pixels: uint8 ``[2 SIDE, 2 SIDE, 3]``.
    """

    photograph: int
    place: int
    pixels: np.ndarray

    def patches(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Overlapping ones: top, left, and uint8 ``[SIDE, SIDE, 3]``."""
        for top in range(0, SIDE + 1, SIDE // 4):
            for left in range(0, SIDE + 1, SIDE // 4):
                yield top, left, self.pixels[top : top + SIDE, left : left + SIDE]


def photographs() -> Iterator[np.ndarray]:
    """The two that come with scikit-learn, uint8 ``[H, W, 3]``."""
    from sklearn.datasets import load_sample_images

    yield from load_sample_images().images


def blocks() -> Iterator[Block]:
    """All of the photographs."""
    for photograph, picture in enumerate(photographs()):
        rows, columns = (length // (2 * SIDE) for length in picture.shape[:2])
        for row, column in itertools.product(range(rows), range(columns)):
            top, left = 2 * SIDE * row, 2 * SIDE * column
            yield Block(photograph, row + column, picture[top : top + 2 * SIDE, left : left + 2 * SIDE])


def patches(out: Path) -> None:
    """Patches of photographs, ``color/<number>.png``, and the same in gray, ``gray/<number>.png``."""
    for number, block in enumerate(blocks()):
        for top, left, pixels in block.patches():
            patch = Image.fromarray(pixels)
            name = f"{number:04d}-{top:02d}-{left:02d}.png"
            save(patch, out / split_of(number) / "color" / name)
            save(patch.convert("L"), out / split_of(number) / "gray" / name)


def main(arguments: list[str] | None = None) -> None:
    """Makes one set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=("typefaces", "pictograms", "patches"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    parser.add_argument("--images", type=Path)
    given = parser.parse_args(arguments)
    if given.out.exists():
        raise SystemExit(f"{given.out} exists already; name another folder")
    if given.kind == "typefaces":
        typefaces(given.out, given.fonts)
    elif given.kind == "patches":
        patches(given.out)
    elif given.images is None:
        raise SystemExit("--images DIR: the folder of the pictograms")
    else:
        pictograms(given.out, given.images)


if __name__ == "__main__":
    main()

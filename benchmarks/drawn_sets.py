"""Folders of pictures that are drawn by rule, to train on: digits in four domains, and scenes with label maps.

    python benchmarks/drawn_sets.py domains OUT    # own images: two multi-modal and two uni-modal domains
    python benchmarks/drawn_sets.py scenes OUT     # scenes of 12 classes, in the layout of ADE20K

**domains**: scikit-learn's digits g in [0, 1], all domains of the same ones, so that every image has its pairs by name.

| domain | image | |
|---|---|---|
| color | g c, with a colour c for each digit by the law "rgb" of the digits data | multi-modal |
| tones | g c + (1 - g) d, with colours c and d whose largest difference of a channel is at least 1/4 | multi-modal |
| gray | g | uni-modal |
| edges | the largest g among a pixel and its neighbours, minus the smallest | uni-modal |

**scenes**: 32 x 32 pixels. Ground of a class, and 4 to 8 shapes on it, one over the other, each of a class of its own
draw: disc, square, triangle or bar, with a radius of 4 to 12 pixels anywhere in the picture. Of a class is the texture
alone: plain, stripes across, stripes along, chequers, each in three coarsenesses or, where plain, three greys of
noise. What varies and cannot be read off the label map are the two colours of each shape, which are uniform in the cube
with a largest difference of a channel of at least 1/4, and the phase of its texture. Of plain shapes the second colour
is that of the noise. 12 classes, numbered from 1; there is no void.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from PIL import Image
from real_sets import save

from m2o_fast.data.colorize import draw_colors
from m2o_fast.data.digits import load_digits
from m2o_fast.randomness import numpy_generator

SIDE = 32
LEAST = 0.25  # the largest difference of a channel between two colours of a picture is at least this
SCENES = {"training": 2000, "validation": 300}
SHAPES = ("disc", "square", "triangle", "bar")
TEXTURES = ("plain", "across", "along", "chequers")
COARSENESS = (1, 2, 4)  # pixels of a stripe; of plain textures, 16ths by which they are noisy
CLASSES = len(TEXTURES) * len(COARSENESS)


def two_colors(count: int, generator: np.random.Generator) -> np.ndarray:
    """float32 ``[2, count, 3]`` in [0, 1]."""
    first, second = draw_colors("rgb", count, generator), draw_colors("rgb", count, generator)
    while (near := abs(first - second).max(axis=1) < LEAST).any():
        second[near] = draw_colors("rgb", int(near.sum()), generator)
    return np.stack([first, second])


# --- digits in four domains ---


def domains(out: Path) -> None:
    """``OUT/<split>/<domain>/<number>.png``."""
    for split, folder in (("train", "train"), ("test", "val")):
        digits, _ = load_digits(split, SIDE)
        generator = numpy_generator(0, f"drawn domains/{split}")
        framed = F.pad(digits.float(), (1, 1, 1, 1))
        edges = (F.max_pool2d(framed, 3, 1) + F.max_pool2d(-framed, 3, 1))[:, 0].numpy()
        gray = digits[:, 0].numpy() / 255
        color = draw_colors("rgb", len(gray), generator)
        (ink, paper), shade = two_colors(len(gray), generator)[:, :, None, None], gray[..., None]
        pictures = {
            "color": 255 * shade * color[:, None, None],
            "tones": 255 * (shade * ink + (1 - shade) * paper),
            "gray": 255 * gray,
            "edges": edges,
        }
        for domain, values in pictures.items():
            for number, pixels in enumerate(values.round().astype(np.uint8)):
                save(Image.fromarray(pixels), out / folder / domain / f"{number:04d}.png")


# --- scenes with label maps ---


def covered(shape: str, generator: np.random.Generator) -> np.ndarray:
    """bool ``[SIDE, SIDE]``: the pixels of a shape."""
    row, column = np.mgrid[:SIDE, :SIDE] - generator.uniform(0, SIDE, (2, 1, 1))
    radius = generator.uniform(4, 12)
    match shape:
        case "disc":
            return row**2 + column**2 < radius**2
        case "square":
            return np.maximum(abs(row), abs(column)) < radius
        case "triangle":
            return (row < radius) & (2 * abs(column) < radius + row)
    angle = generator.uniform(0, np.pi)
    along, across = row * np.sin(angle) + column * np.cos(angle), row * np.cos(angle) - column * np.sin(angle)
    return (abs(along) < 2 * radius) & (abs(across) < radius / 3)


def texture(number: int, generator: np.random.Generator) -> np.ndarray:
    """float ``[SIDE, SIDE, 1]`` in [0, 1]: the share of the second colour, of a class from 1."""
    kind, coarseness = divmod(number - 1, len(COARSENESS))
    width = COARSENESS[coarseness]
    row, column = np.mgrid[:SIDE, :SIDE] + generator.integers(0, 2 * width, (2, 1, 1))
    match TEXTURES[kind]:
        case "plain":
            share = width / 16 * generator.random((SIDE, SIDE))
        case "across":
            share = row // width % 2
        case "along":
            share = column // width % 2
        case _:
            share = (row // width + column // width) % 2
    return np.asarray(share, dtype=np.float64)[..., None]


def scene(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """uint8 ``[SIDE, SIDE, 3]``, and the class of each pixel, uint8 ``[SIDE, SIDE]``."""
    picture, labels = np.zeros((SIDE, SIDE, 3)), np.zeros((SIDE, SIDE), dtype=np.uint8)
    for layer in range(1 + int(generator.integers(4, 9))):
        number = int(generator.integers(1, CLASSES + 1))
        where = np.ones_like(labels, dtype=bool) if layer == 0 else covered(str(generator.choice(SHAPES)), generator)
        share = texture(number, generator)
        first, second = two_colors(1, generator)
        picture[where] = ((1 - share) * first + share * second)[where]
        labels[where] = number
    return (255 * picture).round().astype(np.uint8), labels


def scenes(out: Path) -> None:
    """``OUT/images/<split>/<number>.png`` and ``OUT/annotations/<split>/<number>.png``."""
    for split, count in SCENES.items():
        for number in range(count):
            picture, labels = scene(numpy_generator(0, f"drawn scenes/{split}", number))
            save(Image.fromarray(picture), out / "images" / split / f"{number:04d}.png")
            save(Image.fromarray(labels), out / "annotations" / split / f"{number:04d}.png")


KINDS: dict[str, Callable[[Path], None]] = {"domains": domains, "scenes": scenes}


def drawn(kind: str, out: Path) -> Path:
    """The folder of a set, which is drawn if it is not there; it comes into being as a whole."""
    if not out.exists():
        begun = out.with_name(f"{out.name}.begun")
        KINDS[kind](begun)
        begun.rename(out)
    return out


def main(arguments: list[str] | None = None) -> None:
    """Draws one set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    if given.out.exists():
        raise SystemExit(f"{given.out} exists already; name another folder")
    drawn(given.kind, given.out)


if __name__ == "__main__":
    main()

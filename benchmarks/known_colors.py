"""Generators of known law: what recall_study.py measures the measures with. Nothing here is trained.

A colour of the colorized digits is uniform in the cube without its dark corner: in 63 of the 64 cells of Color Recall,
each as likely as the others. So the right law is a cell drawn from 63 and a place in it, and each other law is a change
of that one. A generator draws a colour for each picture, then paints the digit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from m2o_fast.randomness import torch_generator

SIDE = 4  # cells along a channel
CORNERS = torch.tensor([cell for cell in product(range(SIDE), repeat=3) if any(cell)], dtype=torch.float64)
CELLS = len(CORNERS)
DIGITS = 10
NUMBERS = 9  # of a picture: cell and place of its colour, the same of a second one, and one for whatever else


class Draws(NamedTuple):
    """What the colours of n pictures are made of.

    Attributes:
        numbers: float64 ``[n, NUMBERS]``, uniform in [0, 1).
        of_source: The same, but all pictures of a source have the same ones.
        place: float64 ``[n]``: where the source stands in a shuffled list of all sources, in (0, 1), evenly spaced.
        span: float64 ``[n, 2]``: where the sources of the same digit begin and end in the list by digits, in [0, 1].
    """

    numbers: Tensor
    of_source: Tensor
    place: Tensor
    span: Tensor


Colors = Callable[[Draws], Tensor]  # float64 [n, 3] in [0, 1]
#: content ``[n, 1, S, S]`` in [0, 1], colours ``[n, 3]`` and what they are made of -> pictures ``[n, 3, S, S]``
Paint = Callable[[Tensor, Tensor, Draws], Tensor]


def draws(labels: Tensor, outputs: int, seed: int) -> Draws:
    """Those of the outputs of each source, whose digit is its label (int64 ``[sources]``); n is sources x outputs."""
    sources = len(labels)
    generator = torch_generator(seed, "known colors")
    numbers = torch.rand((sources * outputs, NUMBERS), generator=generator, dtype=torch.float64)
    of_source = torch.rand((sources, NUMBERS), generator=generator, dtype=torch.float64)
    place = (torch.randperm(sources, generator=generator) + 0.5) / sources
    ends = labels.bincount(minlength=DIGITS).cumsum(0) / sources
    span = torch.stack((torch.cat((ends.new_zeros(1), ends[:-1])), ends), dim=1)[labels]
    repeated = (part.double().repeat_interleave(outputs, dim=0) for part in (of_source, place, span))
    return Draws(numbers, *repeated)


def even_draws(count: int) -> Draws:
    """Of so many sources with a picture each, spread so evenly (Sobol's sequence) that they stand for all there are."""
    numbers = torch.quasirandom.SobolEngine(NUMBERS + 1).draw(count, dtype=torch.float64)
    digit = (numbers[:, NUMBERS] * DIGITS).floor()
    return Draws(numbers[:, :NUMBERS], numbers[:, :NUMBERS], numbers[:, 0], torch.stack((digit, digit + 1), 1) / DIGITS)


# --- laws of colours --------------------------------------------------------------------------------------------------


def of_cells(cells: Sequence[int] | Tensor) -> Colors:
    """Uniform in some of the cells, given by their numbers in ``CORNERS``."""
    chosen = CORNERS[torch.as_tensor(cells)]

    def colors(given: Draws) -> Tensor:
        which = (given.numbers[:, 0] * len(chosen)).long().clamp(max=len(chosen) - 1)
        return (chosen[which] + given.numbers[:, 1:4]) / SIDE

    return colors


right = of_cells(range(CELLS))


def scattered(missing: int) -> Colors:
    """Without so many cells, from everywhere; what lacks more of them lacks these, too."""
    return of_cells(torch.randperm(CELLS, generator=torch_generator(0, "missing cells"))[missing:])


#: without the cells whose red is below 1/2: 31 of them, side by side
much_red = of_cells((CORNERS[:, 0] >= SIDE / 2).nonzero()[:, 0])


def shifted(by: float) -> Colors:
    """All channels brighter; what leaves the cube stays at its edge."""
    return lambda given: (right(given) + by).clamp(max=1)


def narrowed(factor: float) -> Colors:
    """Drawn together towards the middle of the cube."""
    return lambda given: 0.5 + factor * (right(given) - 0.5)


def one_color(given: Draws) -> Tensor:
    """Orange for all."""
    return torch.tensor([0.9, 0.6, 0.1], dtype=torch.float64).expand(len(given.numbers), 3)


def middles(given: Draws) -> Tensor:
    """63 colours: the middle of each cell."""
    return ((right(given) * SIDE).floor() + 0.5) / SIDE


def partly_black(share: float) -> Colors:
    """Some in the dark corner, where no real colour is; the last number says which."""
    return lambda given: torch.where(given.numbers[:, -1:] < share, given.numbers[:, 1:4] / SIDE, right(given))


def one_a_source(given: Draws) -> Tensor:
    """Every source has a colour of the right law, and no other."""
    return right(given._replace(numbers=given.of_source))


def one_a_source_evenly(given: Draws) -> Tensor:
    """The same, and as many sources in each cell as in the others."""
    return right(given._replace(numbers=torch.cat((given.place[:, None], given.of_source[:, 1:]), dim=1)))


def by_digit(given: Draws) -> Tensor:
    """Every digit has a part of the cells of its own, as large as its share of the sources, so all have all cells."""
    begin, end = given.span.unbind(1)
    cell = begin + given.numbers[:, 0] * (end - begin)
    return right(given._replace(numbers=torch.cat((cell[:, None], given.numbers[:, 1:]), dim=1)))


# --- pictures ---------------------------------------------------------------------------------------------------------


def in_one_color(content: Tensor, colors: Tensor, given: Draws) -> Tensor:
    """Content times colour."""
    return content * colors.float()[:, :, None, None]


def noisy(deviation: float) -> Paint:
    """With normal noise on every pixel and channel, the background, too."""

    def paint(content: Tensor, colors: Tensor, given: Draws) -> Tensor:
        pictures = in_one_color(content, colors, given)
        generator = torch.Generator().manual_seed(int(given.numbers[0, -1] * 2**53))
        return (pictures + deviation * torch.randn(pictures.shape, generator=generator)).clamp(0, 1)

    return paint


def second_color(given: Draws) -> Tensor:
    """Another colour of the right law, drawn independently: float64 ``[n, 3]``."""
    return right(given._replace(numbers=given.numbers[:, 4:8]))


def on_background(content: Tensor, colors: Tensor, given: Draws) -> Tensor:
    """The background, where there is no content at all, in a second colour."""
    return torch.where(
        content == 0, second_color(given).float()[:, :, None, None], in_one_color(content, colors, given)
    )


def in_two_colors(content: Tensor, colors: Tensor, given: Draws) -> Tensor:
    """The upper half in one colour, the lower half in another one."""
    upper, lower = (in_one_color(content, some, given) for some in (colors, second_color(given)))
    half = content.shape[2] // 2
    return torch.cat((upper[:, :, :half], lower[:, :, half:]), dim=2)


def of_another_source(content: Tensor, colors: Tensor, given: Draws) -> Tensor:
    """The last source's digit in the place of the first one's, and so on: another one, of an even number of sources."""
    return in_one_color(content.flip(0), colors, given)


class Generator(NamedTuple):
    """A law of colours, and how a digit is painted in one."""

    colors: Colors
    paint: Paint = in_one_color


RIGHT = "the right law"
GENERATORS = {
    RIGHT: Generator(right),
    **{f"{count} of 63 cells missing": Generator(scattered(count)) for count in (3, 16, 31, 56)},
    "31 missing, side by side": Generator(much_red),
    **{f"all channels +1/{part}": Generator(shifted(1 / part)) for part in (32, 16, 8, 4)},
    **{f"spread x {factor}": Generator(narrowed(factor)) for factor in (0.9, 0.75, 0.5)},
    "1 in 10 nearly black": Generator(partly_black(0.1)),
    "63 colours, one a cell": Generator(middles),
    "one colour for all": Generator(one_color),
    "one colour a source": Generator(one_a_source),
    "one a source, evenly": Generator(one_a_source_evenly),
    "the digit decides": Generator(by_digit),
    **{f"noise, {deviation}": Generator(right, noisy(deviation)) for deviation in (0.05, 0.2)},
    "background painted": Generator(right, on_background),
    "two colours": Generator(right, in_two_colors),
    "another digit": Generator(right, of_another_source),
}

"""Colorized digits: gray digits g and the same digits in random colours c, x = g * c.

The colour domain is multi-modal (one digit has every colour), the gray one is uni-modal. Source of the task:
arXiv 2402.12531, Colorized MNIST.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from m2o_fast.data.dataset import Dataset, Numbers, as_numbers, known_pairs
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.randomness import numpy_generator

ColorLaw = Literal["rgb", "hue"]

#: The brightest channel of a colour of the law ``"rgb"`` is at least this: a darker digit would be invisible.
DARKEST = 0.25

_TABLES_KEPT = 16  # sources and references may be in different epochs, and a batch may span two


def draw_colors(law: ColorLaw, count: int, generator: np.random.Generator) -> np.ndarray:
    """Independent random colours.

    Args:
        law: ``"rgb"``: uniform in the RGB cube without its dark corner, i.e. given that the largest channel is at
            least :data:`DARKEST`. ``"hue"``: fully saturated and bright, the hue uniform on the colour circle.
        count: How many.
        generator: Where the random numbers come from.

    Returns:
        float32 ``[count, 3]`` in [0, 1].
    """
    if law == "hue":
        hue = 6.0 * generator.random(count, dtype=np.float32)
        return np.clip(np.stack([abs(hue - 3) - 1, 2 - abs(hue - 2), 2 - abs(hue - 4)], axis=1), 0.0, 1.0)
    colors = generator.random((count, 3), dtype=np.float32)
    while (dark := colors.max(axis=1) < DARKEST).any():  # rejection: exact, and one colour in 64 is drawn again
        colors[dark] = generator.random((int(dark.sum()), 3), dtype=np.float32)
    return colors


@lru_cache(maxsize=_TABLES_KEPT)
def _color_table(law: ColorLaw, seed: int, split: str, epoch: int, count: int) -> Tensor:
    return torch.from_numpy(draw_colors(law, count, numpy_generator(seed, f"color/{law}/{split}", epoch)))


class ColorizedDigits(Dataset):
    """Gray digits and the same digits in a fresh random colour in every epoch.

    Both domains number the same digits, so image i of ``color`` has the pair i of ``gray``. The gray images are kept
    as uint8; coloured ones are made when asked for. Image values and products are float32, and ``x == g * c`` exactly.

    Attributes:
        labels: int64 ``[count]``: which digit each image shows, 0 to 9.
        split: The name of the split; each split has its own colours.
    """

    def __init__(
        self,
        content: Tensor,
        labels: Tensor,
        *,
        split: str,
        color_law: ColorLaw = "rgb",
        seed: int = 777,
        pair_fraction: float = 1.0,
    ) -> None:
        """Wrap gray digits.

        Args:
            content: uint8 ``[count, 1, S, S]``, black background.
            labels: int64 ``[count]``.
            split: Name of the split, part of the key of its colours.
            color_law: The colour distribution, see :func:`draw_colors`.
            seed: Seed of the colours and of the choice of known pairs.
            pair_fraction: Share of the coloured images whose gray image counts as known, in [0, 1]. The choice is
                fixed by the seed, and a larger share contains a smaller one.

        Raises:
            ValueError: If the shapes do not fit; ``UserError`` if an option is out of range.
        """
        if content.dtype != torch.uint8 or content.ndim != 4 or content.shape[1] != 1:
            raise ValueError(f"content must be uint8 [count, 1, S, S], got {content.dtype} {list(content.shape)}")
        if content.shape[0] == 0 or content.shape[2] != content.shape[3]:
            raise ValueError(f"content must hold at least one square image, got {list(content.shape)}")
        if labels.shape != content.shape[:1]:
            raise ValueError(f"{content.shape[0]} images need as many labels, got {list(labels.shape)}")
        if color_law not in get_args(ColorLaw):
            raise UserError(f"unknown colour law {color_law!r}; choose from {', '.join(get_args(ColorLaw))}")
        self.domains = (Domain("color", 3, multimodal=True), Domain("gray", 1, multimodal=False))
        self.image_size = content.shape[2]
        self.fingerprint = _fingerprint(content, split, color_law, seed)
        self.labels = labels.to(torch.int64)
        self.split = split
        self._content = content.contiguous()
        self._law = color_law
        self._seed = seed
        self._pair_known = known_pairs(len(content), pair_fraction, seed, split)

    def count(self, domain: str | int) -> int:
        """The number of images of ``domain``: the number of digits."""
        self.domain_index(domain)
        return self._content.shape[0]

    def content(self, indices: Numbers) -> Tensor:
        """The gray digits g, float32 ``[n, 1, S, S]`` in [0, 1]."""
        return self._content[self.checked_indices("gray", indices)].to(torch.float32) / 255

    def colors(self, indices: Numbers, epochs: Numbers | int = 0) -> Tensor:
        """The colours c of the coloured images in the given epochs, float32 ``[n, 3]`` in [0, 1]."""
        rows = self.checked_indices("color", indices)
        if isinstance(epochs, int):
            return self._table(epochs)[rows]
        wanted = as_numbers(epochs, "epochs")
        if wanted.shape != rows.shape:
            raise ValueError(f"{rows.numel()} images need as many epochs, got {wanted.numel()}")
        colors = torch.empty(rows.numel(), 3)
        for epoch in wanted.unique().tolist():
            chosen = wanted == epoch
            colors[chosen] = self._table(epoch)[rows[chosen]]
        return colors

    def images(self, domain: str | int, indices: Numbers, epochs: Numbers | int = 0) -> Tensor:
        """Images by number, see :meth:`Dataset.images`: g for ``gray``, g * c for ``color``."""
        indices = self.checked_indices(domain, indices)
        content = self.content(indices)
        if self.domains[self.domain_index(domain)].name == "gray":
            return content
        return content * self.colors(indices, epochs)[:, :, None, None]

    def pair(
        self, source: str | int, target: str | int, indices: Numbers, epochs: Numbers | int = 0
    ) -> tuple[Tensor, Tensor] | None:
        """The same digits in the other domain, see :meth:`Dataset.pair`; in colour as the epoch has it."""
        if self.domain_index(source) == self.domain_index(target):
            return None
        known = self._pair_known[self.checked_indices(source, indices)]
        return self.images(target, indices, epochs) * known[:, None, None, None], known

    def _table(self, epoch: int) -> Tensor:
        return _color_table(self._law, self._seed, self.split, epoch, self._content.shape[0])


def _fingerprint(content: Tensor, split: str, law: str, seed: int) -> str:
    digest = hashlib.sha256(f"{split}/{law}/{seed}/{list(content.shape)}".encode())
    digest.update(content.contiguous().numpy().data)
    return digest.hexdigest()

"""Which images a sample grid shows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from m2o_fast.data.folder import FolderDataset
from m2o_fast.engine.samples import COLUMNS, DIRECTIONS, SampleGrid, chosen_images, shown_directions
from m2o_fast.m2o import Domain

LOOKS = 5


class Unchanged:
    """Translates a domain with styles into one without, and gives every image back."""

    domains = (Domain("map", 1, multimodal=False), Domain("photo", 1))

    def parameters(self):
        return iter([torch.zeros(1)])

    def has_style(self, domain: int) -> bool:
        return domain == 1

    def reads_style(self, domain: int) -> bool:
        return False

    def directions(self) -> tuple[tuple[int, int], ...]:
        return ((1, 0),)

    def translate(self, x: torch.Tensor, source: int, target: int) -> torch.Tensor:
        return x


def folder(pair_fraction: float) -> FolderDataset:
    """20 contents, five looks of each; an image's gray level is its number."""
    names = [f"{number:02d}" for number in range(20)]
    levels = [np.arange(n, dtype=np.uint8)[:, None, None, None] for n in (20, 20 * LOOKS)]
    keys = [names, [name for name in names for _ in range(LOOKS)]]
    return FolderDataset(Unchanged.domains, levels, keys, split="test", fingerprint="", pair_fraction=pair_fraction)


def test_a_grid_shows_different_contents_and_the_same_in_every_run() -> None:
    data = folder(1.0)
    rows = SampleGrid(data, Unchanged(), 1).translate(Unchanged())[1, 0]
    shown = ((rows["source"].flatten() + 1) / 2 * 255).round().int().tolist()
    assert shown == chosen_images(data, 1, COLUMNS)
    assert len({number // LOOKS for number in shown}) == COLUMNS
    assert max(shown) >= 80  # from the whole split
    assert torch.equal(SampleGrid(data, Unchanged(), 2).rows(Unchanged(), 1, 0)["source"], rows["source"])


def test_how_many_pairs_a_run_learns_from_does_not_change_what_is_shown() -> None:
    assert chosen_images(folder(0.0), 1, COLUMNS) == chosen_images(folder(1.0), 1, COLUMNS)


def translator_of(domains: int) -> Any:
    """Of so many domains, between all of which it translates."""
    ways = tuple((a, b) for a in range(domains) for b in range(domains))
    return SimpleNamespace(domains=range(domains), directions=lambda: ways)


def test_sample_grids_of_many_domains_show_some_directions_into_each() -> None:
    assert shown_directions(translator_of(2)) == [(0, 1), (1, 0)]
    assert len(shown_directions(translator_of(4))) == DIRECTIONS
    assert shown_directions(translator_of(5)) == [(4, 0), (0, 1), (1, 2), (2, 3), (3, 4)]
    assert len(shown_directions(translator_of(21))) == DIRECTIONS

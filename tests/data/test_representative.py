"""The images that are shown stand for all: from everywhere, of different contents, the same ones every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m2o_fast.data.folder import FolderDataset
from m2o_fast.data.representative import representative, some_of
from m2o_fast.m2o import Domain


@pytest.mark.parametrize(("images", "count"), [(1000, 8), (9, 8), (8, 8), (13, 5), (100, 64)])
def test_every_stretch_gives_one_image(images: int, count: int) -> None:
    chosen = representative(torch.arange(images), count, "a")
    borders = [k * images // count for k in range(count + 1)]
    assert all(first <= number < last for first, number, last in zip(borders, chosen, borders[1:], strict=False))
    assert len(chosen) == count


def test_the_choice_is_fixed_and_another_one_for_every_domain() -> None:
    first = representative(torch.arange(1000), 8, "a")
    assert first == representative(torch.arange(1000), 8, "a") != representative(torch.arange(1000), 8, "b")
    assert first != [k * 125 for k in range(8)] and first != list(range(8))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_with_few_images_all_are_chosen(count: int) -> None:
    assert representative(torch.arange(count), 8, "a") == list(range(count))


def test_no_content_comes_twice_before_all_have_come() -> None:
    """40 images: content 0 has 31 looks, as a flag that is drawn for 31 countries; nine have one each."""
    contents = torch.tensor([0] * 31 + list(range(1, 10)))
    shown = [int(contents[number]) for number in representative(contents, 8, "a")]
    assert len(set(shown)) == 8
    everything = representative(contents, 12, "a")
    assert sorted(int(contents[number]) for number in everything) == [0, 0, 0, *range(1, 10)]
    assert len(set(everything)) == 12
    assert sorted(representative(contents, 99, "a")) == list(range(40))


def test_which_look_of_a_content_is_chosen_does_not_depend_on_its_place() -> None:
    """Of 64 contents with four looks each not always the first one is shown."""
    contents = torch.arange(64).repeat_interleave(4)
    looks = {number % 4 for number in representative(contents, 64, "a")}
    assert looks == {0, 1, 2, 3}


def test_own_images_know_their_contents() -> None:
    domains = [Domain("map", 1, multimodal=False), Domain("photo", 1)]
    images = [np.zeros((n, 1, 4, 4), dtype=np.uint8) for n in (2, 5)]
    data = FolderDataset(domains, images, [["x", "y"], ["y", "x", "x", "z", "y"]], split="test", fingerprint="")
    assert data.contents("map").tolist() == [0, 1]
    assert data.contents(1).tolist() == [0, 1, 1, 2, 0]


def test_some_of_a_list() -> None:
    assert some_of([], 3) == [] and some_of("abc", 5) == ["a", "b", "c"]
    some = some_of(list("abcdefghijkl"), 3)
    assert some == sorted(some) and len(set(some)) == 3

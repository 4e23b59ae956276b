"""What the extractor own is trained on: few bytes, and a name that says which pictures they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from m2o_fast.data.folder import FolderDataset
from m2o_fast.engine.evaluation import extractor
from m2o_fast.engine.evaluation.extractor import own_of_data, own_of_images
from m2o_fast.engine.evaluation.images import TensorImages
from m2o_fast.m2o import Domain

COUNT, SIDE = 150, 70


def photos(seed: int = 0, first: int = 0) -> FolderDataset:
    """Colour and gray ones; ``seed`` says which pairs are known, ``first`` the level of the first pixel."""
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (COUNT, channels, SIDE, SIDE), dtype=np.uint8) for channels in (3, 1)]
    images[0][0, 0, 0, 0] = first
    domains = Domain("photo", 3), Domain("sketch", 1, multimodal=False)
    keys = [[f"{number:03d}" for number in range(COUNT)]] * 2
    return FolderDataset(domains, images, keys, split="train", fingerprint="", seed=seed, pair_fraction=0.5)


def test_pictures_are_read_in_parts_and_kept_small(monkeypatch: pytest.MonkeyPatch) -> None:
    data, read, said = photos(), [], []
    images = FolderDataset.images

    def seen(self: FolderDataset, domain: str | int, indices: Sequence[int], *more: Any) -> Tensor:
        read.append(len(indices))
        return images(self, domain, indices, *more)

    monkeypatch.setattr(FolderDataset, "images", seen)
    monkeypatch.setattr(extractor, "_MOST", 100)
    source = own_of_data(lambda: data, said.append)
    assert said == [] and sum(read) == 200 and max(read) <= 64
    photo, sketch = source.load()
    assert photo.dtype == sketch.dtype == torch.uint8 and source.size == 64
    assert photo.shape == (100, 3, 64, 64) and sketch.shape == (100, 1, 64, 64)
    assert said == ["training the extractor own on images of photo and sketch, which takes a minute or more"]


def test_the_same_pictures_have_the_same_name() -> None:
    key = own_of_data(photos, print).key
    other_pairs = photos(seed=1)
    assert other_pairs.fingerprint != photos().fingerprint
    assert own_of_data(lambda: other_pairs, print).key == key
    assert own_of_data(lambda: photos(first=255), print).key != key


def test_images_that_are_no_data_set_have_theirs_as_well() -> None:
    images = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8)
    source = own_of_images(TensorImages(images, "real"), 16, print)
    (pictures,) = source.load()
    assert pictures.shape == (9, 3, 32, 32) and source.size == 32
    assert own_of_images(TensorImages(images.float() / 255, "others"), 16, print).key == source.key
    assert own_of_images(TensorImages(images.flip(0), "others"), 16, print).key != source.key

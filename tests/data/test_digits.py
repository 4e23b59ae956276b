from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
import torch

from m2o_fast.data import open_dataset
from m2o_fast.data.digits import load_digits
from m2o_fast.errors import UserError


def test_the_splits_partition_the_set_with_equal_class_shares() -> None:
    from sklearn import datasets

    (train, train_labels), (test, test_labels) = load_digits("train", 8), load_digits("test", 8)
    assert len(train) == 1437 and len(test) == 360
    shares = [np.bincount(labels) / len(labels) for labels in (train_labels, test_labels)]
    assert np.abs(shares[0] - shares[1]).max() < 0.003
    total = np.bincount(train_labels) + np.bincount(test_labels)
    assert total.tolist() == np.bincount(datasets.load_digits().target).tolist()
    whole = Counter(image.tobytes() for image in torch.cat([train, test]).numpy())
    again = Counter(
        image.tobytes() for image in torch.cat([load_digits("test", 8)[0], load_digits("train", 8)[0]]).numpy()
    )
    assert whole == again and len(whole) > 1780  # nearly all images differ, so no image is in both splits
    assert not {image.tobytes() for image in train.numpy()} & {image.tobytes() for image in test.numpy()}


@pytest.mark.parametrize("size", [16, 32, 64])
def test_images_are_white_strokes_inside_a_black_frame(size: int) -> None:
    images, labels = load_digits("test", size)
    assert images.shape == (360, 1, size, size) and images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert images.amax((1, 2, 3)).min() > 200
    frame = torch.cat([images[..., 0], images[..., -1], images[..., 0, :], images[..., -1, :]], dim=-1)
    assert frame.max() < 40


def test_the_images_show_the_originals() -> None:
    from sklearn import datasets

    originals = torch.from_numpy(datasets.load_digits().images)[:, None]
    images = torch.cat([load_digits("train", 40)[0], load_digits("test", 40)[0]]).double() / 255 * 16
    small = torch.nn.functional.avg_pool2d(images, 4)[:, :, 1:-1, 1:-1]
    nearest = torch.cdist(small.flatten(1), originals.flatten(1).double()).min(dim=1)
    assert len(nearest.indices.unique()) > 1780 and nearest.values.max() / 8 < 1.5  # root mean square, of 16


def test_open_dataset_does_not_let_the_seed_choose_the_split() -> None:
    a, b = (open_dataset("digits", split="test", image_size=8, seed=seed) for seed in (1, 2))
    everyone = range(360)
    assert torch.equal(a.content(everyone), b.content(everyone)) and torch.equal(a.labels, b.labels)
    assert not torch.equal(a.colors(everyone), b.colors(everyone))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UserError, match="unknown data set 'cifar'; choose from digits, mnist"):
        open_dataset("cifar", split="train")
    with pytest.raises(UserError, match="unknown split 'val'; choose from train, test"):
        open_dataset("digits", split="val")
    for size, smallest in ((0, 1), (-32, 1), (4, 8)):
        with pytest.raises(UserError, match=f"at least {smallest}, got {size}"):
            open_dataset("digits", split="train", image_size=size)


def test_which_sizes_there_are_is_for_the_system_to_say() -> None:
    assert open_dataset("digits", split="test", image_size=44).content([0]).shape == (1, 1, 44, 44)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        load_digits("train", 8)


def test_a_folder_that_is_not_read_is_said(tmp_path) -> None:
    with pytest.warns(RuntimeWarning, match="'digits' needs no folder"):
        open_dataset("digits", split="test", data_dir=tmp_path)

"""Scores of label maps against hand-made maps, the benchmark's formula written out, and torchmetrics."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from m2o_fast.metrics import Confusion

TRUTH = torch.tensor([[[0, 1, 1], [2, 2, 2], [0, 1, 3]]])
PREDICTED = torch.tensor([[[1, 1, 2], [2, 2, 0], [4, 1, 3]]])


def plain_scores(predicted, truth, classes):
    """The benchmark: the prediction is blanked where nothing is labelled; areas are summed over the set."""
    predicted, truth = predicted.numpy() * (truth.numpy() > 0), truth.numpy()
    same = predicted * (predicted == truth)
    bins = np.arange(1, classes + 1) - 0.5
    intersection, area_p, area_t = (np.histogram(a, bins)[0] for a in (same, predicted, truth))
    union = area_p + area_t - intersection
    iou = intersection / (union + 1e-10)
    right = ((truth > 0) * (predicted == truth)).sum()
    return {
        "pixel_accuracy": right / ((truth > 0).sum() + 1e-10),
        "miou": iou.mean(),
        "miou_present": iou[union > 0].mean(),
    }


def confusion_of(predicted, truth, classes, batch=None):
    confusion = Confusion(classes)
    for rows in torch.arange(len(truth)).split(batch or max(1, len(truth))):
        confusion.update(predicted[rows], truth[rows])
    return confusion


def random_maps(count, classes, seed, size=6):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(classes, (count, size, size + 1), generator=generator)
    keep = torch.rand(truth.shape, generator=generator) < 0.6
    return torch.where(keep, truth, torch.randint(classes, truth.shape, generator=generator)), truth


def test_hand_made_maps():
    """Void is at two pixels. Class 1: 2 of 3 found, none wrongly; 2: 2 of 3, one wrongly; 3: 1 of 1; 4: in void."""
    confusion = Confusion(6)
    assert confusion.update(PREDICTED, TRUTH).tolist() == pytest.approx([5 / 7])
    iou = confusion.iou
    assert iou[1:4].tolist() == pytest.approx([2 / 3, 2 / 4, 1])
    assert all(math.isnan(iou[k]) for k in (0, 4, 5))  # class 4 was predicted in the void only
    scores = confusion.compute()
    assert scores == pytest.approx(
        {"pixel_accuracy": 5 / 7, "miou": (2 / 3 + 1 / 2 + 1) / 5, "miou_present": (2 / 3 + 1 / 2 + 1) / 3}
    )
    assert confusion.counts[2].tolist() == [1, 0, 2, 0, 0, 0] and confusion.counts[0].tolist() == [0, 1, 0, 0, 1, 0]


def test_perfect_maps_and_wrong_ones():
    perfect = Confusion(4)
    perfect.update(TRUTH, TRUTH)
    assert perfect.compute() == pytest.approx({"pixel_accuracy": 1, "miou": 1, "miou_present": 1})
    wrong = Confusion(4)
    wrong.update(torch.zeros_like(TRUTH), TRUTH)  # void everywhere is no way out
    assert wrong.compute() == {"pixel_accuracy": 0, "miou": 0, "miou_present": 0}


@pytest.mark.parametrize(("classes", "count"), [(4, 5), (151, 3)])
def test_scores_equal_the_benchmark(classes, count):
    predicted, truth = random_maps(count, classes, classes)
    found = confusion_of(predicted, truth, classes).compute()
    assert found == pytest.approx(plain_scores(predicted, truth, classes), abs=1e-9)
    if classes == 151:
        assert found["miou_present"] > found["miou"]  # 126 pixels cannot hold all classes


@pytest.mark.skipif(not os.environ.get("M2O_DATA_DIR"), reason="M2O_DATA_DIR is not set, so there are no real scenes")
def test_scores_of_real_scenes_equal_the_benchmark():
    """The annotations themselves at a side of 128, and the same shifted, as a segmentation that is a little off."""
    files = sorted((Path(os.environ["M2O_DATA_DIR"]) / "ade20k_sample/annotations/validation").glob("*.png"))
    small = [Image.open(file).resize((128, 128), Image.Resampling.NEAREST) for file in files]
    truth = torch.from_numpy(np.stack([np.asarray(image, dtype=np.int64) for image in small]))
    assert truth.shape == (3, 128, 128) and len(truth.unique()) > 10
    for predicted in (truth, truth.roll(2, 2), truth.flip(0)):
        found = confusion_of(predicted, truth, 151).compute()
        assert found == pytest.approx(plain_scores(predicted, truth, 151), abs=1e-9)
    assert confusion_of(truth, truth, 151).compute()["pixel_accuracy"] == 1
    assert 0.9 < confusion_of(truth.roll(2, 2), truth, 151).compute()["pixel_accuracy"] < 1


def test_scores_equal_torchmetrics():
    from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

    predicted, truth = random_maps(4, 12, 0)
    scores = confusion_of(predicted, truth, 12).compute()
    jaccard = MulticlassJaccardIndex(12, ignore_index=0)(predicted, truth)
    accuracy = MulticlassAccuracy(12, ignore_index=0, average="micro")(predicted, truth)
    assert scores["miou"] == pytest.approx(float(jaccard), abs=1e-6)  # every class is there
    assert scores["pixel_accuracy"] == pytest.approx(float(accuracy), abs=1e-6)
    predicted, truth = random_maps(4, 12, 1)
    fewer = confusion_of(predicted, truth, 20).compute()
    jaccard = MulticlassJaccardIndex(20, ignore_index=0)(predicted, truth)
    assert fewer["miou_present"] == pytest.approx(float(jaccard), abs=1e-6)
    assert fewer["miou"] == pytest.approx(float(jaccard) * 11 / 19, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_batches_order_and_merging_do_not_matter(count, batch, seed):
    predicted, truth = random_maps(count, 5, seed)
    whole = confusion_of(predicted, truth, 5)
    order = torch.randperm(count)
    shuffled = confusion_of(predicted[order], truth[order], 5, batch)
    merged = confusion_of(predicted[::2], truth[::2], 5)
    merged.merge_state(confusion_of(predicted[1::2], truth[1::2], 5, batch).state())
    for other in (shuffled, merged):
        assert other.images == count and torch.equal(other.counts, whole.counts)
        assert other.compute() == whole.compute()


def test_maps_without_labels():
    confusion = Confusion(3)
    accuracy = confusion.update(torch.ones(2, 3, 3, dtype=torch.int64), torch.zeros(2, 3, 3, dtype=torch.int64))
    assert accuracy.isnan().all() and confusion.compute() == {} and confusion.iou.isnan().all()


def test_wrong_input_is_refused_in_words():
    confusion = Confusion(5)
    with pytest.raises(ValueError, match="no label maps"):
        confusion.compute()
    with pytest.raises(TypeError, match="predicted must be an int64 tensor of classes, got torch.float32"):
        confusion.update(PREDICTED.float(), TRUTH)
    with pytest.raises(TypeError, match="truth must be .* got ndarray"):
        confusion.update(PREDICTED, TRUTH.numpy())
    for wrong in (5, -1):
        with pytest.raises(ValueError, match=r"must be in \[0, 5\), predicted has"):
            confusion.update(torch.full_like(TRUTH, wrong), TRUTH)
    with pytest.raises(ValueError, match=r"one shape \[N, H, W\]"):
        confusion.update(PREDICTED[:, :2], TRUTH)
    with pytest.raises(ValueError, match="7 classes do not fit 5"):
        confusion.merge_state(Confusion(7).state())
    with pytest.raises(ValueError, match="at least one class"):
        Confusion(1)
    assert confusion.images == 0 and not confusion.counts.any()

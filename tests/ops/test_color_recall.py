"""Color Recall of torch and of numpy histograms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2o_fast.ops import color_recall, color_recall_numpy


def test_recall_of_hand_made_histograms():
    uniform = torch.ones(64, dtype=torch.int64)
    one_cell = torch.zeros(64, dtype=torch.int64)
    one_cell[5] = 1000
    half = torch.cat((torch.full((32,), 7), torch.zeros(32, dtype=torch.int64)))
    assert color_recall(uniform * 3, uniform).item() == 1.0
    assert color_recall(half, uniform).item() == 0.5
    assert color_recall(one_cell, uniform).item() == 1 / 64
    assert color_recall(one_cell, one_cell.roll(1)).item() == 0.0
    recall = color_recall(torch.stack((uniform, half)), torch.stack((half, half)))
    assert recall.dtype == torch.float64 and recall.tolist() == [0.5, 1.0]
    assert color_recall_numpy(half.numpy(), uniform.numpy()) == 0.5


histograms = st.lists(st.integers(0, 10**6), min_size=8, max_size=8).filter(any).map(torch.tensor)


@settings(max_examples=60, deadline=None)
@given(histograms, histograms, st.integers(1, 1000), st.permutations(range(8)))
def test_recall_is_a_symmetric_similarity_of_distributions(first, second, factor, order):
    recall = color_recall(first, second).item()
    assert 0 <= recall <= 1
    assert recall == color_recall(second, first).item()
    assert color_recall(first, first).item() == 1
    assert color_recall(first * factor, second).item() == pytest.approx(recall, abs=1e-12)
    assert color_recall(first[list(order)], second[list(order)]).item() == pytest.approx(recall, abs=1e-12)
    overlap = np.minimum(first.numpy() / first.sum().item(), second.numpy() / second.sum().item()).sum()
    assert recall == pytest.approx(overlap, abs=1e-12)
    assert color_recall_numpy(first.numpy(), second.numpy()) == recall


@pytest.mark.parametrize("name", ["hist_generated", "hist_real"])
@pytest.mark.parametrize("recall", [color_recall, lambda *pair: color_recall_numpy(*(h.numpy() for h in pair))])
def test_recall_refuses_what_is_no_distribution(recall, name):
    good = torch.ones(2, 8)
    for bad, words in (
        (torch.zeros(2, 8), "is empty"),
        (torch.tensor([[1.0] * 8, [0.0] * 8]), "is empty"),
        (-good, "negative"),
        (good / 0, "non-finite"),
        (good * float("nan"), "non-finite"),
    ):
        with pytest.raises(ValueError, match=f"{name}.*{words}"):
            recall(*((bad, good) if name == "hist_generated" else (good, bad)))
    with pytest.raises(ValueError, match=r"\[2, 8\] and \[2, 7\]"):
        recall(good, good[:, :7])
    with pytest.raises(TypeError, match="color_recall: hist_generated"):
        recall(good > 0, good)


def test_recall_refuses_two_devices():
    with pytest.raises(ValueError, match="color_recall: hist_generated is on cpu but hist_real is on meta"):
        color_recall(torch.ones(8), torch.ones(8, device="meta"))

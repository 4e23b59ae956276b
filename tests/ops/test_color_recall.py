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


BOTH = pytest.mark.parametrize(
    "recall",
    [color_recall, lambda *pair: torch.as_tensor(color_recall_numpy(*(h.numpy() for h in pair)))],
    ids=["torch", "numpy"],
)


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_identical_histograms_give_exactly_1_and_disjoint_ones_exactly_0(recall, seed):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 10**7, (64,), generator=generator)
    weights = torch.randn(3, 1000, generator=generator, dtype=torch.float64).mul(3).softmax(1)
    extremes = torch.tensor([[1e-200, 5e-324], [1e200, 1e200], [0, 5e-324], [1.7e308, 1.7e308]], dtype=torch.float64)
    for histogram in (counts, counts * 2**36, weights, weights.float(), extremes):
        assert (recall(histogram, histogram) == 1).all()
    assert recall(extremes[1], torch.tensor([1e200, 0], dtype=torch.float64)) == 0.5
    apart = counts * (torch.arange(64) % 2), counts * (torch.arange(64) % 2 == 0)
    assert recall(*apart) == 0 and recall(apart[0] * weights[0, 0], apart[1] * weights[0, 1]) == 0


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_proportional_histograms_give_1(recall, seed):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 10**4, (64,), generator=generator)
    assert recall(counts * 3, counts * 7) == 1  # products of totals below 2^53: nothing is rounded
    counts = torch.randint(0, 10**7, (2, 64), generator=generator)
    ones = recall(counts * 3, counts * 7)
    assert (ones <= 1).all() and (ones >= 1 - 1e-14).all()
    assert (recall(counts, counts.t().contiguous().t()) == 1).all()


def test_recall_has_a_gradient():
    generated = torch.tensor([[3.0, 1.0, 5.0, 0.25], [1e100, 3e100, 2e100, 9e100]], dtype=torch.float64)
    real = torch.tensor([[2.0, 2.0, 1.0, 3.0], [4.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    leaf = generated.clone().requires_grad_()
    color_recall(leaf, real).sum().backward()
    share = (generated / generated.sum(1, keepdim=True)).requires_grad_()
    torch.minimum(share / share.sum(1, keepdim=True), real / real.sum(1, keepdim=True)).sum().backward()
    torch.testing.assert_close(leaf.grad * generated.sum(1, keepdim=True), share.grad, atol=1e-14, rtol=1e-12)


def test_recall_compiles_to_one_graph_and_runs_without_values():
    generated, real = torch.tensor([[7, 0, 3], [1, 1, 1]]), torch.tensor([[5, 5, 5], [1, 2, 1]])
    compiled = torch.compile(color_recall, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(generated, real), color_recall(generated, real))
    assert compiled(generated * 0, real).isnan().all()
    assert color_recall(generated.to("meta"), real.to("meta")).shape == (2,)


@pytest.mark.parametrize("name", ["hist_generated", "hist_real"])
@BOTH
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
    for shape in ((0,), (2, 0), (0, 0)):
        with pytest.raises(ValueError, match="at least one cell"):
            recall(torch.ones(shape), torch.ones(shape))
    with pytest.raises(TypeError, match=r"color_recall(_numpy)?: hist_generated"):
        recall(good > 0, good)


def test_errors_name_the_function_that_was_called():
    counts = np.ones(3)
    for pair in ((counts, counts[:2]), (counts, -counts), (counts * 0, counts), (counts, counts > 0)):
        with pytest.raises((TypeError, ValueError), match="^color_recall_numpy: "):
            color_recall_numpy(*pair)
        with pytest.raises((TypeError, ValueError), match="^color_recall: "):
            color_recall(*map(torch.from_numpy, pair))


def test_recall_refuses_two_devices():
    with pytest.raises(ValueError, match="color_recall: hist_generated is on cpu but hist_real is on meta"):
        color_recall(torch.ones(8), torch.ones(8, device="meta"))

"""Mean squared error over a stream of images."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2o_fast.metrics import MeanSquaredError


def error_of(outputs, truth, batch=None):
    error = MeanSquaredError()
    for first in range(0, len(outputs), batch or len(outputs)):
        error.update(outputs[first : first + (batch or len(outputs))], truth[first : first + (batch or len(outputs))])
    return error


def test_hand_made_errors():
    outputs = torch.zeros(2, 1, 2, 2)
    truth = torch.zeros(2, 1, 2, 2)
    truth[0, 0, 0, 0] = 1  # 1/4 in one image, 0 in the other
    assert error_of(outputs, truth).compute() == 0.125
    assert error_of(truth, truth).compute() == 0
    assert error_of(torch.ones(3, 3, 1, 5), torch.zeros(3, 3, 1, 5)).compute() == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 25), st.integers(1, 25), st.sampled_from([torch.bfloat16, torch.float32, torch.float64]))
def test_batches_merging_and_order_do_not_matter(count, batch, dtype):
    generator = torch.Generator().manual_seed(count)
    outputs, truth = (torch.rand(count, 2, 3, 5, generator=generator).to(dtype) for _ in range(2))
    expected = ((outputs.double().numpy() - truth.double().numpy()) ** 2).mean()
    order = torch.randperm(count)
    merged = error_of(outputs[:1], truth[:1])
    if count > 1:
        merged.merge(error_of(outputs[1:], truth[1:], batch))
    for error in (error_of(outputs, truth), error_of(truth[order], outputs[order], batch), merged):
        assert error.images == count
        assert error.compute() == pytest.approx(expected, abs=1e-12)


def test_memory_layout_and_gradients_do_not_matter():
    outputs, truth = torch.rand(3, 3, 4, 6), torch.rand(3, 3, 4, 6)
    expected = error_of(outputs, truth).compute()
    laid_out = outputs.contiguous(memory_format=torch.channels_last).requires_grad_()
    assert error_of(laid_out, truth).compute() == pytest.approx(expected, abs=1e-15)


def test_a_non_finite_output_shows():
    assert error_of(torch.full((1, 1, 2, 2), float("nan")), torch.zeros(1, 1, 2, 2)).compute() != 0


def test_wrong_input_is_refused_in_words():
    error = MeanSquaredError()
    with pytest.raises(ValueError, match="no images"):
        error.compute()
    error.update(torch.zeros(0, 1, 2, 2), torch.zeros(0, 1, 2, 2))
    with pytest.raises(ValueError, match="no images"):
        error.compute()
    for outputs, truth in (((2, 1, 4, 4), (2, 3, 4, 4)), ((4, 4), (4, 4)), ((2, 1, 0, 4), (2, 1, 0, 4))):
        with pytest.raises(ValueError, match=r"must have one shape \[N, C, H, W\]"):
            error.update(torch.zeros(outputs), torch.zeros(truth))
    with pytest.raises(TypeError, match="outputs must be a floating-point tensor .* got torch.uint8"):
        error.update(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.zeros(1, 1, 2, 2))
    with pytest.raises(TypeError, match="truth must be .* got ndarray"):
        error.update(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2).numpy())
    assert error.images == 0

"""The operators of the residual family by themselves: schemas, large outputs, equal bits."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from cases import FEW_LAYOUTS, LAYOUTS
from residual_cases import SCALE, SLOPE, derivatives, doubled, leaky_by, merge_by, normal
from torch import Tensor


@pytest.mark.parametrize("layout", FEW_LAYOUTS)
@pytest.mark.parametrize("suffix", ["", "_triton"])
def test_opcheck(suffix, layout) -> None:
    if suffix and not os.environ.get("TRITON_INTERPRET"):
        pytest.skip("Triton kernels run on CPU tensors only under TRITON_INTERPRET=1")
    fine = LAYOUTS[layout](normal(2, 5, 4, 6).float())
    coarse = LAYOUTS[layout](normal(2, 5, 2, 3, seed=1).float())
    ops = torch.ops.m2o_fast
    merge, merge_backward = (getattr(ops, f"residual_merge{suffix}{kind}").default for kind in ("", "_backward"))
    leaky, backward, tangent = (
        getattr(ops, f"leaky_relu_down2{suffix}{kind}").default for kind in ("", "_backward", "_tangent")
    )
    calls = [(merge, (fine, fine.clone(), SCALE, 0)), (merge, (fine, coarse, SCALE, 1))]
    calls += [(merge, (coarse, fine, SCALE, 2)), (leaky, (fine, SLOPE)), (backward, (coarse, fine, SLOPE))]
    calls += [(merge_backward, (fine, SCALE, how, need)) for how in (0, 1, 2) for need in (False, True)]
    for op, arguments in [*calls, (tangent, (fine.clone(), fine, SLOPE))]:
        leaf, *others = arguments
        torch.library.opcheck(op, (leaf.detach().requires_grad_(), *others))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shape", [(2, 40, 160, 168), (2, 2, 1052, 1006)], ids=str)
def test_outputs_larger_than_the_caches(memory_format, shape) -> None:
    """They are written by streaming stores, with demands on alignment; one sample of two is not large."""
    fine = normal(*shape).float().to(memory_format=memory_format)
    coarse = fine[:, :, ::2, ::2].contiguous(memory_format=memory_format)
    merge, leaky = torch.ops.m2o_fast.residual_merge, torch.ops.m2o_fast.leaky_relu_down2
    backward = torch.ops.m2o_fast.residual_merge_backward
    calls: list[tuple[Callable[..., Tensor], list[Tensor]]] = [
        (lambda a, b: merge(a, b, SCALE, 0), [fine, fine]),
        (lambda a, b: merge(a, b, SCALE, 1), [fine, coarse]),
        (lambda a, b: merge(a, b, SCALE, 2), [coarse, fine]),
        (lambda grad: backward(grad, SCALE, 0, True)[0], [fine]),
        (lambda grad: backward(grad, SCALE, 1, True)[0], [fine]),
        (lambda grad: backward(grad, SCALE, 2, True)[1], [coarse]),
        (lambda x: leaky(x, SLOPE), [fine]),
        (lambda grad, x: torch.ops.m2o_fast.leaky_relu_down2_backward(grad, x, SLOPE), [coarse, fine]),
    ]
    for function, tensors in calls:
        parts = [function(*(tensor[at : at + 1] for tensor in tensors)) for at in range(shape[0])]
        assert torch.equal(function(*tensors), torch.cat(parts))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shape", [(1, 40, 33, 30), (4, 24, 16, 16)], ids=str)
def test_runs_and_thread_counts_give_the_same_bits(memory_format, shape) -> None:
    fine, coarse = (normal(*size).float().to(memory_format=memory_format) for size in (doubled(shape), shape))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            run = derivatives(leaky_by("compiled"), [fine], coarse, [fine])
            run += derivatives(merge_by("compiled", None), [fine, fine], fine, [fine, fine])
            run += derivatives(merge_by("compiled", "up2"), [fine, coarse], fine, [fine, coarse])
            results.append(run + derivatives(merge_by("compiled", "down2"), [coarse, fine], coarse, [coarse, fine]))
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(first, other) for first, other in zip(results[0], others, strict=True))

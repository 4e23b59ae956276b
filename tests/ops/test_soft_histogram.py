"""soft_color_histogram: every backend against float64, its rules for the ends, its derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from cases import TARGETS, judge, needs_native
from histogram_cases import TARGET_NAMES, make_images, runner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from m2o_fast.ops import color_histogram, soft_color_histogram

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(params=TARGETS, ids=TARGET_NAMES)
def target(request):
    """Runs a function on a backend and device, see ``runner``."""
    return runner("soft_color_histogram", *request.param)


def make_colors(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """A little outside of [0, 1] as well."""
    colors = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (1.2 * colors - 0.1).to(dtype)


def hats(colors: Tensor, bins: int) -> Tensor:
    """The formula once more, by triangles over all centres: slow, and not by corners."""
    position = (colors.double() * bins - 0.5).clamp(0, bins - 1)
    weights = (1 - (position[:, :, None] - torch.arange(bins)).abs()).clamp(min=0)
    return torch.einsum("ni,nj,nk->ijk", *weights.unbind(1)).flatten()


def run(target, colors: Tensor, bins: int, grad: Tensor, **options) -> tuple[Tensor, Tensor]:
    """The histogram and the gradient of the colours."""
    leaf = colors.detach().requires_grad_()
    counts = target(soft_color_histogram, leaf, bins, **options)
    return counts.detach(), torch.autograd.grad(counts, leaf, grad.to(counts.dtype))[0]


def in_float32(colors: Tensor, bins: int, grad: Tensor) -> tuple[Tensor, Tensor]:
    """What torch makes of the formula in the dtype of the result: the error to compare with."""
    dtype = torch.promote_types(colors.dtype, torch.float32)
    leaf = colors.to(dtype).requires_grad_()
    position = (leaf * bins - 0.5).clamp(0, bins - 1)
    centre = torch.arange(bins, dtype=dtype)
    weights = (1 - (position[:, :, None] - centre).abs()).clamp(min=0)
    counts = torch.einsum("ni,nj,nk->ijk", *weights.unbind(1)).flatten()
    return counts.detach(), torch.autograd.grad(counts, leaf, grad.to(dtype))[0].to(colors.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bins", [1, 2, 4, 7, 19])
@pytest.mark.parametrize("count", [1, 37, 700])
def test_counts_and_gradients(target, count, bins, dtype) -> None:
    colors = make_colors(count, dtype=dtype)
    position = colors.double() * bins - 0.5
    kink = ((position - position.round()).abs() < 1e-4).any()  # there, torch's formula has another slope
    grad = torch.randn(bins**3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = run(target, colors, bins, grad)
    exact = run(lambda op, *a: op(*a, backend="reference"), colors.double(), bins, grad)
    assert results[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert results[1].dtype == dtype and results[1].shape == colors.shape
    torch.testing.assert_close(exact[0], hats(colors, bins), atol=1e-10, rtol=0)
    for name, result, torch_result, truth in zip(
        ("counts", "gradient"), results, in_float32(colors, bins, grad), exact, strict=True
    ):
        if name == "gradient" and (kink or dtype == torch.float16):  # half the colours lie on centres
            torch_result = truth.to(dtype)
        judge(result, torch_result, truth).assert_good(name, torch.finfo(result.dtype).eps)


@pytest.mark.parametrize("bins", [1, 2, 5, 16])
def test_a_colour_at_a_centre_counts_once_there(target, bins) -> None:
    numbers = torch.arange(bins)
    cells = torch.cartesian_prod(numbers, numbers, numbers)[:: max(1, bins**3 // 40)].view(-1, 3)
    colors = (cells.double() + 0.5) / bins
    groups = torch.arange(len(cells))
    counts = target(soft_color_histogram, colors, bins, groups=groups, num_groups=len(cells))
    hard = color_histogram(colors, bins, groups=groups, num_groups=len(cells))
    torch.testing.assert_close(counts, hard.double(), atol=1e-14 * bins, rtol=0)


@pytest.mark.parametrize("bins", [1, 4, 6])
def test_mass_is_conserved_and_the_hard_cell_has_an_eighth(target, bins) -> None:
    colors = make_colors(200, seed=2)
    groups = torch.arange(200)
    counts = target(soft_color_histogram, colors, bins, groups=groups, num_groups=200)
    torch.testing.assert_close(counts.sum(1), torch.ones(200).double(), atol=1e-14, rtol=0)
    hard = color_histogram(colors, bins, groups=groups, num_groups=200)
    assert (counts[hard == 1] >= 1 / 8 - 1e-12).all() and (counts >= 0).all()
    together = target(soft_color_histogram, colors, bins)
    torch.testing.assert_close(together, counts.sum(0), atol=1e-12, rtol=0)
    assert together.sum() == pytest.approx(200, abs=1e-12)


@needs_native
def test_rounding_to_units_has_no_bias() -> None:
    counts = soft_color_histogram(make_colors(5000), 4, backend="compiled")
    assert abs(math.fsum(counts.tolist()) - 5000) < 2e-12


def test_beyond_the_outermost_centres_nothing_moves(target) -> None:
    bins = 4
    values = torch.tensor([0.0, 0.1249, -5.0, -float("inf"), 0.8751, 1.0, 7.0, float("inf")], dtype=torch.float64)
    colors = values[:, None].expand(-1, 3)
    grad = torch.randn(bins**3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    counts, gradient = run(target, colors, bins, grad)
    assert counts.nonzero().flatten().tolist() == [0, 63] and counts[0] == counts[63] == 4
    assert torch.equal(gradient, torch.zeros_like(gradient))
    # One channel beyond, two between: only these have a derivative.
    _, gradient = run(target, torch.tensor([[0.01, 0.4, 0.6]], dtype=torch.float64), bins, grad)
    assert gradient[0, 0] == 0 and (gradient[0, 1:] != 0).all()


def test_the_derivative_at_a_centre_is_the_one_towards_the_next_bin(target) -> None:
    grad = torch.arange(64, dtype=torch.float64).square()
    cell = 16 + 2 * 4 + 0  # red in bin 1, green in 2, blue in 0
    expected = [4 * (grad[cell + step] - grad[cell]).item() for step in (16, 4, 1)]
    _, gradient = run(target, torch.tensor([[0.375, 0.625, 0.125]], dtype=torch.float64), 4, grad)
    assert gradient.tolist() == [expected]
    _, gradient = run(target, torch.full((1, 3), 0.875, dtype=torch.float64), 4, grad)  # there is no next one
    assert gradient.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("channel", range(3))
def test_nan_spoils_its_group_and_only_its_group(target, channel) -> None:
    colors = make_colors(9, dtype=torch.float32)
    colors[4, channel] = float("nan")
    groups = torch.arange(9) % 3
    grad = torch.ones(3, 64)
    grad[:, ::7] = 0
    counts, gradient = run(target, colors, 4, grad, groups=groups, num_groups=3)
    assert counts.isnan().all(1).tolist() == [False, True, False] and counts[::2].isfinite().all()
    assert gradient.isfinite().all(1).tolist() == [i != 4 for i in range(9)]
    assert gradient[4, channel] == 0
    assert target(soft_color_histogram, colors).isnan().all()


def test_bad_gradients_reach_the_colours_near_them(target) -> None:
    colors = torch.tensor([[0.2, 0.2, 0.2], [0.7, 0.7, 0.7]])
    grad = torch.ones(64)
    grad[0] = float("inf")
    _, gradient = run(target, colors, 4, grad)
    assert not gradient[0].isfinite().any() and gradient[1].isfinite().all()
    # Beyond the last centre nothing moves, whatever the gradient there is.
    _, gradient = run(target, torch.full((1, 3), 0.95), 4, grad.flip(0))
    assert torch.equal(gradient, torch.zeros(1, 3))


def test_strides_and_expanded_gradients(target) -> None:
    colors = make_colors(40, dtype=torch.float32)
    wide = torch.stack((colors, torch.full_like(colors, 9)), -1)
    groups = torch.stack((torch.arange(40) % 3, torch.full((40,), 9)), -1)[:, 0]
    grad = torch.randn(64, generator=torch.Generator().manual_seed(5)).expand(3, 64)
    transposed = torch.randn(64, 3, generator=torch.Generator().manual_seed(5)).t()
    for gradient in (grad, transposed, torch.ones(()).expand(3, 64)):
        expected = run(target, colors, 4, gradient.contiguous(), groups=groups.contiguous(), num_groups=3)
        for strided in (wide[..., 0], colors.t().contiguous().t()):
            results = run(target, strided, 4, gradient, groups=groups, num_groups=3)
            assert all(torch.equal(result, other) for result, other in zip(results, expected, strict=True))


def test_images_are_counted_by_their_foreground_colours(target) -> None:
    images, content = (tensor.double() for tensor in make_images((5, 3, 4, 4)))
    leaf = images.clone().requires_grad_()
    counts = target(soft_color_histogram, leaf, 3, content)
    assert counts.sum().item() == pytest.approx(5)
    counts.square().sum().backward()
    assert leaf.grad.abs().sum() > 0 and leaf.grad.isfinite().all()
    as_bytes = (images * 255).round().byte()
    assert target(soft_color_histogram, as_bytes).sum().item() == pytest.approx(5)


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4)])
def test_no_colours(target, shape) -> None:
    assert torch.equal(target(soft_color_histogram, torch.zeros(shape)), torch.zeros(64))
    if len(shape) == 2:
        counts, gradient = run(
            target, torch.zeros(shape), 2, torch.ones(2, 8), groups=torch.zeros(0).long(), num_groups=2
        )
        assert torch.equal(counts, torch.zeros(2, 8)) and gradient.shape == (0, 3)


@pytest.mark.parametrize("grouped", [False, True])
def test_first_and_second_derivatives(target, grouped) -> None:
    colors = torch.tensor([[0.31, 0.42, 0.71]], dtype=torch.float64, requires_grad=True)
    options = {"groups": torch.tensor([1]), "num_groups": 2} if grouped else {}

    def function(colors: Tensor) -> Tensor:
        return target(soft_color_histogram, colors, 2, **options)

    assert torch.autograd.gradcheck(function, colors)
    assert torch.autograd.gradgradcheck(function, colors)
    counts = function(colors)
    (once,) = torch.autograd.grad(counts.square().sum(), colors, create_graph=True)
    assert torch.autograd.grad(once.square().sum(), colors)[0].abs().sum() > 0


@needs_native
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 300), st.integers(1, 33), st.integers(1, 5), st.integers(0, 2**31))
def test_any_size(count, bins, num_groups, seed) -> None:
    colors = make_colors(count, seed, torch.float32)
    groups = torch.arange(count) % num_groups
    grad = torch.randn(num_groups, bins**3, generator=torch.Generator().manual_seed(seed))
    results, references = (
        run(lambda op, *a, b=backend, **k: op(*a, **k, backend=b), colors, bins, grad, groups=groups,
            num_groups=num_groups)
        for backend in ("compiled", "reference")
    )  # fmt: skip
    torch.testing.assert_close(results[0], references[0], atol=1e-6, rtol=2e-7)
    torch.testing.assert_close(results[1], references[1], atol=1e-5 * bins, rtol=1e-6)
    shuffled = torch.randperm(count)
    again = soft_color_histogram(colors[shuffled], bins, groups=groups[shuffled], num_groups=num_groups)
    assert torch.equal(again, results[0])


@needs_native
@pytest.mark.parametrize("which", TARGETS[1:], ids=TARGET_NAMES[1:])
def test_backends_threads_and_runs_give_the_same_bits(which) -> None:
    """All but the reference, which adds up floating-point numbers."""
    target = runner("soft_color_histogram", *which)
    colors = make_colors(5000 if which[0] == "compiled" else 1000, dtype=torch.float32)
    threads = torch.get_num_threads()
    first = soft_color_histogram(colors, 5, backend="compiled")
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert torch.equal(target(soft_color_histogram, colors, 5), first)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("suffix", ["", "_triton"])
def test_the_operators_obey_torchs_rules(suffix) -> None:
    runner("soft_color_histogram", "triton" if suffix else "reference", "cpu")
    forward = getattr(torch.ops.m2o_fast, f"soft_color_histogram{suffix}").default
    backward = getattr(torch.ops.m2o_fast, f"soft_color_histogram{suffix}_backward").default
    colors, groups = make_colors(5, dtype=torch.float32), torch.tensor([0, 1, 1, 0, 1])
    torch.library.opcheck(forward, (colors.clone().requires_grad_(), 3, groups, 2))
    torch.library.opcheck(forward, (colors.clone().requires_grad_(), 3, None, 1))
    torch.library.opcheck(backward, (torch.randn(2, 27), colors, 3, groups))
    with pytest.raises(RuntimeError, match="no derivative of its own"):
        backward(torch.randn(1, 27), colors.clone().requires_grad_(), 3, None).sum().backward()


def test_it_compiles_to_one_graph() -> None:
    def loss(images: Tensor, groups: Tensor) -> Tensor:
        return soft_color_histogram(images.sigmoid(), 3, groups=groups, num_groups=2).square().sum()

    images, groups = make_images((4, 3, 5, 5))[0].requires_grad_(), torch.tensor([0, 1, 0, 1])
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    gradients = [torch.autograd.grad(function(images, groups), images)[0] for function in (loss, compiled)]
    torch.testing.assert_close(*gradients)


def test_autocast(target) -> None:
    colors = make_colors(6, dtype=torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        counts = target(soft_color_histogram, colors)
    assert counts.dtype == torch.float32
    counts.square().sum().backward()
    assert colors.grad.dtype == torch.bfloat16 and colors.grad.isfinite().all()


COLORS = torch.rand(4, 3)
REFUSALS = [
    ((torch.rand(5, 4),), {}, ValueError, r"\[N, 3\], got \[5, 4\]"),
    ((torch.zeros(5, 3, dtype=torch.uint8),), {}, TypeError, "floating-point"),
    ((COLORS.numpy(),), {}, TypeError, "got ndarray"),
    ((COLORS, 0), {}, ValueError, r"bins must be in \[1, 256\], got 0"),
    ((COLORS, 2.0), {}, TypeError, "bins must be an integer"),
    ((COLORS, 4, torch.rand(4, 1, 2, 2)), {}, ValueError, "content belongs to images"),
    ((COLORS,), {"groups": torch.zeros(4).long()}, ValueError, "given together"),
    ((COLORS,), {"groups": torch.zeros(3).long(), "num_groups": 2}, ValueError, r"must have the shape \[4\]"),
    ((COLORS,), {"groups": torch.zeros(4), "num_groups": 2}, TypeError, "int64"),
    ((COLORS,), {"groups": torch.zeros(4).long(), "num_groups": 0}, ValueError, "num_groups must be in"),
    ((COLORS,), {"groups": torch.tensor([0, 1, 2, 0]), "num_groups": 2}, ValueError, "group number"),
    ((COLORS,), {"groups": torch.tensor([0, -1, 1, 0]), "num_groups": 2}, ValueError, "group number"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "words"), REFUSALS)
def test_wrong_input_is_refused_in_words(target, arguments, options, error, words) -> None:
    with pytest.raises(error, match=f"soft_color_histogram: .*{words}"):
        target(soft_color_histogram, *arguments, **options)


@needs_native
def test_calling_the_operators_wrongly_raises() -> None:
    ops = torch.ops.m2o_fast
    groups = torch.zeros(4).long()
    for call in (
        lambda: ops.soft_color_histogram(torch.rand(4, 2), 4, None, 1),
        lambda: ops.soft_color_histogram(COLORS.int(), 4, None, 1),
        lambda: ops.soft_color_histogram(COLORS.byte(), 4, None, 1),
        lambda: ops.soft_color_histogram(COLORS, 0, None, 1),
        lambda: ops.soft_color_histogram(COLORS, 4, None, 0),
        lambda: ops.soft_color_histogram(COLORS, 4, groups[:3], 1),
        lambda: ops.soft_color_histogram(COLORS, 4, groups.int(), 1),
        lambda: ops.soft_color_histogram_backward(torch.rand(1, 63), COLORS, 4, None),
        lambda: ops.soft_color_histogram_backward(torch.rand(64), COLORS, 4, None),
        lambda: ops.soft_color_histogram_backward(torch.rand(1, 64).double(), COLORS, 4, None),
        lambda: ops.soft_color_histogram_backward(torch.rand(1, 64), COLORS, 4, groups + 1),
    ):
        with pytest.raises((RuntimeError, ValueError), match="soft_color_histogram"):
            call()

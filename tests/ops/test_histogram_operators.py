"""Histogram operators as operators: determinism, memory, torch's rules, no gradients, refusals."""

from pathlib import Path

import pytest
import torch
from cases import TARGETS, needs_native
from histogram_cases import TARGET_NAMES, make_images, runner
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tree import ROOT, run_python

from m2o_fast.ops import color_histogram, foreground_color, unique_color_count
from m2o_fast.ops.histogram import color_codes, color_histogram_reference
from m2o_fast.ops.soft_histogram import soft_color_histogram_reference


@pytest.fixture(params=TARGETS, ids=TARGET_NAMES)
def target(request):
    """Runs a function on a backend and device, see ``runner``."""
    return runner("color_histogram", *request.param)


# --- determinism, torch integration -----------------------------------------------------------------------------------


@needs_native
def test_threads_and_repetition_change_no_bit():
    images, content = make_images((600, 3, 16, 16), torch.float64)
    colors = torch.rand(100_000, 3)
    groups = torch.arange(100_000) % 3
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 3, 1):
            torch.set_num_threads(number)
            results.append(
                (
                    foreground_color(images, content),
                    foreground_color(images),
                    color_histogram(colors, 6, groups=groups, num_groups=3),
                    unique_color_count(images, per_image=True),
                )
            )
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(first, other) for first, other in zip(results[0], result, strict=True))


MEMORY = """
import re, torch
from m2o_fast.ops import color_histogram, soft_color_histogram
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024
colors = torch.rand(5, 3)
{op}(colors, 2)
before = peak()
counts = {op}(colors, 256, backend="compiled")
print(peak() - before)
"""


@needs_native
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own count of memory")
@pytest.mark.parametrize(("op", "most"), [("color_histogram", 150), ("soft_color_histogram", 230)])
def test_counts_are_held_once(op, most):
    """2^24 cells are 128 MB of int64; the result of the soft histogram takes 64 MB more."""
    result = run_python(MEMORY.format(op=op), folder=ROOT, OMP_NUM_THREADS="1")
    assert result.returncode == 0 and float(result.stdout) < most, result.stdout + result.stderr


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 2**31))
def test_order_and_splitting_of_the_images_do_not_matter(count, bins, seed):
    images, _ = make_images((count, 3, 3, 3), seed=seed)
    shuffled = images[torch.randperm(count)]
    counts = color_histogram(images, bins)
    assert counts.sum() == count and (counts >= 0).all()
    assert torch.equal(counts, color_histogram(shuffled, bins))
    assert torch.equal(
        counts, color_histogram(images[: count // 3], bins) + color_histogram(images[count // 3 :], bins)
    )
    assert unique_color_count(images) == unique_color_count(shuffled) <= count
    assert torch.equal(unique_color_count(images), unique_color_count(torch.cat((images, images))))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["compiled", "triton"])
def test_gpu_runs_give_the_same_bits(backend):
    images, content = (tensor.cuda() for tensor in make_images((600, 3, 70, 70), torch.float64))
    results = []
    for _ in range(3):
        colors = foreground_color(images, content, backend=backend)
        count = unique_color_count(images, per_image=True, backend=backend)
        results.append((colors, color_histogram(colors, 6, backend=backend), count))
    assert torch.equal(results[0][2].cpu(), unique_color_count(images.cpu(), per_image=True))
    for result in results[1:]:
        assert all(torch.equal(first, other) for first, other in zip(results[0], result, strict=True))


@pytest.mark.parametrize("suffix", ["", "_triton"])
def test_the_operators_obey_torchs_rules(suffix):
    runner("color_histogram", "triton" if suffix else "reference", "cpu")
    images, content = make_images((3, 3, 4, 5))
    groups = torch.tensor([0, 1, 1])
    fit, count, distinct = (
        getattr(torch.ops.m2o_fast, f"{op}{suffix}").default
        for op in ("foreground_color", "color_histogram", "unique_color_count")
    )
    for arguments in ((images, None), (images.clone().requires_grad_(), content[:, 0])):
        torch.library.opcheck(fit, arguments)
    torch.library.opcheck(count, (torch.rand(3, 3), 4, groups, 2))
    torch.library.opcheck(count, (torch.rand(3, 3), 4, None, 1))
    torch.library.opcheck(distinct, ((images * 255).to(torch.uint8), 5))


def test_everything_compiles_to_one_graph():
    def describe(images, content):
        return (
            foreground_color(images, content),
            color_histogram(images, 4, content),
            unique_color_count(images),
            unique_color_count(images, per_image=True),
        )

    images, content = make_images((5, 3, 6, 6))
    compiled = torch.compile(describe, fullgraph=True, backend="aot_eager")
    for first, second in zip(compiled(images, content), describe(images, content), strict=True):
        assert torch.equal(first, second)
    with pytest.raises(ValueError, match="finite"):
        compiled(images / 0, content)


@pytest.mark.parametrize("count", [color_histogram, unique_color_count])
def test_counts_have_no_gradient_and_say_so(count):
    images, content = make_images((2, 3, 4, 4))
    with pytest.raises(RuntimeError, match=f"{count.__name__}: the input requires a gradient"):
        count(images.requires_grad_())
    with pytest.raises(RuntimeError, match="requires a gradient"):
        count(images.detach(), content=content.requires_grad_())
    with torch.no_grad():
        count(images, content=content)


# --- refusals ---------------------------------------------------------------------------------------------------------

IMAGES = torch.rand(2, 3, 4, 4)
REFUSALS = [
    (foreground_color, (torch.rand(2, 4, 4, 3),), ValueError, r"\[N, 3, H, W\], got \[2, 4, 4, 3\]"),
    (foreground_color, (torch.rand(3, 4, 4),), ValueError, r"got \[3, 4, 4\]"),
    (foreground_color, (IMAGES.long(),), TypeError, "got torch.int64"),
    (foreground_color, (IMAGES.numpy(),), TypeError, "got ndarray"),
    (foreground_color, (IMAGES, torch.rand(2, 1, 4, 5)), ValueError, r"content must have the shape \[2, 1, 4, 4\]"),
    (foreground_color, (IMAGES, IMAGES[:, :1] > 0), TypeError, "content must be .* got torch.bool"),
    (foreground_color, (IMAGES, torch.rand(2, 1, 4, 4, device="meta")), ValueError, "but content is on meta"),
    (color_histogram, (torch.rand(5, 4),), ValueError, r"\[N, 3\], got \[5, 4\]"),
    (color_histogram, (torch.zeros(5, 3, dtype=torch.uint8),), TypeError, "floating-point"),
    (color_histogram, (IMAGES, 0), ValueError, r"bins must be in \[1, 256\], got 0"),
    (color_histogram, (IMAGES, 257), ValueError, "got 257"),
    (color_histogram, (IMAGES, 4.0), TypeError, "bins must be an integer, got float"),
    (color_histogram, (IMAGES, True), TypeError, "got bool"),
    (color_histogram, (torch.rand(2, 3), 4, torch.rand(2, 1, 4, 4)), ValueError, "content belongs to images"),
    (color_histogram, (IMAGES, 4, None, torch.zeros(2).long()), ValueError, "given together"),
    (color_histogram, (IMAGES, 4, None, None, 2), ValueError, "given together"),
    (color_histogram, (IMAGES, 4, None, torch.zeros(3).long(), 2), ValueError, r"groups must have the shape \[2\]"),
    (color_histogram, (IMAGES, 4, None, torch.zeros(2), 2), TypeError, "groups must be an int64 tensor"),
    (color_histogram, (IMAGES, 4, None, torch.zeros(2).long(), 0), ValueError, "num_groups must be in"),
    (color_histogram, (IMAGES, 4, None, torch.tensor([0, 2]), 2), ValueError, "group number"),
    (color_histogram, (IMAGES, 4, None, torch.tensor([-1, 0]), 2), ValueError, "group number"),
    (unique_color_count, (IMAGES, 9), ValueError, r"bits must be in \[1, 8\], got 9"),
    (unique_color_count, (IMAGES, 0), ValueError, "got 0"),
    (unique_color_count, (torch.rand(2, 3), 8, True), ValueError, r"\[N, 3, H, W\]"),
    (unique_color_count, (IMAGES, 8, True, IMAGES[:, :1]), ValueError, "takes no content"),
]


@pytest.mark.parametrize(("function", "arguments", "error", "words"), REFUSALS)
def test_wrong_input_is_refused_in_words(target, function, arguments, error, words):
    with pytest.raises(error, match=words) as caught:
        target(function, *arguments)
    assert str(caught.value).startswith(f"{function.__name__}: ")


@pytest.mark.parametrize("function", [color_histogram, unique_color_count])
def test_errors_about_images_and_values_name_the_function_that_was_called(target, function):
    for wrong in (torch.rand(2, 4, 4, 3), IMAGES.long(), torch.full((2, 3), float("nan")), IMAGES / 0):
        with pytest.raises((TypeError, ValueError), match=f"^{function.__name__}: "):
            target(function, wrong)
    with pytest.raises(ValueError, match=f"^{function.__name__}: content must have"):
        target(function, IMAGES, content=torch.rand(2, 1, 4, 5))
    with pytest.raises(RuntimeError, match=f"^{function.__name__}: backend 'triton' is not available"):
        function(IMAGES.to("meta"), backend="triton")
    with pytest.raises(ValueError, match="^color_codes: every value"):
        color_codes(torch.full((2, 3), float("nan")))


@pytest.mark.parametrize("suffix", ["", "_triton"])
@pytest.mark.parametrize("op", ["color_histogram", "soft_color_histogram"])
def test_direct_calls_refuse_colours_that_are_no_fractions(op, suffix):
    runner("color_histogram", "triton" if suffix else "reference", "cpu")
    operator = getattr(torch.ops.m2o_fast, f"{op}{suffix}").default
    reference = {"color_histogram": color_histogram_reference, "soft_color_histogram": soft_color_histogram_reference}
    for call in (operator, reference[op]):
        for dtype in (torch.uint8, torch.int64):
            with pytest.raises((RuntimeError, TypeError), match=f"{op}: colors must be float32"):
                call(torch.ones(4, 3, dtype=dtype), 4, None, 1)


@needs_native
def test_calling_the_operators_wrongly_raises():
    ops = torch.ops.m2o_fast
    for call in (
        lambda: ops.foreground_color(torch.rand(3, 4), None),
        lambda: ops.foreground_color(IMAGES, torch.rand(2, 4, 5)),
        lambda: ops.foreground_color(IMAGES.int(), None),
        lambda: ops.color_histogram(IMAGES, 4, None, 1),
        lambda: ops.color_histogram(torch.rand(2, 3), 0, None, 1),
        lambda: ops.color_histogram(torch.rand(2, 3), 4, torch.zeros(1).long(), 1),
        lambda: ops.unique_color_count(IMAGES, 9),
    ):
        with pytest.raises((RuntimeError, TypeError, ValueError), match=r"(foreground|histogram|unique)"):
            call()

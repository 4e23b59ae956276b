"""conv2d and Winograd's form of it against torch's, in values, gradients and second derivatives."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from cases import needs_native
from torch import Tensor
from torch.autograd import forward_ad

from m2o_fast.ops import _choices, build_info, conv2d, convolution, use_backend, winograd
from m2o_fast.ops._formats import output_format
from m2o_fast.ops.convolution import conv_transpose2d

#: height, width, input and output channels: full tiles, cut ones, less than one, inner ones; tiles for several parts,
#: and channels
WINOGRAD_SIZES = [(8, 8, 16, 32), (6, 9, 48, 16), (1, 1, 16, 16), (3, 17, 32, 48), (12, 12, 16, 16), (27, 75, 16, 48)]
WINOGRAD_SIZES += [(9, 10, 272, 16)]
#: channels, out channels, kernel, stride, padding
GEOMETRIES = [(16, 32, 3, 1, 1), (3, 5, 3, 1, 1), (4, 6, 4, 2, 1), (6, 4, 4, 1, 0), (5, 3, 1, 1, 0)]


@pytest.fixture
def any_tile_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd's form also where it does not pay, and our derivatives where they do not."""
    monkeypatch.setattr(convolution, "is_worth_a_call", lambda *shapes: True)
    monkeypatch.setattr(convolution, "winograd_pays", lambda shape, channels: shape[1] % 16 == channels % 16 == 0)


@pytest.fixture(params=[True, False], ids=["widest vectors", "AVX2"])
def vectors(request: pytest.FixtureRequest) -> Iterator[None]:
    """All kernels that this processor can run, one after the other."""
    if build_info() is None:
        yield
        return
    native = importlib.import_module("m2o_fast._C")
    if not native._use_wide_vectors(request.param) and request.param:
        pytest.skip("this processor has no AVX-512")
    yield
    native._use_wide_vectors(True)


@pytest.fixture
def no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor does not multiply bfloat16, whatever this one can."""
    monkeypatch.setattr(_choices, "WITHOUT_BFLOAT16", (torch.backends.cpu.get_cpu_capability(),))


def drawn(height: int, width: int, channels: int, out_channels: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """x, weight, bias and a gradient of the output."""
    x = torch.randn(2, channels, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(out_channels, channels, 3, 3, dtype=dtype)
    return x, weight, torch.randn(out_channels, dtype=dtype), torch.randn(2, out_channels, height, width, dtype=dtype)


def both_ways(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Output and gradients by input and weight, in Winograd's form and by torch."""
    ours = [winograd.convolve(x, weight, bias), winograd.by_input(grad, weight), winograd.by_weight(grad, x)]
    inputs = [tensor.clone().requires_grad_() for tensor in (x, weight)]
    y = F.conv2d(*inputs, bias, padding=1)
    return ours, [y.detach(), *torch.autograd.grad(y, inputs, grad)]


@pytest.mark.parametrize("size", WINOGRAD_SIZES, ids=str)
def test_winograd_is_the_convolution(size: tuple[int, ...], vectors: None) -> None:
    for ours, theirs in zip(*both_ways(*drawn(*size, torch.float64)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@needs_native
@pytest.mark.parametrize("reflected", [False, True])
@pytest.mark.parametrize("size", WINOGRAD_SIZES, ids=str)
def test_kernels_are_their_references(size: tuple[int, ...], reflected: bool, vectors: None) -> None:
    if reflected and min(size[:2]) < 2:
        return
    x, weight, bias, grad = drawn(*size, torch.float64)
    convolve, by_weight = torch.ops.m2o_fast.winograd_convolve.default, torch.ops.m2o_fast.winograd_by_weight.default
    for operator, reference, arguments in (
        (convolve, winograd._convolve_reference, (x, weight, bias, False, reflected)),
        (convolve, winograd._convolve_reference, (grad, weight, None, True, reflected)),
        (by_weight, winograd._by_weight_reference, (grad, x, reflected)),
        (by_weight, winograd._by_weight_reference, (grad, x, reflected, True)),
    ):
        found, expected = operator(*arguments), reference(*arguments)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11, check_stride=True)
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def layouts_of(x: Tensor) -> dict[str, Tensor]:
    """The same numbers, laid out in several ways."""
    n, c, h, w = x.shape
    wide = torch.zeros(n, c + 5, h + 2, w + 3, dtype=x.dtype)
    wide[:, 2:-3, 1:-1, :-3] = x
    return {
        "contiguous": x.contiguous(),
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "sliced": wide[:, 2:-3, 1:-1, :-3],
        "sliced channels_last": wide.contiguous(memory_format=torch.channels_last)[:, 2:-3, 1:-1, :-3],
        "permuted": x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1),
        "flipped order": x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    }


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", WINOGRAD_SIZES, ids=str)
def test_any_layout_gives_the_same_bits_in_the_format_of_its_image(
    size: tuple[int, ...], dtype: torch.dtype, vectors: None
) -> None:
    x, weight, bias, grad = drawn(*size, dtype)
    everywhere = zip(layouts_of(x).items(), layouts_of(grad).values(), layouts_of(weight).values(), strict=True)
    expected = [winograd.convolve(x, weight, bias), winograd.by_input(grad, weight), winograd.by_weight(grad, x)]
    for (name, image), gradient, kernel in everywhere:
        found = [winograd.convolve(image, kernel, bias), winograd.by_input(gradient, kernel)]
        assert all(y.is_contiguous(memory_format=output_format(image)) for y in found), name
        found.append(winograd.by_weight(gradient, image))
        assert found[2].is_contiguous()
        assert all(torch.equal(mine, right) for mine, right in zip(found, expected, strict=True)), name
    last, first = x.contiguous(memory_format=torch.channels_last), grad.contiguous()
    assert torch.equal(winograd.by_weight(first, last), expected[2])  # each in a format of its own


@needs_native
def test_expanded_images_and_weights(vectors: None) -> None:
    x, grad = torch.randn(1, 16, 1, 9, dtype=torch.float64), torch.randn(1, 1, 1, 1, dtype=torch.float64)
    x, grad, bias = x.expand(3, 16, 6, 9), grad.expand(3, 32, 6, 9), torch.zeros(32, dtype=torch.float64)
    weight = torch.randn(32, 1, 3, 1, dtype=torch.float64).expand(32, 16, 3, 3)
    for ours, theirs in zip(*both_ways(x, weight, bias, grad), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_formats_are_those_of_torchs_convolution(memory_format: torch.memory_format, any_tile_count: None) -> None:
    x = torch.randn(2, 16, 8, 8).contiguous(memory_format=memory_format)
    weight = torch.randn(32, 16, 3, 3, requires_grad=True)
    found = []
    for function in (conv2d, F.conv2d):
        leaf = x.clone().requires_grad_()
        y = function(leaf, weight, padding=1)
        found.append([y, *torch.autograd.grad(y, (leaf, weight), torch.ones_like(y))])
    assert [mine.stride() for mine in found[0][:2]] == [theirs.stride() for theirs in found[1][:2]]
    assert found[0][2].is_contiguous()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_weights_gradient_has_its_format(memory_format: torch.memory_format, any_tile_count: None) -> None:
    """So that a parameter takes it over without a copy; the numbers are the same."""
    x, weight = torch.randn(2, 16, 8, 8).contiguous(memory_format=memory_format), torch.randn(32, 16, 3, 3)
    found = []
    for weight_format in (torch.contiguous_format, torch.channels_last):
        leaf = weight.contiguous(memory_format=weight_format).requires_grad_()
        (by_weight,) = torch.autograd.grad(conv2d(x, leaf, padding=1).square().sum(), leaf)
        assert by_weight.stride() == leaf.stride()
        found.append(by_weight)
    assert torch.equal(*found)


@needs_native
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(
    memory_format: torch.memory_format, any_tile_count: None, vectors: None
) -> None:
    """Nor do they change from run to run. Tiles enough for several parts, whose sizes depend on the threads."""
    x, weight = torch.randn(5, 48, 33, 30).contiguous(memory_format=memory_format), torch.randn(32, 48, 3, 3)
    bias, grad = torch.randn(32), torch.randn(5, 32, 33, 30).contiguous(memory_format=memory_format)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            kernels = [winograd.convolve(x, weight, bias), winograd.by_input(grad, weight), winograd.by_weight(grad, x)]
            runs.append([*kernels, *penalised(conv2d, x, weight, bias, 1, 1)])
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(mine, first) for mine, first in zip(run, runs[0], strict=True))


def penalised(convolution, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> list[Tensor]:
    """Gradients of an output and of the squared norm of its gradient by x, as in R1, and once more."""
    x, weight, bias = (tensor.clone().requires_grad_() for tensor in (x, weight, bias))
    y = convolution(x, weight, bias, stride=stride, padding=padding)
    (by_x,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    by_weight, by_bias = torch.autograd.grad(y.square().sum() + by_x.square().sum(), (weight, bias), create_graph=True)
    third = torch.autograd.grad(by_weight.square().sum() + by_bias.square().sum(), (x, weight, bias))
    return [y, by_x, by_weight, by_bias, *third]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_derivatives_of_any_order(geometry: tuple[int, ...], any_tile_count: None) -> None:
    channels, out_channels, kernel, stride, padding = geometry
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, channels, 6, 8, dtype=torch.float64).contiguous(memory_format=memory_format)
        weight = torch.randn(out_channels, channels, kernel, kernel, dtype=torch.float64) / 10
        bias = torch.randn(out_channels, dtype=torch.float64)
        ours, theirs = (penalised(f, x, weight, bias, stride, padding) for f in (conv2d, F.conv2d))
        for mine, right in zip(ours, theirs, strict=True):
            # rounding is relative to the sums that cancel, so to the largest number and not to each
            torch.testing.assert_close(mine, right, rtol=0, atol=1e-10 * float(right.abs().max()))


def test_only_what_is_asked_for_gets_a_gradient(any_tile_count: None) -> None:
    for channels in (3, 16):
        x, weight = torch.randn(2, channels, 8, 8), torch.randn(16, channels, 3, 3, requires_grad=True)
        conv2d(x, weight, torch.randn(16), padding=1).sum().backward()
        assert weight.grad is not None and x.grad is None
        x.requires_grad_()
        (by_x,) = torch.autograd.grad(conv2d(x, weight.detach(), padding=1).sum(), x)
        torch.testing.assert_close(by_x, torch.autograd.grad(F.conv2d(x, weight, padding=1).sum(), x)[0])


def test_winograd_runs_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **named: object) -> Tensor:
        raise AssertionError("Winograd's form")

    monkeypatch.setattr(winograd, "convolve", never)
    monkeypatch.setattr(_choices, "WINOGRAD_TILES", 16)
    monkeypatch.setattr(_choices, "WINOGRAD_MANY_CHANNELS", 32)
    weight = torch.randn(16, 16, 3, 3)
    conv2d(torch.randn(3, 16, 8, 8), weight, padding=1)  # 12 tiles
    conv2d(torch.randn(32, 16, 1, 8), weight, padding=1)  # a quarter of 64 tiles
    conv2d(torch.randn(32, 16, 16, 16), weight)  # another geometry
    with use_backend("reference"):
        conv2d(torch.randn(32, 16, 16, 16), weight, padding=1)
    many = torch.randn(32, 32, 3, 3)
    conv2d(torch.randn(1, 32, 8, 8), many, padding=1)  # 4 tiles, of many channels
    if build_info() is not None:
        for size, kernel in (((4, 16, 8, 8), weight), ((32, 16, 2, 4), weight), ((2, 32, 8, 8), many)):
            with pytest.raises(AssertionError, match="Winograd's form"):
                conv2d(torch.randn(size), kernel, padding=1)


@needs_native
@pytest.mark.parametrize(("batch", "ours"), [(1, False), (32, True)])
def test_small_convolutions_are_torchs(batch: int, ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(convolution._Convolution, "apply", lambda *arguments: calls.append(arguments))
    x, weight = torch.randn(batch, 24, 16, 16), torch.randn(24, 24, 4, 4)  # 2.4 million multiplications each
    conv2d(x, weight, padding=1)  # nothing to differentiate
    with torch.no_grad():
        conv2d(x.requires_grad_(), weight, padding=1)
    assert not calls
    conv2d(x, weight, padding=1)
    assert bool(calls) == ours


@needs_native
@pytest.mark.parametrize("channels", [32, 16])
def test_many_channels_of_bfloat16_take_winograds_form(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a processor multiplies bfloat16; few channels are torch's there."""
    monkeypatch.setattr(_choices, "WITHOUT_BFLOAT16", ())
    monkeypatch.setattr(_choices, "WINOGRAD_BEATS_BFLOAT16", 32)
    calls = []
    convolve = winograd.convolve
    monkeypatch.setattr(
        winograd, "convolve", lambda x, *rest, **named: calls.append(x.dtype) or convolve(x, *rest, **named)
    )
    x, weight = torch.randn(4, channels, 16, 16), torch.randn(32, channels, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv2d(x, weight, padding=1)
    assert y.dtype == conv2d(x.bfloat16(), weight.bfloat16(), padding=1).dtype == torch.bfloat16
    assert calls == [torch.float32] * 2 * (channels == 32)
    exact = F.conv2d(x, weight, padding=1)
    torch.testing.assert_close(y.float(), exact, rtol=0, atol=2e-2 * float(exact.abs().max()))


def test_torchs_own_where_nothing_else_fits() -> None:
    x, weight = torch.randn(32, 16, 16, 16), torch.randn(16, 16, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv2d(x, weight, padding=1).dtype == torch.bfloat16
    _, tangent = torch.func.jvp(lambda x: conv2d(x, weight, padding=1), (x,), (x,))
    torch.testing.assert_close(tangent, F.conv2d(x, weight, padding=1))
    assert conv2d(x[:0], weight, padding=1).shape == (0, 16, 16, 16)


def inside_autocast(y: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    with torch.autocast("cpu", torch.bfloat16):
        gradients = torch.autograd.grad(y, inputs, torch.cos(y.detach()), create_graph=True)
        return *gradients, *torch.autograd.grad(gradients[0].square().sum() + gradients[1].square().sum(), inputs)


def batched(y: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    along = torch.stack([torch.cos(y.detach()), y.detach()])
    return torch.autograd.grad(y, inputs, along, is_grads_batched=True)


def along_a_direction(y: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.cos(y.detach()), y.detach())
        gradients = torch.autograd.grad(y, inputs, dual, create_graph=True)
        return tuple(forward_ad.unpack_dual(gradient).tangent for gradient in gradients)


@pytest.mark.parametrize("differentiate", [inside_autocast, batched, along_a_direction])
@pytest.mark.parametrize("channels", [16, 3])
def test_graphs_are_differentiated_as_torchs_are(differentiate, channels: int, any_tile_count: None) -> None:
    """The forward pass knows nothing of what surrounds the backward pass."""
    x, weight = torch.randn(2, channels, 5, 6), torch.randn(16, channels, 3, 3) / 10
    found = []
    for function in (conv2d, F.conv2d):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight)]
        found.append(differentiate(function(*inputs, padding=1), inputs))
    for mine, right in zip(*found, strict=True):
        tolerance = 2e-2 if differentiate is inside_autocast else 1e-4  # torch's own are rounded to bfloat16
        torch.testing.assert_close(mine, right, rtol=0, atol=tolerance * float(right.detach().abs().max()))


def test_negative_views(any_tile_count: None) -> None:
    x, weight = torch._neg_view(torch.randn(2, 16, 8, 8)), torch.randn(16, 16, 3, 3, requires_grad=True)
    ours, theirs = (torch.autograd.grad(f(x, weight, padding=1).pow(2).sum(), weight)[0] for f in (conv2d, F.conv2d))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


# --- bfloat16 where the processor has none ---


#: gradients of the transposed one take Winograd's form as well, but those that they are compared with are torch's
BFLOAT16_CASES = [(conv2d, geometry) for geometry in GEOMETRIES]
BFLOAT16_CASES += [(conv_transpose2d, geometry) for geometry in GEOMETRIES[1:]]


def sides(function, geometry: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the weight."""
    channels, out_channels, kernel, _, _ = geometry
    return (*((out_channels, channels) if function is conv2d else (channels, out_channels)), kernel, kernel)


def widened_by_hand(convolution, operands: list[Tensor], grad: Tensor, **geometry: int) -> list[Tensor]:
    """Output and gradients in float32 of the operands rounded to bfloat16, each result rounded once."""
    inputs = [operand.detach().bfloat16().float().requires_grad_() for operand in operands]
    y = convolution(*inputs, **geometry)
    return [result.detach().bfloat16() for result in (y, *torch.autograd.grad(y, inputs, grad.float()))]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("function", "geometry"), BFLOAT16_CASES)
def test_bfloat16_is_float32_rounded_once(
    function, geometry: tuple[int, ...], memory_format, any_tile_count: None, no_bfloat16: None
) -> None:
    """Bit by bit, by autocast and as it is; gradients come in the type of what they are gradients of."""
    channels, out_channels, _, stride, padding = geometry
    x = torch.randn(2, channels, 6, 8).contiguous(memory_format=memory_format)
    operands = [x, torch.randn(sides(function, geometry)), torch.randn(out_channels)]
    shape = function(*operands, stride=stride, padding=padding).shape
    grad = torch.randn(shape).bfloat16().contiguous(memory_format=memory_format)
    expected = widened_by_hand(function, operands, grad, stride=stride, padding=padding)
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [operand.to(dtype).requires_grad_() for operand in operands]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.float32):
            y = function(*inputs, stride=stride, padding=padding)
        gradients = torch.autograd.grad(y, inputs, grad)
        assert y.dtype is torch.bfloat16 and {gradient.dtype for gradient in gradients} == {dtype}
        assert y.stride() == expected[0].stride()
        for mine, right in zip((y, *gradients), expected, strict=True):
            assert torch.equal(mine.bfloat16(), right) and torch.equal(mine, mine.bfloat16())


@pytest.mark.parametrize(("function", "geometry"), BFLOAT16_CASES)
def test_bfloat16_derivatives_are_as_exact_as_torchs(
    function, geometry: tuple[int, ...], any_tile_count: None, no_bfloat16: None
) -> None:
    """Of all orders: root mean square errors, those of torch's emulation doubled at most."""
    channels, out_channels, _, stride, padding = geometry
    torchs = F.conv2d if function is conv2d else F.conv_transpose2d
    x = torch.randn(2, channels, 6, 8, dtype=torch.bfloat16)
    weight, bias = torch.randn(sides(function, geometry)).bfloat16() / 8, torch.randn(out_channels).bfloat16()
    exact = penalised(torchs, x.double(), weight.double(), bias.double(), stride, padding)
    ours, theirs = (penalised(f, x, weight, bias, stride, padding) for f in (function, torchs))
    for mine, other, right in zip(ours, theirs, exact, strict=True):
        assert mine.dtype is torch.bfloat16
        errors = [(found.double() - right).square().mean().sqrt() for found in (mine, other)]
        assert errors[0] <= 2 * errors[1] + 1e-3 * right.abs().max()


def test_bfloat16_is_what_is_kept(no_bfloat16: None) -> None:
    """For the derivatives: half the memory is what the format is for here."""
    kept: list[Tensor] = []
    x, weight = torch.randn(2, 16, 8, 8, requires_grad=True), torch.randn(16, 16, 3, 3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda kept: kept):
        with torch.autocast("cpu", torch.bfloat16):
            conv_transpose2d(conv2d(x, weight, padding=1), weight, padding=1)
    assert len(kept) == 4 and {tensor.dtype for tensor in kept} == {torch.bfloat16}


def test_graphs_of_bfloat16_know_transforms(any_tile_count: None, no_bfloat16: None) -> None:
    for channels in (16, 3):
        operands = torch.randn(2, channels, 5, 6).bfloat16(), torch.randn(16, channels, 3, 3).bfloat16()
        found = []
        for function in (conv2d, F.conv2d):
            inputs = [operand.clone().requires_grad_() for operand in operands]
            y = function(*inputs, padding=1)
            found.append((*batched(y, inputs), *along_a_direction(function(*inputs, padding=1), inputs)))
        for mine, right in zip(*found, strict=True):
            assert mine.dtype is torch.bfloat16
            torch.testing.assert_close(mine, right, rtol=0, atol=2e-2 * float(right.detach().abs().max()))


def test_bfloat16_of_torch_where_it_has_to_be(monkeypatch: pytest.MonkeyPatch, no_bfloat16: None) -> None:
    x, weight = torch.randn(2, 16, 8, 8).bfloat16(), torch.randn(16, 16, 3, 3).bfloat16()
    functions = (conv2d, conv_transpose2d)
    for function in functions:
        _, tangent = torch.func.jvp(lambda x, f=function: f(x, weight, padding=1), (x,), (x,))
        y = function(x, weight, padding=1)
        torch.testing.assert_close(tangent, y, rtol=0, atol=2e-2 * float(y.abs().max()))
        assert function(x[:0], weight, padding=1).shape == (0, 16, 8, 8)
        with pytest.raises(RuntimeError, match="type"):
            function(x, weight.float(), padding=1)
        with pytest.raises(RuntimeError, match="type"), torch.autocast("cpu", torch.bfloat16):
            function(x.double(), weight, padding=1)
        with torch.autocast("cpu", torch.float16):
            assert function(x, weight, padding=1).dtype is torch.float16

    def never(*arguments: object) -> Tensor:
        raise AssertionError("ours")

    for kind in (convolution._Convolution, convolution._Transposed):
        monkeypatch.setattr(kind, "apply", never)
    for function in functions:
        with pytest.raises(AssertionError, match="ours"):
            function(x, weight, padding=1)
        with use_backend("reference"):
            function(x, weight, padding=1)
    monkeypatch.setattr(_choices, "WITHOUT_BFLOAT16", ())
    for function in functions:
        function(x, weight, padding=1)
        with torch.autocast("cpu", torch.bfloat16):
            function(x.float(), weight, padding=1)

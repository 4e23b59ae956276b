"""The choice of a backend: what is free, what is demanded, and what happens where a demand cannot be met."""

from __future__ import annotations

import re
import threading

import pytest
import torch
from source_tree import ROOT, run_python
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from m2o_fast.ops import (
    adain_act,
    backends,
    foreground_color,
    leaky_relu_down2,
    residual_merge,
    scale_bias_act,
    soft_color_histogram,
    use_backend,
)
from m2o_fast.ops._formats import in_format, is_channels_last
from m2o_fast.ops._library import choose_backend

CPU = torch.device("cpu")
IMAGES, STYLE = torch.randn(2, 3, 4, 4), torch.zeros(2, 3)


def test_backends_name_choice_and_reason() -> None:
    table = backends()
    assert {"adain_act", "instance_norm_act"} <= set(table)
    for op, devices in table.items():
        assert set(devices) == ({"cpu", "cuda"} if torch.cuda.is_available() else {"cpu"})
        for device, facts in devices.items():
            assert facts["available"]["reference"] is True
            assert facts["available"][facts["chosen"]] is True
            assert facts["chosen"] == choose_backend(op, torch.device(device), None)
            assert facts["why"]
            for backend, available in facts["available"].items():
                if not available:
                    with pytest.raises(RuntimeError, match=f"{op}: backend '{backend}' is not available: "):
                        choose_backend(op, torch.device(device), backend)


def test_demands_and_their_order() -> None:
    free = choose_backend("adain_act", CPU, None)
    with use_backend("reference"):
        assert choose_backend("adain_act", CPU, None) == "reference"
        assert backends()["adain_act"]["cpu"]["chosen"] == "reference"
        with use_backend(None):
            assert choose_backend("adain_act", CPU, None) == free
        assert choose_backend("adain_act", CPU, None) == "reference"
        if free == "compiled":
            assert choose_backend("adain_act", CPU, "compiled") == "compiled"
    assert choose_backend("adain_act", CPU, None) == free


def test_a_demand_ends_with_its_block_even_by_an_error() -> None:
    free = choose_backend("adain_act", CPU, None)
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert choose_backend("adain_act", CPU, None) == free


def test_a_demand_holds_for_its_thread_only() -> None:
    seen = []
    with use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(choose_backend("adain_act", CPU, None)))
        thread.start()
        thread.join()
    assert seen == [choose_backend("adain_act", CPU, None)]


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(ValueError, match="adain_act: backend must be one of reference, compiled, triton or None"):
        adain_act(IMAGES, STYLE, STYLE, backend="fast")
    with pytest.raises(ValueError, match="use_backend: backend must be one of"):
        use_backend("fast")


def test_devices_without_kernels_get_the_reference() -> None:
    meta = IMAGES.to("meta"), STYLE.to("meta"), STYLE.to("meta")
    assert adain_act(*meta).shape == IMAGES.shape
    with pytest.raises(RuntimeError, match="there are no kernels for meta tensors"):
        adain_act(*meta, backend="compiled")


def test_compiled_functions_follow_a_demand() -> None:
    """torch.compile has to notice that the demand changed, inside and outside of the compiled function."""
    graphs = []

    def remember(graph: torch.fx.GraphModule, inputs: list) -> object:
        graphs.append(graph.print_readable(print_output=False))
        return graph.forward

    def plain(x, style):
        return adain_act(x, style, style)

    def demanding(x, style):
        with use_backend("reference"):
            return adain_act(x, style, style)

    torch.compiler.reset()
    free = choose_backend("adain_act", CPU, None)
    outside = torch.compile(plain, fullgraph=True, backend=remember)
    outside(IMAGES, STYLE)
    with use_backend("reference"):
        outside(IMAGES, STYLE)
    torch.compile(demanding, fullgraph=True, backend=remember)(IMAGES, STYLE)
    assert ["m2o_fast.adain_act" in graph for graph in graphs] == [free != "reference", False, False]
    assert choose_backend("adain_act", CPU, None) == free


def test_environment_demands_a_backend() -> None:
    code = "from m2o_fast.ops import backends; print(backends()['adain_act']['cpu'])"
    result = run_python(code, folder=ROOT, M2O_BACKEND="reference")
    assert "'chosen': 'reference'" in result.stdout and "demanded by M2O_BACKEND" in result.stdout, result.stderr
    result = run_python(code, folder=ROOT, M2O_BACKEND="quick")
    assert "M2O_BACKEND must be one of reference, compiled, triton, got 'quick'" in result.stderr


FORKS = """
import os, signal
import torch
from m2o_fast.ops import adain_act

torch.set_num_threads(2)
x, style = torch.randn(8, 32, 32, 32), torch.randn(8, 32)
expected = adain_act(x, style, style)
child = os.fork()
if child == 0:
    signal.alarm(60)
    same = torch.equal(adain_act(x, style, style), expected)
    os._exit(7 if same and torch.get_num_threads() == 1 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), torch.get_num_threads())
"""


def test_a_forked_child_works_with_one_thread() -> None:
    """The threads of its parent are not in it; an alarm ends it, should it wait for them."""
    result = run_python(FORKS, folder=ROOT)
    assert result.stdout == "7 2\n", result


def test_channels_last_rule() -> None:
    contiguous = torch.empty(2, 6, 8, 8)
    rows = contiguous.to(memory_format=torch.channels_last)
    assert not is_channels_last(contiguous) and is_channels_last(rows)
    assert is_channels_last(rows[:, 1:4, 2:, :5]) and not is_channels_last(contiguous[:, 1:4, 2:, :5])
    assert not is_channels_last(contiguous[:1].expand(3, -1, -1, -1))
    assert not is_channels_last(contiguous.transpose(2, 3)) and not is_channels_last(rows.transpose(2, 3))
    assert not is_channels_last(torch.empty(2, 1, 1, 1).expand(2, 6, 8, 8))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_in_format_gives_the_strides_of_a_fresh_tensor(memory_format) -> None:
    for x in (torch.randn(2, 3, 1, 1), torch.randn(2, 1, 3, 4), torch.randn(1, 2, 3, 1)):
        for y in (x, x.to(memory_format=torch.channels_last), x.expand(2, -1, -1, -1) if len(x) == 1 else x):
            formatted = in_format(y, memory_format)
            assert formatted.stride() == torch.empty_like(y, memory_format=memory_format).stride()
            assert torch.equal(formatted, y)


WAYS = {
    "adain": adain_act,
    "color": lambda x, g, b, **backend: foreground_color(x, **backend),
    "histogram": lambda x, g, b, **backend: soft_color_histogram(x.flatten().view(-1, 3), 3, **backend),
}


@pytest.mark.parametrize("op", WAYS.values(), ids=WAYS)
def test_forward_mode_and_transforms_take_the_reference(op) -> None:
    x, g = torch.rand(2, 3, 4, 4, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)

    def loss(x, **backend):
        return op(x, g, g, **backend).square().sum()

    tangent = torch.rand_like(x)
    expected = torch.func.jvp(lambda x: loss(x, backend="reference"), (x,), (tangent,))[1]
    assert expected != 0
    assert torch.func.jvp(loss, (x,), (tangent,))[1] == expected
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        assert torch.autograd.forward_ad.unpack_dual(loss(dual)).tangent == expected
        with pytest.raises(
            RuntimeError, match="forward-mode derivatives and the transforms of torch.func need the ref"
        ):
            loss(dual, backend="compiled")
    assert torch.equal(torch.func.grad(loss)(x), torch.func.grad(lambda x: loss(x, backend="reference"))(x))


G = torch.linspace(-1, 1, 2, dtype=torch.float64)
FUSED = {
    "adain_act": lambda x, **backend: adain_act(x, G, G, **backend),
    "adain_act down2": lambda x, **backend: adain_act(x, G, G, resample="down2", **backend),
    "scale_bias_act": lambda x, **backend: scale_bias_act(x, G, G, **backend),
    "residual_merge": lambda x, **backend: residual_merge(x, x.flip(3), **backend),
    "residual_merge up2": lambda x, **backend: residual_merge(x, x[:, :, ::2, ::2], resample_b="up2", **backend),
    "leaky_relu_down2": leaky_relu_down2,
    "soft_color_histogram": lambda x, **backend: soft_color_histogram(x.flatten()[:30].view(-1, 3), 4, **backend),
}


@pytest.mark.parametrize("function", FUSED.values(), ids=FUSED)
def test_forward_mode_through_a_gradient_takes_the_reference(function) -> None:
    """The function ran before anybody spoke of forward mode, so only its derivative can know."""
    x = torch.rand(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    tangents = []
    for backend in ("reference", None):
        y = function(x, backend=backend)
        along = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)

        def gradient(along: torch.Tensor, y: torch.Tensor = y) -> torch.Tensor:
            return torch.autograd.grad(y, x, along, retain_graph=True)[0]

        tangents.append(torch.func.jvp(gradient, (along,), (along,))[1])
        with torch.autograd.forward_ad.dual_level():
            dual = gradient(torch.autograd.forward_ad.make_dual(along, along))
            tangents.append(torch.autograd.forward_ad.unpack_dual(dual).tangent)
    assert tangents[0].abs().max() > 0
    for tangent in tangents[1:]:
        torch.testing.assert_close(tangent, tangents[0])


@pytest.mark.parametrize("function", FUSED.values(), ids=FUSED)
def test_compiled_transforms_take_the_reference(function) -> None:
    torch._dynamo.reset()
    gradient = torch.func.grad(lambda x: function(x).square().sum())
    x = torch.rand(2, 2, 4, 4, dtype=torch.float64)
    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), gradient(x))


def gradient_of(function):
    return lambda x: torch.autograd.grad(function(x).sum(), x)[0]


def test_tracers_see_the_operators() -> None:
    """Eager calls take a shorter way to the kernels; nothing that records or replaces operators may miss them."""
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    functions = {
        "adain_act": lambda x: adain_act(x, STYLE, STYLE),
        "leaky_relu_down2": lambda x: leaky_relu_down2(x),
        "residual_merge": lambda x: residual_merge(x, x),
        "scale_bias_act": lambda x: scale_bias_act(x, STYLE, STYLE),
    }
    for name, function in functions.items():
        for leaf in (x, x.detach()):
            trace = torch.jit.trace(function, (leaf,), check_trace=False)
            assert f"m2o_fast::{name}(" in str(trace.graph)
            assert f"m2o_fast.{name}.default(" in make_fx(function)(leaf).code
        gradient = make_fx(gradient_of(function))(x)
        assert f"m2o_fast.{name}_backward.default(" in gradient.code
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = torch.rand(2, 3, 4, 4, requires_grad=True)
        assert all(type(function(fake)) is FakeTensor for function in functions.values())


def test_a_gradient_that_does_not_exist_stays_none() -> None:
    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return None

    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    y = Stop.apply(adain_act(x, STYLE, STYLE))
    assert torch.autograd.grad(y.sum(), x, allow_unused=True) == (None,)


TRANSFORMS = """
import sys, warnings
warnings.simplefilter("ignore")
if {native} == 0:
    sys.modules["m2o_fast._C"] = None
import torch
from m2o_fast.ops import foreground_color, soft_color_histogram
x = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
tangent = torch.rand(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
for op in (lambda x: foreground_color(x), lambda x: soft_color_histogram(x, 3)):
    loss = lambda x: op(x).square().sum()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    numeric = (loss(x + 1e-6 * tangent) - loss(x - 1e-6 * tangent)) / 2e-6
    expected = (gradient * tangent).sum()
    assert expected.abs() > 1e-3
    torch.testing.assert_close(expected, numeric, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(torch.func.jvp(loss, (x,), (tangent,))[1], expected)
    torch.testing.assert_close(torch.func.grad(loss)(x), gradient)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(loss(dual)).tangent, expected)
print("right")
"""


#: with native code, tests above have said the same
@pytest.mark.parametrize("native", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", ["", pytest.param("reference", marks=pytest.mark.slow)])
def test_transforms_are_right_with_and_without_native_code(native, backend) -> None:
    environment = {"M2O_BACKEND": backend} if backend else {}
    result = run_python(TRANSFORMS.format(native=int(native)), folder=ROOT, **environment)
    assert result.stdout == "right\n", result.stderr


WITHOUT_NATIVE = """
import sys, warnings
warnings.simplefilter("ignore")
sys.modules["m2o_fast._C"] = None
import torch
from m2o_fast.ops import color_histogram, foreground_color, soft_color_histogram, unique_color_count
images, groups = torch.rand(3, 3, 4, 4), torch.tensor([0, 1, 1])
def describe(images, groups):
    return (
        foreground_color(images),
        color_histogram(images, 4, groups=groups, num_groups=2),
        unique_color_count(images),
        soft_color_histogram(images, 4, groups=groups, num_groups=2),
    )
eager = describe(images, groups)
compiled = torch.compile(describe, fullgraph=True, backend="aot_eager")(images, groups)
meta = describe(images.to("meta"), groups.to("meta"))
assert all(torch.equal(*pair) for pair in zip(eager, compiled))
assert all((one.shape, one.dtype) == (other.shape, other.dtype) for one, other in zip(eager, meta))
print("right")
"""


def test_counts_without_native_code_compile_to_one_graph_and_run_without_values() -> None:
    result = run_python(WITHOUT_NATIVE, folder=ROOT)
    assert result.stdout == "right\n", result.stderr


TOO_OLD_CPU = """
import importlib.util, sys
class Refusal:
    def find_spec(self, name, path, target=None):
        return importlib.util.spec_from_loader(name, self) if name == "m2o_fast._C" else None
    def create_module(self, spec):
        raise ImportError({words!r})
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Refusal())
from m2o_fast.engine.doctor import examine
from m2o_fast.ops import adain_act, backends
found = examine()
print(found["problems"], found["native"]["built"], backends()["adain_act"]["cpu"]["chosen"])
print([text for text in found["warnings"] if "AVX2" in text])
import torch
adain_act(torch.rand(1, 1, 2, 2), torch.zeros(1), torch.zeros(1), backend="compiled")
"""


def test_a_cpu_without_avx2_is_told_and_has_nothing_to_build() -> None:
    """The module raises there what it would raise on such a CPU, in the words that are in its source."""
    (words,) = re.findall(r'py::import_error\("(.*)"\)', (ROOT / "csrc" / "module.cpp").read_text())
    code = TOO_OLD_CPU.format(words=words)
    environment = {"CUDA_VISIBLE_DEVICES": "", "M2O_REQUIRE_EXT": "0"}
    result = run_python(code, folder=ROOT, **environment)
    facts, remark = result.stdout.splitlines()
    assert facts == "[] False reference", result.stderr
    assert remark == f"['{words}; operators run as plain torch, slower. There is nothing to build']"
    assert f"so slower: {words}. There is nothing to build\n" in result.stderr
    assert f"RuntimeError: adain_act: backend 'compiled' is not available: {words}" in result.stderr
    result = run_python(code, folder=ROOT, **environment | {"M2O_REQUIRE_EXT": "1"})
    assert result.stderr.endswith(f"ImportError: M2O_REQUIRE_EXT=1, but {words}. There is nothing to build\n")


def test_plain_gradients_hold_no_graph() -> None:
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    assert not torch.autograd.grad(foreground_color(images).sum(), images)[0].requires_grad

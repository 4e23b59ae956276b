"""adain_act where things get large or happen at once: caches, 32-bit offsets, threads, many runs, streams, graphs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adain_cases import normal, output_shape, run
from cases import INTERPRETER, LAYOUTS, TARGETS, Target, available
from torch import Tensor

from m2o_fast.ops import adain_act

RESAMPLES = [None, "up2", "down2"]
GIB = 1 << 30


@pytest.fixture(params=TARGETS, ids="-".join)
def target(request: pytest.FixtureRequest) -> Target:
    return available("adain_act", *request.param)


def inputs_of(shape: tuple[int, ...], layout: str, resample: str | None, dtype=torch.float32) -> list[Tensor]:
    x = LAYOUTS[layout](normal(*shape).to(dtype))
    grad = LAYOUTS[layout](normal(*output_shape(shape, resample), seed=3).to(dtype))
    return [x, normal(*shape[:2], seed=1).float(), normal(*shape[:2], seed=2).float(), grad]


def assert_same_bits(results: list[tuple[Tensor, ...]]) -> None:
    for others in results[1:]:
        assert all(torch.equal(first, other) for first, other in zip(results[0], others, strict=True))


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_runs_give_the_same_bits(target, layout, resample) -> None:
    backend, device = target
    shape = (4, 64, 64, 64) if device.type == "cuda" else (2, 5, 24, 26)
    tensors = [tensor.to(device) for tensor in inputs_of(shape, layout, resample)]
    runs = 3 if target == INTERPRETER else 20  # the interpreter is slow, and one thread
    assert_same_bits([run(*tensors, resample=resample, backend=backend) for _ in range(runs)])


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(1, 40, 64, 66), (4, 24, 64, 64)], ids=str)
def test_thread_counts_give_the_same_bits(layout, shape, resample) -> None:
    tensors = inputs_of(shape, layout, resample)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            results.append(run(*tensors, resample=resample, backend=available("adain_act", "compiled", "cpu")[0]))
    finally:
        torch.set_num_threads(threads)
    assert_same_bits(results)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("shape", "resample"),
    [
        ((4, 16, 256, 260), None),
        ((4, 1, 1051, 1001), None),
        ((4, 3, 601, 603), None),
        ((4, 16, 128, 132), "up2"),
        ((4, 3, 301, 303), "up2"),
        ((4, 16, 512, 260), "down2"),
        ((4, 3, 1202, 602), "down2"),
    ],
    ids=str,
)
def test_outputs_larger_than_the_caches(layout, shape, resample) -> None:
    """They are written by streaming stores, with demands on alignment; one sample alone is not large."""
    tensors = inputs_of(shape, layout, resample)
    options = {"resample": resample, "backend": available("adain_act", "compiled", "cpu")[0]}
    together = run(*tensors, **options)
    alone = [run(*(tensor[at : at + 1] for tensor in tensors), **options) for at in range(len(tensors[0]))]
    assert_same_bits([together, tuple(map(torch.cat, zip(*alone, strict=True)))])


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    memory = Path("/proc/meminfo")
    facts = dict(line.split(":") for line in memory.read_text().splitlines()) if memory.is_file() else {}
    return 1024 * int(facts.get("MemAvailable", "0 kB").split()[0])


@pytest.mark.slow
@pytest.mark.parametrize("backend_device", [("compiled", "cpu"), ("compiled", "cuda"), ("triton", "cuda")])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("shape", "resample"),
    [((9, 64, 2048, 2048), None), ((9, 64, 1024, 1024), "up2"), ((9, 64, 2048, 2048), "down2")],
    ids=str,
)
def test_offsets_beyond_32_bits(backend_device, layout, shape, resample) -> None:
    """The last planes of a tensor of more than 2^31 elements get what they get alone."""
    backend, device = available("adain_act", *backend_device)
    if free_bytes(device) < 24 * GIB:
        pytest.skip(f"needs 24 GiB of free memory on {device}, there are {free_bytes(device) / GIB:.0f}")
    offsets_beyond_32_bits(backend, device, layout, shape, resample)


def offsets_beyond_32_bits(
    backend: str, device: torch.device, layout: str, shape: tuple[int, ...], resample: str | None
) -> None:
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    options = {"dtype": torch.bfloat16, "device": device}
    # Not torch.zeros_like: pages that nobody writes to cost no memory on a CPU.
    x, grad = (torch.zeros(size, **options) for size in (shape, output_shape(shape, resample)))
    if layout == "channels_last":
        x, grad = (t.view(t.shape[0], *t.shape[2:], t.shape[1]).permute(0, 3, 1, 2) for t in (x, grad))
    assert max(x.numel(), grad.numel()) > 2**31
    x[-1, -2:] = normal(2, *x.shape[2:]).to(**options)
    grad[-1, -2:] = normal(2, *grad.shape[2:], seed=3).to(**options)
    gamma, beta = (normal(*shape[:2], seed=seed).float().to(device) for seed in (1, 2))
    few = [x[-1:, -2:], gamma[-1:, -2:], beta[-1:, -2:], grad[-1:, -2:]]
    alone = run(*(t.contiguous(memory_format=memory_format) if t.dim() == 4 else t for t in few), resample=resample)
    whole = run(x, gamma, beta, grad, resample=resample, backend=backend)
    for result, expected in zip(whole, alone, strict=True):
        torch.testing.assert_close(result[-1:, -2:], expected, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("backend", ["compiled", "triton"])
def test_two_streams_do_not_disturb_each_other(backend, resample) -> None:
    cases = [
        [t.cuda() for t in inputs_of(shape, "contiguous", resample)] for shape in ((8, 64, 64, 64), (2, 3, 300, 300))
    ]
    expected = [run(*tensors, resample=resample, backend=backend) for tensors in cases]
    streams = [torch.cuda.Stream() for _ in cases]
    results: list[list[tuple[Tensor, ...]]] = [[], []]
    torch.cuda.synchronize()
    for _ in range(10):
        for at, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results[at].append(run(*cases[at], resample=resample, backend=backend))
    torch.cuda.synchronize()
    for at, truth in enumerate(expected):
        assert_same_bits([truth, *results[at]])


@pytest.mark.gpu
@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("shape", [(8, 64, 32, 32), (1, 2, 512, 512)], ids=str)  # in one pass, in two with a workspace
@pytest.mark.parametrize("backend", ["compiled", "triton"])
def test_cuda_graph_replays_on_new_numbers(backend, shape, resample) -> None:
    tensors = [t.cuda() for t in inputs_of(shape, "contiguous", resample)]

    def forward_and_backward() -> tuple[Tensor, ...]:
        y, mean, rstd = operator(*tensors[:3], 1e-5, 0.2, True, code)
        return y, *operator_backward(tensors[3], *tensors[:3], mean, rstd, 0.2, True, code)

    name = "adain_act" if backend == "compiled" else "adain_act_triton"
    operator, operator_backward = getattr(torch.ops.m2o_fast, name), getattr(torch.ops.m2o_fast, f"{name}_backward")
    code = RESAMPLES.index(resample)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # compiles what is compiled on first use
        forward_and_backward()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = forward_and_backward()
    for tensor in tensors:
        tensor.neg_().add_(0.1)
    graph.replay()
    torch.cuda.synchronize()
    assert_same_bits([forward_and_backward(), captured])
    assert torch.equal(captured[0], adain_act(*tensors[:3], resample=resample, backend=backend))

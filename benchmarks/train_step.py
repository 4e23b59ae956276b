"""One training iteration of StarGAN v2 as it is measured: the published one in plain torch, ours, its convolutions.

    python benchmarks/train_step.py fast-fp32   # peak memory of its iterations, in bytes

All take the same nets, images and noise. `plain` is the oracle of tests/translators/starganv2: the published order,
eight encoder passes, nothing shared between the phases, no fused operation. `fast` is what `m2o-fast train` does, with
the moving average, `graphed` the same with `--cuda-graphs`. `convolutions` is what bounds `fast`:
:func:`convolutions_alone`. Behind each name stands its `--precision`.
"""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from m2o_fast.batch import Batch
from m2o_fast.engine.graphs import WARM_UP, CudaRecorder, GraphedStepper
from m2o_fast.engine.precision import float32_products
from m2o_fast.engine.step import Stepper
from m2o_fast.translators.starganv2.published import from_official
from m2o_fast.translators.starganv2.settings import Optim

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "translators" / "starganv2"))
import plain_networks as networks  # noqa: E402  (lie beside the tests)
import plain_starganv2 as plain  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
#: runs once
Iteration = Callable[[], object]


class Case(NamedTuple):
    """Sizes of images, nets and batch."""

    name: str
    size: int
    base_width: int
    max_width: int
    batch: int

    def __str__(self) -> str:
        return f"{self.name}, {self.size} px, batch {self.batch}"


if DEVICE.type == "cpu":
    CASES = [Case("cpu32", 32, 32, 128, 32)]
else:
    CASES = [Case("gpu256", 256, 64, 512, 8), Case("gpu32", 32, 32, 128, 32)]


#: The published widths (model.base_width: official), which are 512 channels from the first layer on. No GPU needs it:
#: its case has as many channels.
PUBLISHED = [Case("cpu32-published", 32, 512, 512, 4)] if DEVICE.type == "cpu" else []


class Samples(NamedTuple):
    """Two domains, the first half of the batch from one, the second from the other, each to the other."""

    images: Tensor
    references: Tensor
    references2: Tensor
    latents: Tensor
    latents2: Tensor


def make_samples(case: Case) -> Samples:
    """Uniform noise images in [-1, 1] and normal latents, the same every time."""
    generator = torch.Generator(DEVICE).manual_seed(0)

    def uniform() -> Tensor:
        return torch.rand((case.batch, 3, case.size, case.size), generator=generator, device=DEVICE) * 2 - 1

    def latent() -> Tensor:
        return torch.randn((case.batch, 16), generator=generator, device=DEVICE)

    return Samples(uniform(), uniform(), uniform(), latent(), latent())


def plain_nets(case: Case) -> networks.Nets:
    """Fresh nets in plain torch, the same every time."""
    torch.manual_seed(0)
    widths = {"max_width": case.max_width, "base_width": case.base_width}
    nets = networks.Nets(
        networks.Generator(case.size, **widths),
        networks.MappingNetwork(),
        networks.StyleEncoder(case.size, **widths),
        networks.Discriminator(case.size, **widths),
    )
    for net in vars(nets).values():
        net.to(DEVICE)
    return nets


def plain_iteration(case: Case, precision: str = "fp32") -> Iteration:
    """An iteration of the oracle; returns the first phase's loss on real images."""
    trainer, samples = plain.PlainTrainer(plain_nets(case)), make_samples(case)
    source = torch.arange(case.batch, device=DEVICE) * 2 // case.batch
    labels = (source, 1 - source)

    def run() -> float:
        logs = trainer.iteration(
            samples.images, *labels, samples.latents, samples.latents2, samples.references, samples.references2
        )
        return logs["d_latent"]["real"]

    return multiplying(run, precision)


def fast_stepper(case: Case, precision: str = "fp32", **settings: Any) -> tuple[Stepper, Batch]:
    """Our trainer with the same weights, and the same samples as its batch; ``settings`` of the losses."""
    nets, samples = plain_nets(case), make_samples(case)
    keys = {"generator": nets.generator, "mapping_network": nets.mapping, "style_encoder": nets.style_encoder}
    translator = from_official(
        {name: net.state_dict() for name, net in (keys | {"discriminator": nets.discriminator}).items()}
    )
    translator.to(DEVICE).requires_grad_(True)
    translator.weights = translator.weights.model_copy(update=settings)
    averaged = copy.deepcopy(translator).requires_grad_(False)
    half = case.batch // 2
    # target order: the second half of the batch goes to domain 0
    swapped = torch.cat([torch.arange(half, case.batch), torch.arange(half)]).to(DEVICE)

    def by_target(rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(rows[swapped].split(half))

    batch = Batch(
        source=tuple(samples.images.split(half)),
        to_target=swapped,
        target_counts=(half, half),
        reference=by_target(samples.references),
        reference2=by_target(samples.references2),
        noise={"latent": samples.latents[swapped], "latent2": samples.latents2[swapped]},
    )
    return Stepper(translator, averaged, Optim(lr=1e-4, mapping_lr=1e-6), precision=precision), batch


def fast_iteration(case: Case, precision: str = "fp32", *, graphed: bool = False, **settings: Any) -> Iteration:
    """Our iteration; returns the first phase's loss on real images. As a graph, it is recorded in its fourth call."""
    stepper, batch = fast_stepper(case, precision, **settings)
    step = GraphedStepper(stepper, CudaRecorder(DEVICE)) if graphed else stepper
    count = iter(range(10**9))
    return multiplying(lambda: next(iter(step([batch], next(count)).losses.values())), precision)


def multiplying(run: Iteration, precision: str) -> Iteration:
    """``run`` with float32 products as the precision has them."""

    def precisely() -> object:
        with float32_products(precision):
            return run()

    return precisely


# --- the bound --------------------------------------------------------------------------------------------------------


def is_convolution(function: Any) -> bool:
    """Whether a dispatched operator is a convolution or a derivative of one."""
    return "conv" in function.name() or "winograd" in function.name()


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_convolution(func):
            self.calls.append((func, tuple(map(_spec, args)), kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Spec(NamedTuple):
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def _spec(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return _Spec(tuple(argument.shape), argument.stride(), argument.dtype)
    return argument


def convolutions_alone(case: Case, precision: str = "fp32") -> Iteration:
    """The convolutions of our iteration and nothing else: with these kernels no iteration can be faster.

    One iteration is watched. What is run is every convolution that it called, in its order, on random tensors of the
    same shapes, strides and dtypes: forward, by input, by weight and bias, and those of R1, which differentiates
    the discriminator twice. Left out are normalisation, activation, resampling that is no part of a convolution, making
    folded kernels, linear layers, sums of gradients, losses, copies, optimizers, the moving average and all Python of
    the nets. Tensors of one kind are shared by all calls, which only makes this bound lower.
    """
    stepper, batch = fast_stepper(case, precision)
    with _Recorder() as recorder:
        stepper([batch], 0)
    tensors: dict[tuple[_Spec, int], Tensor] = {}

    def tensor(place: int, spec: Any) -> Any:
        if not isinstance(spec, _Spec):
            return spec
        if (spec, place) not in tensors:
            fresh = torch.empty_strided(spec.shape, spec.stride, dtype=spec.dtype, device=DEVICE)
            tensors[spec, place] = fresh.normal_()
        return tensors[spec, place]

    calls = [(f, [tensor(*at) for at in enumerate(specs)], options) for f, specs, options in recorder.calls]

    def run() -> None:
        with torch.no_grad():
            for function, arguments, options in calls:
                function(*arguments, **options)

    return multiplying(run, precision)


ITERATIONS: dict[str, Callable[[Case], Iteration]] = {
    "plain-fp32": plain_iteration,
    "fast-fp32": fast_iteration,
    "convolutions-fp32": convolutions_alone,
    "fast-bf16": partial(fast_iteration, precision="bf16"),
}
if DEVICE.type == "cuda":
    ITERATIONS |= {
        "graphed-fp32": partial(fast_iteration, graphed=True),
        "plain-tf32": partial(plain_iteration, precision="tf32"),
        "fast-tf32": partial(fast_iteration, precision="tf32"),
        "graphed-tf32": partial(fast_iteration, precision="tf32", graphed=True),
        "convolutions-tf32": partial(convolutions_alone, precision="tf32"),
        "graphed-bf16": partial(fast_iteration, precision="bf16", graphed=True),
    }
#: cheaper, with other numbers
OPT_INS = {
    "loss.merge_discriminator_steps": partial(fast_iteration, merge_discriminator_steps=True),
    "loss.r1_every, a step without R1": partial(fast_iteration, r1_every=10**6),
}


# --- memory -----------------------------------------------------------------------------------------------------------


def peak_bytes(name: str) -> int:
    """The most memory that a few iterations took beyond nets, averages and samples.

    Activations, gradients and optimizer state. On a GPU: growth of what torch allocated. On a CPU: of the resident set,
    libraries included, in a process of its own with an allocator that hands freed tensors back at once.
    """
    if DEVICE.type == "cuda":
        return _measure_peak(name)
    folder = Path(__file__).resolve().parent
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
    path = os.pathsep.join(filter(None, [str(folder.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(folder / "train_step.py"), name],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | allocator | {"PYTHONPATH": path},
    )
    return int(done.stdout)


def _measure_peak(name: str) -> int:
    run = ITERATIONS[name](CASES[0])
    if DEVICE.type == "cuda":
        gc.collect()  # what earlier iterations left
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(WARM_UP + 2):  # a graph and one replay of it included
            run()
        return torch.cuda.max_memory_allocated() - before
    before = _resident("VmRSS")
    run(), run()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    """Bytes of this process in memory, now (VmRSS) or at most so far (VmHWM). Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


if __name__ == "__main__":
    print(_measure_peak(sys.argv[1]))

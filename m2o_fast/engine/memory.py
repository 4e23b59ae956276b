"""How much memory a run needs, said before its first step; and what to do where there was too little.

What stays from step to step is counted exactly. What a step needs on top is measured on two small batches: the
tensors that autograd saves are some of the weights' size (folded kernels) and some for every image, so a line through
both tells the rest. A batch that is no larger than these is measured itself, so that measuring never needs more memory
than training. Backward frees them as it goes, so they are the peak: on a CPU (eight configurations, torch's
profiler), the peak of a step was 0.93 to 1.01 times what autograd saved in it; tests/engine/test_memory.py.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from m2o_fast.batch import Batch
from m2o_fast.data.sampler import Directions
from m2o_fast.engine.checkpoint import list_checkpoints
from m2o_fast.engine.precision import autocast
from m2o_fast.engine.schema import Config
from m2o_fast.errors import UserError
from m2o_fast.translators.base import Iteration, Translator
from m2o_fast.translators.settings import Optim


@dataclass(frozen=True)
class Memory:
    """Bytes of one process, beside torch itself.

    Attributes:
        weights: Parameters and buffers of all nets, and history pools.
        gradients: Their gradients.
        moments: What the optimizers keep: Adam's two moments and step counts, of SGD its momentum.
        averages: The copy of the nets that holds the moving average.
        activations: Estimated: what a step needs on top of that at its peak, without the workspaces of libraries.
    """

    weights: int
    gradients: int
    moments: int
    averages: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.moments + self.averages + self.activations


def estimate_memory(
    translator: Translator, averaged: Translator, optim: Optim, images: int, precision: str = "fp32"
) -> Memory:
    """The memory that training needs. Runs the losses of a few blank images, without a backward pass.

    Args:
        translator: The nets on their device; not changed.
        averaged: The copy for the moving average; ``translator`` itself where there is none.
        optim: Says how each group is moved.
        images: Source images that go through the nets at once.
        precision: Number format of the run.
    """
    size = _bytes(translator.parameters())
    groups = {
        name: [_bytes([p]) for net in nets for p in net.parameters()] for name, nets in translator.groups().items()
    }
    return Memory(
        weights=size + _bytes(translator.buffers()) + _bytes(pool.images for pool in translator.pools().values()),
        gradients=size,
        moments=sum(optim.optimizer(name).state_bytes(sizes) for name, sizes in groups.items()),
        averages=0 if averaged is translator else _bytes(averaged.parameters()) + _bytes(averaged.buffers()),
        activations=_activations(translator, images, precision, optim.pretraining()),
    )


def _activations(translator: Translator, images: int, precision: str, index: int) -> int:
    """Where batches take turns, those of the hungriest."""

    def saved(count: int, ways: Directions) -> int:
        return saved_bytes(translator, blank_batch(translator, count, ways), precision, index)

    def of_turn(ways: Directions) -> int:
        domains = len(_domains(ways))
        if images <= 2 * domains:
            return saved(images, ways)
        one, two = (saved(each * domains, ways) for each in (1, 2))
        return round(one + (two - one) * (images / domains - 1))

    return max(map(of_turn, translator.turns()))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def blank_batch(translator: Translator, size: int, ways: Directions | None = None) -> Batch:
    """``size`` black images on the translator's device, dealt out to ``ways``; ``None``: to those of the first turn.

    Every domain has its turn as source and as target before one comes again; where they do not come out even, the last
    ones go between multi-modal domains, which need more memory.
    """
    domains, side = translator.domains, translator.image_size
    parameter = next(translator.parameters())
    ways = translator.turns()[0] if ways is None else ways
    present = _domains(ways)
    in_turn = sorted(ways, key=lambda way: (way[1] - way[0] - 1) % len(present))
    hungriest = sorted(ways, key=lambda way: -sum(domains[k].multimodal for k in way))
    rest = size % len(present)
    dealt = [in_turn[k % len(ways)] for k in range(size - rest)] + [hungriest[k % len(ways)] for k in range(rest)]
    by_source = sorted(range(size), key=lambda row: dealt[row][0])
    by_target = sorted(range(size), key=lambda row: dealt[row][1])
    sources, targets = ([sum(way[end] == k for way in dealt) for k in range(len(domains))] for end in (0, 1))

    def images(counts: list[int]) -> tuple[Tensor, ...]:
        return tuple(
            parameter.new_full((count, domain.channels, side, side), -1)
            for count, domain in zip(counts, domains, strict=True)
        )

    known = bool(translator.paired_directions())
    references = [images(targets) for _ in range(translator.references())]
    return Batch(
        source=images(sources),
        to_target=torch.tensor([by_source.index(row) for row in by_target], dtype=torch.int64),
        target_counts=tuple(targets),
        reference=references[0] if references else (),
        reference2=references[1] if len(references) > 1 else (),
        paired=images(targets) if known else (),
        has_pair=torch.ones(size, dtype=torch.bool) if known else None,
        noise=translator.noise(size, torch.Generator().manual_seed(0)),
    ).to(parameter.device, parameter.dtype)


def _domains(ways: Directions) -> set[int]:
    return {domain for way in ways for domain in way}


def saved_bytes(translator: Translator, batch: Batch, precision: str = "fp32", index: int = 0) -> int:
    """The most that autograd keeps for backward passes at a time of an iteration, weights and images left out."""
    held = _Held([*translator.parameters(), *batch.source, *batch.reference, *batch.reference2, *batch.paired])
    pools = {name: pool.to(batch.source[0]) for name, pool in translator.pools().items()}
    iteration = Iteration(index, pools=pools)
    buffers = [(buffer, buffer.clone()) for buffer in translator.buffers()]
    with saved_tensors_hooks(held.pack, lambda kept: kept.tensor):
        for phase in dict.fromkeys(translator.phases(index)):  # one that comes again takes no more
            iteration = Iteration(index, pools=pools) if phase.new_batch else iteration
            with autocast(precision, batch.to_target.device):
                translator.loss(phase.name, batch, iteration)
    for buffer, before in buffers:  # statistics of blank images
        buffer.copy_(before)
    return held.peak


class _Kept:
    """A tensor in autograd's hands; that it is dropped shows when this object goes."""

    __slots__ = ("_held", "tensor")

    def __init__(self, tensor: Tensor, held: _Held) -> None:
        self.tensor, self._held = tensor, held

    def __del__(self) -> None:
        self._held.drop(self.tensor)


class _Held:
    """Counts the memory that saved tensors hold, every storage once."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._holders: Counter[int] = Counter()
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> _Kept:
        """What autograd keeps in place of ``tensor``."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            if not self._holders[storage.data_ptr()]:
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
            self._holders[storage.data_ptr()] += 1
        return _Kept(tensor.detach(), self)

    def drop(self, tensor: Tensor) -> None:
        """Autograd let go of ``tensor``."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._holders[storage.data_ptr()] -= 1
            if not self._holders[storage.data_ptr()]:
                self.now -= storage.nbytes()


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device, or kept by torch for what comes; ``None`` where the system does not say."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


# --- too little ---

Rest = ParamSpec("Rest")
Result = TypeVar("Result")
_Training = Callable[Concatenate[Config, Path, Rest], Result]


def explains_out_of_memory(function: _Training[Rest, Result]) -> _Training[Rest, Result]:
    """Lets a function of a configuration and a run folder say in one line what helps when memory runs out."""

    @functools.wraps(function)
    def explained(config: Config, run: Path, *arguments: Rest.args, **options: Rest.kwargs) -> Result:
        try:
            return function(config, run, *arguments, **options)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise too_little(config, run) from error

    return explained


def too_little(config: Config, run: Path, found: str = "out of memory") -> UserError:
    """What helps, and what is not lost."""
    return UserError(f"{found}: {_what_helps(config)}; {_what_is_kept(config, run)}")


# Compiled kernels hand on torch's words, not its types.
_SIGNS_OF_NO_MEMORY = (
    *("DefaultCPUAllocator", "can't allocate memory", "STATUS_ALLOC_FAILED"),
    *("CUDA out of memory", "std::bad_alloc"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or a CPU."""
    words = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in words for sign in _SIGNS_OF_NO_MEMORY)
    )


def _what_helps(config: Config) -> str:
    side = config.data.image_size
    sizes = {"batch_size": config.batch_size, **config.settings.widths(side), "data.image_size": side}
    lower = "lower " + " or ".join(f"{key} (now {value})" for key, value in sizes.items())
    parts = _more_parts(config)
    return f"raise accumulate (now {config.accumulate}), which trains the same, or {lower}" if parts else lower


def _more_parts(config: Config) -> int:
    """The next number of parts that the batch can be shared in; 0 where there is none."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    numbers = range(config.accumulate + 1, config.batch_size // processes + 1)
    return next((parts for parts in numbers if config.batch_size % (parts * processes) == 0), 0)


def _what_is_kept(config: Config, run: Path) -> str:
    saved = list_checkpoints(run)
    if not saved:
        return "nothing was saved yet"
    parts = _more_parts(config)
    smaller = f" --accumulate {parts}" if parts else ""
    return f"{saved[-1]} is kept; go on with: m2o-fast train --run {run} --resume auto{smaller}"

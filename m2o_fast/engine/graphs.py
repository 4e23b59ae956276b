"""The training step as a CUDA graph: recorded once, then replayed as a whole, without Python and single launches.

A graph repeats the same operations on the same addresses, so everything that changes from step to step has to come in
through tensors that are there before it is recorded: the batch and the values of schedules
(:meth:`Iteration.number`). The operations are those of a step outside a graph, and so are the numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

from m2o_fast.batch import Batch
from m2o_fast.engine.processes import Processes
from m2o_fast.engine.step import Stepper, StepResult
from m2o_fast.errors import UserError
from m2o_fast.translators.base import Iteration

#: steps of a kind before it is recorded: libraries choose their kernels, optimizers make their state
WARM_UP = 3
#: scheduled numbers that the phases of one part of a batch may ask for
_SCHEDULES = 16
# A run that goes on takes the setting from its config.yaml, where leaving out the option changes nothing.
_WITHOUT = "leave out --cuda-graphs, or add --set cuda_graphs=false where a config.yaml has it"


def check_cuda_graphs(device: torch.device, processes: Processes) -> None:
    """Raises :class:`UserError` where steps cannot be recorded."""
    if device.type != "cuda":
        raise UserError(f"cuda_graphs needs an NVIDIA GPU, the device is {device}; {_WITHOUT}")
    if processes.count > 1:
        raise UserError(
            f"cuda_graphs needs a single process, there are {processes.count}: their gradients meet outside the graph; "
            f"{_WITHOUT}"
        )


class Recorder(Protocol):
    """Records operations of a device."""

    def aside(self) -> AbstractContextManager[None]:
        """Where the steps before a recording run."""

    def record(self, body: Callable[[], StepResult]) -> tuple[StepResult, Callable[[], None]]:
        """Records ``body`` without running it; returns where its results will be, and what runs it."""


class CudaRecorder:
    """Records CUDA graphs; all of them share one pool of memory, as only one runs at a time.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The stream on which graphs are recorded, so that autograd binds nothing to another one."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def record(self, body: Callable[[], StepResult]) -> tuple[StepResult, Callable[[], None]]:
        """A CUDA graph of ``body``."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = body()
        return result, graph.replay


class GraphedStepper:
    """A stepper whose steps are recorded after a warm-up, one graph for each kind of iteration and shape of batch.

    Args:
        stepper: What is recorded, of a single process.
        recorder: Of the stepper's device.
    """

    def __init__(self, stepper: Stepper, recorder: Recorder) -> None:
        self._stepper, self._recorder = stepper, recorder
        self._warm: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, _Graph] = {}

    def __call__(self, parts: Sequence[Batch], index: int) -> StepResult:
        """Runs iteration ``index``, as :class:`Stepper` does."""
        kind = self._stepper.translator.kind(index), tuple(tensor.shape for part in parts for tensor in part.tensors())
        if kind not in self._graphs and self._warm[kind] < WARM_UP:
            self._warm[kind] += 1
            with self._recorder.aside():
                return self._stepper(parts, index)
        if kind not in self._graphs:
            self._graphs[kind] = _Graph(self._stepper, self._recorder, parts, index)
        return self._graphs[kind](parts, index)


class _ScheduledIteration(Iteration):
    """An iteration whose scheduled numbers lie in tensors."""

    def __init__(self, index: int, held: Callable[[Callable[[int], float]], Tensor]) -> None:
        super().__init__(index)
        self._held = held

    def number(self, schedule: Callable[[int], float]) -> Tensor:
        return self._held(schedule)


class _Graph:
    """A recorded step and the tensors it reads from and writes to."""

    def __init__(self, stepper: Stepper, recorder: Recorder, parts: Sequence[Batch], index: int) -> None:
        self._parts = [part.mapped(torch.clone) for part in parts]
        images = parts[0].source[0]
        self._numbers = torch.zeros(_SCHEDULES * len(parts), dtype=images.dtype, device=images.device).unbind()
        self._schedules: list[Callable[[int], float]] = []

        def body() -> StepResult:
            return stepper(self._parts, index, lambda at: _ScheduledIteration(at, self._held))

        try:
            self._result, self._replay = recorder.record(body)
        except torch.OutOfMemoryError:
            raise  # it has its own explanation
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"step {index} cannot be recorded as a CUDA graph ({reason}); {_WITHOUT}") from error

    def _held(self, schedule: Callable[[int], float]) -> Tensor:
        self._schedules.append(schedule)
        return self._numbers[len(self._schedules) - 1]

    def __call__(self, parts: Sequence[Batch], index: int) -> StepResult:
        for held, part in zip(self._parts, parts, strict=True):
            for to, of in zip(held.tensors(), part.tensors(), strict=True):
                to.copy_(of, non_blocking=True)
        for number, schedule in zip(self._numbers, self._schedules, strict=False):
            number.fill_(schedule(index))
        self._replay()
        # The next replay overwrites what this one leaves.
        losses = {name: loss.clone() for name, loss in self._result.losses.items()}
        return StepResult(losses, self._result.failed.clone())

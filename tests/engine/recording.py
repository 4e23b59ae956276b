"""A recorder for CPUs that keeps to the rules of CUDA graphs, so that what would break one breaks a test.

Operations are noted with the tensors they were called on. A recording changes nothing; a replay repeats the same
operations on the same memory, with the Python numbers of the recording. Reading a number back, shapes that depend on
numbers, and tensors made from Python numbers are refused: a GPU cannot record them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from m2o_fast.engine.step import StepResult

_FORBIDDEN = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class CannotBeRecordedError(AssertionError):
    """What a CUDA graph cannot hold."""


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _needs_the_host(func, args):
            raise CannotBeRecordedError(f"{func.name()} needs the host")
        # What a batch norm writes beside its result, its schema does not say.
        unsaid = _tensors(args[3:5]) if func is torch.ops.aten.native_batch_norm.default else []
        for written in [*_written(func, args, kwargs), *unsaid]:
            self._keep(written)
        result = func(*args, **kwargs)
        made = [] if _is_view(func) or _written(func, args, kwargs) else _tensors(result)
        self._made |= {tensor.untyped_storage().data_ptr() for tensor in made}
        self.calls.append((func, args, kwargs, made))
        return result

    def _keep(self, tensor: Tensor) -> None:
        """What is written to and was there before the recording gets its contents back."""
        whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        address = whole.untyped_storage().data_ptr()
        if address not in self._made and address not in self.before:
            self.before[address] = (whole, whole.clone())


def _needs_the_host(func: Any, args: Any) -> bool:
    if func.overloadpacket is torch.ops.aten.index:  # only a mask makes its shape depend on numbers
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return bool(_FORBIDDEN & set(func.tags)) or "lift_fresh" in func.name()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    found = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += _tensors(args[number] if number < len(args) else kwargs.get(argument.name))
    return found


def _is_view(func: Any) -> bool:
    """Whether the result is memory of an argument: it is up to date once the argument is."""
    return any(result.alias_info is not None for result in func._schema.returns)


class CpuRecorder:
    """Stands in for ``CudaRecorder``.

    Attributes:
        recorded: How many recordings were made.
        replayed: How many replays there were.
    """

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Nothing is different aside."""
        yield

    def record(self, body: Callable[[], StepResult]) -> tuple[StepResult, Callable[[], None]]:
        """The operations of ``body``, undone."""
        with _Recording() as recording:
            result = body()
        for whole, contents in recording.before.values():
            whole.copy_(contents)
        self.recorded += 1

        @torch.no_grad()
        def replay() -> None:
            self.replayed += 1
            for func, args, kwargs, made in recording.calls:
                again = func(*args, **kwargs)
                for to, of in zip(made, _tensors(again) if made else [], strict=True):
                    to.copy_(of)

        return result, replay

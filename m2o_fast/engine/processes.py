"""Training with several processes: a launcher starts all with one command, and each does its share of every batch.

The processes find each other by the environment variables that launchers such as ``torchrun`` set (``RANK``,
``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``). Losses are means over the batch, and shares are of
equal size, so the mean of the processes' gradients is the gradient of the whole batch.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from m2o_fast.errors import UserError


class Processes:
    """All processes of one training run; usually there is one.

    Attributes:
        rank: Number of this process; 0 is the one that writes and speaks.
        count: How many there are.
        local_rank: Number of this process on its machine, and so of its GPU.
    """

    def __init__(self, rank: int = 0, count: int = 1, local_rank: int = 0) -> None:
        self.rank, self.count, self.local_rank = rank, count, local_rank

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of ``count`` things are this process's part of the work."""
        return range(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    def tell(self, words: Mapping[str, Any] | None) -> dict[str, Any]:
        """What the leading process says, a JSON object; the others pass ``None`` and listen."""
        if self.count == 1:
            return dict(words or {})
        text = json.dumps(words).encode() if self.leads else b""
        size = torch.tensor([len(text)])
        with self._together():
            dist.broadcast(size, 0)
            letters = torch.tensor(list(text) if self.leads else [0] * int(size), dtype=torch.uint8)
            dist.broadcast(letters, 0)
        heard: dict[str, Any] = json.loads(bytes(letters.tolist()))
        return heard

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The leading process does the block first, then the others, which end if it met an error: it prints that."""
        if not self.leads and "error" in self.tell(None):
            raise SystemExit(2)
        try:
            yield
        except UserError as error:
            if self.leads:
                self.tell({"error": str(error)})
            raise
        if self.leads:
            self.tell({})

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """All do the block at the same time; where the leading process meets an error, it alone says so and all end."""
        error = None
        try:
            yield
        except UserError as met:
            error = met
        heard = self.tell({"error": str(error) if error else None} if self.leads else None)
        if heard["error"] and not self.leads:
            raise SystemExit(2)
        if error:
            raise error

    def collect(self, message: bytes) -> list[bytes]:
        """What the processes send, in the order of their numbers; at the others than the leading one nothing arrives.

        One message after the other, so that the leading process holds no more than it hands on.
        """
        if self.count == 1:
            return [message]
        with self._together():
            if not self.leads:
                dist.send(torch.tensor([len(message)]), 0)
                dist.send(torch.frombuffer(bytearray(message), dtype=torch.uint8), 0)
                return []
            messages = [message]
            for rank in range(1, self.count):
                size = torch.zeros(1, dtype=torch.int64)
                dist.recv(size, rank)
                received = torch.empty(int(size), dtype=torch.uint8)
                dist.recv(received, rank)
                messages.append(received.numpy().tobytes())
            return messages

    def agree_on_largest(self, number: int) -> int:
        """The largest of the numbers that the processes bring along."""
        if self.count == 1:
            return number
        numbers = torch.tensor([number])
        with self._together():
            dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces the tensors, of one dtype and device, by their means over the processes: one message for all."""
        if self.count == 1 or not tensors:
            return
        together = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with self._together():
            dist.all_reduce(together)
        together /= self.count
        parts = together.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, rows: Tensor) -> tuple[Tensor, slice]:
        """The rows of all processes, in the order of their numbers, and which of them this one brought along.

        Args:
            rows: ``[n, ...]``, n of any size in each process, the rest the same in all.
        """
        sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(self.count)]
        with self._together():
            dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
            counts = torch.cat(sizes).tolist()
            padded = rows.new_zeros((max(counts), *rows.shape[1:]))
            padded[: len(rows)] = rows
            received = [torch.empty_like(padded) for _ in counts]
            dist.all_gather(received, padded)
        parts = [part[:count] for part, count in zip(received, counts, strict=True)]
        start = sum(counts[: self.rank])
        return torch.cat(parts), slice(start, start + len(rows))

    @contextmanager
    def _together(self) -> Iterator[None]:
        """What needs all processes; when one of them has ended, the others hear of it here."""
        try:
            yield
        except (RuntimeError, dist.DistError) as error:
            raise UserError(
                f"process {self.rank} of {self.count} has lost the others: one of them has ended, see its message; "
                f"go on with --resume auto ({error})"
            ) from error


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise UserError(f"environment variable {name} must be a whole number, got {text!r}; start with torchrun")
    return int(text)


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Joins the processes that a launcher started; leaves them on every way out.

    Raises:
        UserError: The launcher's environment variables contradict each other, or the others cannot be reached.
    """
    count = _number("WORLD_SIZE", 1)
    rank = _number("RANK", None if count > 1 else 0)
    if rank >= count:
        raise UserError(f"environment variable RANK must be below WORLD_SIZE = {count}, got {rank}")
    if count == 1:
        yield Processes()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        store, *_ = next(dist.rendezvous("env://", rank, count))
        # After a restart by torchrun, addresses of the processes that ended may still stand there.
        attempt = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(backend, store=attempt, rank=rank, world_size=count)
    except (ValueError, RuntimeError, dist.DistError) as error:
        raise UserError(
            f"process {rank} of {count} cannot reach the others at MASTER_ADDR and MASTER_PORT: {error}"
        ) from None
    try:
        with warnings.catch_warnings():
            if rank > 0:  # the leading process says the same of the same data
                warnings.simplefilter("ignore", RuntimeWarning)
            yield Processes(rank, count, _number("LOCAL_RANK", rank))
    finally:
        dist.destroy_process_group()

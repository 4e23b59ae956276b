"""One training iteration of any translator: phases in order, one optimizer per parameter group, moving average."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from m2o_fast.batch import Batch
from m2o_fast.engine.precision import autocast
from m2o_fast.engine.processes import Processes
from m2o_fast.nn.batch_norm import BatchNorm2d
from m2o_fast.nn.history import HistoryPool
from m2o_fast.translators.base import Iteration, Phase, Translator, batches_of
from m2o_fast.translators.settings import Optim, Optimizer


class StepResult(NamedTuple):
    """What an iteration leaves on the device; reading it makes the host wait.

    Attributes:
        losses: Every phase's losses as ``"phase/part"``, 0-dimensional, of this process's share of the batch.
        failed: int64, 0-dimensional: 0, or the number of the first phase, counted from 1, of which a loss or gradient
            was not finite. That phase and those after it changed no weights.
    """

    losses: dict[str, Tensor]
    failed: Tensor


class Stepper:
    """Owns the optimizers and the moving average of a translator; a single process reads nothing back from its GPU.

    Args:
        translator: The nets, already on their device.
        averaged: A copy that holds the exponential moving average of the groups that have one.
        config: Says how each group is moved, and the decay of the average.
        processes: Those that train together; gradients are averaged over them once per phase.
        precision: ``"fp32"``, ``"tf32"`` or ``"bf16"`` (:mod:`m2o_fast.engine.precision`).
    """

    def __init__(
        self,
        translator: Translator,
        averaged: Translator,
        config: Optim,
        processes: Processes | None = None,
        precision: str = "fp32",
    ) -> None:
        self.translator = translator
        self.processes = processes or Processes()
        self.precision = precision
        self.parameters = {name: _parameters(nets) for name, nets in translator.groups().items()}
        chosen = {name: config.optimizer(name) for name in self.parameters}
        self.optimizers = {name: _made(chosen[name], parameters) for name, parameters in self.parameters.items()}
        self._rates = [
            _Rate(of.lr, of.schedule, self.optimizers[name]) for name, of in chosen.items() if of.schedule is not None
        ]
        self.pools = {name: self._shared(pool) for name, pool in translator.pools().items()}
        groups, decay = averaged.averaged_groups(), config.average()
        if groups and decay is None:
            raise ValueError(f"an average is to be kept of {', '.join(groups)}, but the settings give no decay for it")
        self._averages = [p for name in groups for p in _parameters(averaged.groups()[name])]
        self._sources = [p for name in groups for p in self.parameters[name]]
        self._average = get_ema_multi_avg_fn(decay or 0.0)
        self._buffers = list(translator.buffers())
        self._copies = list(zip(_buffers(averaged, groups), _buffers(translator, groups), strict=True))
        self._norms = [net for net in translator.modules() if isinstance(net, BatchNorm2d)]

    def is_over(self, index: int) -> bool:
        """Whether all learning rates have fallen to 0 by iteration ``index``."""
        return len(self._rates) == len(self.optimizers) and not any(rate.schedule(index) for rate in self._rates)

    def __call__(
        self, parts: Sequence[Batch], index: int, iteration_of: Callable[[int], Iteration] = Iteration
    ) -> StepResult:
        """Runs iteration ``index`` on its batches, each given as one or more parts of equal size.

        With several parts, gradients add up within each phase before its one optimizer step, and no part keeps a
        graph from one phase to the next, but what it puts into :attr:`Iteration.kept`: memory is that of one part, the
        numbers are those of the whole batch.
        ``iteration_of`` makes what the phases share.
        """
        losses: dict[str, Tensor] = {}
        device = parts[0].to_target.device
        failed = torch.zeros((), dtype=torch.int64, device=device)
        for rate in self._rates:
            rate.set(iteration_of(index))
        before = [buffer.clone() for buffer in self._buffers]
        for parameter in self.translator.parameters():  # gradients of later phases, too, would only lie about meanwhile
            parameter.grad = None
        phases = self.translator.phases(index)
        often = Counter(phase.name for phase in phases)
        for number, (phase, own) in enumerate(self._with_parts(phases, parts, index, iteration_of), start=1):
            chosen = [parameter for group in phase.groups for parameter in self.parameters[group]]
            for parameter in chosen:
                parameter.grad = None
            loss = torch.zeros((), device=device)
            for part, iteration in own:
                with self._norms_together():
                    with autocast(self.precision, device):
                        value, logged = self.translator.loss(phase.name, part, iteration)
                    (value / len(own)).backward(inputs=chosen)
                if not iteration.lasting:
                    iteration.cache.clear()
                loss = loss + value.detach() / len(own)
                for name, tensor in logged.items():
                    key = f"{phase.name}/{name}"
                    losses[key] = losses.get(key, 0) + tensor / (len(own) * often[phase.name])
            for pool in self.pools.values():
                pool.settle()
            failed = self._descend(phase, number, loss, failed)
        for buffer, old in zip(self._buffers, before, strict=True):  # statistics of a step that failed are none
            buffer.copy_(torch.where(failed > 0, old, buffer))
        if self._averages:
            self._average(self._averages, self._sources, 0)
        for to, of in self._copies:
            to.copy_(of)
        return StepResult(losses, failed)

    def _with_parts(
        self, phases: Sequence[Phase], parts: Sequence[Batch], index: int, iteration_of: Callable[[int], Iteration]
    ) -> Iterator[tuple[Phase, list[tuple[Batch, Iteration]]]]:
        """Each phase with the parts of its batch, and with what it shares with others that have the same one."""
        rest, count = list(parts), len(parts) // batches_of(phases)
        own: list[tuple[Batch, Iteration]] = []
        for phase in phases:
            if phase.new_batch or not own:
                own = [(part, self._iteration(index, count, iteration_of)) for part in rest[:count]]
                del rest[:count]
            yield phase, own

    def _iteration(self, index: int, parts: int, iteration_of: Callable[[int], Iteration]) -> Iteration:
        iteration = iteration_of(index)
        iteration.pools, iteration.lasting = self.pools, parts == 1
        iteration.shares = parts * self.processes.count
        return iteration

    @contextmanager
    def _norms_together(self) -> Iterator[None]:
        """Batch norms have the statistics of all processes."""
        together = self._norms if self.processes.count > 1 else []
        for norm in together:
            norm.average, norm.shares = self.processes.average, self.processes.count
        try:
            yield
        finally:
            for norm in together:
                norm.average, norm.shares = None, 1

    def _shared(self, pool: HistoryPool) -> HistoryPool:
        """A pool on the device of the nets, of all processes together."""
        pool.to(next(self.translator.parameters()))
        if self.processes.count > 1:
            pool.gather = self.processes.gather
        return pool

    def _descend(self, phase: Phase, number: int, loss: Tensor, failed: Tensor) -> Tensor:
        """One step of the optimizers of a phase, unless it or one before it failed; returns what has failed now."""
        reached = [group for group in phase.groups if any(p.grad is not None for p in self.parameters[group])]
        if self.processes.count > 1:
            loss, reached = self._averaged(loss, phase.groups, reached)
        gradients = [p.grad for group in reached for p in self.parameters[group] if p.grad is not None]
        finite = torch.isfinite(loss + 0 * nn.utils.get_total_norm(gradients))
        failed = failed + number * ((failed == 0) & ~finite)
        for group in reached:
            _fill_missing(self.parameters[group])
            optimizer = self.optimizers[group]
            # Where it is 1, the fused kernel leaves weights and moments as they are.
            optimizer.found_inf = (failed > 0).float()  # type: ignore[attr-defined]
            optimizer.step()
        return failed

    def _averaged(self, loss: Tensor, groups: Sequence[str], reached: Sequence[str]) -> tuple[Tensor, list[str]]:
        """The loss of all processes, with their gradients in place, and the groups that any of them reached."""
        flags = loss.new_tensor([group in reached for group in groups])
        for group in groups:
            _fill_missing(self.parameters[group])
        gradients = [p.grad for group in groups for p in self.parameters[group] if p.grad is not None]
        loss = loss.clone()
        self.processes.average([flags, loss, *gradients])
        return loss, [group for group, flag in zip(groups, flags.tolist(), strict=True) if flag]


def _made(of: Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    like = parameters[0]
    # A rate that changes lies in a tensor: a recorded step reads it from there, with the bits of one that is not.
    lr = of.lr if of.schedule is None else like.new_full((), of.lr, dtype=torch.float32)
    if of.kind == "sgd":
        sgd = torch.optim.SGD(parameters, lr=lr, momentum=of.momentum, weight_decay=of.weight_decay, fused=True)
        if of.momentum:  # in a first step that fails, torch leaves what lay in the memory that it took
            sgd.state.update({parameter: {"momentum_buffer": torch.zeros_like(parameter)} for parameter in parameters})
        return sgd
    # Adam adds weight decay to the gradient, as published; AdamW decouples it.
    adam, adamw = (Adam, AdamW) if _collects_as_known(torch.optim.Adam) else (torch.optim.Adam, torch.optim.AdamW)
    return (adamw if of.kind == "adamw" else adam)(
        parameters,
        lr=lr,
        betas=of.betas,
        eps=1e-8,
        weight_decay=of.weight_decay,
        fused=True,
        capturable=like.device.type == "cuda",
    )


class Adam(torch.optim.Adam):  # checkpoints have the names of these classes: they are torch's
    """Torch's, but it sees weights, gradients and moments as they lie in memory: torch copies what is channels_last.

    The fused kernel on a CPU does so without need, for it goes through all four in the order of memory.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        has_complex = super()._init_group(group, *lists)
        for tensors in lists:
            tensors[:] = [_in_memory_order(tensor) for tensor in tensors]
        return has_complex


class AdamW(Adam, torch.optim.AdamW):
    """The same."""


def _collects_as_known(optimizer: type[torch.optim.Optimizer]) -> bool:
    """Whether torch has the private method that :class:`Adam` replaces; without it, gradients are copied."""
    lists = ("params_with_grad", "grads", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "state_steps")
    found = getattr(optimizer, "_init_group", None)
    return found is not None and tuple(signature(found).parameters) == ("self", "group", *lists)


def _in_memory_order(tensor: Tensor) -> Tensor:
    """A view that is contiguous; strides of dimensions of size 1 say nothing."""
    strides = [stride if size > 1 else 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    return tensor.permute(sorted(range(tensor.dim()), key=strides.__getitem__, reverse=True))


class _Rate(NamedTuple):
    """A learning rate that follows a schedule."""

    start: float
    schedule: Callable[[int], float]
    optimizer: torch.optim.Optimizer

    def set(self, iteration: Iteration) -> None:
        """Puts the rate of an iteration in place."""
        value = iteration.number(lambda index: self.start * self.schedule(index))
        for group in self.optimizer.param_groups:
            group["lr"].copy_(value) if isinstance(value, Tensor) else group["lr"].fill_(value)


def _parameters(nets: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [parameter for net in nets for parameter in net.parameters()]


def _buffers(translator: Translator, groups: Sequence[str]) -> list[Tensor]:
    return [buffer for name in groups for net in translator.groups()[name] for buffer in net.buffers()]


def _fill_missing(parameters: list[nn.Parameter]) -> None:
    """Heads of domains that the batch lacks get a gradient of zero, so that Adam's moments decay for them too."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def compile_nets(translator: Translator) -> None:
    """Lets ``torch.compile`` take over the nets that no loss differentiates twice; it compiles in the first steps."""
    # Shapes are few and fixed, but there is a program for each choice of domains, frozen nets and gradients.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for net, method in translator.compilable():
        setattr(net, method, torch.compile(getattr(net, method), dynamic=False))


def group_sizes(translator: Translator) -> Mapping[str, int]:
    """Number of parameters per group."""
    return {name: sum(p.numel() for p in _parameters(nets)) for name, nets in translator.groups().items()}

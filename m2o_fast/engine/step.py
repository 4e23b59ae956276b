"""One training iteration of any translator: phases in order, one optimizer per parameter group, moving average."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from m2o_fast.batch import Batch
from m2o_fast.engine.precision import autocast
from m2o_fast.engine.processes import Processes
from m2o_fast.engine.schema import OptimConfig
from m2o_fast.translators import Translator
from m2o_fast.translators.base import Iteration, Phase


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
        config: Learning rates, betas, weight decay, decay of the average.
        processes: Those that train together; gradients are averaged over them once per phase.
        precision: ``"fp32"``, ``"tf32"`` or ``"bf16"`` (:mod:`m2o_fast.engine.precision`).
    """

    def __init__(
        self,
        translator: Translator,
        averaged: Translator,
        config: OptimConfig,
        processes: Processes | None = None,
        precision: str = "fp32",
    ) -> None:
        self.translator = translator
        self.processes = processes or Processes()
        self.precision = precision
        self.parameters = {name: _parameters(nets) for name, nets in translator.groups().items()}
        self.optimizers = {
            # Weight decay is added to the gradient, as published; AdamW would decouple it.
            name: torch.optim.Adam(
                parameters,
                lr=config.learning_rate(name),
                betas=config.betas,
                eps=1e-8,
                weight_decay=config.weight_decay,
                fused=True,
                capturable=parameters[0].device.type == "cuda",
            )
            for name, parameters in self.parameters.items()
        }
        groups = averaged.averaged_groups()
        self._averages = [p for name in groups for p in _parameters(averaged.groups()[name])]
        self._sources = [p for name in groups for p in self.parameters[name]]
        self._average = get_ema_multi_avg_fn(config.ema)

    def __call__(
        self, parts: Sequence[Batch], index: int, iteration_of: Callable[[int], Iteration] = Iteration
    ) -> StepResult:
        """Runs iteration ``index`` on a batch, given as one or more parts of equal size.

        With several parts, gradients add up within each phase before its one optimizer step, and no part keeps a
        graph from one phase to the next: memory is that of one part, the numbers are those of the whole batch.
        ``iteration_of`` makes what the phases share.
        """
        losses: dict[str, Tensor] = {}
        device = parts[0].to_target.device
        failed = torch.zeros((), dtype=torch.int64, device=device)
        shared = iteration_of(index)
        for number, phase in enumerate(self.translator.phases(index), start=1):
            chosen = [parameter for group in phase.groups for parameter in self.parameters[group]]
            for parameter in chosen:
                parameter.grad = None
            loss = torch.zeros((), device=device)
            for part in parts:
                iteration = shared if len(parts) == 1 else iteration_of(index)
                with autocast(self.precision, device):
                    value, logged = self.translator.loss(phase.name, part, iteration)
                (value / len(parts)).backward(inputs=chosen)
                loss = loss + value.detach() / len(parts)
                for name, tensor in logged.items():
                    key = f"{phase.name}/{name}"
                    losses[key] = losses.get(key, 0) + tensor / len(parts)
            failed = self._descend(phase, number, loss, failed)
        self._average(self._averages, self._sources, 0)
        return StepResult(losses, failed)

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


def _parameters(nets: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [parameter for net in nets for parameter in net.parameters()]


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

"""One training iteration of any translator: phases in order, one optimizer per parameter group, moving average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from m2o_fast.batch import Batch
from m2o_fast.engine.processes import Processes
from m2o_fast.engine.schema import OptimConfig
from m2o_fast.translators import Translator
from m2o_fast.translators.base import Iteration


class NonFinite(Exception):
    """A loss or gradient of this iteration is not finite; the phase and those after it were not applied."""


class Stepper:
    """Owns the optimizers and the moving average of a translator.

    Args:
        translator: The nets, already on their device.
        averaged: A copy that holds the exponential moving average of the groups that have one.
        config: Learning rates, betas, weight decay, decay of the average.
        processes: Those that train together; gradients are averaged over them once per phase.
    """

    def __init__(
        self, translator: Translator, averaged: Translator, config: OptimConfig, processes: Processes | None = None
    ) -> None:
        self.translator = translator
        self.processes = processes or Processes()
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
            )
            for name, parameters in self.parameters.items()
        }
        groups = averaged.averaged_groups()
        self._averages = [p for name in groups for p in _parameters(averaged.groups()[name])]
        self._sources = [p for name in groups for p in self.parameters[name]]
        self._average = get_ema_multi_avg_fn(config.ema)

    def __call__(self, batch: Batch, index: int) -> dict[str, Tensor]:
        """Runs iteration ``index``; returns every phase's losses as ``"phase/part"``, not yet read from the device.

        Raises:
            NonFinite: A loss or gradient was not finite. No optimizer saw it.
        """
        iteration = Iteration(index)
        parts: dict[str, Tensor] = {}
        for phase in self.translator.phases(index):
            loss, logged = self.translator.loss(phase.name, batch, iteration)
            self._descend(loss, phase.groups, phase.name)
            parts |= {f"{phase.name}/{name}": value for name, value in logged.items()}
        self._average(self._averages, self._sources, 0)
        return parts

    def _descend(self, loss: Tensor, groups: tuple[str, ...], name: str) -> None:
        chosen = [parameter for group in groups for parameter in self.parameters[group]]
        for parameter in chosen:
            parameter.grad = None
        loss.backward(inputs=chosen)
        loss = loss.detach()
        reached = [group for group in groups if any(p.grad is not None for p in self.parameters[group])]
        if self.processes.count > 1:
            loss, reached = self._averaged(loss, groups, reached)
        gradients = [p.grad for group in reached for p in self.parameters[group] if p.grad is not None]
        if not torch.isfinite(loss + 0 * nn.utils.get_total_norm(gradients)):
            raise NonFinite(name)
        for group in reached:
            _fill_missing(self.parameters[group])
            self.optimizers[group].step()

    def _averaged(self, loss: Tensor, groups: Sequence[str], reached: Sequence[str]) -> tuple[Tensor, list[str]]:
        """The loss of all processes, with their gradients in place, and the groups that any of them reached."""
        flags = loss.new_tensor([group in reached for group in groups])
        for group in groups:
            _fill_missing(self.parameters[group])
        gradients = [p.grad for group in groups for p in self.parameters[group] if p.grad is not None]
        loss = loss.clone()
        self.processes.average([flags, loss, *gradients])
        return loss, [group for group, flag in zip(groups, flags.tolist(), strict=True) if flag]


def _parameters(nets: list[nn.Module]) -> list[nn.Parameter]:
    return [parameter for net in nets for parameter in net.parameters()]


def _fill_missing(parameters: list[nn.Parameter]) -> None:
    """Heads of domains that the batch lacks get a gradient of zero, so that Adam's moments decay for them too."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def group_sizes(translator: Translator) -> Mapping[str, int]:
    """Number of parameters per group."""
    return {name: sum(p.numel() for p in _parameters(nets)) for name, nets in translator.groups().items()}

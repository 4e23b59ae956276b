"""A training iteration of a translator without the engine: phases in order, an Adam per group."""

from __future__ import annotations

from collections import defaultdict

import torch

from m2o_fast.batch import Batch
from m2o_fast.translators.base import Iteration, Translator
from m2o_fast.translators.settings import Optim

#: So large that a gradient that is 0 but for rounding (a bias before an instance norm) becomes no step of full length.
EPS = 1e-6


class Steps:
    """Optimizers and pools of a translator; ``stepped`` lists the groups in the order of their steps."""

    def __init__(self, translator: Translator, optim: Optim, *, by_phase: bool = False) -> None:
        self.by_phase = by_phase
        self.translator = translator.requires_grad_(True).train()
        self.pools = translator.pools()
        self.stepped: list[str] = []
        self.optimizers, self.rates = {}, {}
        for name, nets in translator.groups().items():
            options = optim.optimizer(name)
            parameters = [p for net in nets for p in net.parameters()]
            self.optimizers[name] = torch.optim.Adam(
                parameters, lr=options.lr, betas=options.betas, eps=EPS, weight_decay=options.weight_decay
            )
            self.rates[name] = options

    def __call__(self, batch: Batch, index: int, *others: Batch) -> dict[str, float]:
        """Losses by name, of all phases; with ``by_phase`` as ``"phase/name"``. Further batches are for turns.

        Of several phases of one name those are means.
        """
        iteration, logs = Iteration(index, pools=self.pools), defaultdict(list)
        rest = iter(others)
        for phase in self.translator.phases(index):
            if phase.new_batch:
                batch, iteration = next(rest), Iteration(index, pools=self.pools)
            chosen = [p for group in phase.groups for p in self.optimizers[group].param_groups[0]["params"]]
            for parameter in chosen:
                parameter.grad = None
            loss, parts = self.translator.loss(phase.name, batch, iteration)
            loss.backward(inputs=chosen)
            for parameter in chosen:
                if parameter.grad is None:  # as the engine has it: weights decay where no loss reaches them, too
                    parameter.grad = torch.zeros_like(parameter)
            for group in phase.groups:
                options = self.rates[group]
                factor = 1.0 if options.schedule is None else options.schedule(index)
                self.optimizers[group].param_groups[0]["lr"] = options.lr * factor
                self.optimizers[group].step()
                self.stepped.append(group)
            before = f"{phase.name}/" if self.by_phase else ""
            for name, value in parts.items():
                logs[phase.name, before + name].append(value.item())
        return {name: sum(values) / len(values) for (_, name), values in logs.items()}

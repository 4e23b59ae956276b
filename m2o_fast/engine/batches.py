"""The batches of a run: one for each step, and those that phases of it draw for themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from m2o_fast.batch import Batch
from m2o_fast.data import Dataset, rows_of_share
from m2o_fast.engine.build import build_samplers
from m2o_fast.engine.processes import Processes
from m2o_fast.engine.schema import Config
from m2o_fast.randomness import torch_generator
from m2o_fast.translators.base import Translator, batches_of


class Batches:
    """This process's share of the batches of any step, with their noise, on the device.

    Whole batches are pure functions of the seed and the step, whatever the number of processes and parts.

    Args:
        config: Batch size N, seed, augmentation, and in how many parts a batch is worked through.
        dataset: Where the images come from.
        translator: Says what batches it wants.
        processes: Those that train together.
        device: Where batches go.

    Raises:
        UserError: The translator learns from pairs, and none are known.
    """

    def __init__(
        self, config: Config, dataset: Dataset, translator: Translator, processes: Processes, device: torch.device
    ) -> None:
        self.device = device
        self._translator, self._size, self._seed = translator, config.batch_size, config.seed
        self._count = processes.count * config.accumulate
        # The first parts of all processes come before their second ones: a history pool sees the samples in order.
        self._shares = range(processes.rank, self._count, processes.count)
        share = config.model_copy(update={"batch_size": config.batch_size // self._count})
        self.samplers = build_samplers(share, dataset, translator)
        self._known = 0, 0  # a step, and the number of batches before it

    def __call__(self, step: int) -> list[Batch]:
        """The batches of a step one after the other, each in ``accumulate`` equal parts."""
        first = self._before(step)
        numbers = range(first, first + batches_of(self._translator.phases(step)))
        return [part for number in numbers for part in self._parts(number)]

    def _before(self, step: int) -> int:
        """How many batches the steps before this one have."""
        known, count = self._known
        if known > step:
            known, count = 0, 0
        count += sum(batches_of(self._translator.phases(index)) for index in range(known, step))
        self._known = step, count
        return count

    def _parts(self, number: int) -> list[Batch]:
        """Of a batch, those of all steps counted from 0."""
        noise = self._translator.noise(self._size, torch_generator(self._seed, "noise", number))
        return [self._part(number, share, noise) for share in self._shares]

    def _part(self, number: int, share: int, noise: Mapping[str, Tensor]) -> Batch:
        before, turn = divmod(number, len(self.samplers))
        sampler = self.samplers[turn]
        batch = sampler(before * self._count + share)
        if self._count > 1:
            rows = rows_of_share(before, self._size, sampler.directions, share, self._count)
            noise = {name: numbers[rows] for name, numbers in noise.items()}
        batch = replace(batch, noise=noise)
        return (batch.pin_memory() if self.device.type == "cuda" else batch).to(self.device)

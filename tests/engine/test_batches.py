"""There are no loader workers: a batch, its noise included, is a pure function of the step, whoever asks and when."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tiny import tiny_config

from m2o_fast.batch import Batch
from m2o_fast.engine.trainer import Trainer


def tensors(batches: list[Batch]) -> list[torch.Tensor]:
    values = [value for batch in batches for value in vars(batch).values()]
    parts = [part for value in values for part in (value.values() if isinstance(value, dict) else [value])]
    flat = [tensor for part in parts for tensor in (part if isinstance(part, tuple) else [part])]
    return [tensor for tensor in flat if isinstance(tensor, torch.Tensor)]


@pytest.mark.usefixtures("tiny_data")
def test_batches_are_the_same_in_any_order_and_from_any_number_of_threads(tmp_path: Path) -> None:
    """Over several epochs, with augmentation, in parts."""
    settings = ("data.crop_probability=0.5", "data.flip_probability=0.5", "accumulate=2")
    expected = [
        tensors(trainer.batch(step)) for trainer in [Trainer(tiny_config(*settings), tmp_path)] for step in range(20)
    ]
    assert len(expected[0]) > 16
    for workers in (1, 2, 4):
        trainer, order = Trainer(tiny_config(*settings), tmp_path), list(range(20))
        random.Random(workers).shuffle(order)
        with ThreadPoolExecutor(workers) as pool:
            batches = dict(zip(order, pool.map(trainer.batch, order), strict=True))
        for step, first in enumerate(expected):
            assert all(torch.equal(a, b) for a, b in zip(first, tensors(batches[step]), strict=True))


@pytest.mark.usefixtures("tiny_data")
def test_a_gpu_gets_batches_from_pinned_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a batch, its noise included: copies from elsewhere would make the host wait."""
    pinned, moved = [], []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    trainer = Trainer(tiny_config("accumulate=2"), tmp_path)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    expected = tensors(trainer.batch(0))
    assert pinned == []
    trainer.batches.device = torch.device("cuda")
    monkeypatch.setattr(Batch, "to", lambda batch, device: moved.append(device) or batch)
    found = tensors(trainer.batch(0))
    assert moved == [torch.device("cuda")] * 2
    assert {id(tensor) for tensor in found} == {id(tensor) for tensor in pinned}
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))

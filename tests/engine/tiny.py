"""A data set and a configuration so small that a training step takes milliseconds."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from m2o_fast.data import ColorizedDigits
from m2o_fast.engine.config import load_config
from m2o_fast.engine.schema import Config
from m2o_fast.engine.trainer import Trainer

#: images per split: with 2 draws of each domain and step, an epoch ends after every third step
IMAGES = 6


def tiny_digits(name: str, *, split: str, seed: int, pair_fraction: float, **_: object) -> ColorizedDigits:
    """Stands in for :func:`m2o_fast.data.open_dataset`."""
    content = torch.randint(0, 256, (IMAGES, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return ColorizedDigits(content, torch.arange(IMAGES), split=split, seed=seed, pair_fraction=pair_fraction)


def tiny_config(*assignments: str) -> Config:
    sizes = ("model.base_width=4", "model.max_width=8", "model.hidden_dim=8", "model.style_dim=4", "model.latent_dim=4")
    pace = ("batch_size=4", "steps=8", "checkpoint_every=2", "sample_every=4", "log_every=1", "loss.diversity_steps=6")
    return load_config(assignments=[*sizes, *pace, "device=cpu", *assignments])


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run that only its configuration determines."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in ("timings.jsonl", "env.json")
    }


def stop_at(step: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends this process a signal while it works on step ``step``."""
    batch = Trainer.batch

    def interrupted(self: Trainer, index: int):
        if index == step:
            signal.raise_signal(number)
        return batch(self, index)

    monkeypatch.setattr(Trainer, "batch", interrupted)

"""Data sets, training batches, image files.

What is named here is imported on first use (PEP 562): settings are read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m2o_fast.data.augment import Augment
    from m2o_fast.data.colorize import ColorizedDigits
    from m2o_fast.data.dataset import Dataset
    from m2o_fast.data.opening import open_dataset
    from m2o_fast.data.sampler import BatchSampler, rows_of_share

#: exported name -> module that defines it
_EXPORTS = {
    "Augment": "augment",
    "BatchSampler": "sampler",
    "ColorizedDigits": "colorize",
    "Dataset": "dataset",
    "open_dataset": "opening",
    "rows_of_share": "sampler",
}

__all__ = ["Augment", "BatchSampler", "ColorizedDigits", "Dataset", "open_dataset", "rows_of_share"]


def __getattr__(name: str) -> object:
    if name in _EXPORTS:
        return getattr(import_module(f"m2o_fast.data.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""ADE20K scene parsing: photographs of scenes and their label maps."""

from __future__ import annotations

from typing import Literal

from m2o_fast.data.cache import Files
from m2o_fast.data.dataset import Dataset


def load_ade20k(files: Files, labels: Literal["palette", "onehot"] = "palette") -> Dataset:
    """One split of ADE20K."""
    raise NotImplementedError

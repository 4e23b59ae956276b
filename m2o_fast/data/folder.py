"""Own images: a folder per domain."""

from __future__ import annotations

from collections.abc import Sequence

from m2o_fast.data.cache import Files
from m2o_fast.data.dataset import Dataset


def load_folder(files: Files, uni: Sequence[str] = ()) -> Dataset:
    """One split of own images."""
    raise NotImplementedError

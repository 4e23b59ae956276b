"""Counter-based randomness: every random number is a pure function of (seed, purpose, counters).

Nothing random therefore has to be saved in a checkpoint, and loader workers or processes cannot shift it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def _key(seed: int, purpose: str, *counters: int) -> int:
    """A 64-bit key; SHA-256 so that neighbouring seeds, purposes and counters share nothing."""
    text = repr((int(seed), purpose, tuple(int(counter) for counter in counters)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def numpy_generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A NumPy generator that depends on its arguments only."""
    return np.random.Generator(np.random.Philox(_key(seed, purpose, *counters)))


def torch_generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A CPU torch generator that depends on its arguments only; draw on the CPU, then move."""
    return torch.Generator().manual_seed(_key(seed, purpose, *counters) >> 1)

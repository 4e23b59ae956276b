"""The metrics and sample grids of a run in TensorBoard's format, beside the run's own files. An optional extra."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m2o_fast.errors import UserError

FOLDER = "tensorboard"


def require_tensorboard() -> None:
    """Raises ``UserError`` where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "tensorboard is not installed: pip install 'm2o-fast[tensorboard]', or leave out --tensorboard "
            "(--set tensorboard=false)"
        )


class Board:
    """Writes the event files below ``<run>/tensorboard``.

    Args:
        run: The run folder.
        first: The step that training starts with. What an earlier attempt wrote of later steps is marked as replaced,
            so TensorBoard shows every step once.
    """

    def __init__(self, run: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run / FOLDER), purge_step=first + 1)

    def write(self, step: int, values: Mapping[str, float], picture: Image.Image | None = None) -> None:
        """Numbers by name, and the sample grid if one was drawn, as ``step`` steps are done."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        if picture is not None:
            self._writer.add_image("samples", np.asarray(picture), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Ends the event file."""
        self._writer.close()

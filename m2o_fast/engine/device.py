"""Where something runs: devices by name, and the processor's own name."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch

from m2o_fast.engine.processes import Processes
from m2o_fast.engine.schema import DEVICES
from m2o_fast.errors import UserError


def choose_device(name: str, processes: Processes | None = None) -> torch.device:
    """The device of a name; ``"auto"`` takes CUDA where there is a device. Of several processes each takes its own.

    Raises:
        UserError: CUDA was asked for and is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and processes is not None and processes.count > 1:
        name = f"cuda:{processes.local_rank}"
    if not re.fullmatch(DEVICES, name):
        raise UserError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:<number>")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is not there: {torch.cuda.device_count()} CUDA devices found")
    return device


def cpu_model() -> str:
    """Name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())

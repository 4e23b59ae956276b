"""What a run is about to do, in a few lines for the person who waits and as JSON values for machines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from m2o_fast.engine.device import cpu_model
from m2o_fast.engine.memory import Memory, estimate_memory, free_memory
from m2o_fast.engine.precision import precision_note
from m2o_fast.engine.processes import Processes
from m2o_fast.engine.schema import Config
from m2o_fast.engine.step import group_sizes
from m2o_fast.errors import UserError
from m2o_fast.ops import backends
from m2o_fast.ops._library import forced_backend
from m2o_fast.translators.base import Translator

#: family -> the operations of it that training calls
_FAMILIES = {
    "adain": ("adain_act", "instance_norm_act"),
    "residual": ("residual_merge", "leaky_relu_down2"),
    "modulation": ("scale_bias_act", "scale_channels"),
}


@dataclass(frozen=True)
class Plan:
    """What is about to run.

    Attributes:
        system: Name of the base model.
        variant: Name of the many-to-one rules on it.
        name: Both in one word.
        data: Name of the data set, ``name:folder`` where it needs one; of several, all of them.
        data_sets: How many there are, each with a batch of its own in every iteration.
        images: Domain -> training images.
        steps: Training iterations.
        batch_size: Source images per iteration.
        processes: How many train together, each with an equal share of the batch.
        accumulate: Parts that each goes through its share in.
        device: Name of the device.
        model: The device's own name.
        threads: CPU threads of each process.
        precision: Number format.
        cuda_graphs: Whether steps are replayed as CUDA graphs.
        compile: Whether torch.compile takes part.
        note: What to know of the precision on this device; empty if nothing.
        kernels: Operator family -> backend in use, and why.
        parameters: Net -> number of parameters.
        memory: What one process needs beside torch itself, in bytes.
        free: Bytes that are free on the device; ``None`` if unknown.
        weights: What was taken of the weights that it begins with, and what was not, in lines.
    """

    system: str
    variant: str
    name: str
    data: str
    data_sets: int
    images: dict[str, int]
    steps: int
    batch_size: int
    processes: int
    accumulate: int
    device: str
    model: str
    threads: int
    precision: str
    cuda_graphs: bool
    compile: bool
    note: str
    kernels: dict[str, dict[str, str]]
    parameters: dict[str, int]
    memory: Memory
    free: int | None
    weights: tuple[str, ...] = ()

    @property
    def lacking(self) -> int:
        """Bytes that all processes on the device are estimated to need beyond what is free there, if that is known.

        The nets and their averages are there already, and not free.
        """
        missing = self.memory.total - self.memory.weights - self.memory.averages
        needed = missing * (self.processes if self.device == "cpu" else 1)
        return 0 if self.free is None else max(0, needed - self.free)

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        facts = asdict(self)
        facts["memory"]["total"] = self.memory.total
        return facts

    def lines(self) -> list[str]:
        """The same for people."""
        shares = [_counted(self.processes, "process", "processes")]
        shares += [f"{self.accumulate} parts"] * (self.accumulate > 1)
        images = self.batch_size // (self.processes * self.accumulate)
        each = " each" if self.processes > 1 else ""
        of_each = f" of each of {self.data_sets} data sets" if self.data_sets > 1 else ""
        return [
            f"{self.name} on {self.data}: {self._images()}, {self.steps} steps; "
            f"batch {self.batch_size} = {' x '.join(shares)} x {images}{of_each}",
            f"device: {self.device} ({self.model}), {_counted(self.threads, 'thread', 'threads')}{each}, "
            f"{self._format()}",
            *([f"kernels: {self._kernels()}"] if self.kernels else []),
            "parameters: " + ", ".join(f"{name.replace('_', ' ')} {size:,}" for name, size in self.parameters.items()),
            f"memory: {self._memory()}",
            *self.weights,
        ]

    def _images(self) -> str:
        if len(set(self.images.values())) == 1:
            return f"{next(iter(self.images.values()))} images"
        return " and ".join(f"{number} {name}" for name, number in self.images.items()) + " images"

    def _format(self) -> str:
        text = f"{self.precision} ({self.note})" if self.note else self.precision
        return ", ".join([text] + ["CUDA graphs"] * self.cuda_graphs + ["torch.compile"] * self.compile)

    def _kernels(self) -> str:
        alike: dict[str, list[str]] = {}
        for family, serves in self.kernels.items():
            alike.setdefault(f"{serves['backend']}, {serves['why']}", []).append(family)
        if len(alike) == 1:
            return next(iter(alike))
        return "; ".join(f"{', '.join(families)}: {served}" for served, families in alike.items())

    def _memory(self) -> str:
        kept = self.memory.total - self.memory.activations
        text = (
            f"about {_size(self.memory.total)} beside torch itself ({_size(kept)} weights, gradients, Adam, averages; "
            f"about {_size(self.memory.activations)} activations)"
        )
        if self.free is None:
            return text
        return f"{text}, {_size(self.free)} free" + (": TOO LITTLE" if self.lacking else "")


def make_plan(
    config: Config,
    translator: Translator,
    averaged: Translator,
    processes: Processes,
    images: dict[str, int],
    weights: tuple[str, ...] = (),
) -> Plan:
    """What training ``translator`` with ``config`` will do.

    Args:
        config: What to train.
        translator: The nets on their device.
        averaged: The copy for the moving average.
        processes: Those that train together.
        images: Domain -> training images.
        weights: What is to be said of the weights that it begins with.
    """
    device = next(translator.parameters()).device
    share = config.batch_size // (processes.count * config.accumulate)
    return Plan(
        system=config.system,
        variant=config.variant,
        name=config.name,
        data=" and ".join(config.data.named),
        data_sets=len(config.data.named),
        images=images,
        steps=config.steps,
        batch_size=config.batch_size,
        processes=processes.count,
        accumulate=config.accumulate,
        device=str(device),
        model=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model(),
        threads=torch.get_num_threads(),
        precision=config.precision,
        cuda_graphs=config.cuda_graphs,
        compile=config.compile,
        note=precision_note(config.precision, device, compiled=config.compile),
        kernels=kernels_in_use(device.type, translator.operators()),
        parameters=dict(group_sizes(translator)),
        memory=estimate_memory(translator, averaged, config.filled().optim, share, config.precision),
        free=free_memory(device),
        weights=weights,
    )


def kernels_in_use(device: str, families: Sequence[str]) -> dict[str, dict[str, str]]:
    """Operator family -> ``backend`` and ``why``, for the families that training on this type of device calls.

    Raises:
        UserError: A backend was demanded that cannot run here.
    """
    found = backends()
    used: dict[str, dict[str, str]] = {}
    for family in families:
        ops = _FAMILIES[family]
        for op in ops:
            if not found[op][device]["available"].get(found[op][device]["chosen"], False):
                raise UserError(f"{op} on {device}: {found[op][device]['why']}")
        served = {(found[op][device]["chosen"], _why(found[op][device])) for op in ops}
        names, reasons = zip(*sorted(served), strict=True)
        used[family] = {
            "backend": " and ".join(dict.fromkeys(_described(name, device) for name in names)),
            "why": "; ".join(dict.fromkeys(reasons)),
        }
    return used


def _described(backend: str, device: str) -> str:
    languages = {"compiled": {"cpu": "C++", "cuda": "CUDA C++"}.get(device), "reference": "plain torch"}
    return f"{backend} ({languages[backend]})" if languages.get(backend) else backend


def _why(facts: dict[str, Any]) -> str:
    if forced_backend() is not None:
        by_environment = os.environ.get("M2O_BACKEND") == forced_backend()
        return f"because M2O_BACKEND={forced_backend()}" if by_environment else "because use_backend demands it"
    fastest, _, passed_over = facts["why"].partition("; ")
    return f"because of {passed_over}" if passed_over else fastest


def _counted(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"

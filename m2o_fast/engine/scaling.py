"""A model of how training scales over many GPUs; formulas and assumptions: docs/scaling.md.

No network is touched. It says what a measured step, the sizes of the messages and assumed bandwidths imply.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from m2o_fast.engine.build import build_translator, open_split
from m2o_fast.engine.schema import Config
from m2o_fast.engine.step import group_sizes
from m2o_fast.errors import UserError
from m2o_fast.nn.memoryless import memoryless

GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_FLOAT_BYTES = 4
#: what all processes agree on before every step: whether one of them was told to stop
_STOP_MESSAGE_BYTES = 8


@dataclass(frozen=True)
class Network:
    """What connects the GPUs.

    Attributes:
        gpus_per_node: GPUs that share a node; a larger number of GPUs fills whole nodes.
        intra_bandwidth: Bytes per second that a GPU sends to another one of its node, in one direction.
        inter_bandwidth: Bytes per second that a GPU sends to one of another node, in one direction.
        intra_latency: Seconds per hop within a node.
        inter_latency: Seconds per hop between nodes.
    """

    gpus_per_node: int = 8
    intra_bandwidth: float = 300e9
    inter_bandwidth: float = 40e9
    intra_latency: float = 3e-6
    inter_latency: float = 10e-6

    def all_reduce(self, gpus: int, size: float) -> float:
        """Seconds of an all-reduce of ``size`` bytes: rings within the nodes, and rings between them for each share."""
        inside = min(gpus, self.gpus_per_node)
        nodes = gpus // inside
        return _ring(inside, size, self.intra_bandwidth, self.intra_latency) + _ring(
            nodes, size / inside, self.inter_bandwidth, self.inter_latency
        )


def _ring(members: int, size: float, bandwidth: float, latency: float) -> float:
    """Seconds of a ring all-reduce: ``2 (n - 1)`` hops, each with an n-th of the bytes."""
    hops = 2 * (members - 1)
    return hops * (size / members / bandwidth + latency)


@dataclass(frozen=True)
class Step:
    """A measured step of one GPU.

    Attributes:
        seconds: How long it took, without any message.
        images: Its batch.
        fixed_seconds: The part that does not shrink with the batch (kernel launches, optimizers).
    """

    seconds: float
    images: int
    fixed_seconds: float = 0.0

    def at(self, images: float) -> float:
        """Seconds for another batch: the rest of the step is proportional to it."""
        return self.fixed_seconds + (self.seconds - self.fixed_seconds) * images / self.images


@dataclass(frozen=True)
class Point:
    """One number of GPUs.

    Attributes:
        gpus: How many.
        batch_size: Images of all of them.
        images: Images of each.
        compute_seconds: Computing in a step.
        message_seconds: Messages in a step; nothing is computed meanwhile.
        images_per_second: Of all GPUs.
        efficiency: ``images_per_second`` over ``gpus`` times that of one GPU alone, in (0, 1]. Alone it takes the
            measured batch (weak scaling), or the whole shared one, whether or not that would fit (strong scaling).
    """

    gpus: int
    batch_size: int
    images: int
    compute_seconds: float
    message_seconds: float
    images_per_second: float
    efficiency: float


def message_sizes(config: Config) -> dict[str, int]:
    """Bytes of each message of a training step, by phase; the last one is the agreement on whether to stop.

    A phase that comes several times is numbered. Steps of a pretraining are left out.

    A phase sends the gradients of its groups, its loss, and for each group whether the loss reached it, in float32.
    """
    data = open_split(config, "train")
    with memoryless():
        translator = build_translator(config, data.domains, data.sets)
    sizes = group_sizes(translator)
    messages: dict[str, int] = {}
    phases = translator.phases(config.optim.pretraining())
    for number, phase in enumerate(phases):
        before = [other.name for other in phases[:number]].count(phase.name)
        name = f"{phase.name} {before + 1}" if before else phase.name
        messages[name] = _FLOAT_BYTES * (sum(sizes[group] for group in phase.groups) + len(phase.groups) + 1)
    return {**messages, "agreement on stopping": _STOP_MESSAGE_BYTES}


def weak_scaling(step: Step, messages: Sequence[int], network: Network, gpus: Sequence[int] = GPUS) -> list[Point]:
    """Every GPU takes as many images as were measured, whatever their number."""
    alone = step.images / step.seconds
    return [_point(step, messages, network, count, count * step.images, alone) for count in gpus]


def strong_scaling(
    step: Step, messages: Sequence[int], network: Network, batch_size: int, gpus: Sequence[int] = GPUS
) -> list[Point]:
    """All GPUs share one batch; numbers of GPUs that cannot share it equally are left out."""
    alone = batch_size / step.at(batch_size)
    return [_point(step, messages, network, count, batch_size, alone) for count in gpus if batch_size % count == 0]


def _point(step: Step, messages: Sequence[int], network: Network, gpus: int, batch_size: int, alone: float) -> Point:
    images = batch_size // gpus
    compute = step.at(images)
    sending = sum(network.all_reduce(gpus, size) for size in messages)
    speed = batch_size / (compute + sending)
    return Point(gpus, batch_size, images, compute, sending, speed, speed / (gpus * alone))


def simulate(
    config: Config,
    step: Step,
    network: Network,
    batch_size: int | None = None,
    gpus: Sequence[int] = GPUS,
) -> dict[str, Any]:
    """Weak and strong scaling of a configuration as JSON values.

    Args:
        config: Tells the sizes of the messages.
        step: A measured step of one GPU.
        network: What connects the GPUs.
        batch_size: The batch that all GPUs share in strong scaling; ``None``: the measured one, or one image for each
            of the most GPUs if that is more.
        gpus: Numbers of GPUs.

    Raises:
        UserError: The numbers make no sense together.
    """
    _check(step, network, batch_size, gpus)
    messages = message_sizes(config)
    shared = batch_size or max(step.images, max(gpus))
    sizes = list(messages.values())
    return {
        "step": asdict(step),
        "network": asdict(network),
        "message_bytes": messages,
        "weak": [asdict(point) for point in weak_scaling(step, sizes, network, gpus)],
        "strong": [asdict(point) for point in strong_scaling(step, sizes, network, shared, gpus)],
    }


def _check(step: Step, network: Network, batch_size: int | None, gpus: Sequence[int]) -> None:
    if not all(math.isfinite(value) for part in (step, network) for value in vars(part).values()):
        raise UserError("times and bandwidths must be finite numbers")
    if step.fixed_seconds > step.seconds:
        raise UserError("the fixed part of a step (--fixed-ms) is longer than the step (--step-ms)")
    uneven = [count for count in gpus if count > network.gpus_per_node and count % network.gpus_per_node]
    if uneven:
        raise UserError(
            f"{uneven[0]} GPUs do not fill nodes of {network.gpus_per_node}; see --gpus and --gpus-per-node"
        )
    if batch_size and all(batch_size % count for count in gpus):
        raise UserError(f"--batch-size {batch_size} is a multiple of none of --gpus {','.join(map(str, gpus))}")

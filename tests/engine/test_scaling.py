"""The scaling model against numbers worked out by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import inf

import pytest
import torch
from tiny import tiny_config

from m2o_fast.engine.build import build_translator, open_split
from m2o_fast.engine.memory import blank_batch
from m2o_fast.engine.processes import Processes
from m2o_fast.engine.scaling import Network, Step, message_sizes, simulate, strong_scaling, weak_scaling
from m2o_fast.engine.step import Stepper
from m2o_fast.errors import UserError

#: 1 GB/s within a node of 4, 0.1 GB/s between nodes; 1 ms and 10 ms a hop
NETWORK = Network(4, 1e9, 1e8, 1e-3, 1e-2)


@pytest.mark.parametrize(
    ("gpus", "seconds"),
    [
        (1, 0.0),
        # 2 (2-1) = 2 hops of 4/2 = 2 MB: 2 x (2 ms + 1 ms)
        (2, 0.006),
        # 6 hops of 1 MB: 6 x (1 ms + 1 ms)
        (4, 0.012),
        # the same within each of two nodes, and 2 hops of 1/2 MB of each GPU's megabyte: 2 x (5 ms + 10 ms)
        (8, 0.012 + 0.030),
        # 16 nodes: 30 hops of 1/16 MB: 30 x (0.625 ms + 10 ms)
        (64, 0.012 + 30 * 0.010625),
    ],
)
def test_all_reduce_of_four_megabytes(gpus: int, seconds: float) -> None:
    assert NETWORK.all_reduce(gpus, 4e6) == pytest.approx(seconds)


def test_weak_scaling_by_hand() -> None:
    # A step of 100 ms with 10 images; two messages of 4 MB.
    one, two, eight = weak_scaling(Step(0.1, 10), [4_000_000, 4_000_000], NETWORK, (1, 2, 8))
    assert (one.batch_size, one.message_seconds, one.efficiency) == (10, 0, 1)
    assert one.images_per_second == pytest.approx(100)
    assert two.images_per_second == pytest.approx(20 / 0.112)
    assert (eight.batch_size, eight.images) == (80, 10)
    assert eight.message_seconds == pytest.approx(0.084)
    assert eight.images_per_second == pytest.approx(80 / 0.184)
    assert eight.efficiency == pytest.approx(0.1 / 0.184)


def test_strong_scaling_by_hand() -> None:
    # 20 ms of the step are fixed, the other 80 ms are 8 ms an image; 40 images on one GPU take 20 + 320 = 340 ms.
    points = strong_scaling(Step(0.1, 10, 0.02), [4_000_000], NETWORK, 40, (1, 2, 3, 8))
    assert [point.gpus for point in points] == [1, 2, 8], "40 images cannot be shared by 3"
    one, two, eight = points
    assert one.compute_seconds == pytest.approx(0.34)
    assert one.efficiency == pytest.approx(1)
    assert two.compute_seconds == pytest.approx(0.02 + 20 * 0.008)
    assert (eight.images, eight.batch_size) == (5, 40)
    assert eight.compute_seconds + eight.message_seconds == pytest.approx(0.06 + 0.042)
    assert eight.efficiency == pytest.approx(0.34 / 8 / 0.102)


class Recorder(Processes):
    """Two processes, one of which is not there: notes what would be sent."""

    def __init__(self) -> None:
        super().__init__(0, 2)
        self.sent: list[int] = []

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        self.sent.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))


@pytest.mark.usefixtures("tiny_data")
@pytest.mark.parametrize("variant", ["hms", "starganv2"])
def test_messages_are_what_training_sends(variant: str) -> None:
    config, recorder = tiny_config(f"variant={variant}"), Recorder()
    translator = build_translator(config, open_split(config, "train").domains)
    Stepper(translator, copy.deepcopy(translator), config.optim, recorder)([blank_batch(translator, 2)], 0)
    messages = message_sizes(config)
    assert list(messages.values())[:-1] == recorder.sent
    assert list(messages) == [*(phase.name for phase in translator.phases(0)), "agreement on stopping"]


@pytest.mark.usefixtures("tiny_data")
def test_a_simulation_reaches_1024_gpus() -> None:
    result = simulate(tiny_config(), Step(0.01, 4), Network())
    for kind in ("weak", "strong"):
        assert [point["gpus"] for point in result[kind]] == [2**n for n in range(11)]
        efficiencies = [point["efficiency"] for point in result[kind]]
        assert efficiencies[0] == pytest.approx(1)
        assert efficiencies == sorted(efficiencies, reverse=True)
    assert result["strong"][-1]["batch_size"] == 1024


@pytest.mark.usefixtures("tiny_data")
@pytest.mark.parametrize(
    ("step", "gpus", "words"),
    [
        (Step(0.01, 4, 0.02), (1,), "fixed part of a step .* is longer than the step"),
        (Step(0.01, 4), (1, 12), "12 GPUs do not fill nodes of 8"),
    ],
)
def test_what_makes_no_sense_is_refused(step: Step, gpus: tuple[int, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        simulate(tiny_config(), step, Network(), gpus=gpus)


@pytest.mark.usefixtures("tiny_data")
def test_numbers_that_lead_nowhere_are_refused() -> None:
    for step, network in ((Step(inf, 4), Network()), (Step(0.01, 4), Network(inter_bandwidth=inf))):
        with pytest.raises(UserError, match="must be finite numbers"):
            simulate(tiny_config(), step, network)
    with pytest.raises(UserError, match="--batch-size 7 is a multiple of none of --gpus 2,4"):
        simulate(tiny_config(), Step(0.01, 4), Network(), batch_size=7, gpus=(2, 4))
    assert simulate(tiny_config(), Step(0.01, 7), Network(), gpus=(2, 4))["strong"] == [], "that was not asked for"

"""All that training changes, by file and name of a checkpoint: the nets, averages, optimizers, history pools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from m2o_fast.engine.checkpoint import (
    AVERAGED,
    NETS,
    OPTIMIZERS,
    CheckpointError,
    averaged_names,
    check_average,
    load_weights,
    read_tensors,
)
from m2o_fast.nn.history import HistoryPool
from m2o_fast.nn.misfits import misfits, shortened
from m2o_fast.translators.base import Translator

POOLS = "pools.safetensors"
_MOMENTS, _COUNTS = ("exp_avg", "exp_avg_sq"), {"step": ((), torch.float32)}  # of Adam


@dataclass(frozen=True)
class Training:
    """Everything that training changes.

    Attributes:
        translator: The nets that are trained.
        averaged: Those that hold the moving average; the same ones where there is none.
        optimizers: By parameter group.
        pools: History pools by name.
    """

    translator: Translator
    averaged: Translator
    optimizers: Mapping[str, torch.optim.Optimizer]
    pools: Mapping[str, HistoryPool] = field(default_factory=dict)


def training_tensors(training: Training) -> dict[str, dict[str, Tensor]]:
    """Everything that training needs to go on, by file and name."""
    names = averaged_names(training.averaged)
    tensors = {
        NETS: training.translator.state_dict(),
        AVERAGED: {name: tensor for name, tensor in training.averaged.state_dict().items() if name in names},
        OPTIMIZERS: _optimizer_tensors(training.translator, training.optimizers),
    }
    return tensors | ({POOLS: _pool_tensors(training.pools)} if training.pools else {})


def weights_in_use(training: Training) -> dict[str, Tensor]:
    """All weights and buffers by name, averages in the place of those that have one."""
    names, average = averaged_names(training.averaged), training.averaged.state_dict()
    return {**training.translator.state_dict(), **{name: average[name] for name in names}}


def optimizer_kinds(optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, str]:
    """Parameter group -> the kind of its optimizer, for the manifest."""
    return {
        name: type(optimizer).__name__ + (" with momentum" if optimizer.param_groups[0].get("momentum") else "")
        for name, optimizer in optimizers.items()
    }


def _optimizer_tensors(translator: Translator, optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in translator.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for optimizer in optimizers.values()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


def _pool_tensors(pools: Mapping[str, HistoryPool]) -> dict[str, Tensor]:
    parts = {name: {"images": pool.images, "filled": pool.filled} for name, pool in pools.items()}
    return {f"{name}/{key}": tensor for name, tensors in parts.items() for key, tensor in tensors.items()}


def load_training(folder: Path, training: Training) -> None:
    """Puts the state that :func:`training_tensors` gave back in place."""
    translator = training.translator
    nets, average = read_tensors(folder, NETS), read_tensors(folder, AVERAGED)
    load_weights(translator, nets, folder / NETS)
    if training.averaged is not translator:
        check_average(training.averaged, average, folder / AVERAGED)
        load_weights(training.averaged, {**nets, **average}, folder / AVERAGED)
    _load_pools(folder, training.pools)
    saved: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_tensors(folder, OPTIMIZERS).items():
        parameter, _, key = name.partition("/")
        saved.setdefault(parameter, {})[key] = tensor
    names = {parameter: name for name, parameter in translator.named_parameters()}
    if unknown := sorted(saved.keys() - set(names.values())):
        listed = ", ".join(map(shortened, unknown[:5]))
        raise CheckpointError(f"{folder / OPTIMIZERS}: state of unknown parameters: {listed}")
    for optimizer in training.optimizers.values():
        parameters = {names[parameter]: parameter for parameter in optimizer.param_groups[0]["params"]}
        states = {name: saved[name] for name in parameters if name in saved}
        if problems := _misfit_states(optimizer, parameters, states):
            raise CheckpointError(f"{folder / OPTIMIZERS}: {problems[0]}; {len(problems)} such problems")
        for name, state in states.items():
            optimizer.state[parameters[name]] = {key: _placed_like(parameters[name], of) for key, of in state.items()}


def _placed_like(parameter: Tensor, value: Tensor) -> Tensor:
    """On the device of a parameter and, where it is as large, in its memory format: fused kernels count on that."""
    like = parameter if value.shape == parameter.shape else value
    return torch.empty_like(like, dtype=value.dtype, device=parameter.device).copy_(value)


def _load_pools(folder: Path, pools: Mapping[str, HistoryPool]) -> None:
    if not pools:
        return
    way_out = "go on with the settings that it was trained with, or train anew"
    if not (folder / POOLS).exists():
        raise CheckpointError(f"{folder} has no history pools ({POOLS}), but these settings ask for them; {way_out}")
    wanted, saved = _pool_tensors(pools), read_tensors(folder, POOLS)
    if problems := misfits(wanted, saved):
        raise CheckpointError(f"{folder / POOLS} does not fit the history pools: {problems}; {way_out}")
    for name, tensor in wanted.items():
        tensor.copy_(saved[name])


def _misfit_states(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], states: Mapping[str, Mapping[str, Tensor]]
) -> list[str]:
    """What is wrong with the state of one optimizer. All its parameters have one, or none where it never stepped."""
    with_momentum = isinstance(optimizer, torch.optim.SGD)
    moments, counts = (("momentum_buffer",), {}) if with_momentum else (_MOMENTS, _COUNTS)
    problems = [f"no state of {name}" for name in parameters if states and name not in states]
    for name, state in states.items():
        like = parameters[name]
        wanted = counts | dict.fromkeys(moments, (tuple(like.shape), like.dtype))
        found = {key: (tuple(value.shape), value.dtype) for key, value in state.items()}
        wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        problems += [f"{key} of {name} is not finite" for key, value in state.items() if not value.isfinite().all()]
        problems += [f"{key} of {name} must be {_described(wanted, key)}, is {_described(found, key)}" for key in wrong]
    return problems


def _described(tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype]], key: str) -> str:
    if key not in tensors:
        return "left out"
    shape, dtype = tensors[key]
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"

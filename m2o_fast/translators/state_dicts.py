"""What the layouts of published weights have in common: state dicts by net, names by their prefixes, kinds of norms."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.nn.memoryless import memoryless
from m2o_fast.nn.misfits import misfits
from m2o_fast.nn.norms import Norm
from m2o_fast.translators.settings import Settings

StateDict = Mapping[str, Tensor]
#: prefix of our names -> the published one
Prefixes = Mapping[str, str]
#: our nets that a published one consists of, in its order, each with how its names become published ones
Parts = list[tuple[Any, Prefixes]]

_Built = TypeVar("_Built", bound=nn.Module)
_Settings = TypeVar("_Settings", bound=Settings)

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_KINDS = ("weight", "bias", *_STATISTICS)  # in the order of torch's state dicts


def taken_apart(state_dicts: Any, files: Mapping[str, Mapping[str, str]]) -> Any:
    """State dicts by net, where some come in files of several nets; anything else as it is.

    Args:
        state_dicts: Net or file -> state dict, or of a file what it holds.
        files: File -> key in it -> net.

    Raises:
        UserError: A file holds anything else, is not named, or has a net that comes twice.
    """
    if not isinstance(state_dicts, Mapping):
        return state_dicts
    if loose := [file for file, keys in files.items() if state_dicts and state_dicts.keys() <= keys.keys()]:
        raise UserError(f"{', '.join(state_dicts)} are nets of a file; say of which one (files: {', '.join(loose)})")
    apart: dict[Any, Any] = {}
    for name, held in state_dicts.items():
        for net, weights in _nets_of(name, held, files.get(name, {})).items():
            if net in apart:
                raise UserError(f"{net} is given twice, once of them in a file of several nets")
            apart[net] = weights
    return apart


def _nets_of(name: Any, held: Any, keys: Mapping[str, str]) -> dict[Any, Any]:
    """What a file holds, by net; a net, which may have the name of a file, alone."""
    if not keys or not isinstance(held, Mapping) or not any(isinstance(net, Mapping) for net in held.values()):
        return {name: held}
    if odd := [str(key) for key in held if key not in keys]:
        raise UserError(f"{name} holds {', '.join(odd)[:200]}; expected state dicts by {' and '.join(keys)} alone")
    return {keys[key]: net for key, net in held.items()}


def checked_nets(
    state_dicts: Any, known: Sequence[str], dropped: tuple[re.Pattern[str], str] | None = None
) -> dict[str, dict[str, Tensor]]:
    """State dicts by net, without the prefix ``module.`` and without statistics that nothing uses.

    Args:
        state_dicts: What was handed over.
        known: Names of nets.
        dropped: Names of statistics, all of it, that are left out without a word, and by what these become the name of
            the weight that they belong to.

    Raises:
        UserError: It holds anything else, or nothing.
    """
    if not isinstance(state_dicts, Mapping) or not state_dicts:
        raise UserError(f"expected state dicts by net ({', '.join(known)}), got {type(state_dicts).__name__}")
    if unknown := [str(name) for name in state_dicts if name not in known]:
        raise UserError(f"unknown nets: {', '.join(unknown)[:200]} (nets: {', '.join(known)})")
    nets = {}
    for name, net in state_dicts.items():
        if not isinstance(net, Mapping) or not net or not all(isinstance(value, Tensor) for value in net.values()):
            raise UserError(f"{name} is not a state dict (names to tensors)")
        for key, tensor in net.items():
            if not isinstance(key, str):
                raise UserError(f"{name}: expected names of weights, found {str(key)[:200]}")
            if problem := _problem(tensor, statistic=key.endswith("num_batches_tracked")):
                raise UserError(f"{name}: {key[:200]} {problem}")
        unwrapped = {key.removeprefix("module."): tensor for key, tensor in net.items()}
        kept = _without_statistics(unwrapped, name, *dropped) if dropped else unwrapped
        nets[name] = _without_unused(kept, name)
    return nets


def _without_statistics(net: dict[str, Tensor], name: str, named: re.Pattern[str], weight: str) -> dict[str, Tensor]:
    for key in filter(named.fullmatch, net):
        layer = net.get(named.sub(weight, key))
        if layer is None or net[key].shape != (() if key.endswith("num_batches_tracked") else layer.shape[:1]):
            raise UserError(f"{name}: {key[:200]} {list(net[key].shape)} belongs to no layer")
    return {key: tensor for key, tensor in net.items() if not named.fullmatch(key)}


def _problem(tensor: Tensor, *, statistic: bool) -> str:
    """Why a tensor cannot be a weight; empty if it can. Sizes are read off weights before they are compared."""
    if tensor.layout != torch.strided:
        return "is not a dense tensor"
    if not tensor.numel():
        return "is empty"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"is {list(tensor.shape)}, which is more than its file holds"
    if not tensor.is_floating_point() and not statistic:
        return f"holds {tensor.dtype}, not floating-point numbers"
    return ""


def _without_unused(net: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Old torch kept running statistics of instance norms, which have no weights here and used them never."""
    norms = {key.removesuffix(".running_mean") for key in net if key.endswith(".running_mean")}
    unused = {norm for norm in norms if f"{norm}.weight" not in net}
    if unused:
        warnings.warn(
            f"{name}: running statistics of {len(unused)} instance norms are left out; nothing uses them",
            RuntimeWarning,
            stacklevel=4,
        )
    return {key: tensor for key, tensor in net.items() if key.rpartition(".")[0] not in unused}


def dimension(net: StateDict, name: str, key: str, axis: int) -> int:
    """A size that is read off a weight. Raises ``UserError`` where it is missing."""
    if key not in net or net[key].dim() != 4:
        raise UserError(f"{name}: missing {key}, from which sizes are read")
    return net[key].shape[axis]


def numbered(net: StateDict, wanted: Callable[[int], tuple[str, Sequence[int]]]) -> int:
    """How many numbered weights a net has, up to the last; one that is missing before it can then be named.

    Only weights of the right shape count, and at most twice as many as there are: names alone ask for no layers.

    Args:
        net: State dict.
        wanted: Number, from 0 on -> name and shape of that weight.
    """

    def is_there(name: str, shape: Sequence[int]) -> bool:
        return name in net and list(net[name].shape) == list(shape)

    there = [k for k in range(min(len(net), 1000)) if is_there(*wanted(k))]
    return min(there[-1] + 1, 2 * len(there)) if there else 0


def norm_of(net: StateDict, name: str, convolution: str, norm: str) -> Norm:
    """The norm behind a convolution: published nets have a bias in front of instance norms alone."""
    if f"{norm}.weight" in net:
        if f"{norm}.running_mean" not in net:
            raise UserError(f"{name}: {norm}.weight is that of an instance norm; those that learn a scale are unknown")
        return "batch"
    return "instance" if f"{convolution}.bias" in net else "none"


def the_only(values: Mapping[str, Any], what: str) -> Any:
    """What all nets have in common. Raises ``UserError`` where they differ."""
    if len(set(values.values())) > 1:
        listed = ", ".join(f"{value} in {name}" for name, value in values.items())
        raise UserError(f"the nets do not belong together: {what} is {listed}")
    return next(iter(values.values()))


def settings_of(kind: type[_Settings], model: Mapping[str, Any]) -> _Settings:
    """Settings with sizes that were read off weights. Raises ``UserError`` where they are refused."""
    try:
        return kind.model_validate({"model": model})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise UserError(f"the sizes that the weights have are refused: {wrong}") from None


def domains_of(names: Sequence[str] | None, channels: Sequence[int]) -> list[Domain]:
    """Multi-modal domains, called A and B where they have no names."""
    names = ("A", "B") if names is None else tuple(names)
    if len(names) != 2:
        raise UserError(f"the weights have 2 domains, but {len(names)} names were given: {', '.join(names)}")
    try:
        return [Domain(name, count) for name, count in zip(names, channels, strict=True)]
    except ValueError as error:
        raise UserError(str(error)) from error


# --- names ------------------------------------------------------------------------------------------------------------


def patch_discriminator_prefixes(layers: int) -> dict[str, str]:
    """Those of a :class:`~m2o_fast.nn.patch_discriminator.PatchDiscriminator`."""
    if not layers:
        return {"convs.0.": "net.0.", "convs.1.": "net.2.", "norms.0.batch.": "net.3.", "convs.2.": "net.5."}
    prefixes = {"convs.0.": "model.0."}
    for k in range(1, layers + 2):
        prefixes |= {f"convs.{k}.": f"model.{3 * k - 1}.", f"norms.{k - 1}.batch.": f"model.{3 * k}."}
    return prefixes


def patch_discriminator_layers(net: StateDict, name: str) -> int:
    """Convolutions of stride 2; 0 where single pixels are judged."""
    if "net.0.weight" in net:
        return 0
    width = dimension(net, name, "model.0.weight", 0)
    widths = [width * min(2**k, 8) for k in range(4)]

    def behind_the_first(k: int) -> tuple[str, list[int]]:
        return f"model.{3 * k + 2}.weight", [widths[min(k + 1, 3)], widths[min(k, 3)], 4, 4]

    if not (layers := numbered(net, behind_the_first)):
        raise UserError(f"{name}: expected a patch discriminator (model.0.weight, model.2.weight, model.5.weight, ...)")
    return layers


# --- nets -------------------------------------------------------------------------------------------------------------


def loaded(
    build: Callable[[], _Built], parts: Callable[[_Built, str], Parts], given: Mapping[str, StateDict]
) -> _Built:
    """A translator with published weights, in evaluation mode and in their dtype.

    It gets memory when all weights have been compared: a small file may name large sizes.

    Args:
        build: Makes the translator, with those nets that are given and no others.
        parts: The translator and a published name -> its nets that this one consists of.
        given: Published name -> state dict, as :func:`checked_nets` gives it.

    Raises:
        UserError: Weights do not fit.
    """
    with memoryless():
        translator = build()
    wholes = {name: _whole(parts(translator, name)) for name in given}
    held = {id(tensor) for net, _ in wholes.values() for tensor in net.state_dict(keep_vars=True).values()}
    if empty := [name for name, tensor in _tensors(translator) if id(tensor) not in held]:
        raise ValueError(f"no published net holds {', '.join(empty)}: build the translator without")
    for name, net in given.items():
        check(*wholes[name], net, name)
    translator.to(next(iter(next(iter(given.values())).values())).dtype).to_empty(device="cpu")
    for name, net in given.items():
        load(*wholes[name], net, name)
    return translator.eval().requires_grad_(False)


def _tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from net.named_parameters()
    yield from net.named_buffers()


def _whole(parts: Parts) -> tuple[nn.Module, Prefixes]:
    prefixes = {f"{k}.{ours}": theirs for k, (_, names) in enumerate(parts) for ours, theirs in names.items()}
    return nn.ModuleList([net for net, _ in parts]), prefixes


def check(net: nn.Module, prefixes: Prefixes, given: StateDict, name: str) -> None:
    """Raises ``UserError`` where published weights do not fit a net, which may be on ``meta``."""
    if problems := misfits({published_name(key, prefixes): tensor for key, tensor in net.state_dict().items()}, given):
        raise UserError(f"{name}: the weights do not fit: {problems}")


def load(net: nn.Module, prefixes: Prefixes, given: StateDict, name: str) -> None:
    """Puts published weights into a net. Raises ``UserError`` where they do not fit."""
    check(net, prefixes, given, name)
    net.load_state_dict({key: given[published_name(key, prefixes)] for key in net.state_dict()})


def saved(net: nn.Module, prefixes: Prefixes) -> dict[str, Tensor]:
    """The published state dict of a net, contiguous, in the published order; the reverse of :func:`load`."""
    named = {published_name(key, prefixes): tensor.contiguous() for key, tensor in net.state_dict().items()}
    return {key: named[key] for key in sorted(named, key=_place)}


def published_name(name: str, prefixes: Prefixes) -> str:
    """What one of our names is called in a published net."""
    ours, published = next(pair for pair in prefixes.items() if name.startswith(pair[0]))
    return published + name[len(ours) :]


def _place(key: str) -> list[int]:
    """Layers by their numbers, then kinds of tensors."""
    return [int(part) if part.isdigit() else (_KINDS.index(part) if part in _KINDS else -1) for part in key.split(".")]

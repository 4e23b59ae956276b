"""Normalisations that wait for the activation behind them, where nobody else can see the value in between.

Inside a call of the module that owns both, the norm returns a :class:`Deferred`, of which the activation makes both at
once. Whatever else takes it gets the plain output of the norm. Outside of such a call, in one of another kind (another
argument, another mode, other settings) and under hooks, norm and activation work as they always did.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

OFF = 1.0  # slope of an activation that does nothing
Compute = Callable[..., Tensor]  # takes slope=


class Deferred:
    """The output of a norm that nobody has looked at yet. Used as a tensor, it is one."""

    def __init__(self, compute: Compute, inputs: tuple[Tensor | None, ...]) -> None:
        self._compute = compute
        self._inputs = [tensor for tensor in inputs if tensor is not None and not tensor.is_inference()]
        self._versions = [tensor._version for tensor in self._inputs]
        self._has_gradient = torch.is_grad_enabled()
        self._value: Tensor | None = None

    def value(self) -> Tensor:
        """What the norm would have returned."""
        if self._value is None:
            self._value = self._with_slope(OFF)
        return self._value

    def activated(self, slope: float, inplace: bool) -> Tensor:
        """What the activation returns."""
        if self._value is not None or self._has_gradient != torch.is_grad_enabled():
            return F.leaky_relu(self.value(), slope, inplace)
        result = self._with_slope(slope)
        if inplace:
            self._value = result
        return result

    def _with_slope(self, slope: float) -> Tensor:
        if [tensor._version for tensor in self._inputs] != self._versions:
            raise RuntimeError(
                "accelerate: the input of a norm was changed in place before its output was used; "
                "do not accelerate this network, or copy the input first"
            )
        with torch.set_grad_enabled(self._has_gradient):
            return self._compute(slope=slope)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*_plain(args), **_plain(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.value(), name)


def _plain(values: Any) -> Any:
    return tree_map_only(Deferred, Deferred.value, values)


def _operator(name: str) -> Callable[..., Any]:
    return lambda self, *args: getattr(self.value(), name)(*_plain(args))


_FORWARD = (*fx.graph.magic_methods, *fx.graph.inplace_methods, "len", "iter", "bool", "float", "int", "index", "abs")
_OPERATORS = [*_FORWARD, "setitem", "contains", "invert", *(f"r{name}" for name in fx.graph.reflectable_magic_methods)]
for _name in (f"__{name.strip('_')}__" for name in _OPERATORS):
    if hasattr(Tensor, _name):
        setattr(Deferred, _name, _operator(_name))


class _Calls(threading.local):
    def __init__(self) -> None:
        self.running: list[dict[int, nn.Module]] = []  # of each owner: id of the norm -> activation


_calls = _Calls()


def normalised(norm: nn.Module, compute: Compute, *inputs: Tensor | None) -> Any:
    """The output of ``norm``, deferred where its activation follows."""
    activation = _calls.running[-1].get(id(norm)) if _calls.running else None
    if activation is None or has_hooks(norm) or has_hooks(activation):
        return compute(slope=OFF)
    return Deferred(compute, inputs)


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module is more than its forward."""
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(own) or nn.modules.module._has_any_global_hook()


class FusedLeakyReLU(nn.LeakyReLU):
    """``nn.LeakyReLU`` that completes a norm that waits for it."""

    def forward(self, input: Any) -> Tensor:
        """Any shape."""
        if isinstance(input, Deferred):
            return input.activated(self.negative_slope, self.inplace)
        return super().forward(input)


class FusedReLU(nn.ReLU):
    """``nn.ReLU`` that completes a norm that waits for it."""

    def forward(self, input: Any) -> Tensor:
        """Any shape."""
        return input.activated(0.0, self.inplace) if isinstance(input, Deferred) else super().forward(input)


ACTIVATIONS: dict[type[nn.Module], type[nn.Module]] = {nn.LeakyReLU: FusedLeakyReLU, nn.ReLU: FusedReLU}
FUSED = tuple(ACTIVATIONS.values())


class Owner:
    """Hooks around the calls of a module that owns norms and activations, by name, so that copies have them too."""

    def __init__(self, owner: nn.Module, pairs: dict[bool, dict[str, str]]) -> None:
        self.pairs = pairs  # training -> norm -> activation, paths as in the owner
        self.settings = _settings_of(owner)
        self.required = required_arguments(owner)
        owner.register_forward_pre_hook(self.enter, prepend=True, with_kwargs=True)
        owner.register_forward_hook(self.leave, prepend=True, with_kwargs=True, always_call=True)

    def enter(self, owner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Norms of the owner may wait from here on, if the call is of the kind that was followed."""
        followed = (
            len(args) + len(kwargs) == len(self.required)
            and set(kwargs) <= set(self.required)
            and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
            and _settings_of(owner) == self.settings
        )
        _calls.running.append(self._waiting(owner) if followed else {})

    def leave(self, owner: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Nothing that waits leaves the owner."""
        _calls.running.pop()
        return _plain(output)

    def _waiting(self, owner: nn.Module) -> dict[int, nn.Module]:
        try:
            pairs = [map(owner.get_submodule, pair) for pair in self.pairs[owner.training].items()]
        except AttributeError:  # modules were taken away
            return {}
        return {id(norm): activation for norm, activation in pairs if type(activation) in FUSED}


def _settings_of(owner: nn.Module) -> dict[str, Any]:
    """Which forward it is, and plain attributes that it may ask, apart from the mode."""
    plain = {name: value for name, value in vars(owner).items() if isinstance(value, bool | int | float | str | None)}
    return {**plain, "training": None, "forward": getattr(owner.forward, "__qualname__", "")}


def required_arguments(owner: nn.Module) -> list[str]:
    """Names of the arguments that forward cannot do without."""
    parameters = inspect.signature(owner.forward).parameters
    return [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]


def optional_arguments(owner: nn.Module) -> dict[str, Any]:
    """Those that it can do without, and what they are then."""
    parameters = inspect.signature(owner.forward).parameters
    required = required_arguments(owner)
    return {name: parameter.default for name, parameter in parameters.items() if name not in required}

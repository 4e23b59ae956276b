"""Makes the normalisations of somebody else's network fast, in place, with equal outputs."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from m2o_fast.ops import adain_act, instance_norm_act

OFF = 1.0  # slope of an activation that does nothing


class Replaced(NamedTuple):
    """One module that is fast now."""

    name: str  #: as in ``model.named_modules()``
    was: str  #: class names, such as ``InstanceNorm2d + ReLU``
    now: str  #: the fused operation


class LeftAlone(NamedTuple):
    """One normalisation that stayed as it was."""

    name: str
    was: str
    why: str


class Acceleration(NamedTuple):
    """What :func:`accelerate` did; ``str()`` of it is a table."""

    replaced: tuple[Replaced, ...]
    left_alone: tuple[LeftAlone, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} replaced, {len(self.left_alone)} left alone"]
        lines += [f"  {name}: {was} -> {now}" for name, was, now in self.replaced]
        lines += [f"  {name}: {was} left alone: {why}" for name, was, why in self.left_alone]
        return "\n".join(lines)


def accelerate(model: nn.Module) -> Acceleration:
    """Replaces instance norms, AdaIN modules and the activations behind them by fused operations, in place.

    - ``nn.InstanceNorm2d`` without running statistics;
    - AdaIN with its own linear layer, as in StarGAN v2: ``forward(x, style)`` with one ``InstanceNorm2d`` and one
      ``Linear`` that gives scale and shift;
    - AdaIN that is handed its ``weight`` and ``bias`` before each call, as in MUNIT;
    - an ``nn.LeakyReLU`` or ``nn.ReLU`` that does nothing but follow these becomes ``nn.Identity``.

    Parameters, buffers, names and the state dict stay as they are; the modules stay instances of their classes. An
    AdaIN module is replaced only after it gave what the fused operation gives on random input. Outputs differ by
    rounding.

    Args:
        model: Any network; float32, float64, bfloat16 or float16, on any device, in any memory format.

    Returns:
        What was replaced, and which normalisations were left alone and why.

    Raises:
        TypeError: if ``model`` is no ``nn.Module``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate: model must be an nn.Module, got {type(model).__name__}")
    plans: dict[str, Callable[[float], str]] = {}
    left_alone: list[LeftAlone] = []
    for name, module in _outermost(model):
        kind = type(module).__name__
        plan = _plan_for(module)
        if isinstance(plan, str):
            left_alone.append(LeftAlone(name, kind, plan))
        elif plan is not None:
            plans[name] = plan
    modules = dict(model.named_modules())
    activations = _following_activations(model, plans)
    replaced = []
    for name, plan in plans.items():
        activation = activations.get(name)
        was = type(modules[name]).__name__ + (f" + {type(activation).__name__}" if activation else "")
        replaced.append(Replaced(name, was, plan(_slope(activation))))
    for name in activations:
        _remove(modules[_owner(name, modules)], [activations[name]])
    return Acceleration(tuple(replaced), tuple(left_alone))


# --- what a module is -------------------------------------------------------------------------------------------------


def _outermost(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules, without those inside a module that is replaced as a whole."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(inside):
            continue
        if _styled_parts(module) is not None:
            inside = (*inside, f"{name}." if name else "")
        yield name, module


def _plan_for(module: nn.Module) -> Callable[[float], str] | str | None:
    """How to replace the module, why it cannot be replaced, or None if it is no normalisation of ours."""
    if hasattr(module, "fused_by"):
        return None
    if type(module) is nn.InstanceNorm2d:
        if module.track_running_stats:
            return "it keeps running statistics"
        if _has_hooks(module):
            return "it has hooks"
        return partial(_become, module, FusedInstanceNorm2d)
    if _styled_parts(module) is not None:
        return _plan_styled(module)
    if _takes_affine(module):
        return _plan_handed(module)
    return None


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _styled_parts(module: nn.Module) -> tuple[str, str] | None:
    """Names of the norm and of the linear layer of an AdaIN with its own linear layer; None for other modules."""
    children = dict(module.named_children())
    norms = [name for name, child in children.items() if type(child) is nn.InstanceNorm2d and not child.affine]
    layers = [name for name, child in children.items() if type(child) is nn.Linear]
    if len(children) != 2 or len(norms) != 1 or len(layers) != 1 or module._parameters:
        return None
    norm: Any = children[norms[0]]
    layer: Any = children[layers[0]]
    return (norms[0], layers[0]) if layer.out_features == 2 * norm.num_features else None


def _takes_affine(module: nn.Module) -> bool:
    """Whether weight and bias are plain attributes that somebody sets before each call."""
    own = {**dict(module.named_parameters()), **dict(module.named_children())}
    return not own and all(hasattr(module, name) for name in ("num_features", "eps", "weight", "bias"))


# --- AdaIN: tried before it is replaced -------------------------------------------------------------------------------


def _plan_styled(module: Any) -> Callable[[float], str] | str:
    names = _styled_parts(module)
    assert names is not None
    norm, layer = (module.get_submodule(name) for name in names)
    if norm.track_running_stats or any(map(_has_hooks, (module, norm, layer))):
        return "it keeps running statistics or has hooks"
    like = layer.weight
    x, style = _noise(like, 2, norm.num_features, 5, 3), _noise(like, 2, layer.in_features)
    for one_plus in (True, False):
        for gamma_first in (True, False):
            expected = _styled(norm, layer, x, style, one_plus, gamma_first, OFF)
            if _gives(lambda: module(x, style), expected):
                options: dict[str, Any] = {"names": names, "one_plus": one_plus, "gamma_first": gamma_first}
                return partial(_become, module, StyledInstanceNorm, **options)
    return "forward(x, style) is not scale * norm(x) + shift with the linear layer's outputs"


def _plan_handed(module: Any) -> Callable[[float], str] | str | None:
    if _has_hooks(module):
        return "it has hooks"
    before = module.weight, module.bias
    like = next(module.buffers(), torch.empty(0))
    try:
        module.weight, module.bias = (_noise(like, 2 * module.num_features) for _ in range(2))
        x = _noise(like, 2, module.num_features, 5, 3)
        expected = _handed(module, x, OFF)
        same = _gives(lambda: module(x), expected)
    except (RuntimeError, TypeError, ValueError):
        return None  # a module of another kind
    finally:
        module.weight, module.bias = before
    return partial(_become, module, HandedInstanceNorm) if same else None


def _noise(like: Tensor, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)  # not the global one: accelerating must not change a run
    dtype = like.dtype if like.is_floating_point() else torch.float32
    return torch.randn(shape, generator=generator).to(like.device, dtype)


def _gives(call: Callable[[], Any], expected: Tensor) -> bool:
    try:
        with torch.no_grad():
            result = call()
    except Exception:  # whatever a foreign module has to say: it is not what we are looking for
        return False
    loose = expected.dtype in (torch.bfloat16, torch.float16)
    tolerance = 0.1 if loose else 1e-3
    return isinstance(result, Tensor) and torch.allclose(result, expected, rtol=tolerance, atol=tolerance)


# --- the modules' new classes -----------------------------------------------------------------------------------------


def _become(module: nn.Module, fused: type[nn.Module], slope: float, **options: Any) -> str:
    """Changes the class of a module, and so its forward; all else stays. Returns the operation it uses now."""
    for name, value in {"slope": slope, **options}.items():
        setattr(module, name, value)
    old = type(module)
    # Programs ask for class names (MUNIT does): the old one stays.
    module.__class__ = fused if issubclass(fused, old) else type(old.__name__, (fused, old), {"__module__": __name__})
    return str(module.fused_by)


class FusedInstanceNorm2d(nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` and the activation behind it. Unlike torch's it takes images of one pixel."""

    fused_by = "instance_norm_act"
    slope: float

    def forward(self, input: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` or ``[C, H, W]`` to the same shape."""
        x = input if input.dim() == 4 else input[None]
        y = instance_norm_act(x, self.weight, self.bias, eps=self.eps, slope=self.slope)
        return y if input.dim() == 4 else y[0]


def _styled(norm: Any, layer: Any, x: Tensor, style: Tensor, one_plus: bool, gamma_first: bool, slope: float) -> Tensor:
    gamma, beta = layer(style).chunk(2, dim=1)
    if not gamma_first:
        gamma, beta = beta, gamma
    return adain_act(x, gamma, beta, eps=norm.eps, slope=slope, one_plus=one_plus)


class StyledInstanceNorm(nn.Module):
    """AdaIN with its own linear layer, and the activation behind it."""

    fused_by = "adain_act"
    slope: float
    names: tuple[str, str]  #: of norm and linear layer
    one_plus: bool
    gamma_first: bool

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` and style ``[N, S]`` to the shape of x."""
        norm, layer = (self.get_submodule(name) for name in self.names)
        return _styled(norm, layer, x, style, self.one_plus, self.gamma_first, self.slope)


def _handed(module: Any, x: Tensor, slope: float) -> Tensor:
    gamma, beta = (affine.view(x.shape[:2]) for affine in (module.weight, module.bias))
    return adain_act(x, gamma, beta, eps=module.eps, slope=slope, one_plus=False)


class HandedInstanceNorm(nn.Module):
    """AdaIN whose ``weight`` and ``bias`` of N * C numbers are set before each call, and the activation behind it."""

    fused_by = "adain_act"
    slope: float

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape."""
        return _handed(self, x, self.slope)


# --- activations ------------------------------------------------------------------------------------------------------


def _slope(activation: nn.Module | None) -> float:
    if activation is None:
        return OFF
    return activation.negative_slope if isinstance(activation, nn.LeakyReLU) else 0.0


def _following_activations(model: nn.Module, norms: dict[str, Any]) -> dict[str, nn.Module]:
    """Norm -> the activation that takes nothing but its output (and that of other such norms)."""
    names = dict(model.named_modules(remove_duplicate=False))
    uses = Counter(map(id, names.values()))
    found: dict[str, nn.Module] = {}
    for owner in sorted({_owner(name, names) for name in norms}):
        prefix = f"{owner}." if owner else ""
        # A norm that is called from two places may have different followers.
        own = {name.removeprefix(prefix) for name in norms if name.startswith(prefix) and uses[id(names[name])] == 1}
        found |= {prefix + norm: activation for norm, activation in _pairs_in(names[owner], own).items()}
    return found


def _owner(name: str, modules: dict[str, nn.Module]) -> str:
    """The module whose forward calls the one of this name."""
    while name:
        name = name.rpartition(".")[0]
        if not isinstance(modules[name], nn.ModuleList | nn.ModuleDict):
            break
    return name


class _Shallow(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _pairs_in(owner: nn.Module, norms: set[str]) -> dict[str, nn.Module]:
    """Norm -> activation behind it, as the owner's forward calls them; {} if that is unclear. Paths as in the owner."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(owner.forward).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    try:
        graph = _Shallow().trace(_shallow_copy(owner), concrete_args=defaults)
    except Exception:  # control flow on data, or anything else that fx does not follow
        return {}
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    names = dict(owner.named_modules())
    pairs: dict[str, str] = {}
    blocked: set[str] = set()
    for node in graph.nodes:
        if node.op != "call_module" or type(names[node.target]) not in (nn.LeakyReLU, nn.ReLU):
            continue
        source = node.args[0] if node.args else None
        if (
            isinstance(source, fx.Node)
            and (source.op == "call_module" and source.target in norms)
            and (len(source.users) == calls[source.target] == 1)
            and _owner(str(node.target), names) == ""
        ):
            pairs[str(source.target)] = str(node.target)
        else:
            blocked.add(str(node.target))
    found = {norm: names[activation] for norm, activation in pairs.items() if activation not in blocked}
    return {norm: activation for norm, activation in found.items() if not _has_hooks(activation)}


def _shallow_copy(owner: nn.Module) -> nn.Module:
    """The same modules with the same tensors: forward may set attributes, which would then hold traces of tensors."""
    holders = [values for module in owner.modules() for values in (vars(module), module._parameters, module._buffers)]
    return copy.deepcopy(
        owner, {id(value): value for values in holders for value in values.values() if isinstance(value, Tensor)}
    )


def _remove(owner: nn.Module, activations: list[nn.Module]) -> None:
    """Other owners of a shared activation keep it."""
    for name, child in list(owner.named_children()):
        if any(child is activation for activation in activations):
            setattr(owner, name, nn.Identity())
        elif isinstance(child, nn.ModuleList | nn.ModuleDict):
            _remove(child, activations)

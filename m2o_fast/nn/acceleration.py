"""Makes the normalisations of somebody else's network fast, in place, with equal outputs."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from m2o_fast.nn.deferral import ACTIVATIONS, OFF, Owner, has_hooks, normalised, optional_arguments
from m2o_fast.ops import adain_act, instance_norm_act


class Replaced(NamedTuple):
    """One module that is fast now."""

    name: str  #: as in ``model.named_modules()``
    was: str  #: class names, such as ``InstanceNorm2d + ReLU``
    now: str  #: the fused operation


class LeftAlone(NamedTuple):
    """One normalisation that stayed as it was, or an activation that works by itself."""

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
    - an ``nn.LeakyReLU`` or ``nn.ReLU`` completes the norm before it, inside calls of the module that owns both, where
      nothing but the activation takes the norm's output. In any other call (one by one, by a slice, by somebody else,
      under hooks, in another mode, with other arguments or settings) each gives what it always gave.

    Parameters, buffers, names and the state dict stay as they are; the modules stay instances of their classes. An
    AdaIN module is replaced only after it gave what the fused operation gives on random input. Outputs differ by
    rounding.

    Args:
        model: Any network; float32, float64, bfloat16 or float16, on any device, in any memory format.

    Returns:
        What was replaced, and which normalisations, or activations behind them, were left alone and why.

    Raises:
        TypeError: if ``model`` is no ``nn.Module``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate: model must be an nn.Module, got {type(model).__name__}")
    plans: dict[str, Callable[[], str]] = {}
    left_alone: list[LeftAlone] = []
    for name, module in _outermost(model):
        kind = type(module).__name__
        plan = _plan_for(module)
        if isinstance(plan, str):
            left_alone.append(LeftAlone(name, kind, plan))
        elif plan is not None:
            plans[name] = plan
    modules = dict(model.named_modules())
    activations, unfused = _join_activations(model, plans)
    replaced = []
    for name, plan in plans.items():
        activation = activations.get(name)
        was = type(modules[name]).__name__ + (f" + {activation}" if activation else "")
        replaced.append(Replaced(name, was, plan()))
    return Acceleration(tuple(replaced), (*left_alone, *unfused))


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


def _plan_for(module: nn.Module) -> Callable[[], str] | str | None:
    """How to replace the module, why it cannot be replaced, or None if it is no normalisation of ours."""
    if hasattr(module, "fused_by"):
        return None
    if type(module) is nn.InstanceNorm2d:
        if module.track_running_stats:
            return "it keeps running statistics"
        if has_hooks(module):
            return "it has hooks"
        return partial(_become, module, FusedInstanceNorm2d)
    if _styled_parts(module) is not None:
        return _plan_styled(module)
    if _takes_affine(module):
        return _plan_handed(module)
    return None


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


def _plan_styled(module: Any) -> Callable[[], str] | str:
    names = _styled_parts(module)
    assert names is not None
    norm, layer = (module.get_submodule(name) for name in names)
    if norm.track_running_stats or any(map(has_hooks, (module, norm, layer))):
        return "it keeps running statistics or has hooks"
    like = layer.weight
    x, style = _noise(like, 2, norm.num_features, 5, 3), _noise(like, 2, layer.in_features)
    for one_plus in (True, False):
        for gamma_first in (True, False):
            scale_and_shift = _scale_and_shift(layer, style, gamma_first)
            expected = adain_act(x, *scale_and_shift, eps=norm.eps, slope=OFF, one_plus=one_plus)
            if _gives(lambda: module(x, style), expected):
                options: dict[str, Any] = {"names": names, "one_plus": one_plus, "gamma_first": gamma_first}
                return partial(_become, module, StyledInstanceNorm, **options)
    return "forward(x, style) is not scale * norm(x) + shift with the linear layer's outputs"


def _plan_handed(module: Any) -> Callable[[], str] | str | None:
    if has_hooks(module):
        return "it has hooks"
    before = module.weight, module.bias
    like = next(module.buffers(), torch.empty(0))
    try:
        module.weight, module.bias = (_noise(like, 2 * module.num_features) for _ in range(2))
        x = _noise(like, 2, module.num_features, 5, 3)
        gamma, beta = (affine.view(x.shape[:2]) for affine in (module.weight, module.bias))
        expected = adain_act(x, gamma, beta, eps=module.eps, slope=OFF, one_plus=False)
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


def _become(module: nn.Module, fused: type[nn.Module], **options: Any) -> str:
    """Changes the class of a module, and so its forward; all else stays. Returns the operation it uses now."""
    for name, value in options.items():
        setattr(module, name, value)
    old = type(module)
    # Programs ask for class names (MUNIT does): the old one stays.
    module.__class__ = fused if issubclass(fused, old) else type(old.__name__, (fused, old), {"__module__": __name__})
    return str(module.fused_by)


class FusedInstanceNorm2d(nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` in one pass. Unlike torch's it takes images of one pixel."""

    fused_by = "instance_norm_act"

    def forward(self, input: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` or ``[C, H, W]`` to the same shape."""
        if input.dim() == 3:
            return instance_norm_act(input[None], self.weight, self.bias, eps=self.eps, slope=OFF)[0]
        compute = partial(instance_norm_act, input, self.weight, self.bias, eps=self.eps)
        return normalised(self, compute, input, self.weight, self.bias)


def _scale_and_shift(layer: Any, style: Tensor, gamma_first: bool) -> tuple[Tensor, Tensor]:
    first, second = layer(style).chunk(2, dim=1)
    return (first, second) if gamma_first else (second, first)


class StyledInstanceNorm(nn.Module):
    """AdaIN with its own linear layer."""

    fused_by = "adain_act"
    names: tuple[str, str]  #: of norm and linear layer
    one_plus: bool
    gamma_first: bool

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` and style ``[N, S]`` to the shape of x."""
        norm, layer = (getattr(self, name) for name in self.names)
        gamma, beta = _scale_and_shift(layer, style, self.gamma_first)
        compute = partial(adain_act, x, gamma, beta, eps=norm.eps, one_plus=self.one_plus)
        return normalised(self, compute, x, gamma, beta)


class HandedInstanceNorm(nn.Module):
    """AdaIN whose ``weight`` and ``bias`` of N * C numbers are set before each call."""

    fused_by = "adain_act"

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape."""
        module: Any = self
        gamma, beta = (affine.view(x.shape[:2]) for affine in (module.weight, module.bias))
        return normalised(self, partial(adain_act, x, gamma, beta, eps=module.eps, one_plus=False), x, gamma, beta)


# --- activations ------------------------------------------------------------------------------------------------------


def _join_activations(model: nn.Module, norms: dict[str, Any]) -> tuple[dict[str, str], list[LeftAlone]]:
    """Lets norms wait for the activations behind them. Norm -> class of its activation, and those that stay apart."""
    names = dict(model.named_modules(remove_duplicate=False))
    uses = Counter(map(id, names.values()))
    joined: dict[str, str] = {}
    apart: list[LeftAlone] = []
    for owner in sorted({_owner(name, names) for name in norms}):
        prefix = f"{owner}." if owner else ""
        # A norm that is called from two places may have different followers.
        own = {name.removeprefix(prefix) for name in norms if name.startswith(prefix) and uses[id(names[name])] == 1}
        pairs, reasons = _pairs_of(names[owner], own)
        kinds = {name: _kind_of(names[prefix + name]) for name in {*pairs[True].values(), *pairs[False].values()}}
        joined |= {prefix + norm: kinds[name] for norm, name in (pairs[False] | pairs[True]).items()}
        apart += [LeftAlone(prefix + name, _kind_of(names[prefix + name]), why) for name, why in reasons.items()]
        for name in kinds:
            activation = names[prefix + name]
            activation.__class__ = ACTIVATIONS.get(type(activation), type(activation))
        if kinds:
            Owner(names[owner], pairs)
    return joined, apart


def _kind_of(activation: nn.Module) -> str:
    return next(kind.__name__ for kind in ACTIVATIONS if isinstance(activation, kind))


def _owner(name: str, modules: dict[str, nn.Module]) -> str:
    """The module whose forward calls the one of this name."""
    while name:
        name = name.rpartition(".")[0]
        if not isinstance(modules[name], nn.ModuleList | nn.ModuleDict):
            break
    return name


KINDS = (*ACTIVATIONS, *ACTIVATIONS.values())


class _Shallow(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _pairs_of(owner: nn.Module, norms: set[str]) -> tuple[dict[bool, dict[str, str]], dict[str, str]]:
    """In training and not: norm -> activation behind it, as the owner's forward calls them. Activation -> why it is not
    among these. Paths as in the owner."""
    pairs: dict[bool, dict[str, str]] = {}
    reasons: dict[str, str] = {}
    for training in (True, False):
        try:
            traced = _shallow_copy(owner).train(training)
            graph = _Shallow().trace(traced, concrete_args=optional_arguments(owner))
        except Exception:  # control flow on data, or anything else that fx does not follow
            pairs[training] = {}
            why = f"what forward of {type(owner).__name__} does cannot be followed"
            reasons |= {name: why for name, child in owner.named_children() if norms and type(child) in KINDS}
            continue
        kept = {
            value.node
            for value in tree_leaves([vars(module) for module in traced.modules()])
            if isinstance(value, fx.Proxy)
        }
        pairs[training], why_not = _pairs_in(graph, dict(owner.named_modules(remove_duplicate=False)), norms, kept)
        reasons |= why_not
    fused = {*pairs[True].values(), *pairs[False].values()}
    return pairs, {name: why for name, why in reasons.items() if name not in fused}


def _pairs_in(
    graph: fx.Graph, names: dict[str, nn.Module], norms: set[str], kept: set[fx.Node]
) -> tuple[dict[str, str], dict[str, str]]:
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    pairs: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for node in graph.nodes:
        if node.op != "call_module" or type(names[node.target]) not in KINDS or not node.args:
            continue
        norm, activation = node.args[0], str(node.target)
        if not isinstance(norm, fx.Node) or norm.op != "call_module" or norm.target not in norms:
            continue
        if len(norm.users) > 1 or calls[norm.target] > 1 or norm in kept:
            reasons[activation] = f"the output of {norm.target} is used elsewhere too"
        elif norm.next is not node:
            reasons[activation] = f"something happens between {norm.target} and it"
        elif has_hooks(names[activation]):
            reasons[activation] = "it has hooks"
        elif _owner(activation, names) != "":
            reasons[activation] = "it belongs to another module"
        else:
            pairs[str(norm.target)] = activation
    return pairs, reasons


def _shallow_copy(owner: nn.Module) -> nn.Module:
    """The same modules with the same tensors: forward may set attributes, which would then hold traces of tensors."""
    holders = [values for module in owner.modules() for values in (vars(module), module._parameters, module._buffers)]
    return copy.deepcopy(
        owner, {id(value): value for values in holders for value in values.values() if isinstance(value, Tensor)}
    )

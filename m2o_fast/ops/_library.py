"""What all fused operators share: the operator library, its native code, the choice of a backend, derivatives.

A backend is one of

- ``reference``: plain torch, the definition of the operator. Works everywhere and always.
- ``compiled``: the C++ (CPU) or CUDA C++ kernel from ``csrc/``.
- ``triton``: the Triton kernel; on CPU tensors only under ``TRITON_INTERPRET=1``.

``None`` takes the best one that is there. A wish that cannot be met raises; it never falls back in silence. Wishes, the
strongest first: the ``backend`` argument, :class:`use_backend`, the environment variable ``M2O_BACKEND``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

from m2o_fast.ops._choices import PREFERENCES

Backend = Literal["reference", "compiled", "triton"]
BACKENDS: tuple[str, ...] = get_args(Backend)
REBUILD = "pip install --no-build-isolation . (in the source folder, with torch, cmake, ninja and pybind11 installed)"
#: What m2o_fast._C says (csrc/module.cpp) where no build of it would run.
TOO_OLD = "this CPU has no AVX2"

if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11):
    raise ImportError(
        f"m2o_fast needs torch 2.11 or later, this is torch {torch.__version__}: pip install 'torch>=2.11'"
    )

#: The operators of the namespace ``m2o_fast``. Their schemas live in Python; C++ and Triton only implement them, so
#: every operator exists, with its reference as implementation, where nothing was compiled.
LIBRARY = torch.library.Library("m2o_fast", "FRAGMENT")


def _one_thread() -> None:
    """In a forked child the threads that the parent worked with are not there, and to wait for them lasts for ever."""
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


os.register_at_fork(after_in_child=_one_thread)


# --- native code ------------------------------------------------------------------------------------------------------


def _load_cpu() -> str | None:
    """Registers the CPU kernels. Returns why that failed, or None."""
    try:
        importlib.import_module("m2o_fast._C")
    except ModuleNotFoundError as error:
        if error.name == "m2o_fast._C":
            return "m2o_fast._C was not built"
        return f"m2o_fast._C cannot be loaded: {error}"
    except ImportError as error:
        reason = str(error)
        return reason if reason.startswith(TOO_OLD) else f"m2o_fast._C cannot be loaded: {reason}"
    return None


def _load_cuda() -> str | None:
    """Registers the CUDA kernels. Returns why that failed, or None."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} has no CUDA"
    path = Path(__file__).resolve().parent.parent / "_cuda.so"
    if not path.is_file():
        return "m2o_fast/_cuda.so was not built"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"m2o_fast/_cuda.so cannot be loaded: {error}"
    return None


def remedy(reasons: Sequence[str]) -> str:
    """What helps where native code is missing for these reasons."""
    if all(reason.startswith(TOO_OLD) for reason in reasons):
        return "There is nothing to build"
    return f"To build it: {REBUILD}"


def _load_native() -> dict[str, str | None]:
    """Device type -> why its kernels are missing, or None. Warns once; raises under ``M2O_REQUIRE_EXT=1``."""
    missing = {"cpu": _load_cpu(), "cuda": _load_cuda()}
    needed = [reason for device, reason in missing.items() if reason and (device == "cpu" or torch.cuda.is_available())]
    if needed:
        trouble = f"{'; '.join(needed)}. {remedy(needed)}"
        if os.environ.get("M2O_REQUIRE_EXT") == "1":
            raise ImportError(f"M2O_REQUIRE_EXT=1, but {trouble}")
        if not os.environ.get("M2O_BACKEND"):
            warnings.warn(f"m2o_fast runs without native code, so slower: {trouble}", RuntimeWarning, stacklevel=2)
    return missing


def build_info() -> dict[str, Any] | None:
    """Facts about the native build (compiler, flags, instruction sets, torch, CUDA), or None if there is none."""
    if NATIVE_MISSING["cpu"] is not None:
        return None
    return cast(dict[str, Any], importlib.import_module("m2o_fast._C").build_info())


NATIVE_MISSING = _load_native()


def _triton_missing(device: str) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "Triton kernels run on CPU tensors only under TRITON_INTERPRET=1"
    return None


# --- choice of a backend ----------------------------------------------------------------------------------------------

_DEVICES = ("cpu", "cuda")
#: (operator, device type) -> backend that ``None`` takes; reference where nothing stands
_best: dict[tuple[str, str], str] = {}
#: (operator, device type, backend) -> why it cannot be used; missing if it can
_unavailable: dict[tuple[str, str, str], str] = {}
#: operator -> device type -> its backends, the fastest first
_preferences: dict[str, dict[str, tuple[str, ...]]] = {}


def declare_backends(op: str) -> None:
    """Finds out which backends of ``op``, a public function, can run here, and which one is the best."""
    _preferences[op] = PREFERENCES[op]
    for device in _DEVICES:
        order = _preferences[op][device]
        for backend in BACKENDS:
            reason = _why_unavailable(op, device, backend, order)
            if reason is not None:
                _unavailable[op, device, backend] = reason
        _best[op, device] = next(backend for backend in order if (op, device, backend) not in _unavailable)


def _why_unavailable(op: str, device: str, backend: str, order: Sequence[str]) -> str | None:
    if backend == "reference":
        return None
    if backend not in order:
        return f"{op} has no {backend} kernel for {device} tensors"
    return NATIVE_MISSING[device] if backend == "compiled" else _triton_missing(device)


class _Forced(threading.local):
    # An attribute of the instance, not of the class: torch.compile guards only the former.
    def __init__(self) -> None:
        self.backend: str | None = os.environ.get("M2O_BACKEND") or None


_forced = _Forced()
if _forced.backend is not None and _forced.backend not in BACKENDS:
    raise ValueError(f"environment variable M2O_BACKEND must be one of {', '.join(BACKENDS)}, got {_forced.backend!r}")


class use_backend:  # noqa: N801  (reads as a function at the place of use)
    """Context manager: inside it, in this thread, every operator uses ``backend``.

    Args:
        backend: ``"reference"``, ``"compiled"`` or ``"triton"``; ``None`` returns to the free choice.

    Raises:
        ValueError: if there is no such backend. Whether an operator has it shows when the operator is called.
    """

    def __init__(self, backend: Backend | None) -> None:
        if backend is not None and backend not in BACKENDS:
            raise ValueError(f"use_backend: backend must be one of {', '.join(BACKENDS)} or None, got {backend!r}")
        self._backend = backend
        self._before: list[str | None] = []

    def __enter__(self) -> None:
        self._before.append(_forced.backend)
        _forced.backend = self._backend

    def __exit__(self, *exception: object) -> None:
        _forced.backend = self._before.pop()


def forced_backend() -> str | None:
    """The backend that :class:`use_backend` or ``M2O_BACKEND`` demands of all operators; None if none."""
    return _forced.backend


def choose_backend(op: str, device: torch.device, backend: str | None) -> str:
    """The backend to run ``op`` with.

    Args:
        op: Name of the public function.
        device: Where its tensors are.
        backend: The caller's wish, or ``None``.

    Raises:
        ValueError: if there is no backend of this name.
        RuntimeError: if the wish cannot be met; the message says why.
    """
    wanted = _forced.backend if backend is None else backend
    if wanted is None:
        return "reference" if needs_torch() else _best.get((op, device.type), "reference")
    if wanted not in BACKENDS:
        raise ValueError(f"{op}: backend must be one of {', '.join(BACKENDS)} or None, got {wanted!r}")
    reason = None if wanted == "reference" else _why_not(op, device, wanted)
    if reason is not None:
        raise RuntimeError(f"{op}: backend {wanted!r} is not available: {reason}")
    return wanted


def _why_not(op: str, device: torch.device, backend: str) -> str | None:
    if device.type not in _DEVICES:
        return f"there are no kernels for {device.type} tensors"
    if needs_torch():
        return "forward-mode derivatives and the transforms of torch.func need the reference"
    return _unavailable.get((op, device.type, backend))


def needs_torch() -> bool:
    """Whether derivatives are taken in a way that kernels know nothing of; forward mode would get zeros of them."""
    return forward_ad._current_level >= 0 or _inside_torch_func()


def _inside_torch_func() -> bool:
    return torch._C._are_functorch_transforms_active()


# torch.compile asks it while tracing, when the transforms are in place; it guards on them by itself. This is what
# torch.compiler.assume_constant_result does, without importing the compiler.
_inside_torch_func._dynamo_marked_constant = True  # type: ignore[attr-defined]


def backends() -> dict[str, dict[str, dict[str, Any]]]:
    """Which backend every operator uses here, and why.

    Returns:
        operator -> device type (``cuda`` only where there is a GPU) -> ``chosen`` (a backend), ``available`` (backend
        -> bool) and ``why`` (one line of text).
    """
    devices = _DEVICES if torch.cuda.is_available() else ("cpu",)
    return {op: {device: _describe(op, device) for device in devices} for op in sorted(_preferences)}


def _describe(op: str, device: str) -> dict[str, Any]:
    order = _preferences[op][device]
    chosen = _forced.backend or _best[op, device]
    if chosen not in order:
        order = (*order, chosen)
    reasons = {backend: _unavailable.get((op, device, backend)) for backend in order}
    if _forced.backend is not None:
        why = "demanded by M2O_BACKEND or use_backend"
        if _unavailable.get((op, device, chosen)):
            why += f", but not available: {_unavailable[op, device, chosen]}"
    else:
        better = order[: order.index(chosen)]
        passed_over = [f"{backend}: {reasons[backend]}" for backend in better]
        why = "; ".join(["the fastest that is there", *passed_over])
    return {"chosen": chosen, "available": {backend: reasons[backend] is None for backend in order}, "why": why}


# --- operators --------------------------------------------------------------------------------------------------------


def define(schema: str) -> None:
    """Defines an operator of the namespace ``m2o_fast`` from its schema."""
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))


def register(
    op: str,
    *,
    fake: Callable[..., Any],
    reference: Callable[..., Any] | None = None,
    triton: Callable[..., Any] | None = None,
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
) -> Callable[..., Any]:
    """Implements a defined operator in Python.

    Args:
        op: Its name without namespace.
        fake: The same outputs without data: shapes, dtypes, strides.
        reference: Plain torch, for every device where no kernel was loaded.
        triton: The launcher of a Triton kernel, for CPU and CUDA tensors.
        backward: ``backward(ctx, *output_gradients)``. Without it, differentiating through the operator raises: an
            operator without a formula would give zero gradients without a word.
        setup_context: Saves for ``backward`` what it needs.

    Returns:
        The operator, see :func:`_without_detours`.
    """
    name = f"m2o_fast::{op}"
    if reference is not None:
        LIBRARY.impl(op, reference, "CompositeExplicitAutograd")
    if triton is not None:
        LIBRARY.impl(op, triton, "CPU")
        LIBRARY.impl(op, triton, "CUDA")
    torch.library.register_fake(name, fake, lib=LIBRARY)

    def refuse(ctx: Any, *gradients: Tensor | None) -> None:
        raise RuntimeError(f"{name} has no derivative of its own: differentiate the function in m2o_fast.ops instead")

    torch.library.register_autograd(name, backward or refuse, setup_context=setup_context, lib=LIBRARY)
    return _without_detours(getattr(torch.ops.m2o_fast, op).default, backward or refuse, setup_context)


def _without_detours(
    operator: Callable[..., Any], derivative: Callable[..., Any], setup_context: Callable[..., None] | None
) -> Callable[..., Any]:
    """The same operator with the same derivative for eager calls, in a third of the time that a call takes.

    The derivative registered with torch.library is reached through the dispatcher, which calls Python, which calls the
    dispatcher again: more work than the kernel has with small images. Here Python calls the dispatcher once, below
    autograd; dispatch modes and tensor subclasses are served there as well.
    """

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                output = operator(*arguments)
            if setup_context is not None:
                setup_context(ctx, arguments, output)
            return output

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return derivative(ctx, *gradients)

    def call(*arguments: Any) -> Any:
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return operator(*arguments)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
            return Direct.apply(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*arguments)

    return call


def recompute_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], needed: Sequence[bool], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of ``function(*inputs)``; in grad mode they can be differentiated again.

    A fused backward operator is opaque to autograd: second derivatives through it would be zero without a word. So when
    somebody differentiates the gradient (autograd then runs backward in grad mode), backward takes this way instead.

    Args:
        function: The reference: differentiable torch.
        inputs: Its tensor arguments, as saved by the forward pass.
        needed: Which of them need a gradient.
        gradient: Gradient of the output.

    Returns:
        One gradient per input, ``None`` where none is needed.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases tell apart arguments that are one and the same tensor, whose gradients would come out added up.
        aliases = [tensor.view_as(tensor) for tensor in inputs]
        output = function(*aliases)
        wanted = [alias for alias, need in zip(aliases, needed, strict=True) if need]
        gradients = iter(torch.autograd.grad(output, wanted, gradient, create_graph=create_graph))
    return tuple(next(gradients) if need else None for need in needed)

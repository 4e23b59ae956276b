"""Examining an installation: what is there, which kernel serves which operator, and what is wrong."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from m2o_fast.data.mnist import cache_directory
from m2o_fast.engine.device import cpu_model
from m2o_fast.version import __version__

if TYPE_CHECKING:  # importing it loads the native library, whose trouble must become a finding
    from m2o_fast.ops import Backend

_NEEDED_BYTES = 1 << 30


def examine(runs: Path = Path("runs")) -> dict[str, Any]:
    """Everything that :mod:`m2o_fast` depends on, as JSON values.

    Args:
        runs: Where runs will be written; need not exist.

    Returns:
        ``versions``, ``devices``, ``native`` (the compiled library), ``operators`` (backends and the reasons),
        ``self_test``, ``storage``; ``problems``: what must be mended; ``warnings``: what only costs speed or concerns
        other packages.
    """
    problems: list[str] = []
    remarks: list[str] = []
    findings = {
        "versions": _versions(),
        "devices": _devices(problems),
        "native": _native(problems, remarks),
        "operators": _operators(problems),
        "self_test": _self_tests(problems),
        "storage": _storage(runs, problems),
    }
    _torchvision(remarks)
    return {**findings, "problems": problems, "warnings": remarks}


# --- versions and devices ---


def _versions() -> dict[str, str | None]:
    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    others = ("numpy", "triton", "pillow", "safetensors", "pydantic", "typer", "scikit-learn")
    return {
        "m2o_fast": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        **{name: version(name) for name in others},
    }


def _devices(problems: list[str]) -> list[dict[str, Any]]:
    cpu = {"name": "cpu", "model": cpu_model(), "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    if torch.version.cuda and not torch.cuda.is_available() and Path("/proc/driver/nvidia/version").exists():
        problems.append(
            f"there is an NVIDIA driver, but torch (CUDA {torch.version.cuda}) finds no GPU; is the driver new enough, "
            "and is CUDA_VISIBLE_DEVICES right?"
        )
    return [cpu, *(_cuda_device(index) for index in range(torch.cuda.device_count()))]


def _cuda_device(index: int) -> dict[str, Any]:
    facts = torch.cuda.get_device_properties(index)
    return {
        "name": f"cuda:{index}",
        "model": facts.name,
        "capability": f"{facts.major}.{facts.minor}",
        "memory_gib": round(facts.total_memory / 2**30, 1),
    }


# --- kernels ---


def _native(problems: list[str], remarks: list[str]) -> dict[str, Any]:
    """Facts about the compiled library, or why there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that native code is missing is told below
        from m2o_fast.ops import _library, build_info
    info = build_info()
    reasons = {device: reason for device, reason in _library.NATIVE_MISSING.items() if reason}
    if info is None:
        broken = importlib.util.find_spec("m2o_fast._C") is not None and not reasons["cpu"].startswith(_library.TOO_OLD)
        text = f"{reasons['cpu']}; operators run as plain torch, slower. {_library.remedy([reasons['cpu']])}"
        (problems if broken else remarks).append(text)
    if torch.cuda.is_available() and "cuda" in reasons:
        remarks.append(f"the GPU has no compiled kernels: {reasons['cuda']}. To build them: {_library.REBUILD}")
    return {"built": info is not None, "build_info": info, "missing": reasons}


def _operators(problems: list[str]) -> dict[str, Any]:
    from m2o_fast.ops import backends

    found = backends()
    for op, devices in found.items():
        for device, facts in devices.items():
            if not facts["available"].get(facts["chosen"], False):
                problems.append(f"{op} on {device}: {facts['why']}")
    return found


def _self_tests(problems: list[str]) -> list[dict[str, Any]]:
    """Every kernel that is there against the reference, on small inputs."""
    from m2o_fast.ops import backends

    results = []
    for op, devices in backends().items():
        for device, facts in devices.items():
            kernels = [name for name, there in facts["available"].items() if there and name != "reference"]
            for backend in kernels if op in _SELF_TESTS else []:
                try:
                    fault = _SELF_TESTS[op](device, backend)
                except Exception as error:  # whatever a broken kernel raises is a finding
                    fault = f"{type(error).__name__}: {error}"
                results.append({"operator": op, "device": device, "backend": backend, "fault": fault})
                if fault:
                    problems.append(f"self-test of {op} ({backend}, {device}) failed: {fault}")
    return results


def _test_adain_act(device: str, backend: Backend) -> str | None:
    from m2o_fast.ops import adain_act

    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator) for shape in ((3, 5, 16, 16), (3, 5), (3, 5))]

    def run(dtype: torch.dtype, name: Backend) -> list[Tensor]:
        leaves = [value.to(device, dtype).requires_grad_() for value in inputs]
        result = adain_act(*leaves, backend=name)
        gradients = torch.autograd.grad(result.square().sum(), leaves)
        return [part.detach().double() for part in (result, *gradients)]

    exact, plain, kernel = run(torch.float64, "reference"), run(torch.float32, "reference"), run(torch.float32, backend)
    for what, truth, expected, got in zip(("output", "dx", "dgamma", "dbeta"), exact, plain, kernel, strict=True):
        error, allowed = _distance(got, truth), 2 * _distance(expected, truth) + 1e-6 * float(truth.abs().max())
        if not error <= allowed:
            return f"{what} is off by {error:.2e}, allowed are {allowed:.2e}"
    return None


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _test_color_histogram(device: str, backend: Backend) -> str | None:
    from m2o_fast.ops import color_histogram

    colors = torch.rand((999, 3), generator=torch.Generator().manual_seed(0)).to(device)
    expected, got = color_histogram(colors, 4, backend="reference"), color_histogram(colors, 4, backend=backend)
    wrong = int((expected != got).sum())
    return f"{wrong} of {expected.numel()} counts are wrong" if wrong else None


_SELF_TESTS: dict[str, Callable[[str, Any], str | None]] = {
    "adain_act": _test_adain_act,
    "color_histogram": _test_color_histogram,
}


# --- disk, memory, neighbours ---


def _storage(runs: Path, problems: list[str]) -> list[dict[str, Any]]:
    places = {"runs": runs, "data cache": cache_directory(), "temporary files": Path(tempfile.gettempdir())}
    found = [_place(name, path, problems) for name, path in places.items()]
    shared = Path("/dev/shm")
    if shared.is_dir():
        total, _, free = shutil.disk_usage(shared)
        found.append({"name": "shared memory", "path": str(shared), "free_gib": _gib(free), "total_gib": _gib(total)})
    return found


def _place(name: str, path: Path, problems: list[str]) -> dict[str, Any]:
    """Free space and whether a file can be written in ``path``, or where it would be made."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    try:
        with tempfile.TemporaryFile(dir=existing):
            writable = True
    except OSError as error:
        writable = False
        problems.append(f"{name}: {existing} is not writable: {error.strerror}")
    if free < _NEEDED_BYTES:
        problems.append(f"{name}: only {_gib(free)} GiB are free at {existing}; make room")
    return {"name": name, "path": str(path.absolute()), "free_gib": _gib(free), "writable": writable}


def _gib(size: int) -> float:
    return round(size / 2**30, 2)


def _torchvision(remarks: list[str]) -> None:
    """m2o_fast does not use torchvision, but torchmetrics and others import it where they find it."""
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # a wheel for another torch raises RuntimeError, OSError, ...
        reason = " ".join(str(error).split())
        remarks.append(
            f"torchvision does not fit torch {torch.__version__} ({type(error).__name__}: {reason}). m2o_fast does not "
            "need it, other packages may: pip uninstall torchvision, or install the one made for this torch"
        )

"""Nets that are trained when they are first asked for, and kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from m2o_fast.files import replacing, user_cache
from m2o_fast.metrics.weights import fill
from m2o_fast.randomness import torch_generator

#: what was found out about a trained net, by name
Facts = dict[str, float]


def kept_net(
    kind: str,
    key: str,
    recipe: int,
    facts: Collection[str],
    empty: Callable[[], nn.Module],
    train: Callable[[], tuple[nn.Module, Facts]],
) -> tuple[nn.Module, str, Facts]:
    """A trained net: from the cache folder, or trained now and put there.

    A damaged file, or one of another recipe, is replaced. Where the cache folder cannot be written, a warning says so.

    Args:
        kind: What the net is called.
        key: Name of what it is trained on, of letters, digits, ``.``, ``_`` and ``-``.
        recipe: Raised whenever the net or its training changes, so that kept weights of before are not used.
        facts: Names of what ``train`` finds out; a file without one of them is replaced.
        empty: Makes a net with any weights.
        train: Called where there are no trained weights.

    Returns:
        The net in evaluation mode, on the CPU; the SHA-256 of its weights; the facts.
    """
    if not re.fullmatch(r"[\w.-]+", key):
        raise ValueError(f"key must be of letters, digits, '.', '_' and '-', got {key!r}")
    path = user_cache() / "extractors" / f"{kind}-{key}.safetensors"
    if (kept := _read(path, kind, recipe, facts, empty())) is not None:
        return kept
    net, found = train()
    net.eval().requires_grad_(False)
    digest = weights_sha256(net.state_dict())
    try:
        with replacing(path) as file:
            file.write(save(net.state_dict(), {kind: json.dumps({"recipe": recipe, "sha256": digest, **found})}))
    except OSError as error:
        warnings.warn(
            f"{path}: {error.strerror or error}; the next evaluation trains it anew, unless XDG_CACHE_HOME names "
            "another cache folder",
            RuntimeWarning,
            stacklevel=3,
        )
    return net, digest, found


def _read(
    path: Path, kind: str, recipe: int, facts: Collection[str], net: nn.Module
) -> tuple[nn.Module, str, Facts] | None:
    try:
        with safe_open(str(path), "pt") as file:
            said = json.loads(file.metadata()[kind])
            state = {name: file.get_tensor(name) for name in file.keys()}
        digest, found = said["sha256"], {name: float(said[name]) for name in facts}
        if said["recipe"] != recipe or digest != weights_sha256(state):
            return None
        fill(net, state, str(path))
        net.eval().requires_grad_(False)
        return net, digest, found
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def initialise(net: nn.Module, seed: int, purpose: str) -> None:
    """Weights of convolutions and linear layers that depend on nothing but the seed and the purpose."""
    generator = torch_generator(seed, purpose)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()

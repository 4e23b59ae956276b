"""A published model: ``config.json`` and ``model.safetensors``, as model hubs expect them. Nothing in it can run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError
from safetensors.torch import save_file

from m2o_fast.data.fit import Fit
from m2o_fast.engine.checkpoint import plain_tensors, read_tensors, weightless, with_weights
from m2o_fast.errors import UserError
from m2o_fast.files import replacing
from m2o_fast.translators.base import Translator

CONFIG, WEIGHTS = "config.json", "model.safetensors"
LIBRARY = "m2o_fast"
FORMAT = 1
LARGEST_CONFIG = 1 << 20  # bytes
_HEADER = 1 << 24  # bytes that safetensors may have beside the numbers


def is_model(folder: Path) -> bool:
    """Whether a folder is a published model."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def write_model(translator: Translator, folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes both files into a folder that is there.

    Args:
        translator: With the weights to use.
        folder: Where to.
        facts: JSON values beside the description of the nets: ``fit``, which is read back, and what is to be known.

    Raises:
        UserError: A file cannot be written; names it.
    """
    config = {"library_name": LIBRARY, "format": FORMAT, **facts, "translator": translator.describe()}
    with _written(folder / CONFIG), replacing(folder / CONFIG) as file:
        file.write((json.dumps(config, indent=1) + "\n").encode())
    with _written(folder / WEIGHTS):
        save_file(plain_tensors(translator.state_dict()), folder / WEIGHTS, metadata={"format": "pt"})
        shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors keeps a file to its owner


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has words of its own for a full disk
        raise UserError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error


def read_config(path: Path) -> dict[str, Any]:
    """What ``config.json`` holds, checked.

    Raises:
        UserError: It is damaged, of another library or version; names the file.
    """
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_CONFIG:
            raise UserError(f"{path}: no model of {LIBRARY}: not a file of at most {LARGEST_CONFIG:,} bytes")
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(config, dict) or config.get("library_name") != LIBRARY:
        raise UserError(f"{path}: not of a model of {LIBRARY}: 'library_name' is missing or another one")
    if config.get("format") != FORMAT:
        raise UserError(f"{path}: format {config.get('format')!r:.40} is not supported, only {FORMAT}")
    if config.get("fit") not in get_args(Fit) or not isinstance(config.get("translator"), dict):
        raise UserError(f"{path} is damaged: 'fit' must be one of {', '.join(get_args(Fit))}, 'translator' an object")
    return config


def fit_of_model(folder: Path) -> Fit:
    """How images of other aspect ratios became squares when the model was trained."""
    fit: Fit = read_config(folder / CONFIG)["fit"]
    return fit


def largest_weights(like: Translator) -> int:
    """The most bytes that the file of the weights of such nets can have."""
    return sum(tensor.numel() * tensor.element_size() for tensor in like.state_dict().values()) + _HEADER


def load_model(folder: Path) -> Translator:
    """The translator of a published model, on the CPU, in evaluation mode and without gradients.

    Raises:
        UserError: A file is damaged or does not fit; names it.
    """
    config, file = read_config(folder / CONFIG), folder / WEIGHTS
    like = weightless(config, folder / CONFIG)
    if file.stat().st_size > largest_weights(like):
        raise UserError(f"{file} does not fit the nets: {file.stat().st_size:,} bytes are too many for them")
    return with_weights(config, like, read_tensors(folder, WEIGHTS), file)

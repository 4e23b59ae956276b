"""Turning published weights into a checkpoint of this package."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from m2o_fast.engine.checkpoint import save_translator
from m2o_fast.engine.runs import load_translator
from m2o_fast.errors import UserError
from m2o_fast.files import appearing, inflates, require_new
from m2o_fast.translators import published, to_official
from m2o_fast.translators.base import Translator

#: in the manifest of converted weights: the layout that they had
CONVERTED = "converted_from"


def convert_checkpoint(
    layout: str, files: Path | Mapping[str, Path], out: Path, domains: Sequence[str] | None = None, **settings: Any
) -> Translator:
    """Reads published weights and writes them as a folder that :func:`m2o_fast.load` takes.

    Args:
        layout: The system whose published layout the weights have, or another name of that layout.
        files: Net name -> file with its state dict, or one file with a dict of state dicts by net name, all written by
            ``torch.save``. Nothing in them is executed: they may hold tensors and plain containers only.
        out: The folder to write; must not exist.
        domains: Names of the domains in the order of the weights; ``None``: those that the layout gives them.
        settings: What shapes cannot tell, as ``from_official`` of the system's ``published.py`` has it.

    Raises:
        UserError: An unknown layout or setting, a file that is damaged or holds anything but weights, weights that do
            not fit together, or a folder that exists.
    """
    layout_of = published(layout)
    known = list(signature(layout_of.from_official).parameters)
    if unknown := [name for name in settings if name not in known]:
        raise UserError(f"the layout {layout!r} tells {unknown[0]} by itself; leave it out")
    if isinstance(files, Path):
        weights = read_weights(files)
        if any(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
            nets = ", ".join(layout_of.NETS)
            raise UserError(f"{files} holds the weights of one net; say which one, as NET={files} (nets: {nets})")
    else:
        weights = {net: read_weights(file) for net, file in files.items()}
    try:
        translator: Translator = layout_of.from_official(weights, domains=domains, **settings)
    except UserError as error:
        named = files if isinstance(files, Path) else ", ".join(map(str, files.values()))
        raise UserError(f"{named}: {error}") from None
    save_translator(translator, out, {CONVERTED: layout})
    return translator


def write_published(run: Path, out: Path, layout: str | None = None) -> list[Path]:
    """Writes the nets of a run or checkpoint as the files that were published.

    Args:
        run: A folder that :func:`m2o_fast.load` takes.
        out: The folder to write; must not exist.
        layout: What the run must be one of; ``None``: any system.

    Returns:
        The files.

    Raises:
        UserError: There is nothing to load, no published layout for these nets, a folder that exists, or no room.
    """
    translator = load_translator(run, device="cpu")
    system = translator.describe()["system"]
    if layout is not None and published(layout) is not published(system):
        raise UserError(f"{run} is a run of system {system!r}, not {layout!r}")
    contents = _files(published(system), to_official(translator))
    require_new(out)
    with appearing(out) as folder:
        for file, content in contents.items():
            written = io.BytesIO()  # where torch writes the file itself, a full disk may end the process
            torch.save(content, written)
            (folder / file).write_bytes(written.getbuffer())
        os.rename(folder, out)
    return [out / file for file in contents]


def _files(layout: Any, nets: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What the published files hold: several nets by the layout's keys, a net each, or all of them."""
    if "{net}" not in layout.FILE:
        return {layout.FILE: nets}
    contents: dict[str, Any] = dict(nets)
    for file, keys in vars(layout).get("FILES", {}).items():
        if held := {key: contents.pop(net) for key, net in keys.items() if net in contents}:
            contents[file] = held
    return {layout.FILE.format(net=name): content for name, content in contents.items()}


def read_weights(file: Path) -> dict[str, Any]:
    """State dicts by net name from a file of ``torch.save``, on the CPU, executing nothing.

    Whether the nets and weights are those that are wanted, :func:`from_official` sees.

    Raises:
        UserError: The file is missing, damaged, or holds anything but a dict of tensors and plain containers.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if inflates(file):
        raise UserError(f"{file}: refused: it holds compressed parts, and torch.save writes none")
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # for damaged files torch raises errors of nearly every kind
        raise UserError(f"{file}: {_refusal(error)}") from error
    if not isinstance(loaded, Mapping) or not loaded:
        raise UserError(f"{file}: expected a dict of state dicts by net name, found {_kind(loaded)}")
    for net, weights in loaded.items():
        for name in [net, *(weights if isinstance(weights, Mapping) else [])]:
            if not isinstance(name, str):
                raise UserError(f"{file}: expected names of nets and weights, found {name!r}")
    return dict(loaded)


def _refusal(error: Exception) -> str:
    """Why a file was not loaded. torch's own texts advise to allow code to run; ours must not."""
    text = str(error)
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"refused: it holds the Python object {found[1]}, which could run code; only tensors are loaded"
    if "Weights only load failed" in text:
        return "refused: it is not a file of torch.save, is damaged, or holds more than tensors"
    return "it is damaged or not a file of torch.save"


def _kind(value: Any) -> str:
    return "an empty dict" if value == {} else f"a {type(value).__name__}"

"""Door: the tensors of a checkpoint, under a manifest that vouches for them."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from no_files import KINDS, put_no_file
from safetensors.torch import load_file, save

from m2o_fast.engine.checkpoint import seal

NETS = "nets.safetensors"


def put(checkpoint: Path, name: str, data: bytes) -> None:
    (checkpoint / name).write_bytes(data)
    facts = json.loads((checkpoint / "manifest.json").read_bytes())
    del facts["sha256"]
    facts["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (checkpoint / "manifest.json").write_bytes(seal(facts))


def header(text: bytes, length: int | None = None, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + body


ENTRY = '{"a": {"dtype": "%s", "shape": %s, "data_offsets": %s}}'
FILES = {
    "empty": b"",
    "one byte": b"\0",
    "text": b"not a file of tensors at all",
    "a gigantic header": header(b"{}", 2**62),
    "a header beyond the file": header(b"{}", 10_000),
    "no header": header(b""),
    "a header that is a list": header(b"[]"),
    "a header that is cut off": header(b'{"a": '),
    "a header of deep lists": header(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "no tensors": header(b"{}"),
    "an unknown type": header((ENTRY % ("PY", "[1]", "[0, 1]")).encode(), body=b"\0"),
    "a gigantic shape": header((ENTRY % ("F32", "[4611686018427387904]", "[0, 4]")).encode(), body=bytes(4)),
    "a shape that overflows": header((ENTRY % ("F32", f"[{2**40}, {2**40}]", "[0, 4]")).encode(), body=bytes(4)),
    "a negative shape": header((ENTRY % ("F32", "[-1]", "[0, 4]")).encode(), body=bytes(4)),
    "offsets beyond the file": header((ENTRY % ("F32", "[1]", "[100, 104]")).encode(), body=bytes(4)),
    "offsets backwards": header((ENTRY % ("F32", "[1]", "[4, 0]")).encode(), body=bytes(4)),
    "negative offsets": header((ENTRY % ("F32", "[1]", "[-4, 0]")).encode(), body=bytes(4)),
    "a pickle": b"\x80\x04cos\nmkdir\n(Vowned\ntR.",
    "a zip": b"PK\x03\x04" + bytes(200),
}
Tensors = dict[str, torch.Tensor]


def without_one(tensors: Tensors) -> Tensors:
    return {name: tensors[name] for name in sorted(tensors)[1:]}


def changed(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, min(tensors): change(tensors[min(tensors)]).contiguous()}


MISFITS: dict[str, Callable[[Tensors], Tensors]] = {
    "a tensor too few": without_one,
    "a tensor too many": lambda tensors: {**tensors, "evil": torch.zeros(1)},
    "a tensor of control characters": lambda tensors: {**tensors, "\x1b[2J\n": torch.zeros(1)},
    "a tensor with a name of a million letters": lambda tensors: {**tensors, "x" * 1_000_000: torch.zeros(1)},
    "another shape": changed(lambda tensor: tensor[None]),
    "no numbers": changed(lambda tensor: tensor[:0]),
    "whole numbers": changed(lambda tensor: tensor.to(torch.int64)),
    "truth values": changed(lambda tensor: tensor > 0),
    "complex numbers": changed(lambda tensor: tensor.to(torch.complex64)),
    "not finite": changed(lambda tensor: tensor * torch.nan),
}


@pytest.mark.parametrize("kind", FILES)
def test_damaged_nets(kind: str, checkpoint: Path, run: Path, picture: Path, refuses) -> None:
    put(checkpoint, "ema.safetensors", FILES[kind])
    refuses("translate", picture, "--run", run, "--to", "gray", "--out", "out.png", names="ema.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(FILES.keys() - {"no tensors"}))  # never stepped
def test_damaged_optimizers(kind: str, checkpoint: Path, run: Path, refuses) -> None:
    put(checkpoint, "optimizers.safetensors", FILES[kind])
    refuses("train", "--run", run, "--resume", "auto", "--steps", 2, "--quiet", names="optimizers.safetensors")


@pytest.mark.parametrize("kind", MISFITS)
@pytest.mark.parametrize("name", [NETS, "optimizers.safetensors"])
def test_tensors_that_do_not_fit(kind: str, name: str, checkpoint: Path, run: Path, refuses) -> None:
    put(checkpoint, name, save(MISFITS[kind](load_file(checkpoint / name))))
    refuses("train", "--run", run, "--resume", "auto", "--steps", 2, "--quiet", names=name)


@pytest.mark.parametrize("name", [NETS, "ema.safetensors", "optimizers.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_files(kind: str, name: str, checkpoint: Path, run: Path, refuses) -> None:
    path = checkpoint / name
    put_no_file(kind, path)
    refuses("train", "--run", run, "--resume", "auto", "--steps", 2, "--quiet", names=name)


@pytest.mark.parametrize("name", ["step-²", "step-", "step--1", "step-1e3", "step-" + "9" * 200, "step-٣", "other"])
def test_folders_that_are_no_checkpoints(name: str, run: Path, picture: Path, refuses) -> None:
    """They are passed over; alone they are no checkpoint."""
    (run / "checkpoints" / "step-00000001").rename(run / "checkpoints" / name)
    refuses("translate", picture, "--run", run, "--to", "gray", "--out", "out.png", names=str(run))

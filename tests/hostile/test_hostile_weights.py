"""Door: files of published weights, to convert and to extract features with."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from no_files import KINDS, put_no_file

NAME = "bad.ckpt"
LAYOUTS = ("stargan-v2",)


class Evil:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("owned",)


def torch_file(value: Any, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def nested_keys(depth: int) -> bytes:
    """A pickle of a dict whose key is a tuple of tuples: hashing it takes 2^depth steps."""
    doubled = b"".join(b"h" + bytes([n, ord("h"), n]) + b"\x86q" + bytes([n + 1]) for n in range(depth))
    return b"\x80\x02})q\0" + doubled + b"K\x01s."


SMALL = {"weight": torch.zeros(2)}
WHOLE = torch_file({"generator": SMALL})
FILES: dict[str, bytes] = {
    "empty": b"",
    "text": b"no weights",
    "HTML": b"<!DOCTYPE html><title>404</title>",
    "a pickle with code": pickle.dumps(Evil()),
    "a pickle of protocol 0 with code": pickle.dumps(Evil(), protocol=0),
    "torch with code": torch_file({"generator": Evil()}),
    "old torch with code": torch_file({"generator": Evil()}, _use_new_zipfile_serialization=False),
    "a whole net": torch_file(torch.nn.Linear(1, 1)),
    "a pickle of nested tuples": nested_keys(60),
    "torch of nested tuples": zipped({"a/data.pkl": nested_keys(60), "a/version": b"3", "a/byteorder": b"little"}),
    "a pickle of marks": b"\x80\x02" + b"(" * 100_000 + b".",
    "a pickle of a gigantic text": b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"x.",
    "a pickle of a gigantic number": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "a pickle without an end": b"\x80\x02}q\0",
    "cut off": WHOLE[: len(WHOLE) // 2],
    "one byte wrong": WHOLE[:200] + bytes([WHOLE[200] ^ 255]) + WHOLE[201:],
    "an empty zip": zipped({}),
    "a zip of text": zipped({"readme": b"x"}),
    "a zip that inflates": zipped({"a/data.pkl": bytes(1 << 30), "a/version": b"3"}),
    "a zip of many files": zipped({f"a/{n}": b"" for n in range(10_000)}),
    "a zip that leads outside": zipped({"../../owned": b"x", "a/data.pkl": b"\x80\x02}."}),
    "a TorchScript": zipped({"a/code/x.py": b"import os", "a/constants.pkl": b"\x80\x02)."}),
    "a list": torch_file([1, 2]),
    "a number": torch_file(7),
    "nothing": torch_file(None),
    "a tensor": torch_file(torch.zeros(3)),
    "an empty dict": torch_file({}),
    "keys that are numbers": torch_file({1: SMALL}),
    "keys that are tuples": torch_file({((1, 2), 3): SMALL}),
    "nets that are numbers": torch_file({"generator": 1, "mapping_network": 2, "style_encoder": 3}),
    "nets that are empty": torch_file({"generator": {}, "mapping_network": {}, "style_encoder": {}}),
    "nets of one tensor": torch_file({"generator": SMALL, "mapping_network": SMALL, "style_encoder": SMALL}),
    "nets too few": torch_file({"generator": SMALL}),
    "names of control characters": torch_file({"\x1b[2J": SMALL}),
    "a name of a million letters": torch_file({"x" * 1_000_000: SMALL}),
    "a head of a gigantic number": torch_file(
        {
            "generator": {"from_rgb.weight": torch.zeros(4, 3, 3, 3)},
            "mapping_network": SMALL,
            "style_encoder": {
                "shared.1.conv1.weight": torch.zeros(1), f"unshared.{10**12}.weight": torch.zeros(1)
            },
        }
    ),
    "a tensor of gigabytes that are not there": torch_file(
        {"generator": {"from_rgb.weight": torch.zeros(1).expand(1 << 15, 1 << 15, 3, 3)}, "mapping_network": SMALL,
         "style_encoder": SMALL}
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_files(kind: str, layout: str, tmp_path: Path, refuses) -> None:
    (tmp_path / NAME).write_bytes(FILES[kind])
    refuses("convert", layout, NAME, "--out", "out", names=NAME)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_files(kind: str, layout: str, tmp_path: Path, refuses) -> None:
    put_no_file(kind, tmp_path / NAME)
    refuses("convert", layout, NAME, "--out", "out", names=NAME)


EXTRACTED = [
    "empty", "text", "a pickle with code", "torch with code", "a whole net", "a pickle of nested tuples", "cut off",
    "a zip that inflates", "a list", "an empty dict", "keys that are numbers", "nets too few",
]  # fmt: skip


@pytest.mark.parametrize("kind", EXTRACTED)
def test_weights_of_an_extractor(kind: str, tmp_path: Path, picture: Path, refuses) -> None:
    for folder in ("fakes", "reals"):
        (tmp_path / folder).mkdir()
        os.link(picture, tmp_path / folder / "a.png")
    (tmp_path / NAME).write_bytes(FILES[kind])
    refuses("eval", "fakes", "--real", "reals", "--extractor", f"inception:{NAME}", "--quiet", names=NAME)
    assert not (tmp_path / "owned").exists()

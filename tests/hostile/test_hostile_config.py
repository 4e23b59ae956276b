"""Door: the configuration, as a file and as ``--set``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from no_files import KINDS, put_no_file

from m2o_fast.engine.config import keys

KEYS = keys("starganv2")
#: no key takes any of these
NOT_A_VALUE = {
    "list of lists": "[[[1]]]",
    "mapping": "{a: {b: c}}",
    "object": "!!python/object/apply:os.mkdir [owned]",
    "unknown tag": "!evil x",
}
ALIASES = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
)
FILES = {
    "aliases that multiply": ALIASES,
    "aliases that multiply in a value": f"variant:\n  - {ALIASES}".replace("\na", "\n  - a"),
    "aliases in a list": "data: {uni: [&a [x, x], &b [*a, *a, *a], &c [*b, *b, *b], *c]}",
    "an alias of itself": "data: &d\n  name: *d",
    "a merge of itself": "data: &d\n  <<: *d\n  name: digits",
    "merges that multiply": "\n".join(
        ["m0: &m0 {steps: 1}", *(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}" for n in range(1, 40))]
    ),
    "bool without sense": "tensorboard: !!bool maybe",
    "int without digits": 'steps: !!int ""',
    "int of letters": "steps: !!int abc",
    "float without digits": 'optim: {lr: !!float ""}',
    "timestamp without sense": "variant: !!timestamp abc",
    "map that is a list": "model: !!map [1]",
    "set that is a list": "model: !!set [1]",
    "pairs that are text": "data: !!pairs x",
    "ordered map that is text": "data: !!omap x",
    "sequence that is a mapping": "data: {uni: !!seq {a: b}}",
    "python name": "steps: !!python/name:os.system",
    "python module": "steps: !!python/module:os",
    "python object": "!!python/object/apply:os.mkdir [owned]",
    "deep lists": "steps: " + "[" * 5000 + "]" * 5000,
    "deep mappings": "{a: " * 3000 + "1" + "}" * 3000,
    "deep block": "\n".join(" " * n + "a:" for n in range(2000)),
    "two documents": "steps: 1\n---\nsteps: 2",
    "list at the top": "- steps",
    "text at the top": "steps",
    "number at the top": "7",
    "open bracket": "steps: [1",
    "tab": "data:\n\tname: digits",
    "key of a list": "[steps]: 1",
    "key of a mapping": "{steps: 1}: 1",
    "long key": "k" * 1_000_000 + ": 1",
    "long value": f"variant: {'x' * 1_000_000}",
    "long data set": f"data: {{name: {'folder' * 100_000}}}",
    "long number": f"steps: {'9' * 100_000}",
    "many keys": "\n".join(f"k{n}: 1" for n in range(20_000)),
}

#: what the message names beside the file
VALUES = {
    "number beyond floats": ("optim: {lr: 1e999999}", "optim.lr"),
    "binary without sense": ("variant: !!binary '%'", "variant"),
    "control characters": ('variant: "\\e[2J\\e[31mred"', "variant"),
    "null in a folder": ('data: {name: folder, dir: "a\\0b"}', "data.dir"),
    "markup": ("variant: '[bold]x[/bold][/]'", "variant"),
    "not closed markup": ("variant: '[/]'", "variant"),
    "image size of a power of two": ("data: {image_size: 1073741824}", "data.image_size"),
    "image size of a large power of two": (f"data: {{image_size: {2**62}}}", "data.image_size"),
    "infinite": ("loss: {r1: .inf}", "loss.r1"),
    "no number": ("loss: {r1: .nan}", "loss.r1"),
    "negative": ("steps: -1", "steps"),
    "beyond 53 bits": (f"steps: {2**53}", "steps"),
    "device beyond numbers": ("device: cuda:9999999999999", "device"),
    "device with a newline": ('device: "cpu\\n"', "device"),
    "device in other digits": ("device: cuda:١", "device"),
    "line separators": ('variant: "a\\u2028b\\u0085c"', "variant"),
    "right to left": ('variant: "\\u202egnp.exe"', "variant"),
    "lone surrogate": ('variant: "\\ud800"', "variant"),
    "control characters in a key": ('"\\e[2J": 1', "'\\x1b[2J'"),
    "key of a number": ("7: 1", "'7'"),
    "key that is nothing": ("~: 1", "'None'"),
    "double key": ("steps: 1\nsteps: 2", "'steps'"),
    "double key in two forms": ("optim: {lr: 1}\noptim.lr: 2", "'optim.lr'"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files(kind: str, tmp_path: Path, refuses) -> None:
    (tmp_path / "bad.yaml").write_text(FILES[kind])
    refuses("train", "--config", "bad.yaml", names="bad.yaml")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("kind", VALUES)
def test_values(kind: str, tmp_path: Path, refuses) -> None:
    text, key = VALUES[kind]
    (tmp_path / "bad.yaml").write_text(text)
    assert "bad.yaml" in refuses("train", "--config", "bad.yaml", names=key)


BYTES = {
    "not UTF-8": b"steps: \xff",
    "UTF-16": "steps: x".encode("utf-16"),
    "null bytes": b"steps: 1\0",
    "escape bytes": b"steps: \x1b[2J",
    "only a byte order mark and a word": b"\xef\xbb\xbfword",
    "gzip": bytes.fromhex("1f8b0800000000000003"),
    "zip": b"PK\x03\x04" + bytes(100),
    "random": bytes(range(256)) * 40,
}


@pytest.mark.parametrize("kind", BYTES)
def test_bytes(kind: str, tmp_path: Path, refuses) -> None:
    (tmp_path / "bad.yaml").write_bytes(BYTES[kind])
    refuses("train", "--config", "bad.yaml", names="bad.yaml")


@pytest.mark.parametrize("kind", KINDS)
def test_no_files(kind: str, tmp_path: Path, refuses) -> None:
    path = tmp_path / "bad.yaml"
    put_no_file(kind, path)
    refuses("train", "--config", "bad.yaml", names="bad.yaml")


def test_a_file_of_gigabytes(tmp_path: Path, refuses) -> None:
    with open(tmp_path / "bad.yaml", "wb") as file:
        os.truncate(file.fileno(), 20 << 30)
    refuses("train", "--config", "bad.yaml", names="bad.yaml")


@pytest.mark.parametrize(
    "value", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "mapping")) for kind in NOT_A_VALUE]
)
@pytest.mark.parametrize("key", KEYS)
def test_every_key(key: str, value: str, refuses) -> None:
    refuses("train", "--set", f"{key}={NOT_A_VALUE[value]}", "--dry-run", names=key)

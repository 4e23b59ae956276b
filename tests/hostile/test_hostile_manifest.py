"""Door: the manifest of a checkpoint, sealed as anybody can seal one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from no_files import KINDS, put_no_file

from m2o_fast.engine.checkpoint import seal

ABSENT = object()
#: key -> values that it cannot have
WRONG: dict[str, list[Any]] = {
    "step": [ABSENT, None, "1", 1.5, -1, True, [], {}, 10**30, 7],
    "translator": [ABSENT, None, [], "starganv2", 7, {}, {"domains": 1, "rules": {}, "size": {}}],
    "files": [ABSENT, None, [], "nets", {"nets.safetensors": None}, {"nets.safetensors": {"bytes": "1", "sha256": 1}}],
    "format": [ABSENT, None, 2, "1", [], {}],
    "skipped": [ABSENT, None, -1, "0", 0.5],
    "skipped_in_a_row": [ABSENT, -1, []],
    "optimizers": [None, [], "Adam", 3],
}
OUTSIDE = ["../../../etc/passwd", "/etc/passwd", "/dev/zero", "..", ".", "", "a/b", "a\0b", "../nets.safetensors"]
DESCRIBED: dict[str, Any] = {
    "no domains": {"domains": []},
    "one domain": {"domains": [{"name": "a"}]},
    "domains that are numbers": {"domains": [1, 2]},
    "a domain of text": {"domains": ["color", "gray"]},
    "a domain with unknown words": {"domains": [{"name": "a", "evil": 1}, {"name": "b"}]},
    "a domain with a folder's name": {"domains": [{"name": "../../x"}, {"name": "b"}]},
    "a domain with a million channels": {"domains": [{"name": "a", "channels": 10**9}, {"name": "b"}]},
    "a domain with -1 channels": {"domains": [{"name": "a", "channels": -1}, {"name": "b"}]},
    "a million domains": {"domains": [{"name": f"d{n}"} for n in range(10_000)]},
    "sizes of text": {"size": {"image_size": "thirty-two"}},
    "a size too many": {"size": {"evil": 1}},
    "a gigantic image": {"size": {"image_size": 2**40}},
    "an image of no pixels": {"size": {"image_size": 0}},
    "an image of -32 pixels": {"size": {"image_size": -32}},
    "gigantic widths": {"size": {"base_width": 10**9, "max_width": 10**9}},
    "a gigantic mapping network": {"size": {"hidden_dim": 10**9}},
    "a style of no numbers": {"size": {"style_dim": 0}},
    "rules of text": {"rules": {"split_stems": "yes"}},
    "unknown rules": {"rules": {"evil": 1}},
    "a system that is a module": {"system": "os.system"},
    "a system that is a list": {"system": ["starganv2"]},
}
TEXTS = {
    "empty": b"",
    "text": b"manifest",
    "a list": b"[]",
    "a number": b"7",
    "nothing": b"null",
    "deep lists": b"[" * 200_000 + b"]" * 200_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "not UTF-8": b'{"format": "\xff"}',
    "a long number": b'{"format": ' + b"9" * 100_000 + b"}",
    "no number": b'{"format": NaN}',
    "cut off": b'{"format": 1, "files": {',
    "null bytes": bytes(1000),
    "control characters": b'{"format": "\x1b[2J"}',
    "escaped control characters": b'{"format": "\\u001b[2J"}',
    "a long text": b'{"format": "' + b"x" * 1_000_000 + b'"}',
}


def translate(refuses, picture: Path, run: Path) -> str:
    return refuses("translate", picture, "--run", run, "--to", "gray", "--out", "out.png", names="step-00000001")


def resealed(checkpoint: Path, **changes: Any) -> None:
    facts = json.loads((checkpoint / "manifest.json").read_bytes())
    del facts["sha256"]
    facts = {key: value for key, value in {**facts, **changes}.items() if value is not ABSENT}
    (checkpoint / "manifest.json").write_bytes(seal(facts))


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_values(key: str, value: Any, checkpoint: Path, run: Path, refuses) -> None:
    resealed(checkpoint, **{key: value})
    refuses("train", "--run", run, "--resume", "auto", "--steps", 2, names="manifest.json")


@pytest.mark.parametrize("name", OUTSIDE)
def test_files_outside(name: str, checkpoint: Path, run: Path, picture: Path, refuses) -> None:
    resealed(checkpoint, files={name: {"bytes": 0, "sha256": "0" * 64}})
    translate(refuses, picture, run)


@pytest.mark.parametrize("kind", DESCRIBED)
def test_nets_that_nobody_can_build(kind: str, checkpoint: Path, run: Path, picture: Path, refuses) -> None:
    old = json.loads((checkpoint / "manifest.json").read_bytes())["translator"]
    changes = {
        key: {**old[key], **value} if isinstance(value, dict) and key in old else value
        for key, value in DESCRIBED[kind].items()
    }
    resealed(checkpoint, translator={**old, **changes})
    translate(refuses, picture, run)


@pytest.mark.parametrize("kind", TEXTS)
def test_texts(kind: str, checkpoint: Path, run: Path, picture: Path, refuses) -> None:
    (checkpoint / "manifest.json").write_bytes(TEXTS[kind])
    translate(refuses, picture, run)


@pytest.mark.parametrize("kind", KINDS)
def test_no_files(kind: str, checkpoint: Path, run: Path, picture: Path, refuses) -> None:
    path = checkpoint / "manifest.json"
    put_no_file(kind, path)
    translate(refuses, picture, run)

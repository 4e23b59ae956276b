"""What a terminal is shown of names that would tell it what to do: no control character but newlines, no emoji."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from folder_files import color_of, write, write_places

from m2o_fast.cli import main

ESCAPE = "\x1b]0;:horse:\x07\x1b[2J"
WORDS = {
    "data check": ["data", "check", f"{ESCAPE}d"],
    "a dry run": ["train", "--data", f"folder:{ESCAPE}d", "--uni", "map", "--preset", "digits", "--dry-run"],
    "translate": [
        "translate",
        f"{ESCAPE}d",
        "--run",
        f"{ESCAPE}run",
        "--to",
        "color",
        "--from",
        "gray",
        "--out",
        ESCAPE,
    ],
    "eval of images": ["eval", f"{ESCAPE}d/train/photo/place1", "--truth", f"{ESCAPE}d/train/photo/place1"],
    "eval of a run": ["eval", f"{ESCAPE}run", "--sources", "4", "--outputs-per-source", "2"],
    "report": ["report", f"{ESCAPE}run"],
}


@pytest.mark.parametrize(
    "command", [pytest.param(command, marks=[pytest.mark.slow] * (command == "eval of a run")) for command in WORDS]
)
def test_names_tell_the_terminal_nothing(command: str, run: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / f"{ESCAPE}d"
    for split in ("train", "val"):
        write_places(root / split)
    write(root / "train" / "photo" / f"{ESCAPE}.png", color_of(5))
    (root / "train" / "photo" / f"{ESCAPE}.txt").write_text("x")
    (root / "train" / "map" / f"{ESCAPE}bad.png").write_text("x")
    os.rename(run, tmp_path / f"{ESCAPE}run")
    main(WORDS[command])
    out, err = capfd.readouterr()
    assert "\\x1b" in out + err and ":horse:" in out + err
    assert [char for char in out + err if not char.isprintable() and char != "\n"] == []

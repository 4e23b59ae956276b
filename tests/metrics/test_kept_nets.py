"""Nets of the cache folder: what is damaged, or says too little, is trained anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from m2o_fast.metrics.kept_nets import kept_net, weights_sha256

NET = nn.Linear(2, 2)
DIGEST = f'"sha256": "{weights_sha256(NET.state_dict())}"'


def kept() -> float:
    """The fact of a net; 1 where it was trained just now."""
    return kept_net("net", "some", 1, ("error",), lambda: nn.Linear(2, 2), lambda: (NET, {"error": 1.0}))[2]["error"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "m2o_fast" / "extractors" / "net-some.safetensors"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    "said",
    [
        f'{{"recipe": 1, {DIGEST}}}',
        f'{{"recipe": 2, {DIGEST}, "error": 3}}',
        f'{{"recipe": 1, {DIGEST}, "error": 1{"0" * 400}}}',
        f'{{"recipe": 1, {DIGEST}, "error": {"[" * 100000}',
        f'{{"recipe": 1, {DIGEST}, "error": null}}',
        '{"recipe": 1, "sha256": "0", "error": 3}',
        "[]",
    ],
    ids=["too little", "another recipe", "huge", "deep", "no number", "other weights", "a list"],
)
def test_what_a_file_says_is_not_trusted(file: Path, said: str) -> None:
    save_file(NET.state_dict(), file, {"net": said})
    assert [kept(), kept()] == [1, 1]
    save_file(NET.state_dict(), file, {"net": f'{{"recipe": 1, {DIGEST}, "error": 3}}'})
    assert kept() == 3


def test_weights_of_another_net_are_replaced(file: Path) -> None:
    other = {"weight": torch.zeros(3)}
    save_file(other, file, {"net": f'{{"recipe": 1, "sha256": "{weights_sha256(other)}", "error": 3}}'})
    assert kept() == 1

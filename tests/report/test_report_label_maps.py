"""The pictures of runs on label maps: classes in colours, in whatever form the networks hold them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ade20k_files import write_ade20k
from reading import Page, decoded
from result_file import evaluation
from tiny import tiny_config

from m2o_fast.data import open_dataset
from m2o_fast.engine.loop import train
from m2o_fast.labels import draw_labels, palette
from m2o_fast.m2o import Domain
from m2o_fast.report.pictures import visible

COLORS = {tuple(color) for color in palette(151).tolist()}


@pytest.mark.parametrize("kind", ["palette", "onehot"])
def test_label_maps_are_shown_in_their_colours(
    tmp_path: Path, report: Callable[..., str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", open_dataset)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = (f"data.name=ade20k:{write_ade20k(tmp_path / 'ade')}", f"data.labels={kind}", "data.image_size=32")
    run = tmp_path / "run"
    train(tiny_config("steps=1", *settings), run, quiet=True)
    details = {"scene->labels": {"worst": [{"index": 1, "measure": "pixel_accuracy", "value": 0.25}]}}
    (run / "evaluation").mkdir()
    (run / "evaluation" / "step-00000001.json").write_text(
        json.dumps(evaluation(step=1, directions={}, means={}, details=details))
    )
    page = Page(report(run))
    shown = {image["alt"]: np.asarray(decoded(image["src"])) for image in page.images}
    output = shown["output: 4 labels images, scene → labels"]
    colors = {tuple(color) for color in output[1:33, 1:33].reshape(-1, 3).tolist()}
    assert colors <= COLORS
    case = shown["#1: pixel accuracy 0.25 (source, translation, truth)"]
    assert case.shape == (34, 3 * 33 + 1, 3)
    truth = case[1:33, 67:99].reshape(-1, 3).tolist()
    assert {tuple(color) for color in truth} <= COLORS and len(truth) == 32 * 32


def test_large_label_maps_shrink_without_mixing_classes() -> None:
    labels = torch.randint(0, 151, (1, 256, 256), generator=torch.Generator().manual_seed(0))
    for kind, channels in (("palette", 3), ("onehot", 151)):
        domain = Domain("labels", channels, False, kind, 151)
        (image,) = visible(draw_labels(labels, kind, 151) * 2 - 1, domain)
        found = ((image + 1) * 127.5).round().to(torch.uint8).flatten(1).T.tolist()
        assert image.shape[1] <= 96 and {tuple(color) for color in found} <= COLORS


def test_large_images_are_averaged_and_small_ones_kept() -> None:
    small, large = torch.rand(2, 3, 64, 64) * 2 - 1, torch.zeros(1, 1, 256, 256)
    large[..., ::3, :] = 0.9
    assert torch.equal(torch.stack(visible(small, Domain("a"))), small)
    (image,) = visible(large, Domain("a", 1))
    assert image.shape[1] == 256 // 3 and image.std() < 1e-6 and image.mean() == pytest.approx(0.3)


def test_values_that_are_not_finite_can_be_shown() -> None:
    images = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.5]).reshape(1, 1, 2, 2)
    assert visible(images, Domain("a", 1))[0].flatten().tolist() == [0, 1, -1, 0.5]

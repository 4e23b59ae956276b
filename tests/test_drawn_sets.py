"""The folders that are drawn by rule: their laws, their pairs, and that the package reads them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from source_tree import ROOT

from m2o_fast.data import open_dataset
from m2o_fast.randomness import numpy_generator

sys.path.insert(0, str(ROOT / "benchmarks"))
import drawn_sets


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_four_domains_show_the_same_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = drawn_sets.load_digits
    monkeypatch.setattr(drawn_sets, "load_digits", lambda *given: tuple(part[:12] for part in few(*given)))
    folder = drawn_sets.drawn("domains", tmp_path / "domains")
    assert [path.name for path in tmp_path.iterdir()] == ["domains"]
    assert drawn_sets.drawn("domains", folder) == folder  # it is there
    rest = {"data_dir": str(folder), "image_size": 32, "uni": ("gray", "edges")}
    for split in ("train", "test"):
        data = open_dataset("folder", split=split, **rest)
        assert {d.name: (d.channels, d.multimodal) for d in data.domains} == {
            "color": (3, True), "edges": (1, False), "gray": (1, False), "tones": (3, True),
        }  # fmt: skip
        numbers = list(range(12))
        gray, edges, color, tones = (data.images(name, numbers) for name in ("gray", "edges", "color", "tones"))
        peak = gray.flatten(1).argmax(1)[:, None, None].expand(-1, 3, 1)
        hue = color.flatten(2).gather(2, peak)[..., None] / gray.amax((1, 2, 3), keepdim=True)
        assert float((color - gray * hue).abs().max()) < 3 / 255
        paper = tones[:, :, :1, :1]  # a corner, where no digit is
        ink = (tones.flatten(2).gather(2, peak)[..., None] - paper * (1 - gray.amax((1, 2, 3), keepdim=True))).clamp(0)
        assert float((tones - gray * ink - (1 - gray) * paper).abs().max()) < 6 / 255
        assert float((ink - paper).abs().amax(1).min()) > drawn_sets.LEAST - 4 / 255
        flat = (gray[:, :, 1:-1, 1:-1] == gray[:, :, :-2, 1:-1]) & (edges[:, :, 1:-1, 1:-1] == 0)
        assert bool((edges[:, :, 0, 0] == 0).all()) and bool(flat.any()) and float(edges.max()) > 0.5
        truth, known = data.pair("color", "edges", numbers)
        assert bool(known.all()) and bool((truth == edges).all())


def test_scenes_have_twelve_classes_that_cover_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn_sets, "SCENES", {"training": 40, "validation": 2})
    folder = drawn_sets.drawn("scenes", tmp_path / "scenes")
    data = open_dataset("ade20k", split="train", data_dir=str(folder), image_size=32)
    labels = data.label_ids(list(range(40)))
    assert sorted(labels.unique().tolist()) == list(range(1, 13))
    counts = [len(each.unique()) for each in labels]
    assert min(counts) >= 2 and max(counts) > 4
    picture = np.asarray(Image.open(folder / "images" / "training" / "0003.png"))
    again = drawn_sets.scene(numpy_generator(0, "drawn scenes/training", 3))
    assert (picture == again[0]).all() and (labels[3].numpy() == again[1]).all()


@pytest.mark.parametrize("number", range(1, drawn_sets.CLASSES + 1))
def test_a_texture_is_that_of_its_class(number: int) -> None:
    generator = numpy_generator(0, "texture", number)
    share = drawn_sets.texture(number, generator)[..., 0]
    kind, width = drawn_sets.TEXTURES[(number - 1) // 3], drawn_sets.COARSENESS[(number - 1) % 3]
    assert share.shape == (32, 32) and share.min() >= 0 and share.max() <= 1
    if kind == "plain":
        assert share.max() <= width / 16 and share.std() > 0
        return
    assert set(np.unique(share)) == {0, 1}
    down, right = (share[width:] != share[:-width]).all(), (share[:, width:] != share[:, :-width]).all()
    assert (down, right) == (kind != "along", kind != "across")

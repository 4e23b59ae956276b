"""ADE20K scene parsing: layouts, pairs, label maps, refusals."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ade20k_files import classes_of, photo_of, write_ade20k, write_names
from PIL import Image

from m2o_fast.data import Augment, BatchSampler, check_ade20k, open_dataset
from m2o_fast.data.check import check_folder
from m2o_fast.data.dataset import Dataset
from m2o_fast.errors import UserError
from m2o_fast.labels import palette, read_labels

SIZE = 32


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_ade20k(tmp_path / "ade")


def opened(root: Path, split: str = "train", **options: object) -> Dataset:
    return open_dataset("ade20k", split=split, data_dir=root, **{"image_size": SIZE, **options})


def expected_ids(number: int) -> torch.Tensor:
    """The label map stretched by nearest pixels, without Pillow: each pixel takes what its centre falls on."""
    classes = classes_of(number)
    rows, columns = (((np.arange(SIZE) + 0.5) * side / SIZE).astype(int) for side in classes.shape)
    return torch.from_numpy(classes[rows][:, columns]).long()


# --- what it holds ---


@pytest.mark.parametrize("kind", ["palette", "onehot"])
def test_scenes_and_labels_are_pairs(root: Path, kind: str) -> None:
    data = opened(root, labels=kind)
    assert [(d.name, d.channels, d.multimodal, d.kind, d.classes) for d in data.domains] == [
        ("scene", 3, True, "continuous", 0),
        ("labels", 3 if kind == "palette" else 151, False, kind, 151),
    ]
    assert data.count("scene") == data.count("labels") == 4
    ids = data.label_ids([2, 0])
    assert ids.dtype == torch.int64 and torch.equal(ids, torch.stack([expected_ids(2), expected_ids(0)]))
    images, known = data.pair("scene", "labels", [2, 0])
    assert known.all() and torch.equal(images, data.images("labels", [2, 0], 3))
    assert torch.equal(read_labels(images, kind, 151), ids)
    scenes, known = data.pair("labels", "scene", [2, 0])
    assert known.all() and torch.equal(scenes, data.images("scene", [2, 0]))
    assert data.looks("labels", "scene", 2).tolist() == [2] and data.looks("scene", "scene", 2).tolist() == []
    data.images = None  # has_pairs draws none: 64 one-hot label maps at 256 pixels would take 2.5 GB
    assert data.has_pairs() and not opened(root, labels=kind, pair_fraction=0.0).has_pairs()
    assert data.pair("scene", "scene", [0]) is None
    if kind == "palette":
        assert torch.equal(images[1, :, 0, 0], palette(151)[ids[1, 0, 0]] / 255)


def test_photographs_are_stretched_with_an_antialiased_filter(root: Path) -> None:
    folder = root / "images" / "training"
    (folder / "ADE_train_00000002.jpg").unlink()
    Image.fromarray(photo_of(1)).save(folder / "ADE_train_00000002.png")
    scene = opened(root).images("scene", [1])
    assert scene.shape == (1, 3, SIZE, SIZE) and scene.dtype == torch.float32
    original = torch.from_numpy(photo_of(1)).permute(2, 0, 1)[None].float() / 255
    expected = torch.nn.functional.interpolate(original, (SIZE, SIZE), mode="bilinear", antialias=True)
    assert (scene - expected).abs().max() < 1.6 / 255  # Pillow rounds after each of its two directions


def test_names_of_classes(root: Path) -> None:
    assert opened(root).class_names[:3] == ("void", "class 1", "class 2")
    write_names(root)
    names = opened(root).class_names
    assert names[:3] == ("void", "thing1", "thing2") and len(names) == 151
    (root / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n")
    with pytest.raises(UserError, match=r"objectInfo150.txt: must have a heading and a line for each"):
        opened(root)
    (root / "objectInfo150.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"objectInfo150.txt: cannot be read"):
        opened(root)


def test_the_fingerprint_is_that_of_contents_and_kind(root: Path) -> None:
    prints = {opened(root).fingerprint, opened(root, labels="onehot").fingerprint}
    assert opened(root, cache=False, seed=3).fingerprint in prints and len(prints) == 2
    path = root / "annotations" / "training" / "ADE_train_00000001.png"
    Image.fromarray(classes_of(0) // 2).save(path)
    assert opened(root).fingerprint not in prints


def test_known_pairs_are_a_share_of_the_pairs(root: Path) -> None:
    images, known = opened(root, pair_fraction=0.5).pair("scene", "labels", range(4))
    assert known.sum() == 2 and not images[~known].any() and images[known].any()
    with pytest.raises(UserError, match="pair_fraction"):
        opened(root, pair_fraction=1.5)


def test_the_unpacked_archive_may_lie_in_the_folder(tmp_path: Path) -> None:
    write_ade20k(tmp_path / "downloads" / "ADEChallengeData2016")
    assert opened(tmp_path / "downloads").count(0) == 4


def test_annotations_with_a_palette_are_class_numbers(root: Path) -> None:
    path = root / "annotations" / "training" / "ADE_train_00000001.png"
    picture = Image.fromarray(classes_of(0))
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    assert picture.mode == "P"
    picture.save(path)
    assert torch.equal(opened(root).label_ids([0])[0], expected_ids(0))


# --- splits ---


@pytest.mark.parametrize(("there", "asked"), [("validation", "train"), ("training", "test")])
def test_a_missing_split_is_replaced_with_a_warning(tmp_path: Path, there: str, asked: str) -> None:
    root = write_ade20k(tmp_path / "ade", splits=(there,))
    with pytest.warns(RuntimeWarning, match=f"has no images; the {there} split is taken"):
        data = opened(root, asked)
    assert data.count(0) == 4


def test_both_splits_are_told_apart(tmp_path: Path) -> None:
    root = write_ade20k(tmp_path / "ade")
    (root / "annotations" / "validation" / "ADE_valid_00000004.png").unlink()
    (root / "images" / "validation" / "ADE_valid_00000004.jpg").unlink()
    with warnings.catch_warnings(action="error"):
        assert opened(root, "train").count(0) == 4 and opened(root, "test").count(0) == 3


# --- refusals ---


def test_a_file_without_its_partner_is_named(root: Path) -> None:
    for number in range(1, 4):
        (root / "annotations" / "training" / f"ADE_train_0000000{number}.png").unlink()
    with pytest.raises(UserError, match=r"3 of 4 files without an annotation in .*: ADE_train_00000001.jpg; ADE_tra"):
        opened(root)
    shutil.rmtree(root)
    write_ade20k(root, count=9)
    for number in range(1, 8):
        (root / "images" / "training" / f"ADE_train_0000000{number}.jpg").unlink()
    with pytest.raises(UserError, match=r"7 of 9 files without an image in .*_00000005.png; and 2 more$"):
        opened(root)


def spoiled(root: Path, number: int, kind: str) -> None:
    stem = f"ADE_train_{number + 1:08d}"
    path, classes = root / "annotations" / "training" / f"{stem}.png", classes_of(number)
    if kind == "colours":
        Image.fromarray(classes).convert("RGB").save(path)
    elif kind == "sixteen bit":
        Image.fromarray(classes.astype(np.uint16)).save(path)
    elif kind == "value":
        classes[3, 4] = 151
        Image.fromarray(classes).save(path)
    elif kind == "size":
        Image.fromarray(classes[1:]).save(path)
    elif kind == "damaged":
        path.write_bytes(path.read_bytes()[:60])
    elif kind == "photo":
        (root / "images" / "training" / f"{stem}.jpg").write_bytes(b"nothing")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("colours", "mode RGB, but a label map holds class numbers"),
        ("sixteen bit", "mode I;16, but"),
        ("value", "class 151, but classes are 0 to 150"),
        ("size", r"40 x 29 pixels, but ADE_train_00000001.jpg has 40 x 30"),
        ("damaged", "the image is damaged or cut off"),
    ],
)
def test_unusable_annotations_are_named_with_the_reason(root: Path, kind: str, reason: str) -> None:
    for number in (0, 1):
        spoiled(root, number, kind)
    with pytest.raises(UserError, match=rf"2 of 4 image files cannot be read: .*ADE_train_00000001.png: {reason}"):
        opened(root)


@pytest.mark.parametrize("kind", ["colours", "sixteen bit", "value", "size", "damaged", "photo"])
def test_pairs_with_an_unreadable_file_are_left_out_of_both_domains(root: Path, kind: str) -> None:
    spoiled(root, 1, kind)
    with pytest.warns(RuntimeWarning, match="1 of 4 image files cannot be read"):
        data = opened(root, max_unreadable=0.25)
    assert data.count("scene") == data.count("labels") == 3
    assert torch.equal(data.label_ids(range(3)), torch.stack([expected_ids(k) for k in (0, 2, 3)]))
    whole = opened(write_ade20k(root.parent / "whole"))
    assert torch.equal(data.images("scene", range(3)), whole.images("scene", [0, 2, 3]))
    checked = check_ade20k.check_ade20k(root, max_unreadable=0.25)
    assert checked.problems == [] and any("1 file that cannot be used" in note for note in checked.notes)
    with pytest.raises(UserError, match="data.max_unreadable 0 allows 0"):
        opened(root, max_unreadable=0)


def test_a_changed_photograph_is_compared_anew(root: Path) -> None:
    """Whether an annotation fits is not kept beyond the photograph that it fits, or does not."""
    path = root / "images" / "training" / "ADE_train_00000001.jpg"
    good = path.read_bytes()
    assert opened(root).count(0) == 4
    Image.fromarray(photo_of(0)[1:]).save(path)
    with pytest.warns(RuntimeWarning, match="00000001.png: 40 x 30 pixels, but ADE_train_00000001.jpg has 40 x 29"):
        assert opened(root).count(0) == 3
    path.write_bytes(good)
    assert opened(root).count(0) == 4


def test_a_turned_photograph_is_measured_as_it_is_shown(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = root / "images" / "training" / "ADE_train_00000001.jpg"
    Image.fromarray(photo_of(0).transpose(1, 0, 2)).save(path, exif=exif)
    assert opened(root, max_unreadable=0).count(0) == 4


@pytest.mark.parametrize(
    "mark", ["index_ade20k.pkl", "images/ADE/training", "images/training/a/abbey", "ADE20K_2021_17_01/images/ADE"]
)
def test_the_full_release_is_recognised(tmp_path: Path, mark: str) -> None:
    (tmp_path / "full" / mark).mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"full ADE20K release, whose \*_seg.png files number over 3000 classes; needed"
    ):
        opened(tmp_path / "full")


def test_other_folders_are_refused_with_the_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        opened(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no ADE20K scene parsing data; needed is images/{training,validation}"):
        opened(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    with pytest.raises(UserError, match="no images in training/ and validation/"):
        opened(tmp_path)
    write_ade20k(tmp_path / "ade")
    shutil.copy(*(tmp_path / "ade/images/training" / f"ADE_train_00000001.{suffix}" for suffix in ("jpg", "jpeg")))
    with pytest.raises(UserError, match="names that differ in their suffix only: ADE_train_00000001.jpeg"):
        opened(tmp_path / "ade")


# --- as the sampler hands it out ---


@pytest.mark.parametrize("kind", ["palette", "onehot"])
def test_augmented_label_maps_hold_nothing_but_classes(root: Path, kind: str) -> None:
    data = opened(root, labels=kind)
    sampler = BatchSampler(data, data.domains, 16, 3, pairs=[(0, 1)], augment=Augment(1.0, 0.5))
    batch = sampler(0)
    allowed = palette(151) / 255 * 2 - 1 if kind == "palette" else torch.tensor([[-1.0], [1.0]])
    for images in (batch.source[1], batch.reference[1], batch.paired[1][batch.has_pair[-8:]]):
        values = images.permute(0, 2, 3, 1).reshape(-1, 3) if kind == "palette" else images.reshape(-1, 1)
        assert len(values) and (values[:, None] == allowed).all(2).any(1).all()


def test_a_scene_and_its_labels_share_their_view(root: Path) -> None:
    """A scene that shows the class numbers as gray levels: its crop and the decoded crop of the pair must agree."""
    for number in range(4):
        wide = classes_of(number)[2:15:5, 2:10:5].repeat(32, 0).repeat(48, 1)  # 3 x 2 blocks
        stem = f"ADE_train_{number + 1:08d}"
        Image.fromarray(wide).save(root / "annotations" / "training" / f"{stem}.png")
        (root / "images" / "training" / f"{stem}.jpg").unlink()
        Image.fromarray(wide).save(root / "images" / "training" / f"{stem}.png")
    data = opened(root)
    sampler = BatchSampler(data, data.domains, 64, 3, pairs=[(0, 1)], augment=Augment(1.0, 0.5))
    batch = sampler(0)
    from_scene = batch.to_target[-32:] < 32
    scenes = batch.source[0][batch.to_target[-32:][from_scene]]
    ids = read_labels((batch.paired[1][from_scene] + 1) / 2, "palette", 151)
    shown = ((scenes[:, 0] + 1) / 2 * 255).round().long()
    assert batch.has_pair[-32:].tolist() == from_scene.tolist() and len(ids) == 16
    assert (ids == shown).float().mean() > 0.6  # all but the edges of blocks
    assert (ids.flip(2) == shown).float().mean() < 0.1


@pytest.mark.skipif(not os.environ.get("M2O_DATA_DIR"), reason="M2O_DATA_DIR is not set, so there are no real scenes")
def test_real_samples() -> None:
    with pytest.warns(RuntimeWarning, match="validation split is taken"):
        data = opened(Path(os.environ["M2O_DATA_DIR"]) / "ade20k_sample")
    assert data.count("scene") == 3 and data.class_names[3] == "sky"
    assert {data.class_names[k] for k in data.label_ids([2]).unique()} >= {"sky", "road", "bus"}


def test_names_pair_however_their_accents_are_stored(root: Path) -> None:
    (root / "images" / "training" / "ADE_train_00000001.jpg").rename(root / "images" / "training" / "caf\u00e9.jpg")
    maps = root / "annotations" / "training"
    (maps / "ADE_train_00000001.png").rename(maps / "cafe\u0301.png")
    assert opened(root).count("scene") == 4
    assert check_folder(root).problems == []

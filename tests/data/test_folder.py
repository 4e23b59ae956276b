from __future__ import annotations

import errno
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from folder_files import SIDE, color_of, gray_of, write, write_damaged, write_folder, write_odd, write_split
from PIL import Image

from m2o_fast.data import BatchSampler, open_dataset
from m2o_fast.data.folder import FolderDataset
from m2o_fast.data.images import read_image, read_pixels
from m2o_fast.data.layout import list_images
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain

SIZE = 16


@pytest.fixture(autouse=True)
def no_surprises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def open_it(root: Path, split: str = "train", uni: tuple[str, ...] = ("sketch",), **options) -> FolderDataset:
    dataset = open_dataset("folder", split=split, data_dir=root, image_size=SIZE, uni=uni, **options)
    assert isinstance(dataset, FolderDataset)
    return dataset


def refused(root: Path, **options) -> str:
    with pytest.raises(UserError) as error, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        open_it(root, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_domains_images_and_their_order(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", sketches=range(5))
    for name in (".DS_Store", "notes.txt", "photo/.hidden.png", "photo/Thumbs.db", "__MACOSX/x.png", ".git/x.png"):
        path = root / "train" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    data = open_it(root)
    assert data.domains == (Domain("photo", 3, multimodal=True), Domain("sketch", 1, multimodal=False))
    assert (data.count("photo"), data.count(1), data.image_size) == (4, 5, SIZE)
    paths = [root / "train" / "photo" / name for name in ("1.png", "2.png", "sub/0.png", "sub/3.png")]
    wanted = torch.from_numpy(np.stack([read_pixels(path, 3, SIZE) for path in paths])).float() / 255
    assert torch.equal(data.images("photo", range(4), epochs=7), wanted)
    assert torch.equal(data.images("photo", [3, 0]), wanted[[3, 0]])
    assert data.images("sketch", [4]).shape == (1, 1, SIZE, SIZE)
    with pytest.raises(ValueError, match=r"must be in \[0, 4\)"):
        data.images("photo", [4])


def test_images_of_their_own_size_keep_their_values(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(2):
            write(tmp_path / split / "a" / f"{number}.png", color_of(number, SIZE))
            write(tmp_path / split / "b" / f"{number}.png", gray_of(number, SIZE))
    data = open_it(tmp_path, uni=("b",))
    assert np.array_equal(data.images("a", [1])[0].permute(1, 2, 0).numpy() * 255, color_of(1, SIZE))
    assert np.array_equal(data.images("b", [0])[0, 0].numpy() * 255, gray_of(0, SIZE))


def test_pairs_are_images_of_the_same_name_and_folder(tmp_path: Path) -> None:
    data = open_it(write_folder(tmp_path / "d", photos=range(6), sketches=(0, 1, 3, 5, 9)))
    images, known = data.pair("photo", "sketch", range(6))
    # photos in order: 1 2 4 5 sub/0 sub/3; sketches: 1 5 sub/0 sub/3 sub/9
    assert known.tolist() == [True, False, False, True, True, True] and data.has_pairs()
    assert torch.equal(images[known], data.images("sketch", [0, 1, 2, 3])) and not images[~known].any()
    assert data.pair("photo", "photo", [0]) is None
    photos, both = data.pair("sketch", "photo", range(5))
    assert both.tolist() == [True, True, True, True, False]
    assert torch.equal(photos[both], data.images("photo", [0, 3, 4, 5]))
    write(tmp_path / "d" / "train" / "sketch" / "0.png", gray_of(0))  # not sub/0
    assert open_it(tmp_path / "d").pair("photo", "sketch", range(6))[1].tolist() == known.tolist()


def test_pairs_into_every_uni_modal_domain(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_split(tmp_path / split)
        for number in (1, 2):
            write(tmp_path / split / "edges" / f"{number}.png", gray_of(50 + number))
    data = open_it(tmp_path, uni=("sketch", "edges"))
    assert [domain.name for domain in data.domains] == ["edges", "photo", "sketch"]
    for source, target in (("photo", "edges"), ("sketch", "edges"), ("edges", "sketch"), ("photo", "sketch")):
        images, known = data.pair(source, target, [0, 1])
        assert known.tolist() == [True, True] and torch.equal(images, data.images(target, [0, 1]))
    assert data.pair("edges", "photo", [0])[1].all() and data.pair("sketch", "photo", [0])[1].all()


def test_a_share_of_the_pairs_is_known_and_a_larger_one_contains_it(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", photos=range(20), sketches=range(20))

    def known(fraction: float, seed: int = 777) -> set[int]:
        found = open_it(root, pair_fraction=fraction, seed=seed).pair("photo", "sketch", range(20))
        return set() if found is None else set(found[1].nonzero().squeeze(1).tolist())

    shares = [known(fraction) for fraction in (0, 0.25, 0.5, 1)]
    assert [len(share) for share in shares] == [0, 5, 10, 20]
    assert shares[1] < shares[2] and known(0.5) == shares[2] != known(0.5, seed=778)
    assert not open_it(root, pair_fraction=0).has_pairs()


def test_one_color_image_in_either_split_makes_the_domain_colored(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d")
    assert open_it(root).domains[1].channels == 1
    write(root / "val" / "sketch" / "red.png", color_of(3))
    data = open_it(root)
    assert data.domains[1].channels == 3 and data.images("sketch", [0]).shape[1] == 3
    assert torch.equal(data.images("sketch", [0])[:, 0], data.images("sketch", [0])[:, 2])


def test_gray_palettes_are_gray(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d")
    for name, palette in (("gray", [9, 9, 9, 200, 200, 200]), ("red", [9, 9, 9, 200, 0, 0])):
        image = Image.fromarray(gray_of(0) // 128)
        image.putpalette(palette)
        image.save(root / "train" / "sketch" / f"{name}.png")
        assert open_it(root).domains[1].channels == (1 if name == "gray" else 3)


def test_odd_files_are_read_as_read_image_reads_them(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d")
    odd = write_odd(root / "train" / "photo" / "odd")
    data = open_it(root)
    assert data.count("photo") == 4 + len(odd) == 9
    for number, path in enumerate(sorted(odd.values()), 2):  # after 1 and 2, before sub
        wanted = (read_image(path, 3, SIZE) + 1) / 2
        torch.testing.assert_close(data.images("photo", [number]), wanted, rtol=0, atol=0.51 / 255)


def test_damaged_files_are_left_out_with_one_warning(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", photos=range(8), sketches=range(8))
    damaged = write_damaged(root / "train" / "photo")
    with pytest.warns(RuntimeWarning) as caught:
        data = open_it(root, max_unreadable=0.3)
    (message,) = [str(warning.message) for warning in caught]
    assert message.startswith("3 of 11 image files cannot be read: ") and all(
        str(p) in message for p in damaged.values()
    )
    assert data.count("photo") == 8 and data.pair("photo", "sketch", range(8))[1].all()
    message = refused(root)
    assert "3 of 11 image files cannot be read" in message and "max_unreadable 0.01 allows 1" in message


def test_a_split_that_is_missing_is_the_other_one(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d")
    whole = open_it(root, "test")
    shutil.rmtree(root / "train")
    with pytest.warns(RuntimeWarning, match=r"d has no train images: those of .*val serve for training too"):
        data = open_it(root)
    assert torch.equal(data.images(0, range(4)), whole.images(0, range(4)))
    (root / "val").rename(root / "train")
    with pytest.warns(RuntimeWarning, match=r"d has no val images: those of .*train serve for testing too"):
        open_it(root, "test")


def test_the_fingerprint_is_that_of_content_and_pairs(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d")
    first = open_it(root).fingerprint
    shutil.copytree(root, tmp_path / "moved")
    assert open_it(tmp_path / "moved", cache=False).fingerprint == first
    others = [
        open_it(root, uni=()).fingerprint,
        open_it(root, pair_fraction=0.5).fingerprint,
        open_it(root, seed=1).fingerprint,
    ]
    folder = root / "train" / "sketch"
    (folder / "1.bmp").rename(folder / "sub" / "1.bmp")
    others.append(open_it(root).fingerprint)
    write(folder / "2.bmp", gray_of(77))
    others.append(open_it(root).fingerprint)
    assert len({first, *others}) == 6


def test_a_batch_has_unequal_domains_and_their_pairs(tmp_path: Path) -> None:
    data = open_it(write_folder(tmp_path / "d", photos=range(3), sketches=range(7)))
    sampler = BatchSampler(data, data.domains, 8, seed=1, pairs=[(0, 1)])
    for step in range(3):
        batch = sampler(step)
        assert [len(images) for images in batch.source] == [4, 4]
        assert batch.has_pair is not None and int(batch.has_pair.sum()) == 2, "photo to sketch only, where it is known"
        assert batch.paired[1].abs().max() <= 1


def test_a_domain_with_one_image_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="sketch has a single image"):
        data = open_it(write_folder(tmp_path / "d", sketches=range(1)))
    assert data.count("sketch") == 1


def test_unknown_uni_modal_domains_are_named_with_the_nearest(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d")
    message = refused(root, uni=("skech",))
    assert message == "--uni (data.uni) names no domain: 'skech'; nearest: 'sketch' (domains: photo, sketch)"
    assert "nearest" not in refused(root, uni=("zzz",))


def test_same_names_that_make_pairs_unclear(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d")
    write(root / "train" / "photo" / "1.jpg", color_of(9))
    message = refused(root)
    assert "not clear which images are pairs: " in message and "photo/1.jpg and 1.png; rename or remove" in message
    open_it(root, uni=())  # then there are no pairs
    (root / "train" / "sketch" / "1.bmp").unlink()
    assert open_it(root).count("photo") == 5  # and here none for this name


def test_folders_that_cannot_be_trained_on(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent").endswith("absent: no such folder")
    root = tmp_path / "d"
    root.mkdir()
    assert "neither a folder train nor a folder val; put the images" in refused(root)
    (root / "train").mkdir()
    assert refused(root).endswith("train needs a folder for each of at least two domains, it has none")
    write(root / "train" / "photo" / "1.png", color_of(1))
    assert refused(root).endswith("it has one, photo")
    for name in "ab":
        (root / "train" / name).mkdir()
    (root / "train" / "a" / "notes.txt").write_text("x")
    message = refused(root)
    assert message.startswith(f"no image files in {root / 'train' / 'a'}, {root / 'train' / 'b'}; a domain is a folder")
    for name in range(7):
        (root / "train" / f"b {name}").mkdir()
    message = refused(root)
    assert message.count("train/b ") == 5 and ", and 2 more; use letters, digits" in message


def test_a_domain_of_one_split_alone_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d")
    (root / "val" / "sketch").rename(root / "val" / "drawing")
    message = refused(root)
    assert f"{root}/train/sketch (no {root}/val/sketch), {root}/val/drawing (no {root}/train/drawing)" in message


def test_a_domain_of_damaged_files_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d")
    shutil.rmtree(root / "train" / "photo")
    write_damaged(root / "train" / "photo")
    assert refused(root, max_unreadable=1.0).startswith("3 of 3 image files cannot be read: ")
    assert "pair_fraction must be in [0, 1], got 2" in refused(write_folder(tmp_path / "e"), pair_fraction=2)


def test_sides_differ_from_the_images_of_these_tests() -> None:
    assert SIDE != SIZE, "else nothing would be stretched"


def test_links_to_nothing_are_unreadable_and_not_overlooked(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d")
    (root / "train" / "photo" / "9.png").symlink_to(tmp_path / "gone.png")
    (root / "train" / "photo" / "loop.png").symlink_to("loop.png")
    assert "2 of 6 image files cannot be read" in refused(root)
    with pytest.warns(RuntimeWarning, match=r"9.png: no such image file; .*loop.png: no such image file; left out"):
        assert open_it(root, max_unreadable=0.4).count("photo") == 4


def test_a_folder_that_cannot_be_listed_is_not_overlooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "d")
    scandir = os.scandir

    def refuse(folder: str) -> object:
        if str(folder).endswith("sub"):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert refused(root).startswith(f"{root / 'train' / 'photo' / 'sub'}: cannot list the folder (Permission denied)")


def test_names_pair_however_their_accents_are_stored(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for number, (composed, apart) in enumerate([("caf\u00e9", "cafe\u0301"), ("\u1e69", "s\u0307\u0323"), ("a", "a")]):
        write(root / "train" / "photo" / f"{composed}.png", color_of(number))
        write(root / "train" / "sketch" / f"{apart}.png", gray_of(number))
    images, known = open_it(root).pair("photo", "sketch", [0, 1, 2])
    assert known.all()
    names = sorted(["caf\u00e9", "\u1e69", "a"])  # the order of the photographs
    partners = {"caf\u00e9": "cafe\u0301", "\u1e69": "s\u0307\u0323", "a": "a"}
    for image, name in zip(images, names, strict=True):
        path = root / "train" / "sketch" / f"{partners[name]}.png"
        assert torch.equal((image * 255).round().byte(), torch.from_numpy(read_pixels(path, 1, SIZE)))


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".jif", ".pnm", ".dib"])
def test_rarer_suffixes_of_known_formats_are_images(tmp_path: Path, suffix: str) -> None:
    root = write_folder(tmp_path / "d")
    formats = {".pnm": "PPM", ".dib": "DIB"}
    path = root / "train" / "photo" / f"more{suffix}"
    Image.fromarray(color_of(9)).save(path, format=formats.get(suffix, "JPEG"))
    assert open_it(root).count("photo") == 5


def test_a_folder_test_serves_where_there_is_no_val(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", photos=range(4), sketches=range(4))
    said: list[str] = []
    write(root / "test" / "photo" / "9.png", color_of(9))
    write(root / "test" / "sketch" / "9.png", gray_of(9))
    assert open_it(root, split="test", report=said.append).count("photo") == 4
    assert said[0] == f"{root / 'test'} is not used, {root / 'val'} serves for testing"
    shutil.rmtree(root / "val")
    (root / "val").mkdir()  # an empty one is as good as none
    said.clear()
    with pytest.warns(RuntimeWarning, match="single image"):
        data = open_it(root, split="test", report=said.append)
    assert data.count("photo") == 1 and said[0] == f"{root / 'test'} serves as val"
    wanted = torch.from_numpy(read_pixels(root / "test" / "photo" / "9.png", 3, SIZE))
    assert torch.equal((data.images("photo", [0])[0] * 255).round().byte(), wanted)


def test_listing_a_file_or_a_folder_and_what_is_below_it(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.txt", ".hidden.png", "._b.png", "sub/b.jpeg", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = list_images(tmp_path)
    assert found.keys() == ["a", "b", "sub/b"]
    assert list_images(tmp_path / "c.txt").paths == (tmp_path / "c.txt",)
    with pytest.raises(UserError, match="no such file or folder"):
        list_images(tmp_path / "absent")
    (tmp_path / "folder.png" / "inner").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no image files \(.png, .*\) in this folder or below$"):
        list_images(tmp_path / "folder.png")

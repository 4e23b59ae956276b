"""Many images of one content: a place by day, at night and in snow, and its one map."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from folder_files import LOOKS, color_of, gray_of, write, write_places

from m2o_fast.data import BatchSampler, open_dataset
from m2o_fast.data.check import check_folder
from m2o_fast.data.contents import contents_by_name
from m2o_fast.data.folder import FolderDataset
from m2o_fast.errors import UserError

SIZE = 16


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def open_it(root: Path, **options) -> FolderDataset:
    dataset = open_dataset("folder", split="train", data_dir=root, image_size=SIZE, uni=("map",), **options)
    assert isinstance(dataset, FolderDataset)
    return dataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_places(tmp_path / "d" / "train")
    write_places(tmp_path / "d" / "val", {"place8": 2, "place9": 1}, first=20)
    return tmp_path / "d"


# photographs in the order of their paths: place1/0 place1/1 place1/2 place2 place3/0 ... place3/4
MAP_OF = [0, 0, 0, 1, 2, 2, 2, 2, 2]


def test_a_subfolder_holds_the_looks_of_the_image_of_its_name(root: Path) -> None:
    data = open_it(root)
    assert data.count("photo") == 9 and data.domains[0].name == "map"
    maps, known = data.pair("photo", "map", range(9))
    assert known.all() and torch.equal(maps, data.images("map", MAP_OF))
    assert [data.looks("map", "photo", number).tolist() for number in range(3)] == [[0, 1, 2], [3], [4, 5, 6, 7, 8]]
    assert data.looks("photo", "map", 5).tolist() == [2]


def test_an_equal_name_comes_before_a_subfolder_and_near_folders_before_far_ones() -> None:
    names = {"map": ["a", "a/b", "x/c"], "photo": ["a", "a/1", "a/b", "a/b/2", "a/d/3", "c/1", "x/c/1", "z"]}
    assert contents_by_name(names, ["map"])["photo"] == ["a", "a", "a/b", "a/b", "a", "c/1", "x/c", "z"]
    assert contents_by_name(names, []) == names, "without a uni-modal domain nothing belongs to a folder"
    more = {**names, "night": ["a/1", "a/2", "z"]}
    found = contents_by_name(more, ["map"])
    assert found["night"] == ["a", "a", "z"], "an equal name in another multi-modal domain takes no look from the map"
    assert found["photo"] == contents_by_name(names, ["map"])["photo"]


def test_looks_of_equal_name_in_two_multi_modal_domains_belong_to_the_one_map(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(2):
            write(tmp_path / split / "map" / f"place{number}.png", gray_of(number))
            for domain in ("paint", "photo"):
                write(tmp_path / split / domain / f"place{number}" / "day.png", color_of(10 * number + len(domain)))
    data = open_it(tmp_path)
    assert [data.looks("map", domain, 1).tolist() for domain in ("paint", "photo")] == [[1], [1]]
    assert data.looks("photo", "paint", 0).tolist() == [0]
    pairs = check_folder(tmp_path).facts["pairs"]["train"]
    assert [pairs[f"{domain}->map"]["found"] for domain in ("paint", "photo")] == [2, 2]


def test_a_pair_into_the_multi_modal_domain_is_one_of_the_looks_drawn_anew_in_every_epoch(root: Path) -> None:
    data, again = open_it(root), open_it(root)
    photos = data.images("photo", range(9))
    drawn: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for epoch in range(400):
        images, known = data.pair("map", "photo", [2, 0, 1], epoch)
        assert known.all() and torch.equal(again.pair("map", "photo", [2, 0, 1], epoch)[0], images)
        for number, image in zip([2, 0, 1], images, strict=True):
            (look,) = [row for row in range(9) if torch.equal(photos[row], image)]
            drawn[number].append(look)
    for number, many in enumerate(LOOKS.values()):
        counts = np.bincount(drawn[number], minlength=9)[np.array(MAP_OF) == number]
        assert counts.sum() == 400 and abs(counts - 400 / many).max() < 5 * (400 / many) ** 0.5
    mixed, _ = data.pair("map", "photo", [2, 2], torch.tensor([7, 8]))
    assert all(torch.equal(mixed[i], data.pair("map", "photo", [2], 7 + i)[0][0]) for i in range(2))
    others = [data.pair("map", "photo", [2], epoch)[0] for epoch in range(20)]
    seeded = [open_it(root, seed=1).pair("map", "photo", [2], epoch)[0] for epoch in range(20)]
    assert not torch.equal(torch.cat(others), torch.cat(seeded))


def test_the_share_of_pairs_counts_contents_and_is_the_same_both_ways(tmp_path: Path) -> None:
    write_places(tmp_path / "train", {f"p{number}": 1 + number % 4 for number in range(20)})
    known_before: set[int] = set()
    for fraction, many in ((0.25, 5), (0.5, 10), (1.0, 20)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = open_it(tmp_path, pair_fraction=fraction)
        known = set(data.pair("map", "photo", range(20))[1].nonzero().squeeze(1).tolist())
        assert len(known) == many and known_before < known
        by_photo = {row for row in range(data.count("photo")) if len(data.looks("photo", "map", row))}
        assert by_photo == {row for number in known for row in data.looks("map", "photo", number).tolist()}
        known_before = known
        whole = [len(data.looks("map", "photo", number)) for number in sorted(known)]
        assert all(whole), "a content is known with all its looks or not at all"


def test_batches_hold_looks_where_they_are_asked_for(root: Path) -> None:
    data = open_it(root)
    plain = BatchSampler(data, data.domains, 16, seed=3, pairs=[(1, 0)])
    asked = BatchSampler(data, data.domains, 16, seed=3, pairs=[(1, 0), (0, 1)])
    photos = data.images("photo", range(9)) * 2 - 1
    for step in range(6):
        batch, other = asked(step), plain(step)
        assert all(torch.equal(a, b) for a, b in zip(batch.source, other.source, strict=True))
        assert torch.equal(batch.paired[0], other.paired[0]) and not other.has_pair[other.target_counts[0] :].any()
        assert torch.equal(batch.has_pair[: batch.target_counts[0]], other.has_pair[: batch.target_counts[0]])
        known = batch.has_pair[batch.target_counts[0] :]
        sources = torch.cat([source.expand(-1, 3, -1, -1) for source in batch.source])[batch.to_target]
        for truth, source in zip(batch.paired[1][known], sources[batch.target_counts[0] :][known], strict=True):
            (look,) = [row for row in range(9) if torch.equal(photos[row], truth)]
            assert torch.equal(source[:1], data.images("map", [MAP_OF[look]])[0] * 2 - 1)
        assert int(known.sum()) == 4, "a quarter of the samples leads from the map to the photograph"


def test_two_multi_modal_domains_share_the_looks_of_a_content(tmp_path: Path) -> None:
    write_places(tmp_path / "train")
    for number, name in enumerate(("place1/x", "place1/y", "place3/x")):
        write(tmp_path / "train" / "night" / f"{name}.png", color_of(500 + number))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = open_it(tmp_path)
    assert data.looks("photo", "night", 1).tolist() == [0, 1]
    assert data.looks("night", "photo", 2).tolist() == [4, 5, 6, 7, 8]
    assert data.has_pairs() and data.has_pairs([(1, 2)]) and not data.has_pairs([(1, 1)])


def test_pairs_between_multi_modal_domains_are_none_for_what_learns_uni_modal_ones(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "train" / "a" / f"{number}.png", color_of(number))
        write(tmp_path / "train" / "b" / f"{number}.png", color_of(10 + number))
        write(tmp_path / "train" / "map" / f"m{number}.png", gray_of(number))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = open_it(tmp_path)
    assert data.has_pairs() and data.has_pairs([(0, 1)]) and not data.has_pairs([(0, 2), (1, 2)])


def test_data_check_counts_contents_and_looks_and_draws_one(root: Path, tmp_path: Path) -> None:
    report = check_folder(root, sheet=tmp_path / "sheet.png")
    assert "train: 9 of 9 images of photo have a pair in map" in report.lines
    assert "train: 3 contents of map with 1 to 5 looks in photo, mean 3" in report.lines
    assert "val: 2 contents of map with 1 to 2 looks in photo, mean 1.5" in report.lines
    assert report.facts["pairs"]["train"]["photo->map"]["looks"] == {"least": 1, "mean": 3.0, "most": 5}
    assert len(report.rows["one content, its looks"]) == 6 and "hms" in report.facts["command"]
    assert not any("both splits" in note for note in report.notes)


def test_a_content_with_looks_in_both_splits_is_named(root: Path) -> None:
    (root / "val" / "map" / "place9.png").write_bytes((root / "train" / "map" / "place3.png").read_bytes())
    (note,) = [note for note in check_folder(root).notes if "both splits" in note]
    assert note.startswith("1 content of map with looks in both splits: train/map/place3.png and val/map/place9.png;")
    (root / "val" / "photo" / "place9.png").unlink()
    assert not any("both splits" in note for note in check_folder(root).notes), "it has looks in one split alone"


def test_the_same_folder_without_looks_is_what_it_was(tmp_path: Path) -> None:
    """The choice of pairs of equal names, written anew from the definition of old: along the source's images."""
    from m2o_fast.data.dataset import known_pairs

    for number in range(12):
        write(tmp_path / "train" / "photo" / f"{number}.png", color_of(number))
        if number % 3:
            write(tmp_path / "train" / "map" / f"{number}.png", gray_of(number))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = open_it(tmp_path, pair_fraction=0.5)
    order = sorted(f"{number}.png" for number in range(12))
    paired = [row for row, name in enumerate(order) if int(name[:-4]) % 3]
    chosen = known_pairs(len(paired), 0.5, 777, "train/photo/map")
    assert data.pair("photo", "map", range(12))[1].nonzero().squeeze(1).tolist() == [
        row for row, known in zip(paired, chosen.tolist(), strict=True) if known
    ]


# --- the table ---


def table(root: Path, text: str | bytes) -> Path:
    path = root / "pairs.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_two_images_of_one_name_in_the_uni_modal_domain_make_the_looks_of_a_subfolder_unclear(root: Path) -> None:
    write(root / "train" / "map" / "place1.bmp", gray_of(50))
    told = f"not clear which images are pairs: {root / 'train' / 'map' / 'place1.bmp'} and place1.png; rename or remove"
    assert refused(root).startswith(told)
    assert [problem for problem in check_folder(root).problems if problem.startswith(told)]


def test_subfolders_tell_the_check_which_domain_is_uni_modal(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(3):
            write(tmp_path / split / "map" / f"place{number}.png", color_of(number))
            for look in range(2):
                write(tmp_path / split / "photo" / f"place{number}" / f"{look}.png", gray_of(10 * number + look))
    report = check_folder(tmp_path)
    assert report.facts["uni_guess"] == ["map"] and report.total == "12 pairs"
    assert "uni-modal: map (a guess: subfolders are named like its images)" in report.advice
    for split in ("train", "val"):
        write(tmp_path / split / "photo" / "x.png", gray_of(90))
        write(tmp_path / split / "map" / "x" / "y.png", color_of(90))
    assert check_folder(tmp_path).facts["uni_guess"] == ["photo"], "subfolders both ways tell nothing, gray does"


def refused(root: Path, **options) -> str:
    with pytest.raises(UserError) as error:
        open_it(root, **options)
    assert str(error.value).isprintable() and len(str(error.value)) < 1000
    return str(error.value)


def test_a_table_says_what_belongs_together_and_names_pair_nothing(root: Path) -> None:
    write(root / "train" / "photo" / "deep" / "x y.png", color_of(1))
    table(
        root,
        "\ufeffphoto,map\r\nplace1/0.png,place2\r\nplace1/1,place2.png\r\n\r\n ./place3/4 ,\r\n"
        '"deep/x y",place3\r\nplace8/0,place8\r\nplace1/0,place2\r\n',
    )
    data = open_it(root)  # photographs: deep/x y, place1/0, ...
    assert [data.looks("map", "photo", number).tolist() for number in range(3)] == [[], [1, 2], [0]]
    _, known = data.pair("photo", "map", range(10))
    assert known.tolist() == [True, True, True] + [False] * 7
    report = check_folder(root)
    assert "val: 1 of 3 images of photo have a pair in map; not: place8/1, place9" in report.lines


def test_rows_with_an_image_in_common_show_one_content(tmp_path: Path) -> None:
    write_places(tmp_path / "train")
    write(tmp_path / "train" / "night" / "n.png", color_of(500))
    write(tmp_path / "train" / "night" / "o.png", color_of(501))
    table(tmp_path, "map,photo,night\nplace1,place1/0,\nplace1,,n\n,place3/1,o\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = open_it(tmp_path)
    assert data.looks("photo", "night", 0).tolist() == [0] and data.looks("night", "photo", 1).tolist() == [5]
    assert data.looks("night", "map", 0).tolist() == [0] and data.looks("night", "map", 1).tolist() == []


def test_another_table_is_other_data(root: Path) -> None:
    fingerprints = {open_it(root).fingerprint}
    for text in ("map,photo\nplace1,place1/0\n", "map,photo\nplace1,place1/1\n", "photo,map\nplace1/1,place1\n"):
        table(root, text)
        fingerprints.add(open_it(root).fingerprint)
    assert len(fingerprints) == 3, "the order of the columns says nothing"


def test_equal_names_in_both_splits_are_a_pair_in_each(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_places(tmp_path / split)
    table(tmp_path, "map,photo\nplace1,place1/0\n")
    assert open_it(tmp_path).has_pairs()
    assert check_folder(tmp_path).facts["pairs"]["val"]["photo->map"]["found"] == 1


def test_data_check_tells_what_is_wrong_with_a_table(root: Path) -> None:
    table(root, "map,photo\n\nplace7,place2\n")
    told = refused(root)
    assert "line 3: no image 'place7' in " in told
    assert told in check_folder(root).problems


def test_a_name_for_several_images_needs_its_suffix(root: Path) -> None:
    write(root / "train" / "photo" / "place2.bmp", color_of(9))
    table(root, "map,photo\nplace1,place2\n")
    assert "line 2: several images are called 'place2' in " in refused(root)
    table(root, "map,photo\nplace1,place2.bmp\n")
    assert len(open_it(root).looks("map", "photo", 0)) == 1


def test_composed_and_decomposed_names_are_one(tmp_path: Path) -> None:
    for place, look in (("caf\u00e9", "cafe\u0301"), ("b", "b")):
        write(tmp_path / "train" / "map" / f"{place}.png", gray_of(1))
        write(tmp_path / "train" / "photo" / f"{look}-1.png", color_of(1))
    table(tmp_path, "map,photo\ncafe\u0301,caf\u00e9-1\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert open_it(tmp_path).looks("map", "photo", 1).tolist() == [1]

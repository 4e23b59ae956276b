"""Several data sets side by side, each with labels of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from folder_files import color_of, gray_of, write, write_folder

from m2o_fast.data import open_dataset
from m2o_fast.data.check import check_folder
from m2o_fast.data.dataset import Dataset
from m2o_fast.data.learner import Fitting, Learner
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain


def write_hands(root: Path) -> Path:
    """Domains ``bold`` and ``thin``, gray, with three and five images; in each ``0`` to ``2`` are pairs."""
    for split in ("train", "val"):
        for name, count in (("bold", 3), ("thin", 5)):
            for number in range(count):
                write(root / split / name / f"{number}.png", gray_of(100 * (name == "bold") + number))
    return root


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write_folder(tmp_path / "a"), write_hands(tmp_path / "b")


def opened(first: Path, *also: Path, uni: tuple[str, ...] = (), split: str = "train") -> Dataset:
    return open_dataset("folder", split=split, data_dir=first, also=also, uni=uni, image_size=12, cache=False)


def test_domains_are_those_of_one_after_the_other(folders: tuple[Path, Path]) -> None:
    both, one, two = opened(*folders, uni=("bold",)), opened(folders[0]), opened(folders[1], uni=("bold",))
    assert both.domains == (*one.domains, *two.domains)
    assert [(domain.name, domain.channels, domain.multimodal) for domain in both.domains] == [
        ("photo", 3, True),
        ("sketch", 1, True),
        ("bold", 1, False),
        ("thin", 1, True),
    ]
    assert both.sets == (2, 2) and one.sets == (2,)
    for k, name in enumerate(("photo", "sketch", "bold", "thin")):
        part, number = (one, k) if k < 2 else (two, k - 2)
        assert both.count(name) == both.count(k) == part.count(number)
        assert torch.equal(both.images(k, [2, 0]), part.images(number, [2, 0]))
        assert torch.equal(both.contents(k), part.contents(number))


def test_images_of_two_data_sets_are_never_a_pair(folders: tuple[Path, Path]) -> None:
    """Though they are named alike: numbers 0 to 2 are in all domains."""
    both, two = opened(*folders, uni=("bold", "sketch")), opened(folders[1], uni=("bold",))
    images, known = both.pair("thin", "bold", [1, 4])
    assert known.tolist() == [True, False] and torch.equal(images, two.pair(1, 0, [1, 4])[0])
    assert both.looks("thin", "bold", 1).tolist() == [1]
    assert both.pair("photo", "bold", [1]) is None and both.pair(2, 0, [1]) is None
    assert both.looks("photo", "bold", 1).tolist() == []
    assert both.has_pairs() and both.has_pairs([(3, 2)]) and both.has_pairs([(0, 1)])
    assert not both.has_pairs([(0, 2), (3, 1)])


def test_the_fingerprint_holds_both_and_their_order(folders: tuple[Path, Path]) -> None:
    both, other, test = opened(*folders), opened(*folders[::-1]), opened(*folders, split="test")
    assert len({both.fingerprint, other.fingerprint, test.fingerprint, opened(folders[0]).fingerprint}) == 4
    assert opened(*folders).fingerprint == both.fingerprint
    write(folders[1] / "train" / "thin" / "0.png", gray_of(7))
    assert opened(*folders).fingerprint != both.fingerprint


def test_what_cannot_be_one_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folders[0])
    with pytest.raises(UserError, match=rf"data folder {folders[0]} is given twice; name each data set once"):
        opened(*folders, link)
    for split in ("train", "val"):
        write(folders[1] / split / "photo" / "0.png", color_of(0))
    with pytest.raises(
        UserError, match=rf"{folders[0]} and {folders[1]} both have a domain photo: .* rename one, or, where they mean"
    ):
        opened(*folders)
    with pytest.raises(UserError, match=r"none: no such folder"):
        opened(folders[0], tmp_path / "none")


def test_a_name_of_no_domain_is_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=r"'bald'; nearest: 'bold' \(domains: photo, sketch, bold, thin\)"):
        opened(*folders, uni=("bald",))


LEARNER = Learner("stargan", ("plain",), several_sets=True, size=lambda side: 4 * side)


def test_data_check_names_all_and_prints_one_command(folders: tuple[Path, Path], tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    report = check_folder(folders, 0.5, sheet, learner=LEARNER)
    assert [line for line in report.lines if "own images" in line] == [f"{folder}: own images" for folder in folders]
    assert "train/thin: 5 images, all 12x12, L 5" in report.lines and sheet.is_file()
    named = f"--data folder:{folders[0]} --data folder:{folders[1]}"
    command = f"m2o-fast train --system stargan {named} --set data.image_size=48 --set data.max_unreadable=0.5"
    assert report.text()[-2:] == [command, "2 data sets, 0 problems"] and report.as_json()["command"] == command
    assert [list(facts["splits"]["val"]) for facts in report.as_json()["data_sets"]] == [
        ["photo", "sketch"],
        ["bold", "thin"],
    ]
    assert all(note.startswith((f"{folders[0]}: ", f"{folders[1]}: ")) for note in report.notes) and report.notes


@pytest.mark.parametrize("hours", [0.25, None])
def test_the_command_for_all_fits_the_machine(folders: tuple[Path, Path], hours: float | None) -> None:
    """It is found out for the domains of all data sets, as the base model without rules takes them."""
    asked = []

    def fitting(variant: str, domains: Sequence[Domain], side: int, sets: Sequence[int]) -> Fitting:
        asked.append((variant, [(domain.name, domain.channels) for domain in domains], side, list(sets)))
        return Fitting(["--preset", "small"], hours)

    report = check_folder(folders, learner=replace(LEARNER, fitting=fitting))
    assert asked == [("plain", [("photo", 3), ("sketch", 1), ("bold", 1), ("thin", 1)], 12, [2, 2])]
    command, *time = report.advice
    assert command.endswith(f"--data folder:{folders[1]} --preset small") and command == report.facts["command"]
    assert time == (["expected time on this machine: about 15 min"] if hours else [])
    assert report.facts.get("expected_hours") == hours


def test_data_check_says_what_training_would_refuse(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (folders[1] / "train" / "thin" / "0.png").write_text("no image")
    with pytest.raises(UserError, match="none: no such folder"):
        check_folder([folders[0], tmp_path / "none"], learner=LEARNER)
    for folder, message in (
        (folders[0], f"data folder {folders[0]} is given twice; name each data set once"),
        (folders[1], f"{folders[1]}: train/thin: 1 of 5 image files cannot be read"),
    ):
        report = check_folder([folders[0], folder], 0, learner=LEARNER)
        assert [problem for problem in report.problems if problem.startswith(message)] == report.problems != []
        assert not report.advice and report.text()[-1] == "2 data sets, 1 problem"
    for learner, name in (
        (Learner("cyclegan", two_domains=True), "system 'cyclegan'"),
        (Learner(), "the default system"),
    ):
        report = check_folder(folders, 0.5, learner=learner)
        assert f"{name} learns from one data set; check each alone" in report.problems and not report.advice

"""What is known of files that were read before, and what is not believed."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from folder_files import color_of, gray_of, write
from safetensors.numpy import load, save

from m2o_fast.cli import main
from m2o_fast.data import check_report, layout, open_dataset, parallel
from m2o_fast.data import index as index_module
from m2o_fast.data.check import check_folder
from m2o_fast.data.index import FileIndex
from m2o_fast.data.layout import list_domains, splits_of
from m2o_fast.data.one_look import one_look
from m2o_fast.data.parallel import mapped


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index_module, "_RECENT", 0)  # files of these tests are new


def files(folder: Path, count: int = 40) -> list[str]:
    names = [f"{number:02d}" if number % 2 else f"sub/{number:02d}" for number in range(count)]
    (folder / "sub").mkdir(parents=True)
    for name in names:
        (folder / name).write_text(name)
    return names


class Reader:
    """SHA-256 that counts; as many facts as digests."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, path: str) -> bytes:
        self.read.append(Path(path).name)
        return hashlib.sha256(Path(path).read_bytes()).hexdigest().encode()


def facts(folder: Path, names: list[str], reader: Reader, **options: bool) -> list[bytes]:
    return FileIndex(folder, names, **options).column("fact", reader, "reading").tolist()


def test_files_with_the_same_dates_are_not_read_again(tmp_path: Path) -> None:
    names, reader = files(tmp_path / "a"), Reader()
    first = facts(tmp_path / "a", names, reader)
    assert first == [hashlib.sha256(name.encode()).hexdigest().encode() for name in names]
    assert facts(tmp_path / "a", names, reader) == first and len(reader.read) == 40
    assert facts(tmp_path / "a", names[5:10], reader) == first[5:10] and len(reader.read) == 40
    assert facts(tmp_path / "a", names[::-1], reader) == first[::-1], "whatever their order"


@pytest.mark.parametrize("change", ["content", "content and date", "other file", "date"])
def test_a_changed_file_is_read_again(tmp_path: Path, change: str) -> None:
    names, reader = files(tmp_path / "a"), Reader()
    facts(tmp_path / "a", names, reader)
    path, reader.read = tmp_path / "a" / names[3], []
    before = path.stat()
    if change == "content":
        path.write_text("xx")
    elif change == "content and date":  # as archives and cp -p set it: the inode's own date tells
        path.write_text("xx")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "other file":
        path.rename(tmp_path / "old")
        path.write_text("xx")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        os.utime(path)
    found = facts(tmp_path / "a", names, reader)
    assert reader.read == [path.name]
    assert found[3] == hashlib.sha256(path.read_bytes()).hexdigest().encode()
    for name in names:
        (tmp_path / "a" / name).unlink()
    assert len(facts(tmp_path / "a", names[:0], reader)) == 0


def test_a_file_changed_just_before_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, reader = files(tmp_path / "a"), Reader()
    monkeypatch.setattr(index_module, "_RECENT", 3600 * 10**9)
    facts(tmp_path / "a", names, reader)
    facts(tmp_path / "a", names, reader)
    assert len(reader.read) == 80, "a coarse clock could not tell another change"


def test_verifying_reads_all(tmp_path: Path) -> None:
    names, reader = files(tmp_path / "a"), Reader()
    for options in ({}, {"verify": True}, {"keep": False}, {}):
        facts(tmp_path / "a", names, reader, **options)
    assert len(reader.read) == 80


def test_dates_are_looked_at_before_files_are_read(tmp_path: Path) -> None:
    names, reader = files(tmp_path / "a"), Reader()

    def read_what_changes_meanwhile(path: str) -> bytes:
        fact = reader(path)
        Path(path).write_text(f"another {path}")
        return fact

    FileIndex(tmp_path / "a", names, verify=True).column("fact", read_what_changes_meanwhile, "reading")
    assert (
        facts(tmp_path / "a", names, reader)[1]
        == hashlib.sha256((tmp_path / "a" / names[1]).read_bytes()).hexdigest().encode()
    )


def test_nothing_is_kept_unasked(tmp_path: Path) -> None:
    names, reader = files(tmp_path / "a"), Reader()
    facts(tmp_path / "a", names, reader, keep=False)
    facts(tmp_path / "a", names, reader, keep=False)
    assert len(reader.read) == 80 and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", ["cut", "text", "one fact", "other shape", "format"])
def test_a_damaged_index_is_made_anew(tmp_path: Path, damage: str) -> None:
    names, reader = files(tmp_path / "a"), Reader()
    first = facts(tmp_path / "a", names, reader)
    (path,) = (tmp_path / "cache" / "m2o_fast" / "index").iterdir()
    if damage == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif damage == "text":
        path.write_text("{}")
    else:
        arrays = load(path.read_bytes())
        arrays |= {
            "one fact": {"fact": np.zeros((1, 64), dtype=np.uint8)},
            "other shape": {"stats": np.zeros((3, 4), dtype=np.int64)},
            "format": {"format": np.array([99])},
        }[damage]
        path.write_bytes(save(arrays))
    assert facts(tmp_path / "a", names, reader) == first and len(reader.read) == 80
    assert facts(tmp_path / "a", names, reader) == first and len(reader.read) == 80


def test_an_index_that_cannot_be_written_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    names, reader = files(tmp_path / "a"), Reader()
    assert facts(tmp_path / "a", names, reader) == facts(tmp_path / "a", names, reader)


def test_files_that_cannot_be_read_have_digests_of_zeros(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "good").write_text("x")
    found = FileIndex(tmp_path, ["link", "pipe", "good"]).digests().tolist()
    assert found == [b"0" * 64, b"0" * 64, hashlib.sha256(b"x").hexdigest().encode()]


def test_a_read_error_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = files(tmp_path / "a")

    def fails(file: object, name: str) -> object:
        if str(getattr(file, "name", "")).endswith(names[3]):
            raise OSError("the disk does not answer")
        return digest(file, name)

    digest = hashlib.file_digest
    with monkeypatch.context() as patch:
        patch.setattr(index_module.hashlib, "file_digest", fails)
        found = FileIndex(tmp_path / "a", names).digests().tolist()
        assert found.index(b"0" * 64) == 3 and found.count(b"0" * 64) == 1
    whole = [hashlib.sha256(name.encode()).hexdigest().encode() for name in names]
    assert FileIndex(tmp_path / "a", names).digests().tolist() == whole


def test_a_header_that_cannot_be_read_once_does_not_tell_the_channels_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_images(tmp_path / "d")
    for split in ("train", "val"):
        for number in range(1, 6):
            write(root / split / "photo" / f"{number}.png", gray_of(number))
    options = {"split": "train", "data_dir": root, "image_size": 16, "uni": ("map",)}
    with monkeypatch.context() as patch:
        patch.setattr("m2o_fast.data.folder.is_gray", lambda path: None if path.endswith("0.png") else True)
        assert open_dataset("folder", **options).domains[1].channels == 1
    assert open_dataset("folder", **options).domains[1].channels == 3


# --- a training start, and the check ---


def write_images(root: Path) -> Path:
    for split in ("train", "val"):
        for number in range(6):
            write(root / split / "photo" / f"{number}.png", color_of(number + 10 * (split == "val")))
            write(root / split / "map" / f"{number}.png", gray_of(number + 10 * (split == "val")))
    return root


def test_a_second_start_opens_no_image_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_images(tmp_path / "d")
    options = {"data_dir": root, "image_size": 16, "uni": ("map",)}
    first = {split: open_dataset("folder", split=split, **options).fingerprint for split in ("train", "test")}
    report, examined = check_folder(root), []
    opened: list[str] = []

    def refuse(path: object, *_: object, **__: object) -> object:
        opened.append(str(path))
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr("PIL.Image.open", refuse)
        patch.setattr(index_module, "_digest", refuse)
        for split, fingerprint in first.items():
            assert open_dataset("folder", split=split, **options).fingerprint == fingerprint
        assert opened == []
    monkeypatch.setattr("m2o_fast.data.check_report._examine", lambda path, part: examined.append(path))
    assert check_folder(root).text() == report.text() and examined == []


@pytest.mark.parametrize("verify", [False, True])
def test_a_start_looks_at_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: bool) -> None:
    root = write_images(tmp_path / "d")
    options = {"data_dir": root, "image_size": 16, "uni": ("map",), "verify": verify}
    seen: dict[str, list[str]] = {"_stat": [], "_digest": [], "_collect": []}

    def watch(module: object, name: str) -> None:
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda path, *more: seen[name].append(path) or function(path, *more))

    apart = [open_dataset("folder", split=split, **options) for split in ("train", "test")]
    for module, name in ((index_module, "_stat"), (index_module, "_digest"), (layout, "_collect")):
        watch(module, name)
    with one_look():
        list_domains(root, splits_of(root))  # as training does first
        together = [open_dataset("folder", split=split, **options) for split in ("train", "test")]
    assert [one.fingerprint for one in together] == [one.fingerprint for one in apart]
    images = sorted(path for path in map(str, root.rglob("*.png")))
    assert sorted(path for path in seen["_stat"] if path.endswith(".png")) == images
    assert sorted(seen["_digest"]) == (images if verify else [])
    assert len(seen["_collect"]) == len(set(seen["_collect"]))


def test_training_looks_once_and_again_after_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, seen = write_images(tmp_path / "d"), []
    stat = index_module._stat
    monkeypatch.setattr(index_module, "_stat", lambda path: seen.append(path) or stat(path))
    words = ["train", "--data", f"folder:{root}", "--uni", "map", "--preset", "digits", "--dry-run"]
    for times in (2, 1):  # what is decoded is looked at again, for what was changed meanwhile
        seen.clear()
        assert main(words) == 0
        assert set(Counter(path for path in seen if path.endswith(".png")).values()) == {times}


def test_a_change_after_the_look_is_seen(tmp_path: Path) -> None:
    root = write_images(tmp_path / "d")
    options = {"split": "train", "data_dir": root, "image_size": 16, "uni": ("map",)}
    with one_look():
        first = open_dataset("folder", **options)
        write(root / "train" / "photo" / "new.png", color_of(77))
        assert open_dataset("folder", **options).fingerprint == first.fingerprint
    assert open_dataset("folder", **options).count("photo") == first.count("photo") + 1


def test_the_other_split_is_left_alone_where_the_own_one_is_coloured(tmp_path: Path, monkeypatch) -> None:
    root, seen = write_images(tmp_path / "d"), []
    stat = index_module._stat
    monkeypatch.setattr(index_module, "_stat", lambda path: seen.append(path) or stat(path))
    open_dataset("folder", split="test", data_dir=root, image_size=16, uni=("map",))
    others = {Path(path).parent.name for path in seen if path.startswith(str(root / "train"))}
    assert others == {"map"}


def test_a_change_that_dates_do_not_show_is_found_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_images(tmp_path / "d")
    options = {"split": "train", "data_dir": root, "image_size": 16, "uni": ("map",)}
    first = open_dataset("folder", **options)
    stat = index_module._stat
    monkeypatch.setattr(index_module, "_stat", lambda path: (1, 2, 3, 4) if path.endswith(".png") else stat(path))
    blind = open_dataset("folder", **options)
    write(root / "train" / "photo" / "2.png", color_of(77))
    assert blind.fingerprint == open_dataset("folder", **options).fingerprint == first.fingerprint
    verified = open_dataset("folder", **options, verify=True)
    assert verified.fingerprint != first.fingerprint
    assert not np.array_equal(verified.images("photo", [2]), first.images("photo", [2]))


def test_the_command_line_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_images(tmp_path / "d")
    assert main(["data", "check", str(root), "--sheet", str(tmp_path / "sheet.png"), "--verify-data"]) == 0
    words = ["train", "--data", f"folder:{root}", "--uni", "map", "--verify-data", "--dry-run", "--steps", "1"]
    assert main([*words, "--preset", "digits"]) == 0
    assert "verify: true" in capsys.readouterr().out


@pytest.mark.parametrize("verify", [False, True])
def test_files_of_joined_images_are_read_once_for_both_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: bool
) -> None:
    for number in range(4):
        for split in ("train", "val"):
            joined = np.concatenate([color_of(number), color_of(9 + number + 10 * (split == "val"))], axis=1)
            write(tmp_path / "d" / split / f"{number}.png", joined)
    digested: list[str] = []
    digest, examine = index_module._digest, check_report._examine
    monkeypatch.setattr(index_module, "_digest", lambda path: digested.append(path) or digest(path))
    options = {"data_dir": tmp_path / "d", "image_size": 16, "uni": ("B",), "verify": verify}
    open_dataset("folder", split="train", **options)
    assert len(digested) == 4
    report = check_folder(tmp_path / "d", verify=verify)
    examined: list[str] = []
    monkeypatch.setattr(check_report, "_examine", lambda path, part: examined.append(part) or examine(path, part))
    assert check_folder(tmp_path / "d").text() == report.text() and examined == []


# --- work on many files ---


def test_results_come_in_order_and_not_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    threads, started = set(), []

    def slow(number: int) -> int:
        threads.add(threading.get_ident())
        started.append(number)
        time.sleep(0.001 if number % 7 else 0.01)
        return number * number

    results = mapped(slow, range(1000), chunk=4)
    assert [next(results) for _ in range(10)] == [number * number for number in range(10)]
    time.sleep(0.2)
    assert len(started) <= 10 + 4 * (2 * 3 + 2), "what is done ahead is bounded"
    assert list(results) == [number * number for number in range(10, 1000)] and len(threads) == 3


def test_an_error_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def fails(number: int) -> int:
        done.append(number)
        return 1 // (number - 20)

    with pytest.raises(ZeroDivisionError):
        list(mapped(fails, range(100_000)))
    assert len(done) < 10_000


def test_progress_tells_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [0.0], []
    monkeypatch.setattr(parallel.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    for _ in mapped(lambda number: number, range(640), "decoding images of d", said.append):
        now[0] += 0.1
    told = re.fullmatch(r"decoding images of d: (\d+) of 640, (\d+) files/s, (\d+) s left", said[0])
    assert told is not None
    done, rate, left = map(int, told.groups())
    assert 8 <= rate <= 14 and left == pytest.approx((640 - done) / rate, abs=10)
    assert 8 <= len(said) <= 13, "a line every five of 64 seconds"

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from source_tree import ROOT

from m2o_fast.data import cache, index
from m2o_fast.data.cache import Decoded, decoded, decoded_directory, named
from m2o_fast.errors import UserError

SHAPE = (1, 2, 3)


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Decoder:
    """Files of six bytes; files of another length are damaged."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, path: Path) -> np.ndarray:
        self.calls.append(path.name)
        if len(data := path.read_bytes()) != 6:
            raise UserError(f"{path}: {len(data)} bytes")
        return np.frombuffer(data, np.uint8).reshape(SHAPE)


def files(folder: Path, count: int = 5) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number}.raw" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(range(number, number + 6)))
    return paths


def call(paths: list[Path], decode: Callable[[Path], np.ndarray] | None = None, **options) -> Decoded:
    options = {"recipe": "six bytes", "keep": True, "max_unreadable": 0.5} | options
    recipe = options.pop("recipe")
    return decoded(paths, decode or Decoder(), SHAPE, recipe, **options)


def kept_files() -> list[str]:
    return sorted(path.suffix for path in decoded_directory().iterdir() if path.suffix != ".lock")


def expected(*numbers: int) -> np.ndarray:
    return np.array([range(number, number + 6) for number in numbers], dtype=np.uint8).reshape(-1, *SHAPE)


def test_what_is_kept_is_read_and_not_decoded_again(tmp_path: Path) -> None:
    paths, decode, lines = files(tmp_path / "a"), Decoder(), []
    first = call(paths, decode, report=lines.append)
    assert sorted(decode.calls) == [path.name for path in paths]
    assert lines[0] == f"decoding 5 images of {tmp_path / 'a'}" and "(0.0 MB)" in lines[1]
    second = call(paths, decode, report=lines.append)
    assert len(decode.calls) == 5 and len(lines) == 2
    for result in (first, second):
        assert np.array_equal(result.images, expected(*range(5))) and isinstance(result.images, np.memmap)
        assert result.kept.tolist() == list(range(5)) and result.unreadable == ()
        assert not result.images.flags.writeable
    assert first.fingerprint == second.fingerprint
    (path,) = decoded_directory().glob("*.npy")
    assert np.array_equal(np.load(path, allow_pickle=False), first.images)


def test_the_key_is_the_content(tmp_path: Path) -> None:
    paths = files(tmp_path / "a")
    first = call(paths)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    decode = Decoder()
    moved = call([tmp_path / "b" / path.name for path in paths], decode)
    assert decode.calls == [] and moved.fingerprint == first.fingerprint
    before = paths[2].stat()
    paths[2].write_bytes(bytes(range(90, 96)))
    os.utime(paths[2], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (paths[2].stat().st_size, paths[2].stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    changed = call(paths)
    assert np.array_equal(changed.images, expected(0, 1, 90, 3, 4)) and changed.fingerprint != first.fingerprint
    others = [call(paths[::-1]), call(paths, recipe="another"), call(paths[:4])]
    paths[4].rename(tmp_path / "a" / "renamed.raw")
    others.append(call([*paths[:4], tmp_path / "a" / "renamed.raw"]))
    assert len({result.fingerprint for result in (first, changed, *others)}) == 6
    assert np.array_equal(others[0].images, changed.images[::-1])


def test_other_decoders_are_asked_anew_for_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, decode = files(tmp_path / "a"), Decoder()
    first = call(paths, decode)
    monkeypatch.setattr("PIL.__version__", "99.0")
    assert call(paths, decode).fingerprint == first.fingerprint and len(decode.calls) == 10


@pytest.mark.parametrize("keep", [True, False])
def test_unreadable_files_are_left_out_up_to_a_share(tmp_path: Path, keep: bool) -> None:
    paths = files(tmp_path / "a", 19)
    for number in range(3, 10):
        paths[number].write_bytes(b"short")
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match=r"7 of 19 image files cannot be read: .*/3.raw: 5 bytes; ") as caught:
            result = call(paths, keep=keep)
        assert len(caught) == 1 and str(caught[0].message).endswith("/7.raw: 5 bytes; and 2 more; left out")
        assert result.kept.tolist() == [0, 1, 2, *range(10, 19)] and result.images.shape == (12, *SHAPE)
        assert np.array_equal(result.images, expected(*result.kept))
        assert result.unreadable == tuple(f"{path}: 5 bytes" for path in paths[3:10])
    with pytest.raises(UserError, match=r"3.raw: 5 bytes; .*and 2 more; data.max_unreadable 0.3 allows 6: "):
        call(paths, keep=keep, max_unreadable=0.3)
    with pytest.raises(UserError, match=r"^7 of 7 image files cannot be read"):
        call(paths[3:10], keep=keep, max_unreadable=1.0)


@pytest.mark.parametrize(
    ("count", "share", "allowed"), [(10, 0, 0), (10, 0.01, 1), (100, 0.07, 7), (300, 0.01, 3), (301, 0.01, 4)]
)
def test_the_share_of_unreadable_files_is_rounded_up(count: int, share: float, allowed: int) -> None:
    assert cache.allowed_unreadable(count, share) == allowed


def test_a_file_that_failed_for_a_moment_comes_back(tmp_path: Path) -> None:
    paths, works = files(tmp_path / "a"), Decoder()

    def fails(path: Path) -> np.ndarray:
        if path.name == "1.raw":
            raise UserError(f"{path}: the disk is tired")
        return works(path)

    with pytest.warns(RuntimeWarning, match="1.raw: the disk is tired; left out"):
        assert len(call(paths, fails).images) == 4
    assert np.array_equal(call(paths, works).images, expected(*range(5)))


def test_a_file_whose_content_was_unknown_for_a_moment_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images would be found again for any other content that could not be read."""
    paths, digest = files(tmp_path / "a"), index._digest
    for content in (b"abcdef", b"ghijkl"):
        paths[1].write_bytes(content)
        with monkeypatch.context() as patch, pytest.warns(RuntimeWarning, match="1.raw could not be read at first"):
            patch.setattr(index, "_digest", lambda path: b"" if path.endswith("1.raw") else digest(path))
            assert bytes(call(paths).images[1].flat) == content
        assert ".npy" not in kept_files()
    assert bytes(call(paths).images[1].flat) == b"ghijkl" and ".npy" in kept_files()


def test_without_keeping_nothing_is_written(tmp_path: Path) -> None:
    result = call(files(tmp_path / "a"), keep=False)
    assert np.array_equal(result.images, expected(*range(5))) and not isinstance(result.images, np.memmap)
    assert not decoded_directory().exists()


def damage(kind: str) -> None:
    (array,), (facts,) = decoded_directory().glob("*.npy"), decoded_directory().glob("*.json")
    if kind == "flip":
        data = bytearray(array.read_bytes())
        data[-1] ^= 1
        array.write_bytes(data)
    elif kind == "cut":
        os.truncate(array, array.stat().st_size - 1)
    elif kind == "garbage":
        facts.write_text("{")
    elif kind == "other facts":
        facts.write_text('{"unreadable": [1000], "sha256": []}')
    else:
        {"no array": array, "no facts": facts}[kind].unlink()


@pytest.mark.parametrize("kind", ["flip", "cut", "garbage", "other facts", "no array", "no facts"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, kind: str) -> None:
    paths, decode = files(tmp_path / "a"), Decoder()
    call(paths)
    damage(kind)
    assert np.array_equal(call(paths, decode).images, expected(*range(5))) and len(decode.calls) == 5
    assert np.array_equal(call(paths, decode).images, expected(*range(5))) and len(decode.calls) == 5


def test_a_full_disk_and_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = files(tmp_path / "a")
    with monkeypatch.context() as patch:

        def full(*_: object) -> bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(cache, "_npy_header", full)
        with pytest.warns(RuntimeWarning, match=r"cannot be kept in .*decoded \(No space left on device\) and stay in"):
            assert np.array_equal(call(paths).images, expected(*range(5)))
        assert kept_files() == []
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        assert np.array_equal(call(paths).images, expected(*range(5)))


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    paths, decode = files(tmp_path / "a"), Decoder()
    for _ in range(2):
        assert np.array_equal(call(paths, decode).images, expected(*range(5))) and len(decode.calls) == 5


PROGRAM = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from m2o_fast.data import cache
folder, log, die = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
def decode(path):
    with log.open("a") as file:
        file.write(path.name + "\\n")
    if 0 < die <= len(log.read_text().splitlines()):  # another thread may have come between
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return np.frombuffer(path.read_bytes(), np.uint8).reshape(1, 2, 3)
paths = sorted(folder.iterdir())
result = cache.decoded(paths, decode, (1, 2, 3), "six bytes", keep=True, max_unreadable=0)
print(result.images.sum(), result.fingerprint)
"""


def start(folder: Path, log: Path, die: int = -1) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", PROGRAM, str(folder), str(log), str(die)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_of_two_processes_one_decodes(tmp_path: Path) -> None:
    paths = files(tmp_path / "a", 8)
    both = [start(tmp_path / "a", tmp_path / "log") for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert said[0] == said[1] == f"{expected(*range(8)).sum()} {call(paths).fingerprint}\n"
    assert sorted((tmp_path / "log").read_text().split()) == [path.name for path in paths]


def test_a_kill_while_writing_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    paths, decode = files(tmp_path / "a"), Decoder()
    process = start(tmp_path / "a", tmp_path / "log", die=4)
    process.communicate(timeout=120)
    assert process.returncode == -9 and kept_files() == [".part"]
    assert np.array_equal(call(paths, decode).images, expected(*range(5))) and len(decode.calls) == 5
    assert kept_files() == [".json", ".npy"]


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def wrong(path: Path) -> np.ndarray:
        return np.zeros((2, 2), dtype=np.uint8)

    paths = files(tmp_path / "a")
    with pytest.raises(ValueError, match=r"was decoded as uint8 \[2, 2\], expected \[1, 2, 3\]"):
        call(paths, wrong)
    assert kept_files() == []
    with pytest.raises(ValueError, match="at least one file"):
        call([])


def test_naming_the_first_five() -> None:
    assert named(["a"]) == "a" and named(list("abcde"), ", ") == "a, b, c, d, e"
    assert named(list("abcdefg"), ", ") == "a, b, c, d, e, and 2 more"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    paths = files(tmp_path / "a")
    paths[2].unlink()
    os.mkfifo(paths[2])

    def decode(path: Path) -> np.ndarray:
        if path == paths[2]:
            raise UserError(f"{path}: a pipe")
        return np.frombuffer(path.read_bytes(), np.uint8).reshape(SHAPE)

    with pytest.warns(RuntimeWarning, match="a pipe; left out"):
        assert call(paths, decode).kept.tolist() == [0, 1, 3, 4]


def test_without_a_home_the_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        call(files(tmp_path / "a"))


@pytest.mark.parametrize("keep", [True, False])
def test_a_file_that_is_replaced_meanwhile_is_not_taken_for_the_old_one(tmp_path: Path, keep: bool) -> None:
    """It was hashed, so the fingerprint would be that of the old content."""
    paths = files(tmp_path / "a")

    def replacing_decoder(path: Path) -> np.ndarray:
        if path == paths[3]:
            (tmp_path / "new").write_bytes(bytes(range(90, 96)))
            (tmp_path / "new").rename(path)
        return Decoder()(path)

    with pytest.raises(UserError, match=r"^1 of 5 image files were changed while they were read: \S+/a/3.raw; start"):
        call(paths, replacing_decoder, keep=keep)
    assert not decoded_directory().exists() or kept_files() == []
    assert np.array_equal(call(paths, keep=keep).images, expected(0, 1, 2, 90, 4))


@pytest.mark.parametrize("keep", [True, False])
def test_other_dates_of_the_same_content_are_no_change(tmp_path: Path, keep: bool) -> None:
    paths, decode = files(tmp_path / "a"), Decoder()

    def redating_decoder(path: Path) -> np.ndarray:
        if path == paths[1]:
            path.chmod(0o600)
        elif path == paths[2]:
            os.link(path, tmp_path / "link")
        elif path == paths[3]:
            os.utime(path, (1, 1))
        return decode(path)

    result = call(paths, redating_decoder, keep=keep)
    assert np.array_equal(result.images, expected(*range(5))) and len(decode.calls) == 5
    assert result.fingerprint == call(paths, keep=keep).fingerprint


@pytest.mark.parametrize("keep", [True, False])
def test_a_file_that_failed_while_it_was_written_anew_counts_as_changed(tmp_path: Path, keep: bool) -> None:
    """The same bytes once more: it holds what was hashed, but was cut off when it was decoded."""
    paths = files(tmp_path / "a")

    def rewriting_decoder(path: Path) -> np.ndarray:
        whole = path.read_bytes()
        if path == paths[3]:
            path.write_bytes(b"")
        try:
            return Decoder()(path)
        finally:
            path.write_bytes(whole)

    with pytest.raises(UserError, match=r"^1 of 5 image files were changed while they were read: \S+/a/3.raw; start"):
        call(paths, rewriting_decoder, keep=keep)

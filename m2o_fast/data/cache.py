"""Decoded image files, kept as one array that processes share.

Decoding takes longer than a training step on small images, so it is done once. What is kept lies in two files below
``$XDG_CACHE_HOME/m2o_fast/decoded``, named by what determines them: the array (``.npy``), which is mapped into memory,
and its description (``.json``), which is written last and says what the array must hold.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import PIL

from m2o_fast.errors import UserError
from m2o_fast.files import replacing, user_cache

#: How many files an error or a warning names.
NAMED = 5

_THREADS = 8  # more of them wait for the disk
_ROUND = 64  # files that are decoded, and written, together
_CHUNK = 1 << 26  # bytes that are verified by one thread
_HEADER = 128


#: What is called with a line of text for the person who waits.
Report = Callable[[str], None]


def silent(line: str) -> None:
    """A report that nobody reads."""


_READING = 2  # another number wherever files are read in another way: what was kept of the old one is not taken


@dataclass(frozen=True)
class Files:
    """How the image files of a folder are read.

    Attributes:
        root: Folder of the data set.
        split: Which part of it.
        image_size: Side length S of the images, in pixels.
        seed: Seed of the choice of known pairs.
        pair_fraction: Share of the pairs that count as known, in [0, 1].
        cache: Whether decoded images are kept in the cache folder.
        max_unreadable: Share of a domain's files that may be unreadable, in [0, 1].
        report: Called with a line of text for what takes long.
    """

    root: Path
    split: Literal["train", "test"]
    image_size: int
    seed: int = 777
    pair_fraction: float = 1.0
    cache: bool = True
    max_unreadable: float = 0.01
    report: Report = silent


@dataclass(frozen=True)
class Decoded:
    """Decoded image files.

    Attributes:
        images: uint8 ``[n, *shape]``, read-only; mapped into memory where it is kept.
        kept: int64 ``[n]``: which of the paths they are, ascending.
        fingerprint: SHA-256, in hexadecimal, of the recipe and of the names and contents of all files.
        unreadable: What is wrong with each of the other files, with its path.
    """

    images: np.ndarray
    kept: np.ndarray
    fingerprint: str
    unreadable: tuple[str, ...]


def decoded(
    paths: Sequence[Path],
    decode: Callable[[Path], np.ndarray],
    shape: tuple[int, ...],
    recipe: str,
    *,
    keep: bool,
    max_unreadable: float,
    report: Report = silent,
) -> Decoded:
    """The images of the given files, from the cache if they are there.

    The cache is keyed by content: files that were moved are found again, a file that was changed never is. Of several
    processes one decodes, the others wait for it. Where the cache cannot be written, the images are held in memory
    instead, with a warning; so are they without ``keep``.

    Args:
        paths: The files, at least one, in the order in which the images are wanted.
        decode: Gives the image in a file, uint8 of ``shape``. Runs in threads. Raises ``UserError``, whose message
            begins with the path, for a file that cannot be read.
        shape: Shape of each image.
        recipe: What ``decode`` does, in words; another recipe is another cache.
        keep: Whether to keep the images in the cache folder.
        max_unreadable: Share of the files that may be unreadable, in [0, 1]; their number is rounded up, so that 0
            allows none and any other share at least one.
        report: Called with a line of text before and after decoding.

    Raises:
        UserError: If more files are unreadable, or all; names the first five.
    """
    if not paths:
        raise ValueError("there must be at least one file to decode")
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        job = _Job(paths, decode, shape, _fingerprint(paths, recipe, pool), pool, report)
        result = _kept(job) if keep else _in_memory(job)
    _judge(paths, result, max_unreadable)
    return result


class _Job(NamedTuple):
    paths: Sequence[Path]
    decode: Callable[[Path], np.ndarray]
    shape: tuple[int, ...]
    fingerprint: str
    pool: ThreadPoolExecutor
    report: Report

    def rounds(self, numbers: Sequence[int] | None = None) -> Iterator[list[tuple[int, np.ndarray | str]]]:
        """The decoded files, or those with the given numbers, in order, some at a time; text says what is wrong."""
        numbers = range(len(self.paths)) if numbers is None else numbers
        for start in range(0, len(numbers), _ROUND):
            some = numbers[start : start + _ROUND]
            yield list(zip(some, self.pool.map(self._one, (self.paths[i] for i in some)), strict=True))

    def _one(self, path: Path) -> np.ndarray | str:
        try:
            image = self.decode(path)
        except UserError as error:
            return str(error)
        if image.dtype != np.uint8 or image.shape != self.shape:
            raise ValueError(f"{path} was decoded as {image.dtype} {list(image.shape)}, expected {list(self.shape)}")
        return image

    def where(self) -> str:
        """The folder that all files lie in."""
        return os.path.commonpath([path.parent for path in self.paths])

    def result(self, images: np.ndarray, reasons: dict[int, str]) -> Decoded:
        """``images`` of all files but those in ``reasons``, by their number."""
        kept = np.array([i for i in range(len(self.paths)) if i not in reasons], dtype=np.int64)
        images.flags.writeable = False
        return Decoded(images, kept, self.fingerprint, tuple(reasons.values()))


def _fingerprint(paths: Sequence[Path], recipe: str, pool: ThreadPoolExecutor) -> str:
    digest = hashlib.sha256(f"{recipe}\0{len(paths)}\0".encode())
    for path, content in zip(paths, pool.map(_content_digest, paths), strict=True):
        digest.update(path.name.encode(errors="surrogateescape") + b"\0" + content)
    return digest.hexdigest()


def _content_digest(path: Path) -> bytes:
    try:
        if not path.is_file():  # to open a pipe would wait for ever
            return bytes(32)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:  # decoding says why
        return bytes(32)


def _judge(paths: Sequence[Path], result: Decoded, max_unreadable: float) -> None:
    """Warns of unreadable files. Raises ``UserError`` if they are too many."""
    count = len(result.unreadable)
    if not count:
        return
    share = f"{count} of {len(paths)} image files cannot be read: {named(result.unreadable)}"
    allowed = allowed_unreadable(len(paths), max_unreadable)
    if count == len(paths):
        raise UserError(share)
    if count > allowed:
        raise UserError(
            f"{share}; data.max_unreadable {max_unreadable:g} allows {allowed}: replace or remove them, or raise it"
        )
    warnings.warn(f"{share}; left out", RuntimeWarning, stacklevel=4)


def allowed_unreadable(count: int, share: float) -> int:
    """How many of ``count`` files may be unreadable: ``share`` of them, rounded up."""
    return math.ceil(round(share * count, 6))


def named(things: Sequence[str], separator: str = "; ") -> str:
    """The first five of some things in one line, and how many there are beyond them."""
    more = [f"and {len(things) - NAMED} more"] if len(things) > NAMED else []
    return separator.join([*things[:NAMED], *more])


# --- in memory ---


def _in_memory(job: _Job) -> Decoded:
    job.report(f"decoding {len(job.paths)} images of {job.where()} into memory")
    images = np.empty((len(job.paths), *job.shape), dtype=np.uint8)
    reasons: dict[int, str] = {}
    for found in job.rounds():
        for number, image in found:
            if isinstance(image, str):
                reasons[number] = image
            else:
                images[number - len(reasons)] = image
    return job.result(images[: len(images) - len(reasons)], reasons)


# --- in the cache folder ---


def decoded_directory() -> Path:
    """Where decoded images are kept: ``$XDG_CACHE_HOME/m2o_fast/decoded``, by default below ``~/.cache``."""
    return user_cache() / "decoded"


def _kept(job: _Job) -> Decoded:
    # Decoders change from one Pillow to the next, but the data set, which the fingerprint stands for, does not.
    key = hashlib.sha256(f"{job.fingerprint} Pillow {PIL.__version__} {_READING}".encode()).hexdigest()
    path = decoded_directory() / f"{key[:32]}.npy"
    if (found := _read(path, job)) is not None:
        return found
    try:
        with _locked(path.with_suffix(".lock")):
            if (found := _read(path, job)) is None:  # another process may have written it meanwhile
                _write(path, job)
                found = _read(path, job)
    except OSError as error:
        reason = error.strerror or error
        warnings.warn(
            f"decoded images cannot be kept in {path.parent} ({reason}) and stay in memory; "
            "make room there, or set XDG_CACHE_HOME to another folder",
            RuntimeWarning,
            stacklevel=3,
        )
        found = None
    return _in_memory(job) if found is None else found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes out; where the file system has no locks, the files are still replaced in one go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass
        else:
            for left in path.parent.glob(f".{path.stem}.*.part"):  # of a process that was killed
                left.unlink(missing_ok=True)
        yield


def _write(path: Path, job: _Job) -> None:
    job.report(f"decoding {len(job.paths)} images of {job.where()}")
    unreadable = []
    with replacing(path) as file:
        file.write(bytes(_HEADER))
        for found in job.rounds():
            for number, image in found:
                if isinstance(image, str):
                    unreadable.append(number)
                else:
                    file.write(np.ascontiguousarray(image).data)
        size = file.tell()
        file.seek(0)
        file.write(_npy_header((len(job.paths) - len(unreadable), *job.shape)))
        file.flush()
        digests = _digests(np.memmap(file, dtype=np.uint8, mode="r"), job.pool)
    with replacing(path.with_suffix(".json")) as file:
        file.write(json.dumps({"unreadable": unreadable, "sha256": digests}).encode())
    job.report(f"decoded images are kept in {path} ({size / 1e6:.1f} MB), for the next run; remove it at will")


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """The head of an ``.npy`` file of bytes, of the same length for every shape (it is known last)."""
    text = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).ljust(_HEADER - 11)
    return b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little") + text.encode() + b"\n"


def _digests(content: np.ndarray, pool: ThreadPoolExecutor) -> list[str]:
    """SHA-256 of the pieces of a file, uint8 ``[bytes]``."""
    pieces = (content[start : start + _CHUNK] for start in range(0, len(content), _CHUNK))
    return list(pool.map(lambda piece: hashlib.sha256(piece).hexdigest(), pieces))


def _read(path: Path, job: _Job) -> Decoded | None:
    """What is kept in ``path``; ``None`` if it is not there, or damaged."""
    try:
        facts = json.loads(path.with_suffix(".json").read_bytes())
        unreadable = [int(number) for number in facts["unreadable"]]
        shape = (len(job.paths) - len(unreadable), *job.shape)
        if path.stat().st_size != _HEADER + math.prod(shape):
            return None
        content = np.memmap(path, dtype=np.uint8, mode="r")
        if _digests(content, job.pool) != facts["sha256"]:
            return None
        again = dict(pair for some in job.rounds(unreadable) for pair in some)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    reasons = {number: reason for number, reason in again.items() if isinstance(reason, str)}
    if len(reasons) < len(unreadable):  # the disk, not the file, was at fault when it was decoded
        return None
    return job.result(content[_HEADER:].reshape(shape), reasons)

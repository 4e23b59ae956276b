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
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import PIL

from m2o_fast.data.fit import Fit
from m2o_fast.data.index import UNREADABLE, FileIndex, stat_of
from m2o_fast.data.parallel import Report, mapped, silent
from m2o_fast.errors import UserError
from m2o_fast.files import replacing, user_cache

#: How many files an error or a warning names.
NAMED = 5

_CHUNK = 1 << 26  # bytes that are verified by one thread
_HEADER = 128
_READING = 4  # another number wherever files are read in another way: what was kept of the old one is not taken


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
        verify: Whether all files are read again, whatever their dates say.
        fit: What becomes of images that are not square.
    """

    root: Path
    split: Literal["train", "test"]
    image_size: int
    seed: int = 777
    pair_fraction: float = 1.0
    cache: bool = True
    max_unreadable: float = 0.01
    report: Report = silent
    verify: bool = False
    fit: Fit = "stretch"


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
    paths: Sequence[str | Path] | FileIndex,
    decode: Callable[[Path], np.ndarray],
    shape: tuple[int, ...],
    recipe: str,
    *,
    keep: bool,
    max_unreadable: float,
    report: Report = silent,
    verify: bool = False,
) -> Decoded:
    """The images of the given files, from the cache if they are there.

    The cache is keyed by content: files that were moved are found again, a file that was changed never is. Of several
    processes one decodes, the others wait for it. Where the cache cannot be written, the images are held in memory
    instead, with a warning; so are they without ``keep``.

    Args:
        paths: The files, at least one, in the order in which the images are wanted, or the index of them.
        decode: Gives the image in a file, uint8 of ``shape``. Runs in threads. Raises ``UserError``, whose message
            begins with the path, for a file that cannot be read.
        shape: Shape of each image.
        recipe: What ``decode`` does, in words; another recipe is another cache.
        keep: Whether to keep the images in the cache folder.
        max_unreadable: Share of the files that may be unreadable, in [0, 1]; their number is rounded up, so that 0
            allows none and any other share at least one.
        report: Called with a line of text before, now and then while, and after files are read.
        verify: Whether all files, and what is kept, are read again, whatever their dates say.

    Raises:
        UserError: If more files are unreadable, or all, or some were changed meanwhile; names the first five.
    """
    if not len(paths):
        raise ValueError("there must be at least one file to decode")
    index = paths if isinstance(paths, FileIndex) else FileIndex.of(paths, keep=keep, verify=verify, report=report)
    digests = index.digests()
    fingerprint = _fingerprint(index.names, digests, recipe)
    unknown = frozenset(np.flatnonzero(digests == UNREADABLE).tolist())
    job = _Job(index, decode, shape, fingerprint, unknown, report, verify)
    result = _kept(job) if keep else _in_memory(job)
    _judge(len(index), result, max_unreadable)
    return result


class _Job(NamedTuple):
    source: FileIndex
    decode: Callable[[Path], np.ndarray]
    shape: tuple[int, ...]
    fingerprint: str
    unknown: Collection[int]  # files whose content the fingerprint does not know
    report: Report
    verify: bool

    @property
    def paths(self) -> Sequence[str]:
        return self.source.paths

    @property
    def folder(self) -> str:
        return self.source.folder

    def all_files(self) -> Iterator[tuple[int, np.ndarray | str]]:
        """The decoded files in order; text says what is wrong. Raises ``UserError`` if some were changed meanwhile."""
        failed = set()
        for number, image in self.files(range(len(self.paths))):
            if isinstance(image, str):
                failed.add(number)
            yield number, image
        if changed := self.source.changed(failed):  # the fingerprint is that of what they held before
            raise UserError(
                f"{len(changed)} of {len(self.paths)} image files were changed while they were read: {named(changed)}; "
                "start again when nothing writes there"
            )

    def files(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray | str]]:
        """Those with the given numbers."""
        found = mapped(self._one, numbers, f"decoding images of {self.folder}", self.report)
        yield from zip(numbers, found, strict=True)

    def _one(self, number: int) -> np.ndarray | str:
        path = self.paths[number]
        try:
            image = self.decode(Path(path))
        except UserError as error:
            return str(error)
        if image.dtype != np.uint8 or image.shape != self.shape:
            raise ValueError(f"{path} was decoded as {image.dtype} {list(image.shape)}, expected {list(self.shape)}")
        return image

    def result(self, images: np.ndarray, reasons: dict[int, str]) -> Decoded:
        """``images`` of all files but those in ``reasons``, by their number."""
        kept = np.delete(np.arange(len(self.paths)), list(reasons))
        images.flags.writeable = False
        return Decoded(images, kept, self.fingerprint, tuple(reasons.values()))


def _fingerprint(names: Sequence[str], digests: np.ndarray, recipe: str) -> str:
    digest = hashlib.sha256(f"{recipe}\0{len(names)}\0".encode())
    contents = bytes.fromhex(digests.tobytes().decode())
    size = hashlib.sha256().digest_size
    for number, name in enumerate(names):
        last = name[name.rfind("/") + 1 :].encode(errors="surrogateescape")
        digest.update(last + b"\0" + contents[number * size : (number + 1) * size])
    return digest.hexdigest()


def _judge(files: int, result: Decoded, max_unreadable: float) -> None:
    """Warns of unreadable files. Raises ``UserError`` if they are too many."""
    count = len(result.unreadable)
    if not count:
        return
    share = f"{count} of {files} image files cannot be read: {named(result.unreadable)}"
    allowed = allowed_unreadable(files, max_unreadable)
    if count == files:
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
    job.report(f"decoding {len(job.paths)} images of {job.folder} into memory")
    images = np.empty((len(job.paths), *job.shape), dtype=np.uint8)
    reasons: dict[int, str] = {}
    for number, image in job.all_files():
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
    job.report(f"decoding {len(job.paths)} images of {job.folder}")
    unreadable = []
    with replacing(path) as file:
        file.write(bytes(_HEADER))
        for number, image in job.all_files():
            if isinstance(image, str):
                unreadable.append(number)
            elif number in job.unknown:  # what is kept would be found for whatever it holds another time
                raise OSError(f"{job.paths[number]} could not be read at first")
            else:
                file.write(np.ascontiguousarray(image).data)
        size = file.tell()
        file.seek(0)
        file.write(_npy_header((len(job.paths) - len(unreadable), *job.shape)))
        file.flush()
        digests = _digests(np.memmap(file, dtype=np.uint8, mode="r"))
    _describe(path, unreadable, digests)
    job.report(f"decoded images are kept in {path} ({size / 1e6:.1f} MB), for the next run; remove it at will")


def _describe(path: Path, unreadable: Sequence[int], digests: Sequence[str]) -> None:
    facts = {"unreadable": unreadable, "sha256": digests, "stat": stat_of(path)}
    with replacing(path.with_suffix(".json")) as file:
        file.write(json.dumps(facts).encode())


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """The head of an ``.npy`` file of bytes, of the same length for every shape (it is known last)."""
    text = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).ljust(_HEADER - 11)
    return b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little") + text.encode() + b"\n"


def _digests(content: np.ndarray) -> list[str]:
    """SHA-256 of the pieces of a file, uint8 ``[bytes]``."""
    pieces = [content[start : start + _CHUNK] for start in range(0, len(content), _CHUNK)]
    return list(mapped(lambda piece: hashlib.sha256(piece.data).hexdigest(), pieces, chunk=1))


def _read(path: Path, job: _Job) -> Decoded | None:
    """What is kept in ``path``; ``None`` if it is not there, or damaged."""
    try:
        facts = json.loads(path.with_suffix(".json").read_bytes())
        unreadable = [int(number) for number in facts["unreadable"]]
        shape = (len(job.paths) - len(unreadable), *job.shape)
        if path.stat().st_size != _HEADER + math.prod(shape):
            return None
        content = np.memmap(path, dtype=np.uint8, mode="r")
        if job.verify or facts.get("stat") != stat_of(path):
            if (digests := _digests(content)) != facts["sha256"]:
                return None
            with suppress(OSError):
                _describe(path, unreadable, digests)
        again = dict(job.files(unreadable))
    except (OSError, ValueError, LookupError, TypeError):
        return None
    reasons = {number: reason for number, reason in again.items() if isinstance(reason, str)}
    if len(reasons) < len(unreadable):  # the disk, not the file, was at fault when it was decoded
        return None
    return job.result(content[_HEADER:].reshape(shape), reasons)

"""What is known of files that were read before: a file whose size, dates and inode are the same is not read again.

Kept in ``$XDG_CACHE_HOME/m2o_fast/index``, a file for each folder. Nothing is believed of a file that was changed
within the last seconds before it was read: its dates could not tell another change.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from m2o_fast.data.parallel import Report, mapped, silent
from m2o_fast.errors import UserError
from m2o_fast.files import replacing, user_cache

_RECENT = 2_000_000_000  # nanoseconds; coarse clocks of file systems tick every second or two
_FORMAT = 2
#: Stands for the SHA-256 of a file that cannot be read.
UNREADABLE = b"0" * 64


class FileIndex:
    """The files of a folder and what is known of them.

    Attributes:
        folder: The folder.
        names: The paths of its n files below it.
    """

    def __init__(
        self,
        folder: str | Path,
        names: Sequence[str],
        *,
        keep: bool = True,
        verify: bool = False,
        report: Report = silent,
    ) -> None:
        """Look at the dates of files once something is asked of them; none is opened.

        Args:
            folder: The folder.
            names: The paths of files below it.
            keep: Whether what is found out is kept for the next time.
            verify: Whether all files are read again.
            report: Called with a line of text now and then while files are read.
        """
        self.folder, self.names = str(folder), names
        self._keep, self._verify, self._report = keep, verify, report

    @classmethod
    def of(cls, paths: Sequence[str | Path], *, keep: bool, verify: bool, report: Report) -> FileIndex:
        """That of files anywhere."""
        texts = [os.fspath(path) for path in paths]
        folder = os.path.commonpath([os.path.dirname(text) for text in texts])
        below = len(os.path.join(folder, ""))
        return cls(folder, [text[below:] for text in texts], keep=keep, verify=verify, report=report)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def paths(self) -> Sequence[str]:
        """The paths of the files, each made when it is asked for: all of them would take more memory than the rest."""
        return _Below(os.path.join(self.folder, ""), self.names)

    def digests(self) -> np.ndarray:
        """SHA-256 of each file, as 64 hexadecimal digits, ``S64`` ``[n]``; zeros for what cannot be read."""
        found = self.column("sha256", _digest, "reading files")
        return np.where(found == b"", UNREADABLE, found)

    def column(self, name: str, find: Callable[[str], bytes], what: str) -> np.ndarray:
        """A fact about each file, known or found out.

        Args:
            name: Name of the fact.
            find: The fact about a path, in ASCII; runs in threads. Empty: not to be kept.
            what: What is done to find it out, in words.

        Returns:
            Bytes ``[n]``.
        """
        known = self._columns.get(name, np.zeros(len(self), dtype="S1"))
        missing = np.flatnonzero(known == b"")
        if len(missing):
            words = f"{what} of {self.folder}"
            found = list(mapped(lambda row: find(self.paths[row]), missing.tolist(), words, self._report))
            known = known.astype(f"S{max(known.itemsize, *map(len, found))}")
            known[missing] = found
            self._columns[name] = known
            if self._keep and any(found):
                with suppress(OSError, UserError):  # then they are read again
                    self._save()
        return known

    def changed(self, failed: Collection[int] = ()) -> list[str]:
        """The paths of the files that were changed since they were looked at.

        Those with other dates are read again: the same content counts as unchanged.

        Args:
            failed: Numbers of files that could not be read in between. Other dates are enough for these: they may have
                held something else then.
        """
        rows = np.flatnonzero((self._stats != _stats(self.paths)).any(axis=1)).tolist()
        words = f"reading files of {self.folder}"
        found = mapped(lambda row: _digest(self.paths[row]), rows, words, self._report)
        before = self.digests()
        return [
            self.paths[row] for row, digest in zip(rows, found, strict=True) if row in failed or digest != before[row]
        ]

    @cached_property
    def _stats(self) -> np.ndarray:
        """What tells each file to be the same, int64 ``[n, 4]``."""
        self._looked = time.time_ns()
        return _stats(self.paths)

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        """The facts that are known."""
        _ = self._stats  # looked at before any file is read, so that a change meanwhile shows
        return {} if self._verify else self._load()

    def _path(self) -> Path:
        key = hashlib.sha256(os.fsencode(os.path.realpath(self.folder))).hexdigest()
        return user_cache() / "index" / f"{key[:32]}.safetensors"

    def _blob(self) -> np.ndarray:
        return np.frombuffer("\0".join(self.names).encode("utf-8", "surrogateescape"), dtype=np.uint8)

    def _load(self) -> dict[str, np.ndarray]:
        try:
            columns = load(self._path().read_bytes())
            if columns.pop("format").tolist() != [_FORMAT]:
                return {}
            names, stats = columns.pop("names"), columns.pop("stats")
            rows = self._rows(names)
            same = rows >= 0
            same[same] = (stats[rows[same]] == self._stats[same]).all(axis=1)
            return {name: self._taken(_as_texts(column), rows, same) for name, column in columns.items()}
        except Exception:  # a damaged file may fail in any way, and is written anew
            return {}

    def _rows(self, stored: np.ndarray) -> np.ndarray:
        """Where the files stand in a list of names, int64 ``[n]``; -1 for those that do not."""
        if np.array_equal(stored, self._blob()):
            return np.arange(len(self))
        numbers = {
            name: row for row, name in enumerate(stored.tobytes().decode("utf-8", "surrogateescape").split("\0"))
        }
        return np.array([numbers.get(name, -1) for name in self.names], dtype=np.int64)

    def _taken(self, column: np.ndarray, rows: np.ndarray, same: np.ndarray) -> np.ndarray:
        taken = np.zeros(len(self), dtype=column.dtype)
        taken[same] = column[rows[same]]
        return taken

    def _save(self) -> None:
        recent = (self._stats[:, 1:3] > self._looked - _RECENT).any(axis=1) | (self._stats[:, 0] < 0)
        columns = {name: _as_bytes(np.where(recent, b"", column)) for name, column in self._columns.items()}
        facts = {"format": np.array([_FORMAT]), "names": self._blob(), "stats": self._stats}
        with replacing(self._path()) as file:
            file.write(save({**facts, **columns}))


class _Below(Sequence[str]):
    """A beginning, and all that it stands in front of."""

    def __init__(self, beginning: str, names: Sequence[str]) -> None:
        self._beginning, self._names = beginning, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return _Below(self._beginning, self._names[row])
        return self._beginning + self._names[row]

    def __iter__(self) -> Iterator[str]:
        return map(self._beginning.__add__, self._names)


def _as_bytes(column: np.ndarray) -> np.ndarray:
    """Texts ``[n]`` as uint8 ``[n, length]``."""
    return np.ascontiguousarray(column).view(np.uint8).reshape(len(column), column.itemsize)


def _as_texts(column: np.ndarray) -> np.ndarray:
    """The other way round."""
    return np.ascontiguousarray(column, dtype=np.uint8).view(f"S{column.shape[1]}").reshape(len(column))


def _stats(paths: Sequence[str]) -> np.ndarray:
    numbers = chain.from_iterable(map(_stat, paths))
    return np.fromiter(numbers, dtype=np.int64, count=4 * len(paths)).reshape(-1, 4)


def _stat(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return (-1, 0, 0, 0)
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def stat_of(path: Path) -> list[int]:
    """Size, dates and inode of a file, by which it is told to be the same."""
    return list(_stat(str(path)))


def _digest(path: str) -> bytes:
    try:
        if not os.path.isfile(path):  # to open a pipe would wait for ever
            return b""
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest().encode()
    except OSError:  # decoding says why; the disk may be at fault, so it is read again the next time
        return b""

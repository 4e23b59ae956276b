"""Where files are kept, and writing them so that a reader never meets half of one."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import tempfile
import time
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from m2o_fast.errors import UserError

_LEFTOVER = re.compile(r"\..+\.([1-9][0-9]*)\.part", re.DOTALL)
_AT_WORK = 60.0  # seconds
_LONG = 200  # bytes of a name


def user_cache() -> Path:
    """Where what can be made again is kept: ``$XDG_CACHE_HOME/m2o_fast``, by default below ``~/.cache``.

    Raises:
        UserError: If the user has no home folder, as in some containers, and the variable is not set.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "m2o_fast"
    except RuntimeError:
        raise UserError("there is no home folder to keep files in; set XDG_CACHE_HOME to a folder") from None


def composed(name: str) -> str:
    """A file's name to compare: letters and their accents as one (NFC); archives made on macOS hold them apart."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def real_path(path: Path) -> Path:
    """The path without links; a link that leads to itself is left to whoever opens it."""
    return Path(os.path.realpath(path))


def real_paths(paths: Iterable[Path]) -> Iterator[str]:
    """The same of many files, as text; each folder of them is followed once."""
    followed = lru_cache(os.path.realpath)
    for path in map(str, paths):
        folder, name = os.path.split(path)
        yield os.path.realpath(path) if os.path.islink(path) else os.path.join(followed(folder), name)


def no_links(path: str, flags: int) -> int:
    """An ``opener`` for :func:`open` that follows no link: a folder from elsewhere must not lead to other files.

    Raises:
        OSError: The file is a link (ELOOP).
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def read_whole(path: Path, most: int = 1 << 28) -> bytes:
    """The content of a file of a folder that may come from elsewhere.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        OSError: It cannot be read, is larger, or is a pipe, which to open would wait for ever, or a device.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a file", str(path))
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most >> 20} MiB", str(path))
    return content


def is_full(error: BaseException | None) -> bool:
    """Whether writing a file failed as that of any other one would: no room, or nothing may be written."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def inflates(path: Path) -> bool:
    """Whether a file is a zip archive that holds more than it is large; ``torch.save`` compresses nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(part.file_size for part in archive.infolist()) > path.stat().st_size
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return False  # whoever reads it says what is wrong with it


def _short(name: str) -> str:
    """A name that leaves room for more, within the 255 bytes that names of files may have."""
    name_bytes = os.fsencode(name)
    return name if len(name_bytes) <= _LONG else hashlib.sha256(name_bytes).hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Removes what processes that were killed within :func:`replacing` have left in a folder, more than a minute ago.

    A process of another machine that shares the folder is at work still, where its file is younger.
    """
    for part in folder.glob(".*.part"):
        with suppress(OSError):
            found = _LEFTOVER.fullmatch(part.name)
            status = part.lstat()
            is_old = stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > _AT_WORK
            if found and is_old and not _is_alive(int(found[1])):
                part.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of somebody else
        pass
    return True


@contextmanager
def replacing(path: Path, *, flushed: bool = True) -> Iterator[BinaryIO]:
    """A file to write that becomes ``path`` at the end of the ``with`` block, or vanishes if that raises.

    The folder of ``path`` is made if it is not there. Whoever opens ``path`` sees the old content or all of the new; a
    machine that loses its power may lose it all the same, unless it is ``flushed`` to the disk, which takes the time of
    many small files.
    """
    part = path.with_name(f".{_short(path.name)}.{os.getpid()}.part")
    try:
        with _opened_new(part) as file:
            yield file
            if flushed:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _opened_new(path: Path) -> BinaryIO:
    """Of many files, all but the first find the folder there: nothing is asked of the disk for them."""
    with suppress(FileNotFoundError):
        return open(path, "w+b", opener=no_links)
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "w+b", opener=no_links)


def require_new(out: Path) -> None:
    """Raises ``UserError`` where there is something already, be it a link that leads nowhere."""
    if os.path.lexists(out):
        raise UserError(f"{out} exists already; choose another name or remove it")


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A new folder beside ``out``, whose own are made: whoever fills it renames it, or what lies in it, to ``out``.

    So a process that is killed leaves nothing there that is whole in part. What is not renamed vanishes.

    Raises:
        UserError: Something cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=out.parent, ignore_cleanup_errors=True) as own:
            part = Path(own) / out.name  # errors name files in it, and a name that is too long is one at once
            part.mkdir()  # with the rights that any new folder has
            yield part
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error

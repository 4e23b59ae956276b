"""Fetching MNIST from the internet."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from m2o_fast.data.idx import open_maybe_gzip
from m2o_fast.data.mnist import FILES, PUBLISHED, cache_directory, find_file
from m2o_fast.errors import UserError
from m2o_fast.files import replacing

#: Servers that hold the four files, asked in this order.
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)

_CHUNK = 1 << 16
_GZIP_HEADER = 1024  # by so much a compressed file may exceed its content


def content_problem(path: Path, name: str) -> str | None:
    """What is wrong with the file ``path`` as the published MNIST file ``name``; ``None`` if its content is right.

    The content is compared, not the compressed bytes: files that were compressed anew are as good.
    """
    published = PUBLISHED[name]
    digest, size = hashlib.sha256(), 0
    try:
        with open_maybe_gzip(path) as file:
            while size <= published.size and (chunk := file.read(_CHUNK)):
                digest.update(chunk)
                size += len(chunk)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        return f"the gzip data is damaged ({error})"
    if size != published.size:
        found = f"more than {published.size}" if size > published.size else str(size)
        return f"{found} bytes of content, the published file has {published.size}"
    if digest.hexdigest() != published.sha256:
        return f"the content is not the published one (SHA-256 {digest.hexdigest()}, expected {published.sha256})"
    return None


def fetch_mnist(
    directory: str | Path | None = None,
    *,
    mirrors: Sequence[str] = MIRRORS,
    timeout: float = 30.0,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Fetch the four MNIST files, about 11 MB, and check their content.

    Files that are there and whole are kept, so an interrupted call can be repeated. A file appears under its name
    only when it is complete and checked.

    Args:
        directory: Where to put them; by default the cache in which :func:`open_dataset` looks.
        mirrors: Addresses of folders, ending in ``/``, asked in order.
        timeout: Seconds without an answer after which the next mirror is asked.
        report: Called with a line of text for every file.

    Returns:
        The folder.

    Raises:
        UserError: If no mirror gives a file, with each address and reason, or if the folder cannot be written.
    """
    folder = Path(directory).expanduser() if directory is not None else cache_directory()
    for name in (name for names in FILES.values() for name in names):
        present = find_file(folder, name)
        if present is not None and content_problem(present, name) is None:
            report(f"{present}: already there")
            continue
        # A damaged plain file would be found first, so the new one must take its place.
        target = folder / f"{name}.gz"
        _fetch_file(name, target, mirrors, timeout)
        if present is not None and present != target:
            present.unlink()
        report(f"{target}: fetched")
    return folder


def _fetch_file(name: str, target: Path, mirrors: Sequence[str], timeout: float) -> None:
    reasons = []
    for mirror in mirrors:
        url = f"{mirror}{name}.gz"
        try:
            with replacing(target) as file:
                _download(url, file, PUBLISHED[name].size + _GZIP_HEADER, timeout)
                if (problem := content_problem(Path(file.name), name)) is not None:
                    raise UserError(problem)
            return
        except UserError as error:
            reasons.append(f"{url}: {error}")
        except OSError as error:
            raise UserError(f"cannot write {target} ({error.strerror or error}); choose another folder") from error
    raise UserError(
        f"cannot fetch {name}.gz ({'; '.join(reasons)}). Check the network and try again, or copy the MNIST files into "
        f"{target.parent} by hand, or name a folder that has them with --data-dir"
    )


def _download(url: str, file: BinaryIO, limit: int, timeout: float) -> None:
    """Copy ``url`` to ``file``. Raises ``UserError`` if it cannot be had or is longer than ``limit`` bytes."""
    request = urllib.request.Request(url, headers={"User-Agent": "m2o-fast"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            data = response.read(limit + 1)
    except (OSError, http.client.HTTPException) as error:  # of all kinds: refused, not found, timed out, cut off, TLS
        raise UserError(str(error) or type(error).__name__) from error
    if len(data) > limit:
        raise UserError(f"the answer is longer than {limit} bytes")
    file.write(data)
    file.flush()

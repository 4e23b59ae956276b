"""Reader of IDX files, the format of MNIST, plain or gzip-compressed.

A file has a big-endian header - two zero bytes, the element type (8: unsigned byte), the number of dimensions, one
32-bit size for each - and then the elements. Source: the description on the MNIST page of Y. LeCun et al.
"""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from m2o_fast.errors import UserError

_UNSIGNED_BYTE = 8
_CHUNK = 1 << 20
_LARGEST = 1 << 31  # bytes of data; a gzip of them may be a thousand times smaller


def open_maybe_gzip(path: Path) -> BinaryIO:
    """``path`` for reading, decompressed if its first bytes say gzip (whatever its name says)."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if compressed else path.open("rb")


def _read_up_to(file: BinaryIO, size: int) -> bytes:
    """At most ``size`` bytes. In pieces: a damaged header must not make us allocate gigabytes."""
    pieces = []
    while size > 0 and (piece := file.read(min(size, _CHUNK))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _read_header(file: BinaryIO, path: Path, dimensions: int) -> tuple[int, ...]:
    header = file.read(4 + 4 * dimensions)
    expected = _UNSIGNED_BYTE * 256 + dimensions
    if len(header) >= 4 and int.from_bytes(header[:4], "big") != expected:
        found = int.from_bytes(header[:4], "big")
        raise UserError(
            f"{path}: the IDX magic number is {found} (0x{found:08x}), expected {expected} (0x{expected:08x}): "
            f"unsigned bytes in {dimensions} dimension{'s' if dimensions > 1 else ''}"
        )
    if len(header) < 4 + 4 * dimensions:
        raise UserError(f"{path}: the file ends within its header: {len(header)} bytes, expected {4 + 4 * dimensions}")
    return tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))


def read_idx(path: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    """The array in an IDX file of unsigned bytes.

    Args:
        path: The file, plain or gzip-compressed.
        shape: The size that each dimension must have; ``None`` allows any.

    Returns:
        uint8, as many dimensions as ``shape`` has.

    Raises:
        UserError: If the file is damaged or holds something else; the message names the file and what was found.
    """
    try:
        with open_maybe_gzip(path) as file:
            found = _read_header(file, path, len(shape))
            if any(want is not None and want != got for want, got in zip(shape, found, strict=True)):
                wanted = " x ".join("any" if size is None else str(size) for size in shape)
                raise UserError(f"{path}: the array is {' x '.join(map(str, found))}, expected {wanted}")
            if prod(found) > _LARGEST:
                raise UserError(f"{path}: the header announces {prod(found)} bytes of data, more than {_LARGEST}")
            data = _read_up_to(file, prod(found) + 1)
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: the gzip data is damaged ({error}); fetch the file again") from None
    except EOFError:
        raise UserError(f"{path}: the gzip data ends too early; fetch the file again") from None
    if len(data) != prod(found):
        state = "more follow" if len(data) > prod(found) else f"found {len(data)}"
        raise UserError(f"{path}: the header announces {prod(found)} bytes of data, but {state}; fetch the file again")
    return np.frombuffer(data, np.uint8).reshape(found)

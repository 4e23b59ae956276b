"""Door: image files, to translate and to measure."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from no_files import KINDS, put_no_file
from PIL import Image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, depth: int = 8, color: int = 0, before: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(kind: str, mode: str = "RGB", size: int = 32) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((size, size)).convert(mode).save(file, kind)
    return file.getvalue()


def tiff(*entries: tuple[int, int, int, int], body: bytes = b"", following: int = 0) -> bytes:
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", following) + body


WHOLE = zlib.compress(bytes(33 * 32))
INFLATES = b"a\0\0" + zlib.compress(bytes(200_000_000), 1)
FILES = {
    "empty": b"",
    "text": b"no image",
    "a header alone": b"\x89PNG\r\n\x1a\n",
    "a bomb of 4 gigapixels": png(65535, 65535, zlib.compress(bytes(1000))),
    "a bomb of 2^31 by 2^31": png(2**31 - 1, 2**31 - 1, WHOLE),
    "no width": png(0, 32, WHOLE),
    "no height": png(32, 0, WHOLE),
    "less data than pixels": png(32, 32, zlib.compress(bytes(40))),
    "data that is no zlib": png(32, 32, b"x" * 100),
    "a text chunk that inflates": png(32, 32, WHOLE, before=chunk(b"zTXt", INFLATES)),
    "a colour profile that inflates": png(32, 32, WHOLE, before=chunk(b"iCCP", INFLATES)),
    "an unknown kind of colour": png(32, 32, WHOLE, color=7),
    "an unknown depth": png(32, 32, WHOLE, depth=3),
    "a wrong checksum": png(32, 32, WHOLE)[:40] + b"\0\0\0\0" + png(32, 32, WHOLE)[44:],
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(owned) (w) file\n",
    "a PDF": b"%PDF-1.4\n%%EOF",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><script>x</script></svg>",
    "XML of entities": b"<!DOCTYPE a [<!ENTITY x 'xxx'>]><svg>&x;</svg>",
    "a pickle": b"\x80\x04cos\nmkdir\n(Vowned\ntR.",
    "an MPO without pictures": b"\xff\xd8\xff\xe2\0\x10MPF\0",
    "a cut JPEG": saved("JPEG")[:300],
    "a JPEG of 65500 by 65500": saved("JPEG").replace(b"\x08\x00\x20\x00\x20", b"\x08\xff\xdc\xff\xdc"),
    "a JPEG without pixels": saved("JPEG").replace(b"\x08\x00\x20\x00\x20", b"\x08\x00\x00\x00\x00"),
    "a cut WebP": saved("WEBP")[:60],
    "a cut GIF": saved("GIF")[:400],
    "a GIF without frames": b"GIF89a\x20\0\x20\0\0\0\0;",
    "a cut BMP": saved("BMP")[:100],
    "a BMP of gigapixels": saved("BMP")[:18] + struct.pack("<ii", 2**30, 2**30) + saved("BMP")[26:],
    "a BMP of negative width": saved("BMP")[:18] + struct.pack("<ii", -32, 32) + saved("BMP")[26:],
    "a PPM of gigapixels": b"P6 999999 999999 255\n",
    "a PPM of words": b"P6 a b c\n",
    "a PPM of negative numbers": b"P6 -1 -1 255\n",
    "a plain PPM of endless digits": b"P3 2 2 255\n" + b"9" * 1_000_000,
    "a PFM that is not finite": b"Pf 2 2 -1.0\n" + struct.pack("<4f", float("nan"), 0, 0, 0),
    "a PFM beyond its range": b"Pf 2 2 -1.0\n" + struct.pack("<4f", 2, 0, 0, 0),
    "a TIFF without entries": tiff(),
    "a TIFF that is its own next page": tiff((256, 4, 1, 32), following=8),
    "a TIFF of gigapixels": tiff((256, 4, 1, 2**31), (257, 4, 1, 2**31), (258, 3, 1, 8), (273, 4, 1, 8)),
    "a TIFF of a billion strips": tiff((256, 4, 1, 32), (257, 4, 1, 32), (273, 4, 10**9, 8), (279, 4, 10**9, 8)),
    "a TIFF of 64-bit numbers": tiff(
        (256, 4, 1, 2), (257, 4, 1, 2), (258, 3, 1, 64), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1),
        (278, 4, 1, 2), (279, 4, 1, 32), (339, 3, 1, 3),
    ),
    "a TIFF whose entries are cut off": b"II*\0\x08\0\0\0\xff\xff",
    "zeros": bytes(10_000),
    "random": bytes((n * 7919 + n // 251) % 256 for n in range(10_000)),
}  # fmt: skip


def translate(refuses, run: Path, path: Path, names: str) -> str:
    return refuses("translate", path, "--run", run, "--to", "color", "--from", "gray", "--out", "out.png", names=names)


@pytest.mark.parametrize("kind", FILES)
def test_files(kind: str, run: Path, tmp_path: Path, refuses) -> None:
    (tmp_path / "bad.png").write_bytes(FILES[kind])
    translate(refuses, run, tmp_path / "bad.png", "bad.png")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["image", "reference"])
def test_no_files(kind: str, role: str, run: Path, picture: Path, tmp_path: Path, refuses) -> None:
    path = tmp_path / "bad.png"
    put_no_file(kind, path)
    image, more = (path, []) if role == "image" else (picture, ["--reference", path])
    words = ["translate", image, "--run", run, "--to", "color", "--from", "gray", "--out", "out.png", *more]
    refuses(*words, names="bad.png")


@pytest.mark.parametrize("kind", ["text", "a bomb of 4 gigapixels", "a cut JPEG", "postscript", "zeros"])
def test_images_to_measure(kind: str, picture: Path, tmp_path: Path, refuses) -> None:
    for folder in ("fakes", "reals"):
        (tmp_path / folder).mkdir()
        os.link(picture, tmp_path / folder / "good.png")
    (tmp_path / "fakes" / "bad.png").write_bytes(FILES[kind])
    os.link(picture, tmp_path / "reals" / "bad.png")
    refuses("eval", "fakes", "--truth", "reals", "--quiet", names="bad.png")


@pytest.mark.parametrize("name", ["\x1b[2Jbad.png", "bad\n.png", "[bold]bad.png", ":horse: bad.png", "bad\udcff.png"])
def test_names(name: str, run: Path, tmp_path: Path, refuses) -> None:
    (tmp_path / name).write_bytes(b"no image")
    translate(refuses, run, tmp_path / name, "bad")

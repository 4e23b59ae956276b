"""Moving pictures: GIF files, and MP4 files where there is an ffmpeg."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from m2o_fast.errors import UserError
from m2o_fast.files import replacing

#: suffixes of the files that :func:`save_movie` writes
MOVIES = (".gif", ".mp4")
_RATE = 20  # frames a second: GIF counts hundredths of a second


def is_movie(path: Path) -> bool:
    """Whether a name is that of a moving picture."""
    return path.suffix.lower() in MOVIES


def check_movie(path: Path) -> None:
    """Raises ``UserError`` where such a file cannot be written on this machine."""
    if path.suffix.lower() == ".mp4" and shutil.which("ffmpeg") is None:
        raise UserError(f"{path}: there is no ffmpeg on the PATH to write it; install ffmpeg, or write a .gif or .png")


def save_movie(frames: Iterator[Image.Image], path: Path) -> None:
    """Writes frames of one size, as they come; a reader sees the old file or the whole new one.

    Raises:
        UserError: It cannot be written, or ffmpeg fails.
    """
    first = next(frames).convert("RGB")
    colored = (frame.convert("RGB") for frame in frames)
    try:
        with replacing(path) as file:
            if path.suffix.lower() == ".gif":
                first.save(
                    file, format="GIF", save_all=True, append_images=colored, duration=1000 // _RATE, loop=0
                )  # for ever
            else:
                _encode(itertools.chain([first], colored), first.size, Path(file.name), path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def _encode(frames: Iterator[Image.Image], size: tuple[int, int], part: Path, path: Path) -> None:
    """Hands frames over to ffmpeg, which writes ``part``."""
    even = [side + side % 2 for side in size]  # colours have half the resolution
    command = [
        *(shutil.which("ffmpeg") or "ffmpeg", "-hide_banner", "-loglevel", "error", "-y"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{even[0]}x{even[1]}", "-r", str(_RATE), "-i", "pipe:0"),
        *("-an", "-pix_fmt", "yuv420p", "-f", "mp4", f"file:{os.path.abspath(part)}"),
    ]
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors) as process:
            assert process.stdin is not None
            try:
                for frame in frames:
                    process.stdin.write(_padded(np.asarray(frame)).tobytes())
                process.stdin.close()
            except BrokenPipeError:  # ffmpeg has ended, and says why
                with suppress(BrokenPipeError):
                    process.stdin.close()
        if process.returncode:
            errors.seek(0)
            said = errors.read(1 << 16).decode(errors="replace").splitlines() or ["no word"]
            raise UserError(f"{path}: ffmpeg failed, exit code {process.returncode}: {said[-1]}")


def _padded(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")

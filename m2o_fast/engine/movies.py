"""Moving pictures: GIF files, and MP4 files where there is an ffmpeg."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from m2o_fast.engine.signals import StopRequest
from m2o_fast.errors import UserError
from m2o_fast.files import replacing

#: suffixes of the files that :func:`save_movie` writes
MOVIES = (".gif", ".mp4")
_RATE = 20  # frames a second: GIF counts hundredths of a second
_LARGEST_GIF = 2**16 - 1  # pixels a side
_PATIENCE = 120.0  # seconds that ffmpeg may take for a frame, and at its end


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
        Stopped: A signal came while ffmpeg was at work, which has ended.
    """
    first = next(frames).convert("RGB")
    if path.suffix.lower() == ".gif" and max(first.size) > _LARGEST_GIF:
        raise UserError(f"{path}: a GIF has at most {_LARGEST_GIF:,} pixels a side, not {max(first.size):,}")
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
        with _started(command, errors) as process:
            problem = _handed_over(frames, process)
        errors.seek(0)
        said = errors.read(1 << 16).decode(errors="replace").splitlines() or ["no word"]
    if not problem and process.returncode:
        problem = f"exit code {process.returncode}: {said[-1]}"
    if problem or not part.stat().st_size:
        raise UserError(f"{path}: ffmpeg failed, {problem or 'it has written nothing'}")


@contextmanager
def _started(command: Sequence[str], errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the ``with`` block."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
    ) as process:
        try:
            with StopRequest(starting=True):
                yield process
        except BaseException:
            _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process, and those that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


class _Patience:
    """In a ``with`` block that takes too long a process is ended, so that nobody waits for it any more."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.is_over = False

    def __enter__(self) -> None:
        self._timer = threading.Timer(_PATIENCE, self._give_up)
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _give_up(self) -> None:
        self.is_over = True
        _end(self._process)


def _handed_over(frames: Iterator[Image.Image], process: subprocess.Popen[bytes]) -> str:
    """Writes frames and waits for the end; returns what went wrong, where the exit code does not tell."""
    assert process.stdin is not None
    patience, problem = _Patience(process), ""
    try:
        for frame in frames:
            with patience:
                process.stdin.write(_padded(np.asarray(frame)).tobytes())
        with patience:
            process.stdin.close()
    except BrokenPipeError:
        problem = "it ended before it had all frames"
        with suppress(BrokenPipeError):
            process.stdin.close()
    with patience:
        process.wait()
    if patience.is_over:
        return f"it did nothing for {_PATIENCE:g} seconds"
    return "" if process.returncode else problem


def _padded(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")

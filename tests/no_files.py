"""What stands where a file should be, and is none."""

from __future__ import annotations

import os
from pathlib import Path

KINDS = ("missing", "pipe", "endless device", "folder", "link to nothing", "link to itself")


def put_no_file(kind: str, path: Path) -> Path:
    """Puts one of :data:`KINDS` in the place of ``path``. Whoever opens the pipe to read waits for ever."""
    path.unlink(missing_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "endless device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "link to nothing":
            path.symlink_to("nothing")
        case "link to itself":
            path.symlink_to(path)
    return path

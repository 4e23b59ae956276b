"""Where files are kept, and the name under which this floor has used :func:`m2o_fast.files.replacing`."""

from __future__ import annotations

import os
from pathlib import Path

from m2o_fast.files import replacing

__all__ = ["replacing", "user_cache"]


def user_cache() -> Path:
    """Where what can be made again is kept: ``$XDG_CACHE_HOME/m2o_fast``, by default below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "m2o_fast"

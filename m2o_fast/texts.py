"""Foreign text, such as names of files, on its way to a terminal."""

from __future__ import annotations

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def harmless(text: str) -> str:
    """Text whose control characters are spelled out, but for line ends and tabs: a terminal obeys them."""
    return text.translate(_CONTROLS)

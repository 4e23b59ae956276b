"""How help texts show examples, and how foreign text is shown."""

from __future__ import annotations

_LONGEST = 2000  # characters


def examples(*lines: tuple[str, str]) -> str:
    """An epilog of commands, each below a line that says what it is for; fits 80 columns."""
    shown = [f"  [dim]# {purpose}[/dim]\n  [cyan]{command}[/cyan]" for command, purpose in lines]
    return "\n".join(["Examples:", *shown])


def printable(text: str) -> str:
    """Text on one line of bearable length, without the control characters of file names: a terminal obeys them."""
    line = " ".join(text.split())
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} [...] {line[-_LONGEST // 2 :]}"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)

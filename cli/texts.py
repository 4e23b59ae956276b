"""How help texts show examples."""

from __future__ import annotations


def examples(*lines: tuple[str, str]) -> str:
    """An epilog of commands, each below a line that says what it is for; fits 80 columns."""
    shown = [f"  [dim]# {purpose}[/dim]\n  [cyan]{command}[/cyan]" for command, purpose in lines]
    return "\n".join(["Examples:", *shown])

"""One row per operation, shape and pass: how fast the fused implementation is, and how much faster than what else."""

from __future__ import annotations

from typing import Any, NamedTuple

EAGER = ("eager", "grouped", "bincount")  # plain torch, each as one would write that operation
FUSED = ("compiled", "triton", "folded")
BASELINES = {"x eager": EAGER, "x torch.compile": ("compile",), "x numpy": ("numpy",)}
TITLES = ("operation", "shape", "pass", "time", *BASELINES, "of copy speed")
WORDS = 3  # columns that are set to the left
Facts = dict[str, Any]  # of one implementation of one group: seconds, copy_share, ...
Groups = dict[str, dict[str, Facts]]  # group -> implementation -> facts


class Parts(NamedTuple):
    """What a group's name says, such as ``residual_merge up2 8x64x32x32 float32, forward``."""

    operation: str
    shape: str
    mode: str


def parts_of(group: str) -> Parts:
    """Operation: all up to the first word that begins with a digit. Mode: what follows the last comma, if one does."""
    case, comma, mode = group.rpartition(", ")
    words = (case if comma else group).split()
    first = next((at for at, word in enumerate(words) if word[0].isdigit()), len(words))
    operation = " ".join(word for word in words[:first] if word != "None").rstrip(",")
    shape = " ".join(words[first:]).removesuffix(" out of cache")  # those rows have a share of copy speed
    return Parts(operation, shape, (mode if comma else "forward").replace("+", " + "))


def fastest(rows: dict[str, Facts]) -> Facts | None:
    """The fused implementation that took least; None where there is none."""
    return min((rows[name] for name in FUSED if name in rows), key=lambda facts: facts["seconds"], default=None)


def duration(seconds: float) -> str:
    """In milliseconds or microseconds."""
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} µs"


def table(groups: Groups) -> list[str]:
    """Lines of text, one for each group with a fused implementation; a row that loses says so at its end."""
    rows = [cells_of(group, rows, ours) for group, rows in groups.items() if (ours := fastest(rows)) is not None]
    widths = [max(map(len, column)) for column in zip(TITLES, *(cells for cells, _ in rows), strict=True)]
    lines = []
    for cells, remark in [(TITLES, ""), *rows]:
        padded = [cell.ljust(width) if at < WORDS else cell.rjust(width)
                  for at, (cell, width) in enumerate(zip(cells, widths, strict=True))]  # fmt: skip
        lines.append("  ".join([*padded, *[remark] * bool(remark)]).rstrip())
    return lines


def cells_of(group: str, rows: dict[str, Facts], ours: Facts) -> tuple[tuple[str, ...], str]:
    """The cells of a row, and which baselines are faster."""
    speedups = {}
    for title, names in BASELINES.items():
        seconds = min((rows[name]["seconds"] for name in names if name in rows), default=None)
        speedups[title] = None if seconds is None else seconds / ours["seconds"]
    factors = ["-" if factor is None else f"{factor:.2f}x" for factor in speedups.values()]
    share = f"{ours['copy_share']:.0%}" if "copy_share" in ours else "-"
    slower = [title.removeprefix("x ") for title, factor in speedups.items() if factor is not None and factor < 1]
    remark = f"slower than {', '.join(slower)}" if slower else ""
    return (*parts_of(group), duration(ours["seconds"]), *factors, share), remark

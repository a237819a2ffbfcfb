"""Text for people: aligned tables, figures, durations."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence

_NARROWEST = 16
"""So wide at least a folded column stays."""


def text_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: int = 1,
    width: int | None = None,
    least: Sequence[int] = (),
) -> str:
    """Rows of text under their columns' names, aligned: the first `left` columns to the left, the others to the right.

    A table wider than `width` has the widest of its left columns folded, each cell over as many lines as it needs.
    `least`: the widths that the first columns have at least, for tables that are printed a row at a time.
    """
    everything = [list(columns), *map(list, rows)]
    widths = [max(map(len, cells)) for cells in zip(*everything, strict=True)]
    widths = [max(pair) for pair in zip(widths, [*least, *widths[len(least) :]], strict=True)]
    excess = sum(widths) + 2 * (len(widths) - 1) - (width or sys.maxsize)
    if excess > 0:
        widest = max(range(left), key=widths.__getitem__)
        widths[widest] = max(_NARROWEST, widths[widest] - excess)
        folded = []
        for row in everything:
            first, *more = _fold(row[widest], widths[widest])
            folded.append([*row[:widest], first, *row[widest + 1 :]])
            folded += [[part if place == widest else "" for place in range(len(row))] for part in more]
        everything = folded
    lines = []
    for row in everything:
        cells = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _fold(cell: str, width: int) -> list[str]:
    """A cell in lines of at most `width`, broken at spaces, inside long words after a mark if there is one; the later
    lines indented."""
    pieces = []
    for word in re.findall(r"[^ ]* ?", cell):
        pieces += [word] if len(word) <= width - 1 else re.findall(rf"[^_/=,]{{1,{width - 3}}}[_/=,]?|[_/=,]", word)
    lines = [""]
    for piece in pieces:
        if len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("  ")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def terminal_width() -> int | None:
    """The columns of the terminal that standard output is; None where it is a file or a pipe, which nothing folds."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def figure(value: object, digits: int = 4) -> str:
    """A number with so many decimals; nothing where there is none, or none that is finite."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) and value - value == 0 else ""


def first_line(error: Exception) -> str:
    """What a library's error says first, which may be long; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def show_seconds(seconds: float) -> str:
    """A duration for people: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

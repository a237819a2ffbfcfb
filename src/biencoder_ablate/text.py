"""Text for people: aligned tables, figures, durations."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of text under their columns' names, aligned: the first `left` columns to the left, the others to the right.

    The first column is as wide as its widest cell, so keep that one short for a table to fit a terminal of 80.
    """
    everything = [list(columns), *rows]
    widths = [max(map(len, cells)) for cells in zip(*everything, strict=True)]
    lines = []
    for row in everything:
        cells = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def figure(value: object, digits: int = 4) -> str:
    """A number with so many decimals; nothing where there is none, or none that is finite."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) and value - value == 0 else ""


def show_seconds(seconds: float) -> str:
    """A duration for people: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""Text for people: aligned tables, figures, durations."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from biencoder_ablate.utils.files import naming

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


def format_number(value: object, digits: int = 4) -> str:
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


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and load reports off the screen: what matters is raised or logged."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


class RunLog:
    """Writes lines to the screen and to train.log; the file gets the time and survives restarts."""

    def __init__(self, path: Path | None, quiet: bool = False) -> None:
        self.path = path
        self.quiet = quiet

    def say(self, text: str = "") -> None:
        """One or more lines, for the screen and the file."""
        if not self.quiet:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
        self.note(text)

    def note(self, text: str) -> None:
        """For the file only. Raises OSError naming it."""
        if self.path is None:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(f"{stamp}  {line}\n" for line in text.splitlines() or [""])
        except OSError as error:
            raise naming(error, self.path) from error


def progress_bar(description: str, total: int, unit: str, quiet: bool) -> tqdm:
    """A bar of one phase, on standard error, gone when the phase is over, and silent where nobody watches."""
    return tqdm(
        desc=description,
        total=total,
        unit=unit,
        leave=False,
        dynamic_ncols=True,
        disable=True if quiet else None,
        mininterval=0.2,
    )

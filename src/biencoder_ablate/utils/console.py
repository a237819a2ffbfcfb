"""Text for people: aligned tables, numbers, durations, errors, a run's log and progress bars."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import math
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from biencoder_ablate.utils.files import append_text

_FULL_DISK = "make room there, or choose another logs_dir or cache_dir"
_FORBIDDEN = "make it readable and writable, or choose another logs_dir or cache_dir"
_GONE = "see that its directory is there (moved, deleted, unmounted?)"
_IN_THE_WAY = "a file is in the way; move it, or choose another logs_dir or cache_dir"
_REMEDIES = (
    dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FULL_DISK)
    | dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _FORBIDDEN)
    | dict.fromkeys((errno.ENOENT, errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.ENODEV), _GONE)
    | dict.fromkeys((errno.ENOTDIR, errno.EEXIST), _IN_THE_WAY)
)
"""What a person can do about an OSError, by its number."""
_NARROWEST = 16
"""A folded column stays at least so wide."""
NEXT = "next: "
"""How the line begins that says what to type next."""
_LABEL = re.compile(r" *(?:[a-z]+(?: {2,}|: )|\d+\. )(?=\S)")
"""What a line of prose may begin with, such as `data       `, `warning: ` or `1. `."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that steer a terminal, break a line, turn the direction of writing, or cannot be encoded."""


def text_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: int = 1,
    width: int | None = None,
    least: Sequence[int] = (),
) -> str:
    """Rows of text under their columns' names, aligned: the first `left` columns to the left, the others to the right.

    A table wider than `width` has its left columns folded, the widest first, each cell over as many lines as it needs.
    `least`: the widths that the first columns have at least, for tables that are printed a row at a time.
    """
    table = [[printable(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    for place, minimum in enumerate(least):
        widths[place] = max(widths[place], minimum)

    if width is not None:
        narrowed = _narrow(widths, left, width)
        table = [line for row in table for line in _fold_row(row, widths, narrowed)]
        widths = narrowed

    lines = []
    for row in table:
        cells = [cell.ljust(size) for cell, size in zip(row[:left], widths[:left], strict=True)]
        cells += [cell.rjust(size) for cell, size in zip(row[left:], widths[left:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _narrow(widths: Sequence[int], left: int, width: int) -> list[int]:
    """Widths that make a table no wider than `width`, as far as its left columns can be folded: the widest first."""
    narrowed = list(widths)
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    for place in sorted(range(left), key=lambda place: -widths[place]):
        spared = min(excess, narrowed[place] - _NARROWEST)
        if spared > 0:
            narrowed[place] -= spared
            excess -= spared
    return narrowed


def _fold_row(row: Sequence[str], widths: Sequence[int], narrowed: Sequence[int]) -> list[list[str]]:
    """A row as several, where a cell has a width less than it was."""
    columns = []
    for cell, wide, narrow in zip(row, widths, narrowed, strict=True):
        columns.append([cell] if narrow == wide else _fold_cell(cell, narrow))
    return [list(line) for line in itertools.zip_longest(*columns, fillvalue="")]


def _fold_cell(cell: str, width: int) -> list[str]:
    """A cell in lines of at most `width`.

    It is broken at spaces, and inside long words after a mark if there is one; the later lines are indented.
    """
    pieces = []
    for word in re.findall(r"[^ ]* ?", cell):
        pieces += [word] if len(word) <= width - 1 else re.findall(rf"[^_/=,]{{1,{width - 3}}}[_/=,]?|[_/=,]", word)
    lines = [""]
    for piece in pieces:
        if len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("  ")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def terminal_width(stream: TextIO | None = None) -> int | None:
    """The columns of the terminal that a stream is (standard output unless given); None for a file or a pipe."""
    stream = sys.stdout if stream is None else stream
    return shutil.get_terminal_size().columns if _is_open(stream) and stream.isatty() else None


def fold(text: str, width: int | None) -> str:
    """Lines of text broken at spaces where they are wider than `width`; no word is broken, and None breaks nothing.

    What follows a label (`data       …`, `warning: …`) stays to its right. A command to type (`next: …`) is continued
    with a backslash, as shells have it.
    """
    return text if width is None else "\n".join(_fold_line(line, width) for line in text.split("\n"))


def _fold_line(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    label = _LABEL.match(line)
    indent = len(label[0]) if label else len(line) - len(line.lstrip()) + 2
    glue = " \\" if line.startswith(NEXT) else ""
    words = textwrap.TextWrapper(
        width - len(glue),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
    return f"{glue}\n".join(words.wrap(line))


def show(text: str = "", file: TextIO | None = None) -> None:
    """Print text on standard output, or another stream, folded to the terminal if it is one."""
    stream = sys.stdout if file is None else file
    print(fold(text, terminal_width(stream)), file=stream, flush=True)


def format_number(value: object, digits: int = 4) -> str:
    """A number with so many decimals; nothing where there is none, or none that is finite."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) and math.isfinite(value) else ""


def printable(text: str, keep: str = "") -> str:
    """A text with control characters escaped, as in \\x1b, but for those to `keep`: others could write anything."""
    return _CONTROL.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)


def excerpt(text: str) -> str:
    """The beginning of what a file or a person gave, for a message: 60 characters at most, as `printable` has them."""
    return printable(text if len(text) <= 60 else f"{text[:59]}…")


def format_error(error: BaseException, brief: bool = False) -> str:
    """One line for a person; of an OSError which file, what happened to it, and what would do.

    `brief` keeps the first line alone, and 200 characters of it: for a library's error, which may go on for long. An
    error that says nothing is named by its type.
    """
    lines = [printable(line.strip()) for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if brief:
        return lines[0][:200]
    if isinstance(error, OSError) and error.filename is not None:
        problem = error.strerror or str(error)
        remedy = _FULL_DISK if "written" in problem else _REMEDIES.get(error.errno or 0)
        if remedy is not None:
            return f"{printable(str(error.filename))}: {problem}; {remedy}; then the same command goes on"
    return " ".join(lines)


def show_seconds(seconds: float, digits: int = 0) -> str:
    """A duration for people: 45 s, or with so many decimals, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.{digits}f} s"
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


class OutputClosed(BaseException):
    """Nobody reads standard output any more, as after `| head -1`. Not an Exception: nothing that trains has failed."""


def _is_open(stream: Any) -> bool:
    return stream is not None and not getattr(stream, "closed", False)


class RunLog:
    """Writes lines to the screen and to train.log; the file gets the time and survives restarts.

    A `quiet` one leaves the screen alone; it may have progress bars nevertheless, which go when they are done.
    """

    def __init__(self, path: Path | None, quiet: bool = False, bars: bool | None = None) -> None:
        self.path = path
        self.quiet = quiet
        self.bars = not quiet if bars is None else bars

    def say(self, text: str = "") -> None:
        """One or more lines, for the screen and the file. Raises OutputClosed where nobody reads the screen."""
        if not self.quiet and _is_open(sys.stdout):
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            folded = fold(text, terminal_width())
            shown = folded.encode(encoding, "replace").decode(encoding)
            try:
                tqdm.write(shown, file=sys.stdout)
                sys.stdout.flush()
            except BrokenPipeError as error:
                raise OutputClosed from error
        self.note(text)

    def note(self, text: str) -> None:
        """For the file only. Raises OSError naming it."""
        if self.path is None:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        append_text(self.path, "".join(f"{stamp}  {line}\n" for line in text.splitlines() or [""]))


def progress_bar(description: str, total: int, unit: str, quiet: bool) -> tqdm:
    """A bar of one phase, on standard error, gone when the phase is over, and silent where nobody watches.

    Without a standard error there is none: tqdm would raise inside its own lock, which the next to write waits for.
    """
    return tqdm(
        desc=description,
        total=total,
        unit=unit,
        leave=False,
        dynamic_ncols=True,
        disable=True if quiet or not _is_open(sys.stderr) else None,
        mininterval=0.2,
    )

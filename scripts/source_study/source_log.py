"""The source study's text logs: top-1 per epoch, read so that it can be shown beside our `source` figures.

The old scripts printed, in Chinese, one line per event; there is nothing else to read their results from:

    开始第0个epoch的训练                         an epoch opens
    当前第10个mini batch，当前loss为2.76          a step (every tenth was printed)
    训练集top1 accuracy为0.2667                  top-1 on train; 验证集 is val, 测试集 is test

Imports nothing but the standard library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

SPLITS = ("train", "val", "test")

# Each line's first character may be missing: the logs were copied out of terminals, and a cut copy
# starts anywhere. A line is read only as a whole, so that a damaged figure is never half-read.
_OPENING = re.compile(r"(?:开?始)?第([0-9]+)个\s*epoch的训练")
_STEP = re.compile(r"(?:当?前)?第([0-9]+)个\s*mini batch，当前loss为(?:[0-9.]+(?:e[+-]?[0-9]+)?|nan|inf)")
_FIGURE = re.compile(
    r"(?:(?P<train>训?练)|(?P<val>验?证)|(?P<test>测?试))集"
    r"top1 accuracy为(?P<top1>[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)"
)
_CHATTER = re.compile(r"(?:开?始)?(?:初始化)?获取负样本的下标")
_HIDES_AN_OPENING = 4  # damaged lines together may be an epoch's three figures and the next one's opening
_BROKEN_HEAD = "\ufffd\ufeff"  # what a cut first character or a byte-order mark decodes to


@dataclass(frozen=True, slots=True)
class SourceLogRow:
    """One epoch of a log: top-1 after it on each split, shares in [0, 1], None where the log has none."""

    epoch: int
    train: float | None = None
    val: float | None = None
    test: float | None = None
    num_steps: int = 0  # step lines read, not steps taken: the scripts printed every tenth

    @property
    def complete(self) -> bool:
        """Whether all three figures were read."""
        return None not in (self.train, self.val, self.test)


@dataclass(frozen=True, slots=True)
class SourceLog:
    """What could be read of a log.

    `rows` are in the log's order, one per epoch that opens in it, the last perhaps without figures.
    `num_damaged_lines` counts the lines that nothing could be read from; `num_stray_lines` the sound steps
    and figures whose epoch is unknown, because the line that opens it is damaged or missing;
    `num_restarts` how often the epochs jump back (of epochs logged twice, the later is kept).
    """

    path: Path
    rows: tuple[SourceLogRow, ...]
    num_damaged_lines: int
    num_stray_lines: int
    num_restarts: int

    @property
    def num_steps(self) -> dict[int, int]:
        """Step lines read, per epoch."""
        return {row.epoch: row.num_steps for row in self.rows}


def parse_source_log(path: str | Path) -> SourceLog:
    """Read a log of the source study; damage is counted, not fatal.

    Bytes that are not UTF-8 damage their own line only. A figure on a last line without its line end may
    have lost digits (0.60 of 0.6022…): it counts as damaged and is not read.
    Raises ValueError if the file cannot be read, or if no epoch in it can: then it is some other file.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such source log; give --source-log NAME=FILE") from None
    except OSError as error:
        raise ValueError(f"{path}: the source log cannot be read ({error.strerror})") from None

    reading = _Reading()
    *whole_lines, tail = content.split(b"\n")
    for raw in whole_lines:
        reading.take(_text(raw))
    if _FIGURE.fullmatch(_text(tail)):
        reading.num_damaged_lines += 1
    else:
        reading.take(_text(tail))
    if not reading.rows:
        raise ValueError(
            f"{path}: no epoch can be read from it; a log of the source study has lines such as "
            "开始第0个epoch的训练 and 训练集top1 accuracy为0.2667, in UTF-8"
        )
    return SourceLog(
        path,
        tuple(reading.rows),
        reading.num_damaged_lines,
        reading.num_stray_lines,
        reading.num_restarts,
    )


def _text(raw: bytes) -> str:
    # A cut first character leaves one or two broken bytes behind; the rest of its line is sound.
    return raw.decode("utf-8", errors="replace").strip().lstrip(_BROKEN_HEAD)


class _Reading:
    """The state of one pass over a log: the rows so far, and whether the last is still open."""

    def __init__(self) -> None:
        self.rows: list[SourceLogRow] = []
        self.is_open = False
        self.last_step = -1
        self.num_lines = 0  # not blank
        self.train_line = 0  # which of them has, or should have, the open epoch's figure on train
        self.num_damaged_lines = 0
        self.num_damaged_together = 0  # of them, how many up to here without a sound line between
        self.num_stray_lines = 0
        self.num_restarts = 0

    def take(self, line: str) -> None:
        """Read one line, without its line end."""
        if not line:
            return
        self.num_lines += 1
        num_damaged = self.num_damaged_lines
        self._read(line)
        self.num_damaged_together = self.num_damaged_together + 1 if self.num_damaged_lines > num_damaged else 0
        if self.num_damaged_together >= _HIDES_AN_OPENING:
            self.is_open = False

    def _read(self, line: str) -> None:
        if _CHATTER.fullmatch(line):
            return
        if match := _OPENING.fullmatch(line):
            self._open(int(match[1]))
        elif match := _STEP.fullmatch(line):
            self._step(int(match[1]))
        elif match := _FIGURE.fullmatch(line):
            split = next(split for split in SPLITS if match[split])
            self._figure(split, float(match["top1"]))
        else:
            self.num_damaged_lines += 1
            if "epoch" in line:  # it opened an epoch whose number is lost: what follows is not the last one's
                self.is_open = False

    def _open(self, epoch: int) -> None:
        if self.rows and epoch <= self.rows[-1].epoch:
            self.num_restarts += 1
            self.rows = [row for row in self.rows if row.epoch < epoch]
        self.rows.append(SourceLogRow(epoch))
        self.is_open, self.last_step = True, -1

    def _step(self, step: int) -> None:
        # Figures end an epoch and steps count upwards in it: a step after a figure, or after a higher step,
        # belongs to the next epoch, whose opening line is lost.
        row = self.rows[-1] if self.is_open and step > self.last_step else None
        if row and row.train is None and row.val is None and row.test is None:
            self.rows[-1] = replace(row, num_steps=row.num_steps + 1)
            self.last_step = step
        else:
            self.is_open = False
            self.num_stray_lines += 1

    def _figure(self, split: str, top1: float) -> None:
        # An epoch's figures are three lines in a row, train, val, test: one out of place is another epoch's.
        train_line = self.num_lines - SPLITS.index(split)
        row = self.rows[-1] if self.is_open else None
        begun = row is not None and (row.train, row.val, row.test) != (None, None, None)
        if not 0 <= top1 <= 1:
            self.num_damaged_lines += 1
        elif row is None or (begun and train_line != self.train_line):
            self.is_open = False
            self.num_stray_lines += 1
        else:
            figures = {name: getattr(row, name) for name in SPLITS} | {split: top1}
            self.rows[-1] = SourceLogRow(row.epoch, **figures, num_steps=row.num_steps)
            self.train_line = train_line

"""What a person reads of a run: the same lines on the screen and, append-only, in train.log."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tqdm import tqdm

from biencoder_ablate.files import naming


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

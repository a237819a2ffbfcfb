"""Many runs in one process: what memory, objects, open files and threads come to, and the seconds of a run.

    python scripts/soak.py                   # 1,000 runs of the tiny model, a line every 50
    python scripts/soak.py 200 --every 20

One sweep over seeds trains the tiny model on a few sample debates, in one process, as `-m` does. The first half
warms up; exit code 1 where a run failed, or where in the second half memory grew by more than `--most` KiB a run.
Linux alone says what a process holds (/proc).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from biencoder_ablate.cli import main as cli

SETTINGS = ("model=tiny", "data=sample", "data.limit=3", "training.epochs=1", "model.max_tokens=16")
HEAD = "  runs   RSS MiB   objects   files   threads   s a run"
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Held:
    """What the process holds after so many runs."""

    runs: int
    resident: int
    """Bytes of resident memory."""
    objects: int
    """Objects that Python's collector follows, after a collection."""
    files: int
    threads: int
    seconds: float
    """Of a run, the mean since the line before."""

    def line(self) -> str:
        return (
            f"{self.runs:6d}{self.resident / MEBIBYTE:10.1f}{self.objects:10d}"
            f"{self.files:8d}{self.threads:10d}{self.seconds:10.3f}"
        )


def resident() -> int:
    """Bytes of memory that the process has in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def growth(measured: list[Held]) -> float:
    """Bytes by which memory grew a run, over the second half of the runs."""
    last = measured[-1]
    middle = min(measured, key=lambda held: abs(held.runs - last.runs / 2))
    return (last.resident - middle.resident) / max(last.runs - middle.runs, 1)


class Watch(Callback):
    """Hydra calls it after each run: every so many it says what the process holds."""

    measured: list[Held]

    def __init__(self, every: int) -> None:
        self.every = every
        self.runs = 0
        self.since = time.perf_counter()
        Watch.measured = []

    def on_job_end(self, **_: Any) -> None:
        self.runs += 1
        if self.runs % self.every:
            return
        seconds = (time.perf_counter() - self.since) / self.every
        gc.collect()
        files = len(os.listdir("/proc/self/fd"))
        held = Held(self.runs, resident(), len(gc.get_objects()), files, threading.active_count(), seconds)
        Watch.measured.append(held)
        print(held.line(), file=sys.__stdout__, flush=True)
        self.since = time.perf_counter()


def soak(num_runs: int, every: int, folder: Path) -> int:
    """Run the sweep below `folder`, whose output goes into sweep.log there; returns its exit code."""
    watch = (f"+hydra.callbacks.watch._target_={Watch.__module__}.Watch", f"+hydra.callbacks.watch.every={every}")
    places = (f"logs_dir={folder / 'logs'}", f"cache_dir={folder / 'cache'}", "sweep_name=soak")
    sys.argv[1:] = ["-m", *SETTINGS, f"seed=range(0,{num_runs})", *places, *watch]
    with (folder / "sweep.log").open("w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        try:
            cli.main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=int, nargs="?", default=1000, help="how many (1,000)")
    parser.add_argument("--every", type=int, default=50, help="runs between two lines (50)")
    parser.add_argument("--most", type=float, default=100.0, help="KiB a run that memory may grow by (100)")
    arguments = parser.parse_args()
    if not 1 <= arguments.every <= arguments.runs:
        parser.error(f"--every {arguments.every}: must be 1 to {arguments.runs}, the number of runs")

    print(HEAD)
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        code = soak(arguments.runs, arguments.every, Path(folder))
    if not Watch.measured:
        return code or 1
    grown = growth(Watch.measured) / 1024
    print(f"in the second half memory grew by {grown:.1f} KiB a run")
    return int(code != 0 or grown > arguments.most)


if __name__ == "__main__":
    sys.exit(main())

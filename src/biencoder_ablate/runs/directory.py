"""A run's directory: what lies where, who is working in it, and what it says it has reached."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from biencoder_ablate.files import read_json

_LOOKING_SECONDS = 0.2
"""How long a run that starts bears with those who look whether it is free."""


class RunBusy(RuntimeError):
    """Another process is working in this run directory."""


@dataclass(frozen=True)
class RunDirectory:
    """<logs_dir>/runs/NAME and the files in it (design §3)."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def aside(self) -> Path:
        """Where the old run waits while `rerun=true` makes a new one."""
        return self.path.with_name(f".{self.name}.old")

    def read_result(self) -> dict[str, Any] | None:
        """What result.json says, or None where there is none."""
        return read_json(self.result)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the run directory `path`; raises RunBusy, saying who holds it.

    The kernel's file lock goes with its process, so that a killed run leaves none behind. The lock file lies
    beside the directory, which `rerun=true` moves.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with _open_locked(path, lock) as file:
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                lock.unlink()


def _open_locked(path: Path, lock: Path) -> IO[str]:
    """The lock file, opened and locked; its holder unlinks it when done, so what was locked must still be it.

    A shared lock of `holder`, who only looks, lasts an instant: it is waited for before giving up.
    """
    deadline = time.monotonic() + _LOOKING_SECONDS
    while True:
        file = lock.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        except FileNotFoundError:
            pass
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.seek(0)
                holder = file.read().strip() or "another process"
                file.close()
                raise RunBusy(f"{path}: {holder} is working in this run; wait for it, or stop it") from None
            time.sleep(_LOOKING_SECONDS / 10)
        file.close()


def holder(path: Path) -> str | None:
    """Who works in the run directory `path` right now, or None."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        with lock.open("r", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "another process"
    except FileNotFoundError:
        pass
    return None


def start_over(run: RunDirectory) -> None:
    """Move a finished run aside for `rerun=true`; where one waits there already, this is its rerun going on."""
    if run.aside.exists():
        return
    result = run.read_result()
    if result is not None and result.get("status") == "finished":
        run.path.rename(run.aside)
    elif run.path.exists():
        shutil.rmtree(run.path)


def forget_old(run: RunDirectory) -> None:
    """The new run has finished: drop the one that was kept aside."""
    if run.aside.exists():
        shutil.rmtree(run.aside)

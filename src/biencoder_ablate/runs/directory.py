"""A run's directory: what lies where, who is working in it, and what it says it has reached."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from biencoder_ablate.config.schema import ConfigError
from biencoder_ablate.utils.command import did_you_mean
from biencoder_ablate.utils.files import (
    NUMBER,
    Damaged,
    expand_user,
    load_json,
    read_regular,
    refuse_link,
    remove,
    require,
    require_numbers,
)

_LOOKING_SECONDS = 0.2
"""How long a run that starts bears with those who look whether it is free."""


class RunBusy(RuntimeError):
    """Another process is working in this run directory."""


@dataclass(frozen=True)
class RunDirectory:
    """<logs_dir>/runs/NAME and the files in it."""

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

    def read_result(self) -> dict[str, Any]:
        """What result.json says. Raises OSError where there is none, and Damaged.

        Of a finished run all that lists, tables and sweeps show of it must be there: a run that lacks any of it counts
        as not finished.
        """
        path = self.result
        result = load_json(path, status=str)
        if result["status"] != "finished":
            return result
        require(path, result, best_epoch=int, val=dict, test=dict, seconds=NUMBER)
        for split in ("val", "test"):
            require(path, result[split], f"its {split} ", top1=(*NUMBER, type(None)))
        for part in ("val", "test", "selected", "initial", "final", "baselines"):
            if part in result:
                require(path, result, **{part: dict})
                require_numbers(path, result[part], part)
        # Of each baseline, by split, its metrics.
        for name, by_split in result.get("baselines", {}).items():
            for split, metrics in require(path, by_split, f"its baseline {name} ").items():
                require(path, metrics, f"its baseline {name} on {split} ")
        return result

    def read_finished(self) -> dict[str, Any] | None:
        """What result.json says of a run that has finished, or None; a damaged one has not."""
        try:
            result = self.read_result()
        except (OSError, Damaged):
            return None
        return result if result["status"] == "finished" else None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the run directory `path`; raises RunBusy, saying who holds it.

    The kernel's file lock goes with its process, so that a killed run leaves none behind. Its file, and the one that
    says who holds it, lie beside the directory, which `rerun=true` moves; both go with the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, holder_file = _lock_files(path)
    for file in (lock, holder_file):  # a link may lead anywhere, and what it leads to would be emptied
        if file.is_symlink():
            file.unlink()
    held = FileLock(lock, timeout=_LOOKING_SECONDS, poll_interval=_LOOKING_SECONDS / 10)
    try:
        held.acquire()
    except Timeout:
        raise RunBusy(f"{path}: {_read_holder(holder_file)} is working in this run; wait for it, or stop it") from None
    try:
        holder_file.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder_file.unlink(missing_ok=True)
            lock.unlink()  # while it is held: whoever waits for it notices, and makes a new one
        held.release()


def holder(path: Path) -> str | None:
    """Who works in the run directory `path` right now, or None."""
    lock, holder_file = _lock_files(path)
    if lock.is_symlink() or not lock.exists():
        return None
    try:
        with FileLock(lock, timeout=_LOOKING_SECONDS / 4, poll_interval=_LOOKING_SECONDS / 20):
            return None
    except Timeout:
        return _read_holder(holder_file)
    except OSError:  # a disk that cannot be written to: nobody works there
        return None


def lies_locked(path: Path) -> bool:
    """Whether the files of a lock lie beside the run directory `path`: of one that is held, or that a kill left."""
    return any(file.exists() for file in _lock_files(path))


def _lock_files(path: Path) -> tuple[Path, Path]:
    return path.with_name(f".{path.name}.lock"), path.with_name(f".{path.name}.holder")


def _read_holder(holder_file: Path) -> str:
    try:
        return read_regular(holder_file).decode() or "another process"
    except (OSError, ValueError):
        return "another process"


def start_over(run: RunDirectory) -> None:
    """Move a finished run aside for `rerun=true`; where one waits there already, this is its rerun going on."""
    if run.aside.exists():
        return
    if run.read_finished():
        run.path.rename(run.aside)
    else:
        remove(run.path)


def forget_old(run: RunDirectory) -> None:
    """The new run has finished: drop the one that was kept aside."""
    remove(run.aside)


def refuse_links(path: Path) -> None:
    """Raise ValueError for a link that is a run's directory, or lies in it: what a run writes must stay in it.

    A logs directory may come from someone else. wandb's own directory holds links of its own.
    """
    refuse_link(path)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            refuse_link(Path(folder, name))
        if "wandb" in folders:
            folders.remove("wandb")


def find_run(name: str | Path, sweeps: bool = False) -> Path:
    """The directory that a person means by `name`: a path, a run's bare name in logs/runs, or `latest`.

    LOGS_DIR/latest and LOGS_DIR/NAME work as well, and with `sweeps` a sweep's name. `latest` is the newest finished
    run, with `sweeps` the newest of runs and sweeps. What `biencoder_ablate.export` wrote stands for the run in it.
    Where nothing is found the path comes back as it is, for the caller to refuse. Raises ConfigError where the name is
    nearly that of a run, or sweep.
    """
    path = expand_user(name)
    if (path / "modules.json").is_file() and (path / "run" / "result.json").is_file():
        return path / "run"
    logs = path.parent if path.parent.name else Path("logs")
    if path.exists() or not (logs / "runs").is_dir():
        return path

    kinds = ["runs/*/result.json"]
    if sweeps:
        kinds.append("sweeps/*/runs.json")
    if path.name != "latest":
        folders = [logs / kind.partition("/")[0] for kind in kinds]
        found = next((folder / path.name for folder in folders if (folder / path.name).is_dir()), None)
        if found is not None:
            return found
        names = [place.name for folder in folders for place in folder.glob("[!.]*")]
        hint = did_you_mean(path.name, [*names, "latest"])
        if hint:
            raise ConfigError(f"{name}: no {'run or sweep' if sweeps else 'run'} of this name in {logs}; {hint}")
        return path

    done = []
    for file in (file for kind in kinds for file in logs.glob(kind)):
        is_hidden = file.parent.name.startswith(".")  # a run kept aside while rerun=true makes a new one
        if not is_hidden and (file.name == "runs.json" or RunDirectory(file.parent).read_finished()):
            done.append(file)
    return max(done, key=lambda file: file.stat().st_mtime).parent if done else path

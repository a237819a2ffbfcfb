"""The last finished epoch on disk, from which a run goes on: the commit point.

`checkpoint/last.pt` holds the trained weights, the optimizer, the records and which epoch is best; the best weights
lie beside it under their epoch, written before last.pt refers to them and removed only when it no longer does.
Random states need no saving: every draw comes from (seed, name, epoch). An epoch is written while the next one runs, so
that a kill may lose one epoch more.

Nothing is believed that is not as it was written. last.pt names its run and the sha256 of the best weights; its own
stands in last.pt.sha256 before it takes its place there, with that of the one before it, so that a kill between the two
leaves a pair that fits.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch.utils._pytree import tree_map_only

from biencoder_ablate.runs.records import Record, select_epoch
from biencoder_ablate.utils.cache import checksum
from biencoder_ablate.utils.console import format_error
from biencoder_ablate.utils.files import read_regular, remove, whole_file, write_text


@dataclass
class RunState:
    """How far a run has come: a record for each epoch from −1 on, and optimizer steps done.

    `best_epoch` is the selected epoch so far, None before the first; `checksums` has the sha256 of the file with its
    weights, by the file's name, once it is written.
    """

    records: list[Record] = field(default_factory=list)
    best_epoch: int | None = None
    step: int = 0
    checksums: dict[str, str] = field(default_factory=dict)

    @property
    def next_epoch(self) -> int:
        return len(self.records) - 1

    @property
    def epochs_since_best(self) -> int:
        """Epochs in a row that have not been better than the selected one."""
        return 0 if self.best_epoch is None else self.next_epoch - 1 - self.best_epoch


def trained_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the model's weights on the CPU (those of a frozen encoder are not among them)."""
    return {name: _copy(value) for name, value in model.state_dict().items()}


def _copy(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to("cpu", copy=True)


def snapshot(model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: RunState) -> dict[str, Any]:
    """All that a run goes on from, copied, so that training may go on while it is written."""
    return {
        "model": trained_state(model),
        "optimizer": tree_map_only(torch.Tensor, _copy, optimizer.state_dict()),
        "records": list(state.records),
        "best_epoch": state.best_epoch,
        "step": state.step,
        "checksums": state.checksums,
    }


def save_checkpoint(directory: Path, state: dict[str, Any]) -> None:
    """Commit a snapshot's epoch. Raises OSError naming the file."""
    # Not its parents: a run's directory that has vanished is not made again, half.
    directory.mkdir(exist_ok=True)
    best = _best_path(directory, state["best_epoch"])
    if state["best_epoch"] == state["records"][-1]["epoch"]:
        with whole_file(best, "wb") as file:
            digest = _save_hashed(state["model"], file)
        # Later epochs refer to these weights by the checksum that they had when they were written.
        state["checksums"].clear()
        state["checksums"][best.name] = digest

    last, listed = directory / "last.pt", directory / "last.pt.sha256"
    before = listed.read_text("utf-8", errors="replace").splitlines()[:1] if listed.is_file() else []
    with whole_file(last, "wb") as file:
        digest = _save_hashed(state | {"run": directory.parent.name}, file)
        write_text(listed, "\n".join([digest, *before]) + "\n")
    # Only now nothing refers to the weights of an earlier best epoch.
    for old in directory.glob("best-*.pt"):
        if old != best:
            old.unlink()


class _HashingFile:
    """A binary file for torch.save, with the sha256 of what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


def _save_hashed(value: Any, file: IO[bytes]) -> str:
    """torch.save, from front to back; returns the sha256 of all that it wrote."""
    hashing = _HashingFile(file)
    torch.save(value, hashing)  # type: ignore[arg-type]
    return hashing.sha256.hexdigest()


class DamagedCheckpoint(Exception):
    """A checkpoint that a run cannot go on from; says why."""


class BackgroundWriter:
    """Runs jobs in one thread, in order, while the caller goes on.

    Leaving its `with` waits for the last one. A job's error is raised by the next call, once.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[None] | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Start a job, after the one before it has ended, so that the data of only one is held."""
        self.wait()
        self._last = self._pool.submit(job)

    def wait(self) -> None:
        """Return when no job is left. Raises the last one's error."""
        last = self._last
        self._last = None
        if last is not None:
            last.result()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._pool.shutdown()
        # Of two errors the caller's came first, and is the one to raise.
        ignored = () if kind is None else (Exception,)
        with contextlib.suppress(*ignored):
            self.wait()


def load_checkpoint(
    directory: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None, select: str
) -> RunState | None:
    """Load the last finished epoch into model and optimizer and return its state; None without a checkpoint.

    `select` is evaluation.select, by which its best epoch was chosen. Raises DamagedCheckpoint, with both as they
    were, for one that is not as it was written, or is another run's.
    """
    path = directory / "last.pt"
    if not path.exists():
        return None
    content = _read_checked(path)
    if not isinstance(content, dict) or content.get("run") != directory.parent.name:
        raise DamagedCheckpoint("last.pt is not of this run")
    try:
        state = _checked_state(content, select)
        if state.best_epoch is not None:
            best = _best_path(directory, state.best_epoch)
            if not best.is_file() or checksum(best) != state.checksums[best.name]:
                raise DamagedCheckpoint(f"{best.name} is not what last.pt was written with")

        # Of weights that do not fit, torch would load those that do before it says so.
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        if {name: value.shape for name, value in content["model"].items()} != shapes:
            raise DamagedCheckpoint("last.pt holds other weights than the model has")
        # The optimizer first: it refuses what does not fit before it takes anything.
        if optimizer is not None:
            optimizer.load_state_dict(content["optimizer"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OSError) as error:
        raise DamagedCheckpoint(f"last.pt does not fit ({format_error(error, brief=True)})") from error
    model.load_state_dict(content["model"])
    return state


def _checked_state(content: dict[str, Any], select: str) -> RunState:
    """The state in a checkpoint. Raises DamagedCheckpoint where no run can have come to it, among other errors."""
    records, best, step = content["records"], content["best_epoch"], content["step"]
    epochs = [record["epoch"] for record in records]
    if not epochs or epochs != list(range(-1, len(epochs) - 1)):
        raise DamagedCheckpoint("last.pt lacks an epoch")
    if best != select_epoch(records, select):
        raise DamagedCheckpoint(f"last.pt has epoch {best} as its best, which its records do not")
    if type(step) is not int or step < len(epochs) - 1:
        raise DamagedCheckpoint(f"last.pt has {step} as its number of steps")
    return RunState(records, best, step, dict(content["checksums"]))


def _read_checked(path: Path) -> Any:
    """What torch.save wrote to `path`. Raises DamagedCheckpoint where it is not as it was written."""
    try:
        known = read_regular(path.with_name(path.name + ".sha256")).decode().split()
        is_whole = checksum(path) in known
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{path.name} has no checksum that can be read") from error
    if not is_whole:
        raise DamagedCheckpoint(f"{path.name} is not as it was written")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # another version's, or another program's: whatever torch makes of it
        raise DamagedCheckpoint(f"{path.name} cannot be read ({format_error(error, brief=True)})") from error


def load_best(directory: Path, state: RunState, model: torch.nn.Module) -> None:
    """Load the selected epoch's weights into the model."""
    path = _best_path(directory, state.best_epoch)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def remove_checkpoint(directory: Path) -> None:
    """Remove a finished run's checkpoint, if there is one."""
    remove(directory)


def _best_path(directory: Path, epoch: int | None) -> Path:
    return directory / f"best-{epoch}.pt"

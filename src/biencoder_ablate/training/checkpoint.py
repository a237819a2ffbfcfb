"""The last finished epoch on disk, from which a run goes on: the commit point.

`checkpoint/last.pt` holds the trained weights, the optimizer, the records and which epoch is best; the best weights
lie beside it under their epoch, written before last.pt refers to them and removed only when it no longer does.
Random states need no saving: every draw comes from (seed, name, epoch). An epoch is written while the next one runs, so
that a kill may lose one epoch more.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from biencoder_ablate.runs.records import Record
from biencoder_ablate.utils.files import whole_file


@dataclass
class RunState:
    """How far a run has come: a record for each epoch from −1 on, and optimizer steps done.

    `best_epoch` is the selected epoch so far, None before the first.
    """

    records: list[Record] = field(default_factory=list)
    best_epoch: int | None = None
    step: int = 0

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
    }


def save_checkpoint(directory: Path, state: dict[str, Any]) -> None:
    """Commit a snapshot's epoch. Raises OSError naming the file."""
    # Not its parents: a run's directory that has vanished is not made again, half.
    directory.mkdir(exist_ok=True)
    best = _best_path(directory, state["best_epoch"])
    if state["best_epoch"] == state["records"][-1]["epoch"]:
        with whole_file(best, "wb") as file:
            torch.save(state["model"], file)
    with whole_file(directory / "last.pt", "wb") as file:
        torch.save(state, file)
    # Only now nothing refers to the weights of an earlier best epoch.
    for old in directory.glob("best-*.pt"):
        if old != best:
            old.unlink()


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
    directory: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None
) -> RunState | None:
    """Load the last finished epoch into model and optimizer and return its state; None without a checkpoint."""
    path = directory / "last.pt"
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    if optimizer is not None and state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])
    return RunState(state["records"], state["best_epoch"], state["step"])


def load_best(directory: Path, state: RunState, model: torch.nn.Module) -> None:
    """Load the selected epoch's weights into the model."""
    path = _best_path(directory, state.best_epoch)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def remove_checkpoint(directory: Path) -> None:
    """Remove a finished run's checkpoint, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)


def _best_path(directory: Path, epoch: int | None) -> Path:
    return directory / f"best-{epoch}.pt"

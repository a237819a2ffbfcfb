"""The last finished epoch on disk, from which a run goes on: the commit point.

`checkpoint/last.pt` holds the trained weights, the optimizer, the records and which epoch is best; the best
weights lie beside it under their epoch, written before last.pt refers to them and removed after. Random
states need no saving: every draw comes from (seed, name, epoch). An epoch is written while the next one runs: what a
kill loses then is an epoch more.
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
    """How far a run has come. `best_epoch` is None before the first epoch."""

    records: list[Record] = field(default_factory=list)
    best_epoch: int | None = None
    step: int = 0

    @property
    def next_epoch(self) -> int:
        return self.records[-1]["epoch"] + 1 if self.records else -1


def trained_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the model's weights on the CPU (a frozen encoder is not among the model's)."""
    return {name: _copy(value) for name, value in model.state_dict().items()}


def _copy(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to("cpu", copy=True)


def snapshot(model: torch.nn.Module, optimizer: torch.optim.Optimizer, reached: RunState) -> dict[str, Any]:
    """All that a run goes on from, copied: training may go on meanwhile."""
    return {
        "model": trained_state(model),
        "optimizer": tree_map_only(torch.Tensor, _copy, optimizer.state_dict()),
        "records": list(reached.records),
        "best_epoch": reached.best_epoch,
        "step": reached.step,
    }


def save_checkpoint(directory: Path, state: dict[str, Any]) -> None:
    """Commit a snapshot's epoch. Raises OSError naming the file."""
    directory.mkdir(exist_ok=True)  # not its parents: a run's directory that has vanished is not made again, half
    best = _best_path(directory, state["best_epoch"])
    if state["best_epoch"] == state["records"][-1]["epoch"]:
        with whole_file(best, "wb") as file:
            torch.save(state["model"], file)
    with whole_file(directory / "last.pt", "wb") as file:
        torch.save(state, file)
    for old in directory.glob("best-*.pt"):
        if old != best:
            old.unlink()


class BackgroundWriter:
    """Jobs in a thread of their own, one at a time and in order, while the caller goes on.

    Leaving it waits for the last one. A job's error is raised by the next call, once.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[None] | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Have a job done once the one before is; waits for that one first, so that only one's data is held."""
        self.wait()
        self._last = self._pool.submit(job)

    def wait(self) -> None:
        """Until nothing is left to do."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._pool.shutdown()
        with contextlib.suppress(*([] if kind is None else [Exception])):  # the first error is the one to tell
            self.wait()


def load_checkpoint(
    directory: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None
) -> RunState | None:
    """Put the last finished epoch into model and optimizer and return how far it is; None without a checkpoint."""
    path = directory / "last.pt"
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    if optimizer is not None and state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])
    return RunState(state["records"], state["best_epoch"], state["step"])


def load_best(directory: Path, reached: RunState, model: torch.nn.Module) -> None:
    """Put the selected epoch's weights into the model."""
    model.load_state_dict(torch.load(_best_path(directory, reached.best_epoch), map_location="cpu", weights_only=True))


def remove_checkpoint(directory: Path) -> None:
    """The run has finished: its checkpoint is no longer needed."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)


def _best_path(directory: Path, epoch: int | None) -> Path:
    return directory / f"best-{epoch}.pt"

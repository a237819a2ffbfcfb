"""The last finished epoch on disk, from which a run goes on: the commit point.

`checkpoint/last.pt` holds the trained weights, the optimizer, the records and which epoch is best; the best
weights lie beside it under their epoch, written before last.pt refers to them and removed after. Random
states need no saving: every draw comes from (seed, name, epoch).
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from biencoder_ablate.files import whole_file
from biencoder_ablate.runs.records import Record


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
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def save_checkpoint(
    directory: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None,
    reached: RunState,
    best_state: dict[str, torch.Tensor] | None,
) -> None:
    """Commit an epoch. `best_state` is given when this epoch is the best so far. Raises OSError naming the file."""
    directory.mkdir(exist_ok=True)  # not its parents: a run's directory that has vanished is not made again, half
    if best_state is not None:
        with whole_file(_best_path(directory, reached), "wb") as file:
            torch.save(best_state, file)
    state = {
        "model": trained_state(model),
        "optimizer": optimizer.state_dict() if optimizer else None,
        "records": reached.records,
        "best_epoch": reached.best_epoch,
        "step": reached.step,
    }
    with whole_file(directory / "last.pt", "wb") as file:
        torch.save(state, file)
    for old in directory.glob("best-*.pt"):
        if reached.best_epoch is None or old != _best_path(directory, reached):
            old.unlink()


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
    model.load_state_dict(torch.load(_best_path(directory, reached), map_location="cpu", weights_only=True))


def remove_checkpoint(directory: Path) -> None:
    """The run has finished: its checkpoint is no longer needed."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)


def _best_path(directory: Path, reached: RunState) -> Path:
    return directory / f"best-{reached.best_epoch}.pt"

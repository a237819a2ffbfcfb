"""How a run is, and how a sweep: the one answer, from what lies on disk, for lists, tables, plans and reports.

It comes from the runs' own files, so that it is the same whichever launcher, machine or attempt made them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from biencoder_ablate.runs.directory import RunDirectory, holder
from biencoder_ablate.runs.identity import short_hash
from biencoder_ablate.runs.records import read_metrics, selection_metric
from biencoder_ablate.utils.files import read_json, write_json

STATUSES = ("finished", "running", "interrupted", "failed", "damaged", "new")

_NOT_PART_OF_THE_NAME = (
    "logs_dir=",
    "rerun=",
    "plan=",
    "sweep_name=",
    "cache_dir=",
    "hydra",
    "training.device=",
    "tracker",
)


@dataclass(frozen=True)
class RunStatus:
    """A run as its directory tells it: one of STATUSES, why it is not finished, and what its result.json says.

    `overrides` are those of its job, where a sweep tells them.
    """

    directory: RunDirectory
    status: str
    why: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.directory.name

    @cached_property
    def epochs_done(self) -> int:
        return sum(record["epoch"] >= 0 for record in read_metrics(self.directory.path))


def run_status(run: RunDirectory, overrides: Sequence[str] = (), error: str | None = None) -> RunStatus:
    """How far a run is, from its files and its lock; `error` says why its job ended without a result."""
    found = read_json(run.result)
    result = found if isinstance(found, dict) else {}
    here = RunStatus(run, str(result.get("status")), "", result, tuple(overrides))
    if holder(run.path) is not None:
        why = f"{_epochs(here)} done; {error or 'another process is working in it'}"
        return replace(here, status="running", why=why)
    if here.status == "finished":
        return here
    if here.status == "failed":
        return replace(here, why=" ".join(str(result.get("error") or "see its train.log").split()))
    if run.result.exists():
        return replace(here, status="damaged", why="result.json cannot be read")
    if run.path.exists():
        why = f"{_epochs(here)} done; the same command goes on from there" + (f" ({error})" if error else "")
        return replace(here, status="interrupted", why=why)
    return replace(here, status="failed", why=error) if error else replace(here, status="new", why="not started yet")


def _epochs(run: RunStatus) -> str:
    return f"{run.epochs_done} epoch{'s' * (run.epochs_done != 1)}"


def objective(result: Mapping[str, Any]) -> float:
    """What a search maximises: clean top-1 on val at the selected epoch, or the official one where none is clean."""
    return selection_metric(result["val"], "top1_clean")


@dataclass(frozen=True)
class SweepDirectory:
    """<logs_dir>/sweeps/NAME: runs.json, the list of its runs, and the table once there is one."""

    path: Path

    @property
    def runs_list(self) -> Path:
        return self.path / "runs.json"

    @property
    def runs(self) -> Path:
        """Where all runs of this logs_dir are."""
        return self.path.parent.parent / "runs"

    @property
    def table(self) -> Path:
        return self.path / "table.csv"

    def list_jobs(self, jobs: Sequence[Sequence[str]], names: Sequence[str]) -> list[dict[str, Any]]:
        """Jobs as runs.json has them: where their runs are, relative to this directory."""
        runs = os.path.relpath(self.runs, self.path)
        return [
            {"overrides": list(job), "name": name, "directory": f"{runs}/{name}"}
            for job, name in zip(jobs, names, strict=True)
        ]

    def write(self, overrides: Sequence[str], jobs: Sequence[Sequence[str]], names: Sequence[str]) -> None:
        """Write the list of runs. Under one sweep_name, runs of earlier calls stay listed, before new ones."""
        self.path.mkdir(parents=True, exist_ok=True)
        listed = {job["name"]: job for job in [*self.read()["jobs"], *self.list_jobs(jobs, names)]}
        described = {"name": self.path.name, "overrides": list(overrides), "started": time.time()}
        write_json(self.runs_list, described | {"jobs": list(listed.values())})

    def read(self) -> dict[str, Any]:
        """What runs.json says; no jobs where there is none."""
        found = read_json(self.runs_list)
        return found if isinstance(found, dict) else {"jobs": [], "started": time.time()}

    def statuses(
        self, jobs: Iterable[Mapping[str, Any]] | None = None, errors: Mapping[str, str] | None = None
    ) -> list[RunStatus]:
        """How every job is: of these, or of all that runs.json lists. `errors`, by name: why one has no result."""
        errors = errors or {}
        return [
            run_status(
                RunDirectory(Path(os.path.normpath(self.path / job["directory"]))),
                job["overrides"],
                errors.get(job["name"]),
            )
            for job in (self.read()["jobs"] if jobs is None else jobs)
        ]


def sweep_directory(
    logs_dir: str, name: str | None, overrides: Sequence[str], jobs: Sequence[Sequence[str]] = ()
) -> SweepDirectory:
    """The directory of a sweep: by its name, or by a hash of the overrides that choose its runs.

    Before the hash, for the eye, stand its presets and what its jobs vary: heads_seed8_3fa9c1d2. A directory that an
    earlier version named by the hash alone stays the sweep's.
    """
    chosen = sorted(item for item in overrides if not item.startswith(_NOT_PART_OF_THE_NAME))
    digest, sweeps = short_hash(chosen), Path(logs_dir).expanduser() / "sweeps"
    if name is None and not (sweeps / digest).exists():
        values: dict[str, set[str]] = {}
        for key, _, value in (override.partition("=") for job in jobs for override in job):
            values.setdefault(key.rpartition(".")[2].lstrip("+"), set()).add(value)
        presets = [item.partition("=")[2] for item in chosen if item.startswith("experiment=") and "," not in item]
        varied = [f"{key}{len(found)}" for key, found in values.items() if len(found) > 1]
        name = "_".join([*(preset for preset in presets if preset.isidentifier()), *(varied if jobs else ["search"])])[
            :60
        ]
        name = f"{name}_{digest}".lstrip("_")
    return SweepDirectory(sweeps / (name or digest))


def directory_bytes(path: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

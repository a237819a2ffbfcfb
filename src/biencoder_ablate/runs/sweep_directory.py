"""A sweep's directory: the list of its runs, and how far each of them is."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biencoder_ablate.files import read_json, write_json
from biencoder_ablate.runs.directory import RunDirectory, holder
from biencoder_ablate.runs.identity import short_hash
from biencoder_ablate.runs.records import read_metrics

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
class SweepDirectory:
    """<logs_dir>/sweeps/NAME: runs.json, and the table once there is one."""

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

    def describe(self, overrides: list[str], jobs: list[list[str]], names: list[str]) -> dict[str, Any]:
        """What runs.json says: the jobs, and where their runs are, relative to this directory."""
        runs = os.path.relpath(self.runs, self.path)
        return {
            "name": self.path.name,
            "overrides": overrides,
            "started": time.time(),
            "root": str(self.path),
            "jobs": [
                {"overrides": job, "name": name, "directory": f"{runs}/{name}"}
                for job, name in zip(jobs, names, strict=True)
            ],
        }

    def read(self) -> dict[str, Any]:
        """runs.json, with the directory it was found in as its root."""
        found = read_json(self.runs_list) or {"jobs": [], "started": time.time()}
        return {**found, "root": str(self.path)}


def sweep_directory(logs_dir: str, name: str | None, overrides: list[str]) -> SweepDirectory:
    """The directory of a sweep: by its name, or a hash of the overrides that choose its runs."""
    chosen = sorted(item for item in overrides if not item.startswith(_NOT_PART_OF_THE_NAME))
    return SweepDirectory(Path(logs_dir).expanduser() / "sweeps" / (name or short_hash(chosen)))


def write_sweep(sweep: SweepDirectory, overrides: list[str], jobs: list[list[str]], names: list[str]) -> None:
    """Write the list of runs. Under one sweep_name, runs of earlier calls stay listed, before new ones."""
    sweep.path.mkdir(parents=True, exist_ok=True)
    described = sweep.describe(overrides, jobs, names)
    listed = {job["name"]: job for job in [*sweep.read()["jobs"], *described["jobs"]]}
    del described["root"]
    write_json(sweep.runs_list, {**described, "jobs": list(listed.values())})


@dataclass(frozen=True)
class JobState:
    """A job of a sweep as its run directory tells it. status: finished, failed, running, interrupted or new."""

    overrides: tuple[str, ...]
    name: str
    directory: RunDirectory
    status: str
    epochs_done: int
    result: Mapping[str, Any]


def job_states(described: dict[str, Any], errors: Mapping[str, str] | None = None) -> list[JobState]:
    """The state of every job of a described sweep; `errors`, by overrides, say why one ended without a result."""
    states = []
    for job in described["jobs"]:
        run = RunDirectory(Path(os.path.normpath(Path(described["root"]) / job["directory"])))
        state = run_state(run, tuple(job["overrides"]))
        error = (errors or {}).get(" ".join(job["overrides"]))
        if error is not None and state.status in ("new", "interrupted", "running"):
            status = "failed" if state.status == "new" else state.status
            state = JobState(state.overrides, state.name, run, status, state.epochs_done, {"error": error})
        states.append(state)
    return states


def run_state(run: RunDirectory, overrides: tuple[str, ...] = ()) -> JobState:
    """How far a run is, from its files and its lock."""
    result = run.read_result() or {}
    epochs = sum(record["epoch"] >= 0 for record in read_metrics(run.path))
    if holder(run.path) is not None:
        status = "running"
    elif result.get("status") in ("finished", "failed"):
        status = result["status"]
    else:
        status = "interrupted" if run.path.exists() else "new"
    return JobState(overrides, run.name, run, status, epochs, result)


def progress_line(sweep: SweepDirectory) -> str:
    """How far the sweep is, and about how long it will take at the pace since it started."""
    described = sweep.read()
    started = described["started"]
    done = failed = fresh = left = 0
    for job in described["jobs"]:
        run = RunDirectory(sweep.path / job["directory"])
        status = (run.read_result() or {}).get("status")
        done += status == "finished"
        failed += status == "failed"
        left += status is None
        fresh += status is not None and run.result.stat().st_mtime >= started
    line = f"sweep: {done} of {len(described['jobs'])} finished" + (f", {failed} failed" if failed else "")
    if left and fresh:
        line += f", about {show_seconds((time.time() - started) / fresh * left)} left"
    return line


def show_seconds(seconds: float) -> str:
    """A duration for people: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

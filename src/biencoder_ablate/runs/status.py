"""How a run is, and how a sweep: the one answer, from what lies on disk, for lists, tables, plans and reports.

It comes from the runs' own files, so that it is the same whichever launcher, machine or attempt made them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from biencoder_ablate.config.schema import DECISIVE
from biencoder_ablate.runs.directory import RunDirectory, holder
from biencoder_ablate.runs.records import primary_metric, read_metrics, selection_metric
from biencoder_ablate.utils.files import NUMBER, Damaged, load_json, refuse_link, require, write_json

DECLARED: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "margin": ("a margin is", "{:g}".format),
    "looks": ("looks are", lambda looks: f"[{','.join(map(str, looks))}]"),
    "metric": ("a metric is", str),
}
"""What a sweep declares before its figures are seen, and keeps: how a message calls it and shows its value."""

STATUSES = ("finished", "running", "interrupted", "failed", "damaged", "new")


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

    @property
    def progress(self) -> str:
        """In words: 1 epoch, 2 epochs."""
        return f"{self.epochs_done} epoch{'s' * (self.epochs_done != 1)}"


def run_status(run: RunDirectory, overrides: Sequence[str] = (), error: str | None = None) -> RunStatus:
    """How far a run is, from its lock and its files; `error` says why its job ended without a result.

    Its result is written before its lock is given back. So the lock is looked at first, and what is not finished then
    is looked at again: it may have begun, or ended, in between.
    """
    is_held = holder(run.path) is not None
    status = status_of_files(run, overrides, error)
    if not is_held and status.status not in ("finished", "failed"):
        is_held = holder(run.path) is not None
        status = status_of_files(run, overrides, error)
    if not is_held:
        return status
    # A run that is being worked in is running, whatever its files say of an earlier time.
    why = f"{status.progress} done; {error or 'another process is working in it'}"
    return replace(status, status="running", why=why)


def status_of_files(run: RunDirectory, overrides: Sequence[str] = (), error: str | None = None) -> RunStatus:
    """The same from its files alone, for who holds its lock."""
    result: dict[str, Any] = {}
    damage = ""
    try:
        result = run.read_result()
    except FileNotFoundError:
        pass
    except (OSError, Damaged) as failure:
        problem = failure.problem if isinstance(failure, Damaged) else "cannot be read"
        damage = f"{run.result.name} {problem}"
    status = RunStatus(run, str(result.get("status")), "", result, tuple(overrides))

    if status.status == "finished":
        return status
    if status.status == "failed":
        return replace(status, why=" ".join(str(result.get("error") or "see its train.log").split()))
    if result and not damage:
        damage = f"{run.result.name} says {status.status} as its status"
    if damage:
        return replace(status, status="damaged", why=damage)
    if run.path.exists():
        reason = f" ({error})" if error else ""
        why = f"{status.progress} done; the same command goes on from there{reason}"
        return replace(status, status="interrupted", why=why)
    if error:
        return replace(status, status="failed", why=error)
    return replace(status, status="new", why="not started yet")


def objective(result: Mapping[str, Any]) -> float:
    """What a search maximises: on val, at the selected epoch, the metric that has selected it (`primary_metric`), or
    the official one where no point is clean."""
    return selection_metric(result["val"], primary_metric(result.get("select")))


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

    def write(
        self,
        overrides: Sequence[str],
        jobs: Sequence[Sequence[str]],
        names: Sequence[str],
        margin: float | None = None,
        looks: Sequence[int] | None = None,
        metric: str | None = None,
    ) -> None:
        """Write the list of runs. Under one sweep_name, runs of earlier calls stay listed, before new ones.

        What is declared, by a key of DECLARED, stays so. Raises ValueError where an earlier call declared another.
        """
        given = {"margin": margin, "looks": list(looks) if looks else None, "metric": metric}
        stays: dict[str, Any] = {}
        refuse_link(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        earlier: list[dict[str, Any]] = []
        try:
            before = self.load()
            earlier = before["jobs"]
            stays = {key: before[key] for key in DECLARED}
            for key, (noun, show) in DECLARED.items():
                now, then = given[key], stays[key]
                if None not in (now, then) and now != then:
                    raise ValueError(
                        f"{key}={show(now)}: sweep {self.path.name} was started with {key}={show(then)}, and {noun} "
                        "declared once; leave it out, or give another sweep_name"
                    )
        except FileNotFoundError:
            pass
        except Damaged as error:
            print(f"note: {error}; written anew, with the runs of this command alone", file=sys.stderr)
        listed = {job["name"]: job for job in [*earlier, *self.list_jobs(jobs, names)]}
        described = {"name": self.path.name, "overrides": list(overrides), "started": time.time()}
        for key in DECLARED:
            value = given[key] if stays.get(key) is None else stays[key]
            if value is not None:
                described[key] = value
        write_json(self.runs_list, described | {"jobs": list(listed.values())})

    def read(self) -> dict[str, Any]:
        """What runs.json says; no jobs where there is none, or a damaged one, which the same command writes anew."""
        try:
            return self.load()
        except (OSError, Damaged):
            return {"jobs": [], "started": time.time(), **dict.fromkeys(DECLARED)}

    def load(self) -> dict[str, Any]:
        """What runs.json says. Raises OSError, or Damaged."""
        content = load_json(self.runs_list, jobs=list)
        for number, job in enumerate(content["jobs"], start=1):
            require(self.runs_list, job, f"job {number} ", name=str, directory=str, overrides=list)
            if not all(isinstance(override, str) for override in job["overrides"]):
                raise Damaged(self.runs_list, f"job {number} has overrides that are no texts")
        content.setdefault("started", time.time())
        content.setdefault("overrides", [])
        require(self.runs_list, content, started=NUMBER, overrides=list)
        if content.setdefault("margin", None) is not None:
            require(self.runs_list, content, margin=NUMBER)
        if content.setdefault("looks", None) is not None:
            require(self.runs_list, content, looks=list)
        content.setdefault("metric", None)
        if not all(type(look) is int for look in content["looks"] or ()):
            raise Damaged(self.runs_list, "has looks that are no numbers of seeds")
        if content["metric"] not in (None, *DECISIVE):
            raise Damaged(self.runs_list, f"has a metric that is none of {', '.join(DECISIVE)}")
        return content

    def statuses(
        self, jobs: Iterable[Mapping[str, Any]] | None = None, errors: Mapping[str, str] | None = None
    ) -> list[RunStatus]:
        """How every job is: of these, or of all that runs.json lists. `errors`, by name: why one has no result."""
        statuses = []
        for job in self.read()["jobs"] if jobs is None else jobs:
            run = RunDirectory(Path(os.path.normpath(self.path / job["directory"])))
            error = errors.get(job["name"]) if errors else None
            statuses.append(run_status(run, job["overrides"], error))
        return statuses

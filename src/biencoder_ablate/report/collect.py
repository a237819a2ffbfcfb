"""From paths to runs: finds run directories and sweeps, and reads what each run left behind.

N points of the test split.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biencoder_ablate.files import read_json
from biencoder_ablate.runs.directory import RunDirectory, holder
from biencoder_ablate.runs.records import Record, read_metrics

FINISHED = "finished"


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The test points of rankings.jsonl, all of length N, in the file's order.

    `official` and `clean` are 1 where the point's counter came first; `clean` is nan where the point does not
    count. `first` names the candidate that the official ranking put first.
    """

    ids: tuple[str, ...]
    debates: tuple[str, ...]
    official: NDArray[np.float64]
    clean: NDArray[np.float64]
    first: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Run:
    """One run directory. `why` says what is wrong where `status` is not finished.

    status: finished, failed, running, interrupted, not started or damaged. `identity` is the manifest's
    `determined_by` with dotted keys, such as head.norm; empty where there is no manifest.
    """

    path: Path
    status: str
    why: str = ""
    identity: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[Record, ...] = ()
    outcomes: Outcomes | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def seed(self) -> int | None:
        return self.identity.get("seed")


@dataclass(frozen=True)
class Sweep:
    """A sweep's runs.json: the overrides it was last started with, and the names of its runs."""

    path: Path
    overrides: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Collection:
    """All runs found, in the order of the paths given, each once; `notes` on those seen twice."""

    runs: tuple[Run, ...]
    sweeps: tuple[Sweep, ...] = ()
    notes: tuple[str, ...] = ()


def collect(places: Sequence[Path]) -> Collection:
    """Read every run at `places`: run directories, sweeps, logs directories, or directories of these.

    Raises ValueError for a place that is not there or has no run.
    """
    found: dict[Path, tuple[str, ...]] = {}
    sweeps: dict[Path, Sweep] = {}
    for place in places:
        here = dict(_runs_at(place.expanduser(), sweeps))
        if not here:
            raise ValueError(
                f"{place}: no run in it; give run directories (they hold manifest.json), sweeps (they hold "
                "runs.json), or a logs directory"
            )
        for path, overrides in here.items():
            found[path] = found.get(path) or overrides
    runs: dict[str, Run] = {}
    notes = []
    for path, overrides in found.items():
        run = read_run(path, overrides)
        other = runs.get(run.name)
        if other is None:
            runs[run.name] = run
            continue
        kept, left = (run, other) if run.status == FINISHED != other.status else (other, run)
        runs[run.name] = kept
        notes.append(f"{run.name} was found twice: {kept.path} is used, {left.path} is not")
    return Collection(tuple(runs.values()), tuple(sweeps.values()), tuple(notes))


def _runs_at(place: Path, sweeps: dict[Path, Sweep]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Run directories at or below `place`, absolute, with their overrides where a sweep tells them.

    The sweeps that it comes by are put into `sweeps`.
    """
    if not place.is_dir():
        raise ValueError(f"{place}: no such directory; give run directories, sweeps or a logs directory")
    place = Path(os.path.abspath(place))
    if _is_run(place):
        yield place, ()
    elif (place / "runs.json").is_file():
        yield from _runs_of_sweep(place, sweeps)
    else:
        for child in sorted(place.iterdir()):
            if child.name.startswith(".") or not child.is_dir():
                continue
            if _is_run(child) or child.name in ("runs", "sweeps") or _holds_runs(child):
                yield from _runs_at(child, sweeps)


def _is_run(place: Path) -> bool:
    return any((place / name).is_file() for name in ("manifest.json", "result.json", ".hydra/config.yaml"))


def _holds_runs(place: Path) -> bool:
    return (place / "runs.json").is_file() or (place / "runs").is_dir() or (place / "sweeps").is_dir()


def _runs_of_sweep(place: Path, sweeps: dict[Path, Sweep]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    described = read_json(place / "runs.json")
    jobs = described.get("jobs") if isinstance(described, dict) else None
    if not (isinstance(described, dict) and isinstance(jobs, list)):
        raise ValueError(f"{place / 'runs.json'}: damaged; run the sweep's command again, or give the runs")
    asked = tuple(map(str, described.get("overrides") or ()))
    sweeps[place] = Sweep(place, asked, tuple(Path(job["directory"]).name for job in jobs))
    for job in jobs:
        yield (
            Path(os.path.normpath(place / job["directory"])),
            tuple(map(str, job.get("overrides", ()))),
        )


def read_run(path: Path, overrides: tuple[str, ...] = ()) -> Run:
    """One run; whatever is missing or broken in it ends in `status` and `why`, never in an exception."""
    directory = RunDirectory(path)
    if not path.is_dir():
        return Run(path, "not started", "listed in its sweep; nothing is there yet", overrides=overrides)
    manifest = read_json(path / "manifest.json")
    manifest = manifest if isinstance(manifest, dict) else {}
    result = read_json(directory.result)
    result = result if isinstance(result, dict) else {}
    metrics = tuple(read_metrics(path))
    known: dict[str, Any] = {
        "identity": dict(_flat(manifest.get("determined_by") or {})),
        "config": _config(path / ".hydra" / "config.yaml"),
        "overrides": read_overrides(path / ".hydra" / "overrides.yaml") or overrides,
        "manifest": manifest,
        "result": result,
        "metrics": metrics,
    }
    status, why = _status(directory, result, metrics)
    outcomes = None
    if status == FINISHED:
        try:
            outcomes = _check(known["identity"], result, metrics, _read_outcomes(path / "rankings.jsonl"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            status, why = "damaged", _reason(error)
    return Run(path, status, why, **known, outcomes=outcomes)


def _status(directory: RunDirectory, result: Mapping[str, Any], metrics: Sequence[Record]) -> tuple[str, str]:
    epochs = sum(record.get("epoch", -1) >= 0 for record in metrics)
    if holder(directory.path) is not None:
        return "running", f"another process is working in it; {epochs} epochs done"
    if result.get("status") == FINISHED:
        return FINISHED, ""
    if result.get("status") == "failed":
        return "failed", " ".join(str(result.get("error") or "see its train.log").split())
    if directory.result.exists():
        return "damaged", "result.json cannot be read"
    return "interrupted", f"{epochs} epochs done; the same command goes on from there"


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    return f"no {error.args[0]} in it" if isinstance(error, KeyError) else str(error)


def _check(
    identity: Mapping[str, Any], result: Mapping[str, Any], metrics: Sequence[Record], outcomes: Outcomes
) -> Outcomes:
    """What the report relies on, so that it is not found missing halfway through a page."""
    if not {"data", "results_version", "seed", "head.norm", "head.activation"} <= set(identity):
        raise ValueError("manifest.json is missing or does not say what determined the run")
    for part in ("val", "test", "best_epoch", "initial", "seconds"):
        result[part]
    if not metrics:
        raise ValueError("metrics.jsonl is missing or cannot be read")
    told, found = result["test"]["top1"], float(outcomes.official.mean())
    if not math.isclose(told, found, abs_tol=1e-9):
        raise ValueError(
            f"result.json says {told:.4f} for test top-1 and rankings.jsonl {found:.4f}; they are not of one run"
        )
    return outcomes


def _read_outcomes(path: Path) -> Outcomes:
    ids, debates, official, clean, first = [], [], [], [], []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if '"test"' not in line:  # val's lines are half of the file, and never looked at
                continue
            record = json.loads(line)
            if record["split"] != "test":
                continue
            ids.append(sys.intern(record["id"]))
            debates.append(sys.intern(record["debate"]))
            official.append(float(record["rank"] == 1))
            rank = record["clean_rank"]
            clean.append(math.nan if rank is None else float(rank == 1))
            first.append(sys.intern(record["first"]))
    if not ids:
        raise ValueError("rankings.jsonl has no test point")
    return Outcomes(tuple(ids), tuple(debates), np.array(official), np.array(clean), tuple(first))


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _config(path: Path) -> dict[str, Any]:
    import yaml
    from omegaconf import OmegaConf

    try:
        text = path.read_text("utf-8")
        if "${" in text:
            config = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
        else:  # a tenth of the time, which counts with hundreds of runs
            config = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except Exception:  # OmegaConf and YAML's reader raise many kinds; a run is not lost for its config
        return {}
    return config if isinstance(config, dict) else {}  # type: ignore[return-value]


def read_overrides(path: Path) -> tuple[str, ...]:
    """The overrides as typed, one a line after "- "; quoted only where they are quoted as YAML."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ()
    return tuple(_unquoted(lines))


def _unquoted(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        item = line.removeprefix("- ")
        if item == line or not item:
            continue
        if len(item) > 1 and item[0] == item[-1] == "'":
            item = item[1:-1].replace("''", "'")
        elif len(item) > 1 and item[0] == item[-1] == '"':
            item = str(json.loads(item))
        yield item

"""From paths to runs: finds run directories and sweeps, and reads what each run left behind. N test points."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from biencoder_ablate.evaluation.metrics import discounted_gain, hits, reciprocal_rank
from biencoder_ablate.runs.directory import RunDirectory
from biencoder_ablate.runs.records import Record, load_metrics
from biencoder_ablate.runs.status import SweepDirectory, run_status
from biencoder_ablate.runs.tuning import Tuning
from biencoder_ablate.utils.files import (
    NUMBER,
    Damaged,
    check_yaml,
    expand_user,
    load_yaml,
    read_json,
    read_regular,
    require,
)

FINISHED = "finished"
NOT_EVALUATED = "not evaluated"  # finished, and without the evaluation that is reported on
WITHOUT = "without"  # the group whose choices each take a part out of a recipe (conf/without)
NOTHING = "nothing"  # its choice that leaves the recipe whole
_KEPT = ("id", "debate", "stage1_rank", "rank", "clean_stage1_rank", "clean_rank", "first")  # of a test point's record

# The same, as runs write a point's line where no name has a character that JSON escapes and no answers are listed.
_TEST_LINE = re.compile(
    r'^\{"id": "([^"\\]*)", "split": "test", "theme": "[^"\\]*", "debate": "([^"\\]*)", "stance": "[^"\\]*", '
    r'"stage1_rank": (\d+|null), "rank": (\d+|null), "clean_stage1_rank": (\d+|null), "clean_rank": (\d+|null), '
    r'"stage1_ranks": \{[^{}]*\}, "ranks": \{[^{}]*\}, "tied": \w+, "num_scored": \d+, "num_dead": \d+, '
    r'"first": "([^"\\]*)"\}$',
    re.MULTILINE,
)


class Protocol(StrEnum):
    """Which test points count, among which candidates: the clean ones, which decide, or all as published."""

    CLEAN = "clean"
    OFFICIAL = "official"

    @property
    def other(self) -> Protocol:
        return Protocol.OFFICIAL if self is Protocol.CLEAN else Protocol.CLEAN

    def key(self, metric: Metric) -> str:
        """A metric's key in records and results."""
        return f"{metric}_clean" if self is Protocol.CLEAN else str(metric)


class Metric(StrEnum):
    """What a point scores: under its name in records and results."""

    TOP1 = "top1"
    MRR = "mrr"
    NDCG = "ndcg@10"
    RECALL = "recall@10"

    @property
    def label(self) -> str:
        """As it stands in a sentence."""
        return {"top1": "top-1", "mrr": "MRR", "ndcg@10": "nDCG@10", "recall@10": "recall@10"}[self]

    def of_ranks(self, ranks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores of points whose counter has these ranks, from 1; nan stays nan."""
        if self is Metric.MRR:
            return reciprocal_rank(ranks - 1)
        if self is Metric.NDCG:
            return discounted_gain(ranks - 1, 10)
        return hits(ranks - 1, 1 if self is Metric.TOP1 else 10)

    def of_answers(self, answers: Sequence[tuple[str, float, float, float]]) -> float | None:
        """The score of a point by all its right answers (name, grade, stage-1 rank, final rank), where it is over all.

        Their ranks are official ones, also for clean figures: of the clean ones a run keeps the first answer's only.
        """
        if self not in (Metric.RECALL, Metric.NDCG) or len(answers) < 2:
            return None
        _, grade, stage1_rank, rank = zip(*answers, strict=True)
        if self is Metric.RECALL:
            return float(hits(np.array(stage1_rank) - 1, 10).mean())
        best = np.sort(grade)[::-1]
        gains = discounted_gain(np.array(rank) - 1, 10, np.array(grade)).tolist()
        ideal_gains = discounted_gain(np.arange(len(best)), 10, best).tolist()
        return sum(gains) / sum(ideal_gains)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What the N test points of a run score.

    `correct` is the score under a protocol (by top-1: 1 where the point's counter came first), nan where the point does
    not count. `first` names the candidate that the official ranking put first, and `measure` the score in a sentence.
    `num_missing` is how many of the queries another program's run lacks: these score 0.
    """

    ids: tuple[str, ...]
    debates: tuple[str, ...]
    correct: Mapping[Protocol, NDArray[np.float64]]
    first: tuple[str, ...]
    measure: str = Metric.TOP1.label
    num_missing: int = 0

    def mean(self, protocol: Protocol) -> float | None:
        """The mean over the points that count; None where none does."""
        scores = self.correct[protocol]
        counted = scores[~np.isnan(scores)]
        return float(counted.mean()) if counted.size else None

    def debates_of(self, protocol: Protocol) -> list[str]:
        """The debates of the points that count."""
        counts = ~np.isnan(self.correct[protocol])
        return [debate for debate, is_counted in zip(self.debates, counts, strict=True) if is_counted]


@dataclass(frozen=True, eq=False)
class Run:
    """One run directory. `why` says what is wrong where `status` is not finished; of a finished run, which of the
    files that its metrics do not come from is damaged.

    status: finished, failed, running, interrupted, not started, damaged or not evaluated. `identity` is the manifest's
    `determined_by`; empty where there is no manifest. `without` is the part taken out of the recipe, `nothing` for the
    whole, None for a run of no such sweep. Others are compared with the `baseline`. `parts` are the runs of the folds
    of a cross-validation, where this one stands for all of them. Where its figures are those of an evaluation,
    `evaluated` says what was given of its settings and `rankings` is its own file; `evaluate` is the command that makes
    one that is lacking.
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
    measured: Outcomes | None = None
    without: str | None = None
    baseline: bool = False
    parts: tuple[Run, ...] = ()
    evaluated: str = ""
    rankings: Path | None = None
    evaluate: str = ""
    tuned: bool = False

    @property
    def rankings_file(self) -> Path:
        """Where the records of its points are; of a cross-validation its parts have them."""
        return self.rankings or self.path / "rankings.jsonl"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def test(self) -> Mapping[str, Any]:
        """Its test metrics; empty for another program's run."""
        return self.result.get("test") or {}

    @property
    def outcomes(self) -> Outcomes:
        """The test points of a finished run."""
        assert self.measured is not None, f"{self.path}: {self.status}"
        return self.measured


@dataclass(frozen=True)
class Sweep:
    """A sweep's runs.json: the overrides it was last started with, the names of its runs, and what it declared: the
    margin, the looks, and the metric that decides at them."""

    path: Path
    overrides: tuple[str, ...]
    names: tuple[str, ...]
    margin: float | None = None
    looks: tuple[int, ...] = ()
    metric: Metric | None = None


@dataclass(frozen=True)
class Collection:
    """All runs found, in the order of the paths given, each once; `notes` on those seen twice, and on damage.

    `tunings` are those of the sweeps that were tuned (report/tuning.py). `pooled` are the same runs with the folds of a
    cross-validation made one, None until folds.note_folds() has done so.
    """

    runs: tuple[Run, ...]
    sweeps: tuple[Sweep, ...] = ()
    notes: tuple[str, ...] = ()
    tunings: tuple[Tuning, ...] = ()
    pooled: tuple[Run, ...] | None = None


def collect(places: Sequence[Path], metric: Metric | None = None) -> Collection:
    """Read every run at `places`, its points scored by `metric`: run directories, sweeps, logs directories, or
    directories of these. Unless given, it is the metric that the sweeps declared, or top-1.

    Raises ValueError for a place that is not there or has no run, and for a metric that a sweep did not declare.
    """
    overrides_by_path, sweeps, notes = find_runs(places)
    metric = declared_metric(sweeps.values(), metric)

    # Of two copies of a run the first counts, unless only the second has finished.
    runs: dict[str, Run] = {}
    for path, overrides in overrides_by_path.items():
        run = read_run(path, overrides, metric)
        if run.status == FINISHED and run.why:
            notes.append(f"{run.path}: {run.why}")
        used = runs.setdefault(run.name, run)
        unused = run
        if used is run:
            continue
        if run.status == FINISHED != used.status:
            used, unused = run, used
        runs[run.name] = used
        notes.append(f"{run.name} was found twice: {used.path} is used, {unused.path} is not")
    return Collection(
        tuple(runs.values()),
        tuple(sweeps.values()),
        tuple(notes),
    )


def declared_metric(sweeps: Iterable[Sweep], given: Metric | None = None) -> Metric:
    """The metric that decides: `given`, or what the sweeps declared, or top-1.

    Raises ValueError where a sweep declared another, as what its looks have decided was by that.
    """
    declared = {sweep.path.name: sweep.metric for sweep in sweeps if sweep.metric is not None}
    for name, metric in declared.items():
        if given is not None and metric is not given:
            raise ValueError(f"--metric {given}: sweep {name} declared metric={metric} with its looks; leave it out")
    if len(set(declared.values())) > 1:
        listed = ", ".join(f"{name} {metric}" for name, metric in declared.items())
        raise ValueError(f"these sweeps declare several metrics ({listed}); take those of one metric at a time")
    return given or next(iter(declared.values()), Metric.TOP1)


def find_runs(places: Sequence[Path]) -> tuple[dict[Path, tuple[str, ...]], dict[Path, Sweep], list[str]]:
    """The directories of every run at `places`, each once, with its overrides where a sweep has them; the sweeps on the
    way; and notes on those that are damaged. Raises ValueError as `collect`."""
    # A run found in several places keeps the overrides of the first sweep that has any.
    overrides_by_path: dict[Path, tuple[str, ...]] = {}
    sweeps: dict[Path, Sweep] = {}
    notes: list[str] = []
    for place in places:
        here = dict(_runs_at(expand_user(place), sweeps, notes))
        if not here:
            raise ValueError(
                f"{place}: no run in it; give run directories (they hold manifest.json), sweeps (they hold "
                "runs.json), or a logs directory"
            )
        for path, overrides in here.items():
            overrides_by_path[path] = overrides_by_path.get(path) or overrides
    return overrides_by_path, sweeps, notes


def _runs_at(
    place: Path,
    sweeps: dict[Path, Sweep],
    notes: list[str],
    is_given: bool = True,
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Run directories at or below `place`, absolute, each with its overrides where a sweep has them.

    Sweeps on the way are put into `sweeps`. A damaged one is refused where it is what was given, and else said in
    `notes`, as it must not hide the others.
    """
    if not place.is_dir():
        raise ValueError(f"{place}: no such directory; give run directories, sweeps or a logs directory")
    place = Path(os.path.abspath(place))
    # A run, a sweep that names its runs, or a directory of these.
    if _is_run(place):
        yield place, ()
    elif (place / "runs.json").is_file():
        try:
            described = SweepDirectory(place).load()
        except (OSError, Damaged) as error:
            problem = f"{place / 'runs.json'}: damaged; run the sweep's command again, or give the runs"
            if isinstance(error, Damaged):
                problem += f" (it {error.problem})"
            if is_given:
                raise ValueError(problem) from error
            notes.append(problem)
            return
        jobs = described["jobs"]
        paths = [Path(os.path.normpath(place / job["directory"])) for job in jobs]
        overrides = tuple(map(str, described["overrides"]))
        sweeps[place] = Sweep(
            place,
            overrides,
            tuple(path.name for path in paths),
            described["margin"],
            tuple(described["looks"] or ()),
            Metric(described["metric"]) if described["metric"] else None,
        )
        for path, job in zip(paths, jobs, strict=True):
            yield path, tuple(job["overrides"])
    else:
        for child in sorted(place.iterdir()):
            if not child.is_dir() or child.name.startswith("."):
                continue
            holds_runs = any((child / name).exists() for name in ("runs.json", "runs", "sweeps"))
            if holds_runs or child.name in ("runs", "sweeps") or _is_run(child):
                yield from _runs_at(child, sweeps, notes, is_given=False)


def _is_run(place: Path) -> bool:
    return any((place / name).is_file() for name in ("manifest.json", "result.json", ".hydra/config.yaml"))


def read_run(path: Path, overrides: tuple[str, ...] = (), metric: Metric = Metric.TOP1) -> Run:
    """One run; whatever is missing or broken in it ends in `status` and `why`, never in an exception."""
    if not path.is_dir():
        return Run(path, "not started", "listed in its sweep; nothing is there yet", overrides=overrides)
    manifest = read_json(path / "manifest.json") or {}
    identity = manifest.get("determined_by")

    # Its config and overrides say what it was, and no number comes from them: without them it counts as well.
    config: dict[str, Any] = {}
    typed: tuple[str, ...] = ()
    damage = ""
    try:
        config = _config(path / ".hydra" / "config.yaml")
        typed = read_overrides(path / ".hydra" / "overrides.yaml")
    except Damaged as error:
        damage = f".hydra/{error.path.name} {error.problem}"

    # The sweep's overrides come before the run's own, as the run may have been another sweep's first.
    settings = [override.partition("=") for override in (*overrides, *typed)]
    without = next(
        (value for key, _, value in settings if key == WITHOUT),
        None,
    )

    state = run_status(RunDirectory(path))
    run = Run(
        path,
        state.status,
        state.why or damage,
        identity=identity if isinstance(identity, dict) else {},
        config=config,
        overrides=typed or overrides,
        manifest=manifest,
        result=state.result,
        without=without,
        baseline=without == NOTHING,
    )
    if run.status != FINISHED:
        return run
    try:
        run = replace(
            run,
            metrics=tuple(load_metrics(path)),
            measured=read_outcomes(path / "rankings.jsonl", metric),
        )
        _check(run, metric)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        why = f"no {error.args[0]} in it" if isinstance(error, KeyError) else str(error)
        if isinstance(error, FileNotFoundError):
            why = f"{Path(error.filename).name} is missing"
        if isinstance(error, Damaged):
            why = f"{error.path.name} {error.problem}"
        return replace(run, status="damaged", why=why)
    return run


def _check(run: Run, metric: Metric) -> None:
    """What the report relies on, so that it is not found missing halfway through a page."""
    path = run.path / "manifest.json"
    if not {"data", "results_version", "seed", "head", "model"} <= set(run.identity):
        raise ValueError("manifest.json is missing or does not say what determined the run")
    require(path, run.identity, data=str, results_version=int, seed=int, head=dict, model=dict)
    require(path, run.identity, negatives=dict, training=dict)
    require(path, run.identity["head"], "its head ", name=str)
    require(path, run.identity["model"], "its model ", fingerprint=str)
    require(path, run.identity["negatives"], "its negatives ", schedule=str)
    require(path, run.identity["training"], "its training ", precision=str)
    for part, kinds in (("evaluation", dict), ("neg_ratio", NUMBER)):
        if part in run.identity:
            require(path, run.identity, **{part: kinds})
    if run.manifest.get("libraries") is not None:
        require(path, run.manifest, libraries=dict)

    for part in ("val", "test", "best_epoch", "initial", "seconds"):
        run.result[part]
    if not run.metrics:
        raise ValueError("metrics.jsonl is missing or cannot be read")
    recorded = run.result["test"][metric]
    counted = float(run.outcomes.correct[Protocol.OFFICIAL].mean())
    if not math.isclose(recorded, counted, abs_tol=1e-9):
        raise ValueError(
            f"result.json says {recorded:.4f} for test {metric.label} and rankings.jsonl {counted:.4f}; they are "
            "not of one run"
        )


def read_outcomes(path: Path, metric: Metric) -> Outcomes:
    """The test points of rankings.jsonl. Raises OSError, and ValueError where there are none.

    Most of a line is of no use here, so lines are cut rather than parsed where they have the form that runs write.
    """
    data = read_regular(path)
    first_test = max(0, data.find(b'"test"'))
    start = data.rfind(b"\n", 0, first_test) + 1  # val's lines come first
    text = data[start:].decode()
    rows: list[tuple[Any, ...]] = _TEST_LINE.findall(text)
    scores_over_all: Sequence[float | None] = [None] * len(rows)
    if len(rows) != text.rstrip("\n").count("\n") + 1:  # some line has another form
        rows, scores_over_all = _parse_lines(text, metric)
    if not rows:
        raise ValueError("rankings.jsonl has no test point")

    ids, debates, *ranks, first = zip(*rows, strict=True)
    stage1, final, clean_stage1, clean_final = ranks
    columns = {Protocol.CLEAN: clean_final, Protocol.OFFICIAL: final}
    if metric is Metric.RECALL:  # recall is of stage 1 (docs/evaluation.md)
        columns = {Protocol.CLEAN: clean_stage1, Protocol.OFFICIAL: stage1}

    # nan where the first right answer, or the only one, is enough.
    several = np.array(scores_over_all, dtype=np.float64)  # (N,)
    correct = {}
    for protocol, column in columns.items():
        # Of the many points few ranks are different.
        known = {rank: math.nan if rank in (None, "null") else float(rank) for rank in set(column)}
        numbers = [known[rank] for rank in column]
        scores = metric.of_ranks(np.array(numbers))
        correct[protocol] = np.where(
            np.isnan(several) | np.isnan(scores),
            scores,
            several,
        )
    names = [tuple(map(sys.intern, texts)) for texts in (ids, debates, first)]  # runs share them
    return Outcomes(
        names[0],
        names[1],
        correct,
        names[2],
        metric.label,
    )


def _parse_lines(text: str, metric: Metric) -> tuple[list[tuple[Any, ...]], list[float | None]]:
    """The test points' values of _KEPT, and the score of each over all its answers, from lines of any form."""
    rows: list[tuple[Any, ...]] = []
    scores_over_all: list[float | None] = []
    for line in text.split("\n"):
        cut = _TEST_LINE.fullmatch(line)
        if cut is not None:
            rows.append(cut.groups())
            scores_over_all.append(None)
        elif '"test"' in line:
            record = json.loads(line)
            if record["split"] == "test":
                rows.append(tuple(record[key] for key in _KEPT))
                scores_over_all.append(metric.of_answers(record["answers"]) if "answers" in record else None)
    return rows, scores_over_all


def _config(path: Path) -> dict[str, Any]:
    """The config of a run; empty where there is none. Raises Damaged."""
    try:
        content = read_regular(path)
    except OSError:
        return {}
    try:
        text = content.decode()
        if "${" in text:
            from biencoder_ablate.config.kept import fill_in

            config: Any = fill_in(path, require(path, _yaml(text)))
        else:  # group by group, as runs share most of them: a hundredth of the time, which counts with hundreds of runs
            config = {}
            for group in re.split(r"\n(?=\w)", text):
                values = _yaml(group) or {}
                twice = next((key for key in values if key in config), None)
                if twice is not None:
                    raise ValueError(f"the key {twice} is given twice")
                config |= values
    except Damaged:
        raise
    except (ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise Damaged(path, f"cannot be read as YAML ({reason})") from error
    require(path, config)
    for group in ("data", "model"):
        if config.get(group) is not None:
            require(path, config, **{group: dict})
            for key in ("name", "path", "name_or_path"):
                if config[group].get(key) is not None:
                    require(path, config[group], f"its {group} ", **{key: str})
    if config.get("cache_dir") is not None:
        require(path, config, cache_dir=str)
    return config


@cache
def _yaml(text: str) -> Any:
    check_yaml(text.encode())
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_overrides(path: Path) -> tuple[str, ...]:
    """The overrides as typed, one a line after "- "; quoted only where they are quoted as YAML; none without the file.

    Raises Damaged.
    """
    try:
        lines = read_regular(path).decode().splitlines()
        items = [line[2:] for line in lines if line.startswith("- ") and len(line) > 2]
        if len(items) != len(lines):  # none, or not as runs write them
            return tuple(map(str, load_yaml(path, list)))
        return tuple(str(_yaml(item)) if item[0] in "'\"" else item for item in items)
    except OSError:
        return ()
    except Damaged:
        raise
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise Damaged(path, "cannot be read as YAML") from error

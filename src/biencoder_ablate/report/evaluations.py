"""Runs as `evaluate` measured them again: what it kept of each takes the place of the run's own figures.

Runs that were measured on one corpus with the same settings given make one study, in which only runs' own settings
differ.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biencoder_ablate.report.read import FINISHED, NOT_EVALUATED, Collection, Metric, Protocol, Run, read_outcomes
from biencoder_ablate.runs.evaluations import WITH_BASELINES, kept_evaluations, load_evaluation, rankings_of
from biencoder_ablate.utils.files import Damaged, require

# Settings of an evaluation that alter its figures, and so keep studies apart where they were given. The others
# (which epoch is selected, whether the source study's figure is noted) alter nothing of a finished run.
_TELLING = {
    "evaluation.rerank": "rerank",
    "evaluation.candidates": "candidates",
    "evaluation.score": "score",
    "model.max_tokens": "max_tokens",
}
MOST_NAMED = 5
"""Runs in a note that have no evaluation."""


@dataclass(frozen=True)
class _Kept:
    """A kept evaluation: where it is, what it says, and which settings that alter figures were given."""

    path: Path
    report: Mapping[str, Any]
    given: tuple[str, ...]

    @property
    def words(self) -> str:
        """What was given: "evaluated", or "evaluated with rerank=all"."""
        settings = ", ".join(f"{key}={self.report['evaluation'].get(key)}" for key in self.given)
        return f"evaluated with {settings}" if settings else "evaluated"

    @property
    def study(self) -> tuple[str, str]:
        """What it has in common with those that it may be compared with: the corpus, and what was given."""
        return str(self.report["data"]["fingerprint"]), self.words

    @property
    def on(self) -> str:
        """The corpus and what was given, for a note."""
        return f"{self.report['data']['name']}, {self.words}"


def as_evaluated(collection: Collection, name: str, metric: Metric) -> Collection:
    """The same runs with the figures that `evaluate` kept of them, those called `name` (all where it is empty).

    A run counts once for each study that has its evaluation; a finished run that lacks one is "not evaluated" in it.
    `name` is a file's, with or without .json, or how one begins: a corpus's name. Raises ValueError where no run has
    such an evaluation.
    """
    notes = list(collection.notes)
    by_study: dict[tuple[str, str], dict[str, _Kept]] = {}
    others: set[str] = set()  # what else is kept, to say where nothing fits
    finished = [run for run in collection.runs if run.status == FINISHED]
    for run in finished:
        for kept in _kept_of(run, notes, name, others):
            fits = by_study.setdefault(kept.study, {})
            # The same figures twice, for baselines or settings that alter none: those with baselines say more.
            if run.name not in fits or WITH_BASELINES in kept.path.stem:
                fits[run.name] = kept
    if not by_study:
        raise ValueError(_none_kept(name, len(finished), others, collection))

    runs = [run for run in collection.runs if run.status != FINISHED]
    for kept_by_run in by_study.values():
        first = next(iter(kept_by_run.values()))
        command = _command(collection, first)
        lacking = []
        for run in finished:
            if run.name in kept_by_run:
                runs.append(_read(run, kept_by_run[run.name], metric))
            else:
                lacking.append(run.name)
                why = f"finished, and has no evaluation on {first.on}"
                runs.append(
                    Run(
                        run.path,
                        NOT_EVALUATED,
                        why,
                        overrides=run.overrides,
                        evaluate=command or _command_of(run.path, first),
                    )
                )
        notes.append(_note(first, len(kept_by_run), lacking, command))
    return replace(collection, runs=tuple(runs), notes=tuple(notes))


def _kept_of(run: Run, notes: list[str], name: str, others: set[str]) -> Iterator[_Kept]:
    """The evaluations of a run that are called `name`; `notes` get those that cannot be used, `others` all names."""
    for path in kept_evaluations(run.path):
        wanted = name.removesuffix(".json")
        others.add(path.stem)
        if name and path.stem != wanted and not path.stem.startswith(f"{wanted}_"):
            continue
        if not rankings_of(path).is_file():
            notes.append(f"{path}: of an earlier version, without the ranks of its points; evaluate the run again")
            continue
        try:
            report = load_evaluation(path)
            require(path, report, read_as=dict)
            require(path, report["data"], "its data ", name=str, fingerprint=str)
        except (OSError, Damaged) as error:
            notes.append(f"{path}: damaged; evaluate the run again ({getattr(error, 'problem', error)})")
            continue
        if "folds" in run.identity and report["data"]["fingerprint"] != run.identity["data"]:
            notes.append(
                f"{path}: left out, since each fold of a cross-validation was measured on the same points of another "
                "corpus"
            )
            continue
        yield _Kept(path, report, _given(report))


def _given(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Which of the settings that alter figures were given."""
    keys = [str(override).lstrip("+").partition("=")[0] for override in report["overrides"]]
    return tuple(sorted({_TELLING[key] for key in keys if key in _TELLING}))


def _read(run: Run, kept: _Kept, metric: Metric) -> Run:
    """The run with an evaluation's figures in place of its own; damaged where these cannot be read."""
    report = kept.report
    settings = report["evaluation"]

    # What determined the figures: as in training, but for the corpus and how it was measured.
    identity = {**run.identity, "data": report["data"]["fingerprint"]}
    own = identity.get("evaluation") or {}
    known = {*own, *kept.given, "candidates"}
    changed = {key: settings.get(key) for key in ("rerank", "candidates", "score") if key in known}
    identity["evaluation"] = {**own, **changed, "precision": report["precision"]}
    identity["model"] = {**identity["model"], "max_tokens": settings.get("max_tokens")}

    measured = {split: report["measured"].get(split) or {} for split in ("val", "test")}
    result = {
        "status": FINISHED,
        "best_epoch": run.result["best_epoch"],
        "seconds": run.result["seconds"],
        "trained_weights": run.result.get("trained_weights"),
        "costs": run.result.get("costs"),
        "initial": {},
        "selected": {"dead_pairs": measured["test"].get("dead_pairs")},
        "baselines": _baselines(report),
        **measured,
    }
    rankings = rankings_of(kept.path)
    evaluated = replace(
        run,
        identity=identity,
        config={**run.config, "data": report["read_as"]},
        result=result,
        metrics=(),  # curves are of the run's own corpus
        evaluated=kept.words,
        rankings=rankings,
    )
    try:
        outcomes = read_outcomes(rankings, metric)
        counted = float(outcomes.correct[Protocol.OFFICIAL].mean())
        recorded = measured["test"].get(metric)
        if recorded is None or not math.isclose(recorded, counted, abs_tol=1e-9):
            raise ValueError(f"says {recorded} for test {metric.label}, and its rankings {counted:.4f}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return replace(evaluated, status="damaged", why=f"{kept.path.name}: {error}; evaluate the run again")
    return replace(evaluated, measured=outcomes)


def _baselines(report: Mapping[str, Any]) -> dict[str, Any]:
    """The baselines that an evaluation kept, measured on the very points that it asked, under their names in runs."""
    kept = {"chance": report.get("chance") or {}}
    names = {"tfidf_cosine": "tfidf", "bm25": "bm25", "pretrained_cosine": "pretrained"}
    for name, by_split in (report.get("baselines") or {}).items():
        if name in names:
            kept[names[name]] = by_split
    return kept


# --- said ---


def _command(collection: Collection, kept: _Kept) -> str:
    """The command that evaluates what lacks it, of one sweep; nothing of several or of single runs."""
    return _command_of(collection.sweeps[0].path, kept) if len(collection.sweeps) == 1 else ""


def _command_of(place: Path, kept: _Kept) -> str:
    return shlex.join(["biencoder-ablate", "evaluate", str(place), *kept.report["overrides"]])


def _note(kept: _Kept, num_kept: int, lacking: list[str], command: str) -> str:
    """How many runs have an evaluation, and which have not."""
    total = num_kept + len(lacking)
    note = f"figures on {kept.on}, are those that evaluate kept of {num_kept} of {total} finished runs"
    if lacking:
        more = [f"and {len(lacking) - MOST_NAMED} more"] if len(lacking) > MOST_NAMED else []
        note += f"; it has none of {', '.join([*lacking[:MOST_NAMED], *more])}"
    return f"{note}; further runs are evaluated by {command}" if command else note


def _none_kept(name: str, num_finished: int, others: set[str], collection: Collection) -> str:
    """Why there is nothing to report on, and what would do."""
    problem = f"--evaluations{f' {name}' if name else ''}: no evaluation with the ranks of its points"
    problem += f" is kept of the {num_finished} finished runs"
    if name and others:
        return f"{problem}; kept are {', '.join(sorted(others))}"
    place = collection.sweeps[0].path if len(collection.sweeps) == 1 else "RUN_DIR …"
    return f"{problem}; `biencoder-ablate evaluate {place} data=…` makes them"

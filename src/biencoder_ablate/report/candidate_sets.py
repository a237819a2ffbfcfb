"""What runs ranked, in words, and on which candidate sets they were measured besides."""

from __future__ import annotations

from collections.abc import Sequence

from biencoder_ablate.data.candidate_choice import IN_WORDS, measured_candidates
from biencoder_ablate.evaluation.candidates import TASKS
from biencoder_ablate.report.read import Run
from biencoder_ablate.report.words import words_of


def candidates_of(run: Run) -> str | None:
    """What a run ranked, answers or all; None of another program's."""
    return measured_candidates(run.identity, run.result) if run.result else None


def ranked(runs: Sequence[Run]) -> str:
    """Among what runs of one study looked for answers, in words; empty of another program's runs."""
    first = runs[0]
    candidates = candidates_of(first)
    if candidates is None:
        return ""
    # Only a text of a pair is called after it.
    in_pairs = any(name.endswith(("#counter", "#point")) for name in first.outcomes.first)
    if candidates == "answers" and not in_pairs:
        return "ranked among the documents"
    among = IN_WORDS[candidates].replace("points", words_of(runs).plural)
    return f"ranked {among} of the split"


def measured_tasks(runs: Sequence[Run]) -> tuple[str, ...]:
    """The tasks of Wachsmuth et al. 2018 that all runs were measured on; the last one is official."""
    return tuple(task for task in TASKS if all(task in run.test.get("tasks", ()) for run in runs))


def tasks_title(tasks: Sequence[str]) -> str:
    """What a section on these tasks is called."""
    return "The eight tasks" if len(tasks) == len(TASKS) else "The tasks among counters"

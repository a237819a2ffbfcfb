"""What a planned sweep will be able to find, from the finished runs that lie there: plan=true says it.

A pilot are the finished runs of the same logs_dir that have the planned runs' corpus and settings, but for the seed,
the head, and what the sweep varies.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biencoder_ablate.cli.looks import Job
from biencoder_ablate.cli.seeds import planned_runs
from biencoder_ablate.utils.files import flatten, read_json

if TYPE_CHECKING:
    from biencoder_ablate.report.read import Run
    from biencoder_ablate.training.plan import RunPlan


def describe_prospects(plans: Sequence[RunPlan], jobs: Sequence[Job], runs: Path) -> list[str]:
    """Which difference the planned seeds can find and which margin they can show, going by the finished runs in `runs`.

    Where fewer than three seeds of two configurations have finished, that a pilot is needed. Nothing where nothing
    will be compared, or without the `report` extra.
    """
    if importlib.util.find_spec("scipy") is None:
        return []
    from biencoder_ablate.report.analysis import analyse, planned_families
    from biencoder_ablate.report.beforehand import FEWEST_SEEDS, in_words, prospects
    from biencoder_ablate.report.examples import load_texts
    from biencoder_ablate.report.folds import pool_folds
    from biencoder_ablate.report.read import Metric
    from biencoder_ablate.report.study import make_studies

    families = planned_families(planned_runs(plans, jobs))
    if not families:
        return []
    _, num_tests, num_seeds = families[0]
    settings = plans[0].config
    metric = Metric(settings.metric) if settings.metric else Metric.TOP1
    pooled, _ = pool_folds(_pilot(plans, runs, metric))
    pilots = [study for study in make_studies(pooled) if len(study.cells) > 1]
    for study in pilots[:1]:
        analysis = analyse(study, cluster_of=load_texts(study).cluster_of)
        found = prospects(analysis, num_tests * len(settings.looks or [0]))
        if found:
            return in_words(found, num_seeds, settings.margin, f"{study.size} here")
    seeds = ",".join(map(str, range(FEWEST_SEEDS)))
    return [
        "which difference so many seeds find is not known: no two configurations have finished runs of "
        f"{FEWEST_SEEDS} seeds here, with these settings on this corpus; a pilot would tell: seed={seeds}"
    ]


def _pilot(plans: Sequence[RunPlan], runs: Path, metric: Any) -> list[Run]:
    """The finished runs below `runs` that are like the planned ones. Of the others only the manifest is read."""
    from biencoder_ablate.report.read import FINISHED, read_run

    planned = [flatten(plan.determined_by) for plan in plans]
    first = planned[0]
    shared = {key for key in first if all(other.get(key) == first[key] for other in planned)}
    shared = {key for key in shared if key != "seed" and not key.startswith("head.")}
    corpora = {values["data"] for values in planned}
    found = []
    for path in sorted(runs.glob("*/manifest.json")):
        determined = (read_json(path) or {}).get("determined_by")
        if not isinstance(determined, Mapping):
            continue
        values = flatten(determined)
        if values.get("data") in corpora and all(values.get(key) == first[key] for key in shared):
            run = read_run(path.parent, metric=metric)
            found += [run] if run.status == FINISHED else []
    return found

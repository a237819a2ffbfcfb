"""Whether a sweep has enough seeds for what its report will test, known before the first run starts."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from biencoder_ablate.report.read import Run
    from biencoder_ablate.training.plan import RunPlan


def describe_seeds(plans: Sequence[RunPlan], jobs: Sequence[Sequence[str]], num_looks: int = 0) -> list[str]:
    """A line for each family of comparisons that so many seeds cannot decide: which, and how many seeds can.

    The sign-flip test of S seeds has no p below 2/2^S, which Holm multiplies by the number of tests in the family. More
    seeds than that may be needed; with fewer nothing is significant, whatever the figures. Empty where there are
    enough, where nothing will be compared, or without the `report` extra. Declared looks share alpha among them.
    """
    if importlib.util.find_spec("scipy") is None:
        return []
    from biencoder_ablate.report.analysis import planned_families
    from biencoder_ablate.report.statistics import seeds_needed

    lines = []
    for title, num_tests, num_seeds in planned_families(planned_runs(plans, jobs)):
        needed = seeds_needed(num_tests * max(1, num_looks))
        if num_seeds < needed:
            seeds = f"{num_seeds} seed{'s' * (num_seeds != 1)}"
            tests = "one test" if num_tests == 1 else f"{num_tests} tests"
            looks = f" at each of {num_looks} looks" if num_looks > 1 else ""
            lines.append(f"note: {seeds} cannot decide {tests}{looks} ({title}): {needed} can")
    return list(dict.fromkeys(lines))


def planned_runs(plans: Sequence[RunPlan], jobs: Sequence[Sequence[str]]) -> list[Run]:
    """The planned runs as if they had finished, for the report's own questions: none looks at a figure."""
    from biencoder_ablate.report.read import NOTHING, WITHOUT, Outcomes, Run

    runs = []
    unknown = Outcomes(ids=(), debates=(), correct={}, first=())
    for plan, job in zip(plans, jobs, strict=True):
        part = dict(override.partition("=")[::2] for override in job).get(WITHOUT)
        runs.append(
            Run(
                plan.directory,
                "finished",
                identity=plan.determined_by,
                config=asdict(plan.config),
                measured=unknown,
                without=part,
                baseline=part == NOTHING,
            )
        )
    return runs

"""A sweep that stops when it knows: after each declared look it decides, and goes on with what is open.

A look is a number of seeds. The runs up to it are made as those of any sweep, by whichever launcher; then the report's
own verdict is taken, and only configurations that are part of an open comparison are given the seeds up to the next.
Nothing is kept but what the sweep keeps anyway: the same command comes to the same decisions, and goes on.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from biencoder_ablate.config.compose import Command, to_config
from biencoder_ablate.config.schema import ConfigError
from biencoder_ablate.utils.console import show

if TYPE_CHECKING:
    from biencoder_ablate.report.decision import Judged
    from biencoder_ablate.report.ledger import Ledger

Job = Sequence[str]


def looks_of(command: Command) -> list[int]:
    """The looks that a sweep declares, ascending; none without them. Raises ConfigError for what they cannot be."""
    settings = to_config(command.base, checked=False)
    if settings.looks is None:
        if settings.metric is not None:
            raise ConfigError(f"metric={settings.metric}: is what decides at declared looks; add looks=[8,12,20]")
        return []
    if importlib.util.find_spec("scipy") is None:
        raise ConfigError(
            "looks: a verdict needs scipy; install the `report` extra: pip install 'biencoder-ablate[report]'"
        )
    return settings.looks


def with_seeds(jobs: Sequence[Job], looks: Sequence[int], is_typed: bool) -> list[list[str]]:
    """The jobs up to the last look: with the lowest of the seeds that were typed, or else with seeds from 0, whatever
    seeds a preset has.

    Raises ConfigError where fewer seeds were typed than the last look has, and where there is nothing to compare.
    """
    last = looks[-1]
    given = sorted({seed_of(job) for job in jobs}) if is_typed else []
    if is_typed and len(given) < last:
        listed = ",".join(map(str, given))
        raise ConfigError(
            f"seed={listed}: {len(given)} seed{'s' * (len(given) != 1)}, and the last look is at {last}; leave seed "
            f"out, which gives seeds 0 to {last - 1}, or give {last} of them"
        )
    if len({configuration_of(job) for job in jobs}) < 2:
        raise ConfigError("looks: there is one configuration, and nothing to compare; give a key several values")
    if is_typed:
        return [list(job) for job in jobs if seed_of(job) in given[:last]]
    without = dict.fromkeys(tuple(item for item in job if not item.startswith("seed=")) for job in jobs)
    return [[*job, f"seed={seed}"] for job in without for seed in range(last)]


def seed_of(job: Job) -> int:
    """The seed in a job's overrides. Raises ConfigError for one that is no whole number."""
    value = next(item for item in job if item.startswith("seed=")).partition("=")[2]
    if not value.isdecimal():
        raise ConfigError(f"seed={value}: with looks, must be an integer from 0 to 4294967295")
    return int(value)


def configuration_of(job: Job) -> tuple[str, ...]:
    """A job's overrides without its seed and its fold."""
    return tuple(item for item in job if not item.startswith(("seed=", "data.fold=")))


def rounds(jobs: Sequence[Job], looks: Sequence[int]) -> list[list[int]]:
    """For each look the places of the jobs whose seeds it adds to those of the look before, seeds ascending."""
    seeds = sorted({seed_of(job) for job in jobs})
    places = []
    for fewer, look in zip([0, *looks], looks, strict=False):
        added = set(seeds[fewer:look])
        places.append([place for place, job in enumerate(jobs) if seed_of(job) in added])
    return places


def going_on(jobs: Sequence[Job], names: Sequence[str], open_runs: Iterable[str]) -> set[tuple[str, ...]]:
    """The configurations that some of these runs are of: they are given more seeds."""
    wanted = set(open_runs)
    return {configuration_of(job) for job, name in zip(jobs, names, strict=True) if name in wanted}


def run_looks(
    directory: Path,
    jobs: Sequence[list[str]],
    names: Sequence[str],
    looks: Sequence[int],
    run: Callable[[list[list[str]], list[str]], bool],
) -> None:
    """Make the runs look by look, each time those that are still asked for, and say what was decided.

    `run` makes the runs of jobs, by their names, and returns whether all have finished: with one lacking, a look is not
    reached, and nothing is decided by it.
    """
    wanted = {configuration_of(job) for job in jobs}
    for look, places in zip(looks, rounds(jobs, looks), strict=True):
        chosen = [place for place in places if configuration_of(jobs[place]) in wanted]
        num_left_out = len(places) - len(chosen)
        more = f"; {num_left_out} not needed" if num_left_out else ""
        print(f"up to {look} seeds: {len(chosen)} runs{more}", flush=True)
        if not run([jobs[place] for place in chosen], [names[place] for place in chosen]):
            show(f"the look at {look} seeds is not reached, as runs are lacking; the same command goes on", sys.stderr)
            return
        open_runs = _look(directory, look, looks)
        if open_runs is None:
            return
        wanted = going_on(jobs, names, open_runs)


def _look(directory: Path, look: int, looks: Sequence[int]) -> set[str] | None:
    """Take the verdict of a look and say it; returns the runs of what is open, or None where nothing is left to do."""
    from biencoder_ablate.report.decision import at_looks, describe, remember
    from biencoder_ablate.report.looks import left_open

    ledger, judged = _verdict(directory)
    print(f"\nlook at {look} of {', '.join(map(str, looks))} seeds")
    open_runs: set[str] = set()
    open_names: list[str] = []
    for each in judged:
        for decision in each.deciding:
            show(describe(decision, each.analysis))
        left = left_open(each.analysis, each.decisions, look)
        if not left.is_reached:
            show(f"the look at {look} seeds is not reached: some runs have other seeds than the rest", sys.stderr)
            return None
        open_runs |= left.runs
        open_names += left.comparisons

    problem = remember(ledger, judged)
    for line in [problem, *ledger.changed(at_looks(judged))]:
        if line:
            show(f"note: {line}", sys.stderr)
    if not open_names:
        print("decided\n", flush=True)
        return None
    if look == looks[-1]:
        show(f"not decided, and no look is left: {', '.join(open_names)}\n")
        return None
    show(f"goes on, as these are open: {', '.join(open_names)}\n")
    return open_runs


def _verdict(directory: Path) -> tuple[Ledger, list[Judged]]:
    """What was declared of the sweep, and what follows at the look that its finished runs have reached."""
    from biencoder_ablate.report.decision import judge
    from biencoder_ablate.report.ledger import open_ledger
    from biencoder_ablate.report.read import collect

    collection = collect([directory])
    ledger = open_ledger(collection)
    return ledger, judge(collection, ledger)

"""Declared looks one after another: what is decided at one stays so, and what is not goes on to the next.

Each look spends an equal part of alpha, and what it decides is never tested again; so no error rate depends on which
configurations were given more seeds (comparisons.compare()). All of it follows from the runs, the looks and the margin:
whoever works it out again, at whatever time, comes to the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from biencoder_ablate.report.analysis import Analysis, Settled, analyse
from biencoder_ablate.report.read import Protocol
from biencoder_ablate.report.study import Study
from biencoder_ablate.report.verdicts import Decision, decisions


@dataclass(frozen=True)
class Open:
    """What a look leaves open: names of the comparisons, and of the runs of the configurations that are part of them.

    `is_reached` is false where some comparison lacks seeds that the look needs, so that nothing follows from it.
    """

    is_reached: bool
    comparisons: tuple[str, ...]
    runs: frozenset[str]


def analyse_at_looks(
    study: Study,
    protocol: Protocol | None,
    looks: Sequence[int],
    cluster_of: Mapping[str, str],
    margin: float | None,
) -> Analysis:
    """The study at the last of the declared looks that it has reached, with what each has decided.

    A look is reached once every comparison that no look before has decided has so many seeds; after the look that
    decides the last one there is none. Without looks, over all seeds. Before the first, nothing is decided.
    """
    if not looks:
        return replace(analyse(study, protocol, cluster_of=cluster_of), margin=margin)
    settled: dict[str, Settled] = {}
    current = None
    for look in looks:
        analysis = analyse(study, protocol, looks, cluster_of, look, settled)
        analysis = replace(analysis, margin=margin)
        going_on = [each for each in decisions(analysis) if each.decides and _name(each) not in settled]
        is_reached = all(len(each.result.seeds) >= look for each in going_on)
        if not is_reached:
            return current or analysis

        decided = [each for each in going_on if each.is_decided]
        settled = settled | {_name(each): Settled(look, each.result, each.p_margin) for each in decided}
        current = replace(analysis, settled=settled)
        if len(decided) == len(going_on):
            break
    assert current is not None
    return current


def left_open(analysis: Analysis, found: Sequence[Decision], look: int) -> Open:
    """What this look leaves open, of the comparisons that decide; `found` are the analysis's decisions."""
    going_on = [each for each in found if each.decides and _name(each) not in analysis.settled]
    is_reached = all(len(each.result.seeds) >= look for each in going_on)
    cells_of_arm = analysis.families[0].arms.cells if analysis.families else {}
    runs: set[str] = set()
    for decision in going_on:
        for arm, weight in decision.result.contrast.weights:
            for cell in cells_of_arm[arm] if weight else ():
                for run in cell.runs.values():
                    runs.update(part.name for part in run.parts or (run,))
    return Open(is_reached, tuple(each.name for each in going_on), frozenset(runs))


def _name(decision: Decision) -> str:
    return decision.result.contrast.name

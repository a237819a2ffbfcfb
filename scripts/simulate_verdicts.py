"""How often does "may be removed" err, and "equal", where a difference is exactly the margin? Simulated studies.

    python scripts/simulate_verdicts.py --studies 1000

Studies are those of scripts/simulate_statistics.py: four groups, whose true means are set so that three parts are worth
exactly the margin (against the fourth group), or that of six pairs four differ by it. "May be removed" is then false,
and "equal". In a third study nothing differs, so that "earns its place" is false, and "may be removed" true.
docs/statistics.md has the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri
from simulate_statistics import ALPHA, GROUPS, NUM_DRAWS, PAIRS, SCENARIOS, Scenario, batches, simulate

from biencoder_ablate.report.comparisons import against
from biencoder_ablate.report.margins import equality_p, margin_p
from biencoder_ablate.report.statistics import FloatArray, Moments, crossed_moments, holm, sign_flip_p
from biencoder_ablate.utils.seeding import generator

SEEDS = (3, 5, 10, 20)
DEBATES = (10, 100)
PARTS = np.array([[dict(c.weights).get(g, 0.0) for g in GROUPS] for c in against("d", "abc")])


@dataclass(frozen=True)
class Case:
    """A scenario of simulate_statistics.py, the share that the lower groups have right, and the margin."""

    name: str
    share: float
    margin: float


CASES = (
    Case("pure seed luck", 0.5, 0.05),
    Case("mere noise", 0.5, 0.02),
    Case("seeds mostly", 0.5, 0.05),
    Case("realistic mix", 0.5, 0.02),
    Case("realistic mix", 0.5, 0.05),
    Case("group × debate", 0.5, 0.05),
    Case("near deterministic, ties", 0.5, 0.02),
    Case("near deterministic, ties", 0.5, 0.05),
    Case("ceiling (97% right)", 0.97, 0.01),
    Case("ceiling (97% right)", 0.97, 0.02),
    Case("near deterministic, ties", 0.97, 0.005),
    Case("near deterministic, ties", 0.97, 0.01),
    Case("near deterministic, ties", 0.97, 0.02),
)


def at_margin(case: Case, is_high: Sequence[bool]) -> Scenario:
    """The scenario with groups whose true share right is `share`, or the margin more where `is_high`."""
    scenario = replace(SCENARIOS[case.name], short=0)
    parts = (
        scenario.by_debate,
        scenario.by_point,
        scenario.luck,
        scenario.luck_by_debate,
        scenario.noise,
    )
    deviation = np.sqrt(1.25 + np.square(parts).sum())
    low, high = deviation * ndtri([case.share, case.share + case.margin])
    return replace(scenario, means=tuple(high if each else low for each in is_high))


def moments_of(sums: FloatArray, sizes: np.ndarray, weights: FloatArray) -> Moments:
    """The moments (B,) of a contrast over B studies, from sums (B, 4, S, D)."""
    table = np.round(np.einsum("g,bgsd->bsd", weights, sums), 10)
    return crossed_moments(table, sizes)


def within_margin(p_values: Sequence[FloatArray]) -> np.ndarray:
    """Which of m tests, each (B,), Holm rejects: (B, m)."""
    return holm(np.transpose(p_values)) < ALPHA


def told_apart(sums: FloatArray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which parts are told apart from 0 (B, 3), by both tests, as contrasts.compare() has it."""
    crossed, over_seeds = [], []
    for weights in PARTS:
        table = np.round(np.einsum("g,bgsd->bsd", weights, sums), 10)
        crossed.append(crossed_moments(table, sizes).p)
        over_seeds.append(sign_flip_p(table.sum(axis=2) / sizes.sum(), rng, NUM_DRAWS))
    both = np.maximum(holm(np.transpose(crossed)), holm(np.transpose(over_seeds)))
    return both < ALPHA


def row(case: Case, num_seeds: int, num_debates: int, num_studies: int) -> list[float]:
    """Shares of studies: any part falsely removable, any pair falsely equal, any part falsely earning its place, and,
    where nothing differs, the first part rightly removable."""
    rng = generator(0, "verdicts", case.name, num_seeds, num_debates, str(case.margin), str(case.share))
    sizes = rng.geometric(1 / 7.4, num_debates)
    num_points = int(sizes.sum())

    def studies(num: int, *is_high: bool) -> FloatArray:
        sums, _, _ = simulate(at_margin(case, is_high), num, num_seeds, sizes, rng)
        return sums

    def removable(sums: FloatArray) -> np.ndarray:
        tests = [margin_p(moments_of(sums, sizes, weights), case.margin, 1.0, num_points) for weights in PARTS]
        return within_margin(tests)

    found = []
    for num in batches(num_studies, 2 * num_seeds):
        removed = removable(studies(num, True, True, True, False))
        apart = studies(num, True, True, False, False)
        equal = within_margin(
            [equality_p(moments_of(apart, sizes, weights), case.margin, 1.0, num_points) for weights in PAIRS]
        )
        differ = PAIRS @ np.array([1.0, 1.0, 0.0, 0.0]) != 0
        alike = studies(num, False, False, False, False)
        found.append(
            [
                removed.any(axis=1),
                (equal & differ).any(axis=1),
                told_apart(alike, sizes, rng).any(axis=1),
                removable(alike)[:, 0],
            ]
        )
    return list(np.concatenate(found, axis=1).mean(axis=1))


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies a row")
    num_studies = parser.parse_args().studies
    print(f"{num_studies} studies a cell.\n")
    print(f"| scenario | right | margin | debates | {' | '.join(f'{n} seeds' for n in SEEDS)} |")
    print("|---|---:|---:|---:|" + "---|" * len(SEEDS))
    for case in CASES:
        for num_debates in DEBATES:
            cells = []
            for num_seeds in SEEDS:
                figures = row(case, num_seeds, num_debates, num_studies)
                cells.append(" / ".join(f"{figure:.3f}" for figure in figures))
            about = f"{case.name} | {case.share:g} | {case.margin:g} | {num_debates}"
            print(f"| {about} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

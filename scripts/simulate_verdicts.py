"""How often does "may be removed" err, and "equal", where a difference is exactly the margin? Simulated studies.

    python scripts/simulate_verdicts.py --studies 1000
    python scripts/simulate_verdicts.py --studies 1000 --looks

Studies are those of scripts/simulate_statistics.py: four groups, whose true means are set so that three parts are worth
exactly the margin (against the fourth group), or that of six pairs four differ by it. "May be removed" is then false,
and "equal". In a third study nothing differs, so that "earns its place" is false, and "may be removed" true. With
--looks, studies are looked at several times, and what is decided gets no more seeds.
docs/statistics.md has the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
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


LOOKS_CASES = (
    Case("seeds mostly", 0.5, 0.05),
    Case("realistic mix", 0.5, 0.05),
    Case("near deterministic, ties", 0.5, 0.05),
    Case("ceiling (97% right)", 0.9, 0.02),
)
LOOK_PLANS = ((3, 5, 10), (8, 12, 20))


def at_margin(case: Case, is_high: Sequence[float]) -> Scenario:
    """The scenario with groups whose true share right is so many margins above `share`."""
    scenario = replace(SCENARIOS[case.name], short=0)
    parts = (
        scenario.by_debate,
        scenario.by_point,
        scenario.luck,
        scenario.luck_by_debate,
        scenario.noise,
    )
    deviation = np.sqrt(1.25 + np.square(parts).sum())
    means = deviation * ndtri([case.share + each * case.margin for each in is_high])
    return replace(scenario, means=tuple(means))


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


def look_by_look(
    sums: FloatArray,
    sizes: np.ndarray,
    margin: float,
    looks: Sequence[int],
    rng: np.random.Generator,
    p_of_margin: Callable[..., FloatArray] = margin_p,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is found of each part, from look to look, as report/looks.py has it (a test holds the two alike).

    Returns (B, 3): 1 where it is told apart, 2 where it is within the margin, else 0; then the look that decided it, or
    the last; and the sign of its estimate there. What is decided keeps its p, and gets no more seeds.
    """
    num_studies, num_points = len(sums), int(sizes.sum())
    outcome = np.zeros((num_studies, len(PARTS)), dtype=int)
    at = np.full(outcome.shape, looks[-1])
    signs = np.zeros(outcome.shape)
    kept = np.ones((3, *outcome.shape))  # p over seeds, of the interval, and of the margin
    for look in looks:
        for k, weights in enumerate(PARTS):
            seen = sums[:, :, :look]
            table = np.round(np.einsum("g,bgsd->bsd", weights, seen), 10)
            moments = crossed_moments(table, sizes)
            over_seeds = sign_flip_p(table.sum(axis=2) / num_points, rng, NUM_DRAWS)
            now = [over_seeds, moments.p, p_of_margin(moments, margin, 1.0, num_points)]
            is_open = outcome[:, k] == 0
            kept[:, :, k] = np.where(is_open, now, kept[:, :, k])
            signs[:, k] = np.where(is_open, np.sign(moments.estimate), signs[:, k])
        adjusted = [len(looks) * holm(p) for p in kept]
        told = np.maximum(adjusted[0], adjusted[1]) < ALPHA
        within = adjusted[2] < ALPHA
        new = np.where(told, 1, np.where(within, 2, 0))
        decided_now = (outcome == 0) & (new > 0)
        at[decided_now] = look
        outcome = np.where(decided_now, new, outcome)
    return outcome, at, signs


def looks_row(case: Case, num_debates: int, num_studies: int, looks: Sequence[int]) -> list[float]:
    """Shares of studies over all looks: the part that is worth the margin falsely removable; a part that brings nothing
    falsely earning its place or doing harm, beside one that is worth much more; any of three parts that are worth the
    margin falsely removable; any of three that bring nothing falsely told apart. Then the share of runs made, in the
    first kind of study and in the last."""
    rng = generator(0, "looks", case.name, num_debates, str(case.margin), str(case.share), str(looks))
    sizes = rng.geometric(1 / 7.4, num_debates)

    def studies(num: int, *levels: float) -> tuple[np.ndarray, np.ndarray]:
        """Outcomes (B, 3) and the share of runs made (B,); the parts' true shares are by so many margins above d's."""
        sums, _, _ = simulate(at_margin(case, (*levels, 0.0)), num, max(looks), sizes, rng)
        outcome, at, _ = look_by_look(sums, sizes, case.margin, looks, rng)
        return outcome, (at.sum(axis=1) + at.max(axis=1)) / (len(GROUPS) * max(looks))

    found = []
    for num in batches(num_studies, 3 * max(looks)):
        mixed, share_mixed = studies(num, 0.0, 1.0, 4.0)
        at_the_margin, _ = studies(num, 1.0, 1.0, 1.0)
        alike, share_alike = studies(num, 0.0, 0.0, 0.0)
        shares = [mixed[:, 1] == 2, mixed[:, 0] == 1, (at_the_margin == 2).any(axis=1), (alike == 1).any(axis=1)]
        found.append([*shares, share_mixed, share_alike])
    return list(np.concatenate(found, axis=1).mean(axis=1))


def print_looks(num_studies: int) -> None:
    """The table of declared looks as Markdown."""
    print(f"{num_studies} studies a row.\n")
    print("| scenario | right | margin | debates | looks | beside others | | three alike | | runs made | |")
    print("|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|")
    for case in LOOKS_CASES:
        for num_debates in DEBATES:
            for looks in LOOK_PLANS:
                cells = [f"{figure:.3f}" for figure in looks_row(case, num_debates, num_studies, looks)]
                about = f"{case.name} | {case.share:g} | {case.margin:g} | {num_debates} | {looks}"
                print(f"| {about} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies a row")
    parser.add_argument("--looks", action="store_true", help="the table of declared looks")
    arguments = parser.parse_args()
    num_studies = arguments.studies
    if arguments.looks:
        print_looks(num_studies)
        return
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

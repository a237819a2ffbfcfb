"""Do the report's intervals cover, and its verdicts err, as often as they claim? Studies simulated from a known truth.

    python scripts/simulate_statistics.py > table.md

Four groups, S seeds, N points in D debates. What group g scores on point i with seed s is
mean_g + ease of the debate and of the point (the same for all) + g's affinity to the debate and to the point + g's luck
with the seed, and with the seed in the debate + noise, all normal; it is right where that is above 0. So a group's true
share right, over all seeds and debates, is Φ(mean / the whole deviation). docs/statistics.md has the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr, stdtrit

from biencoder_ablate.report.comparisons import every_pair, factorial_effects
from biencoder_ablate.report.statistics import FloatArray, crossed_moments, holm, sign_flip_p
from biencoder_ablate.utils.seeding import generator

ALPHA = 0.05
GROUPS = "abcd"
SEEDS = (3, 5, 8, 10, 20)
LOOKS = (8, 10, 12, 16, 20)
PAIRS = np.array([[dict(c.weights).get(g, 0.0) for g in GROUPS] for c in every_pair(GROUPS)])
EFFECTS = np.array([[dict(c.weights)[g] for g in GROUPS] for c in factorial_effects(("A", "B"), GROUPS)])
NUM_DRAWS = 4999  # of signs, beyond the seeds whose patterns are all tried


@dataclass(frozen=True)
class Scenario:
    """Standard deviations of what a score is made of, beside the ease of debates (0.5) and points (1)."""

    means: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    by_debate: float = 0.0
    by_point: float = 0.0
    luck: float = 0.0
    luck_by_debate: float = 0.0
    noise: float = 0.5
    settings: int = 1  # averaged, as over negative ratios; affinities are the same in each
    short: int = 0  # seeds that the last group lacks
    continuous: bool = False  # the score itself, skewed as exp(score), in place of right or wrong


SCENARIOS = {
    "pure seed luck": Scenario(luck=0.2),
    "mere noise": Scenario(),
    "seeds mostly": Scenario(luck=0.5, noise=0.3),
    "realistic mix": Scenario(by_debate=0.2, by_point=0.2, luck=0.1, luck_by_debate=0.1),
    "mean of 5 settings": Scenario(by_debate=0.2, by_point=0.2, luck=0.1, luck_by_debate=0.1, settings=5),
    "group × debate": Scenario(by_debate=0.5, luck=0.05),
    "group × point": Scenario(by_point=0.7, luck=0.02, noise=0.3),
    "near deterministic, ties": Scenario(by_debate=0.1, by_point=0.2, luck=0.01, noise=0.03),
    "ceiling (97% right)": Scenario(means=(2.4,) * 4, by_debate=0.2, by_point=0.2, luck=0.1, luck_by_debate=0.1),
    "unequal seeds": Scenario(by_debate=0.2, by_point=0.2, luck=0.1, luck_by_debate=0.1, short=2),
    "continuous, skewed": Scenario(by_debate=0.2, by_point=0.2, luck=0.1, luck_by_debate=0.1, continuous=True),
    "true effects": Scenario(means=(0.0, 0.1, 0.2, 0.4), by_debate=0.2, by_point=0.2, luck=0.1, luck_by_debate=0.1),
    "two equally best": Scenario(means=(-0.8, -0.8, 0.0, 0.0), by_debate=0.3, by_point=0.2, luck=0.1),
}
UNEVEN = {5: "pure seed luck", 8: "realistic mix", 12: "group × debate", 75: "group × debate", 300: "realistic mix"}


def debate_sizes(num_debates: int, rng: np.random.Generator) -> np.ndarray:
    """Points of each debate (D,): the 74 of the real corpus's clean test points, or geometric, very uneven."""
    if num_debates == 74:
        return np.repeat(np.arange(5, 11), (5, 17, 18, 15, 13, 6))
    return rng.geometric(1 / 7.4, num_debates)


def simulate(
    scenario: Scenario, num_studies: int, num_seeds: int, sizes: np.ndarray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Sums (B, 4, S, D) of B studies, each group's true mean (4,) and its true mean on these points (B, 4)."""

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal((num_studies, *shape), dtype=np.float32)

    x, (num_debates, num_points) = scenario, (len(sizes), sizes.sum())
    starts, of = np.r_[0, np.cumsum(sizes)[:-1]], np.repeat(np.arange(num_debates), sizes)
    lasting = 0.5 * normal(1, num_debates)[..., of] + normal(1, num_points)
    lasting = lasting + x.by_debate * normal(4, num_debates)[..., of] + x.by_point * normal(4, num_points)
    lasting = lasting + np.array(x.means, dtype=np.float32)[:, None]
    total, by_seed = 0.0, x.luck**2 + x.luck_by_debate**2 + x.noise**2
    for _ in range(x.settings):
        luck = x.luck * normal(4, num_seeds, 1) + x.luck_by_debate * normal(4, num_seeds, num_debates)
        score = lasting[:, :, None] + luck[..., of] + x.noise * normal(4, num_seeds, num_points)
        got = np.exp(score) if x.continuous else score > 0
        total = total + np.add.reduceat(got, starts, axis=-1, dtype=np.float64) / x.settings
    spread = 1.25 + x.by_debate**2 + x.by_point**2 + by_seed
    means = np.array(x.means)
    if x.continuous:
        return total, np.exp(means + spread / 2), np.exp(lasting + by_seed / 2).mean(axis=-1)
    return total, ndtr(means / np.sqrt(spread)), ndtr(lasting / np.sqrt(by_seed)).mean(axis=-1)


@dataclass(frozen=True)
class Decisions:
    """Of B studies and m contrasts: which single intervals hold the truth (B, m), and the family's (B, m); who is told
    apart from 0 (B, m); estimates (B, m)."""

    single: np.ndarray
    family: np.ndarray
    is_significant: np.ndarray
    estimate: np.ndarray


def decide(
    sums: FloatArray, sizes: np.ndarray, weights: FloatArray, truth: FloatArray, rng: np.random.Generator,
    short: int = 0, num_looks: int = 1,
) -> Decisions:  # fmt: skip
    """What the report concludes, all studies at once: contrasts.compare() and its is_significant (a test holds the two
    alike). The last group lacks its last `short` seeds."""
    num_tests, true = len(weights), weights @ truth
    found = []
    for row in weights:
        seeds = sums.shape[2] - (min(short, sums.shape[2] - 2) if row[-1] else 0)
        table = np.round(np.einsum("g,bgsd->bsd", row, sums[:, :, :seeds]), 10)
        moments = crossed_moments(table, sizes)
        p = sign_flip_p(table.sum(axis=2) / sizes.sum(), rng, NUM_DRAWS)
        reach = [moments.half_widths(ALPHA / share) for share in (1, num_tests * num_looks)]
        found.append((moments.estimate, *reach, moments.p, p))
    estimate, single, family, p_crossed, p_seeds = (np.array(values).T for values in zip(*found, strict=True))
    holds = [abs(estimate - true) <= reach + 1e-12 for reach in (single, family)]
    told = num_looks * np.maximum(holm(p_crossed), holm(p_seeds)) < ALPHA
    return Decisions(*holds, told, estimate)


def winners(decisions: Decisions) -> np.ndarray:
    """Whether a study has a winner (B,): a group told apart from, and above, each other; the family is PAIRS."""
    above = decisions.is_significant[..., None] * np.sign(decisions.estimate)[..., None] * PAIRS > 0  # (B, m, 4)
    return (above.sum(axis=1) == len(GROUPS) - 1).any(axis=1)


def over_seeds_covers(sums: FloatArray, num_points: int, true: FloatArray) -> float:
    """How often Student's t over seeds holds a group's mean on these very points."""
    per_seed = sums.sum(axis=-1) / num_points
    num_seeds = per_seed.shape[-1]
    half = stdtrit(num_seeds - 1, 1 - ALPHA / 2) * per_seed.std(axis=-1, ddof=1) / np.sqrt(num_seeds)
    return float((abs(per_seed.mean(axis=-1) - true) <= half + 1e-12).mean())


def batches(num_studies: int, num_seeds: int) -> Iterator[int]:
    """Sizes of batches that fit in some hundred megabytes."""
    at_once = max(1, 1000 // num_seeds)
    yield from (min(at_once, num_studies - start) for start in range(0, num_studies, at_once))


def row(name: str, num_seeds: int, num_debates: int, num_studies: int) -> list[float]:
    """Single coverage, family coverage, any false pair, any false effect, false winner, t over seeds; shares."""
    scenario, rng = SCENARIOS[name], generator(0, "simulation", name, num_seeds, num_debates)
    sizes = debate_sizes(num_debates, rng)
    parts: list[list[np.ndarray | float]] = []
    for num in batches(num_studies, num_seeds):
        sums, truth, here = simulate(scenario, num, num_seeds, sizes, rng)
        pairs, effects = (decide(sums, sizes, weights, truth, rng, scenario.short) for weights in (PAIRS, EFFECTS))
        null_pairs, null_effects = np.isclose(PAIRS @ truth, 0), np.isclose(EFFECTS @ truth, 0)
        best = np.isclose(truth, truth.max()).sum()
        parts.append([
            pairs.single.mean(), pairs.family.all(axis=1).mean(),
            (pairs.is_significant & null_pairs).any(axis=1).mean() if null_pairs.any() else np.nan,
            (effects.is_significant & null_effects).any(axis=1).mean() if null_effects.any() else np.nan,
            winners(pairs).mean() if best > 1 else np.nan, over_seeds_covers(sums, sizes.sum(), here),
            num,
        ])  # fmt: skip
    table = np.array(parts, dtype=float)
    return list(np.average(table[:, :-1], axis=0, weights=table[:, -1]))


def looked_at(name: str, num_debates: int, num_studies: int, looks: Sequence[int]) -> tuple[float, float, float]:
    """Studies with any pair falsely told apart: at the last look alone, at any look, at any look of a declared plan."""
    scenario, rng = replace(SCENARIOS[name], short=0), generator(0, "simulation", "looks", name)
    sizes = debate_sizes(num_debates, rng)
    found: list[np.ndarray] = []
    for num in batches(num_studies, max(looks)):
        sums, truth, _ = simulate(scenario, num, max(looks), sizes, rng)
        told = np.array(
            [
                [
                    decide(sums[:, :, :n], sizes, PAIRS, truth, rng, num_looks=of).is_significant.any(axis=1)
                    for n in looks
                ]
                for of in (1, len(looks))
            ]
        )  # (2, L, B)
        found.append(np.array([told[0, -1], told[0].any(axis=0), told[1].any(axis=0)]))
    last, naive, declared = np.concatenate(found, axis=1).mean(axis=1)
    return float(last), float(naive), float(declared)


def one_seed(name: str, num_debates: int, num_studies: int) -> float:
    """Pairs of trained models that are equal over all debates, and told apart by the sign-flip test over debates."""
    scenario, rng = replace(SCENARIOS[name], luck=0.0), generator(0, "simulation", "one seed", name)
    sizes = debate_sizes(num_debates, rng)
    sums, _, _ = simulate(scenario, num_studies, 1, sizes, rng)
    return float((sign_flip_p(sums[:, 0, 0] - sums[:, 1, 0], rng, 999) < ALPHA).mean())


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies a row")
    num_studies = parser.parse_args().studies
    print(f"{num_studies} studies a cell.")
    cells = [(name, 74) for name in SCENARIOS] + [(name, debates) for debates, name in UNEVEN.items()]
    found = {
        (*cell, seeds): row(cell[0], seeds, cell[1], num_studies)
        for cell in cells
        for seeds in SEEDS
        if cell[1] == 74 or seeds != 20
    }
    for title, which in (
        (
            "A 95% interval holds the truth / all six intervals of the family do / t over seeds, on these points",
            (0, 1, 5),
        ),
        ("False findings: any of six pairs / any of three effects / a winner", (2, 3, 4)),
    ):
        print(f"\n{title}:\n\n| scenario | debates | {' | '.join(f'{n} seeds' for n in SEEDS)} |")
        print("|---|---:|" + "---|" * len(SEEDS))
        for cell in cells:
            rows = [found.get((*cell, seeds)) for seeds in SEEDS]
            shown = [
                " / ".join("–" if np.isnan(figures[k]) else f"{figures[k]:.3f}" for k in which) if figures else ""
                for figures in rows
            ]
            print(f"| {cell[0]} | {cell[1]} | {' | '.join(shown)} |")
    print(f"\n| scenario | false pair at {LOOKS[-1]} seeds | at any of {LOOKS} | at any, declared with --looks |")
    print("|---|---:|---:|---:|")
    for name in ("pure seed luck", "seeds mostly", "realistic mix", "mean of 5 settings", "group × debate"):
        print(f"| {name} | {' | '.join(f'{x:.3f}' for x in looked_at(name, 74, num_studies, LOOKS))} |", flush=True)
    print("\n| scenario, one seed | debates | told apart |\n|---|---:|---:|")
    for debates in (8, 20, 74):
        for name in ("mere noise", "group × debate", "ceiling (97% right)"):
            print(f"| {name} | {debates} | {one_seed(name, debates, num_studies):.3f} |")


if __name__ == "__main__":
    main()

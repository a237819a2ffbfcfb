"""Do the report's interval and verdict hold when the points of all folds are pooled? Simulated studies say.

    python scripts/simulate_folds.py > table.md

Two configurations, S seeds, D groups of points (uneven), dealt into K folds. What configuration c scores on point i
with seed s, trained without fold k, is mean_c + ease of the group, the point and the fold (the same for both) + c's
affinity to the group and the point + what c makes of the fold's training set (the same for all seeds) + c's luck with
the seed, and with the seed in the fold + noise, all normal; it is right where that is above 0. docs/statistics.md has
the table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from biencoder_ablate.report.statistics import FloatArray, crossed_moments, sign_flip_p
from biencoder_ablate.utils.seeding import generator

ALPHA = 0.05
NUM_DRAWS = 999  # of signs, beyond the seeds whose patterns are all tried
AT_ONCE = 100  # studies
DESIGNS = [(6, 3, 12), (6, 5, 75), (10, 5, 30), (10, 5, 75), (10, 10, 75)]
"""Numbers of seeds, folds and groups. Fewer than six seeds cannot tell anything apart."""


@dataclass(frozen=True)
class Scenario:
    """Standard deviations of what a score is made of, beside the ease of groups (0.5) and points (1)."""

    difference: float = 0.0
    by_group: float = 0.2
    by_point: float = 0.2
    luck: float = 0.1
    fold: float = 0.0
    luck_by_fold: float = 0.0
    training: float = 0.0
    noise: float = 0.5


SCENARIOS = {
    "seeds and groups": Scenario(),
    "easy and hard folds": Scenario(fold=0.5),
    "luck in each fold": Scenario(fold=0.5, luck=0.05, luck_by_fold=0.3),
    "mostly groups": Scenario(fold=0.3, by_group=0.5, luck=0.02, luck_by_fold=0.05),
    "a true difference": Scenario(difference=0.3, fold=0.5, luck_by_fold=0.2),
    "training sets, small": Scenario(fold=0.3, luck_by_fold=0.1, training=0.1),
    "training sets, large": Scenario(fold=0.3, luck_by_fold=0.1, training=0.3),
}


@dataclass(frozen=True)
class Studies:
    """B studies: the difference's sums (B, S, D) over groups of `sizes` (D,) points, its truth over all training sets,
    and with the training sets of these folds (B,)."""

    sums: FloatArray
    sizes: np.ndarray
    truth: float
    truth_here: FloatArray


def simulate(
    x: Scenario, num_studies: int, num_seeds: int, num_folds: int, num_groups: int, rng: np.random.Generator
) -> Studies:
    """Studies of one scenario, their groups of 1 point or more, 6 on average."""

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal((num_studies, *shape))

    sizes = rng.geometric(1 / 6, num_groups)
    group_of_point = np.repeat(np.arange(num_groups), sizes)
    fold_of_group = np.arange(num_groups) % num_folds
    fold_of_point = fold_of_group[group_of_point]
    starts = np.r_[0, np.cumsum(sizes)[:-1]]

    # What all seeds have in common (B, 2, 1, N), and what each seed adds (B, 2, S, N).
    means = np.array([x.difference, 0.0])[:, None, None]
    fold, training = x.fold * normal(1, 1, num_folds), x.training * normal(2, 1, num_folds)
    by_fold = means + fold + training  # (B, 2, 1, K)
    lasting = 0.5 * normal(1, 1, num_groups) + x.by_group * normal(2, 1, num_groups)
    lasting = lasting[..., group_of_point] + normal(1, 1, len(group_of_point))
    lasting = lasting + x.by_point * normal(2, 1, len(group_of_point)) + by_fold[..., fold_of_point]
    luck = x.luck * normal(2, num_seeds, 1) + x.luck_by_fold * normal(2, num_seeds, num_folds)
    score = lasting + luck[..., fold_of_point] + x.noise * normal(2, num_seeds, len(group_of_point))
    sums = np.add.reduceat(score > 0, starts, axis=-1, dtype=np.float64)

    # Shares right over all seeds, groups and points: of any training sets, and of those here.
    within = 0.25 + 1 + x.by_group**2 + x.by_point**2 + x.luck**2 + x.luck_by_fold**2 + x.noise**2
    right = ndtr(means[:, 0, 0] / np.sqrt(within + x.fold**2 + x.training**2))
    right_here = ndtr(by_fold[:, :, 0] / np.sqrt(within))  # (B, 2, K)
    shares = np.bincount(fold_of_point, minlength=num_folds) / len(fold_of_point)
    here = right_here @ shares
    return Studies(sums[:, 0] - sums[:, 1], sizes, float(right[0] - right[1]), here[:, 0] - here[:, 1])


def shares(scenario: Scenario, design: tuple[int, int, int], num_studies: int, name: str) -> tuple[float, float, float]:
    """How many 95% intervals hold the truth of these training sets, and that of any; how many studies find a
    difference."""
    rng = generator(0, "folds", name, *design)
    holds_here, holds, finds = [], [], []
    for start in range(0, num_studies, AT_ONCE):
        studies = simulate(scenario, min(AT_ONCE, num_studies - start), *design, rng)
        moments = crossed_moments(studies.sums, studies.sizes)
        reach = moments.half_widths(ALPHA) + 1e-12
        holds_here.append(abs(moments.estimate - studies.truth_here) <= reach)
        holds.append(abs(moments.estimate - studies.truth) <= reach)
        by_seed = studies.sums.sum(axis=-1) / studies.sizes.sum()
        finds.append(np.maximum(moments.p, sign_flip_p(by_seed, rng, NUM_DRAWS)) < ALPHA)
    return tuple(float(np.concatenate(each).mean()) for each in (holds_here, holds, finds))  # type: ignore[return-value]


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies a cell")
    num_studies = parser.parse_args().studies
    heads = [f"{seeds} seeds, {folds} folds, {groups} groups" for seeds, folds, groups in DESIGNS]
    print(f"| scenario | {' | '.join(heads)} |\n|---|{'---|' * len(DESIGNS)}")
    for name, scenario in SCENARIOS.items():
        cells = [" / ".join(f"{x:.3f}" for x in shares(scenario, design, num_studies, name)) for design in DESIGNS]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

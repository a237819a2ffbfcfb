"""What a comparison could still show: effects within its reach, seeds that would decide, and what a new seed will do.

- Bloom 1995, "Minimum Detectable Effects", Evaluation Review 19: quantiles of alpha and of power, times the standard
  error.
- Hahn & Meeker 1991, "Statistical Intervals", sec. 4.8: Student's t for one further observation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special

from biencoder_ablate.report.contrasts import ContrastResult
from biencoder_ablate.report.significance import ALPHA, seeds_needed, t_quantile

POWER = 0.8
MOST_SEEDS = 200


@dataclass(frozen=True)
class Outlook:
    """Of one contrast, as a member of its family at ALPHA; nan or None where a lone seed shows no spread.

    `detectable`: the least difference that a design with this variance finds with POWER. `seeds_to_decide`: how many
    seeds find a difference as large as the one seen with POWER, if all of it but the seeds' part of the variance stays;
    None where no MOST_SEEDS would, as debates are too few for it. `p_first_better`: the probability that one more seed,
    on these points, favours the side with the positive weight.
    """

    detectable: float
    seeds_to_decide: int | None
    p_first_better: float


def outlook(result: ContrastResult) -> Outlook:
    """A contrast's Outlook; ALPHA is shared among the family's tests and looks by Bonferroni, as its intervals are.

    V(S′) = V − V_seeds + V_seeds·S/S′ for S′ seeds, where V_seeds is the part that seeds bring. The probability is
    T(d̄ / (s·√(1 + 1/S))) with Student's T of S − 1 degrees of freedom (Hahn & Meeker 1991), d̄ and s the mean and
    standard deviation of the S seeds' differences.
    """
    interval, num_seeds = result.interval, len(result.seeds)
    if num_seeds < 2 or math.isnan(interval.variance):
        return Outlook(math.nan, None, math.nan)
    confidence = 1 - ALPHA / (result.num_tests * result.num_looks)
    variance, by_seeds = interval.variance, interval.by_seeds
    # What debates add to the variance, and to Satterthwaite's denominator.
    by_debates = max(variance - by_seeds, 0.0)
    of_debates = max(variance**2 / interval.degrees_of_freedom - by_seeds**2 / (num_seeds - 1), 0.0)

    def within_reach(seeds: int) -> float:
        """The least difference found with so many seeds."""
        seeds_part = by_seeds * num_seeds / seeds
        spread = seeds_part**2 / (seeds - 1) + of_debates
        freedom = (by_debates + seeds_part) ** 2 / spread if spread > 0 else seeds - 1
        factor = t_quantile(freedom, confidence) + float(special.stdtrit(freedom, POWER))
        return factor * math.sqrt(by_debates + seeds_part)

    least = max(2, seeds_needed(result.num_tests * result.num_looks))
    enough = (seeds for seeds in range(least, MOST_SEEDS + 1) if within_reach(seeds) <= abs(result.estimate) > 0)
    of_one = math.sqrt(by_seeds * num_seeds * (1 + 1 / num_seeds))
    if of_one > 0:
        p_first_better = float(special.stdtr(num_seeds - 1, result.estimate / of_one))
    else:
        p_first_better = 0.5 + 0.5 * ((result.estimate > 0) - (result.estimate < 0))
    return Outlook(within_reach(num_seeds), next(enough, None), p_first_better)

"""What a sweep will be able to find, before its runs are made: from finished runs of a pilot, for a number of seeds.

The variance of each comparison is split into the part that more seeds reduce and the rest, as in margins.Design; all
figures are for the seeds that are planned, on the debates that there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from biencoder_ablate.report.analysis import Analysis
from biencoder_ablate.report.margins import Design, least_variance
from biencoder_ablate.report.statistics import ALPHA, MOST_SEEDS, POWER, seeds_needed
from biencoder_ablate.report.verdicts import Decision, Role, decisions, score_range

FEWEST_SEEDS = 3
"""Of a pilot: with two seeds the variance between them is known to a factor of thirty."""


@dataclass(frozen=True)
class Prospect:
    """What one comparison of a pilot says of so many seeds as one of so many tests.

    `span` is how far the value of one of the `num_points` can lie from 0; of a part only one side of the margin is
    tested.
    """

    name: str
    design: Design
    span: float
    num_points: int
    is_part: bool

    def difference(self, num_seeds: int) -> float | None:
        """The least difference that so many seeds tell apart from 0 with probability POWER; None where none is.

        A difference has a least variance (least_variance()), however little the pilot's runs differ.
        """
        return self._least(lambda size: self._detectable(num_seeds, size, ALPHA / 2, POWER) <= size)

    def margin(self, num_seeds: int) -> float | None:
        """The least margin that a difference of 0 is shown to be below with probability POWER; None where none is."""
        return self._least(lambda size: self._shows(size, num_seeds))

    def seeds_for(self, margin: float) -> int | None:
        """The fewest seeds that show a difference of 0 to be below this margin; None where no number does."""
        return next((n for n in range(2, MOST_SEEDS + 1) if self._shows(margin, n)), None)

    def _shows(self, margin: float, num_seeds: int) -> bool:
        gap = margin - self.span / self.num_points / 2
        power = POWER if self.is_part else (1 + POWER) / 2  # of two sides each may miss half as often
        return gap > 0 and self._detectable(num_seeds, margin, ALPHA, power) <= gap

    def _detectable(self, num_seeds: int, size: float, tail: float, power: float) -> float:
        """Design.detectable() for this many seeds, where the difference or the margin is of this size."""
        least = least_variance(size, self.span, self.num_points)
        return self.design.detectable(num_seeds, 1.0, tail, power, least)

    def _least(self, is_enough: Callable[[float], bool]) -> float | None:
        """The least size up to the span that is enough, by bisection to a trillionth of the span."""
        low, high = 0.0, self.span
        if not is_enough(high):
            return None
        for _ in range(40):
            middle = (low + high) / 2
            if is_enough(middle):
                high = middle
            else:
                low = middle
        return high


def prospects(pilot: Analysis, num_tests: int) -> list[Prospect]:
    """What each of the pilot's comparisons that decide says; those on fewer than FEWEST_SEEDS are left out.

    `num_tests` is how many tests the planned sweep has, times its looks.
    """
    scale = score_range(pilot)
    found = []
    for decision in decisions(pilot):
        if decision.decides and len(decision.result.seeds) >= FEWEST_SEEDS:
            found.append(_prospect(pilot, decision, scale, num_tests))
    return found


def _prospect(pilot: Analysis, decision: Decision, scale: float, num_tests: int) -> Prospect:
    result = decision.result
    design = Design(result.interval, len(result.seeds), pilot.num_debates[pilot.primary], num_tests)
    weights = [abs(weight) for _, weight in result.contrast.weights]
    span = scale * sum(weights) / 2
    return Prospect(decision.name, design, span, pilot.num_points[pilot.primary], decision.role is Role.PART)


def in_words(found: list[Prospect], num_seeds: int, margin: float | None, basis: str) -> list[str]:
    """The prospects for so many seeds as lines, by the least certain comparison; `basis` is what they go by."""
    num_tests = found[0].design.num_tests
    differences = [each.difference(num_seeds) for each in found]
    margins = [each.margin(num_seeds) for each in found]
    if num_seeds < seeds_needed(num_tests):
        differences = [None]
    seen = "no difference" if None in differences else f"differences from {max(filter(None, differences)):.3f} on"
    shown = "no margin" if None in margins else f"margins from {max(filter(None, margins)):.3f} on"
    lines = [f"with {num_seeds} seeds, in 4 of 5 sweeps: {seen} told apart, {shown} shown; going by {basis}"]
    if margin is None or all(each is not None and each <= margin for each in margins):
        return lines
    needed = [each.seeds_for(margin) for each in found]
    if None in needed:
        lines.append(f"margin={margin:g}: no number of seeds would show it, on these queries alone")
    else:
        lines.append(f"margin={margin:g}: {max(filter(None, needed))} seeds would show it")
    return lines

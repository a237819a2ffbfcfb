"""Which group wins, if any: the verdict on a family of comparisons that holds every pair of the groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from biencoder_ablate.report.sign_flip import holm, seeds_needed, smallest_p
from biencoder_ablate.report.statistics import ContrastResult, Group, common_seeds


@dataclass(frozen=True)
class Verdict:
    """`status` is winner, no_clear_winner or too_few_seeds; `best` has the highest mean, whatever that means.

    `not_told_apart` names `best` and every group that cannot be told apart from it. `seeds_needed` is the
    number at which the family's tests could name a winner at all.
    """

    status: str
    best: str
    winner: str | None
    not_told_apart: tuple[str, ...]
    num_seeds: int
    seeds_needed: int
    sentence: str


def verdict(groups: Sequence[Group], results: Sequence[ContrastResult], alpha: float = 0.05) -> Verdict:
    """Which group wins, if any: `results` are compare()'s, a family that holds every pair of the groups.

    A winner is higher than each other group with Holm p < alpha and a bootstrap interval that excludes 0.
    Otherwise the best is named with all that cannot be told apart from it, which is not to say that they are
    equal. If its comparisons could not reach Holm p < alpha whatever the figures (p is at least 2/2^S), the
    verdict is too_few_seeds. The best is by mean over the seeds that all groups share, or, where there are
    none, over each group's own. Raises ValueError for fewer than two groups or a missing pair.
    """
    if len(groups) < 2:
        raise ValueError("a verdict needs at least two groups")
    shared = common_seeds(groups)
    means = {group.name: float(group.at(shared or group.seeds).mean()) for group in groups}
    best = max(means, key=lambda name: means[name])
    reachable = holm([smallest_p(len(result.seeds)) for result in results])
    pairs = {other: _find_pair(results, best, other) for other in means if other != best}
    num_tests = results[0].num_tests
    num_seeds = min(len(results[k].seeds) for k, _ in pairs.values())
    needed = seeds_needed(num_tests, alpha)
    beaten = {
        other: results[k].told_apart(alpha) and sign * results[k].estimate > 0 for other, (k, sign) in pairs.items()
    }
    others = tuple(other for other in pairs if not beaten[other])
    if any(reachable[k] >= alpha for k, _ in pairs.values()):
        status = "too_few_seeds"
        have = f"{num_seeds}" if num_seeds else "no seed in common"
        own = "" if shared else ", each group over its own seeds"
        sentence = (
            f"Too few seeds to name a winner: with {have}, the sign-flip test cannot reach Holm "
            f"p < {alpha:g} over {_tests(num_tests)}; {needed} are needed. "
            f"The highest mean so far is that of {quoted(best)} ({means[best]:.3f}{own})."
        )
    elif others:
        status = "no_clear_winner"
        sentence = (
            f"No clear winner: {quoted(best)} has the highest mean ({means[best]:.3f}), but over {num_seeds} seeds "
            f"it cannot be told apart from {quoted(*others)}."
        )
    else:
        status = "winner"
        least = min(sign * results[k].estimate for k, sign in pairs.values())
        than = "each of the others by at least" if len(pairs) > 1 else f"{quoted(*pairs)} by"
        sentence = (
            f"{quoted(best)} wins: mean {means[best]:.3f}, higher than {than} {least:.3f} "
            f"(Holm p < {alpha:g} over {_tests(num_tests)}, intervals exclude 0; {num_seeds} seeds)."
        )
    winner = best if status == "winner" else None
    return Verdict(status, best, winner, (best, *others), num_seeds, needed, sentence)


def quoted(*names: str) -> str:
    """Names of groups in a sentence: without quotes, "none wins" would say that there is no winner."""
    marked = [f"“{name}”" for name in names]
    return " and ".join([", ".join(marked[:-1]), marked[-1]] if len(marked) > 1 else marked)


def _tests(number: int) -> str:
    return "one test" if number == 1 else f"{number} tests"


def _find_pair(results: Sequence[ContrastResult], best: str, other: str) -> tuple[int, float]:
    """Index of the result that compares the two, and the sign that makes it best minus other."""
    for k, result in enumerate(results):
        weights = dict(result.contrast.weights)
        if set(weights) == {best, other} and abs(weights[best]) == 1:
            return k, weights[best]
    raise ValueError(f"no comparison of {best} and {other} among the results; pass head_pairs() of the groups")

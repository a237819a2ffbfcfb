"""What a family of comparisons says of its groups: which one wins, if any, and whether leakage changes that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biencoder_ablate.report.contrasts import ContrastResult, Group, common_seeds
from biencoder_ablate.report.read import Protocol
from biencoder_ablate.report.significance import ALPHA, holm, seeds_needed, sign_flip_p, smallest_p
from biencoder_ablate.report.study import Arms
from biencoder_ablate.seeding import generator

MOST_NAMED = 3  # pairs in a sentence; the table has all


@dataclass(frozen=True)
class Verdict:
    """`status` is winner, no_clear_winner or too_few_seeds; `best` has the highest mean, whatever that means.

    `not_told_apart` names `best` and every group that cannot be told apart from it.
    """

    status: str
    best: str
    not_told_apart: tuple[str, ...]
    sentence: str

    @property
    def winner(self) -> str | None:
        return self.best if self.status == "winner" else None


def verdict(groups: Sequence[Group], results: Sequence[ContrastResult]) -> Verdict:
    """Which group wins, if any: `results` are compare()'s, a family that holds every pair of the groups.

    A winner is higher than each other group with Holm p < ALPHA. Otherwise the best is
    named with all that cannot be told apart from it, which is not to say that they are equal. If its comparisons could
    not reach Holm p < ALPHA whatever the figures (p is at least 2/2^S), the verdict is too_few_seeds. The best is by
    mean over the seeds that all groups share, or, where there are none, over each group's own.
    """
    shared = common_seeds(groups)
    means = {group.name: float(group.at(shared or group.seeds).mean()) for group in groups}
    best = max(means, key=lambda name: means[name])
    num_tests, num_looks = results[0].num_tests, results[0].num_looks
    reachable = num_looks * holm([smallest_p(len(result.seeds)) for result in results])
    pairs: dict[str, tuple[int, float]] = {}  # other group → which result, and the sign that makes it best minus other
    for k, weights in enumerate(dict(result.contrast.weights) for result in results):
        pairs |= {other: (k, weights[best]) for other in weights if best in weights and other != best}
    assert set(pairs) == set(means) - {best}, "every pair of the groups must have been compared"
    tests = "one test" if num_tests == 1 else f"{num_tests} tests"
    tests += f" at each of {num_looks} looks" if num_looks > 1 else ""
    num_seeds = min(len(results[k].seeds) for k, _ in pairs.values())
    leads = {other: sign * results[k].estimate for other, (k, sign) in pairs.items()}
    others = tuple(other for other, (k, _) in pairs.items() if not (results[k].told_apart() and leads[other] > 0))
    if any(reachable[k] >= ALPHA for k, _ in pairs.values()):
        status = "too_few_seeds"
        own = "" if shared else ", each group over its own seeds"
        sentence = (
            f"Too few seeds to name a winner: with {num_seeds or 'no seed in common'}, the sign-flip test cannot reach "
            f"Holm p < {ALPHA:g} over {tests}; {seeds_needed(num_tests * num_looks)} are needed. "
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
        than = "each of the others by at least" if len(pairs) > 1 else f"{quoted(*pairs)} by"
        sentence = (
            f"{quoted(best)} wins: mean {means[best]:.3f}, higher than {than} {min(leads.values()):.3f} "
            f"(Holm p < {ALPHA:g} over {tests}; {num_seeds} seeds)."
        )
    return Verdict(status, best, (best, *others), sentence)


def quoted(*names: str) -> str:
    """Names of groups in a sentence: without quotes, "none wins" would say that there is no winner."""
    marked = [f"“{name}”" for name in names]
    return " and ".join([", ".join(marked[:-1]), marked[-1]] if len(marked) > 1 else marked)


# --- leakage ---


@dataclass(frozen=True)
class Shift:
    """How one pair's difference changes from the clean to the official figure, over seeds."""

    name: str
    clean: float
    official: float
    p: float
    p_holm: float

    @property
    def swaps(self) -> bool:
        """Whether the two change places."""
        return self.clean * self.official < 0


@dataclass(frozen=True)
class Leakage:
    """Do texts shared between the splits change who is best?"""

    shifts: tuple[Shift, ...]
    sentence: str


def leakage(arms: Arms, clean: Sequence[ContrastResult], official: Sequence[ContrastResult]) -> Leakage | None:
    """The order of the arms under both figures, and how the same pairs' differences shift between them.

    Over the seeds that all arms share; None where there are none.
    """
    if not arms.seeds:
        return None
    orders = {}  # from the best down
    for protocol in Protocol:
        means = arms.means(protocol)
        orders[protocol] = " > ".join(sorted(means, key=lambda name: -means[name]))
    p = []
    for a, b in zip(clean, official, strict=True):
        change = np.round(np.array([b.seed_estimates]) - np.array([a.seed_estimates]), 12)
        p.append(float(sign_flip_p(change, generator(0, "report", "leakage"))[0]))
    shifts = tuple(
        Shift(a.contrast.name, a.estimate, b.estimate, *both)
        for a, b, *both in zip(clean, official, p, holm(p).tolist(), strict=True)
    )
    pairs = [quoted(*(name for name, _ in result.contrast.weights)) for result in clean]
    swapped = [k for k, shift in enumerate(shifts) if shift.swaps]
    sure = [pairs[k] for k in swapped if clean[k].told_apart() or official[k].told_apart()]
    sentence = (
        "Texts shared between the splits do not change the order: under the official figure and the clean "
        f"one it is {orders[Protocol.CLEAN]}."
    )
    if swapped:
        of_all = f"All {len(pairs)}" if len(swapped) == len(pairs) else f"{len(swapped)} of the {len(pairs)}"
        few = len(swapped) <= MOST_NAMED
        which = "; ".join(pairs[k] for k in swapped) if few else f"{of_all} pairs"
        if not sure:
            tail = "neither figure can tell any of them apart, so that this may be chance"
        elif len(sure) == len(swapped):
            tail = f"{'each can' if len(sure) > 1 else 'they can'} be told apart under at least one figure"
        else:
            tail = f"of these, {'; '.join(sure)} can be told apart under at least one figure"
        sentence = (
            f"Texts shared between the splits change the order: it is {orders[Protocol.OFFICIAL]} by the official "
            f"figure and {orders[Protocol.CLEAN]} by the clean one. {which} change places; {tail}."
        )
    return Leakage(shifts, sentence)

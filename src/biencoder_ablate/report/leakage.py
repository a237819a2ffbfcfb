"""Do texts shared between the splits change who is best? The clean figure against the official one, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biencoder_ablate.report.balance import Arms
from biencoder_ablate.report.sign_flip import SignFlip, holm, sign_flip_test
from biencoder_ablate.report.statistics import ContrastResult
from biencoder_ablate.report.verdict import quoted
from biencoder_ablate.seeding import generator

MOST_NAMED = 3  # pairs in a sentence; the table has all


@dataclass(frozen=True)
class Shift:
    """How one pair's difference changes from the clean to the official figure, over seeds."""

    name: str
    clean: float
    official: float
    test: SignFlip
    p_holm: float

    @property
    def swaps(self) -> bool:
        """Whether the two change places."""
        return self.clean * self.official < 0


@dataclass(frozen=True)
class Leakage:
    """Do texts shared between the splits change who is best? Orders are from the best down."""

    clean_order: tuple[str, ...]
    official_order: tuple[str, ...]
    shifts: tuple[Shift, ...]
    sentence: str


def leakage(
    arms: Arms, clean: Sequence[ContrastResult], official: Sequence[ContrastResult], alpha: float
) -> Leakage | None:
    """The order of the arms under both figures, and how each pair's difference shifts between them.

    Over the seeds that all arms share; None where there are none. `clean` and `official` are the same pairs.
    """
    if not arms.seeds:
        return None
    orders = {}
    for protocol in ("clean", "official"):
        means = {group.name: float(group.at(arms.seeds).mean()) for group in arms.groups(protocol)}
        orders[protocol] = tuple(sorted(means, key=lambda name: -means[name]))
    tests = [
        sign_flip_test(np.round(np.subtract(b.seed_estimates, a.seed_estimates), 12), generator(0, "report", "leakage"))
        if a.seeds
        else SignFlip(1.0, True, 0)
        for a, b in zip(clean, official, strict=True)
    ]
    adjusted = holm([test.p for test in tests])
    shifts = tuple(
        Shift(a.contrast.name, a.estimate, b.estimate, test, float(p))
        for a, b, test, p in zip(clean, official, tests, adjusted, strict=True)
    )
    swapped = [k for k, shift in enumerate(shifts) if shift.swaps]
    sure = [k for k in swapped if clean[k].told_apart(alpha) or official[k].told_apart(alpha)]
    pairs = [quoted(*(name for name, _ in result.contrast.weights)) for result in clean]
    sentence = _sentence(orders, [pairs[k] for k in swapped], [pairs[k] for k in sure], len(pairs))
    return Leakage(orders["clean"], orders["official"], shifts, sentence)


def _sentence(orders: dict[str, tuple[str, ...]], swapped: list[str], sure: list[str], num_pairs: int) -> str:
    if not swapped:
        return (
            "Texts shared between the splits do not change the order: under the official figure and the clean "
            f"one it is {' > '.join(orders['clean'])}."
        )
    of_all = f"All {num_pairs}" if len(swapped) == num_pairs else f"{len(swapped)} of the {num_pairs}"
    which = "; ".join(swapped) if len(swapped) <= MOST_NAMED else f"{of_all} pairs"
    if not sure:
        tail = "neither figure can tell any of them apart, so that this may be chance"
    elif len(sure) == len(swapped):
        tail = f"{'each can' if len(sure) > 1 else 'they can'} be told apart under at least one figure"
    else:
        tail = f"of these, {'; '.join(sure)} can be told apart under at least one figure"
    return (
        f"Texts shared between the splits change the order: it is {' > '.join(orders['official'])} by the official "
        f"figure and {' > '.join(orders['clean'])} by the clean one. {which} change places; {tail}."
    )

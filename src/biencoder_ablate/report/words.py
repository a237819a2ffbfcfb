"""What a report calls what was asked: points, counters, debates on ArguAna; queries, answers, groups elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from biencoder_ablate.report.read import Run

DEBATES = ("arguana", "sample")  # corpora of points, each with its counter


@dataclass(frozen=True)
class Words:
    """The words for a query, its right answer, and a group of queries that are not independent."""

    query: str
    answer: str
    group: str

    def queries(self, number: int) -> str:
        """A number of queries: "1 query", "384 queries"."""
        return f"{number} {self.query if number == 1 else self.plural}"

    @property
    def plural(self) -> str:
        """Several queries."""
        return "queries" if self.query == "query" else f"{self.query}s"

    @property
    def groups(self) -> str:
        """Several groups."""
        return f"{self.group}s"


ARGUMENTS = Words("point", "counter", "debate")
TEXTS = Words("query", "answer", "group")


def words_of(runs: Sequence[Run]) -> Words:
    """The words for runs on one corpus, which their config names; without a config, of debates, as once all were."""
    names = set()
    for run in runs:
        if not run.result:  # another program's
            return TEXTS
        names.add((run.config.get("data") or {}).get("name", "arguana"))
    return ARGUMENTS if names <= set(DEBATES) else TEXTS

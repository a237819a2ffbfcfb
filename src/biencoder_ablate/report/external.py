"""Runs of any other program, read into the same records: a table of values a query, or TREC run files with qrels."""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from biencoder_ablate.data.tabular import list_columns, read_table
from biencoder_ablate.report.read import FINISHED, Collection, Metric, Outcomes, Protocol, Run

COLUMNS = ("system", "seed", "query", "value", "group", "baseline")
RUN_FILE = re.compile(r"(?P<system>.+?)(?:[._-]seed(?P<seed>\d+))?(?:\.(?:run|trec|txt))?")
YES = ("1", "true", "yes")
Values = Mapping[str, float]


def read_csv(paths: Sequence[Path], measure: str = "value") -> Collection:
    """Runs from tables, read as one, with the columns system, seed, query, value; optional group, baseline; others are
    factors.

    `value` is what a query scores, a hit (0 or 1) or any number, more being better, and `measure` its name in
    sentences. Queries of one `group` are not independent. `baseline` is 1 or yes in the rows of the one system that the
    others are compared with. A system without seeds (the cell empty) is the same beside each seed of the others. Any
    other column is a factor of the design, constant within a system; with factors, `system` may be left out. Raises
    ValueError naming the line where a cell will not do.
    """
    values: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)  # (system, seed) → query → value
    groups: dict[str, str] = {}
    factors: dict[str, dict[str, str]] = {}
    baselines: set[str] = set()
    notes: list[str] = []
    for path in paths:
        table = read_table(str(path), ".csv", path.read_bytes())
        named = [name for name in table.columns if name not in COLUMNS]
        lacking = [name for name in ("seed", "query", "value") if name not in table.columns]
        if lacking or not (named or "system" in table.columns):
            raise ValueError(
                f"{path}: no column {', '.join(lacking) or 'system'}; its first line must name the columns; found "
                f"{list_columns([*table.columns.values()])}; must have system (or factors), seed, query, value, may "
                "have group, baseline and factors"
            )
        notes += table.notes
        for line, row in table.rows:
            here = f"{path}, line {line}"
            told = {table.columns[name]: row[name].strip() for name in named}
            system = (row.get("system") or "").strip() or " ".join(f"{name}={level}" for name, level in told.items())
            query, seed = row["query"].strip(), row["seed"].strip()
            try:
                value = float(row["value"])
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise ValueError(f"{here}: value={row['value']}; must be a number")
            if seed and not seed.isdigit():
                raise ValueError(f"{here}: seed={seed}; must be a whole number, or empty for a system without seeds")
            if query in values[system, seed]:
                raise ValueError(f"{here}: query {query} again for system {system}, seed {seed or 'none'}")
            group = (row.get("group") or query).strip()
            if groups.setdefault(query, group) != group:
                raise ValueError(f"{here}: query {query} is of group {group} here and of {groups[query]} above")
            if factors.setdefault(system, told) != told:
                raise ValueError(f"{here}: system {system} has other factors than above; a factor belongs to a system")
            values[system, seed][query] = value
            if (row.get("baseline") or "").strip().lower() in YES:
                baselines.add(system)
    if len(baselines) > 1:
        raise ValueError(f"{paths[0]}: baseline is yes for {', '.join(sorted(baselines))}; one system can be it")
    place = Path(" + ".join(path.name for path in paths))
    collection = _collection(place, values, groups, factors, next(iter(baselines), None), measure)
    return replace(collection, notes=(*collection.notes, *notes))


def read_trec(place: Path, qrels: Path, metric: Metric, groups: Path | None = None) -> Collection:
    """Runs from a directory of TREC run files, one a system and seed (bm25.run, mine.seed0.run, mine.seed1.run), scored
    by `metric` against `qrels`.

    As trec_eval has it: by score, equal ones by document id from the last; a document is relevant from grade 1; nDCG's
    gain is the grade. Every query of the qrels that has a relevant document counts, with 0 where a run lacks it.
    `groups` is a file of query and group. Raises ValueError for a file that cannot be read so.
    """
    relevant: dict[str, dict[str, float]] = defaultdict(dict)
    for (query, _, document, _), grade in _lines(qrels, 4, number=3):
        if grade > 0:
            relevant[query][document] = grade
    if not relevant:
        raise ValueError(f"--qrels {qrels}: no relevant document in it; lines are: query 0 document grade")
    group_of = {query: query for query in relevant}
    if groups is not None:
        group_of |= {query: group for (query, group), _ in _lines(groups, 2) if query in relevant}
    values: dict[tuple[str, str], Values] = {}
    others = [path.resolve() for path in (qrels, groups) if path]
    for path in sorted(place.iterdir()):
        if path.name.startswith(".") or not path.is_file() or path.resolve() in others:
            continue
        ranked: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for (query, _, document, *_), score in _lines(path, 6, number=4):
            ranked[query].append((score, document))
        scores = {}
        for query, graded in relevant.items():
            found = sorted(ranked.get(query, ()))  # the best last, which stands for a document that is listed twice
            places = {document: float(len(found) - k) for k, (_, document) in enumerate(found)}
            ranks = [places.get(document, math.inf) for document in graded]
            answers = [(document, graded[document], rank, rank) for document, rank in zip(graded, ranks, strict=True)]
            over_all = metric.of_answers(answers)
            scores[query] = float(metric.of_ranks(np.array(min(ranks)))) if over_all is None else over_all
        named = RUN_FILE.fullmatch(path.name)
        assert named is not None, path
        values[named["system"], named["seed"] or ""] = scores
    if not values:
        raise ValueError(f"--from {place}: no run file in it; name them SYSTEM.run, or SYSTEM.seed0.run for each seed")
    return _collection(place, values, group_of, {}, None, metric.label)


def _lines(path: Path, num: int, number: int | None = None) -> Iterator[tuple[list[str], float]]:
    """The lines of a file of `num` columns, and what the column `number` holds, if one is named."""
    with path.open(encoding="utf-8") as file:
        for k, line in enumerate(file, start=1):
            cells = line.split()
            if cells and len(cells) != num:
                raise ValueError(f"{path}, line {k}: {len(cells)} columns; must be {num}, with spaces or tabs between")
            try:
                value = float(cells[number]) if cells and number is not None else 0.0
            except ValueError:
                raise ValueError(f"{path}, line {k}: {cells[number or 0]}; must be a number") from None
            if cells:
                yield cells, value


def _collection(
    place: Path,
    values: Mapping[tuple[str, str], Values],
    groups: Mapping[str, str],
    factors: Mapping[str, Mapping[str, str]],
    baseline: str | None,
    measure: str,
) -> Collection:
    """A Run for each system and seed; a system without seeds once for every seed that there is."""
    queries = tuple(groups)
    seeds = sorted({int(seed) for _, seed in values if seed}) or [0]
    fingerprint = hashlib.sha256("\n".join(queries).encode()).hexdigest()
    by_factors = {tuple(told.values()) for told in factors.values()}
    told_by_factors = len(by_factors) == len(factors) and any(by_factors) and len(factors) > 1
    runs, notes = [], []
    for (system, seed), scores in values.items():
        lacking = [query for query in queries if query not in scores]
        if lacking:
            raise ValueError(
                f"{place}: system {system}, seed {seed or 'none'} has no value of {len(lacking)} queries, {lacking[0]} "
                "the first; systems are compared on the same queries"
            )
        if not seed and len(seeds) > 1:
            notes.append(f"{system} has no seeds: it is the same beside each seed of the others.")
        row = np.array([scores[query] for query in queries])
        correct = {Protocol.OFFICIAL: row, Protocol.CLEAN: np.full(len(row), np.nan)}
        measured = Outcomes(queries, tuple(groups.values()), correct, ("",) * len(queries), measure)
        identity: dict[str, Any] = {"data": fingerprint, "results_version": 0, **(factors.get(system) or {})}
        if not told_by_factors:
            identity["system"] = system
        for one in [int(seed)] if seed else seeds:
            path = place / f"{system} seed {one}"
            config = {"data": {"name": place.name}}
            one_run = {**identity, "seed": one}
            runs.append(Run(path, FINISHED, "", one_run, config, measured=measured, baseline=system == baseline))
    return Collection(tuple(runs), (), tuple(notes))

"""Runs of any other program, read into the same records: a table of scores by query, or TREC run files with qrels."""

from __future__ import annotations

import ctypes
import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from biencoder_ablate.data.tabular import list_columns, read_table
from biencoder_ablate.report.read import FINISHED, NOTHING, WITHOUT, Collection, Metric, Outcomes, Protocol, Run
from biencoder_ablate.utils.console import excerpt, printable
from biencoder_ablate.utils.files import open_regular, read_given

COLUMNS = ("system", "seed", "query", "value", "group", "baseline", "measure")
RUN_FILE = re.compile(r"(?P<system>.+?)(?:[._-]seed(?P<seed>\d+))?(?:\.(?:run|trec|txt))?")
YES = ("1", "1.0", "true", "t", "yes", "y")  # 1.0 is pandas' 1 in a column with empty cells
NO = ("", "0", "0.0", "false", "f", "no", "n")
MAX_VALUE = 1e100  # a score's size: variances of larger ones overflow

RunKey = tuple[str, str]
"""A system, and the seed as a whole number without leading zeros; no seed is the empty text."""


def read_csv(paths: Sequence[Path], measure: str | None = None) -> Collection:
    """Runs from tables, which are read as one.

    The columns are system, seed, query and value, and optionally group, baseline and measure. `value` is what a query
    scores, a hit (0 or 1) or any number, more being better, and `measure` its name in sentences; without it the column
    `measure`, if all rows agree, names it. Queries of one `group` are not
    independent. `baseline` is 1 or yes in the rows of the one system that the others are compared with. A system
    without seeds (the cell empty) is the same beside each seed of the others. Any other column is a factor of the
    design, constant within a system; with factors, `system` may be left out.

    Raises ValueError naming the line where a cell is not valid, and for a system with rows with and without seeds.
    """
    tables = []
    notes: list[str] = []
    for path in paths:
        table = read_table(str(path), ".csv", read_given(path))
        notes += table.notes
        named = [name for name in table.columns if name not in COLUMNS]
        lacking = [name for name in ("seed", "query", "value") if name not in table.columns]
        if lacking or not (named or "system" in table.columns):
            raise ValueError(
                f"{path}: no column {', '.join(lacking) or 'system'}; its first line must name the columns; found "
                f"{list_columns([*table.columns.values()])}; must have system (or factors), seed, query, value, may "
                "have group, baseline, measure and factors"
            )
        tables.append((table.columns, _with_lines(path, table.rows)))
    place = Path(" + ".join(path.name for path in paths))
    collection = read_rows(place, tables, measure)
    return replace(collection, notes=(*collection.notes, *notes))


def _with_lines(path: Path, rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows, each with its file and line."""
    for line, row in rows:
        yield f"{printable(str(path))}, line {line}", row


def read_rows(
    place: Path,
    tables: Iterable[tuple[Mapping[str, str], Iterable[tuple[str, Mapping[str, str]]]]],
    measure: str | None = None,
) -> Collection:
    """Runs from tables, each its columns (name → as it was written) and its rows, each with where it stands.

    The columns are those of read_csv, which says what they mean and what is raised.
    """
    values: dict[RunKey, dict[str, float]] = defaultdict(dict)  # run → query → value
    sources: dict[RunKey, str] = {}  # run → where it begins
    groups: dict[str, str] = {}
    factors: dict[str, dict[str, str]] = {}
    baselines: set[str] = set()
    measures: set[str] = set()
    for columns, rows in tables:
        named = [name for name in columns if name not in COLUMNS]
        for here, row in rows:
            levels = {columns[name]: row[name].strip() for name in named}
            described = " ".join(f"{name}={level}" for name, level in levels.items())
            system = (row.get("system") or "").strip() or described

            # A system scores each query once per seed, and a query has one group.
            query = row["query"].strip()
            seed = _parse_seed(here, row["seed"].strip())
            if query in values[system, seed]:
                raise ValueError(
                    f"{here}: query {excerpt(query)} again for system {excerpt(system)}, seed {excerpt(seed) or 'none'}"
                )
            values[system, seed][query] = _parse_value(here, row["value"].strip())
            sources.setdefault((system, seed), here)
            _set_group(groups, here, query, (row.get("group") or query).strip())

            measures.add((row.get("measure") or "").strip())

            # Factors and the mark of the baseline belong to a system.
            usual = factors.setdefault(system, levels)
            if levels != usual:
                name = next(name for name in {**usual, **levels} if levels.get(name) != usual.get(name))
                shown = excerpt(name) or "a column without a name"
                raise ValueError(
                    f"{here}: system {excerpt(system)} has other factors than above, {shown} for one; a factor belongs "
                    "to a system"
                )
            is_baseline = (row.get("baseline") or "").strip().lower()
            if is_baseline in YES:
                baselines.add(system)
            elif is_baseline not in NO:
                raise ValueError(f"{here}: baseline={excerpt(row['baseline'])}; must be 1, true, yes or empty")
    if len(baselines) > 1:
        raise ValueError(f"{place}: baseline is yes for {list_columns(sorted(baselines))}; one system can be it")

    # A row that is not there is no score, unlike a query that a run file lacks.
    for (system, seed), scores in values.items():
        lacking = [query for query in groups if query not in scores]
        if lacking:
            run = f"system {excerpt(system)}, seed {excerpt(seed) or 'none'}"
            raise ValueError(
                f"{place}: {run} has no value of {len(lacking)} queries, {excerpt(lacking[0])} "
                "the first; systems are compared on the same queries"
            )
    return _collection(
        place,
        values,
        sources,
        groups,
        measure or (measures.pop() if len(measures) == 1 else "") or "value",
        factors,
        baselines,
    )


def _parse_seed(where: str, text: str) -> str:
    """A seed as a whole number, so that 7, 07 and 7.0 (as pandas writes it) are one; empty where there is none."""
    digits = text.removesuffix(".0")
    if text and not digits.isdecimal():
        raise ValueError(f"{where}: seed={excerpt(text)}; must be a whole number, or empty for a system without seeds")
    return str(int(digits)) if text else ""


def _parse_value(where: str, text: str) -> float:
    """What a query scores; true and false, as pandas writes hits, are 1 and 0."""
    hits = {"true": "1", "false": "0"}
    value = _parse_number(hits.get(text.lower(), text))
    if math.isnan(value) or abs(value) > MAX_VALUE:
        raise ValueError(f"{where}: value={excerpt(text)}; must be a number")
    return value


def _parse_number(text: str) -> float:
    """A finite number, or nan for whatever else a text may be."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _set_group(groups: dict[str, str], where: str, query: str, group: str) -> None:
    usual = groups.setdefault(query, group)
    if usual != group:
        raise ValueError(
            f"{where}: query {excerpt(query)} is of group {excerpt(group)} here and of {excerpt(usual)} above"
        )


def read_trec(place: Path, qrels: Path, metric: Metric, groups: Path | None = None) -> Collection:
    """Runs from a directory of TREC run files, one per system and seed (bm25.run, mine.seed0.run, mine.seed1.run).

    They are scored by `metric` against `qrels` as trec_eval does it (trec_eval -c): by score in single precision, equal
    ones by document id from the last; a document is relevant from grade 1; nDCG's gain is the grade. Every query of the
    qrels that has a relevant document counts; one that a run lacks scores 0, and the outcomes say how many those are.
    `groups` is a file of query and group, for all of these queries.

    Raises ValueError for a file that is not UTF-8 or not of that form, a score that is not a finite number, a grade
    that is not a whole number, contradicting judgements or groups, a system that has a seed twice or run files with and
    without seeds, and a run that answers none of the queries.
    """
    relevant = _read_qrels(qrels)
    group_of = {query: query for query in relevant}
    if groups is not None:
        group_of = _read_groups(groups, relevant)

    values: dict[RunKey, dict[str, float]] = {}
    sources: dict[RunKey, str] = {}
    given = [path.resolve() for path in (qrels, groups) if path]
    for path in sorted(place.iterdir()):
        if path.name.startswith(".") or not path.is_file() or path.resolve() in given:
            continue
        name = RUN_FILE.fullmatch(path.name)
        if name is None:
            raise ValueError(
                f"--from {place}: {path.name!r} names no run; name run files SYSTEM.run or SYSTEM.seed0.run"
            )
        system = name["system"]
        seed = str(int(name["seed"])) if name["seed"] else ""
        run = system, seed
        if run in sources:
            twice = f"seed {seed} twice" if seed else "two run files without a seed"
            both = printable(f"{sources[run]}, {path.name}")
            raise ValueError(f"--from {place}: system {excerpt(system)} has {twice} ({both})")

        # Queries that nobody judged are left out, as trec_eval does it.
        rankings = _read_run(path)
        scores = {}
        for query, graded in relevant.items():
            if query in rankings:
                scores[query] = _score(graded, rankings[query], metric)
        if not scores:
            raise ValueError(
                f"{printable(str(path))}: has none of the {len(relevant)} queries of --qrels {qrels} that have a "
                "relevant document; the two must name queries alike"
            )
        values[run] = scores
        sources[run] = path.name
    if not values:
        raise ValueError(f"--from {place}: no run file in it; name them SYSTEM.run, or SYSTEM.seed0.run for each seed")
    return _collection(place, values, sources, group_of, metric.label)


def _read_qrels(path: Path) -> dict[str, dict[str, float]]:
    """The grades of the relevant documents of each query, from lines of query, 0, document, grade."""
    judged: dict[tuple[str, str], float] = {}
    relevant: dict[str, dict[str, float]] = defaultdict(dict)
    for where, (query, _, document, text) in _lines(path, 4):
        grade = _parse_number(text)
        if not grade.is_integer():
            raise ValueError(f"{where}: grade {excerpt(text)}; must be a whole number")
        usual = judged.setdefault((query, document), grade)
        if usual != grade:
            pair = f"document {excerpt(document)} of query {excerpt(query)}"
            raise ValueError(f"{where}: {pair} is judged {grade:g} here and {usual:g} above")
        if grade > 0:
            relevant[query][document] = grade
    if not relevant:
        raise ValueError(f"--qrels {path}: no relevant document in it; lines are: query 0 document grade")
    return relevant


def _read_groups(path: Path, relevant: Mapping[str, object]) -> dict[str, str]:
    """The group of each query that counts, from lines of query and group."""
    named: dict[str, str] = {}
    for where, (query, group) in _lines(path, 2):
        _set_group(named, where, query, group)

    # A query without a group would pass for an independent one.
    lacking = [query for query in relevant if query not in named]
    if lacking:
        raise ValueError(
            f"--groups {path}: no group of {len(lacking)} of the {len(relevant)} queries, {excerpt(lacking[0])} the "
            "first; must name one for every query of the qrels"
        )
    return {query: named[query] for query in relevant}


def _read_run(path: Path) -> dict[str, dict[str, float]]:
    """The rank of each document, from 1, by query, from lines of query, Q0, document, rank, score, tag."""
    scored: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for where, (query, _, document, _, text, _) in _lines(path, 6):
        score = _parse_number(text)
        if math.isnan(score):
            raise ValueError(f"{where}: score {excerpt(text)}; must be a number")
        single = ctypes.c_float(score).value  # as trec_eval keeps it: what differs beyond that is a tie
        scored[query].append((single, document))

    rankings = {}
    for query, documents in scored.items():
        documents.sort()
        # From the last document up, so that the best place stands for one that is listed twice.
        ranks = {}
        for k, (_, document) in enumerate(documents):
            ranks[document] = float(len(documents) - k)
        rankings[query] = ranks
    return rankings


def _score(graded: Mapping[str, float], ranks: Mapping[str, float], metric: Metric) -> float:
    """What a query scores whose relevant documents have these grades, in a ranking with these ranks."""
    answers = []
    for document, grade in graded.items():
        rank = ranks.get(document, math.inf)
        answers.append((document, grade, rank, rank))
    over_all = metric.of_answers(answers)
    if over_all is not None:
        return over_all
    best = min(rank for _, _, rank, _ in answers)
    return float(metric.of_ranks(np.array(best)))


def _lines(path: Path, num_columns: int) -> Iterator[tuple[str, list[str]]]:
    """The lines of a file that are not empty, as cells between blanks, each with where it stands."""
    open_regular(path).close()
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                cells = line.split()
                where = f"{printable(str(path))}, line {number}"
                if cells and len(cells) != num_columns:
                    raise ValueError(
                        f"{where}: {len(cells)} columns; must be {num_columns}, with spaces or tabs between"
                    )
                if cells:
                    yield where, cells
        except UnicodeDecodeError as error:
            raise ValueError(f"{printable(str(path))}: not UTF-8 ({error.reason}); save it as UTF-8") from error


def _collection(
    place: Path,
    values: Mapping[RunKey, Mapping[str, float]],
    sources: Mapping[RunKey, str],
    groups: Mapping[str, str],
    measure: str,
    factors: Mapping[str, Mapping[str, str]] | None = None,
    baselines: Container[str] = (),
) -> Collection:
    """A Run for each system and seed; a system without seeds once for every seed that there is."""
    # Where a table beside others has no factors, or others, the systems are what is compared.
    factors = factors or {}
    if len({frozenset(levels) for levels in factors.values()}) > 1:
        factors = {}
    queries = tuple(groups)
    fingerprint = hashlib.sha256("\n".join(queries).encode()).hexdigest()
    seeds = sorted({int(seed) for _, seed in values if seed}) or [0]

    # Where factors tell all systems apart, the system is no axis beside them.
    designs = {tuple(levels.values()) for levels in factors.values()}
    is_design = len(designs) == len(factors) > 1 and any(designs)

    runs, notes = [], []
    for (system, seed), scores in values.items():
        if seed and (system, "") in values:
            both = printable(f"{sources[system, '']}, {sources[system, seed]}")
            raise ValueError(f"{place}: system {excerpt(system)} has runs with and without seeds ({both})")
        if not seed and len(seeds) > 1:
            notes.append(f"{system} has no seeds: it is the same beside each seed of the others.")

        # Every point counts as official; what is clean, other programs do not say.
        row = np.array([scores.get(query, 0.0) for query in queries])
        measured = Outcomes(
            queries,
            tuple(groups.values()),
            {Protocol.OFFICIAL: row, Protocol.CLEAN: np.full(len(row), np.nan)},
            ("",) * len(queries),
            measure,
            num_missing=len(queries) - len(scores),
        )
        identity: dict[str, Any] = {
            "data": fingerprint,
            "results_version": 0,
            **factors.get(system, {}),
        }
        if not is_design:
            identity["system"] = system

        # One without seeds stands beside each seed of the others.
        for number in [int(seed)] if seed else seeds:
            run = Run(
                place / f"{system} seed {number}",
                FINISHED,
                identity={**identity, "seed": number},
                config={"data": {"name": place.name}},
                measured=measured,
                baseline=system in baselines or identity.get(WITHOUT) == NOTHING,
            )
            runs.append(run)
    return Collection(tuple(runs), (), tuple(notes))

"""`biencoder-ablate audit data=…`: duplicates, leakage of texts and pairs, lengths and candidates of a corpus.

T distinct strings of the corpus, E pairs of near duplicates. A text is what its key says (equal after folding case,
space and punctuation); several strings may spell it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biencoder_ablate.data.candidate_choice import resolve_candidates
from biencoder_ablate.data.corpus import SPLITS, Corpus
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.data.tabular import SUFFIXES
from biencoder_ablate.data.text_table import SplitArrays, TextTable, build_table, clean_queries
from biencoder_ablate.data.words import split_words
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.evaluation.lexical import count_terms
from biencoder_ablate.evaluation.overlap import (
    CEILING_AT,
    count_copies,
    count_seen,
    seen_in,
    seen_in_corpus,
    text_ceilings,
)
from biencoder_ablate.utils.arrays import take_rows
from biencoder_ablate.utils.command import add_json_option, print_json, run_command
from biencoder_ablate.utils.console import printable, show, text_table
from biencoder_ablate.utils.files import replace_nonfinite

if TYPE_CHECKING:
    from biencoder_ablate.config import Config

SHINGLE_WORDS = 5
JACCARD = (4, 5)
"""The least share of shingles in common, as a fraction so that counting stays exact."""
SPLIT_PAIRS = (("train", "val"), ("train", "test"), ("val", "test"))
SEEN_BEFORE = {
    "train_val": ("train",),
    "train_test": ("train",),
    "val_test": ("val",),
    "train_or_val_test": ("train", "val"),
}
"""Whose pairs a later split may have, by the name in the report: the splits before, then the later one."""
_TEXTS_AT_ONCE = 512
"""How many texts are compared with all others at a time, which bounds the memory."""
_ROWS_AT_ONCE = 256
"""How many queries have their candidates counted at a time."""
_THEME_WIDTH = 30
_CANDIDATE_KINDS = {
    "debate_same_counter": "sdoc",
    "debate_other_counter": "sdc",
    "debate_other_point": "sdoa",
    "debate_same_point": "sda",
    "theme_counter": "stc",
    "theme_point": "sta",
    "portal_counter": "epc",
    "portal_point": "epa",
}
"""By kind of candidate the task that admits it, and none before it."""
_BOTH_KINDS = 10
"""All texts are suggested as candidates where one text in so many that ask answers too."""
_MOST_THEMES = 15
"""A table of more themes is left to --json."""
_SIZES = {
    "num_pairs": "pairs",
    "num_incomplete": "incomplete points, left out",
    "num_themes": "themes",
    "num_debates": "debates",
    "num_distinct_pairs": "distinct pairs",
    "num_queries": "points asked",
    "num_right_mean": "right answers a point, mean",
    "num_right_max": "right answers a point, most",
    "num_points_clean": "points in clean figures",
    "num_documents": "documents, candidates of every point",
    "num_documents_repeated": "repetitions of a document",
    "num_distinct_texts": "distinct texts",
    "num_ask_and_answer": "texts that ask and answer",
    "num_distinct_strings": "distinct strings",
    "num_exact_duplicates": "repetitions of a text",
    "num_near_duplicates": "texts with a near duplicate",
    "num_near_duplicate_pairs": "near-duplicate pairs",
    "copies.copied": "points with a copy as a candidate",
    "copies.equal": "points with an equal candidate",
    "copies.answers_missing": "right answers that are no candidate",
    "ceilings.top1": "highest top-1 that texts allow",
    f"ceilings.recall@{CEILING_AT}": f"highest recall@{CEILING_AT} that texts allow",
    "words.mean": "words a text, mean",
    "words.median": "words a text, median",
    "words.p95": "words a text, 95th percentile",
    "words.max": "words a text, longest",
    "tokens.mean": "tokens a text, mean",
    "tokens.median": "tokens a text, median",
    "tokens.p95": "tokens a text, 95th percentile",
    "tokens.max": "tokens a text, longest",
    "tokens.share_truncated": "texts truncated",
}
_IF_ANY = {"num_incomplete", "num_documents", "num_documents_repeated", "copies.answers_missing"}
"""Sizes without a row where every split has 0."""
_CANDIDATES = {
    "candidates.true": "right answers",
    "candidates.answer": "other answers",
    "candidates.document": "other documents",
    "candidates.debate_same_counter": "same debate and stance, counters",
    "candidates.debate_other_counter": "same debate, other stance, counters",
    "candidates.debate_same_point": "same debate and stance, points",
    "candidates.debate_other_point": "same debate, other stance, points",
    "candidates.theme_counter": "same theme, other debate, counters",
    "candidates.theme_point": "same theme, other debate, points",
    "candidates.portal_counter": "another theme, counters",
    "candidates.portal_point": "another theme, points",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the audit as tables, or as JSON; returns the exit code (1 with one message for what is wrong)."""
    return run_command(_parser(), argv, _audit_and_print)


def _audit_and_print(arguments: argparse.Namespace) -> None:
    report = audit(arguments.overrides, arguments.against)
    if arguments.json:
        print_json(report)
        return

    show(describe(report))
    show(f"\ntokens: {report['tokenizer']['note']}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="biencoder-ablate audit",
        description="What to know of a corpus before training on it: pairs, duplicates inside a split, texts shared "
        "between splits, lengths, and how many candidates of each kind a point has.",
        epilog="Example: biencoder-ablate audit data=arguana data.path=arguana-counterargs-corpus.zip model=minilm",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="as for training: data=…, data.path=…, data.disjoint=true; model=… for lengths in tokens",
    )
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="FILE",
        help="another model's training data, as a table, a BEIR folder or a data set of the hub, or as settings in "
        'quotes ("data.path=… data.point=… data.counter=…"): which pairs and texts of each split it has; may be given '
        "several times",
    )
    add_json_option(parser)
    return parser


def audit(overrides: Sequence[str], against: Sequence[str] = ()) -> dict[str, Any]:
    """The audit of the corpus that the overrides name, as `audit_corpus` gives it, and its tokenizer.

    `against`: what else a model may have been trained on, as --against takes it: under "against" what it has of each
    split. Raises ValueErrors that name the key or file.
    """
    from biencoder_ablate.config.compose import load_config

    config = load_config(overrides)
    corpus = load_corpus(config.data)
    table = build_table(corpus)
    lengths, note = token_lengths(config, table)
    among = resolve_candidates(config, corpus).evaluation.candidates
    report = audit_corpus(corpus, table, lengths, config.model.max_tokens, among)
    report["tokenizer"] = {
        "model": config.model.name_or_path or config.model.name,
        "max_tokens": config.model.max_tokens,
        "note": note,
    }
    report["against"] = {named: _count_against(read_collection(named), table) for named in against}
    return report


def read_collection(named: str) -> Corpus:
    """The pairs of a file or folder, or of settings in one string, read as the group `data` reads them.

    Raises ValueErrors that name the key or file.
    """
    from biencoder_ablate.config.compose import load_config

    words = shlex.split(named)
    if any(word.startswith("data.path=") for word in words):
        kinds = [word for word in words if word.startswith("data=")]
        path = next(word.partition("=")[2] for word in words if word.startswith("data.path="))
        return load_corpus(load_config([*(kinds or [f"data={_kind_of_data(path)}"]), *words]).data)
    # Hydra reads a value in double quotes as it stands, but for a quotation mark, which a backslash keeps.
    quoted = named.replace('"', '\\"')
    return load_corpus(load_config([f"data={_kind_of_data(named)}", f'data.path="{quoted}"']).data)


def _kind_of_data(named: str) -> str:
    """Which reader is for a file or folder, by what it looks like; a data set of the hub where there is none."""
    path = Path(named).expanduser()
    if (path / "corpus.jsonl").exists():
        return "beir"
    if path.suffix.lower() == ".zip" or (path / "training").is_dir() or (path / "02-extracted-arguments").is_dir():
        return "arguana"
    return "pairs" if path.suffix.lower() in SUFFIXES else "hub"


def _count_against(collection: Corpus, table: TextTable) -> dict[str, Any]:
    """What a collection has of each split, and how large it is."""
    seen = seen_in_corpus(collection, table)
    counts = {name: count_seen(split, seen) for name, split in table.splits.items()}
    return {"num_distinct_pairs": len(seen.keys), "num_distinct_texts": len(seen.texts), "splits": counts}


def token_lengths(config: Config, table: TextTable) -> tuple[np.ndarray | None, str]:
    """Length in tokens of each string of the table (T,), [CLS] and [SEP] included, and how they were had.

    None, with the reason, where the model has no files here: an audit is of the data, and goes on without.
    """
    from biencoder_ablate.config.schema import ConfigError, cache_directory
    from biencoder_ablate.encoder.pretrained import find_model, load_tokenizer
    from biencoder_ablate.encoder.tokens import cached_tokens

    limit, cache = config.model.max_tokens, cache_directory(config)
    try:
        source = find_model(config.model, cache)
        tokenizer = load_tokenizer(source.directory, limit)
    except ConfigError as error:
        return None, f"none, for lack of a tokenizer ({error})"
    tokens = cached_tokens(tokenizer, source.fingerprint, table.texts, limit, cache)
    return tokens.full_lengths, f"of {source.name}, cut at {limit}"


def audit_corpus(
    corpus: Corpus,
    table: TextTable,
    token_lengths: np.ndarray | None = None,
    max_tokens: int | None = None,
    among: str | None = None,
) -> dict[str, Any]:
    """The report on the pairs in use (with data.limit or data.disjoint, those that are left).

    token_lengths (T,): of every string of the table, before cutting at max_tokens; without them the report has no token
    lengths. `among`: what is ranked, as for `build_task`.
    """
    if among is None:
        among = "answers" if corpus.documents else corpus.candidates
    # The first string that spells each distinct text; near duplicates and lengths are of these.
    strings = np.unique(table.keys, return_index=True)[1]
    near = near_duplicates([table.texts[row] for row in strings])
    words = np.array([len(split_words(text)) for text in table.texts], dtype=np.int64)

    keys: dict[str, np.ndarray] = {}
    reports: dict[str, Any] = {}
    for name, split in table.splits.items():
        keys[name] = np.unique(np.concatenate([split.point_key, split.counter_key]))
        report = _sizes(corpus, split)
        num_points = report["num_pairs" if corpus.asks_pairs else "num_queries"]
        report["num_exact_duplicates"] = report["num_pairs"] + num_points - report["num_distinct_texts"]
        # A pair of near duplicates belongs to a split that has both.
        both_here = np.isin(near, keys[name]).all(axis=1)
        report["num_near_duplicates"] = len(np.unique(near[both_here]))
        report["num_near_duplicate_pairs"] = int(both_here.sum())
        report["num_ask_and_answer"] = len(_asking_and_answering([split]))
        report["candidates"] = candidate_totals(split, among)
        # Each distinct text counts once, however often it is there or is spelled.
        rows = strings[keys[name]]
        task = build_task(split, among)
        report["copies"] = count_copies(task)
        report["ceilings"] = replace_nonfinite(text_ceilings(task))
        report["words"] = _length_statistics(words[rows])
        report["tokens"] = None if token_lengths is None else _length_statistics(token_lengths[rows], max_tokens)
        report["themes"] = _themes(corpus, split)
        reports[name] = report

    shared, near_shared = {}, {}
    for earlier, later in SPLIT_PAIRS:
        shared[f"{earlier}_{later}"] = len(np.intersect1d(keys[earlier], keys[later]))
        near_shared[f"{earlier}_{later}"] = _num_near_shared(near, keys[earlier], keys[later])
    shared_pairs = {}
    for name, earlier_splits in SEEN_BEFORE.items():
        later_split = table.splits[name.rpartition("_")[2]]
        shared_pairs[name] = count_seen(later_split, seen_in(table.splits[earlier] for earlier in earlier_splits), near)
    return {
        "name": corpus.name,
        "asks_pairs": corpus.asks_pairs,
        "fingerprint": corpus.fingerprint,
        "notes": list(corpus.notes),
        "splits": reports,
        "candidates": _candidate_choice(list(table.splits.values()), among),
        "shared_pairs": shared_pairs,
        "shared_texts": shared,
        "near_shared_texts": near_shared,
        "near_duplicates": {"shingle_words": SHINGLE_WORDS, "jaccard": JACCARD[0] / JACCARD[1]},
    }


def _asking_and_answering(splits: Sequence[SplitArrays]) -> np.ndarray:
    """Keys of the texts that ask in one of the splits and may be ranked in one of them: as counters of any grade, or as
    documents."""
    asking = np.concatenate([split.point_key for split in splits])
    ranked = [split.counter_key if split.documents is None else split.documents.key for split in splits]
    return np.intersect1d(asking, np.concatenate(ranked))


def _candidate_choice(splits: Sequence[SplitArrays], among: str) -> dict[str, Any]:
    """How many texts both ask and answer in all splits together, which candidates that suggests, and which are in
    force. Where hardly a text that asks answers anything, ranking those that ask mostly tests telling the two apart."""
    num_asking = len(np.unique(np.concatenate([split.point_key for split in splits])))
    num_both = len(_asking_and_answering(splits))
    do_both = num_both * _BOTH_KINDS >= num_asking and splits[0].documents is None
    return {
        "num_ask": num_asking,
        "num_ask_and_answer": num_both,
        "suggested": "all" if do_both else "answers",
        "in_force": among,
    }


def _sizes(corpus: Corpus, split: SplitArrays) -> dict[str, Any]:
    """How many there are of everything that is counted in a split."""
    num_documents = num_distinct_documents = 0
    if split.documents is not None:
        num_documents = len(split.documents.ids)
        num_distinct_documents = len(np.unique(split.documents.key))

    # The right answers of each query, those equal after folding once.
    answers = np.stack([split.query, split.counter_key])[:, split.grade > 0]
    queries = np.unique(answers, axis=1)[0] if answers.size else answers[0]
    num_right = np.unique(queries, return_counts=True)[1]
    return {
        "num_pairs": len(split),
        "num_incomplete": sum(num for (name, _), num in corpus.incomplete.items() if name == split.name),
        "num_themes": len(np.unique(split.theme)),
        "num_debates": len(np.unique(split.debate)),
        "num_distinct_texts": _num_distinct(split.point_key, split.counter_key),
        "num_distinct_strings": _num_distinct(split.point, split.counter),
        "num_distinct_pairs": np.unique(np.stack([split.point_key, split.counter_key]), axis=1).shape[1],
        "num_queries": len(num_right),
        "num_documents": num_documents,
        "num_documents_repeated": num_documents - num_distinct_documents,
        "num_right_mean": float(num_right.mean()) if len(num_right) else 0.0,
        "num_right_max": int(num_right.max(initial=0)),
        "num_points_clean": int(clean_queries(split).sum()),
    }


def _num_distinct(points: np.ndarray, counters: np.ndarray) -> int:
    return len(np.unique(np.concatenate([points, counters])))


def _themes(corpus: Corpus, split: SplitArrays) -> dict[str, dict[str, int]]:
    """By theme, in alphabetical order; a theme may have nothing but incomplete points."""
    theme_of_pair = np.array([pair.theme for pair in split.pairs])
    incomplete = {theme: num for (name, theme), num in corpus.incomplete.items() if name == split.name}
    themes = {}
    for theme in sorted({*theme_of_pair.tolist(), *incomplete}):
        rows = np.flatnonzero(theme_of_pair == theme)
        themes[theme] = {
            "num_pairs": len(rows),
            "num_incomplete": incomplete.get(theme, 0),
            "num_debates": len(np.unique(split.debate[rows])),
            "num_distinct_texts": _num_distinct(split.point_key[rows], split.counter_key[rows]),
        }
    return themes


def candidate_totals(split: SplitArrays, among: str | None = None) -> dict[str, int]:
    """How many candidates of each disjoint kind `official` offers, summed over the queries of a split: the right ones
    ("true"), and the others by where they are filed; where there are no tasks only how many ("document", "answer")."""
    task = build_task(split, among)
    kinds = {kind: name for kind, name in _CANDIDATE_KINDS.items() if name in task.tasks}
    if not kinds:
        kinds = {"answer" if split.documents is None else "document": "official"}
    totals = {"true": len(task.reachable[0])} | dict.fromkeys(kinds, 0)
    masks = dict(zip(task.tasks, task.sets(task.tasks)[2:], strict=True))

    for start in range(0, len(task), _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(task)))
        left = np.ones((len(rows), len(task.candidates)), dtype=bool)
        # Neither what official leaves out nor the right answers.
        left[take_rows(rows, task.official)] = False
        left[take_rows(rows, task.reachable)] = False
        # Each kind has what its task admits of what no earlier kind has.
        for kind, name in kinds.items():
            admitted = masks[name].admitted if name in masks else None
            of_kind = left & admitted(rows) if admitted else left.copy()
            totals[kind] += int(of_kind.sum())
            left &= ~of_kind
    return totals


def _num_near_shared(near: np.ndarray, earlier: np.ndarray, later: np.ndarray) -> int:
    """Distinct texts of `later` that are not in `earlier` but have a near duplicate there."""
    # Texts in both are equal, and counted as that.
    new = np.setdiff1d(later, earlier)
    both_ways = np.concatenate([near, near[:, ::-1]])
    is_shared = np.isin(both_ways[:, 0], new) & np.isin(both_ways[:, 1], earlier)
    return len(np.unique(both_ways[is_shared, 0]))


def _length_statistics(lengths: np.ndarray, limit: int | None = None) -> dict[str, float]:
    """How long texts are, and with a limit how many are cut at it; zeros where there are none."""
    if not len(lengths):
        lengths = np.zeros(1, dtype=np.int64)
    shortest, median, p95, longest = np.percentile(lengths, [0, 50, 95, 100]).tolist()
    statistics = {
        "min": int(shortest),
        "mean": float(lengths.mean()),
        "median": median,
        "p95": p95,
        "max": int(longest),
    }
    if limit is not None:
        truncated = lengths > limit
        statistics["num_truncated"] = int(truncated.sum())
        statistics["share_truncated"] = float(truncated.mean())
    return statistics


def near_duplicates(texts: Sequence[str]) -> np.ndarray:
    """All pairs (E, 2), i < j, of texts that are near duplicates, in order: of their shingles, SHINGLE_WORDS words in a
    row, at least the share JACCARD is common to both (Broder 1997, "On the resemblance and containment of documents").

    Equal sets of shingles count, so give each text once.
    """
    shingles = []
    for text in texts:
        words = split_words(text.casefold())
        num = max(1, len(words) - SHINGLE_WORDS + 1) if words else 0  # a short text is one shingle
        shingles.append({" ".join(words[place : place + SHINGLE_WORDS]) for place in range(num)})

    # What two texts share is counted by a product of sparse matrices, texts x shingles.
    has = count_terms(shingles)
    sizes = np.array([len(of_text) for of_text in shingles], dtype=np.int64)
    part, whole = JACCARD
    found = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        common = (has[start : start + _TEXTS_AT_ONCE] @ has.T).tocoo()
        pairs = np.stack([common.row + start, common.col], axis=1)
        union = sizes[pairs].sum(axis=1) - common.data
        is_near = whole * common.data >= part * union
        found.append(pairs[is_near & (pairs[:, 0] < pairs[:, 1])])
    return np.unique(np.concatenate(found), axis=0)


def describe(report: Mapping[str, Any]) -> str:
    """The report as tables for a person, at most 80 columns wide: splits, candidates, what splits share, themes."""
    splits = report["splits"]
    shared = []
    for earlier, later in SPLIT_PAIRS:
        equal = report["shared_texts"][f"{earlier}_{later}"]
        near = report["near_shared_texts"][f"{earlier}_{later}"]
        total = splits[later]["num_distinct_texts"]
        title = f"{later} texts also in {earlier}"
        shared.append([title, str(total), str(equal), f"{equal / max(1, total):.1%}", str(near)])
    near_duplicate = report["near_duplicates"]
    themes = set().union(*(splits[name]["themes"] for name in SPLITS))
    lines = [
        f"corpus {report['name']}, fingerprint {report['fingerprint'][:12]}",
        *report["notes"],
        "",
        text_table(["", *SPLITS], _rows(splits, _SIZES)),
        "",
        text_table(["candidates, summed over points", *SPLITS], _rows(splits, _CANDIDATES)),
        *_choice_lines(report),
        "",
        text_table(["texts in two splits", "distinct", "equal", "share", "near duplicates besides"], shared),
        f"near duplicate: Jaccard of word {near_duplicate['shingle_words']}-grams at least {near_duplicate['jaccard']}",
        *_leak_lines(report),
        "",
        _pair_table("pairs also in", _pairs_in_two_splits(report)),
        *_against_lines(report),
    ]
    if 1 < len(themes) <= _MOST_THEMES:
        lines += ["", _theme_table(splits)]
    elif len(themes) > 1:
        lines += ["", f"{len(themes)} themes, listed by --json"]
    return "\n".join(lines)


_PAIR_COLUMNS = {
    "num_pairs": "pairs",
    "exact": "same",
    "folded": "equal",
    "near": "near",
    "point": "point",
    "counter": "counter",
}
"""What is counted of pairs that have been seen, by its heading."""


def _pairs_in_two_splits(report: Mapping[str, Any]) -> dict[str, Mapping[str, int]]:
    """The counts by the title of their row."""
    titles = {}
    for name, counts in report["shared_pairs"].items():
        earlier, _, later = name.rpartition("_")
        titles[f"{later} in {earlier.replace('_', ' ')}"] = counts
    return titles


def _pair_table(title: str, counts_by_row: Mapping[str, Mapping[str, int]]) -> str:
    """Pairs that have been seen with their answers, and those of which a text has been seen."""
    rows = []
    for row, counts in counts_by_row.items():
        share = counts["folded"] / max(1, counts["num_pairs"])
        rows.append([row, *(str(counts[key]) for key in _PAIR_COLUMNS), f"{share:.1%}"])
    return text_table([title, *_PAIR_COLUMNS.values(), "share equal"], rows)


def _against_lines(report: Mapping[str, Any]) -> list[str]:
    """What other collections have of each split."""
    lines = []
    for named, collection in report.get("against", {}).items():
        by_split = {f"{name} pairs": counts for name, counts in collection["splits"].items()}
        size = f"{collection['num_distinct_pairs']} distinct pairs, {collection['num_distinct_texts']} distinct texts"
        lines += ["", f"against {printable(named)}: {size}", _pair_table("pairs that it has", by_split)]
    return lines


def _choice_lines(report: Mapping[str, Any]) -> list[str]:
    """Which candidates the corpus suggests, and which are in force."""
    choice = report["candidates"]
    both, asking = choice["num_ask_and_answer"], choice["num_ask"]
    in_force, suggested = choice["in_force"], choice["suggested"]
    lines = [f"{both} of {asking} distinct texts that ask answer too"]
    if any(report["splits"][name]["num_documents"] for name in SPLITS):
        return [*lines, "ranked: the documents"]
    why = " (as published)" if report["asks_pairs"] and in_force == "all" else ""
    lines.append(f"that suggests evaluation.candidates={suggested}; in force: {in_force}{why}")
    return lines


def _leak_lines(report: Mapping[str, Any]) -> list[str]:
    """What to do about texts that splits share; nothing where they share none."""
    num_equal = sum(report["shared_texts"].values())
    num_near = sum(report["near_shared_texts"].values())
    lines = []
    if num_equal:
        lines.append("equal texts: not in clean figures; data.disjoint=true drops them from training")
    leaked = report["shared_pairs"]["train_or_val_test"]
    if leaked["folded"]:
        share = leaked["folded"] / leaked["num_pairs"]
        lines.append(f"{share:.1%} of the test pairs are pairs of train or val, with the same answers")
    if num_near:
        lines.append("near duplicates count in clean figures: put what belongs together in one split")
    return lines


def _rows(splits: Mapping[str, Any], titles: Mapping[str, str]) -> list[list[str]]:
    """A row for each number, named by its place in a split's report; none where there is no such number."""
    rows = []
    for place, title in titles.items():
        # "words.mean" is the number `mean` of the group `words`.
        group, _, key = place.rpartition(".")
        reports = [splits[name][group] if group else splits[name] for name in SPLITS]
        if None in reports or not all(key in report for report in reports):
            continue
        may_be_left_out = place in _IF_ANY or group == "candidates"
        if may_be_left_out and not any(report[key] for report in reports):
            continue
        style = ".0f"
        if key.startswith("share"):
            style = ".1%"
        elif key == "num_right_mean":
            style = ".2f"
        elif group == "ceilings":
            style = ".3f"
        numbers = (report[key] for report in reports)
        rows.append([title, *("–" if number is None else format(number, style) for number in numbers)])
    return rows


def _theme_table(splits: Mapping[str, Any]) -> str:
    # A theme may be missing in a split: then it has nothing there.
    themes = [splits[name]["themes"] for name in SPLITS]
    rows = []
    for theme in sorted(set().union(*themes)):
        row = [theme or "(none)"]
        if len(theme) > _THEME_WIDTH:
            row = [theme[: _THEME_WIDTH - 1] + "…"]
        of_splits = [by_theme.get(theme, {}) for by_theme in themes]
        for key in ("num_pairs", "num_distinct_texts"):
            row += [str(counts.get(key, 0)) for counts in of_splits]
        row.append(str(sum(counts.get("num_incomplete", 0) for counts in of_splits)))
        rows.append(row)
    first, *others = SPLITS
    return text_table(["theme", f"pairs: {first}", *others, f"texts: {first}", *others, "incomplete"], rows)


if __name__ == "__main__":
    sys.exit(main())

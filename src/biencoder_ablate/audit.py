"""`biencoder-ablate audit data=…`: duplicates, leakage, lengths and candidates of a corpus."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from biencoder_ablate.data.corpus import SPLITS, Corpus
from biencoder_ablate.data.text_table import SplitArrays, TextTable, clean_queries
from biencoder_ablate.data.words import split_words
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.utils.command import add_json_option, print_json, run_command
from biencoder_ablate.utils.console import text_table

if TYPE_CHECKING:
    from biencoder_ablate.config import Config


def main(argv: Sequence[str] | None = None) -> int:
    """Print the audit as tables, or as JSON; returns the exit code (1 with one message for what is wrong)."""
    return run_command(_parser(), argv, _show)


def _show(arguments: argparse.Namespace) -> None:
    report = audit(arguments.overrides)
    if arguments.json:
        print_json(report)
        return

    print(describe(report))
    print(f"\ntokens: {report['tokenizer']['note']}")


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
    add_json_option(parser)
    return parser


def audit(overrides: Sequence[str]) -> dict[str, Any]:
    """The audit of the corpus that the overrides name, as `data.audit.audit_corpus` gives it, and its tokenizer.

    Raises ValueErrors that name the key or file.
    """
    from biencoder_ablate.config.compose import load_config
    from biencoder_ablate.data.readers import load_corpus
    from biencoder_ablate.data.text_table import build_table

    config = load_config(overrides)
    corpus = load_corpus(config.data)
    index = build_table(corpus)
    totals = {name: candidate_totals(split) for name, split in index.splits.items()}
    lengths, note = token_lengths(config, index)
    report = audit_corpus(corpus, index, totals, lengths, config.model.max_tokens)
    report["tokenizer"] = {
        "model": config.model.name_or_path or config.model.name,
        "max_tokens": config.model.max_tokens,
        "note": note,
    }
    return report


def token_lengths(config: Config, index: TextTable) -> tuple[np.ndarray | None, str]:
    """Length in tokens of each string of the index (T,), [CLS] and [SEP] included, and how they were had.

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
    tokens = cached_tokens(tokenizer, source.fingerprint, index.texts, limit, cache)
    return tokens.full_lengths, f"of {source.name}, cut at {limit}"


SHINGLE_WORDS = 5
JACCARD = (4, 5)
"""The least share of shingles in common, as a fraction so that counting stays exact."""
SPLIT_PAIRS = (("train", "val"), ("train", "test"), ("val", "test"))
_BLOCK = 512
"""Texts compared with all others at a time: what bounds the memory."""
_THEME_WIDTH = 30
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
    "num_distinct_strings": "distinct strings",
    "num_exact_duplicates": "repetitions of a text",
    "num_near_duplicates": "texts with a near duplicate",
    "num_near_duplicate_pairs": "near-duplicate pairs",
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
_CANDIDATES = {
    "candidates.true": "right answers",
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


def audit_corpus(
    corpus: Corpus,
    index: TextTable,
    candidates: Mapping[str, Mapping[str, int]],
    token_lengths: np.ndarray | None = None,
    max_tokens: int | None = None,
) -> dict[str, Any]:
    """The report on the pairs in use (with data.limit or data.disjoint, those that are left).

    candidates: the totals of each kind of candidate by split. token_lengths (T,): of every string of the index,
    before cutting at max_tokens; without them the report has no token lengths.
    """
    keys = {
        name: np.unique(np.concatenate([split.point_key, split.counter_key])) for name, split in index.splits.items()
    }
    strings = np.unique(index.keys, return_index=True)[1]  # of each distinct text the first that spells it
    near = near_duplicates([index.texts[row] for row in strings])
    words = np.array([len(split_words(text)) for text in index.texts], dtype=np.int64)
    splits: dict[str, Any] = {}
    for name in SPLITS:
        report = _sizes(corpus, index.splits[name], keys[name])
        both = np.isin(near, keys[name]).all(axis=1)
        num_points = report["num_pairs" if corpus.asks_pairs else "num_queries"]
        report["num_exact_duplicates"] = report["num_pairs"] + num_points - report["num_distinct_texts"]
        report["num_near_duplicates"] = len(np.unique(near[both]))
        report["num_near_duplicate_pairs"] = int(both.sum())
        report["candidates"] = dict(candidates[name])
        rows = strings[keys[name]]
        report["words"] = _spread(words[rows])
        report["tokens"] = None if token_lengths is None else _spread(token_lengths[rows], max_tokens)
        report["themes"] = _themes(corpus, index.splits[name])
        splits[name] = report
    return {
        "name": corpus.name,
        "fingerprint": corpus.fingerprint,
        "notes": list(corpus.notes),
        "splits": splits,
        "shared_texts": {f"{a}_{b}": len(np.intersect1d(keys[a], keys[b])) for a, b in SPLIT_PAIRS},
        "near_shared_texts": {f"{a}_{b}": _num_near_shared(near, keys[a], keys[b]) for a, b in SPLIT_PAIRS},
        "near_duplicates": {"shingle_words": SHINGLE_WORDS, "jaccard": JACCARD[0] / JACCARD[1]},
    }


def _sizes(corpus: Corpus, split: SplitArrays, keys: np.ndarray) -> dict[str, Any]:
    num_documents = 0 if split.documents is None else len(split.documents.ids)
    answers = np.stack([split.query, split.counter_key])[:, split.grade > 0]
    right = np.unique(np.unique(answers, axis=1)[0], return_counts=True)[1] if answers.size else answers[0]
    return {
        "num_pairs": len(split),
        "num_incomplete": sum(n for (name, _), n in corpus.incomplete.items() if name == split.name),
        "num_themes": len(np.unique(split.theme)),
        "num_debates": len(np.unique(split.debate)),
        "num_distinct_texts": len(keys),
        "num_distinct_strings": len(np.unique(np.concatenate([split.point, split.counter]))),
        "num_distinct_pairs": len(np.unique(np.stack([split.point_key, split.counter_key]), axis=1).T),
        "num_queries": len(right),
        "num_documents": num_documents,
        "num_documents_repeated": 0 if split.documents is None else num_documents - len(np.unique(split.documents.key)),
        "num_right_mean": float(right.mean()) if len(right) else 0.0,
        "num_right_max": int(right.max(initial=0)),
        "num_points_clean": int(clean_queries(split).sum()),
    }


def _themes(corpus: Corpus, split: SplitArrays) -> dict[str, dict[str, int]]:
    """By theme, in alphabetical order; a theme may have nothing but incomplete points."""
    names = {pair.theme for pair in split.pairs} | {theme for name, theme in corpus.incomplete if name == split.name}
    of_pair = np.array([pair.theme for pair in split.pairs])
    themes = {}
    for theme in sorted(names):
        rows = np.flatnonzero(of_pair == theme)
        themes[theme] = {
            "num_pairs": len(rows),
            "num_incomplete": corpus.incomplete.get((split.name, theme), 0),
            "num_debates": len(np.unique(split.debate[rows])),
            "num_distinct_texts": len(np.unique(np.concatenate([split.point_key[rows], split.counter_key[rows]]))),
        }
    return themes


def _num_near_shared(near: np.ndarray, earlier: np.ndarray, later: np.ndarray) -> int:
    """Distinct texts of `later` that are not in `earlier` but have a near duplicate there."""
    new = np.setdiff1d(later, earlier)
    found = [near[np.isin(near[:, a], new) & np.isin(near[:, b], earlier), a] for a, b in ((0, 1), (1, 0))]
    return len(np.unique(np.concatenate(found)))


def _spread(lengths: np.ndarray, limit: int | None = None) -> dict[str, float]:
    """How long texts are, and with a limit how many are cut at it; zeros where there are none."""
    lengths = lengths if len(lengths) else np.zeros(1, dtype=np.int64)
    low, median, p95, high = np.percentile(lengths, [0, 50, 95, 100]).tolist()
    spread = {"min": int(low), "mean": float(lengths.mean()), "median": median, "p95": p95, "max": int(high)}
    if limit is not None:
        cut = lengths > limit
        spread |= {"num_truncated": int(cut.sum()), "share_truncated": float(cut.mean())}
    return spread


def near_duplicates(texts: Sequence[str]) -> np.ndarray:
    """All pairs (E, 2), i < j, of texts that are near duplicates, in order. Equal shingle sets count, so give each
    text once. The shingles that two texts share are counted by a product of sparse matrices, texts x shingles.
    """
    from scipy.sparse import csr_array

    numbers: dict[str, int] = {}
    shingles: list[int] = []
    starts = [0]
    for text in texts:
        words = split_words(text.casefold())
        places = range(max(1, len(words) - SHINGLE_WORDS + 1)) if words else ()
        own = {" ".join(words[place : place + SHINGLE_WORDS]) for place in places}
        shingles += [numbers.setdefault(shingle, len(numbers)) for shingle in own]
        starts.append(len(shingles))
    entries, sizes = (np.array(values, dtype=np.int64) for values in (shingles, np.diff(starts)))
    has = csr_array((np.ones_like(entries), entries, np.array(starts)), shape=(len(texts), len(numbers)))
    part, whole = JACCARD
    found = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(texts), _BLOCK):
        common = (has[start : start + _BLOCK] @ has.T).tocoo()
        pairs = np.stack([common.row + start, common.col], axis=1)
        union = sizes[pairs].sum(axis=1) - common.data
        found.append(pairs[(pairs[:, 0] < pairs[:, 1]) & (whole * common.data >= part * union)])
    return np.unique(np.concatenate(found), axis=0)


def describe(report: Mapping[str, Any]) -> str:
    """The report as tables for a person, at most 80 columns wide: splits, candidates, what splits share, themes."""
    splits = report["splits"]
    shared = []
    for earlier, later in SPLIT_PAIRS:
        equal, near = (report[key][f"{earlier}_{later}"] for key in ("shared_texts", "near_shared_texts"))
        total = splits[later]["num_distinct_texts"]
        shared.append(
            [f"{later} texts also in {earlier}", *map(str, (total, equal)), f"{equal / max(1, total):.1%}", str(near)]
        )
    gram = report["near_duplicates"]
    return "\n".join(
        [
            f"corpus {report['name']}, fingerprint {report['fingerprint'][:12]}",
            *report["notes"],
            "",
            text_table(["", *SPLITS], _rows(splits, _SIZES)),
            "",
            text_table(["candidates, summed over points", *SPLITS], _rows(splits, _CANDIDATES)),
            "",
            text_table(["texts in two splits", "distinct", "equal", "share", "near duplicates besides"], shared),
            f"near duplicate: Jaccard of word {gram['shingle_words']}-grams at least {gram['jaccard']}",
            "",
            _theme_table(splits),
        ]
    )


def _rows(splits: Mapping[str, Any], titles: Mapping[str, str]) -> list[list[str]]:
    """A row for each figure, named by its place in a split's report; none where there is no such figure."""
    rows = []
    for place, title in titles.items():
        group, _, key = place.rpartition(".")
        reports = [splits[name][group] if group else splits[name] for name in SPLITS]
        if None not in reports and all(key in report for report in reports):
            shown = ".1%" if key.startswith("share") else ".2f" if key == "num_right_mean" else ".0f"
            rows.append([title, *(format(report[key], shown) for report in reports)])
    return rows


def _theme_table(splits: Mapping[str, Any]) -> str:
    rows = []
    nothing: Mapping[str, int] = Counter()
    for theme in sorted({theme for name in SPLITS for theme in splits[name]["themes"]}):
        cells = [splits[name]["themes"].get(theme, nothing) for name in SPLITS]
        values = [cell[key] for key in ("num_pairs", "num_distinct_texts") for cell in cells]
        shown = theme if len(theme) <= _THEME_WIDTH else theme[: _THEME_WIDTH - 1] + "…"
        rows.append([shown or "(none)", *map(str, [*values, sum(cell["num_incomplete"] for cell in cells)])])
    first, *others = SPLITS
    return text_table(["theme", f"pairs: {first}", *others, f"texts: {first}", *others, "incomplete"], rows)


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

_ROWS_AT_ONCE = 256


def candidate_totals(split: SplitArrays) -> dict[str, int]:
    """How many candidates of each disjoint kind `official` offers, summed over the queries of a split: the right ones
    ("true"), and the others by where they are filed; of documents only how many ("document")."""
    prepared = build_task(split)
    kinds = _CANDIDATE_KINDS if prepared.tasks else {"document": "epa"}
    totals = {"true": len(prepared.reachable[0])} | dict.fromkeys(kinds, 0)
    masks = dict(zip(prepared.tasks, prepared.sets(prepared.tasks)[2:], strict=True))
    for start in range(0, len(prepared), _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(prepared)))
        left = np.ones((len(rows), len(prepared.candidates)), dtype=bool)
        for at, candidate in (prepared.official, prepared.reachable):
            own = slice(*np.searchsorted(at, [start, rows[-1] + 1]))
            left[at[own] - start, candidate[own]] = False
        for kind, task in kinds.items():
            admitted = masks[task].admitted if task in masks else None
            found = left & admitted(rows) if admitted else left.copy()
            totals[kind] += int(found.sum())
            left &= ~found
    return totals


if __name__ == "__main__":
    sys.exit(main())

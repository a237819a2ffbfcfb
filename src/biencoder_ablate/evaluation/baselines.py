"""Baselines that need no training: TF-IDF cosine, BM25, the pretrained encoder, chance; computed once a corpus.

What they are called and what is cached of them is known without torch, for tables and reports.

Shapes: T texts, P points, C candidates, H pooled width.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from biencoder_ablate.data.candidate_choice import measured_candidates
from biencoder_ablate.data.corpus import Corpus
from biencoder_ablate.evaluation.lexical import bm25_similarities, count_words, tfidf_similarities
from biencoder_ablate.evaluation.metrics import mean
from biencoder_ablate.utils.cache import load_entry, load_or_make
from biencoder_ablate.utils.files import replace_nonfinite

if TYPE_CHECKING:
    import torch

    from biencoder_ablate.encoder.texts import Hidden
    from biencoder_ablate.evaluation.candidates import RetrievalTask
    from biencoder_ablate.evaluation.protocols import SplitRankings

MEASURED = ("val", "test")
"""The splits whose final metrics a run keeps."""
TITLES = {"pretrained": "pretrained encoder", "bm25": "BM25", "tfidf": "TF-IDF", "chance": "chance"}
"""The baselines of a run, from the strongest, as a rule, to chance."""
SIMILARITIES = {
    "tfidf_cosine": "TF-IDF cosine",
    "bm25": "BM25",
    "pretrained_euclidean": "pretrained, Euclidean",
    "pretrained_cosine": "pretrained, cosine",
}
"""What `lexical_metrics` and `encoder_metrics` measure."""
FLOOR = ("pretrained", "bm25", "chance")
"""What a trained model must not be below."""
MOST_PAIRS = 200_000_000
"""Points times candidates of a split up to which a run measures TF-IDF and BM25 unasked: about a minute."""
_FOLDER = "baselines-2"
"""Where in the cache directory they are; counted up when a change to the code alters their metrics."""
_NOT_THE_ENCODERS = ("towers", "similarity", "retrieval_dim", "projection_init", "head_init", "dropout")
"""Settings of the group `model` that name a run and say nothing of its encoder as downloaded."""

Baselines = dict[str, dict[str, dict[str, Any]]]
"""Metrics as `protocols.split_metrics` gives them (of chance only a few), by baseline, one of TITLES, and split."""


# --- what a run is compared with, without torch ---


def baselines_above(
    baselines: Mapping[Any, Mapping[str, Mapping[str, Any]]],
    split: str,
    key: str,
    value: float | None,
    among: Collection[Any] = FLOOR,
) -> list[Any]:
    """The names, `among` some, of the baselines whose metric `key` of a split is above a model's `value`."""
    above = []
    for name in among:
        other = baselines.get(name, {}).get(split, {}).get(key)
        if other is not None and value is not None and other > value:
            above.append(name)
    return above


def in_order(baselines: Baselines) -> Baselines:
    """From the strongest, as a rule, to chance."""
    return {name: baselines[name] for name in TITLES if name in baselines}


def known_baselines(cache: Path, determined_by: Mapping[str, Any]) -> Baselines:
    """What the cache directory has of a run's baselines, by the identity in the run's manifest."""
    known: Baselines = {}
    of_corpus = _corpus_entry(cache, determined_by["data"], _candidates_in(determined_by))
    for path in (of_corpus, _encoder_entry(cache, determined_by)):
        known |= load_entry(path, _read) or {}
    return in_order(known)


def baselines_of_run(
    result: Mapping[str, Any],
    determined_by: Mapping[str, Any],
    cache: Path,
    read_corpus: Callable[[], Corpus],
) -> Baselines:
    """The baselines of a finished run: its own, or, of a run older than they are, the corpus's.

    result and determined_by: from its result.json and manifest.json. Loads torch, and calls `read_corpus`, only where
    nothing on disk has them; what then cannot be had (the corpus has gone or is another one now) is left out. Without
    a cached `pretrained` it has the few metrics that the run noted before training.
    """
    # Its own.
    if result.get("baselines"):
        return dict(result["baselines"])

    # Those of the same corpus, measured for another run or now.
    known = known_baselines(cache, determined_by) if determined_by else {}
    if "chance" not in known and determined_by:
        try:
            corpus = read_corpus()
            if corpus.fingerprint == determined_by["data"]:
                from biencoder_ablate.data.text_table import build_table
                from biencoder_ablate.evaluation.candidates import build_task

                table = build_table(corpus)
                among = measured_candidates(determined_by, result)
                splits = {name: build_task(table.splits[name], among) for name in MEASURED}
                known |= corpus_baselines(cache, corpus.fingerprint, table.texts, splits)
        except (ValueError, OSError):
            pass

    # What the run noted of its encoder before it trained it: pretrained/SPLIT/METRIC.
    if "pretrained" not in known:
        noted: dict[str, dict[str, Any]] = {name: {} for name in MEASURED}
        for key, value in result["initial"].items():
            group, _, rest = key.partition("/")
            split, _, metric = rest.partition("/")
            if group == "pretrained" and split in noted:
                noted[split][metric] = value
        if noted["test"]:
            known["pretrained"] = noted
    return in_order(known)


# --- measured once a corpus ---


def corpus_baselines(
    cache: Path,
    fingerprint: str,
    texts: Sequence[str],
    splits: Mapping[str, RetrievalTask],
) -> Baselines:
    """chance, and tfidf and bm25 where no split has more than MOST_PAIRS, of the corpus with this fingerprint.

    Measured once and kept in the cache directory; runs beside each other wait for the first. Raises OSError.
    """

    def measure() -> Baselines:
        tasks = {name: splits[name] for name in MEASURED}
        baselines: Baselines = {"chance": {name: chance_metrics(task) for name, task in tasks.items()}}
        if all(len(task) * len(task.candidates) <= MOST_PAIRS for task in tasks.values()):
            lexical = lexical_metrics(texts, tasks)
            baselines["tfidf"] = lexical["tfidf_cosine"]
            baselines["bm25"] = lexical["bm25"]
        return replace_nonfinite(baselines)

    among = {task.among for task in splits.values()}
    assert len(among) == 1, among
    return load_or_make(_corpus_entry(cache, fingerprint, *among), _read, measure, _write)


def pretrained_baseline(
    cache: Path,
    determined_by: Mapping[str, Any],
    pooled: Hidden,
    splits: Mapping[str, RetrievalTask],
) -> Baselines:
    """pretrained: the cosine of the encoder as downloaded, from its pooled outputs h (T, H); kept likewise."""

    def measure() -> Baselines:
        h, h_asking = pooled
        tasks = {name: splits[name] for name in MEASURED}
        return replace_nonfinite({"pretrained": encoder_metrics(h, tasks, h_asking)["pretrained_cosine"]})

    return load_or_make(_encoder_entry(cache, determined_by), _read, measure, _write)


def _candidates_in(determined_by: Mapping[str, Any]) -> str | None:
    """What an identity says was ranked; None of a run from before the setting."""
    evaluation = determined_by.get("evaluation") or {}
    candidates: str | None = evaluation.get("candidates")
    return candidates


def _corpus_entry(cache: Path, fingerprint: str, among: str | None) -> Path:
    """What ranks answers only has a file of its own; runs from before the setting find theirs."""
    suffix = "_answers" if among == "answers" else ""
    return cache / _FOLDER / f"{fingerprint[:32]}{suffix}.json"


def _encoder_entry(cache: Path, determined_by: Mapping[str, Any]) -> Path:
    model = {key: value for key, value in determined_by["model"].items() if key not in _NOT_THE_ENCODERS}
    reading = json.dumps([model, determined_by["training"]["precision"]], sort_keys=True)
    digest = hashlib.sha256(reading.encode()).hexdigest()[:16]
    of_corpus = _corpus_entry(cache, determined_by["data"], _candidates_in(determined_by))
    return of_corpus.with_stem(f"{of_corpus.stem}_{digest}")


def _read(path: Path) -> Baselines:
    baselines = json.loads(path.read_text("utf-8"))
    if not isinstance(baselines, dict):
        raise ValueError("not a JSON object")
    return baselines


def _write(baselines: Baselines, file: IO[bytes]) -> None:
    text = json.dumps(baselines, indent=2, ensure_ascii=False, allow_nan=False)
    file.write(f"{text}\n".encode())


def chance_metrics(task: RetrievalTask) -> dict[str, float]:
    """What a random order of a split's candidates finds on average, under official and clean candidates.

    Of c candidates, g of them right: top-1 g/c; recall@10 10/c, at most 1; and the mean reciprocal rank of the first
    right one, `_chance_reciprocal_rank`.
    """
    rows = np.arange(len(task))
    num_right = np.bincount(task.reachable[0], minlength=len(task))
    num_relevant = np.bincount(task.qrels.row, minlength=len(task))  # also those that are no candidates

    # How many candidates each point has: all but the excluded.
    official = len(task.candidates) - np.bincount(task.official[0], minlength=len(task))
    clean = len(task.candidates) - np.bincount(task.clean[0], minlength=len(task))
    clean = np.where(np.isin(rows, task.clean_differs), clean, official)

    values: dict[str, float] = {}
    for suffix, counting, num_candidates in (("", rows, official), ("_clean", np.flatnonzero(task.counts), clean)):
        right, total = num_right[counting], num_candidates[counting]
        values[f"top1{suffix}"] = mean(right / total)
        values[f"mrr{suffix}"] = mean(np.array([*map(_chance_reciprocal_rank, right.tolist(), total.tolist())]))

    # Each right answer is among the first 10 of c with probability 10/c.
    share_found = num_right / np.maximum(1, num_relevant)
    values["recall@10"] = mean(share_found * np.minimum(1, 10 / official))
    return values


@functools.cache  # many points share both numbers
def _chance_reciprocal_rank(num_right: int, num_candidates: int) -> float:
    """The expected reciprocal rank of the first of g right ones among c candidates in a random order.

    It is r-th with probability g/(c − r + 1), after r − 1 wrong ones: (1 + 1/2 + … + 1/c)/c where g is 1.
    """
    if not num_right:
        return 0.0
    num_wrong = num_candidates - num_right
    # Before the place r, from 0, there are r candidates, and this is the probability that all of them are wrong.
    is_wrong = 1 - num_right / (num_candidates - np.arange(num_wrong))
    all_wrong = np.concatenate([[1.0], np.cumprod(is_wrong)])
    place = np.arange(num_wrong + 1)
    terms = all_wrong * num_right / (num_candidates - place) / (place + 1)
    return float(np.sum(terms))


def lexical_metrics(texts: Sequence[str], splits: Mapping[str, RetrievalTask]) -> dict[str, dict[str, Any]]:
    """Metrics of TF-IDF cosine and of BM25, by baseline and split.

    Document frequencies are those of a split's own distinct candidates. Equal scores keep candidate order.
    """
    from biencoder_ablate.evaluation.protocols import split_metrics

    counts = count_words(texts)

    def measure(similarities: Callable[..., np.ndarray]) -> dict[str, Any]:
        rankings = {name: lexical_rankings(similarities, counts, task) for name, task in splits.items()}
        return {name: split_metrics(ranking) for name, ranking in rankings.items()}

    return {"tfidf_cosine": measure(tfidf_similarities), "bm25": measure(bm25_similarities)}


def lexical_rankings(similarities: Callable[..., np.ndarray], counts: Any, task: RetrievalTask) -> SplitRankings:
    """A split ranked by `tfidf_similarities` or `bm25_similarities` of word counts (T, V)."""
    import torch

    from biencoder_ablate.evaluation.protocols import rankings_by_score
    from biencoder_ablate.evaluation.ranking import Scores

    # Candidates with the same text have the same similarity: it is computed for distinct texts.
    distinct = task.candidates.distinct.tolist()

    def score_rows(rows: np.ndarray) -> Scores:
        points, back = np.unique(task.point[rows], return_inverse=True)
        similarity = similarities(counts, points.tolist(), distinct, distinct)  # (P, D)
        similarity = similarity[back.reshape(-1)][:, task.candidates.place]  # (b, C)
        return Scores(distance=torch.from_numpy(-similarity))

    return rankings_by_score(task, score_rows)


def encoder_metrics(
    h: torch.Tensor,
    splits: Mapping[str, RetrievalTask],
    h_asking: torch.Tensor | None = None,
) -> dict[str, dict[str, Any]]:
    """Metrics of an encoder's own pooled outputs h (T, H) by Euclidean distance and by cosine, no head, no linear1;
    `h_asking` are those of texts as points where prompts make them others."""
    from torch.nn.functional import normalize

    from biencoder_ablate.evaluation.protocols import final_rankings, split_metrics
    from biencoder_ablate.model.biencoder import Embeddings

    h_point = h if h_asking is None else h_asking
    spaces = {
        "pretrained_euclidean": Embeddings(h, h_point, h),
        # Between vectors of length 1 the order by distance is the order by cosine: |a − b|² = 2 − 2 cos.
        "pretrained_cosine": Embeddings(h, normalize(h_point, dim=1), normalize(h, dim=1)),
    }

    def measure(embeddings: Embeddings) -> dict[str, Any]:
        rankings = {name: final_rankings(task, embeddings, None, "none") for name, task in splits.items()}
        return {name: split_metrics(ranking) for name, ranking in rankings.items()}

    return {name: measure(embeddings) for name, embeddings in spaces.items()}

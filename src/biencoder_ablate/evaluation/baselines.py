"""Baselines that need no training: TF-IDF cosine, BM25, the pretrained encoder, chance; worked out once a corpus.

What they are called and what is cached of them is known without torch, for tables and reports.

Shapes: T texts, P points, C candidates, H pooled width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from biencoder_ablate.data.corpus import Corpus
from biencoder_ablate.evaluation.lexical import bm25_similarities, count_words, tfidf_similarities
from biencoder_ablate.utils.files import read_json, replace_nonfinite, write_json

if TYPE_CHECKING:
    import torch

    from biencoder_ablate.encoder.texts import Hidden
    from biencoder_ablate.evaluation.candidates import RetrievalTask
    from biencoder_ablate.evaluation.protocols import SplitRankings

MEASURED = ("val", "test")
TITLES = {"pretrained": "pretrained encoder", "bm25": "BM25", "tfidf": "TF-IDF", "chance": "chance"}
FLOOR = ("pretrained", "bm25", "chance")
"""What a trained model must not be below."""
MOST_PAIRS = 200_000_000
"""Points times candidates of a split up to which a run works out TF-IDF and BM25 unasked: about a minute."""
_FOLDER = "baselines-2"
"""Where in the cache directory they are; counted up when a change to the code alters their figures."""
_NOT_THE_ENCODERS = ("towers", "similarity", "retrieval_dim", "projection_init", "head_init", "dropout")
"""Settings of the group `model` that name a run and say nothing of its encoder as downloaded."""

Baselines = dict[str, dict[str, dict[str, Any]]]
"""Figures as `protocols.split_metrics` gives them (of chance only a few), by baseline, one of TITLES, and split."""


# --- once a corpus ---


def known_baselines(cache: Path, determined_by: Mapping[str, Any]) -> Baselines:
    """What the cache directory has of a run's baselines, by the identity in the run's manifest. Loads no torch."""
    files = (_corpus_file(cache, determined_by["data"]), _encoder_file(cache, determined_by))
    return in_order({name: figures for path in files for name, figures in (read_json(path) or {}).items()})


def in_order(baselines: Baselines) -> Baselines:
    """From the strongest, as a rule, to chance."""
    return {name: baselines[name] for name in TITLES if name in baselines}


def corpus_baselines(
    cache: Path, fingerprint: str, texts: Sequence[str], splits: Mapping[str, RetrievalTask]
) -> Baselines:
    """chance, and tfidf and bm25 where no split has more than MOST_PAIRS, of the corpus with this fingerprint.

    Worked out once and kept in the cache directory; runs beside each other wait for the first. Raises OSError.
    """

    def work_out() -> Baselines:
        measured = {name: splits[name] for name in MEASURED}
        found: Baselines = {"chance": {name: chance_metrics(split) for name, split in measured.items()}}
        if all(len(split) * len(split.candidates) <= MOST_PAIRS for split in measured.values()):
            lexical = lexical_metrics(texts, measured)
            found |= {"tfidf": lexical["tfidf_cosine"], "bm25": lexical["bm25"]}
        return found

    return _once(_corpus_file(cache, fingerprint), work_out)


def pretrained_baseline(
    cache: Path,
    determined_by: Mapping[str, Any],
    hidden: Callable[[], Hidden],
    splits: Mapping[str, RetrievalTask],
) -> Baselines:
    """pretrained: the cosine of the encoder as downloaded, from its pooled outputs h (T, H); kept likewise."""

    def work_out() -> Baselines:
        h, h_asking = hidden()
        found = encoder_metrics(h, {name: splits[name] for name in MEASURED}, h_asking)
        return {"pretrained": found["pretrained_cosine"]}

    return _once(_encoder_file(cache, determined_by), work_out)


def baselines_of_run(
    result: Mapping[str, Any], determined_by: Mapping[str, Any], cache: Path, read_corpus: Callable[[], Corpus]
) -> Baselines:
    """The baselines of a finished run: its own, or, of a run older than they are, the corpus's.

    result and determined_by: from its result.json and manifest.json. Loads torch, and calls `read_corpus`, only where
    nothing on disk has them; what then cannot be had (the corpus has gone or is another one now) is left out. Without
    a cached `pretrained` it has the few figures that the run noted before training.
    """
    if result.get("baselines"):
        return dict(result["baselines"])
    known = known_baselines(cache, determined_by) if determined_by else {}
    if "chance" not in known and determined_by:
        try:
            corpus = read_corpus()
            if corpus.fingerprint == determined_by["data"]:
                from biencoder_ablate.data.text_table import build_table
                from biencoder_ablate.evaluation.candidates import build_task

                index = build_table(corpus)
                splits = {name: build_task(index.splits[name]) for name in MEASURED}
                known |= corpus_baselines(cache, corpus.fingerprint, index.texts, splits)
        except (ValueError, OSError):
            pass
    if "pretrained" not in known:
        noted = {}
        for name in MEASURED:
            prefix = f"pretrained/{name}/"
            noted[name] = {
                key.removeprefix(prefix): value for key, value in result["initial"].items() if key.startswith(prefix)
            }
        if noted["test"]:
            known["pretrained"] = noted
    return in_order(known)


def better(baselines: Baselines, split: str, key: str, value: float | None) -> list[str]:
    """Those of FLOOR whose figure is above a trained model's `value`."""
    figures = {name: baselines.get(name, {}).get(split, {}).get(key) for name in FLOOR}
    return [name for name, figure in figures.items() if figure is not None and value is not None and figure > value]


def chance_metrics(prepared: RetrievalTask) -> dict[str, float]:
    """What a random order of a split's candidates finds on average, under official and clean candidates.

    Of c candidates, g of them right: top-1 g/c, recall@10 10/c, at most 1, and the reciprocal rank of the first right
    one, which is r-th with probability g/(c − r + 1) after r − 1 wrong ones: (1 + 1/2 + … + 1/c)/c where g is 1.
    """
    num, total, every = len(prepared), len(prepared.candidates), np.arange(len(prepared))
    right = np.bincount(prepared.reachable[0], minlength=num)
    official = total - np.bincount(prepared.official[0], minlength=num)
    differs = np.isin(every, prepared.clean_differs)
    clean = np.where(differs, total - np.bincount(prepared.clean[0], minlength=num), official)
    reciprocal: dict[tuple[int, int], float] = {}

    def figures(rows: np.ndarray, counts: np.ndarray, suffix: str) -> dict[str, float]:
        if not len(rows):
            return {f"top1{suffix}": float("nan"), f"mrr{suffix}": float("nan")}
        ranks = []
        for g, c in zip(right[rows].tolist(), counts[rows].tolist(), strict=True):
            if (g, c) not in reciprocal:
                wrong = np.arange(c - g)  # before the first right one, so many are wrong
                survives = np.concatenate([[1.0], np.cumprod(1 - g / (c - wrong))])
                place = np.arange(c - g + 1)
                reciprocal[g, c] = float(np.sum(survives * g / (c - place) / (place + 1))) if g else 0.0
            ranks.append(reciprocal[g, c])
        return {f"top1{suffix}": float(np.mean(right[rows] / counts[rows])), f"mrr{suffix}": float(np.mean(ranks))}

    found = right / np.maximum(1, np.bincount(prepared.qrels.row, minlength=num)) * np.minimum(1, 10 / official)
    recall = {"recall@10": float(np.mean(found)) if num else float("nan")}
    return figures(every, official, "") | figures(np.flatnonzero(prepared.counts), clean, "_clean") | recall


def _once(path: Path, work_out: Callable[[], Baselines]) -> Baselines:
    """What the file holds, or else what `work_out` gives, which then is in it."""
    found = read_json(path)
    if found is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = read_json(path)
            if found is None:
                found = replace_nonfinite(work_out())
                write_json(path, found)
    return found


def _corpus_file(cache: Path, fingerprint: str) -> Path:
    return cache / _FOLDER / f"{fingerprint[:32]}.json"


def _encoder_file(cache: Path, determined_by: Mapping[str, Any]) -> Path:
    model = {key: value for key, value in determined_by["model"].items() if key not in _NOT_THE_ENCODERS}
    reading = json.dumps([model, determined_by["training"]["precision"]], sort_keys=True)
    digest = hashlib.sha256(reading.encode()).hexdigest()[:16]
    return cache / _FOLDER / f"{determined_by['data'][:32]}_{digest}.json"


LEXICAL = {"tfidf_cosine": tfidf_similarities, "bm25": bm25_similarities}


def lexical_metrics(texts: Sequence[str], splits: Mapping[str, RetrievalTask]) -> dict[str, dict[str, Any]]:
    """Figures of TF-IDF cosine and of BM25, by baseline and split.

    Document frequencies are those of a split's own distinct candidates. Equal scores keep candidate order.
    """
    import torch

    from biencoder_ablate.evaluation.protocols import rankings_by_score, split_metrics
    from biencoder_ablate.evaluation.ranking import Scores

    counts = count_words(texts)

    def rankings(similarities: Callable[..., np.ndarray], prepared: RetrievalTask) -> SplitRankings:
        candidates, distinct = prepared.candidates, prepared.candidates.distinct.tolist()

        def score_rows(rows: np.ndarray) -> Scores:
            points, back = np.unique(prepared.point[rows], return_inverse=True)
            similarity = similarities(counts, points.tolist(), distinct, distinct)
            return Scores(torch.from_numpy(-similarity[back.reshape(-1)][:, candidates.place]))

        return rankings_by_score(prepared, score_rows)

    return {
        name: {split: split_metrics(rankings(similarities, prepared)) for split, prepared in splits.items()}
        for name, similarities in LEXICAL.items()
    }


def encoder_metrics(
    h: torch.Tensor, splits: Mapping[str, RetrievalTask], h_asking: torch.Tensor | None = None
) -> dict[str, dict[str, Any]]:
    """Figures of an encoder's own pooled outputs h (T, H) by Euclidean distance and by cosine, no head, no linear1;
    `h_asking` are those of texts as points where prompts make them others."""
    import torch

    from biencoder_ablate.evaluation.protocols import final_rankings, split_metrics
    from biencoder_ablate.model.biencoder import Embeddings

    both = (h if h_asking is None else h_asking, h)
    # Between vectors of length 1 the order by distance is the order by cosine: |a − b|² = 2 − 2 cos.
    unit = [torch.nn.functional.normalize(of, dim=1) for of in both]
    spaces = {"pretrained_euclidean": both, "pretrained_cosine": unit}

    return {
        name: {
            split: split_metrics(final_rankings(prepared, Embeddings(h, *space), None, "none"))
            for split, prepared in splits.items()
        }
        for name, space in spaces.items()
    }

"""`biencoder-ablate benchmark --model … data=…`: encoders as they are, without training, under official and clean.

Q queries of a split, T texts of a corpus, H width of an embedding.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biencoder_ablate.utils.command import add_json_option, print_json, run_command
from biencoder_ablate.utils.console import RunLog, printable, text_table
from biencoder_ablate.utils.files import replace_nonfinite

if TYPE_CHECKING:
    from torch import Tensor

    from biencoder_ablate.config import Config
    from biencoder_ablate.data.corpus import Corpus
    from biencoder_ablate.data.text_table import SplitArrays, TextTable
    from biencoder_ablate.evaluation.candidates import RetrievalTask
    from biencoder_ablate.evaluation.protocols import SplitRankings

WITHOUT_WEIGHTS = {"bm25": "BM25", "tfidf": "TF-IDF cosine"}
"""What --model takes beside encoders, and its title."""
CLEAN_POINTS = "arguana_clean.json"
"""The clean points of the published ArguAna corpus, beside the readers (scripts/clean_points.py writes it)."""
_METRICS = {"top1": "official top-1", "top1_clean": "clean top-1", "recall@10": "recall@10", "ndcg@10": "nDCG@10"}
_WITH_INTERVAL = ("top1", "top1_clean")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or JSON; returns the exit code (1 with one message for what is wrong)."""
    return run_command(_parser(), argv, _measure_and_print)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="biencoder-ablate benchmark",
        description="How well encoders find the right answers as they are, without training: officially, and clean, "
        "which leaves out what an earlier split of the corpus has. 95%% intervals are over the debates of the split.",
        epilog="Example: biencoder-ablate benchmark --model bm25 --model sentence-transformers/all-MiniLM-L6-v2 "
        "data=arguana data.path=arguana-counterargs-corpus.zip",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="a directory or hub name of an encoder, or bm25 or tfidf; may be given several times; default: the "
        "encoder of the group model, bm25 and tfidf",
    )
    parser.add_argument("--split", choices=("val", "test"), default="test", help="default: test")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="as for training: data=…, data.path=…; model.pooling=…, model.max_tokens=… for encoders that do not say",
    )
    add_json_option(parser)
    return parser


def _measure_and_print(arguments: argparse.Namespace) -> None:
    result = benchmark(arguments.overrides, arguments.model, arguments.split)
    if arguments.json:
        print_json(result)
    else:
        print(describe(result))


def benchmark(overrides: Sequence[str], models: Sequence[str] = (), split: str = "test") -> dict[str, Any]:
    """What each model finds in a split of the corpus that the overrides name: metrics, and intervals over debates.

    `models`: directories or hub names of encoders, "bm25", "tfidf"; none means the configured encoder and both of
    these. Raises ValueErrors that name the key or file.
    """
    from biencoder_ablate.config.compose import load_config
    from biencoder_ablate.data.candidate_choice import resolve_candidates
    from biencoder_ablate.data.readers import load_corpus
    from biencoder_ablate.data.text_table import build_table
    from biencoder_ablate.evaluation.candidates import build_task

    config = load_config(overrides)
    corpus = load_corpus(config.data)
    config = resolve_candidates(config, corpus)
    table = build_table(corpus)
    task = build_task(table.splits[split], config.evaluation.candidates)
    own = config.model.name_or_path or config.model.name
    rows = [_measure(config, table, task, name) for name in dict.fromkeys(models or (own, *WITHOUT_WEIGHTS))]
    return {
        "version": 1,
        "corpus": corpus.name,
        "fingerprint": corpus.fingerprint,
        "split": split,
        "candidates": task.among,
        "num_queries": len(task),
        "num_queries_clean": int(task.counts.sum()),
        "num_debates": len(np.unique(task.split.debate[task.pair])),
        "published_clean_points": _as_published(corpus, table.splits[split]),
        "models": rows,
    }


def _measure(config: Config, table: TextTable, task: RetrievalTask, name: str) -> dict[str, Any]:
    """A model's row: metrics, intervals, and how its texts were read."""
    from biencoder_ablate.evaluation.protocols import split_metrics

    if name in WITHOUT_WEIGHTS:
        read = "words"
        rankings = _rank_words(table, task, name)
    else:
        h, read = _embed(config, table, task, name)
        rankings = _rank_embeddings(h, task)
    metrics = split_metrics(rankings)
    return {
        "model": name,
        "read": read,
        "metrics": replace_nonfinite({key: metrics[key] for key in _METRICS}),
        "intervals": replace_nonfinite(_intervals(rankings)),
    }


def _rank_words(table: TextTable, task: RetrievalTask, name: str) -> SplitRankings:
    from biencoder_ablate.evaluation.baselines import lexical_rankings
    from biencoder_ablate.evaluation.lexical import bm25_similarities, count_words, tfidf_similarities

    similarities = {"bm25": bm25_similarities, "tfidf": tfidf_similarities}[name]
    return lexical_rankings(similarities, count_words(table.texts), task)


def _rank_embeddings(h: tuple[Tensor, Tensor], task: RetrievalTask) -> SplitRankings:
    """By cosine: between vectors of length 1 the order by distance is the order by cosine."""
    from torch.nn.functional import normalize

    from biencoder_ablate.evaluation.protocols import final_rankings
    from biencoder_ablate.model.biencoder import Embeddings

    candidate, point = h
    embeddings = Embeddings(candidate, normalize(point, dim=1), normalize(candidate, dim=1))
    return final_rankings(task, embeddings, None, "none")


def _embed(config: Config, table: TextTable, task: RetrievalTask, name: str) -> tuple[tuple[Tensor, Tensor], str]:
    """Embeddings (T, H) of all texts, as candidates and as points, and in words how they were made.

    Rows of texts that the split does not use are 0. A directory of sentence-transformers is read by that library, where
    it is installed: pooling, length and prompts are then its own.
    """
    import torch

    points = np.unique(task.point)
    candidates = task.candidates.distinct
    directory = Path(name).expanduser()
    if (directory / "modules.json").is_file() and find_spec("sentence_transformers") is not None:
        made, read = _by_sentence_transformers(directory, table, points, candidates)
    else:
        made, read = _by_own_encoder(config, table, points, candidates, name)
    spread = []
    for rows, h in zip((candidates, points), made, strict=True):
        whole = torch.zeros(len(table.texts), h.shape[1])
        whole[torch.from_numpy(rows)] = h.float().cpu()
        spread.append(whole)
    return (spread[0], spread[1]), read


def _by_sentence_transformers(
    directory: Path, table: TextTable, points: np.ndarray, candidates: np.ndarray
) -> tuple[tuple[Tensor, Tensor], str]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(directory), local_files_only=True)
    asked = [table.texts[row] for row in points]
    ranked = [table.texts[row] for row in candidates]
    h_candidate = model.encode_document(ranked, convert_to_tensor=True, show_progress_bar=False)
    h_point = model.encode_query(asked, convert_to_tensor=True, show_progress_bar=False)
    return (h_candidate, h_point), f"sentence-transformers, {model.max_seq_length} tokens"


def _by_own_encoder(
    config: Config, table: TextTable, points: np.ndarray, candidates: np.ndarray, name: str
) -> tuple[tuple[Tensor, Tensor], str]:
    from dataclasses import replace

    from biencoder_ablate.config.schema import cache_directory
    from biencoder_ablate.encoder.device import choose_device, choose_precision
    from biencoder_ablate.encoder.features import features_of
    from biencoder_ablate.encoder.pretrained import find_model
    from biencoder_ablate.encoder.texts import encode_settings

    own = config.model.name_or_path or config.model.name
    model = config.model if name == own else replace(config.model, name_or_path=name)
    device = choose_device(config.training.device)
    settings = encode_settings(
        replace(config, model=model), device, choose_precision(config.training.precision, device)
    )
    cache = cache_directory(config)
    source = find_model(model, cache)
    num_candidates = len(candidates)
    strings = settings.as_candidates([table.texts[row] for row in candidates])
    strings += settings.as_points([table.texts[row] for row in points])
    h = features_of(source, settings, strings, cache, RunLog(None, quiet=True))
    return (h[:num_candidates], h[num_candidates:]), f"{settings.pooling} pooling, {settings.max_tokens} tokens"


def _intervals(rankings: SplitRankings) -> dict[str, tuple[float, float]]:
    """95% intervals of top-1 over the debates of a split, which are the sample."""
    from biencoder_ablate.evaluation import metrics
    from biencoder_ablate.report.statistics import crossed_moments, intervals, sums_by_debate

    task = rankings.task
    debates = task.split.debate[task.pair]
    every_query = np.ones(len(task), dtype=bool)
    bounds = {}
    for key, ranking, counted in (
        ("top1", rankings.official, every_query),
        ("top1_clean", rankings.clean, task.counts),
    ):
        if not counted.any():
            continue
        first = metrics.first_ranks(ranking.final_rank, task.qrels.row)
        values = metrics.hits(first[counted], 1)
        sums, sizes = sums_by_debate(values, debates[counted].tolist())  # (1, D), (D,)
        (interval,) = intervals(crossed_moments(sums[None], sizes))
        bounds[key] = (interval.low, interval.high)
    return bounds


def clean_points(corpus: Corpus, split: SplitArrays) -> dict[str, Any]:
    """The clean points of a split by the corpus's own ids, and a checksum of their texts.

    sha256 over, pair by pair in the order of the ids, the length in bytes (8 bytes, big-endian) and the UTF-8 of the
    point, then of the counter, both without white space at the ends.
    """
    from biencoder_ablate.data.text_table import fingerprint_texts

    clean = [pair for pair, is_clean in zip(split.pairs, split.clean.tolist(), strict=True) if is_clean]
    texts = [text for pair in clean for text in (pair.point, pair.counter)]
    return {"num_pairs": len(clean), "texts_sha256": fingerprint_texts(texts), "ids": [pair.id for pair in clean]}


def _as_published(corpus: Corpus, split: SplitArrays) -> bool | None:
    """Whether the clean points are those of the published benchmark; None of another corpus."""
    if corpus.name != "arguana":
        return None
    published = json.loads((files("biencoder_ablate.data") / CLEAN_POINTS).read_text("utf-8"))
    return bool(published["splits"][split.name] == clean_points(corpus, split))


def describe(result: Mapping[str, Any]) -> str:
    """The table for a person."""
    rows = []
    for row in result["models"]:
        cells = [printable(row["model"])]
        for key in _METRICS:
            value = row["metrics"][key]
            cell = "–" if value is None else f"{value:.3f}"
            bounds = row["intervals"].get(key)
            if key in _WITH_INTERVAL and bounds and None not in bounds:
                cell += f" [{bounds[0]:.3f}, {bounds[1]:.3f}]"
            cells.append(cell)
        rows.append(cells)
    counts = f"{result['num_queries']} queries officially, {result['num_queries_clean']} clean"
    lines = [
        f"{result['corpus']}, {result['split']}: {counts}, {result['num_debates']} debates; "
        f"candidates: {result['candidates']}",
        text_table(["without training", *_METRICS.values()], rows),
        "in brackets: 95% intervals over debates",
        *(f"{printable(row['model'])}: {row['read']}" for row in result["models"] if row["read"] != "words"),
    ]
    if result["published_clean_points"] is not None:
        said = "are" if result["published_clean_points"] else "are NOT"
        lines.append(f"the clean points {said} those of the published benchmark ({CLEAN_POINTS})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

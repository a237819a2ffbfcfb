"""Our figures of a data set in BEIR's format beside those of pytrec_eval and sentence-transformers, on one embedding.

    python scripts/beir_equality.py arguana-counterargs-corpus.zip -o arguana_beir

Writes the distinct texts of the ArguAna Counterargs corpus to OUT as documents, its test points as queries and its
pairs as judgements, twice: queries under the ids of their documents, as BEIR's ArguAna has them, so that
ignore_identical_ids matters, and under ids of their own. The embedding is pretrained MiniLM's (extra minilm), with
noise far below what tells texts apart: texts that are equal as far as the encoder reads would tie, which every tool
breaks in its own way. `plain` counts how many documents score higher than a right one, and follows the definitions from
there. Prints a Markdown table for each and fails where two figures differ by more than 1e-6.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytrec_eval
import torch

from biencoder_ablate.config.compose import load_config
from biencoder_ablate.config.schema import DataConfig, cache_directory
from biencoder_ablate.data.corpus import SPLITS
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.encoder.features import features_of
from biencoder_ablate.encoder.pretrained import find_model
from biencoder_ablate.encoder.texts import encode_settings
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.evaluation.protocols import final_rankings, split_metrics
from biencoder_ablate.model.biencoder import Embeddings
from biencoder_ablate.utils.console import RunLog

FIGURES = ("top1", "mrr", "ndcg@10", "map", "recall@1", "recall@10", "recall@100")
TREC = ("success_1", "recip_rank", "ndcg_cut_10", "map", "recall_1", "recall_10", "recall_100")
SOME = 100  # queries at a time: the other tools keep a Python object for each query and document


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", help="the ArguAna Counterargs corpus, its zip or directory")
    parser.add_argument("-o", "--out", type=Path, required=True, help="where the data sets in BEIR's format go")
    arguments = parser.parse_args()
    config = load_config(["data=arguana", f"data.path={arguments.corpus}", "model=minilm", "model.max_tokens=256"])
    corpus = load_corpus(config.data)
    texts = build_table(corpus).texts
    source, cache = find_model(config.model, cache_directory(config)), cache_directory(config)
    reading = encode_settings(config, torch.device("cpu"), "fp32")
    h = torch.nn.functional.normalize(features_of(source, reading, texts, cache, RunLog(None)).double(), dim=1)
    noise = torch.randn(h.shape, generator=torch.Generator().manual_seed(0), dtype=h.dtype)
    unit = torch.nn.functional.normalize(h + 1e-6 * noise, dim=1)
    embedding = dict(zip(texts, unit, strict=True))
    named: dict[str, str] = {}
    for split in SPLITS:
        for name, text in corpus.named_texts(split):
            named.setdefault(text, name.replace("/", "-").replace("#", "-"))
    assert len(set(named.values())) == len(named)
    judged: dict[str, dict[str, int]] = {}
    for pair in corpus.test:
        judged.setdefault(pair.point, {})[named[pair.counter]] = 1
    same = True
    for title, prefix in (("Queries under their documents' ids", ""), ("Queries under ids of their own", "query-")):
        query_of = {prefix + named[point]: point for point in judged}
        qrels = {query: judged[point] for query, point in query_of.items()}
        out = arguments.out / ("same_ids" if not prefix else "own_ids")
        write_beir(out, named, query_of, qrels)
        table = {"ours": ours(out, embedding)}
        scores = scores_of(query_of, named, embedding)
        table["plain"] = plain(scores, qrels, list(named.values()))
        table["pytrec_eval"] = by_trec(scores, qrels, list(named.values()))
        if prefix:  # sentence-transformers has no ignore_identical_ids
            table["sentence-transformers"] = by_sentence_transformers(query_of, named, qrels, embedding)
        print(f"{title}: {len(qrels)} queries, {sum(map(len, qrels.values()))} judgements, {len(named)} documents\n")
        print("| | " + " | ".join(FIGURES) + " |\n|---" + "|---" * len(FIGURES) + "|")
        for name, row in table.items():
            print(f"| {name} | " + " | ".join(f"{row[figure]:.7f}" for figure in FIGURES) + " |")
        worst = max(abs(row[figure] - table["ours"][figure]) for row in table.values() for figure in FIGURES)
        print(f"\nlargest difference {worst:.1e}\n")
        same &= worst <= 1e-6
    return 0 if same else 1


def write_beir(
    out: Path, named: Mapping[str, str], query_of: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]]
) -> None:
    """`named`: text → document id; `query_of`: query id → text."""
    (out / "qrels").mkdir(parents=True, exist_ok=True)
    rows = {
        "corpus.jsonl": [{"_id": name, "title": "", "text": text} for text, name in named.items()],
        "queries.jsonl": [{"_id": name, "text": text} for name, text in query_of.items()],
    }
    for file, objects in rows.items():
        (out / file).write_text("".join(json.dumps(row) + "\n" for row in objects), "utf-8")
    lines = [f"{query}\t{name}\t{grade}\n" for query, of in qrels.items() for name, grade in of.items()]
    (out / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), "utf-8")


def ours(directory: Path, embedding: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """What `data=beir evaluation.rerank=none` measures."""
    table = build_table(load_corpus(DataConfig("beir", str(directory))))
    r = torch.stack([embedding[text] for text in table.texts])
    return split_metrics(final_rankings(build_task(table.splits["test"]), Embeddings(r, r, r), None, "none"))


def scores_of(
    query_of: Mapping[str, str], named: Mapping[str, str], embedding: Mapping[str, torch.Tensor]
) -> dict[str, np.ndarray]:
    """Query id → cosine to every document (D,); −inf to the one with its id."""
    documents = torch.stack([embedding[text] for text in named]).numpy()
    place = {name: number for number, name in enumerate(named.values())}
    scores = {query: documents @ embedding[text].numpy() for query, text in query_of.items()}
    for query, row in scores.items():
        if query in place:
            row[place[query]] = -np.inf
    return scores


def plain(
    scores: Mapping[str, np.ndarray], qrels: Mapping[str, Mapping[str, int]], names: list[str]
) -> dict[str, float]:
    """The definitions, word by word."""
    place = {name: number for number, name in enumerate(names)}
    sums = dict.fromkeys(FIGURES, 0.0)
    for query, of in qrels.items():
        ranks = sorted(1 + int((scores[query] > scores[query][place[name]]).sum()) for name in of)
        sums["top1"] += ranks[0] == 1
        sums["mrr"] += 1 / ranks[0]
        ideal = sum(1 / math.log2(i + 1) for i in range(1, min(len(ranks), 10) + 1))
        sums["ndcg@10"] += sum(1 / math.log2(rank + 1) for rank in ranks if rank <= 10) / ideal
        sums["map"] += sum(i / rank for i, rank in enumerate(ranks, start=1)) / len(ranks)
        for k in (1, 10, 100):
            sums[f"recall@{k}"] += sum(rank <= k for rank in ranks) / len(ranks)
    return {name: value / len(qrels) for name, value in sums.items()}


def by_trec(
    scores: Mapping[str, np.ndarray], qrels: Mapping[str, Mapping[str, int]], names: list[str]
) -> dict[str, float]:
    sums = np.zeros(len(TREC))
    queries = list(qrels)
    for start in range(0, len(queries), SOME):
        some = {query: dict(qrels[query]) for query in queries[start : start + SOME]}
        run = {
            query: {n: s for n, s in zip(names, scores[query].tolist(), strict=True) if n != query} for query in some
        }
        found = pytrec_eval.RelevanceEvaluator(
            some, {"success.1", "recip_rank", "ndcg_cut.10", "map", "recall.1,10,100"}
        )
        sums += [sum(of[name] for of in found.evaluate(run).values()) for name in TREC]
    return dict(zip(FIGURES, (sums / len(queries)).tolist(), strict=True))


class Encoder:
    """A model that knows its texts' embeddings already."""

    similarity_fn_name = "cosine"

    def __init__(self, embedding: Mapping[str, torch.Tensor]) -> None:
        self.embedding = embedding
        self.model_card_data = SimpleNamespace(
            set_evaluation_metrics=lambda *_: None
        )  # where the evaluator leaves them

    def encode(self, texts: list[str], **_: object) -> torch.Tensor:
        return torch.stack([self.embedding[text] for text in texts])

    encode_query = encode_document = encode


def by_sentence_transformers(
    query_of: Mapping[str, str],
    named: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    embedding: Mapping[str, torch.Tensor],
) -> dict[str, float]:
    warnings.simplefilter("ignore")
    from sentence_transformers.evaluation import InformationRetrievalEvaluator

    num, queries, sums = len(named), list(query_of), np.zeros(len(FIGURES))
    for start in range(0, len(queries), SOME):
        some = {query: query_of[query] for query in queries[start : start + SOME]}
        evaluator = InformationRetrievalEvaluator(
            some,
            {name: text for text, name in named.items()},
            {query: set(qrels[query]) for query in some},
            mrr_at_k=[num],
            ndcg_at_k=[10],
            accuracy_at_k=[1],
            precision_recall_at_k=[1, 10, 100],
            map_at_k=[num],
            write_csv=False,
            score_functions={"cosine": lambda a, b: a @ b.T},
        )
        found = evaluator(Encoder(embedding))
        keys = ("accuracy@1", f"mrr@{num}", "ndcg@10", f"map@{num}", "recall@1", "recall@10", "recall@100")
        sums += [len(some) * found[f"cosine_{key}"] for key in keys]
    return dict(zip(FIGURES, (sums / len(queries)).tolist(), strict=True))


if __name__ == "__main__":
    sys.exit(main())

"""Mining and ranking among 100,000 documents with random embeddings: seconds, and the most memory held at a time.

    python benchmarks/many_documents.py [--documents 100000] [--queries 2000] [--width 384] [--threads 2]

Queries have three right answers each. Mined are eight negatives a training pair; ranked are all test queries, by
distance and with the head re-ranking the first ten, and `--scored` of them with the head scoring every document. Memory
is the process's peak (ru_maxrss) by the end of each step; embeddings of all texts are part of it. A Markdown table.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from biencoder_ablate.config.compose import load_config
from biencoder_ablate.data.corpus import Document, Pair, build_corpus
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.evaluation.pair_scores import pair_scorer
from biencoder_ablate.evaluation.protocols import final_rankings, split_metrics
from biencoder_ablate.model.biencoder import BiEncoder
from biencoder_ablate.training.negatives import build_pool, draw_negatives
from biencoder_ablate.training.plan import architecture_of


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("documents", 100_000), ("queries", 2000), ("width", 384), ("threads", 2), ("scored", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(
        f"{asked.documents} documents, {asked.queries} queries with 3 right answers each, width {asked.width}, ", end=""
    )
    print(f"{asked.threads} threads\n\n| step | seconds | CPU seconds | peak memory, MB |\n|---|---|---|---|")
    random = np.random.default_rng(0)
    documents = [Document(f"d{number}", f"document {number}") for number in range(asked.documents)]

    def corpus() -> tuple:
        pairs = [
            Pair(
                split,
                "",
                f"{split}{query}",
                "",
                i,
                f"query {split} {query}",
                f"document {d}",
                1,
                f"{split}{query}",
                f"d{d}",
            )
            for split in ("train", "test")
            for query in range(asked.queries)
            for i, d in enumerate(random.choice(asked.documents, 3, replace=False).tolist())
        ]
        table = build_table(build_corpus("made", pairs, documents=documents, may_lack=("val",)))
        return table, build_task(table.splits["test"]), build_pool(table.splits["train"])

    table, test, pool = step("corpus, candidates, pool", corpus)
    model = BiEncoder(architecture_of(load_config([]), asked.width))

    def embed() -> tuple:
        h = torch.randn(len(table.texts), asked.width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            embeddings = model.embed(h)
        return embeddings, pair_scorer(model, embeddings)

    embeddings, score = step(f"embeddings of {len(table.texts)} texts, terms of the head", embed)
    train = table.splits["train"]
    step(
        f"mining: 8 nearest for {len(train)} pairs",
        lambda: draw_negatives(pool, 1.0, 0, 0, embeddings, train, per_pair=8),
    )
    step("ranking, rerank=none", lambda: split_metrics(final_rankings(test, embeddings, score, "none")))
    step("ranking, rerank=10", lambda: split_metrics(final_rankings(test, embeddings, score, 10)))
    few = np.arange(asked.scored)
    kept = np.isin(test.qrels.row, few)
    qrels = replace(test.qrels, **{name: value[kept] for name, value in vars(test.qrels).items()})
    some = replace(test, pair=test.pair[few], qrels=qrels, counts=test.counts[few], clean_differs=few[:0])
    step(
        f"ranking, rerank=all, {asked.scored} queries",
        lambda: split_metrics(final_rankings(some, embeddings, score, "all")),
    )


def step(name: str, work: Callable) -> object:
    started = time.perf_counter(), time.process_time()
    found = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    print(f"| {name} | {wall:.1f} | {cpu:.1f} | {peak:.0f} |", flush=True)
    return found


if __name__ == "__main__":
    main()

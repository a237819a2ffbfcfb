"""How cost grows with pairs and with tokens, against the line one would expect."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import our_way
import torch
from setting import Setting

from biencoder_ablate.encoder.device import forward_flops
from biencoder_ablate.evaluation.candidates import CandidateSet, as_candidates, candidate_texts
from biencoder_ablate.evaluation.pair_scores import pair_scorer
from biencoder_ablate.evaluation.ranking import rank
from biencoder_ablate.model.biencoder import BiEncoder
from biencoder_ablate.training.plan import architecture_of


def lines(setting: Setting, num_turns: int) -> Iterator[str]:
    """Two Markdown tables."""
    yield "| pairs | ranking, s | beside the first | expected (squared) |"
    yield "|---|---|---|---|"
    yield from _pairs(setting, num_turns)
    yield ""
    yield "| tokens | training step, s | beside the first | expected (operations) |"
    yield "|---|---|---|---|"
    yield from _tokens(setting, num_turns)


def _pairs(setting: Setting, num_turns: int) -> Iterator[str]:
    """Ranking N pairs among 2N candidates, N times 1, 2, 4 and 8, from given embeddings: N² distances."""
    split = setting.table().splits["train"]
    candidates, width = candidate_texts(split), 384
    num_texts = int(candidates.max()) + 1
    h = torch.randn(num_texts, width, generator=torch.Generator().manual_seed(0))
    model = BiEncoder(architecture_of(setting.config(), width))
    base, nothing = len(split) // 8, np.empty(0, dtype=np.int64)
    with torch.no_grad():
        embeddings = model.embed(h)

    def seconds_of(num: int) -> float:
        chosen = as_candidates(np.concatenate([candidates[:num], candidates[len(split) : len(split) + num]]))
        rows, point = np.arange(num), split.point[:num]
        started = time.perf_counter()
        with torch.no_grad():
            asked = CandidateSet(rows, (nothing, nothing), (nothing, nothing))
            rank(embeddings, point, chosen, [asked], pair_scorer(model, embeddings), 10)
        return time.perf_counter() - started

    sizes = [base * factor for factor in (1, 2, 4, 8)]
    taken = {num: statistics.median([seconds_of(num) for _ in range(num_turns + 1)][1:]) for num in sizes}
    for num in sizes:
        yield f"| {num} | {taken[num]:.3g} | {taken[num] / taken[base]:.3g} | {(num / base) ** 2:.3g} |"


def _tokens(setting: Setting, num_turns: int) -> Iterator[str]:
    """A training step of the same triples with texts cut at 64 to 512 tokens."""
    first: tuple[float, float] | None = None
    for max_tokens in (64, 128, 256, 512):
        given = replace(setting, max_tokens=max_tokens)
        parts = our_way.build(given)
        step = our_way.training(given, num_turns + 1)
        seconds = statistics.median([step(index) for index in range(num_turns + 1)][1:])
        source = parts.context.texts
        flops = forward_flops(source.module.config, source.tokens.lengths).sum()  # type: ignore[union-attr]
        first = first or (seconds, flops)
        yield f"| {max_tokens} | {seconds:.3g} | {seconds / first[0]:.3g} | {flops / first[1]:.3g} |"

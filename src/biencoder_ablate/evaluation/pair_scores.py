"""The head's score of listed pairs of texts: by its own forward, or without building features where it separates.

A pair is ranked by BiEncoder.pair_score of its logits. A head says itself whether its logits separate into terms of one
text and sums over max(a, b) (model/heads.py, SeparableForm); one that does not say so is run as it is. With
|a − b| = 2 max(a, b) − a − b, in each dimension of the parts laid side by side,

    weighted features            (u − w)·a + (v − w)·b + 2 w·max(a, b)      u, v, w the weights of a, b, |a − b|
    sum of the features          2 Σ max(a, b)
    sum of their squares         2 Σ a² + 2 Σ b² − 2 a·b

and a ReLU on the features changes a and b only. Terms of one text are computed once; a pair costs two rows read, one
maximum, one product and a matrix product with three columns. A text has one h, but with two towers one r as a point and
another as a candidate.

The variance, mean square less squared mean, needs neither centring nor clamping: with m = max(a, b),
a² + b² + (a − b)² ≥ 1.5 m², while the mean is 2 Σ m / F, so that it is at least mean² / 8 whatever the texts, and
rounding in the difference is amplified nine times at most.

T texts, M pairs, D summed width of the parts, F = 3 D features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from biencoder_ablate.model.biencoder import FUSION_PARTS, BiEncoder, Embeddings
from biencoder_ablate.model.heads import SeparableForm, head_score, is_dead, separable_of

PLAIN_FLOATS = 4_000_000
"""How many floats the features of a chunk of pairs take, on a GPU also the rows that the fast way reads (16 MB)."""
CACHE_FLOATS = 262_144
"""How many floats each of the fast way's three buffers has on the CPU (1 MB each)."""

PairScorer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Text indices of points (M,) and of candidates (M,) → (score (M,) float32, dead (M,) bool)."""
_Logits = Callable[[Tensor, Tensor], Tensor]
"""Text indices of points (m,) and of candidates (m,) → logits (m, 2)."""


def pair_scorer(model: BiEncoder, embeddings: Embeddings, fast: bool = True) -> PairScorer:
    """Scores pairs of the T texts that `embeddings` are of, without gradients and with the model in eval mode.

    `fast` equals the plain way to float tolerance, several times faster; it is the plain way where the head does
    not separate. Memory beside the embeddings: some 32 bytes a pair, and 16 MB or, for a head of one's own, what
    its forward takes for PLAIN_FLOATS of features.
    """
    model.eval()
    device = embeddings.h.device
    num_features = 3 * sum(model.architecture.feature_widths)
    separable = separable_of(model.head) if fast else None
    with torch.no_grad():
        if separable is None:
            logits_of = _by_forward(model, embeddings)
            num_pairs = PLAIN_FLOATS // num_features
        else:
            logits_of = _by_terms(model, separable, embeddings)
            # On the CPU the three buffers, D floats a pair, should stay in its cache.
            floats = CACHE_FLOATS if device.type == "cpu" else PLAIN_FLOATS
            num_pairs = 3 * floats // num_features
    num_pairs = max(1, num_pairs)

    @torch.no_grad()
    def score(points: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        points, candidates = points.to(device), candidates.to(device)
        scores = torch.empty(len(points), device=device)
        dead = torch.empty(len(points), dtype=torch.bool, device=device)
        for start in range(0, len(points), num_pairs):
            chunk = slice(start, start + num_pairs)
            a, b = points[chunk], candidates[chunk]
            logits = logits_of(a, b)
            dead[chunk] = is_dead(logits)
            if model.architecture.score == "sum":
                r_a, r_b = embeddings.point[a], embeddings.candidate[b]
                scores[chunk] = model.pair_score(logits, r_a, r_b)
            else:
                scores[chunk] = head_score(logits)  # the embeddings need not be read
        return scores, dead

    return score


def _by_forward(model: BiEncoder, embeddings: Embeddings) -> _Logits:
    """The plain way: the features of pairs are built, and the head is run over them."""

    def logits_of(a: Tensor, b: Tensor) -> Tensor:
        h_a, r_a = embeddings.h_point[a], embeddings.point[a]
        h_b, r_b = embeddings.h[b], embeddings.candidate[b]
        return model.logits(h_a, r_a, h_b, r_b)

    return logits_of


def _by_terms(model: BiEncoder, separable: SeparableForm, embeddings: Embeddings) -> _Logits:
    """The fast way, as the module's docstring derives it; weights are summed in float64, on the CPU, since not every
    device has it."""
    h = embeddings.h
    architecture = model.architecture
    parts = FUSION_PARTS[architecture.fusion]

    # The parts of each text side by side, (T, D): one matrix where a text is the same as a point and as a candidate.
    point_parts = {"r": embeddings.point, "h": embeddings.h_point}
    as_point = as_candidate = torch.cat([point_parts[part] for part in parts], dim=1).float()
    if embeddings.candidate is not embeddings.point or embeddings.h_point is not h:
        candidate_parts = {"r": embeddings.candidate, "h": h}
        as_candidate = torch.cat([candidate_parts[part] for part in parts], dim=1).float()

    # Features come part by part, each as a, b, |a − b|; the weights here by kind, over all parts at once: (2, D) each.
    weight = separable.weight.detach().cpu().double()  # (2, F)
    widths = [3 * width for width in architecture.feature_widths]
    by_part = [part.unflatten(1, (3, -1)) for part in weight.split(widths, dim=1)]
    weight_a, weight_b, weight_difference = torch.cat(by_part, dim=2).unbind(1)

    # What max(a, b) is multiplied by: two rows for the logits, and a third of ones for the mean of the features.
    max_rows = [2 * weight_difference]
    if separable.centred:
        max_rows.append(torch.ones_like(weight_difference[:1]))
    weight_max = torch.cat(max_rows).float().to(h.device)
    weight_sums = weight.sum(1).float().to(h.device)
    difference = weight_difference.T.float().to(h.device)  # (D, 2)
    bias = separable.bias.detach().float().to(h.device)
    two_over_features = 2 / weight.shape[1]

    def text_terms(texts: Tensor, text_weight: Tensor) -> Tensor:
        kept = texts
        if separable.rectified:
            kept = texts.relu()
        of_text = text_weight.T.float().to(h.device)
        return kept @ of_text - texts @ difference

    point_terms = text_terms(as_point, weight_a)  # (T, 2)
    candidate_terms = text_terms(as_candidate, weight_b)
    point_squares = as_point.square().sum(1)  # (T,)
    candidate_squares = as_candidate.square().sum(1)
    buffers: list[Tensor] = []

    def logits_of(a: Tensor, b: Tensor) -> Tensor:
        # Memory that is used again is several times faster on a CPU than fresh memory.
        if not buffers or len(buffers[0]) < len(a):
            buffers[:] = [as_point.new_empty(len(a), as_point.shape[1]) for _ in range(3)]
        x, y, product = (buffer[: len(a)] for buffer in buffers)
        torch.index_select(as_point, 0, a, out=x)
        torch.index_select(as_candidate, 0, b, out=y)

        if separable.eps is not None:
            torch.mul(x, y, out=product)
            squares = point_squares[a] + candidate_squares[b] - product.sum(1)
            mean_square = squares[:, None] * two_over_features

        torch.maximum(x, y, out=product)
        sums = F.linear(product, weight_max)  # (m, 2), or (m, 3) where centred
        logits = point_terms[a] + candidate_terms[b] + sums[:, :2]
        if separable.eps is not None:
            if separable.centred:
                mean = sums[:, 2:] * two_over_features
                logits -= mean * weight_sums
                mean_square = mean_square - mean.square()
            logits *= torch.rsqrt(mean_square + separable.eps)
        return separable.finish(logits + bias)

    return logits_of

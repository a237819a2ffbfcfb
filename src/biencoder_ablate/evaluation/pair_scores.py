"""The head's score of listed pairs of texts: by its own forward, or without building features where it separates.

What a pair is ranked by is BiEncoder.pair_score of its logits. A head says itself whether its logits come apart into
terms of one text and sums over max(a, b) (model/heads.py, SeparableForm); one that does not say so is run as it is.
With |a − b| = 2 max(a, b) − a − b, in each dimension of the parts laid side by side,

    weighted features            (u − w)·a + (v − w)·b + 2 w·max(a, b)      u, v, w the weights of a, b, |a − b|
    sum of the features          2 Σ max(a, b)
    sum of their squares         2 Σ a² + 2 Σ b² − 2 a·b

and max(x, 0) of the features changes a and b only. Terms of one text are worked out once; a pair costs two rows
read, one maximum, one product and a matrix product with three columns. A text has one h, but with two towers one r
as a point and another as a candidate.

The variance, mean square less squared mean, needs neither centring nor clamping: with m = max(a, b),
a² + b² + (a − b)² ≥ 1.5 m², while the mean is 2 Σ m / F, so that it is at least mean² / 8 whatever the texts, and
rounding in the difference is amplified nine times at most.

T texts, M pairs, D summed width of the parts, F = 3 D features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from biencoder_ablate.model.biencoder import FUSION_PARTS, BiEncoder, Embeddings
from biencoder_ablate.model.heads import SeparableForm, head_score, is_dead, separable_of

PLAIN_FLOATS = 4_000_000
"""The plain way, and the fast one on a GPU, takes pairs whose features or rows are so many floats at once (16 MB)."""
CACHE_FLOATS = 262_144
"""Floats of one of the fast way's three buffers on the CPU (1 MB each)."""

PairScorer = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Text indices of points (M,) and of candidates (M,) → (score (M,) float32, dead (M,) bool)."""
_Logits = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Text indices of points (m,) and of candidates (m,) → logits (m, 2)."""


def pair_scorer(model: BiEncoder, embeddings: Embeddings, fast: bool = True) -> PairScorer:
    """Scores pairs of the T texts that `embeddings` are of, without gradients and with the model in eval mode.

    `fast` equals the plain way to float tolerance, several times faster; it is the plain way where the head does
    not separate. Memory beside the embeddings: some 32 bytes a pair, and 16 MB or, for a head of one's own, what
    its forward takes for PLAIN_FLOATS of features.
    """
    model.eval()
    device, with_similarity = embeddings.h.device, model.architecture.score == "sum"
    num_features = 3 * sum(model.architecture.feature_widths)
    separable = separable_of(model.head) if fast else None
    with torch.no_grad():
        if separable is None:
            num_pairs, logits_of = PLAIN_FLOATS // num_features, _by_forward(model, embeddings)
        else:
            floats = CACHE_FLOATS if device.type == "cpu" else PLAIN_FLOATS
            num_pairs, logits_of = 3 * floats // num_features, _by_terms(model, separable, embeddings)

    def score(points: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        points, candidates = points.to(device), candidates.to(device)
        scores = torch.empty(len(points), device=device)
        dead = torch.empty(len(points), dtype=torch.bool, device=device)
        with torch.no_grad():
            for start in range(0, len(points), max(1, num_pairs)):
                piece = slice(start, start + max(1, num_pairs))
                a, b = points[piece], candidates[piece]
                logits = logits_of(a, b)
                dead[piece] = is_dead(logits)
                scores[piece] = (
                    model.pair_score(logits, embeddings.point[a], embeddings.candidate[b])
                    if with_similarity
                    else head_score(logits)
                )
        return scores, dead

    return score


def _by_forward(model: BiEncoder, embeddings: Embeddings) -> _Logits:
    """The plain way: the features of pairs are built, and the head is run over them."""
    h, h_point, point, candidate = embeddings.h, embeddings.h_point, embeddings.point, embeddings.candidate
    return lambda a, b: model.logits(h_point[a], point[a], h[b], candidate[b])


def _by_terms(model: BiEncoder, separable: SeparableForm, embeddings: Embeddings) -> _Logits:
    """The fast way, as the module says; weights are summed up in float64 on the CPU, which all machines have."""
    h, architecture = embeddings.h, model.architecture
    parts = FUSION_PARTS[architecture.fusion]
    as_point = torch.cat([{"r": embeddings.point, "h": embeddings.h_point}[part] for part in parts], dim=1).float()
    as_candidate = as_point
    if embeddings.candidate is not embeddings.point or embeddings.h_point is not h:
        as_candidate = torch.cat([{"r": embeddings.candidate, "h": h}[part] for part in parts], dim=1).float()
    weight = separable.weight.detach().cpu().double()
    pieces = weight.split([3 * width for width in architecture.feature_widths], dim=1)
    # Features come part by part, each as a, b, |a − b|; here by kind, over all parts at once: (2, D) each.
    of_a, of_b, of_difference = torch.cat([piece.unflatten(1, (3, -1)) for piece in pieces], dim=2).unbind(1)
    rows = [2 * of_difference, *([torch.ones_like(of_difference[:1])] if separable.centred else [])]
    of_max, weight_sums = torch.cat(rows).float().to(h.device), weight.sum(1).float().to(h.device)
    bias = separable.bias.detach().float().to(h.device)

    def own_terms(texts: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        kept = texts.relu() if separable.rectified else texts
        return kept @ own.T.float().to(h.device) - texts @ of_difference.T.float().to(h.device)

    point_terms, candidate_terms = own_terms(as_point, of_a), own_terms(as_candidate, of_b)
    point_squares, candidate_squares = as_point.square().sum(1), as_candidate.square().sum(1)
    buffers: list[torch.Tensor] = []

    def logits_of(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if not buffers or len(buffers[0]) < len(a):
            buffers[:] = [as_point.new_empty(len(a), as_point.shape[1]) for _ in range(3)]
        x, y, product = (buffer[: len(a)] for buffer in buffers)
        torch.index_select(as_point, 0, a, out=x)
        torch.index_select(as_candidate, 0, b, out=y)
        if separable.eps is not None:
            squares = point_squares[a] + candidate_squares[b] - torch.mul(x, y, out=product).sum(1)
            mean_square = squares[:, None] * (2 / weight.shape[1])
        sums = F.linear(torch.maximum(x, y, out=product), of_max)
        logits = point_terms[a] + candidate_terms[b] + sums[:, :2]
        if separable.eps is not None:
            if separable.centred:
                mean = sums[:, 2:] * (2 / weight.shape[1])
                logits -= mean * weight_sums
                mean_square = mean_square - mean.square()
            logits *= torch.rsqrt(mean_square + separable.eps)
        return separable.finish(logits + bias)

    return logits_of

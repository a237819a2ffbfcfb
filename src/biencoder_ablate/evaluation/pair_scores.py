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

from collections.abc import Callable, Sequence

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
    score_sums = model.architecture.score == "sum"
    logits_of, num_pairs = _choose_way(model, embeddings, fast)

    @torch.no_grad()
    def score(points: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        points = points.to(device)
        candidates = candidates.to(device)
        total = len(points)
        scores = torch.empty(total, device=device)
        dead = torch.empty(total, dtype=torch.bool, device=device)
        for start in range(0, total, num_pairs):
            chunk = slice(start, start + num_pairs)
            a = points[chunk]
            b = candidates[chunk]
            logits = logits_of(a, b)
            dead[chunk] = is_dead(logits)
            # Only a score with the similarity in it needs the embeddings read.
            if score_sums:
                r_a = embeddings.point[a]
                r_b = embeddings.candidate[b]
                scores[chunk] = model.pair_score(logits, r_a, r_b)
            else:
                scores[chunk] = head_score(logits)
        return scores, dead

    return score


@torch.no_grad()
def _choose_way(model: BiEncoder, embeddings: Embeddings, fast: bool) -> tuple[_Logits, int]:
    """What gives a pair its logits, and how many pairs it is given at once."""
    num_features = 3 * sum(model.architecture.feature_widths)
    separable = separable_of(model.head) if fast else None
    if separable is None:
        floats_a_pair = num_features
        floats = PLAIN_FLOATS
        logits_of = _by_forward(model, embeddings)
    else:
        # Each of the three buffers takes a third of the features' floats; on the CPU they should stay in its cache.
        floats_a_pair = num_features // 3
        on_cpu = embeddings.h.device.type == "cpu"
        floats = CACHE_FLOATS if on_cpu else PLAIN_FLOATS
        logits_of = _by_terms(model, separable, embeddings)
    num_pairs = floats // floats_a_pair
    return logits_of, max(1, num_pairs)


def _by_forward(model: BiEncoder, embeddings: Embeddings) -> _Logits:
    """The plain way: the features of pairs are built, and the head is run over them."""

    def logits_of(a: Tensor, b: Tensor) -> Tensor:
        h_a = embeddings.h_point[a]
        r_a = embeddings.point[a]
        h_b = embeddings.h[b]
        r_b = embeddings.candidate[b]
        return model.logits(h_a, r_a, h_b, r_b)

    return logits_of


def _by_terms(model: BiEncoder, separable: SeparableForm, embeddings: Embeddings) -> _Logits:
    """The fast way, as the module's docstring derives it; weights are summed in float64, on the CPU, since not every
    device has it."""
    device = embeddings.h.device
    as_point, as_candidate = _side_by_side(model, embeddings)
    weight = separable.weight.detach().cpu().double()  # (2, F)
    weight_a, weight_b, weight_difference = _weights_by_kind(weight, model.architecture.feature_widths)

    # What max(a, b) is multiplied by: two rows for the logits, and a third of ones for the mean of the features.
    max_rows = [2 * weight_difference]
    if separable.centred:
        ones = torch.ones_like(weight_difference[:1])
        max_rows.append(ones)

    def on_device(values: Tensor) -> Tensor:
        return values.float().to(device)

    weight_max = on_device(torch.cat(max_rows))
    weight_sums = on_device(weight.sum(1))
    difference = on_device(weight_difference.T)  # (D, 2)
    bias = on_device(separable.bias.detach())
    num_features = weight.shape[1]
    two_over_features = 2 / num_features

    def text_terms(texts: Tensor, text_weight: Tensor) -> Tensor:
        kept = texts.relu() if separable.rectified else texts
        weighted = kept @ on_device(text_weight.T)
        return weighted - texts @ difference

    point_terms = text_terms(as_point, weight_a)  # (T, 2)
    candidate_terms = text_terms(as_candidate, weight_b)
    point_squares = as_point.square().sum(1)  # (T,)
    candidate_squares = as_candidate.square().sum(1)
    width = as_point.shape[1]
    buffers: list[Tensor] = []

    def logits_of(a: Tensor, b: Tensor) -> Tensor:
        num_pairs = len(a)
        # Memory that is used again is several times faster on a CPU than fresh memory.
        if not buffers or len(buffers[0]) < num_pairs:
            buffers[:] = [as_point.new_empty(num_pairs, width) for _ in range(3)]
        x, y, product = (buffer[:num_pairs] for buffer in buffers)
        torch.index_select(as_point, 0, a, out=x)
        torch.index_select(as_candidate, 0, b, out=y)

        # The mean of the features' squares, before `product` is needed for another product.
        if separable.eps is not None:
            torch.mul(x, y, out=product)
            text_squares = point_squares[a] + candidate_squares[b]
            squares = text_squares - product.sum(1)
            mean_square = squares[:, None] * two_over_features

        torch.maximum(x, y, out=product)
        sums = F.linear(product, weight_max)  # (m, 2), or (m, 3) where centred
        logits = point_terms[a] + candidate_terms[b]
        logits = logits + sums[:, :2]

        # Centring takes the mean from each feature, and with it from their variance; then they are divided by its root.
        if separable.eps is not None:
            if separable.centred:
                mean = sums[:, 2:] * two_over_features
                logits -= mean * weight_sums
                mean_square = mean_square - mean.square()
            logits *= torch.rsqrt(mean_square + separable.eps)
        return separable.finish(logits + bias)

    return logits_of


def _side_by_side(model: BiEncoder, embeddings: Embeddings) -> tuple[Tensor, Tensor]:
    """The parts of each text side by side, as a point and as a candidate, (T, D) each; one matrix where they agree."""
    parts = FUSION_PARTS[model.architecture.fusion]

    def joined(r: Tensor, h: Tensor) -> Tensor:
        by_part = {"r": r, "h": h}
        return torch.cat([by_part[part] for part in parts], dim=1).float()

    as_point = joined(embeddings.point, embeddings.h_point)
    same_r = embeddings.candidate is embeddings.point
    same_h = embeddings.h_point is embeddings.h
    if same_r and same_h:
        return as_point, as_point
    as_candidate = joined(embeddings.candidate, embeddings.h)
    return as_point, as_candidate


def _weights_by_kind(weight: Tensor, feature_widths: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Columns of a weight (2, F) by what they are multiplied by: a, b and |a − b|, over all parts at once, (2, D) each.

    Features come part by part, each part as a, b, |a − b|.
    """
    widths = [3 * width for width in feature_widths]
    parts = weight.split(widths, dim=1)
    by_part = [part.unflatten(1, (3, -1)) for part in parts]
    weight_a, weight_b, weight_difference = torch.cat(by_part, dim=2).unbind(1)
    return weight_a, weight_b, weight_difference

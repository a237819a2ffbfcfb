"""Scores listed pairs of texts with the head: the plain way, and one without building their features.

Beside a and b themselves a head sees |a − b| of them, and |a − b| = 2 max(a, b) − a − b. So, for every head but
LayerNorm followed by a ReLU before linear2, a pair's logits are one term of its point, one of its candidate, and
sums over max(a, b); LayerNorm adds the features' sum, 2 Σ max(a, b), and the sum of their squares,
2 Σ a² + 2 Σ b² − 2 a·b. (evaluation/all_pairs.py does the same for all pairs of two lists, and says why the
variance needs no more digits than that.) Terms of one text are worked out once; a pair costs two rows read, one
maximum, one product and a matrix product with three columns.

T texts, M pairs, H and R widths of h and r, D = H + R or one of them by fusion, F = 3 D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from biencoder_ablate.evaluation.ranking import LogitsFunction
from biencoder_ablate.model.biencoder import BiEncoder
from biencoder_ablate.model.fusion import PARTS
from biencoder_ablate.model.heads import PairHead, is_dead, margin

PLAIN_FLOATS = 4_000_000
"""The plain way builds features of so many floats at once (16 MB)."""
CACHE_FLOATS = 262_144
"""Floats of one of the fast way's three buffers on the CPU (1 MB each)."""


def plain_scorer(model: BiEncoder, h: torch.Tensor, r: torch.Tensor) -> LogitsFunction:
    """Scores pairs by running the head over their features, given h (T, H) and r (T, R) of every text."""

    def score(points: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chunk = max(1, PLAIN_FLOATS // model.head.linear2.in_features)
        margins, dead = [], []
        for a, b in zip(points.to(h.device).split(chunk), candidates.to(h.device).split(chunk), strict=True):
            logits = model.logits(h[a], r[a], h[b], r[b])
            margins.append(margin(logits))
            dead.append(is_dead(logits))
        return torch.cat(margins), torch.cat(dead)

    return score


def fast_scorer(model: BiEncoder, h: torch.Tensor, r: torch.Tensor) -> LogitsFunction:
    """`plain_scorer` to float tolerance, several times faster; itself where the head does not separate."""
    head = model.head
    relu = isinstance(head.activation, nn.ReLU)
    relu_before = relu and head.activation_position == "before_linear2"
    if relu_before and isinstance(head.norm, nn.LayerNorm):
        return plain_scorer(model, h, r)
    with torch.no_grad():
        texts = torch.cat([{"h": h, "r": r}[part] for part in PARTS[model.fusion]], dim=1).float()
        terms = _terms_of_texts(head, model.fusion, h.shape[1], r.shape[1], texts, relu_before)

    def score(points: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            logits = _logits(terms, points.to(h.device), candidates.to(h.device))
            if relu and not relu_before:
                logits = logits.relu_()
                return margin(logits), is_dead(logits)
            return margin(logits), torch.zeros(len(points), dtype=torch.bool, device=h.device)

    return score


@dataclass(frozen=True)
class _Terms:
    """What the logits are made of, LayerNorm's weight and bias already inside.

    texts (T, D); as_point and as_candidate (T, 2): a text's own terms; squares (T,): Σ a². max_weights (D, 2), or
    (D, 3) with a column of ones under LayerNorm; constant (2,) and, under LayerNorm, weight_sums (2,) and eps.
    """

    texts: torch.Tensor
    as_point: torch.Tensor
    as_candidate: torch.Tensor
    squares: torch.Tensor
    max_weights: torch.Tensor
    constant: torch.Tensor
    weight_sums: torch.Tensor
    eps: float | None


def _terms_of_texts(
    head: PairHead, fusion: str, pooled_dim: int, retrieval_dim: int, texts: torch.Tensor, relu_before: bool
) -> _Terms:
    weight, constant, eps = head.linear2.weight.double(), head.linear2.bias.double(), None
    if isinstance(head.norm, nn.LayerNorm):
        constant = constant + weight @ head.norm.bias.double()
        weight, eps = weight * head.norm.weight.double(), head.norm.eps
    widths = {"h": pooled_dim, "r": retrieval_dim}
    parts = weight.split([3 * widths[part] for part in PARTS[fusion]], dim=1)
    # Features come part by part, each as a, b, |a − b|; here by kind, over all parts at once: (2, D) each.
    of_point, of_candidate, of_difference = torch.cat([part.unflatten(1, (3, -1)) for part in parts], dim=2).unbind(1)
    columns = [2 * of_difference]
    if eps is not None:
        columns.append(torch.ones_like(of_difference[:1]))
    kept = texts.relu() if relu_before else texts

    def own(weights: torch.Tensor) -> torch.Tensor:
        return kept @ weights.T.float() - texts @ of_difference.T.float()

    return _Terms(
        texts,
        own(of_point),
        own(of_candidate),
        texts.square().sum(1),
        torch.cat(columns).T.float(),
        constant.float(),
        weight.sum(1).float(),
        eps,
    )


def _logits(terms: _Terms, points: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Logits (M, 2) of pairs of text indices, before any ReLU on them."""
    texts, num_features = terms.texts, 3 * terms.texts.shape[1]
    chunk = max(1, (CACHE_FLOATS if texts.device.type == "cpu" else PLAIN_FLOATS) // texts.shape[1])
    a, b, product = (texts.new_empty((min(chunk, len(points)), texts.shape[1])) for _ in range(3))
    logits = terms.as_point[points] + terms.as_candidate[candidates]
    for start in range(0, len(points), chunk):
        piece = slice(start, start + chunk)
        num = len(points[piece])
        torch.index_select(texts, 0, points[piece], out=a[:num])
        torch.index_select(texts, 0, candidates[piece], out=b[:num])
        if terms.eps is None:
            logits[piece] += F.linear(torch.maximum(a[:num], b[:num], out=product[:num]), terms.max_weights.T)
            continue
        dots = torch.mul(a[:num], b[:num], out=product[:num]).sum(1)
        sums = torch.mm(torch.maximum(a[:num], b[:num], out=product[:num]), terms.max_weights)
        mean = sums[:, 2:] * (2 / num_features)
        squares = terms.squares[points[piece]] + terms.squares[candidates[piece]] - dots
        variance = squares[:, None] * (2 / num_features) - mean.square()
        logits[piece] += sums[:, :2] - mean * terms.weight_sums
        logits[piece] *= torch.rsqrt(variance + terms.eps)
    return logits + terms.constant

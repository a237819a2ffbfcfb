"""The training loss of design §2: a triplet loss in retrieval space and two cross-entropies on the head.

B pairs of a batch, R retrieval width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class LossWeights:
    triplet: float = 1.0
    positive: float = 1.0
    negative: float = 1.0
    margin: float = 1.0


@dataclass(frozen=True)
class Losses:
    """Sums over the batch, each unweighted, and their weighted total; divide by B for means."""

    total: torch.Tensor
    triplet: torch.Tensor
    positive: torch.Tensor
    negative: torch.Tensor


def batch_losses(
    r_point: torch.Tensor,
    r_counter: torch.Tensor,
    r_negative: torch.Tensor,
    positive_logits: torch.Tensor,
    negative_logits: torch.Tensor,
    weights: LossWeights,
) -> Losses:
    """Losses of B triplets (B, R) and their logits (B, 2).

    triplet: max(0, ‖p − c‖ − ‖p − n‖ + margin) with p = 2, as torch's TripletMarginLoss (Balntas et al. 2016);
    positive and negative: cross-entropy of (point, counter) to class 1 and of (point, negative) to class 0.
    """
    num = len(r_point)
    triplet = F.triplet_margin_loss(r_point, r_counter, r_negative, margin=weights.margin, p=2, reduction="sum")
    ones = torch.ones(num, dtype=torch.int64, device=r_point.device)
    positive = F.cross_entropy(positive_logits, ones, reduction="sum")
    negative = F.cross_entropy(negative_logits, torch.zeros_like(ones), reduction="sum")
    total = weights.triplet * triplet + weights.positive * positive + weights.negative * negative
    return Losses(total, triplet, positive, negative)

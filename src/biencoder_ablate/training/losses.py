"""The training losses: what a step hands them, and the two that ship. A loss of one's own: docs/extending.md.

A loss is a class registered under `biencoder_ablate.losses`. It is called with a Batch and returns sums over this
process's pairs: `total`, which is trained, and the parts that are logged, unweighted.

B pairs of this process's shard of a batch, N negatives a pair, C texts of a kind in the whole batch, R retrieval width.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from biencoder_ablate.model.biencoder import BiEncoder, Embeddings


@dataclass
class Batch:
    """The pairs of one step, embedded.

    point: Embeddings of B texts. other: Embeddings (1 + N, B, …) of what the points are paired with: row 0 holds the
    counters, the others the negatives.
    gather: lays this process's tensor (B, …) end to end with those of the other processes, gradients included.
    excluded: of "counters", "points" or "negatives", which of all processes' texts of that kind, (B, C) bool in the
    order of `gather`, must not be a pair's negative: its point, every counter of its point's text, and what is not in
    the pool of negatives, as points are where only answers are (negatives.pool).
    """

    model: BiEncoder
    point: Embeddings
    other: Embeddings
    gather: Callable[[torch.Tensor], torch.Tensor]
    excluded: Callable[[str], torch.Tensor]

    @functools.cached_property
    def logits(self) -> torch.Tensor:
        """The head's logits (1 + N, B, 2) of each point with its counter and its negatives.

        One call of the head for all of them: in small batches the number of calls costs more than their size.
        """
        h = self.point.h_point.expand_as(self.other.h)
        r = self.point.point.expand_as(self.other.candidate)
        return self.model.logits(h, r, self.other.h, self.other.candidate)

    @functools.cached_property
    def scores(self) -> torch.Tensor:
        """What stage 2 ranks by, (1 + N, B): the head's score, with the similarity where evaluation.score=sum."""
        r = self.point.point.expand_as(self.other.candidate)
        return self.model.pair_score(self.logits, r, self.other.candidate)

    @property
    def similarities(self) -> torch.Tensor:
        """Of each point to its counter and its negatives in retrieval space, (1 + N, B)."""
        return self.model.similarity(self.point.point, self.other.candidate)

    def similarities_to_all(self, kind: str) -> torch.Tensor:
        """Of each point to all processes' texts of a kind, (B, C); −inf where they must not be its negative."""
        texts = {
            "counters": self.other.candidate[0],  # (B, R)
            "points": self.point.candidate,  # (B, R)
            "negatives": self.other.candidate[1:].transpose(0, 1),  # (B, N, R): pairs first, to be gathered
        }[kind]
        texts = self.gather(texts).flatten(0, -2)  # (C, R)
        similarities = self.model.all_similarities(self.point.point, texts)
        return similarities.masked_fill(self.excluded(kind), -torch.inf)


class Loss(ABC):
    """`parts`: the names of what `__call__` returns beside `total`, as they stand in the log."""

    parts: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Sums over the B pairs: `total` and every one of `parts`."""


class StudyLoss(Loss):
    """The source study's: a triplet loss in retrieval space and two cross-entropies on the head.

    triplet: max(0, ‖p − c‖ − ‖p − n‖ + margin) with p = 2, as torch's TripletMarginLoss (Balntas et al. 2016);
    positive and negative: cross-entropy of (point, counter) to class 1 and of (point, negative) to class 0. With
    several negatives a pair, their mean.
    """

    parts = ("triplet", "positive", "negative")

    def __init__(self, triplet: float = 1.0, positive: float = 1.0, negative: float = 1.0, margin: float = 1.0) -> None:
        self.triplet = triplet
        self.positive = positive
        self.negative = negative
        self.margin = margin

    def __call__(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        counter = batch.other.candidate[0]  # (B, R)
        negatives = batch.other.candidate[1:]  # (N, B, R)
        num_negatives = len(negatives)
        # A triplet for each negative of a pair.
        triplet = F.triplet_margin_loss(
            batch.point.point.expand_as(negatives),
            counter.expand_as(negatives),
            negatives,
            margin=self.margin,
            reduction="sum",
        )
        triplet = triplet / num_negatives

        # Two classes of the head: right answer or not.
        positive_logits = batch.logits[0]  # (B, 2)
        negative_logits = batch.logits[1:].flatten(0, 1)  # (N · B, 2)
        class_1 = torch.ones(len(positive_logits), dtype=torch.int64, device=positive_logits.device)
        class_0 = torch.zeros(len(negative_logits), dtype=torch.int64, device=negative_logits.device)
        positive = F.cross_entropy(positive_logits, class_1, reduction="sum")
        negative = F.cross_entropy(negative_logits, class_0, reduction="sum") / num_negatives

        total = self.triplet * triplet + self.positive * positive + self.negative * negative
        return {"total": total, "triplet": triplet, "positive": positive, "negative": negative}


class ContrastiveLoss(Loss):
    """What the field would do today: a softmax over the batch in retrieval space, and one on the head.

    retrieval: for each point the cross-entropy of its counter in a softmax of similarity / temperature over the
    counter, its own negatives, and, by switches, all counters, points and others' negatives of the batch (InfoNCE,
    van den Oord et al. 2018; with in-batch counters, Henderson et al. 2017). Without texts that must never be the
    pair's negatives, among them points that are in no pool (negatives.pool=answers). head: the cross-entropy of the counter in a softmax of stage 2's score over the counter and the
    pair's own negatives.
    """

    parts = ("retrieval", "head")

    def __init__(
        self,
        temperature: float = 0.05,
        retrieval: float = 1.0,
        head: float = 1.0,
        in_batch_counters: bool = True,
        in_batch_points: bool = True,
        in_batch_negatives: bool = True,
    ) -> None:
        self.temperature = temperature
        self.retrieval = retrieval
        self.head = head
        switches = {"counters": in_batch_counters, "points": in_batch_points, "negatives": in_batch_negatives}
        self.in_batch = [kind for kind, wanted in switches.items() if wanted]

    def __call__(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        rows = batch.similarities.T  # (B, 1 + N), the counter first
        # A pair's own negatives are among those of the batch, where these take part.
        if "negatives" in self.in_batch:
            rows = rows[:, :1]
        others = [batch.similarities_to_all(kind) for kind in self.in_batch]
        rows = torch.cat([rows, *others], dim=1)  # (B, 1 + all rivals)
        retrieval = _cross_entropy_of_first(rows / self.temperature)

        # A head of no weight is measured for the log and has no gradient.
        scores = batch.scores if self.head > 0 else batch.scores.detach()
        head = _cross_entropy_of_first(scores.T)
        return {"total": self.retrieval * retrieval + self.head * head, "retrieval": retrieval, "head": head}


def _cross_entropy_of_first(rows: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of the first of each row of (B, C), summed."""
    first = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    return F.cross_entropy(rows, first, reduction="sum")

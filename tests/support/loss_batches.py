"""Small models and batches whose losses can be worked out plainly."""

import torch

from biencoder_ablate.model.biencoder import Architecture, BiEncoder
from biencoder_ablate.training.losses import Batch

# Texts are numbers. Pairs 0 and 2 have equal counters; the counter of 3 is the point of 0; 4 has the point of 0 and
# another counter; 5 is pair 1 again, and is what makes a softmax over a batch with duplicates wrong without masks.
POINTS = [0, 1, 2, 3, 0, 1]


COUNTERS = [10, 11, 10, 0, 14, 11]


NEGATIVES = [[2, 20], [20, 10], [11, 19], [2, 14], [11, 2], [0, 3]]


NUM_TEXTS = 21


def make_model(similarity="cosine", towers="separate", retrieval_dim=4, score="head"):
    shape = Architecture(6, retrieval_dim, towers, similarity, head="linear", score=score)
    return BiEncoder(shape, seed=3).double()


def make_texts(seed=0):
    return torch.randn(NUM_TEXTS, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_batch(model, h, rows=None, rows_of_all=None, gather=lambda values: values):
    """The pairs `rows` (all) as a step hands them over; `rows_of_all` are those of all processes in order of rank."""
    rows = list(range(len(POINTS))) if rows is None else rows
    rows_of_all = rows if rows_of_all is None else rows_of_all
    others = [[COUNTERS[row] for row in rows], *([NEGATIVES[row][n] for row in rows] for n in range(2))]
    kinds = {
        "counters": [COUNTERS[row] for row in rows_of_all],
        "points": [POINTS[row] for row in rows_of_all],
        "negatives": [text for row in rows_of_all for text in NEGATIVES[row]],
    }
    return Batch(
        model,
        model.embed(h[[POINTS[row] for row in rows]]),
        model.embed(h[torch.tensor(others, dtype=torch.int64)]),
        gather,
        lambda kind: (
            torch.tensor([[is_right(row, text) for text in kinds[kind]] for row in rows])
            .bool()
            .view(len(rows), len(kinds[kind]))
        ),
    )


def plain_contrastive(model, h, temperature=0.05, weights=(1.0, 1.0), switches=(True, True, True), asking=POINTS):
    """The contrastive loss in loops: one pair, one text at a time. `asking` are the points that may be negatives."""
    cosine = model.architecture.similarity == "cosine"

    def similarity(point, text):
        a, b = model.linear1(h[point]), (model.linear1_candidate or model.linear1)(h[text])
        return (a @ b) / (a.norm() * b.norm()) if cosine else -(a - b).norm()

    def score(point, text):
        a, b = model.linear1(h[point]), (model.linear1_candidate or model.linear1)(h[text])
        if cosine:
            a, b = a / a.norm(), b / b.norm()
        zero, one = model.logits(h[point], a, h[text], b)
        added = model.similarity_weight * similarity(point, text) if model.architecture.score == "sum" else 0.0
        return one.float() - zero.float() + added

    sums = {"retrieval": 0.0, "head": 0.0}
    counters, points, negatives = switches
    for row, (point, counter) in enumerate(zip(POINTS, COUNTERS, strict=True)):
        rivals = COUNTERS * counters + asking * points
        rivals += [text for mined in NEGATIVES for text in mined] if negatives else NEGATIVES[row]
        rivals = [similarity(point, text) / temperature for text in rivals if not is_right(row, text)]
        right = similarity(point, counter) / temperature
        sums["retrieval"] += torch.logsumexp(torch.stack([right, *rivals]), 0) - right
        scores = torch.stack([score(point, text) for text in (counter, *NEGATIVES[row])])
        sums["head"] += torch.logsumexp(scores, 0) - scores[0]
    return {"total": weights[0] * sums["retrieval"] + weights[1] * sums["head"], **sums}


def gradients(model, h, total):
    wanted = {name: value for name, value in model.named_parameters()} | {"h": h}
    found = torch.autograd.grad(total, list(wanted.values()), retain_graph=True, materialize_grads=True)
    return dict(zip(wanted, found, strict=True))


def is_right(row, text):
    """Whether a text must not be a negative of a pair: its point, or any counter of its point."""
    return text == POINTS[row] or text in ANSWERS[POINTS[row]]


# Outside the batch, but in the training split, point 1 also has counter 19: mined for 2, it may not be 1's or 5's.
ANSWERS = {0: {10, 14}, 1: {11, 19}, 2: {10}, 3: {0}}

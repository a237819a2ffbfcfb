"""The losses: hand values, torch's own, plain loops from the definitions, and sentence-transformers' in-batch loss."""

import itertools
import math

import numpy as np
import pytest
import torch
from support.loss_batches import COUNTERS, POINTS, gradients, make_batch, make_model, make_texts, plain_contrastive
from torch import nn

from biencoder_ablate.data.corpus import Pair, build_corpus
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.model.biencoder import Architecture, BiEncoder, Embeddings
from biencoder_ablate.training.losses import Batch, ContrastiveLoss, StudyLoss
from biencoder_ablate.training.negatives import build_pool

# Point at the origin; counters at distance 5, 1 and 3; negatives at distance 13, 1.25 and 1.
POINT = torch.zeros(3, 2)
COUNTER = torch.tensor([[3.0, 4.0], [0.0, 1.0], [3.0, 0.0]])
NEGATIVE = torch.tensor([[5.0, 12.0], [1.25, 0.0], [0.0, 1.0]])
# With margin 1: 5 − 13 + 1 < 0; 1 − 1.25 + 1; 3 − 1 + 1.
TRIPLET = 0 + 0.75 + 3
# Cross-entropy to class 1 of [a, b] is log(1 + e^(a−b)); to class 0 it is log(1 + e^(b−a)).
POSITIVE_LOGITS = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [math.log(4), 0.0]])
POSITIVE = math.log(2) + math.log(4 / 3) + math.log(5)
NEGATIVE_LOGITS = torch.tensor([[0.0, 0.0], [0.0, math.log(7)], [math.log(9), 0.0]])
NEGATIVE_LOSS = math.log(2) + math.log(8) + math.log(10 / 9)


def study(point, counter, *negatives, logits, **weights):
    """StudyLoss of embeddings (B, R) of points, counters and every negative, and logits (1 + N, B, 2)."""
    other = torch.stack([counter, *negatives])
    batch = Batch(None, Embeddings(point, point, point), Embeddings(other, other, other), None, None)
    batch.logits = logits
    return StudyLoss(**weights)(batch)


def by_hand(rows=slice(None), **weights):
    logits = torch.stack([POSITIVE_LOGITS[rows], NEGATIVE_LOGITS[rows]])
    return study(POINT[rows], COUNTER[rows], NEGATIVE[rows], logits=logits, **weights)


def test_study_against_hand_values():
    losses = by_hand()
    assert set(losses) == {"total", *StudyLoss.parts}
    assert losses["triplet"].item() == pytest.approx(TRIPLET, abs=2e-5)
    assert losses["positive"].item() == pytest.approx(POSITIVE, abs=1e-5)
    assert losses["negative"].item() == pytest.approx(NEGATIVE_LOSS, abs=1e-5)
    assert losses["total"].item() == pytest.approx(TRIPLET + POSITIVE + NEGATIVE_LOSS, abs=3e-5)


def test_study_weights_and_margin():
    losses = by_hand(triplet=2, positive=0.5, negative=0, margin=10)
    # With margin 10: 5 − 13 + 10; 1 − 1.25 + 10; 3 − 1 + 10. The parts are shown unweighted.
    assert losses["triplet"].item() == pytest.approx(2 + 9.75 + 12, abs=2e-5)
    assert losses["negative"].item() == pytest.approx(NEGATIVE_LOSS, abs=1e-5)
    assert losses["total"].item() == pytest.approx(2 * 23.75 + 0.5 * POSITIVE, abs=5e-5)


def test_study_of_several_negatives_is_their_mean():
    """A second negative at distance 0.5, 3 and 5 of each point: 5 − 0.5 + 1, 1 − 3 + 1 < 0, 3 − 5 + 1 < 0."""
    second = torch.tensor([[0.5, 0.0], [0.0, 3.0], [5.0, 0.0]])
    logits = torch.stack([POSITIVE_LOGITS, NEGATIVE_LOGITS, torch.zeros(3, 2)])
    losses = study(POINT, COUNTER, NEGATIVE, second, logits=logits)
    assert losses["triplet"].item() == pytest.approx((TRIPLET + 5.5) / 2, abs=2e-5)
    assert losses["positive"].item() == pytest.approx(POSITIVE, abs=1e-5)
    assert losses["negative"].item() == pytest.approx((NEGATIVE_LOSS + 3 * math.log(2)) / 2, abs=1e-5)


def test_study_is_torchs_own_losses():
    random = torch.Generator().manual_seed(0)
    r = torch.randn(3, 7, 16, generator=random)
    logits = torch.randn(2, 7, 2, generator=random)
    losses = study(*r, logits=logits, margin=0.5)
    assert torch.equal(losses["triplet"], nn.TripletMarginLoss(margin=0.5, p=2, reduction="sum")(*r))
    entropy = nn.CrossEntropyLoss(reduction="sum")
    assert torch.equal(losses["positive"], entropy(logits[0], torch.ones(7, dtype=torch.int64)))
    assert torch.equal(losses["negative"], entropy(logits[1], torch.zeros(7, dtype=torch.int64)))


def test_study_pulls_the_counter_and_pushes_the_negative():
    """Two points, one inside the margin and one outside it: only the first moves."""
    r = torch.tensor([[[0.0], [0.0]], [[2.0], [1.0]], [[1.0], [9.0]]], requires_grad=True)
    logits = torch.zeros(2, 2, 2, requires_grad=True)
    study(*r, logits=logits)["total"].backward()
    assert r.grad.squeeze(-1).round(decimals=4).tolist() == [[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]
    # Softmax of [0, 0] minus the target: the positive pair's logit₁ must rise, the negative's must fall.
    assert logits.grad.tolist() == [[[0.5, -0.5]] * 2, [[-0.5, 0.5]] * 2]


def test_losses_are_sums_so_that_an_epochs_mean_is_over_pairs():
    parts = [by_hand(slice(0, 2)), by_hand(slice(2, 3))]
    assert sum(part["total"] for part in parts).item() == pytest.approx(by_hand()["total"].item(), abs=1e-5)


SWITCHES = ("in_batch_counters", "in_batch_points", "in_batch_negatives")


def assert_equal_to_loops(model, h, found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-6, abs=1e-6), name
    own, plain = gradients(model, h, found["total"]), gradients(model, h, expected["total"])
    for name, value in plain.items():
        torch.testing.assert_close(
            own[name], value, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("switches", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_contrastive_is_the_plain_loops_with_duplicates(similarity, switches):
    model, h = make_model(similarity), make_texts().requires_grad_()
    found = ContrastiveLoss(0.3, **dict(zip(SWITCHES, switches, strict=True)))(make_batch(model, h))
    assert_equal_to_loops(model, h, found, plain_contrastive(model, h, 0.3, switches=switches))


@pytest.mark.parametrize(("towers", "retrieval_dim"), [("shared", 4), ("shared", None), ("separate", None)])
def test_contrastive_with_every_kind_of_projection(towers, retrieval_dim):
    model, h = make_model("cosine", towers, retrieval_dim), make_texts(1).requires_grad_()
    found = ContrastiveLoss(0.1, retrieval=0.5, head=2.0)(make_batch(model, h))
    assert_equal_to_loops(model, h, found, plain_contrastive(model, h, 0.1, (0.5, 2.0)))


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_score_sum_adds_the_weighted_similarity_and_trains_the_weight(similarity):
    model, h = make_model(similarity, score="sum"), make_texts().requires_grad_()
    with torch.no_grad():
        model.similarity_weight.fill_(1.7)
    found = ContrastiveLoss()(make_batch(model, h))
    assert_equal_to_loops(model, h, found, plain_contrastive(model, h))
    assert gradients(model, h, found["total"])["similarity_weight"].abs() > 1e-3


def test_a_head_of_no_weight_is_logged_and_not_trained():
    model, h = make_model(), make_texts().requires_grad_()
    losses = ContrastiveLoss(head=0.0)(make_batch(model, h))
    assert losses["head"].item() > 0.1
    losses["total"].backward()
    assert all(parameter.grad is None for parameter in model.head.parameters())
    assert model.linear1.weight.grad.abs().max() > 0


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_a_masked_texts_gradient_is_exactly_zero(similarity):
    """Pair 1 alone; both texts mined by another process are its counters: they move nothing and are not moved."""
    model = make_model(similarity)
    own, mined = make_texts().requires_grad_(), torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    found = []
    for shift in (0.0, 5.0):
        batch = make_batch(model, own, [1])
        others = model.as_candidates(mined + shift)
        batch.gather = lambda values, others=others: torch.cat([values, others[None]]) if values.dim() == 3 else values
        batch.excluded = lambda kind: torch.tensor([[False, False, True, True] if kind == "negatives" else [True]])
        losses = ContrastiveLoss()(batch)
        found.append(losses["total"].item())
        gradient, of_own = torch.autograd.grad(losses["total"], [mined, own])
        assert gradient.eq(0).all() and of_own.abs().max() > 0
    assert found[0] == found[1]


def test_many_near_texts_far_from_the_origin_keep_their_distances():
    """More texts than torch's distances take one by one, all with a large common part."""
    model = BiEncoder(Architecture(8, None, similarity="euclidean"))
    random = torch.Generator().manual_seed(0)
    points, candidates = (3 + 0.01 * torch.randn(n, 8, generator=random) for n in (60, 90))
    expected = model.similarity(points[:, None].double(), candidates[None].double())
    torch.testing.assert_close(model.all_similarities(points, candidates).double(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_equal_to_sentence_transformers_where_both_mean_the_same(temperature):
    """No text twice, counters and mined ones of the batch as negatives, no points: cosine, two negatives a pair."""
    losses = pytest.importorskip(
        "sentence_transformers.sentence_transformer.losses",
        reason="compares with sentence-transformers 6 (extra benchmarks)",
    )
    theirs = losses.MultipleNegativesRankingLoss(nn.Identity(), scale=1 / temperature)
    random, num = torch.Generator().manual_seed(0), 9
    model = BiEncoder(Architecture(6, None, similarity="cosine")).double()
    texts = torch.randn(4, num, 6, generator=random, dtype=torch.float64)  # points, counters, two negatives
    mine, other = texts.clone().requires_grad_(), texts.clone().requires_grad_()
    own = torch.eye(num, dtype=torch.bool)
    none = torch.zeros(num, 2 * num, dtype=torch.bool)
    batch = Batch(
        model,
        model.embed(mine[0]),
        model.embed(mine[1:]),
        gather=lambda values: values,
        excluded=lambda kind: none if kind == "negatives" else own,
    )
    found = ContrastiveLoss(temperature, head=0.0, in_batch_points=False)(batch)["total"] / num
    expected = theirs.compute_loss_from_embeddings(list(other), torch.empty(0))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    found.backward()
    expected.backward()
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-6, atol=1e-9)
    assert mine.grad.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("among", "asking"),
    [
        ("all", POINTS),
        ("answers", [0, 0]),  # of the points 0, 1, 2, 3, 0, 1 only 0 answers something
    ],
)
def test_points_of_the_batch_compete_only_where_they_may_be_negatives(among, asking):
    """The masks of a real pool against a plain loop over the texts that are left."""
    named = [*zip(POINTS, COUNTERS, strict=True), (1, 19)]  # the last pair is not in the batch
    pairs = [Pair("train", "t", "d", "pro", n, f"t{a}", f"t{b}") for n, (a, b) in enumerate(named)]
    pairs += [Pair(split, "t", "d", "pro", 1, "other", "else") for split in ("val", "test")]
    pool = build_pool(build_table(build_corpus("made", pairs)).splits["train"], among)

    rows = np.arange(len(POINTS))
    positions = {"counters": pool.counter[rows], "points": pool.point[rows]}
    model, h = make_model(), make_texts().requires_grad_()
    batch = make_batch(model, h)
    batch.excluded = lambda kind: torch.from_numpy(pool.are_excluded(rows, positions[kind]))
    found = ContrastiveLoss(in_batch_negatives=False)(batch)
    expected = plain_contrastive(model, h, switches=(True, True, False), asking=asking)
    for part, value in expected.items():
        assert found[part].item() == pytest.approx(value.item(), rel=1e-6)
    for name, gradient in gradients(model, h, expected["total"]).items():
        torch.testing.assert_close(gradients(model, h, found["total"])[name], gradient, rtol=1e-5, atol=1e-6)


def test_a_loss_stays_on_the_device_of_its_batch():
    """On a device that only checks: torch refuses to mix it with another."""
    logits = torch.zeros(3, 7, 2, device="meta")
    r = torch.zeros(3, 7, 5, device="meta")
    batch = Batch(
        None,
        Embeddings(r[0], r[0], r[0]),
        Embeddings(r, r, r),
        gather=lambda values: values,
        excluded=lambda kind: torch.zeros(7, 14 if kind == "negatives" else 7, dtype=torch.bool, device="meta"),
    )
    batch.logits = logits
    batch.scores = logits[:, :, 1]
    batch.model = BiEncoder(Architecture(5, None))
    for loss in (StudyLoss(), ContrastiveLoss()):
        assert {value.device.type for value in loss(batch).values()} == {"meta"}

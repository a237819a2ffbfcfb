"""The loss against hand values and torch's own losses; the schedules of hard negatives and of the rates."""

import math

import pytest
import torch
from biencoder_ablate.training.schedule import describe_hard_share, hard_share, warmup_factor
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from biencoder_ablate.training.losses import LossWeights, batch_losses

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


def compute(weights=None):
    return batch_losses(POINT, COUNTER, NEGATIVE, POSITIVE_LOGITS, NEGATIVE_LOGITS, weights or LossWeights())


def test_each_loss_against_hand_values():
    losses = compute()
    assert losses.triplet.item() == pytest.approx(TRIPLET, abs=2e-5)
    assert losses.positive.item() == pytest.approx(POSITIVE, abs=1e-5)
    assert losses.negative.item() == pytest.approx(NEGATIVE_LOSS, abs=1e-5)
    assert losses.total.item() == pytest.approx(TRIPLET + POSITIVE + NEGATIVE_LOSS, abs=3e-5)


def test_weights_and_margin():
    losses = compute(LossWeights(triplet=2, positive=0.5, negative=0, margin=10))
    # With margin 10: 5 − 13 + 10; 1 − 1.25 + 10; 3 − 1 + 10. The parts are shown unweighted.
    assert losses.triplet.item() == pytest.approx(2 + 9.75 + 12, abs=2e-5)
    assert losses.negative.item() == pytest.approx(NEGATIVE_LOSS, abs=1e-5)
    assert losses.total.item() == pytest.approx(2 * 23.75 + 0.5 * POSITIVE, abs=5e-5)


def test_equal_to_torchs_own_losses():
    random = torch.Generator().manual_seed(0)
    r = torch.randn(3, 7, 16, generator=random)
    logits = torch.randn(2, 7, 2, generator=random)
    losses = batch_losses(*r, *logits, LossWeights(margin=0.5))
    assert torch.equal(losses.triplet, nn.TripletMarginLoss(margin=0.5, p=2, reduction="sum")(*r))
    entropy = nn.CrossEntropyLoss(reduction="sum")
    assert torch.equal(losses.positive, entropy(logits[0], torch.ones(7, dtype=torch.int64)))
    assert torch.equal(losses.negative, entropy(logits[1], torch.zeros(7, dtype=torch.int64)))


def test_gradients_pull_the_counter_and_push_the_negative():
    """Two points, one inside the margin and one outside it: only the first moves."""
    r = torch.tensor([[[0.0], [0.0]], [[2.0], [1.0]], [[1.0], [9.0]]], requires_grad=True)
    logits = torch.zeros(2, 2, 2, requires_grad=True)
    batch_losses(*r, *logits, LossWeights()).total.backward()
    assert r.grad.squeeze(-1).round(decimals=4).tolist() == [[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]
    # Softmax of [0, 0] minus the target: the positive pair's logit₁ must rise, the negative's must fall.
    assert logits.grad.tolist() == [[[0.5, -0.5]] * 2, [[-0.5, 0.5]] * 2]


def test_losses_are_sums_so_that_an_epochs_mean_is_over_pairs():
    whole = compute()
    weights = LossWeights()
    parts = [
        batch_losses(POINT[rows], COUNTER[rows], NEGATIVE[rows], POSITIVE_LOGITS[rows], NEGATIVE_LOGITS[rows], weights)
        for rows in (slice(0, 2), slice(2, 3))
    ]
    assert sum(part.total for part in parts).item() == pytest.approx(whole.total.item(), abs=1e-5)


def test_constant_schedule_is_the_ratio_at_every_epoch():
    assert [hard_share("constant", epoch, 0.01, None) for epoch in (0, 1, 100)] == [0.01] * 3
    assert hard_share("constant", 5, 0.0, None) == 0.0 and hard_share("constant", 5, 1.0, None) == 1.0


def test_curriculum_rises_from_its_start_to_one():
    """What "hard_negatives_0.01" means in the source study's log names: 0.2 + 0.01·e, and never above 1."""
    shares = [hard_share("curriculum", epoch, 0.01, 0.2) for epoch in (0, 1, 14, 79, 80, 81, 1000)]
    assert shares == pytest.approx([0.2, 0.21, 0.34, 0.99, 1.0, 1.0, 1.0])
    assert max(shares) == 1.0
    assert hard_share("curriculum", 3, 0.0, 0.2) == 0.2
    # random-negative rate 1.0 − 0.05·i of the source study
    assert hard_share("curriculum", 3, 0.05, 0.0) == pytest.approx(0.15)


@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_every_share_is_a_probability_and_never_falls(epoch, ratio, start):
    for schedule, first in (("constant", None), ("curriculum", start)):
        share = hard_share(schedule, epoch, ratio, first)
        assert 0 <= share <= hard_share(schedule, epoch + 1, ratio, first) <= 1


def test_the_share_in_words():
    assert describe_hard_share("constant", 0.01, None) == "1% of each epoch's"
    assert describe_hard_share("constant", 1.0, None) == "100% of each epoch's"
    words = describe_hard_share("curriculum", 0.01, 0.2)
    assert "20% of the first epoch's" in words and "1 points more" in words


def test_warmup_is_linear_then_one():
    assert [warmup_factor(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup_factor(0, 0) == 1.0

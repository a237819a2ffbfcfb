"""Scores of listed pairs: the fast way against the plain one and float64, against hand-worked numbers, and in pieces.

That every head is scored as itself, with either way: tests/test_any_head.py.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biencoder_ablate.evaluation import pair_scores
from biencoder_ablate.evaluation.pair_scores import pair_scorer
from biencoder_ablate.model.biencoder import Architecture, BiEncoder, Embeddings
from biencoder_ablate.model.heads import LinearHead, separable_of

WIDTH = 7
HEADS = [
    {"norm": norm, "activation": activation, "activation_position": position}
    for norm in ("none", "layernorm", "rmsnorm")
    for activation, position in (("none", "after_linear2"), ("relu", "after_linear2"), ("relu", "before_linear2"))
]


def make_model(head, seed=0, retrieval_dim=5, **shape):
    """A bi-encoder with weights far from their first values, the norm's too."""
    model = BiEncoder(Architecture(WIDTH, retrieval_dim, head_options=head, **shape), seed=seed).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.5 * torch.randn(weight.shape, generator=random))
    return model


def embedded(model, num, scale=1.0, offset=0.0, seed=0):
    """Texts of which one lies at zero and two are equal; `offset` moves them all, as a common part does."""
    random = torch.Generator().manual_seed(seed)
    h = scale * torch.randn(num, WIDTH, generator=random) + offset * torch.randn(WIDTH, generator=random)
    h[0], h[1] = 0, h[2]
    return model.embed(h)


def all_pairs(num):
    return torch.cartesian_prod(torch.arange(num), torch.arange(num)).unbind(1)


def doubled(found):
    return Embeddings(found.h.double(), found.point.double(), found.candidate.double())


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("head", HEADS, ids=str)
@settings(max_examples=25, deadline=None)
@given(
    fusion=st.sampled_from(["concat", "pooled", "retrieval"]),
    towers=st.sampled_from(["shared", "separate"]),
    num=st.integers(3, 20),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
    offset=st.sampled_from([0.0, 1.0, 30.0]),
    seed=st.integers(0, 99),
    retrieval_dim=st.sampled_from([5, None]),
)
def test_both_ways_are_float64s(head, fusion, towers, num, scale, offset, seed, retrieval_dim):
    model = make_model(head, seed, retrieval_dim, fusion=fusion, towers=towers)
    found, pairs = embedded(model, num, scale, offset, seed), all_pairs(num)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pair_scores, "CACHE_FLOATS", 200)  # several pieces, the last one short
        patched.setattr(pair_scores, "PLAIN_FLOATS", 500)
        plain, plain_dead = pair_scorer(model, found, fast=False)(*pairs)
        fast, dead = pair_scorer(model, found)(*pairs)
        exact = pair_scorer(model.double(), doubled(found), fast=False)(*pairs)[0]
    largest = float(exact.abs().max())
    tolerance = 1e-5 * (1 + largest) * (1 + offset) * (1 + 30 * (scale == 0.01))
    torch.testing.assert_close(fast, exact, rtol=0, atol=tolerance)
    torch.testing.assert_close(plain, exact, rtol=0, atol=tolerance)
    assert fast.dtype == torch.float32 and dead.dtype == torch.bool and fast.isfinite().all()
    # A pair may be dead in one way and not in the other only where its logits are next to nothing.
    assert float(fast[dead != plain_dead].abs().sum()) <= tolerance * num**2


def by_hand(head, weight, bias):
    """The score of a = (1, 3), b = (2, 1): |a−b| = (1, 2), features 1 3 2 1 1 2, with linear2 so set; and if dead."""
    model = BiEncoder(Architecture(2, None, fusion="pooled", head_options=head))
    model.head.linear2.weight.copy_(torch.tensor(weight))
    model.head.linear2.bias.copy_(torch.tensor(bias))
    h = torch.tensor([[1.0, 3.0], [2.0, 1.0]])
    (score,), (dead,) = pair_scorer(model, model.embed(h))(torch.tensor([0]), torch.tensor([1]))
    return score.item(), dead.item()


def test_a_pair_worked_by_hand():
    """Features' mean 5/3, mean square 20/6, variance 5/9; logits without bias: feature 1, and feature 5 less 6."""
    weight = [[1.0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1.0, -1.0]]
    assert by_hand({}, weight, [-0.5, 3.0]) == (pytest.approx((1 - 2 + 3) - (1 - 0.5)), False)
    assert by_hand({"activation": "relu"}, weight, [-10.5, -7.0]) == (0, True)
    deviation = (5 / 9) ** 0.5
    score, _ = by_hand({"norm": "layernorm"}, weight, [-0.5, 3.0])
    assert score == pytest.approx((-1 / deviation + 3) - ((1 - 5 / 3) / deviation - 0.5), abs=1e-4)
    score, _ = by_hand({"norm": "rmsnorm"}, weight, [-0.5, 3.0])
    assert score == pytest.approx((-1 + 2 * -0.5) / (20 / 6) ** 0.5 + 3.5, abs=1e-4)
    before = {"norm": "layernorm", "activation": "relu", "activation_position": "before_linear2"}
    score, _ = by_hand(before, weight, [-0.5, 3.0])
    assert score == pytest.approx((-(2 - 5 / 3) / deviation + 3) - (0 - 0.5), abs=1e-4)


def test_the_similarity_is_added_where_asked():
    """Point (0, 0) and candidate (3, 4): five apart; half the similarity's weight."""
    scores = {}
    for score in ("head", "sum"):
        model = BiEncoder(Architecture(2, None, fusion="pooled", score=score))
        if score == "sum":
            model.similarity_weight.fill_(0.5)
        found = model.embed(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        scores[score] = [
            pair_scorer(model, found, fast)(torch.tensor([0]), torch.tensor([1])) for fast in (True, False)
        ]
    for (head, dead), (both, dead_too) in zip(*scores.values(), strict=True):
        assert both.item() == pytest.approx(head.item() - 2.5, abs=1e-5) and torch.equal(dead, dead_too)


def test_a_relu_on_the_logits_leaves_dead_pairs_and_nothing_else_does():
    for head, fast in itertools.product(HEADS, (True, False)):
        model = make_model(head)
        scores, dead = pair_scorer(model, embedded(model, 30), fast)(*all_pairs(30))
        assert bool(dead.any()) == ((head["activation"], head["activation_position"]) == ("relu", "after_linear2"))
        assert float(scores[dead].abs().sum()) == 0


def test_a_head_that_separates_builds_no_features(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("features were built")

    monkeypatch.setattr(BiEncoder, "logits", refuse)
    for head in HEADS:
        model = make_model(head)
        score = pair_scorer(model, embedded(model, 5))
        if separable_of(model.head) is None:
            with pytest.raises(AssertionError, match="features"):
                score(torch.arange(5), torch.arange(5))
        else:
            score(torch.arange(5), torch.arange(5))


@pytest.mark.parametrize("fast", [True, False])
def test_a_head_sees_no_more_pairs_at_once_than_fit_the_memory(fast, monkeypatch):
    """36 features a pair: 100 floats hold two pairs' features, or eight pairs' rows of a third of that."""
    monkeypatch.setattr(pair_scores, "PLAIN_FLOATS", 100)
    monkeypatch.setattr(pair_scores, "CACHE_FLOATS", 100)
    seen = []

    class Watched(LinearHead):
        def forward(self, features):
            seen.append(len(features))
            return super().forward(features)

        def separable(self):
            found = super().separable()
            object.__setattr__(found, "finish", lambda logits: seen.append(len(logits)) or logits)
            return found

    model = make_model({})
    model.head = Watched(model.architecture.feature_widths)
    pair_scorer(model, embedded(model, 5), fast)(*all_pairs(5))
    assert seen == ([8, 8, 8, 1] if fast else [2] * 12 + [1])


def test_no_pairs_have_no_scores():
    model = make_model({})
    nothing = torch.empty(0, dtype=torch.int64)
    assert [len(found) for found in pair_scorer(model, embedded(model, 5))(nothing, nothing)] == [0, 0]


def test_scores_carry_no_gradients():
    model = make_model({"norm": "layernorm"}, score="sum")
    with torch.enable_grad():
        for fast in (True, False):
            assert not pair_scorer(model, embedded(model, 5), fast)(*all_pairs(5))[0].requires_grad

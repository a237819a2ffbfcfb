"""The fast pair scorer against the plain one and against float64; and the shortcuts of stage 1 against sorting."""

from dataclasses import replace

import biencoder_ablate.evaluation.fast_scoring as fast_scoring
import numpy as np
import pytest
import torch
from biencoder_ablate.evaluation.fast_scoring import fast_scorer, plain_scorer
from biencoder_ablate.evaluation.stage1 import Question, stage1
from hypothesis import given, settings
from hypothesis import strategies as st

from biencoder_ablate.evaluation import distances
from biencoder_ablate.evaluation import stage1 as stage1_module
from biencoder_ablate.evaluation.ranking import score_lists
from biencoder_ablate.model.biencoder import BiEncoder

HEADS = [
    (norm, activation, position)
    for norm in ("none", "layernorm")
    for activation, position in (("none", "after_linear2"), ("relu", "after_linear2"), ("relu", "before_linear2"))
]


def make_model(fusion, norm, activation, position, seed=0, retrieval_dim=5):
    """A bi-encoder over h of width 7 with weights far from their first values, LayerNorm's too."""
    model = BiEncoder(None, 7, retrieval_dim, fusion, norm, activation, position, seed).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.5 * torch.randn(weight.shape, generator=random))
    return model


def embeddings(model, num, scale, seed):
    h = scale * torch.randn(num, 7, generator=torch.Generator().manual_seed(seed))
    h[0] = 0
    h[1] = h[2]
    return h, model.retrieval(h)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("fusion", ["concat", "pooled", "retrieval"])
@settings(max_examples=15, deadline=None)
@given(
    num=st.integers(3, 30),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
    seed=st.integers(0, 99),
    retrieval_dim=st.sampled_from([5, None]),
)
def test_margins_are_those_of_the_plain_scorer(head, fusion, num, scale, seed, retrieval_dim):
    model = make_model(fusion, *head, seed=seed, retrieval_dim=retrieval_dim)
    h, r = embeddings(model, num, scale, seed)
    points, candidates = torch.cartesian_prod(torch.arange(num), torch.arange(num)).unbind(1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fast_scoring, "CACHE_FLOATS", 200)  # several pieces, the last one short
        plain, plain_dead = plain_scorer(model, h, r)(points, candidates)
        found, dead = fast_scorer(model, h, r)(points, candidates)
        exact = plain_scorer(model.double(), h.double(), r.double())(points, candidates)[0]
    tolerance = 1e-5 * (1 + float(exact.abs().max())) * (1 + 30 * (scale == 0.01))
    torch.testing.assert_close(found.double(), exact.double(), rtol=0, atol=tolerance)
    torch.testing.assert_close(found, plain, rtol=0, atol=tolerance)
    assert found.dtype == torch.float32 and dead.dtype == torch.bool
    assert int((dead != plain_dead).sum()) == 0 or float(found[dead != plain_dead].abs().max()) < tolerance


def test_a_relu_on_the_logits_leaves_dead_pairs_and_nothing_else_does():
    for head in HEADS:
        model = make_model("concat", *head)
        h, r = embeddings(model, 30, 1.0, 0)
        score = fast_scorer(model, h, r)
        margins, dead = score(torch.arange(30).repeat(30), torch.arange(30).repeat_interleave(30))
        assert bool(dead.any()) == (head[1:] == ("relu", "after_linear2"))
        assert float(margins[dead].abs().sum()) == 0


def test_it_builds_no_features(monkeypatch):
    """Only the one head that does not separate runs the head over features."""

    def refuse(*arguments):
        raise AssertionError("features were built")

    for head in HEADS:
        model = make_model("concat", *head)
        h, r = embeddings(model, 5, 1.0, 0)
        monkeypatch.setattr(BiEncoder, "logits", refuse)
        score = fast_scorer(model, h, r)
        if head == ("layernorm", "relu", "before_linear2"):
            with pytest.raises(AssertionError, match="features"):
                score(torch.arange(5), torch.arange(5))
        else:
            score(torch.arange(5), torch.arange(5))


def test_equal_texts_tie_exactly():
    """Lists that hold one text many times, in different places and lists: its margin is one number."""
    model = make_model("concat", "layernorm", "relu", "after_linear2")
    h, r = embeddings(model, 50, 1.0, 0)
    random = np.random.default_rng(0)
    candidate = random.integers(0, 50, 400)
    order = random.integers(0, 400, (60, 40))
    points = random.integers(0, 5, 60)
    margins, dead = score_lists(order, points, candidate, fast_scorer(model, h, r))
    seen = {}
    for point, row, values in zip(points.tolist(), candidate[order].tolist(), margins.tolist(), strict=True):
        for text, value in zip(row, values, strict=True):
            assert seen.setdefault((point, text), value) == value
    assert len(seen) < margins.size and dead.shape == margins.shape


def by_sorting(retrieval, point, candidate, row, k, left_out, admitted):
    """Rank and first k of one point, by Python's own sort."""
    distance = ((retrieval[candidate] - retrieval[point[row]]) ** 2).sum(1).tolist()
    allowed = [c for c in range(len(candidate)) if c not in left_out and admitted[c]]
    ordered = sorted(allowed, key=lambda c: (distance[c], c))
    return ordered.index(row), ordered[:k]


def uncentred(x):
    """Targets whose distances on a grid of whole numbers are exact, so that ties are ties."""
    squares = x.square().sum(1, keepdim=True)
    return distances.Targets(torch.zeros(x.shape[1]), torch.cat([x, torch.ones_like(squares), squares], dim=1))


@st.composite
def rankings_to_do(draw):
    """Points and candidates on a coarse grid, so that ties abound; few distinct texts; exclusions given twice."""
    num_texts, num = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    text = st.integers(0, num_texts - 1)
    point = np.array(draw(st.lists(text, min_size=num, max_size=num)))
    candidate = np.concatenate([draw(st.lists(text, min_size=num, max_size=num)), point]).astype(np.int64)
    retrieval = torch.tensor(draw(st.lists(st.integers(0, 4), min_size=num_texts, max_size=num_texts))).float()[:, None]
    pairs = draw(st.lists(st.tuples(st.integers(0, num - 1), st.integers(0, 2 * num - 1)), max_size=12))
    pairs = sorted((row, c) for row, c in pairs if c != row)
    excluded = tuple(np.array([pair[i] for pair in pairs], dtype=np.int64) for i in (0, 1))
    mask = np.array(draw(st.lists(st.booleans(), min_size=num * 2 * num, max_size=num * 2 * num))).reshape(num, -1)
    mask[np.arange(num), np.arange(num)] = True
    return retrieval, point, candidate, draw(st.integers(1, 6)), excluded, mask


@settings(max_examples=300, deadline=None)
@given(rankings_to_do(), st.sampled_from(["text", "list", "candidate"]), st.integers(1, 5))
def test_every_way_of_stage_1_is_plain_sorting(task, way, block):
    retrieval, point, candidate, k, excluded, mask = task
    rows = np.arange(len(point))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stage1_module, "BLOCK", block)
        patched.setattr(stage1_module, "make_targets", uncentred)
        patched.setattr(stage1_module, "SPARSE", 2.0 if way == "list" else 0.0)
        question = Question(rows, excluded, None if way == "text" else lambda b: mask[b])
        # A second question about some of the rows is answered from the same distances.
        found, again = stage1(retrieval, point, candidate, k, [question, replace(question, rows=rows[::2])])
    for name in ("rank", "order", "distance"):
        assert torch.equal(getattr(again, name), getattr(found, name)[::2])
    if way == "text":
        mask = np.ones_like(mask)
    for row in rows:
        left_out = set(excluded[1][excluded[0] == row].tolist())
        rank, first = by_sorting(retrieval, point, candidate, row, k, left_out, mask[row])
        assert found.rank[row] == rank
        wanted = (first + [-1] * k)[: found.order.shape[1]]
        assert found.order[row].tolist() == wanted
        assert bool(found.distance[row].isfinite().sum() == len(first))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_embeddings_that_are_no_numbers_are_refused(broken):
    retrieval = torch.zeros(3, 2)
    retrieval[2, 1] = broken
    nothing = np.empty(0, dtype=np.int64)
    with pytest.raises(ValueError, match="not all finite"):
        stage1(retrieval, np.array([0]), np.array([1, 2]), 1, [Question(np.array([0]), (nothing, nothing))])

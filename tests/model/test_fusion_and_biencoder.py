"""Fusion: which parts, in which order, how wide; and what the bi-encoder makes of them: towers, similarity, score."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from biencoder_ablate.config.schema import ConfigError
from biencoder_ablate.encoder.texts import encode
from biencoder_ablate.model.biencoder import Architecture, BiEncoder, fuse
from biencoder_ablate.utils.seeding import derive_seed

BERT_BASE = {"concat": 2688, "pooled": 2304, "retrieval": 384}


def make_model(fusion="concat", retrieval_dim=3, pooled_dim=8, seed=0, **more):
    return BiEncoder(Architecture(pooled_dim, retrieval_dim, fusion=fusion, **more), seed=seed)


def make_h(num, width=8, seed=0):
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("fusion", "width"), BERT_BASE.items())
def test_widths_of_bert_base(fusion, width):
    h, r = torch.zeros(2, 768), torch.zeros(2, 128)
    assert fuse(fusion, h, r, h, r).shape == (2, width)
    model = make_model(fusion, 128, 768)
    assert model.head.linear2.in_features == model.head.num_features == width


def test_order_of_the_parts():
    h_a, h_b = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([5.0, 1.0, 3.0])
    r_a, r_b = torch.tensor([0.5, 7.0]), torch.tensor([1.0, 2.0])
    r_parts = [0.5, 7.0, 1.0, 2.0, 0.5, 5.0]
    h_parts = [1.0, -2.0, 3.0, 5.0, 1.0, 3.0, 4.0, 3.0, 0.0]
    assert fuse("concat", h_a, r_a, h_b, r_b).tolist() == r_parts + h_parts
    assert fuse("pooled", h_a, r_a, h_b, r_b).tolist() == h_parts
    assert fuse("retrieval", h_a, r_a, h_b, r_b).tolist() == r_parts


@pytest.mark.parametrize("fusion", BERT_BASE)
def test_fusing_changes_none_of_its_parts(fusion):
    parts = [torch.randn(4, width, generator=torch.Generator().manual_seed(width)) for width in (8, 3, 8, 3)]
    before = [part.clone() for part in parts]
    fuse(fusion, *parts).add_(1)
    assert all(torch.equal(part, kept) for part, kept in zip(parts, before, strict=True))


def test_retrieval_embedding_is_linear1_of_the_pooled_output():
    model = make_model("concat", 3)
    h = make_h(5)
    torch.testing.assert_close(model.as_points(h), h @ model.linear1.weight.T + model.linear1.bias)
    assert model.as_points(h).shape == (5, 3)


@pytest.mark.parametrize(("fusion", "width"), [("concat", 48), ("pooled", 24), ("retrieval", 24)])
def test_without_a_retrieval_dim_the_pooled_output_is_the_embedding(fusion, width):
    model = make_model(fusion, None)
    h = make_h(2)
    assert torch.equal(model.as_points(h), h)
    assert model.head.linear2.in_features == width
    assert not any(isinstance(module, nn.Linear) for module in model.linear1.modules())
    assert model.logits(h[:1], h[:1], h[1:], h[1:]).shape == (1, 2)


@pytest.mark.parametrize("fusion", BERT_BASE)
def test_logits_are_the_head_of_the_features(fusion):
    model = make_model(fusion, 3)
    h = make_h(2, seed=1)
    r = model.as_points(h)
    parts = {
        "concat": [r[0], r[1], (r[0] - r[1]).abs(), h[0], h[1], (h[0] - h[1]).abs()],
        "pooled": [h[0], h[1], (h[0] - h[1]).abs()],
        "retrieval": [r[0], r[1], (r[0] - r[1]).abs()],
    }[fusion]
    expected = model.head.linear2(torch.cat(parts))
    torch.testing.assert_close(model.logits(h[0], r[0], h[1], r[1]), expected)
    # The point comes first: the other way round is another question.
    assert not torch.allclose(model.logits(h[1], r[1], h[0], r[0]), expected)


def test_pooling_by_its_definition():
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    torch.manual_seed(0)
    encoder = BertModel(config).eval()
    ids = torch.tensor([[2, 5, 6, 7, 8, 3], [2, 9, 3, 0, 0, 0]])
    mask = (ids != 0).long()
    with torch.no_grad():
        output = encoder(input_ids=ids, attention_mask=mask)
        states = output.last_hidden_state
        means = torch.stack([states[row, :length].mean(0) for row, length in enumerate(mask.sum(1).tolist())])
        torch.testing.assert_close(encode(encoder, "mean", ids, mask), means)
        assert torch.equal(encode(encoder, "cls", ids, mask), states[:, 0])
        assert torch.equal(encode(encoder, "pooler", ids, mask), output.pooler_output)
        dense = encoder.pooler.dense
        torch.testing.assert_close(
            encode(encoder, "pooler", ids, mask), torch.tanh(states[:, 0] @ dense.weight.T + dense.bias)
        )
        assert torch.equal(encode(encoder, "mean", ids[:1], None), encoder(ids[:1]).last_hidden_state.mean(1))


def test_shared_towers_are_one_embedding_and_separate_ones_two():
    h = make_h(5)
    shared, separate = make_model(), make_model(towers="separate")
    found = shared.embed(h)
    assert found.point is found.candidate and found.h is h
    assert shared.linear1_candidate is None
    found = separate.embed(h)
    torch.testing.assert_close(found.point, h @ separate.linear1.weight.T + separate.linear1.bias)
    other = separate.linear1_candidate
    torch.testing.assert_close(found.candidate, h @ other.weight.T + other.bias)
    assert not torch.allclose(found.point, found.candidate)
    assert torch.equal(separate.as_points(h), found.point) and torch.equal(separate.as_candidates(h), found.candidate)


def test_a_second_tower_changes_no_other_start():
    """Every projection and the head draw from a stream of their own."""
    shared, separate = make_model(seed=4), make_model(seed=4, towers="separate")
    for name, value in shared.state_dict().items():
        assert torch.equal(separate.state_dict()[name], value), name
    torch.manual_seed(derive_seed(4, "weights", "linear1_candidate"))
    assert torch.equal(separate.linear1_candidate.weight, nn.Linear(8, 3).weight)
    assert not torch.equal(separate.linear1_candidate.weight, separate.linear1.weight)


def test_separate_towers_without_a_retrieval_dim_are_as_wide_as_h():
    model = make_model(retrieval_dim=None, towers="separate")
    assert model.linear1.weight.shape == model.linear1_candidate.weight.shape == (8, 8)
    assert model.head.num_features == 48


@pytest.mark.parametrize(("towers", "dim"), [("separate", None), ("separate", 8), ("shared", 8), ("shared", None)])
def test_from_the_identity_training_starts_at_the_encoders_own_embeddings(towers, dim):
    h = make_h(5)
    found = make_model(retrieval_dim=dim, towers=towers, projection_init="identity").embed(h)
    assert torch.equal(found.point, h) and torch.equal(found.candidate, h)


def test_an_identity_between_widths_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"^model\.retrieval_dim=3: .*identity.*; must be null or 8$"):
        make_model(projection_init="identity")


def test_where_the_projections_start_is_no_matter_to_the_head():
    random, identity = (make_model(retrieval_dim=8, projection_init=init, seed=2) for init in ("random", "identity"))
    assert torch.equal(random.head.linear2.weight, identity.head.linear2.weight)


def test_similarity_by_hand():
    """(3, 4) and (4, 3): cosine 24/25, distance √2; as unit vectors (0.6, 0.8) and (0.8, 0.6)."""
    h = torch.tensor([[3.0, 4.0], [4.0, 3.0], [0.0, 0.0]])
    cosine, euclidean = (make_model(retrieval_dim=None, pooled_dim=2, similarity=s) for s in ("cosine", "euclidean"))
    a, b, zero = cosine.embed(h).point
    torch.testing.assert_close(torch.stack([a, b, zero]), torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.0, 0.0]]))
    assert cosine.similarity(a, b).item() == pytest.approx(0.96)
    assert torch.equal(euclidean.embed(h).point, h)
    assert euclidean.similarity(h[0], h[1]).item() == pytest.approx(-math.sqrt(2))
    assert euclidean.similarity(h[0], h[2]).item() == pytest.approx(-5)


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_all_similarities_are_those_of_every_pair(similarity):
    model = make_model(towers="separate", similarity=similarity)
    embedded = model.embed(make_h(40))
    found = model.all_similarities(embedded.point[:6], embedded.candidate)
    expected = model.similarity(embedded.point[:6, None], embedded.candidate[None])
    assert found.shape == (6, 40)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_a_text_beside_itself_has_a_gradient_that_is_a_number(similarity):
    model, h = make_model(retrieval_dim=None, similarity=similarity), make_h(30).requires_grad_()
    r = model.embed(h).point
    (model.similarity(r, r).sum() + model.all_similarities(r, r).sum()).backward()
    assert h.grad.isfinite().all()


def test_the_score_of_stage_2_is_the_head_alone_or_with_the_similarity():
    logits = torch.tensor([[1.0, 3.0], [0.5, 0.0]])
    h = torch.tensor([[3.0, 4.0], [4.0, 3.0]])
    shape = Architecture(2, None, similarity="cosine")
    alone, both = BiEncoder(shape), BiEncoder(replace(shape, score="sum"))
    point, candidate = alone.embed(h).point, alone.embed(h.flip(0)).point
    assert alone.pair_score(logits, point, candidate).tolist() == [2.0, -0.5]
    assert "similarity_weight" not in alone.state_dict()
    assert both.pair_score(logits, point, candidate).tolist() == pytest.approx([2.96, 0.46])
    with torch.no_grad():
        both.similarity_weight.fill_(-2.0)
    assert both.pair_score(logits, point, candidate).tolist() == pytest.approx([0.08, -2.42])
    assert set(both.state_dict()) == {*alone.state_dict(), "similarity_weight"}


@pytest.mark.parametrize("head", ["linear", "bilinear", "mlp"])
@pytest.mark.parametrize("fusion", BERT_BASE)
def test_every_head_takes_every_fusion(head, fusion):
    model = make_model(fusion, head=head, towers="separate")
    embedded = model.embed(make_h(4))
    logits = model.logits(embedded.h[:2], embedded.point[:2], embedded.h[2:], embedded.candidate[2:])
    assert logits.shape == (2, 2) and logits.isfinite().all()
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.head.parameters())
    assert (model.linear1.weight.grad is None) == (fusion == "pooled")

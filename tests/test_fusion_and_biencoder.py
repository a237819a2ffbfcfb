"""Fusion: which parts, in which order, how wide; and what the bi-encoder makes of them."""

import pytest
import torch
from biencoder_ablate.model.fusion import fuse, num_features
from biencoder_ablate.model.load import build_tiny
from torch import nn

from biencoder_ablate.model.biencoder import BiEncoder, encode

BERT_BASE = {"concat": 2688, "pooled": 2304, "retrieval": 384}


def make_model(fusion, retrieval_dim, pooled_dim=8, seed=0):
    return BiEncoder(None, pooled_dim, retrieval_dim, fusion, "none", "none", "after_linear2", seed)


@pytest.mark.parametrize(("fusion", "width"), BERT_BASE.items())
def test_widths_of_bert_base(fusion, width):
    assert num_features(fusion, 768, 128) == width
    h, r = torch.zeros(2, 768), torch.zeros(2, 128)
    assert fuse(fusion, h, r, h, r).shape == (2, width)
    assert make_model(fusion, 128, 768).head.linear2.in_features == width


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
    h = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.retrieval(h), h @ model.linear1.weight.T + model.linear1.bias)
    assert model.retrieval(h).shape == (5, 3)


@pytest.mark.parametrize(("fusion", "width"), [("concat", 48), ("pooled", 24), ("retrieval", 24)])
def test_without_a_retrieval_dim_the_pooled_output_is_the_embedding(fusion, width):
    model = make_model(fusion, None)
    h = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.retrieval(h), h)
    assert model.head.linear2.in_features == width
    assert not any(isinstance(module, nn.Linear) for module in model.linear1.modules())
    assert model.logits(h[:1], h[:1], h[1:], h[1:]).shape == (1, 2)


@pytest.mark.parametrize("fusion", BERT_BASE)
def test_logits_are_the_head_of_the_features(fusion):
    model = make_model(fusion, 3)
    h = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    r = model.retrieval(h)
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
    texts = ["cats purr and dogs bark", "dogs bite"]
    encoder, tokenizer = build_tiny(texts, "pooler", 16, None, 0)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert mask.sum(1).tolist() != [ids.shape[1]] * 2, "one of the two must be padded"
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

"""Which parts a model has, how it is without one, and what it costs to use."""

import pytest
import torch
from torch import nn

from biencoder_ablate.model.biencoder import Architecture, BiEncoder
from biencoder_ablate.model.costs import bytes_a_text, operations_a_pair
from biencoder_ablate.model.heads import MlpHead, PairHead
from biencoder_ablate.model.parts import NotBypassed, bypassed, parts_of

H, R = 6, 4
F = 3 * (H + R)


def make_model(score="head", **shape):
    return BiEncoder(Architecture(pooled_dim=H, retrieval_dim=R, score=score, **shape), seed=3)


def part_named(model, name):
    return next(part for part in parts_of(model) if part.name == name)


def some_pairs(num=5):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(num, width, generator=generator) for width in (H, R, H, R)]


class MyNorm(nn.Module):
    def forward(self, x):
        return x / x.norm(dim=-1, keepdim=True)


class MyHead(PairHead):
    """One that holds its layers in its own way, and never calls one of them."""

    def __init__(self, widths):
        super().__init__(widths)
        self.inner = nn.Sequential(MyNorm(), nn.Linear(self.num_features, 2))
        self.unused = nn.Tanh()

    def forward(self, features):
        return self.inner(features)


def test_parts_are_found_by_the_modules_whoever_wrote_the_head():
    model = make_model("sum", towers="separate", head_options={"norm": "layernorm", "activation": "relu"})
    found = {part.name: (part.words, part.num_weights, part.bypass) for part in parts_of(model)}
    assert found == {
        "encoder": ("frozen encoder", 0, None),
        "linear1": ("projection", H * R + R, "start"),
        "linear1_candidate": ("projection of candidates", H * R + R, "start"),
        "head": ("head", 2 * F + 2 * F + 2, "distance"),
        "head.norm": ("LayerNorm", 2 * F, "identity"),
        "head.linear2": ("Linear", 2 * F + 2, None),
        "head.activation": ("ReLU", 0, "identity"),
        "similarity_weight": ("weight of the similarity", 1, "head"),
    }
    model.head = MyHead((R, H))
    names = [part.name for part in parts_of(model) if part.is_layer]
    assert names == ["head.inner.0", "head.inner.1", "head.unused"]


@pytest.mark.parametrize("name", ["head.norm", "head.activation"])
def test_a_model_without_a_layer_is_the_one_built_without_it_with_the_same_weights(name):
    model = make_model(head_options={"norm": "layernorm", "activation": "tanh"})
    option = {"head.norm": {"activation": "tanh"}, "head.activation": {"norm": "layernorm"}}[name]
    plain = make_model(head_options=option)
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith(f"{name}.")}
    plain.load_state_dict(kept)
    pairs = some_pairs()
    whole = model.logits(*pairs)
    with bypassed(model, part_named(model, name), {}) as without:
        assert torch.equal(without.logits(*pairs), plain.logits(*pairs))
    assert torch.equal(model.logits(*pairs), whole) and not torch.equal(whole, plain.logits(*pairs))


def test_a_layer_of_a_head_of_ones_own_passes_on_what_it_is_given():
    model = make_model()
    model.head = MyHead((R, H))
    pairs = some_pairs()
    features = torch.cat([pairs[1], pairs[3], (pairs[1] - pairs[3]).abs()], dim=-1)
    features = torch.cat([features, pairs[0], pairs[2], (pairs[0] - pairs[2]).abs()], dim=-1)
    with bypassed(model, part_named(model, "head.inner.0"), {}) as without:
        torch.testing.assert_close(without.logits(*pairs), model.head.inner[1](features))
    with pytest.raises(NotBypassed, match="never calls"), bypassed(model, part_named(model, "head.unused"), {}) as it:
        it.logits(*pairs)
    assert not model.head.inner[0]._forward_hooks and not model.head.unused._forward_hooks


def test_a_bypassed_projection_is_as_before_training_and_a_bypassed_weight_leaves_the_head_alone():
    model = make_model("sum")
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        for value in model.parameters():
            value += 1
    h = torch.randn(3, H)
    with bypassed(model, part_named(model, "linear1"), start) as without:
        assert torch.equal(without.as_points(h), make_model().as_points(h))
        assert torch.equal(without.head.linear2.weight, model.head.linear2.weight)
    logits, r = torch.tensor([[1.0, 3.5]]), torch.ones(1, R)
    with bypassed(model, part_named(model, "similarity_weight"), start) as without:
        assert without.pair_score(logits, r, -r).tolist() == [2.5]
    assert model.pair_score(logits, r, -r).tolist() != [2.5]


def test_operations_and_bytes_are_those_worked_out_by_hand():
    """|a − b| takes two operations for each of its D = H + R values, linear2 two for each weight, a LayerNorm seven a
    value, a ReLU one a logit, and the score one subtraction."""
    model = make_model(head_options={"norm": "layernorm", "activation": "relu"})
    found = operations_a_pair(model, parts_of(model))
    assert found["head.norm"] == 7 * F and found["head.linear2"] == 2 * 2 * F and found["head.activation"] == 2
    assert found["total"] == 2 * (H + R) + 7 * F + 4 * F + 2 + 1
    assert bytes_a_text(model, reranks=True) == 4 * (H + R)
    assert bytes_a_text(model, reranks=False) == 4 * R
    assert bytes_a_text(make_model(fusion="retrieval"), reranks=True) == 4 * R


def test_a_hidden_layer_costs_its_products():
    model = make_model()
    model.head = MlpHead((R, H), hidden=5, norm="rmsnorm")
    found = operations_a_pair(model, parts_of(model))
    assert found["head.hidden"] == 2 * 5 * F and found["head.linear2"] == 2 * 2 * 5 and found["head.activation"] == 5
    assert 4 * F <= found["head.norm"] <= 4 * F + 2

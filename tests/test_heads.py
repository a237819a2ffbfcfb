"""The heads, module by module and output by output, against numbers worked by hand."""

import itertools
import math

import pytest
import torch
from biencoder_ablate.model.load import build_tiny
from torch import nn

from biencoder_ablate.model.biencoder import BiEncoder
from biencoder_ablate.model.heads import PairHead, is_dead, margin
from biencoder_ablate.seeding import derive_seed

VARIANTS = {
    "none": ("none", "none"),
    "layernorm": ("layernorm", "none"),
    "relu": ("none", "relu"),
    "layernorm_relu": ("layernorm", "relu"),
}
POSITIONS = ("after_linear2", "before_linear2")

# One pair of F = 4 features, their mean 2, their distances from it −1 1 −3 3, variance (1+1+9+9)/4 = 5.
FEATURES = [1.0, 3.0, -1.0, 5.0]
S = math.sqrt(5 + 1e-5)  # torch's LayerNorm adds 1e-5 to the variance
SCALE, SHIFT = [1.0, 2.0, 1.0, -1.0], [0.0, 0.0, 1.0, 0.5]
WEIGHT, BIAS = [[1.0, -1.0, 0.5, 0.0], [0.0, 2.0, 1.0, -1.0]], [0.5, -1.0]
# LayerNorm: [−1/S, 2·1/S, 1 − 3/S, 0.5 − 3/S], about [−0.447, 0.894, −0.342, −0.842].
HAND = {
    # 1 − 3 − 0.5 + 0.5 and 6 − 1 − 5 − 1
    ("none", "after_linear2"): [-2.0, -1.0],
    ("none", "before_linear2"): [-2.0, -1.0],
    ("relu", "after_linear2"): [0.0, 0.0],
    # features [1, 3, 0, 5]: 1 − 3 + 0.5 and 6 − 5 − 1
    ("relu", "before_linear2"): [-1.5, 0.0],
    # −1/S − 2/S + 0.5 − 1.5/S + 0.5 and 4/S + 1 − 3/S − 0.5 + 3/S − 1
    ("layernorm", "after_linear2"): [1 - 4.5 / S, 4 / S - 0.5],
    ("layernorm", "before_linear2"): [1 - 4.5 / S, 4 / S - 0.5],
    ("layernorm_relu", "after_linear2"): [0.0, 4 / S - 0.5],
    # features [0, 2/S, 0, 0]: −2/S + 0.5 and 4/S − 1
    ("layernorm_relu", "before_linear2"): [0.5 - 2 / S, 4 / S - 1],
}


def make_head(variant, position="after_linear2", width=4):
    return PairHead(width, *VARIANTS[variant], position)


def make_model(variant, seed=0, fusion="concat", retrieval_dim=3, pooled_dim=8):
    return BiEncoder(None, pooled_dim, retrieval_dim, fusion, *VARIANTS[variant], "after_linear2", seed)


def set_by_hand(head):
    """The LayerNorm's own scale and shift are set away from 1 and 0, so that they are seen to act."""
    with torch.no_grad():
        head.linear2.weight.copy_(torch.tensor(WEIGHT))
        head.linear2.bias.copy_(torch.tensor(BIAS))
        if isinstance(head.norm, nn.LayerNorm):
            head.norm.weight.copy_(torch.tensor(SCALE))
            head.norm.bias.copy_(torch.tensor(SHIFT))
    return head


@pytest.mark.parametrize(("variant", "position"), list(HAND))
def test_outputs_equal_the_hand_computation(variant, position):
    head = set_by_hand(make_head(variant, position))
    other = [0.0, 0.0, 2.0, -2.0]
    logits = head(torch.tensor([FEATURES, other]))
    torch.testing.assert_close(logits[0], torch.tensor(HAND[variant, position]), rtol=0, atol=1e-6)
    # A pair's logits do not depend on what else is in the batch, nor on the number of leading dimensions.
    torch.testing.assert_close(head(torch.tensor(FEATURES)), logits[0])
    torch.testing.assert_close(head(torch.tensor([[FEATURES, other]]))[0], logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_module_is_there_or_not(variant):
    head = make_head(variant)
    kinds = [type(module) for module in head.modules()]
    assert kinds.count(nn.LayerNorm) == ("layernorm" in variant)
    assert kinds.count(nn.ReLU) == ("relu" in variant)
    assert kinds.count(nn.Linear) == 1
    parameters = {"linear2.weight", "linear2.bias"}
    if "layernorm" in variant:
        parameters |= {"norm.weight", "norm.bias"}
    assert {name for name, _ in head.named_parameters()} == parameters


@pytest.mark.parametrize(("variant", "position"), list(itertools.product(VARIANTS, POSITIONS)))
def test_features_are_never_changed_in_place(variant, position):
    head = make_head(variant, position)
    features = torch.tensor([FEATURES, [-1.0, -2.0, -3.0, -4.0]], requires_grad=True)
    seen = features + 0  # not a leaf: what a shared hidden state is to the head
    seen.retain_grad()
    version, before = seen._version, seen.detach().clone()
    head(seen).sum().backward()
    assert torch.equal(seen.detach(), before)
    assert seen._version == version
    assert seen.grad.shape == seen.shape


def test_the_after_position_leaves_negative_features_to_linear2():
    """A ReLU over the features would hide the −1 of the hand example; after linear2 it may not."""
    head = set_by_hand(make_head("relu"))
    with torch.no_grad():
        head.linear2.bias.copy_(torch.tensor([10.0, 10.0]))
    assert head(torch.tensor(FEATURES)).tolist() == [7.5, 10.0]


@pytest.mark.parametrize("width", [6, 2688])
def test_initialisation_is_torchs_own(width):
    torch.manual_seed(5)
    plain = nn.Linear(width, 2)
    for variant, position in itertools.product(VARIANTS, POSITIONS):
        torch.manual_seed(5)
        head = make_head(variant, position, width)
        assert torch.equal(head.linear2.weight, plain.weight) and torch.equal(head.linear2.bias, plain.bias)
        if "layernorm" in variant:
            assert torch.equal(head.norm.weight, torch.ones(width)) and torch.equal(head.norm.bias, torch.zeros(width))
            assert head.norm.eps == 1e-5


def test_shared_parts_start_equal_across_variants():
    models = {variant: make_model(variant, seed=3) for variant in VARIANTS}
    first = models["none"].state_dict()
    assert set(first) == {"linear1.weight", "linear1.bias", "head.linear2.weight", "head.linear2.bias"}
    for model in models.values():
        state = model.state_dict()
        for name, value in first.items():
            assert torch.equal(state[name], value), name


def test_linear1_and_linear2_have_streams_of_their_own():
    """linear2's weights may not depend on whether there is a linear1, nor on how wide it is."""
    narrow, wide, without = (make_model("none", 3, "pooled", dim) for dim in (3, 5, None))
    assert torch.equal(narrow.head.linear2.weight, wide.head.linear2.weight)
    assert torch.equal(narrow.head.linear2.weight, without.head.linear2.weight)
    torch.manual_seed(derive_seed(3, "weights", "linear1"))
    assert torch.equal(narrow.linear1.weight, nn.Linear(8, 3).weight)


def test_another_seed_gives_other_weights():
    one, other = make_model("none", seed=0), make_model("none", seed=1)
    assert not torch.equal(one.linear1.weight, other.linear1.weight)
    assert not torch.equal(one.head.linear2.weight, other.head.linear2.weight)


def test_encoder_starts_equal_for_a_seed_and_building_disturbs_no_random_state():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    texts = ["cats purr and dogs bark", "dogs bite and cats purr"]
    one, again, other = (build_tiny(texts, "mean", 16, None, seed)[0].state_dict() for seed in (0, 0, 1))
    make_model("layernorm")
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], again[name]) for name in one)
    name = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(one[name], other[name])


def test_margin_orders_where_probabilities_tie():
    logits = torch.tensor([[0.0, 40.0], [0.0, 50.0], [1.0, -1.0]])
    probability = logits.softmax(-1)[:, 1]
    assert probability[0] == probability[1] == 1.0
    assert margin(logits).tolist() == [40.0, 50.0, -2.0]


def test_margin_subtracts_in_float32():
    logits = torch.tensor([0.0078125, 256.0], dtype=torch.bfloat16)
    assert (logits[1] - logits[0]).item() == 256.0
    assert margin(logits).dtype == torch.float32
    assert margin(logits).item() == 255.9921875


def test_a_pair_is_dead_only_when_both_logits_are_zero():
    logits = torch.tensor([[0.0, 0.0], [-0.0, 0.0], [0.0, 1e-30], [1.0, 0.0], [-1.0, 1.0]])
    assert is_dead(logits).tolist() == [True, True, False, False, False]

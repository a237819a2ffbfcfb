"""All-pair scores of the head against the plain computation, in float64, and against hand-worked numbers."""

import itertools

import pytest
import torch
from biencoder_ablate.evaluation.all_pairs import all_pair_margins, direct_margins
from hypothesis import given, settings
from hypothesis import strategies as st

from biencoder_ablate.evaluation import all_pairs

HEADS = {
    "none": (False, "none"),
    "layernorm": (True, "none"),
    "relu": (False, "relu"),
    "layernorm_relu": (True, "relu"),
}
WIDTHS = {"concat": lambda r, h: [r, h], "pooled": lambda r, h: [h], "retrieval": lambda r, h: [r]}
POSITIONS = ("before_linear2", "after_linear2")


def make_inputs(head, widths, num_points, num_candidates, seed=0, offset=0.0):
    """Parts of points and candidates, and keyword arguments of the head, in float32."""
    norm, activation = HEADS[head]
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    num_features = 3 * sum(widths)
    # A common offset is what embeddings of one encoder have: |a - b| much smaller than a and b.
    offsets = [offset * randn(width) for width in widths]
    points = [randn(num_points, width) + o for width, o in zip(widths, offsets, strict=True)]
    candidates = [randn(num_candidates, width) + o for width, o in zip(widths, offsets, strict=True)]
    kwargs = {
        "linear_weight": randn(2, num_features) / num_features**0.5,
        "linear_bias": randn(2) * 0.1,
        "norm_weight": 1 + 0.3 * randn(num_features) if norm else None,
        "norm_bias": 0.3 * randn(num_features) if norm else None,
        "activation": activation,
    }
    return points, candidates, kwargs


def in_float64(points, candidates, kwargs):
    double = {key: value.double() if torch.is_tensor(value) else value for key, value in kwargs.items()}
    return [x.double() for x in points], [x.double() for x in candidates], double


def assert_scores_equal(inputs, position, tolerance=1e-5):
    points, candidates, kwargs = inputs
    got = all_pair_margins(points, candidates, **kwargs, activation_position=position)
    points, candidates, kwargs = in_float64(*inputs)
    want = direct_margins(points, candidates, **kwargs, activation_position=position)
    assert got.margins.dtype == torch.float32 and got.dead.dtype == torch.bool
    assert got.margins.shape == want.margins.shape == got.dead.shape == want.dead.shape
    scale = 1 + want.margins.abs().amax() if want.margins.numel() else 1
    torch.testing.assert_close(got.margins.double(), want.margins, rtol=0, atol=tolerance * float(scale))
    # A pair may be dead in one and not in the other only where its logits are next to nothing.
    assert (want.margins[got.dead].abs() < tolerance * scale).all()
    assert (got.margins[want.dead].abs() < tolerance * scale).all()
    assert (got.margins[got.dead] == 0).all()


@pytest.mark.parametrize(("head", "fusion", "position"), list(itertools.product(HEADS, WIDTHS, POSITIONS)))
def test_every_head_equals_the_direct_computation(head, fusion, position):
    inputs = make_inputs(head, WIDTHS[fusion](5, 17), num_points=9, num_candidates=14)
    assert_scores_equal(inputs, position)


@settings(deadline=None, max_examples=60)
@given(
    head=st.sampled_from(list(HEADS)),
    fusion=st.sampled_from(list(WIDTHS)),
    position=st.sampled_from(POSITIONS),
    num_points=st.integers(0, 7),
    num_candidates=st.integers(0, 9),
    widths=st.tuples(st.integers(1, 6), st.integers(1, 12)),
    seed=st.integers(0, 2**16),
    offset=st.sampled_from([0.0, 1.0, 30.0]),
    blocks=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_any_shape_and_block_size(head, fusion, position, num_points, num_candidates, widths, seed, offset, blocks):
    inputs = make_inputs(head, WIDTHS[fusion](*widths), num_points, num_candidates, seed, offset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_pairs, "POINT_BLOCK", blocks[0])
        patch.setattr(all_pairs, "SEPARABLE_BLOCK", blocks[1])
        patch.setattr(all_pairs, "DIRECT_BLOCK", blocks[1])
        assert_scores_equal(inputs, position, tolerance=1e-5 * (1 + offset))


@pytest.mark.parametrize(("head", "position"), list(itertools.product(HEADS, POSITIONS)))
def test_several_real_blocks_and_embeddings_far_from_zero(head, position):
    # More than one block of points (64) and of candidates (256 or 1024); the last of each is not full.
    inputs = make_inputs(head, [8, 24], num_points=66, num_candidates=1030, offset=10.0)
    assert_scores_equal(inputs, position, tolerance=1e-4)


def test_hand_worked_pair():
    # a = (1, 3), b = (2, 1), |a-b| = (1, 2): features 1 3 2 1 1 2; mean 5/3, mean square 20/6, variance 5/9.
    a, b = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 1.0]])
    weight = torch.tensor([[1.0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1.0, -1.0]])
    bias = torch.tensor([-0.5, 3.0])
    plain = all_pair_margins([a], [b], weight, bias)
    assert plain.margins.item() == pytest.approx((1 - 2 + 3) - (1 - 0.5))
    relu = all_pair_margins([a], [b], weight, bias - 10, activation="relu")
    assert relu.margins.item() == 0 and relu.dead.item()
    ones, zeros = torch.ones(6), torch.zeros(6)
    norm = all_pair_margins([a], [b], weight, bias, ones, zeros, norm_eps=1e-12)
    deviation = (5 / 9) ** 0.5
    assert norm.margins.item() == pytest.approx((-1 / deviation + 3) - ((1 - 5 / 3) / deviation - 0.5))
    before = all_pair_margins(
        [a], [b], weight, bias, ones, zeros, 1e-12, activation="relu", activation_position="before_linear2"
    )
    assert before.margins.item() == pytest.approx((-(2 - 5 / 3) / deviation + 3) - (0 - 0.5))


@pytest.mark.parametrize(("head", "position"), list(itertools.product(HEADS, POSITIONS)))
def test_constant_features_are_no_nan(head, position):
    # The only constant features are those of two zero vectors, for a, b and |a-b| must all be equal.
    points, candidates, kwargs = make_inputs(head, [3, 5], num_points=4, num_candidates=6)
    for part in points + candidates:
        part[1] = 0
    margins, _ = all_pair_margins(points, candidates, **kwargs, activation_position=position)
    assert torch.isfinite(margins).all()
    assert_scores_equal((points, candidates, kwargs), position)


@pytest.mark.parametrize(("head", "position"), list(itertools.product(HEADS, POSITIONS)))
def test_equal_rows_tie_to_the_bit_wherever_they_stand(head, position):
    points, candidates, kwargs = make_inputs(head, [9, 28], num_points=5, num_candidates=40)
    # An odd width and a last block of one row: here matmul itself does give equal rows different sums.
    order = torch.randint(40, (1025,), generator=torch.Generator().manual_seed(1))
    repeated = [part[order] for part in candidates]
    repeated[0][repeated[0].abs() < 0.05] = 0.0
    repeated[0][700:][repeated[0][700:] == 0] = -0.0  # equal to 0.0, though not in bytes
    doubled = [torch.cat([part, part.flip(0)]) for part in points]
    margins, dead = all_pair_margins(doubled, repeated, **kwargs, activation_position=position)
    first_seen = [order.tolist().index(row) for row in order.tolist()]
    assert torch.equal(margins, margins[:, first_seen]) and torch.equal(dead, dead[:, first_seen])
    assert torch.equal(margins[:5], margins[5:].flip(0))
    assert_scores_equal((doubled, repeated, kwargs), position)


def test_only_a_relu_after_linear2_leaves_dead_pairs():
    points, candidates, kwargs = make_inputs("layernorm_relu", [4, 6], num_points=20, num_candidates=30)
    dead = {
        (activation, position): all_pair_margins(
            points, candidates, **{**kwargs, "activation": activation}, activation_position=position
        ).dead
        for activation in ("none", "relu")
        for position in POSITIONS
    }
    assert 0 < dead.pop(("relu", "after_linear2")).sum() < 600
    assert not any(other.any() for other in dead.values())


def test_parameters_that_require_grad_and_other_types_are_taken_as_they_are():
    points, candidates, kwargs = make_inputs("layernorm", [4], num_points=2, num_candidates=3)
    want = all_pair_margins(points, candidates, **kwargs).margins
    kwargs["linear_weight"] = torch.nn.Parameter(kwargs["linear_weight"])
    got = all_pair_margins([points[0].double()], [candidates[0].double()], **kwargs).margins
    assert torch.equal(got, want) and not got.requires_grad


def test_unknown_names_are_told():
    points, candidates, kwargs = make_inputs("none", [4], num_points=2, num_candidates=3)
    for score in (all_pair_margins, direct_margins):
        with pytest.raises(ValueError, match="'gelu'; choose none or relu"):
            score(points, candidates, **{**kwargs, "activation": "gelu"})
        with pytest.raises(ValueError, match="'middle'; choose before_linear2"):
            score(points, candidates, **kwargs, activation_position="middle")

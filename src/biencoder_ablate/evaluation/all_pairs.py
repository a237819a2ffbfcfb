"""The pair head's score of every (point, candidate) pair, exactly and in bounded memory.

For `evaluation.rerank=all`. What each head computes is in design section 2: features, then optionally
LayerNorm, `linear2`, and a ReLU before or after it. All but LayerNorm followed by a ReLU *before* linear2
*separate*: their logits are sums of one term per point, one per candidate, and one that needs the pair.
With max(a, b) taken in each dimension,

    |a - b|                              =  2 max(a, b) - a - b
    sum of the pair's features           =  sum(a + b + |a - b|)           =  2 sum(max(a, b))
    sum of their squares                 =  sum(a^2 + b^2 + (a - b)^2)     =  2 sum(a^2) + 2 sum(b^2) - 2 a.b
    weight of the features, by kind      =  (u - w).a + (v - w).b + 2 w.max(a, b)

so one elementwise operation and a matmul with two columns (three with LayerNorm) per block serve both
logits and LayerNorm's mean; the sum of squares is a matmul alone. LayerNorm does not depend on the order of
the features, so the parts r and h are laid side by side, D = R + H wide, and F = 3 D.

The variance, mean square minus squared mean, needs neither centring nor clamping: if m = max(a, b) then
a^2 + b^2 + (a - b)^2 >= 1.5 m^2, while the mean is 2 sum(m) / F, so that variance >= mean^2 / 8 whatever
the texts. Rounding in the difference is amplified nine times at most.

What did not pay (two cores, AVX-512; P=1401, C=2801, D=896, layernorm_relu, seconds): the sums over |a - b|
as L1 distances between scaled vectors split by the weight's sign, `torch.cdist(p=1)`, 1.4 for each of the
three sums against 0.9 for all of them here; `sub` and `abs_` in place of `maximum`, 2.8; the same matmul as
`mv` or with one column, 3 to 5 (it then takes a slow, single-threaded road); the whole thing direct, 4.4.

Shapes: P points, C candidates, D summed width of the parts, F = 3 D features, p points of a block,
c candidates of a block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Points whose scores are finished together: only memory depends on it.
POINT_BLOCK = 64
# Candidates of one elementwise pass: 3.7 MB and 2 x 2.8 MB at D = 896, about what L2 and L3 hold.
SEPARABLE_BLOCK = 1024
DIRECT_BLOCK = 256


class PairScores(NamedTuple):
    """Scores of all pairs: margins (P, C) float32, logit 1 - logit 0; dead (P, C) bool, both logits
    left at zero by a ReLU after linear2 (never, for other heads)."""

    margins: Tensor
    dead: Tensor


@dataclass(frozen=True)
class _Head:
    """A head with its features regrouped by kind, [a, b, |a-b|] over all parts at once."""

    weight: Tensor  # (2, 3, D) float64
    bias: Tensor  # (2,) float64
    norm_weight: Tensor | None  # (3, D) float64
    norm_bias: Tensor | None  # (3, D) float64
    norm_eps: float
    relu_before: bool
    relu_after: bool


@torch.no_grad()
def all_pair_margins(
    parts_point: Sequence[Tensor],
    parts_candidate: Sequence[Tensor],
    linear_weight: Tensor,
    linear_bias: Tensor,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    norm_eps: float = 1e-5,
    activation: str = "none",
    activation_position: str = "after_linear2",
) -> PairScores:
    """Score every candidate for every point.

    Args:
        parts_point: the points' embeddings, [(P, D_1), ...]: [r, h] for fusion `concat`, [h] for `pooled`,
            [r] for `retrieval`. Any floating type; computed in float32 and, where cheap, float64.
        parts_candidate: the candidates' embeddings, the same parts, [(C, D_1), ...].
        linear_weight: linear2's (2, F); its columns, like the norm's, go a, b, |a-b| part by part.
        linear_bias: linear2's (2,).
        norm_weight, norm_bias: LayerNorm's (F,), or None for a head without norm.
        norm_eps: LayerNorm's epsilon, above 0.
        activation: `none` or `relu`.
        activation_position: `before_linear2` or `after_linear2`; without meaning when there is none.

    Returns:
        margins and dead, (P, C), on the device of the inputs. Equal to `direct_margins` to float tolerance.
        Equal rows get bit-identical scores wherever they stand, for they are computed once; between calls
        with other rows scores may differ in the last bits. Callers pass distinct texts, not one row per
        pair: it is faster, and an encoder may give one text two embeddings that differ in the last bits.

    Memory, beside the inputs and the result (5 bytes a pair): 28 (P + C) D bytes of copies, 128 bytes
    for each of POINT_BLOCK x C pairs, and 4 SEPARABLE_BLOCK x D bytes (LayerNorm with a ReLU before linear2:
    24 DIRECT_BLOCK x D). At P=1401, C=2801, D=896: under 150 MB beside a result of 20 MB.

    Raises:
        ValueError: unknown activation or activation_position.
    """
    widths = _check_widths(parts_point, parts_candidate, linear_weight)
    head = _regroup(
        widths, linear_weight, linear_bias, norm_weight, norm_bias, norm_eps, activation, activation_position
    )
    points_PD, row_of_point = _distinct_rows(parts_point)
    candidates_CD, row_of_candidate = _distinct_rows(parts_candidate)
    margins_PC = torch.empty(len(points_PD), len(candidates_CD), device=points_PD.device)
    dead_PC = torch.zeros_like(margins_PC, dtype=torch.bool)
    separable = head.norm_weight is None or not head.relu_before
    blocks = (_separable_logits if separable else _direct_logits)(points_PD, candidates_CD, head)
    for rows, logits_pC2 in blocks:
        logits_pC2 = logits_pC2.float()
        if head.relu_after:
            logits_pC2 = logits_pC2.relu()
            dead_PC[rows] = (logits_pC2 == 0).all(-1)
        margins_PC[rows] = logits_pC2[..., 1] - logits_pC2[..., 0]
    if row_of_point is not None:
        margins_PC, dead_PC = margins_PC[row_of_point], dead_PC[row_of_point]
    if row_of_candidate is not None:
        margins_PC, dead_PC = margins_PC[:, row_of_candidate], dead_PC[:, row_of_candidate]
    return PairScores(margins_PC, dead_PC)


@torch.no_grad()
def direct_margins(
    parts_point: Sequence[Tensor],
    parts_candidate: Sequence[Tensor],
    linear_weight: Tensor,
    linear_bias: Tensor,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    norm_eps: float = 1e-5,
    activation: str = "none",
    activation_position: str = "after_linear2",
) -> PairScores:
    """The same as `all_pair_margins`, straight from the definition: the reference it is held against.

    Builds the (P, C, F) tensor, so it is for small inputs only. It keeps the type of the inputs: given
    float64, everything is float64. Arguments, result and errors as there.
    """
    _check_widths(parts_point, parts_candidate, linear_weight)
    _check_activation(activation, activation_position)
    features = []
    for point, candidate in zip(parts_point, parts_candidate, strict=True):
        a, b = torch.broadcast_tensors(point[:, None], candidate[None])
        features += [a, b, (a - b).abs()]
    x_PCF = torch.cat(features, -1)
    if norm_weight is not None:
        x_PCF = F.layer_norm(x_PCF, x_PCF.shape[-1:], norm_weight, norm_bias, norm_eps)
    if activation == "relu" and activation_position == "before_linear2":
        x_PCF = x_PCF.relu()
    logits_PC2 = F.linear(x_PCF, linear_weight, linear_bias)
    dead_PC = torch.zeros(logits_PC2.shape[:2], dtype=torch.bool, device=logits_PC2.device)
    if activation == "relu" and activation_position == "after_linear2":
        logits_PC2 = logits_PC2.relu()
        dead_PC = (logits_PC2 == 0).all(-1)
    return PairScores(logits_PC2[..., 1] - logits_PC2[..., 0], dead_PC)


def _separable_logits(points_PD: Tensor, candidates_CD: Tensor, head: _Head) -> Iterator[tuple[slice, Tensor]]:
    """Logits before any ReLU on them, (p, C, 2) float64, block by block of points, as the module says."""
    weight_23D, constant_2 = head.weight, head.bias
    if head.norm_weight is not None and head.norm_bias is not None:
        constant_2 = constant_2 + (head.weight * head.norm_bias).sum((1, 2))
        weight_23D = weight_23D * head.norm_weight
    weight_sum_2 = weight_23D.sum((1, 2))
    max_weights = [2 * weight_23D[:, 2]]
    if head.norm_weight is not None:
        max_weights.append(torch.ones_like(weight_23D[:1, 2]))
    max_weight_KD = torch.cat(max_weights).float()

    def own_terms(texts_ND: Tensor, kind: int) -> Tensor:
        # |a-b| is not negative, so a ReLU on the features leaves it and changes only a and b.
        kept_ND = texts_ND.relu() if head.relu_before else texts_ND
        return kept_ND @ weight_23D[:, kind].T - texts_ND @ weight_23D[:, 2].T

    num_features = 3 * points_PD.shape[1]
    candidates64_CD = candidates_CD.double()
    candidate_terms_C2 = own_terms(candidates64_CD, 1)
    candidate_squares_C = candidates64_CD.square().sum(1)
    for start in range(0, len(points_PD), POINT_BLOCK):
        points_pD = points_PD[start : start + POINT_BLOCK]
        points64_pD = points_pD.double()
        max_sums_pCK = _weighted_maxima(points_pD, candidates_CD, max_weight_KD).double()
        logits_pC2 = own_terms(points64_pD, 0)[:, None] + candidate_terms_C2 + max_sums_pCK[..., :2]
        if head.norm_weight is not None:
            mean_pC = 2 * max_sums_pCK[..., 2] / num_features
            squares_pC = points64_pD.square().sum(1)[:, None] + candidate_squares_C
            squares_pC -= points64_pD @ candidates64_CD.T
            variance_pC = 2 * squares_pC / num_features - mean_pC.square()
            logits_pC2 -= mean_pC[..., None] * weight_sum_2
            logits_pC2 *= torch.rsqrt(variance_pC + head.norm_eps)[..., None]
        yield slice(start, start + len(points_pD)), logits_pC2 + constant_2


def _weighted_maxima(points_pD: Tensor, candidates_CD: Tensor, weight_KD: Tensor) -> Tensor:
    """Weighted sums of max(a, b) over the dimensions, (p, C, K) float32. K is at least 2: see the module."""
    num_candidates, width = candidates_CD.shape
    sums_pCK = points_pD.new_empty(len(points_pD), num_candidates, len(weight_KD))
    buffer_cD = points_pD.new_empty(min(SEPARABLE_BLOCK, num_candidates), width)
    # Candidates outside, so that a block of them stays in cache for all points.
    for start in range(0, num_candidates, SEPARABLE_BLOCK):
        block_cD = candidates_CD[start : start + SEPARABLE_BLOCK]
        max_cD = buffer_cD[: len(block_cD)]
        for point, point_D in enumerate(points_pD):
            torch.maximum(point_D, block_cD, out=max_cD)
            sums_pCK[point, start : start + len(block_cD)] = F.linear(max_cD, weight_KD)
    return sums_pCK


def _direct_logits(points_PD: Tensor, candidates_CD: Tensor, head: _Head) -> Iterator[tuple[slice, Tensor]]:
    """Logits (p, C, 2) float32 of LayerNorm then ReLU then linear2: features are built, a block at a time."""
    assert head.norm_weight is not None and head.norm_bias is not None and head.relu_before
    num_candidates, width = candidates_CD.shape
    weight_2F = head.weight.flatten(1).float()
    norm_weight_F, norm_bias_F = head.norm_weight.flatten().float(), head.norm_bias.flatten().float()
    bias_2 = head.bias.float()
    buffer_cF = points_PD.new_empty(min(DIRECT_BLOCK, num_candidates), 3 * width)
    for first in range(0, len(points_PD), POINT_BLOCK):
        points_pD = points_PD[first : first + POINT_BLOCK]
        logits_pC2 = points_PD.new_empty(len(points_pD), num_candidates, 2)
        for start in range(0, num_candidates, DIRECT_BLOCK):
            block_cD = candidates_CD[start : start + DIRECT_BLOCK]
            x_cF = buffer_cF[: len(block_cD)]
            x_cF[:, width : 2 * width] = block_cD  # the same for every point
            for point, point_D in enumerate(points_pD):
                x_cF[:, :width] = point_D
                torch.sub(point_D, block_cD, out=x_cF[:, 2 * width :]).abs_()
                y_cF = F.layer_norm(x_cF, x_cF.shape[1:], norm_weight_F, norm_bias_F, head.norm_eps).relu_()
                logits_pC2[point, start : start + len(block_cD)] = F.linear(y_cF, weight_2F, bias_2)
        yield slice(first, first + len(points_pD)), logits_pC2


def _distinct_rows(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Distinct rows of the parts side by side, (N, D) float32, and each given row's place among them.

    The place is None when all rows differ. Equal rows must tie exactly, and a matmul gives equal rows sums
    that differ in the last bits, depending on where in the block they stand (seen at D = 37, and at D = 896
    in a last block of one row).
    """
    rows = torch.cat([part.float() for part in parts], 1) + 0.0  # -0.0 becomes 0.0: equal, so equal bytes
    places: dict[bytes, int] = {}
    firsts: list[int] = []
    place_of_row: list[int] = []
    for index, row in enumerate(rows.cpu().numpy()):
        place = places.setdefault(row.tobytes(), len(places))
        if place == len(firsts):
            firsts.append(index)
        place_of_row.append(place)
    if len(firsts) == len(rows):
        return rows, None
    return rows[firsts], torch.tensor(place_of_row, device=rows.device)


def _regroup(
    widths: list[int],
    linear_weight: Tensor,
    linear_bias: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float,
    activation: str,
    activation_position: str,
) -> _Head:
    """The head with its F features grouped by kind rather than by part; checks it."""
    _check_activation(activation, activation_position)
    assert linear_bias.shape == (2,), linear_bias.shape
    assert (norm_weight is None) == (norm_bias is None)

    def by_kind(x: Tensor) -> Tensor:  # (..., F) to (..., 3, D)
        assert x.shape[-1] == 3 * sum(widths), (x.shape, widths)
        parts = x.double().split([3 * width for width in widths], -1)
        return torch.cat([part.unflatten(-1, (3, -1)) for part in parts], -1)

    # With epsilon 0 the features of two zero vectors, the only constant ones, would give 0 / 0.
    assert norm_weight is None or norm_eps > 0, norm_eps
    return _Head(
        weight=by_kind(linear_weight),
        bias=linear_bias.double(),
        norm_weight=None if norm_weight is None else by_kind(norm_weight),
        norm_bias=None if norm_bias is None else by_kind(norm_bias),
        norm_eps=norm_eps,
        relu_before=activation == "relu" and activation_position == "before_linear2",
        relu_after=activation == "relu" and activation_position == "after_linear2",
    )


def _check_activation(activation: str, activation_position: str) -> None:
    if activation not in ("none", "relu"):
        raise ValueError(f"activation is {activation!r}; choose none or relu")
    if activation_position not in ("before_linear2", "after_linear2"):
        raise ValueError(f"activation_position is {activation_position!r}; choose before_linear2 or after_linear2")


def _check_widths(parts_point: Sequence[Tensor], parts_candidate: Sequence[Tensor], linear_weight: Tensor) -> list[int]:
    widths = [part.shape[1] for part in parts_point]
    assert widths and min(widths) > 0 and widths == [part.shape[1] for part in parts_candidate], widths
    assert linear_weight.shape == (2, 3 * sum(widths)), (linear_weight.shape, widths)
    return widths

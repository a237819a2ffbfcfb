"""The pair-classification heads: what the ablation is about. Features (…, F) → two logits (…, 2).

Class 1 means "b is the counter of a". The features of a pair are [a, b, |a − b|] of each part of its
fusion, one part after another; a head is told the widths of the parts. A head of one's own is a subclass of
PairHead under the entry point group `biencoder_ablate.heads` (docs/extending.md).

F features, D = F / 3: the parts of one text end to end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda width: nn.Identity(),
    "layernorm": nn.LayerNorm,
    "rmsnorm": lambda width: nn.RMSNorm(width, eps=1e-6),
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


START_LOGIT = 0.01
"""Both logits of a head that starts with equal ones (model.head_init=zero).

A small positive bias, as is usual before a ReLU (Goodfellow et al. 2016, Deep Learning, section 6.3): every pair has a
gradient at first, and the first steps already take logits below 0, where the ReLU acts. A head trained at the recipe's
rate moves logits by some hundredths in an epoch of the sample: from 1, say, none would ever reach 0, and heads with and
without a ReLU would be the same run.
"""


@dataclass(frozen=True)
class SeparableForm:
    """A head whose logits come apart into a term of each text and sums over max(a, b), so that listed pairs need no
    features built (evaluation/pair_scores.py).

    The logits are finish(s (W x − m W 1) + bias) of the features x, or of max(x, 0) where `rectified`: m is the mean
    of x where `centred`, else 0; s is 1/√(mean of (x − m)² + eps), or 1 where eps is None. W = weight (2, F).
    """

    weight: Tensor
    bias: Tensor
    rectified: bool = False
    centred: bool = False
    eps: float | None = None
    finish: Callable[[Tensor], Tensor] = field(default_factory=nn.Identity)

    def __post_init__(self) -> None:
        assert not (self.rectified and self.eps is not None), "the mean of max(x, 0) does not come apart"
        assert not self.centred or self.eps is not None


class PairHead(nn.Module):
    """The base of all heads: `widths` of the parts, and the features' number F = 3 Σ widths."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.num_features = 3 * sum(widths)

    def separable(self) -> SeparableForm | None:
        """How the logits come apart, or None: then every pair is scored by `forward`."""
        return None

    def zero_init(self) -> None:
        """Set the weights so that every pair starts with equal logits, gradients flowing (model.head_init=zero).

        With evaluation.score=sum stage 2 then starts as stage 1. A head that does not say how keeps its own start.
        """

    def describe(self) -> str:
        """The head in words, for the first lines of a run."""
        return type(self).__name__


class LinearHead(PairHead):
    """norm → [activation] → linear2 → [activation], by the variant.

    norm: none, layernorm (Ba et al. 2016) or rmsnorm (Zhang and Sennrich 2019) over the features; activation: none,
    relu, gelu or tanh; activation_position: after_linear2 (the source study's place) or before_linear2. Modules are
    torch's own, with torch's own initialisation; the features are never changed in place.
    """

    def __init__(
        self,
        widths: Sequence[int],
        norm: str = "none",
        activation: str = "none",
        activation_position: str = "after_linear2",
    ) -> None:
        super().__init__(widths)
        assert activation_position in ("after_linear2", "before_linear2")
        self.linear2 = nn.Linear(self.num_features, 2)
        self.norm = NORMS[norm](self.num_features)
        self.activation = ACTIVATIONS[activation]()
        self.activation_position = activation_position

    def forward(self, features: Tensor) -> Tensor:
        features = self.norm(features)
        if self.activation_position == "before_linear2":
            return self.linear2(self.activation(features))
        return self.activation(self.linear2(features))

    def zero_init(self) -> None:
        _begin_equal(self.linear2)

    def separable(self) -> SeparableForm | None:
        # Types are compared exactly: a module put in the place of torch's own need not do what the algebra below says.
        norm = self.norm
        linear2 = self.linear2
        if type(linear2) is not nn.Linear or linear2.bias is None:
            return None

        # max(x, 0) comes apart as x does, but not once it is normalised; no other activation does.
        is_plain = type(norm) is nn.Identity
        if self.activation_position == "before_linear2" and type(self.activation) is not nn.Identity:
            if is_plain and type(self.activation) is nn.ReLU:
                return SeparableForm(linear2.weight, linear2.bias, rectified=True)
            return None
        if is_plain:
            return SeparableForm(linear2.weight, linear2.bias, finish=self.activation)

        # W (g · x̂ + c) + b = (W · g) x̂ + (W c + b): the norm's gain g and shift c go into the weight and the bias.
        if type(norm) is nn.LayerNorm and norm.bias is not None:
            shift = _exact(linear2.weight) @ _exact(norm.bias)  # (2,)
            bias = _exact(linear2.bias) + shift
            weight = _exact(linear2.weight) * _exact(norm.weight)  # (2, F)
            return SeparableForm(weight, bias, centred=True, eps=norm.eps, finish=self.activation)
        if type(norm) is nn.RMSNorm and norm.weight is not None and norm.eps is not None:
            weight = _exact(linear2.weight) * _exact(norm.weight)
            return SeparableForm(weight, linear2.bias, eps=norm.eps, finish=self.activation)
        return None

    def describe(self) -> str:
        steps = [_name(self.norm), "linear2", _name(self.activation)]
        if self.activation_position == "before_linear2":
            steps = [_name(self.norm), _name(self.activation), "linear2"]
        return " → ".join(step for step in steps if step)


class BilinearHead(PairHead):
    """logit_c = aᵀ W_c b + bias_c over the parts of a and b end to end, W (2, D, D), started as torch's Bilinear."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(widths)
        width = sum(self.widths)
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(2, width, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(2).uniform_(-bound, bound))

    def forward(self, features: Tensor) -> Tensor:
        # The features are [a, b, |a − b|] of one part after another.
        sizes = [width for width in self.widths for _ in range(3)]
        parts = features.split(sizes, dim=-1)
        a = torch.cat(parts[0::3], dim=-1)  # (…, D)
        b = torch.cat(parts[1::3], dim=-1)  # (…, D)
        logits = [((a @ weight) * b).sum(-1) for weight in self.weight]
        return torch.stack(logits, dim=-1) + self.bias

    def zero_init(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, START_LOGIT)

    def describe(self) -> str:
        return "aᵀ W b"


class MlpHead(PairHead):
    """norm → hidden layer of `hidden` units → activation → linear2."""

    def __init__(
        self,
        widths: Sequence[int],
        hidden: int = 256,
        norm: str = "none",
        activation: str = "gelu",
    ) -> None:
        super().__init__(widths)
        self.norm = NORMS[norm](self.num_features)
        self.hidden = nn.Linear(self.num_features, hidden)
        self.activation = ACTIVATIONS[activation]()
        self.linear2 = nn.Linear(hidden, 2)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear2(self.activation(self.hidden(self.norm(features))))

    def zero_init(self) -> None:
        _begin_equal(self.linear2)

    def describe(self) -> str:
        steps = [
            _name(self.norm),
            f"{self.hidden.out_features} hidden units",
            type(self.activation).__name__,
            "linear2",
        ]
        return " → ".join(step for step in steps if step)


def _begin_equal(linear: nn.Linear) -> None:
    """Both logits START_LOGIT for every pair: equal, and with a ReLU on them still alive."""
    nn.init.zeros_(linear.weight)
    nn.init.constant_(linear.bias, START_LOGIT)


def _name(module: nn.Module) -> str:
    """A module in words; none for one that changes nothing."""
    return "" if isinstance(module, nn.Identity) else type(module).__name__


def _exact(weight: Tensor) -> Tensor:
    """A weight in float64, on the CPU: Apple's GPU has none."""
    return weight.detach().cpu().double()


def separable_of(head: nn.Module) -> SeparableForm | None:
    """`head.separable()`, but None where the class that says how the logits come apart is not the one whose
    `forward` is run: a subclass with a forward of its own must say so itself."""
    if not isinstance(head, PairHead):
        return None
    # The instance comes first, since a head may be given a forward of its own as well.
    owners = (head, *type(head).__mro__)
    says_how = next(owner for owner in owners if "separable" in vars(owner))
    runs = next(owner for owner in owners if "forward" in vars(owner))
    return head.separable() if says_how is runs else None


def head_score(logits: Tensor) -> Tensor:
    """logit₁ − logit₀ in float32 (…,): orders pairs as P(class 1) does, without its false ties at 1.0."""
    return logits[..., 1].float() - logits[..., 0].float()


def is_dead(logits: Tensor) -> Tensor:
    """Whether a ReLU has left both logits at exactly zero (…,): such a pair says nothing."""
    return (logits == 0).all(dim=-1)

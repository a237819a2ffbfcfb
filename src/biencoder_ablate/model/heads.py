"""The pair-classification head: what the ablation is about. Features (…, F) → two logits (…, 2).

Class 1 means "b is the counter of a" (design §2).
"""

from __future__ import annotations

import torch
from torch import nn


class PairHead(nn.Module):
    """norm → [activation] → linear2 → [activation], by the variant.

    norm: "none" or "layernorm" over the features; activation: "none" or "relu"; activation_position:
    "after_linear2" (the source study's place, the default) or "before_linear2". Modules are torch's own, with
    torch's own initialisation; the features are never changed in place.
    """

    def __init__(
        self, num_features: int, norm: str, activation: str, activation_position: str = "after_linear2"
    ) -> None:
        super().__init__()
        assert norm in ("none", "layernorm") and activation in ("none", "relu")
        assert activation_position in ("after_linear2", "before_linear2")
        self.linear2 = nn.Linear(num_features, 2)
        self.norm = nn.LayerNorm(num_features) if norm == "layernorm" else nn.Identity()
        self.activation = nn.ReLU() if activation == "relu" else nn.Identity()
        self.activation_position = activation_position

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = self.norm(features)
        if self.activation_position == "before_linear2":
            return self.linear2(self.activation(features))
        return self.activation(self.linear2(features))


def margin(logits: torch.Tensor) -> torch.Tensor:
    """logit₁ − logit₀ in float32 (…,): orders pairs as P(class 1) does, without its false ties at 1.0."""
    return logits[..., 1].float() - logits[..., 0].float()


def is_dead(logits: torch.Tensor) -> torch.Tensor:
    """Whether a ReLU has left both logits at exactly zero (…,): such a pair says nothing."""
    return (logits == 0).all(dim=-1)

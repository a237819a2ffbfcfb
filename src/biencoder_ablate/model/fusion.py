"""Features of a pair of texts (a, b) from their pooled outputs h (…, H) and retrieval embeddings r (…, R)."""

from __future__ import annotations

import torch

PARTS = {"concat": ("r", "h"), "pooled": ("h",), "retrieval": ("r",)}


def num_features(fusion: str, pooled_dim: int, retrieval_dim: int) -> int:
    """Width F of the features: 3(R+H) for concat, 3H for pooled, 3R for retrieval."""
    widths = {"r": retrieval_dim, "h": pooled_dim}
    return 3 * sum(widths[part] for part in PARTS[fusion])


def fuse(fusion: str, h_a: torch.Tensor, r_a: torch.Tensor, h_b: torch.Tensor, r_b: torch.Tensor) -> torch.Tensor:
    """concat: [r_a, r_b, |r_a−r_b|, h_a, h_b, |h_a−h_b|]; pooled and retrieval: the h and the r parts (…, F)."""
    of = {"r": (r_a, r_b), "h": (h_a, h_b)}
    pieces = []
    for part in PARTS[fusion]:
        a, b = of[part]
        pieces += [a, b, (a - b).abs()]
    return torch.cat(pieces, dim=-1)

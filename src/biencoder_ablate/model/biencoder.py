"""The bi-encoder: one BERT for points and counters, a retrieval embedding, and a head over pairs.

B texts or pairs, L tokens, H pooled width, R retrieval width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from biencoder_ablate.model.fusion import fuse, num_features
from biencoder_ablate.model.heads import PairHead
from biencoder_ablate.seeding import derive_seed


class BiEncoder(nn.Module):
    """encoder: texts → h (B, H); linear1: h → r (B, R), or r = h where retrieval_dim is None; head: pairs → logits.

    The encoder is a plain BertModel held as a submodule, or None where it is frozen and h comes from a cache.
    linear1 and linear2 each draw their initial weights from a stream of their own, so that they are equal
    across head variants for a seed.
    """

    def __init__(
        self,
        encoder: Any | None,
        pooled_dim: int,
        retrieval_dim: int | None,
        fusion: str,
        norm: str,
        activation: str,
        activation_position: str,
        seed: int,
    ) -> None:
        super().__init__()
        assert encoder is None or encoder.config.hidden_size == pooled_dim
        self.fusion = fusion
        self.encoder = encoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "weights", "linear1"))
            self.linear1 = nn.Linear(pooled_dim, retrieval_dim) if retrieval_dim is not None else nn.Identity()
            torch.manual_seed(derive_seed(seed, "weights", "head"))
            width = num_features(fusion, pooled_dim, retrieval_dim or pooled_dim)
            self.head = PairHead(width, norm, activation, activation_position)

    def retrieval(self, h: torch.Tensor) -> torch.Tensor:
        """h (B, H) → retrieval embeddings r (B, R)."""
        return self.linear1(h)

    def logits(self, h_a: torch.Tensor, r_a: torch.Tensor, h_b: torch.Tensor, r_b: torch.Tensor) -> torch.Tensor:
        """Pairs given by h and r of both texts (…, H), (…, R) → logits (…, 2)."""
        return self.head(fuse(self.fusion, h_a, r_a, h_b, r_b))


def encode(encoder: Any, pooling: str, input_ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The plain path: padded token ids (B, L) through transformers' own BertModel → pooled output (B, H)."""
    output = encoder(input_ids=input_ids, attention_mask=mask)
    if pooling == "pooler":
        return output.pooler_output.float()
    hidden = output.last_hidden_state.float()
    if pooling == "cls":
        return hidden[:, 0]
    if mask is None:
        return hidden.mean(dim=1)
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)

"""Texts by number → pooled outputs h, in length groups under a token budget. B texts, H pooled width.

Grouping changes no result beyond float rounding: every text sees only itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from biencoder_ablate.data.tokens import Tokens, length_groups, pad
from biencoder_ablate.model.biencoder import encode

EncodeFunction = Callable[[torch.Tensor, "torch.Tensor | None"], torch.Tensor]


def encode_rows(encode_batch: EncodeFunction, tokens: Tokens, rows: np.ndarray, token_budget: int,
                device: torch.device, advance: Callable[[int], None] | None = None) -> torch.Tensor:
    """Pooled outputs h (B, H) of the texts `rows`, in their order; gradients flow where they are on.

    `encode_batch` maps padded ids (b, L) and a mask (b, L) or None to (b, H); `advance` is told the number of
    texts done after each group.
    """
    pieces, order = [], []
    for group in length_groups(tokens.lengths[rows], token_budget):
        ids, mask = pad(tokens, rows[group], device)
        pieces.append(encode_batch(ids, mask))
        order.append(group)
        if advance is not None:
            advance(len(group))
    back = np.empty(len(rows), dtype=np.int64)
    back[np.concatenate(order)] = np.arange(len(rows))
    return torch.cat(pieces).index_select(0, torch.from_numpy(back).to(device))


def plain_encoder(encoder: torch.nn.Module, pooling: str) -> EncodeFunction:
    """The plain path as an EncodeFunction."""
    return lambda ids, mask: encode(encoder, pooling, ids, mask)

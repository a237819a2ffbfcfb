"""Texts by number → pooled outputs h, in groups under a token budget. B texts, H pooled width.

Grouping changes no result beyond float rounding: every text sees only itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from biencoder_ablate.data.tokens import Tokens, length_groups, pad
from biencoder_ablate.model.biencoder import encode
from biencoder_ablate.model.packed import encode_packed, finish_layer, pack

EncodeFunction = Callable[[Tokens, np.ndarray, torch.device], torch.Tensor]
"""Some texts of a corpus, by number (b,), in one pass through an encoder → h (b, H)."""


def encode_rows(
    encode_group: EncodeFunction,
    tokens: Tokens,
    rows: np.ndarray,
    token_budget: int,
    device: torch.device,
    advance: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Pooled outputs h (B, H) of the texts `rows`, in their order; gradients flow where they are on.

    Texts of similar length go through `encode_group` together, so many that they would hold `token_budget`
    tokens if padded; `advance` is told the number of texts done after each group.
    """
    pieces, order = [], []
    for group in length_groups(tokens.lengths[rows], token_budget):
        pieces.append(encode_group(tokens, rows[group], device))
        order.append(group)
        if advance is not None:
            advance(len(group))
    back = np.empty(len(rows), dtype=np.int64)
    back[np.concatenate(order)] = np.arange(len(rows))
    return torch.cat(pieces).index_select(0, torch.from_numpy(back).to(device))


def plain_encoder(encoder: torch.nn.Module, pooling: str) -> EncodeFunction:
    """The plain path: each group padded to its longest text, through transformers' own forward."""
    return lambda tokens, rows, device: encode(encoder, pooling, *pad(tokens, rows, device))


def packed_encoder(encoder: torch.nn.Module, pooling: str, compiled: bool = False) -> EncodeFunction:
    """The fast path: the same without padding (model/packed.py).

    `compiled` runs what lies between attentions through torch.compile: fewer passes over a GPU's memory, for
    tens of seconds of compiling.
    """
    finish = torch.compile(finish_layer, dynamic=True) if compiled else finish_layer
    return lambda tokens, rows, device: encode_packed(encoder, pooling, pack(tokens, rows, device), finish)

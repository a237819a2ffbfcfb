"""Texts by number → pooled outputs h, in groups under a token budget. B texts, H pooled width.

Grouping changes no result beyond float rounding: every text sees only itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from biencoder_ablate.data.tokens import Tokens, length_groups, pad
from biencoder_ablate.model.biencoder import encode
from biencoder_ablate.model.packed import encode_packed, finish_layer, pack

EncodeFunction = Callable[..., torch.Tensor]
"""Tokens, some texts of them by number (b,) and a device → h (b, H) in one pass through an encoder. Dropout draws
from torch's generator; the fast path's takes another as `generator`."""


def encode_rows(
    encode_group: EncodeFunction,
    tokens: Tokens,
    rows: np.ndarray,
    token_budget: int,
    device: torch.device,
    advance: Callable[[int], None] | None = None,
    run: Callable[..., Iterable[torch.Tensor]] = map,
) -> torch.Tensor:
    """Pooled outputs h (B, H) of the texts `rows`, in their order; gradients flow where they are on.

    Texts of similar length go through `encode_group` together, so many that they would hold `token_budget`
    tokens if padded; `run` maps the groups, and `advance` is told the number of texts done after each.
    """
    groups, pieces = length_groups(tokens.lengths[rows], token_budget), []
    for group, piece in zip(groups, run(lambda group: encode_group(tokens, rows[group], device), groups), strict=True):
        pieces.append(piece)
        if advance is not None:
            advance(len(group))
    return torch.cat(pieces).index_select(0, torch.from_numpy(back_in_order(groups)).to(device))


def back_in_order(groups: Sequence[np.ndarray]) -> np.ndarray:
    """Where each of n positions lies when the groups that share them out (together (n,)) are laid end to end."""
    order = np.concatenate(groups)
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return back


def plain_encoder(encoder: torch.nn.Module, pooling: str) -> EncodeFunction:
    """The plain path: each group padded to its longest text, through transformers' own forward."""
    return lambda tokens, rows, device: encode(encoder, pooling, *pad(tokens, rows, device))


def packed_encoder(encoder: torch.nn.Module, pooling: str, compiled: bool = False) -> EncodeFunction:
    """The fast path: the same without padding (model/packed.py).

    `compiled` runs what lies between attentions through torch.compile: fewer passes over a GPU's memory, for
    tens of seconds of compiling.
    """
    finish = torch.compile(finish_layer, dynamic=True) if compiled else finish_layer

    def encode_group(
        tokens: Tokens, rows: np.ndarray, device: torch.device, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        return encode_packed(encoder, pooling, pack(tokens, rows, device), finish, generator)

    return encode_group

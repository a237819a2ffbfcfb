"""A BertModel's forward pass over texts laid end to end: no padding, the same weights, the same result.

Everything but attention works on tokens one by one, so it runs over one (N, H) matrix of all tokens; attention
runs text by text. The module is transformers' own and untouched, dropout falls in its places, and gradients reach
the same parameters. What is computed equals `biencoder.encode` to float tolerance (with dropout 0: the random
draws differ).

N tokens of B texts, L of one text, H width, A attention heads, D width of a head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from biencoder_ablate.data.tokens import Tokens
from biencoder_ablate.model.linear import linear

PADDING_ALLOWED = 1.25
"""Where attention has to be padded, texts of similar length share a call until it holds so many times their tokens."""


@dataclass(frozen=True)
class Packed:
    """Token ids of B texts end to end and each one's position in its text, both (N,), on a device; lengths (B,)."""

    ids: torch.Tensor
    positions: torch.Tensor
    lengths: np.ndarray

    @functools.cached_property
    def starts(self) -> torch.Tensor:
        """Where each text begins (B,)."""
        return torch.from_numpy(np.cumsum(self.lengths) - self.lengths).to(self.ids.device)

    @functools.cached_property
    def boundaries(self) -> torch.Tensor:
        """0 and where each text ends (B + 1,), int32."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)
        return torch.from_numpy(ends).to(self.ids.device, non_blocking=True)


def can_pack(encoder: Any) -> bool:
    """Whether an encoder is of the kind whose forward pass is written out here: BERT."""
    return encoder.config.model_type == "bert" and not encoder.config.is_decoder


def pack(tokens: Tokens, rows: np.ndarray, device: torch.device) -> Packed:
    """The texts `rows` (B,), at least one, end to end."""
    lengths = tokens.lengths[rows]
    positions = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    ids = tokens.ids[np.repeat(tokens.offsets[rows], lengths) + positions]
    return Packed(_to_device(ids.astype(np.int64), device), _to_device(positions, device), lengths)


def _to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def encode_packed(
    encoder: Any,
    pooling: str,
    batch: Packed,
    finish: Callable[..., torch.Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Packed texts through a BertModel → pooled output (B, H), float32.

    With `cls` and `pooler` only the first token's output is used, so the last layer works it out for no other.
    `finish` is `finish_layer`, or that through torch.compile. Dropout draws from `generator`, or from torch's own.
    """
    assert can_pack(encoder) and pooling in ("mean", "cls", "pooler")
    finish = finish or finish_layer
    x = _embed(encoder.embeddings, batch, generator)
    layers = list(encoder.encoder.layer)
    whole = layers if pooling == "mean" else layers[:-1]
    for layer in whole:
        attention = layer.attention.self
        query, key, value = _project(attention, x, "query", "key", "value")
        attended = _attend(attention, Asked(query, key, value, batch.lengths, batch.lengths), batch, generator)
        x = finish(layer, attended, x, generator)
    if pooling == "mean":
        lengths = torch.from_numpy(batch.lengths).to(x.device)
        return torch.segment_reduce(x.float(), "mean", lengths=lengths, axis=0)
    attention = layers[-1].attention.self
    first = x[batch.starts]
    (query,), (key, value) = _project(attention, first, "query"), _project(attention, x, "key", "value")
    asked = Asked(query, key, value, batch.lengths, np.ones_like(batch.lengths))
    x = finish(layers[-1], _attend(attention, asked, batch, generator), first, generator)
    return (x if pooling == "cls" else encoder.pooler(x[:, None])).float()


def _embed(embeddings: Any, batch: Packed, generator: torch.Generator | None) -> torch.Tensor:
    """Sum of word, position and token-type embeddings, normalised (N, H); every token is of type 0."""
    places = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
    x = embeddings.word_embeddings(batch.ids) + F.embedding(batch.positions, places)
    return _drop(embeddings.dropout, embeddings.LayerNorm(x), generator)


def _drop(dropout: Any, x: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """A module's dropout, its draws from `generator` where there is one."""
    if generator is None or not dropout.training or dropout.p == 0:
        return dropout(x)
    kept = 1 - dropout.p
    return x * torch.empty_like(x).bernoulli_(kept, generator=generator).div_(kept)


def _project(attention: Any, x: torch.Tensor, *names: str) -> tuple[torch.Tensor, ...]:
    """Queries, keys or values of tokens, each (N, A, D), in one product."""
    parts = [getattr(attention, name) for name in names]
    projected = linear(x, torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
    return projected.view(len(x), len(parts), attention.num_attention_heads, -1).unbind(1)


def finish_layer(
    layer: Any, attended: torch.Tensor, x: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """What a layer does after attention: project, add, normalise, feed forward, add, normalise (N, H)."""
    output, wide = layer.attention.output, layer.intermediate
    projected = linear(attended, output.dense.weight, output.dense.bias)
    x = output.LayerNorm(_drop(output.dropout, projected, generator) + x)
    wider = wide.intermediate_act_fn(linear(x, wide.dense.weight, wide.dense.bias))
    output = layer.output
    narrow = linear(wider, output.dense.weight, output.dense.bias)
    return output.LayerNorm(_drop(output.dropout, narrow, generator) + x)


@dataclass(frozen=True)
class Asked:
    """Queries of the first `query_lengths` (B,) tokens of each text, and keys and values of all `lengths` (B,):
    (…, A, D), end to end."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    lengths: np.ndarray
    query_lengths: np.ndarray


def _attend(attention: Any, asked: Asked, batch: Packed, generator: torch.Generator | None) -> torch.Tensor:
    """Queries attend to the keys of their own text, by the best way of the device: (…, A, D) → (…, H)."""
    dropout = attention.dropout.p if attention.training else 0.0
    call = functools.partial(F.scaled_dot_product_attention, dropout_p=dropout, scale=attention.scaling)
    if generator is not None and dropout > 0:
        call = functools.partial(_attend_dropping, attention.dropout, attention.scaling, generator)
    if asked.query.device.type != "cuda":
        return _attend_in_runs(call, asked)
    half, has_flash = asked.query.dtype in (torch.bfloat16, torch.float16), torch.cuda.get_device_capability()[0] >= 8
    if dropout == 0 and half and has_flash:  # FlashAttention is for Ampere and newer
        return _attend_varlen(asked, batch, attention.scaling)
    return _attend_padded(call, asked)


def _attend_dropping(
    dropout: Any, scale: float, generator: torch.Generator, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """Attention (B, A, L, D) whose dropout draws from `generator`, which torch's own function cannot be given."""
    weights = torch.softmax(query @ key.mT * scale, dim=-1)
    return _drop(dropout, weights, generator) @ value


def _attend_in_runs(call: Any, asked: Asked) -> torch.Tensor:
    """One call for each run of texts of one length: nothing is padded and nothing masked."""
    begins = np.flatnonzero(np.diff(asked.lengths, prepend=-1))
    counts = np.diff(begins, append=len(asked.lengths))
    keys, queries = asked.lengths[begins].tolist(), asked.query_lengths[begins].tolist()
    outputs = []
    for count, num_keys, num_queries, q, k, v in zip(
        counts.tolist(),
        keys,
        queries,
        asked.query.split((counts * queries).tolist()),
        asked.key.split((counts * keys).tolist()),
        asked.value.split((counts * keys).tolist()),
        strict=True,
    ):
        attended = call(_by_head(q, count, num_queries), _by_head(k, count, num_keys), _by_head(v, count, num_keys))
        outputs.append(attended.transpose(1, 2).reshape(count * num_queries, -1))
    return torch.cat(outputs)


def _by_head(x: torch.Tensor, count: int, length: int) -> torch.Tensor:
    """Tokens of `count` texts of one length, (count · L, A, D) → (count, A, L, D)."""
    return x.view(count, length, *x.shape[1:]).transpose(1, 2)


def _attend_varlen(asked: Asked, batch: Packed, scale: float) -> torch.Tensor:
    """FlashAttention over texts of different lengths in one call; half precision, no dropout."""
    from torch.nn.attention.varlen import varlen_attn

    query, key = asked.query, asked.key
    same = len(query) == len(key)
    of_queries = batch.boundaries if same else torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
    longest_query, longest = int(asked.query_lengths.max()), int(asked.lengths.max())
    attended = varlen_attn(query, key, asked.value, of_queries, batch.boundaries, longest_query, longest, scale=scale)
    assert isinstance(attended, torch.Tensor)
    return attended.flatten(1)


def _attend_padded(call: Any, asked: Asked) -> torch.Tensor:
    """Texts padded for this step alone, those of similar length together, masked where they are padded."""
    lengths, query_lengths = asked.lengths, asked.query_lengths
    outputs, groups = [], groups_of(lengths)
    sizes, query_sizes = ([int(of[group].sum()) for group in groups] for of in (lengths, query_lengths))
    parts = (asked.query.split(query_sizes), asked.key.split(sizes), asked.value.split(sizes))
    for group, q, k, v in zip(groups, *parts, strict=True):
        inside, inside_q = _inside(lengths[group]), _inside(query_lengths[group])
        mask = torch.from_numpy(inside[:, None, None]).to(q.device, non_blocking=True)
        attended = call(_padded(q, inside_q), _padded(k, inside), _padded(v, inside), attn_mask=mask)
        outputs.append(attended.transpose(1, 2).flatten(0, 1).index_select(0, _flat(inside_q, q)).flatten(1))
    return torch.cat(outputs)


def groups_of(lengths: np.ndarray) -> list[slice]:
    """Neighbouring texts in groups that, padded to their longest, hold at most PADDING_ALLOWED times their tokens."""
    groups, start = [], 0
    for end in range(1, len(lengths) + 1):
        members = lengths[start : end + 1]
        if end == len(lengths) or members.max() * len(members) > PADDING_ALLOWED * members.sum():
            groups.append(slice(start, end))
            start = end
    return groups


def _inside(lengths: np.ndarray) -> np.ndarray:
    """Which places of the padded texts hold a token (B, L)."""
    return np.arange(lengths.max())[None, :] < lengths[:, None]


def _flat(inside: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.flatnonzero(inside)).to(like.device, non_blocking=True)


def _padded(x: torch.Tensor, inside: np.ndarray) -> torch.Tensor:
    """Tokens end to end (n, A, D) → padded with zeros, by head (B, A, L, D)."""
    padded = x.new_zeros((inside.size, *x.shape[1:])).index_copy(0, _flat(inside, x), x)
    return padded.unflatten(0, inside.shape).transpose(1, 2)

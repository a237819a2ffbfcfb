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

from biencoder_ablate.encoder.tokens import Tokens, to_device

PADDING_ALLOWED = 1.25
"""Where attention has to be padded, texts of similar length share a call until it holds so many times their tokens."""
_FLASH_ARGUMENTS = [
    "query",
    "key",
    "value",
    "cum_seq_q",
    "cum_seq_k",
    "max_q",
    "max_k",
    "dropout_p",
    "is_causal",
    "return_debug_mask",
]


@dataclass(frozen=True)
class Packed:
    """Token ids of B texts end to end and each one's position in its text, both (N,), on a device; lengths (B,)."""

    ids: torch.Tensor
    positions: torch.Tensor
    lengths: np.ndarray

    @functools.cached_property
    def starts(self) -> torch.Tensor:
        """Where each text begins (B,)."""
        return to_device(np.cumsum(self.lengths) - self.lengths, self.ids.device)

    @functools.cached_property
    def boundaries(self) -> torch.Tensor:
        """0 and where each text ends (B + 1,), int32."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)
        return to_device(ends, self.ids.device)


def can_pack(encoder: Any) -> bool:
    """Whether an encoder is of the kind whose forward pass is written out here: BERT."""
    return encoder.config.model_type == "bert" and not encoder.config.is_decoder


def pack(tokens: Tokens, rows: np.ndarray, device: torch.device) -> Packed:
    """The texts `rows` (B,), at least one, end to end."""
    lengths = tokens.lengths[rows]
    positions = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    ids = tokens.ids[np.repeat(tokens.offsets[rows], lengths) + positions]
    return Packed(to_device(ids.astype(np.int64), device), to_device(positions, device), lengths)


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
        attention, weights = layer.attention.self, _weights(layer, x.device)
        query, key, value = _project(attention, x, weights[0], weights[1])
        attended = _attend(
            attention, AttentionInputs(query, key, value, batch.lengths, batch.lengths), batch, generator
        )
        x = finish(layer, weights, attended, x, generator)
    if pooling == "mean":
        return _means(x.float(), to_device(batch.lengths, x.device))
    attention, weights = layers[-1].attention.self, _weights(layers[-1], x.device)
    first = x.index_select(0, batch.starts)
    of_query, of_others = zip(*(of.split([len(of) // 3, 2 * len(of) // 3]) for of in weights[:2]), strict=True)
    (query,), (key, value) = _project(attention, first, *of_query), _project(attention, x, *of_others)
    asked = AttentionInputs(query, key, value, batch.lengths, np.ones_like(batch.lengths))
    x = finish(layers[-1], weights, _attend(attention, asked, batch, generator), first, generator)
    if pooling == "cls":
        return x.float()
    with torch.autocast(x.device.type, enabled=False):  # half precision would leave h eight bits, and saves nothing
        pooled: torch.Tensor = encoder.pooler(x[:, None].float())
    return pooled


def _means(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The mean of each text's tokens (N, H) → (B, H)."""
    if x.device.type == "mps":  # which has no segment_reduce
        texts = torch.repeat_interleave(lengths, output_size=len(x))
        return x.new_zeros(len(lengths), x.shape[1]).index_add(0, texts, x) / lengths[:, None]
    # Of the checks that unsafe=True leaves out, CUDA's host would wait for two.
    return torch.segment_reduce(x, "mean", lengths=lengths, axis=0, unsafe=True)


def _embed(embeddings: Any, batch: Packed, generator: torch.Generator | None) -> torch.Tensor:
    """Sum of word, position and token-type embeddings, normalised (N, H); every token is of type 0."""
    places = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
    x = embeddings.word_embeddings(batch.ids) + F.embedding(batch.positions, places)
    return _drop(embeddings.dropout, embeddings.LayerNorm(x), generator)


def _drop(dropout: Any, x: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """A module's dropout, its draws from `generator` where there is one."""
    if generator is None or not dropout.training or dropout.p == 0:
        return dropout(x)
    # Sixteen bits an element, four elements a draw: bernoulli_ draws one by one, which costs more than twice as much.
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    dropped = round(dropout.p * 2**16)
    kept = torch.empty(x.shape, dtype=x.dtype)  # of x's type at once: a boolean one costs five times as much
    torch.ge(bits.view(torch.int16)[: x.numel()].view(x.shape), dropped - 2**15, out=kept)
    return x * kept.div_(1 - dropped / 2**16)


Weights = tuple[torch.Tensor, ...]
"""Weight and bias of a layer's products: of queries, keys and values end to end, of attention's output, and of the two
of the feed-forward."""


def _weights(layer: Any, device: torch.device) -> Weights:
    """A layer's weights, in half precision where autocast is on: cast together, there and back, rather than one by one
    by autocast."""
    attention = layer.attention.self
    first = [attention.query, attention.key, attention.value]
    others = [layer.attention.output.dense, layer.intermediate.dense, layer.output.dense]
    single = [value for module in others for value in (module.weight, module.bias)]
    weights, biases = ([getattr(module, name) for module in first] for name in ("weight", "bias"))
    if torch.is_autocast_enabled(device.type):
        cast: Weights = _Cast.apply(torch.get_autocast_dtype(device.type), *weights, *biases, *single)
        return cast
    return (torch.cat(weights), torch.cat(biases), *single)


class _Cast(torch.autograd.Function):
    """Weights of queries, keys and values, their biases, and any others → the same in another dtype, the first three
    and the next three each end to end."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: torch.Tensor) -> Weights:
        joined = [weights[0].new_empty((3 * len(of), *of.shape[1:]), dtype=dtype) for of in (weights[0], weights[3])]
        others = [torch.empty_like(weight, dtype=dtype) for weight in weights[6:]]
        torch._foreach_copy_([*joined[0].chunk(3), *joined[1].chunk(3), *others], list(weights))
        ctx.dtype = weights[0].dtype
        return (*joined, *others)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        given = [*gradients[0].chunk(3), *gradients[1].chunk(3), *gradients[2:]]
        exact = [torch.empty_like(gradient, dtype=ctx.dtype) for gradient in given]
        torch._foreach_copy_(exact, given)
        return None, *exact


def _project(attention: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Queries, keys or values of tokens, as many as there are weights end to end, each (N, A, D), in one product."""
    heads = (attention.num_attention_heads, attention.attention_head_size)
    return F.linear(x, weight, bias).view(len(x), -1, *heads).unbind(1)


def finish_layer(
    layer: Any, weights: Weights, attended: torch.Tensor, x: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """What a layer does after attention: project, add, normalise, feed forward, add, normalise (N, H)."""
    _, _, out, out_bias, wide, wide_bias, narrow, narrow_bias = weights
    output = layer.attention.output
    x = output.LayerNorm(_drop(output.dropout, F.linear(attended, out, out_bias), generator) + x)
    wider = layer.intermediate.intermediate_act_fn(F.linear(x, wide, wide_bias))
    output = layer.output
    return output.LayerNorm(_drop(output.dropout, F.linear(wider, narrow, narrow_bias), generator) + x)


@dataclass(frozen=True)
class AttentionInputs:
    """Queries of the first `query_lengths` (B,) tokens of each text, and keys and values of all `lengths` (B,):
    (…, A, D), end to end."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    lengths: np.ndarray
    query_lengths: np.ndarray


def _attend(attention: Any, asked: AttentionInputs, batch: Packed, generator: torch.Generator | None) -> torch.Tensor:
    """Queries attend to the keys of their own text, by the best way of the device: (…, A, D) → (…, H)."""
    dropout = attention.dropout.p if attention.training else 0.0
    call = functools.partial(F.scaled_dot_product_attention, dropout_p=dropout, scale=attention.scaling)
    # torch's own draws dropout from its one generator, and on a CPU its gradients in bf16 are slower than in fp32.
    slow = asked.query.device.type == "cpu" and asked.query.dtype == torch.bfloat16 and asked.query.requires_grad
    if slow or (generator is not None and dropout > 0):
        call = functools.partial(_attend_plainly, attention.dropout, attention.scaling, generator)
    if asked.query.device.type != "cuda":
        return _attend_in_runs(call, asked)
    if _takes_flash(asked.query):
        return _attend_varlen(asked, batch, attention.scaling, dropout)
    return _attend_padded(call, asked)


def _attend_plainly(
    dropout: Any,
    scale: float,
    generator: torch.Generator | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
) -> torch.Tensor:
    """Attention (B, A, L, D) by two products and a softmax, its dropout drawn from `generator` where there is one."""
    with torch.autocast(query.device.type, enabled=False):  # it would take the softmax to float32, there and back
        weights = torch.softmax(query * scale @ key.mT, dim=-1)
        return _drop(dropout, weights, generator) @ value


def _attend_in_runs(call: Any, asked: AttentionInputs) -> torch.Tensor:
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


def _takes_flash(query: torch.Tensor) -> bool:
    """What FlashAttention asks of queries (…, A, D), and of the machine."""
    half, width = query.dtype in (torch.bfloat16, torch.float16), query.shape[-1]
    return half and width % 8 == 0 and width <= 256 and _has_flash(query.device)


@functools.lru_cache
def _has_flash(device: torch.device) -> bool:
    """Whether the op is there as `_attend_varlen` calls it, on a GPU that has it: Ampere and newer, of NVIDIA's."""
    try:
        arguments = torch.ops.aten._flash_attention_forward.default._schema.arguments
    except AttributeError:  # private, so a newer torch may have dropped it: then attention is padded
        return False
    known = [argument.name for argument in arguments[: len(_FLASH_ARGUMENTS)]] == _FLASH_ARGUMENTS
    return known and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def _attend_varlen(asked: AttentionInputs, batch: Packed, scale: float, dropout: float) -> torch.Tensor:
    """FlashAttention over texts of different lengths in one call; half precision.

    The op below torch.nn.attention.varlen: that has no dropout, and Python layers that cost half a millisecond.
    """
    query, key = asked.query, asked.key
    same = len(query) == len(key)
    of_queries = batch.boundaries if same else torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
    longest_query, longest = int(asked.query_lengths.max()), int(asked.lengths.max())
    places = (of_queries, batch.boundaries, longest_query, longest)
    forward = torch.ops.aten._flash_attention_forward
    attended: torch.Tensor = forward(query, key, asked.value, *places, dropout, False, False, scale=scale)[0]
    return attended.flatten(1)


def _attend_padded(call: Any, asked: AttentionInputs) -> torch.Tensor:
    """Texts padded for this step alone, those of similar length together, masked where they are padded."""
    lengths, query_lengths = asked.lengths, asked.query_lengths
    outputs, groups = [], groups_of(lengths)
    sizes, query_sizes = ([int(of[group].sum()) for group in groups] for of in (lengths, query_lengths))
    parts = (asked.query.split(query_sizes), asked.key.split(sizes), asked.value.split(sizes))
    for group, q, k, v in zip(groups, *parts, strict=True):
        inside, inside_q = _inside(lengths[group]), _inside(query_lengths[group])
        mask = to_device(inside[:, None, None], q.device)
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
    return to_device(np.flatnonzero(inside), like.device)


def _padded(x: torch.Tensor, inside: np.ndarray) -> torch.Tensor:
    """Tokens end to end (n, A, D) → padded with zeros, by head (B, A, L, D)."""
    padded = x.new_zeros((inside.size, *x.shape[1:])).index_copy(0, _flat(inside, x), x)
    return padded.unflatten(0, inside.shape).transpose(1, 2)

"""A BertModel's forward pass over texts laid end to end: no padding, the same weights, the same result.

Everything but attention works on tokens one by one, so it runs over one (N, H) matrix of all tokens; attention
runs text by text. The module is transformers' own and untouched, dropout falls in its places, and gradients reach
the same parameters. What is computed equals `texts.encode` to float tolerance (with dropout 0: the random
draws differ).

N tokens of B texts, L of one text, H width, I width of the feed-forward, A attention heads, D width of a head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
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

    ids: Tensor
    positions: Tensor
    lengths: np.ndarray

    @functools.cached_property
    def boundaries(self) -> Tensor:
        """0 and where each text ends (B + 1,), int32."""
        ends = np.cumsum(self.lengths)
        return to_device(np.concatenate([[0], ends]).astype(np.int32), self.ids.device)


class LayerWeights(NamedTuple):
    """The weights and biases of a layer's products. Those of queries, keys and values lie end to end."""

    qkv: Tensor  # (3 H, H)
    qkv_bias: Tensor  # (3 H,)
    attended: Tensor  # (H, H)
    attended_bias: Tensor  # (H,)
    widen: Tensor  # (I, H)
    widen_bias: Tensor  # (I,)
    narrow: Tensor  # (H, I)
    narrow_bias: Tensor  # (H,)


@dataclass(frozen=True)
class AttentionInputs:
    """Queries of the first `query_lengths` (B,) tokens of each text, and keys and values of all `lengths` (B,):
    (…, A, D), end to end."""

    query: Tensor
    key: Tensor
    value: Tensor
    lengths: np.ndarray
    query_lengths: np.ndarray


def can_pack(encoder: Any) -> bool:
    """Whether an encoder is of the kind whose forward pass is written out here: BERT."""
    return encoder.config.model_type == "bert" and not encoder.config.is_decoder


def pack(
    tokens: Tokens,
    rows: np.ndarray,
    device: torch.device,
) -> Packed:
    """The texts `rows` (B,), at least one, end to end."""
    lengths = tokens.lengths[rows]
    starts = np.cumsum(lengths) - lengths  # (B,)
    positions = np.arange(lengths.sum()) - np.repeat(starts, lengths)  # (N,)
    ids = tokens.ids[np.repeat(tokens.offsets[rows], lengths) + positions]  # (N,)
    return Packed(to_device(ids.astype(np.int64), device), to_device(positions, device), lengths)


def encode_packed(
    encoder: Any,
    pooling: str,
    batch: Packed,
    finish: Callable[..., Tensor],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Packed texts through a BertModel → pooled output (B, H), float32.

    `finish` is `finish_layer`, or that through torch.compile. Dropout draws from `generator`, or from torch's own.
    """
    assert can_pack(encoder) and pooling in ("mean", "cls", "pooler")
    x = _embed(encoder.embeddings, batch, generator)  # (N, H)
    *layers, last_layer = encoder.encoder.layer
    for layer in layers:
        x = _run_layer(layer, x, batch, finish, generator)

    if pooling == "mean":
        x = _run_layer(last_layer, x, batch, finish, generator)
        return _means(x.float(), to_device(batch.lengths, x.device))

    # Only the first token's output is used, so the last layer works it out for no other.
    x = _run_layer(last_layer, x, batch, finish, generator, first_tokens_only=True)  # (B, H)
    if pooling == "cls":
        return x.float()
    # Half precision would leave h eight bits, and saves nothing.
    with torch.autocast(x.device.type, enabled=False):
        pooled: Tensor = encoder.pooler(x[:, None].float())
    return pooled


def _means(x: Tensor, lengths: Tensor) -> Tensor:
    """The mean of each text's tokens (N, H) → (B, H)."""
    if x.device.type == "mps":  # which has no segment_reduce
        text_of_token = torch.repeat_interleave(lengths, output_size=len(x))  # (N,)
        sums = x.new_zeros(len(lengths), x.shape[1]).index_add(0, text_of_token, x)
        return sums / lengths[:, None]
    # With unsafe=False torch checks the lengths, and the host would wait twice for CUDA to hand them back.
    return torch.segment_reduce(x, "mean", lengths=lengths, axis=0, unsafe=True)


def _embed(
    embeddings: Any,
    batch: Packed,
    generator: torch.Generator | None,
) -> Tensor:
    """Sum of word, position and token-type embeddings, normalised (N, H)."""
    # Every token is of type 0, so that its embedding can be added to the positions' once.
    position_table = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
    x = embeddings.word_embeddings(batch.ids) + F.embedding(batch.positions, position_table)
    return _drop(embeddings.dropout, embeddings.LayerNorm(x), generator)


def _drop(dropout: Any, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """A module's dropout, its draws from `generator` where there is one; x of any shape."""
    if generator is None or not dropout.training or dropout.p == 0:
        return dropout(x)

    # Sixteen bits decide on an element and a draw has 64: bernoulli_, which draws for each element, takes over twice
    # as long. An element is dropped where its bits, read as a signed number, are among the lowest.
    num_draws = -(-x.numel() // 4)
    draws = torch.empty(num_draws, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
    num_dropped = round(dropout.p * 2**16)  # of the 2**16 values that the bits can have

    # The mask is of x's type at once: to multiply by a boolean one costs five times as much.
    mask = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(bits, num_dropped - 2**15, out=mask)
    return x * mask.div_(1 - num_dropped / 2**16)


def _run_layer(
    layer: Any,
    x: Tensor,
    batch: Packed,
    finish: Callable[..., Tensor],
    generator: torch.Generator | None,
    first_tokens_only: bool = False,
) -> Tensor:
    """A layer over all tokens (N, H) → (N, H), or of the first token of each text alone → (B, H)."""
    attention = layer.attention.self
    weights = _layer_weights(layer, x.device)
    if first_tokens_only:
        starts = np.cumsum(batch.lengths) - batch.lengths
        x_query = x.index_select(0, to_device(starts, x.device))  # (B, H)
        query_lengths = np.ones_like(batch.lengths)

        # One product for the queries of first tokens, another for the keys and values of all.
        width = len(weights.qkv) // 3
        sizes = [width, 2 * width]
        query_weight, key_value_weight = weights.qkv.split(sizes)
        query_bias, key_value_bias = weights.qkv_bias.split(sizes)
        (query,) = _project(attention, x_query, query_weight, query_bias)
        key, value = _project(attention, x, key_value_weight, key_value_bias)
    else:
        x_query = x
        query_lengths = batch.lengths
        query, key, value = _project(attention, x, weights.qkv, weights.qkv_bias)  # each (N, A, D)

    inputs = AttentionInputs(query, key, value, batch.lengths, query_lengths)
    attended = _attend(attention, inputs, batch, generator)
    return finish(layer, weights, attended, x_query, generator)


def _layer_weights(layer: Any, device: torch.device) -> LayerWeights:
    """A layer's weights, in half precision where autocast is on.

    They are cast together, there and back, where autocast would cast one after another.
    """
    attention = layer.attention.self
    projections = [attention.query, attention.key, attention.value]
    qkv = [module.weight for module in projections]
    qkv_biases = [module.bias for module in projections]
    others = []
    for module in (layer.attention.output.dense, layer.intermediate.dense, layer.output.dense):
        others += [module.weight, module.bias]

    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
        return LayerWeights(*_CastWeights.apply(dtype, *qkv, *qkv_biases, *others))
    return LayerWeights(torch.cat(qkv), torch.cat(qkv_biases), *others)


class _CastWeights(torch.autograd.Function):
    """Weights of queries, keys and values, their biases, and any others → the same in another dtype, the first three
    and the next three each end to end."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = weights[0].dtype
        width = len(weights[0])
        qkv = weights[0].new_empty((3 * width, weights[0].shape[1]), dtype=dtype)
        qkv_bias = weights[3].new_empty(3 * width, dtype=dtype)
        others = [torch.empty_like(weight, dtype=dtype) for weight in weights[6:]]
        targets = [*qkv.chunk(3), *qkv_bias.chunk(3), *others]
        torch._foreach_copy_(targets, list(weights))
        return (qkv, qkv_bias, *others)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        parts = [*gradients[0].chunk(3), *gradients[1].chunk(3), *gradients[2:]]
        exact = [torch.empty_like(part, dtype=ctx.dtype) for part in parts]
        torch._foreach_copy_(exact, parts)
        return None, *exact


def _project(
    attention: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
) -> tuple[Tensor, ...]:
    """Queries, keys or values of tokens, as many as there are weights end to end, each (N, A, D), in one product."""
    heads = (attention.num_attention_heads, attention.attention_head_size)
    projected = F.linear(x, weight, bias)  # (N, …)
    return projected.view(len(x), -1, *heads).unbind(1)


def finish_layer(
    layer: Any,
    weights: LayerWeights,
    attended: Tensor,
    x: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """What a layer does after attention: project, add, normalise, feed forward, add, normalise (N, H)."""
    output = layer.attention.output
    projected = F.linear(attended, weights.attended, weights.attended_bias)
    x = output.LayerNorm(_drop(output.dropout, projected, generator) + x)

    activation = layer.intermediate.intermediate_act_fn
    wide = activation(F.linear(x, weights.widen, weights.widen_bias))  # (N, I)
    output = layer.output
    narrow = F.linear(wide, weights.narrow, weights.narrow_bias)
    return output.LayerNorm(_drop(output.dropout, narrow, generator) + x)


def _attend(
    attention: Any,
    inputs: AttentionInputs,
    batch: Packed | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Queries attend to the keys of their own text, by the best way of the device: (…, A, D) → (…, H)."""
    query = inputs.query
    dropout = attention.dropout.p if attention.training else 0.0
    call = functools.partial(F.scaled_dot_product_attention, dropout_p=dropout, scale=attention.scaling)

    # torch's own attention draws dropout from torch's one generator, and its gradients in bf16 take longer on a CPU
    # than those in fp32.
    is_slow = query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad
    if is_slow or (generator is not None and dropout > 0):
        call = functools.partial(_attend_plainly, attention.dropout, attention.scaling, generator)

    if query.device.type != "cuda":
        return _attend_in_runs(call, inputs)
    if _takes_flash(query):
        assert batch is not None
        return _attend_varlen(inputs, batch.boundaries, attention.scaling, dropout)
    return _attend_padded(call, inputs)


def _attend_plainly(
    dropout: Any,
    scale: float,
    generator: torch.Generator | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
) -> Tensor:
    """Attention (B, A, L, D) by two products and a softmax, its dropout drawn from `generator` where there is one."""
    # Autocast would take the softmax to float32, there and back.
    with torch.autocast(query.device.type, enabled=False):
        weights = torch.softmax(query * scale @ key.mT, dim=-1)  # (B, A, L, L)
        return _drop(dropout, weights, generator) @ value


def _attend_in_runs(call: Any, inputs: AttentionInputs) -> Tensor:
    """One call for each run of texts of one length: nothing is padded and nothing masked."""
    # Batches come sorted by length, so that texts of one length are neighbours.
    first_texts = np.flatnonzero(np.diff(inputs.lengths, prepend=-1))  # of each run
    counts = np.diff(first_texts, append=len(inputs.lengths))
    num_keys = (counts * inputs.lengths[first_texts]).tolist()
    num_queries = (counts * inputs.query_lengths[first_texts]).tolist()
    queries = inputs.query.split(num_queries)
    keys = inputs.key.split(num_keys)
    values = inputs.value.split(num_keys)

    outputs = []
    for count, *run in zip(counts.tolist(), queries, keys, values, strict=True):
        # Each (count · L, A, D) → (count, A, L, D), and what comes back → (count · L, H).
        by_head = [x.unflatten(0, (count, -1)).transpose(1, 2) for x in run]
        attended = call(*by_head)
        outputs.append(attended.transpose(1, 2).flatten(2).flatten(0, 1))
    return torch.cat(outputs)


def _takes_flash(query: Tensor) -> bool:
    """What FlashAttention asks of queries (…, A, D), and of the machine."""
    width = query.shape[-1]
    if query.dtype not in (torch.bfloat16, torch.float16) or width % 8 != 0 or width > 256:
        return False
    return _has_flash(query.device)


@functools.lru_cache
def _has_flash(device: torch.device) -> bool:
    """Whether the op is there as `_attend_varlen` calls it, on a GPU that has it: Ampere and newer, of NVIDIA's."""
    # The op is private, so a newer torch may have dropped or changed it: then attention is padded.
    try:
        arguments = torch.ops.aten._flash_attention_forward.default._schema.arguments
    except AttributeError:
        return False
    names = [argument.name for argument in arguments[: len(_FLASH_ARGUMENTS)]]
    if names != _FLASH_ARGUMENTS or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _attend_varlen(
    inputs: AttentionInputs,
    boundaries: Tensor,
    scale: float,
    dropout: float,
) -> Tensor:
    """FlashAttention over texts of different lengths in one call; half precision.

    The op below torch.nn.attention.varlen: that has no dropout, and Python layers that cost half a millisecond.
    """
    query = inputs.query
    key = inputs.key
    query_boundaries = boundaries
    if len(query) != len(key):  # one query of each text
        query_boundaries = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
    outputs: tuple[Tensor, ...] = torch.ops.aten._flash_attention_forward(
        query,
        key,
        inputs.value,
        query_boundaries,
        boundaries,
        int(inputs.query_lengths.max()),
        int(inputs.lengths.max()),
        dropout,
        False,
        False,
        scale=scale,
    )
    attended = outputs[0]
    return attended.flatten(1)


def _attend_padded(call: Any, inputs: AttentionInputs) -> Tensor:
    """Texts padded for this call alone, those of similar length together, masked where they are padded."""
    device = inputs.query.device
    groups = groups_of(inputs.lengths)
    lengths = [inputs.lengths[group] for group in groups]
    query_lengths = [inputs.query_lengths[group] for group in groups]
    num_keys = [int(each.sum()) for each in lengths]
    num_queries = [int(each.sum()) for each in query_lengths]
    queries = inputs.query.split(num_queries)
    keys = inputs.key.split(num_keys)
    values = inputs.value.split(num_keys)

    outputs = []
    for number, query in enumerate(queries):
        is_key = _is_token(lengths[number])  # (B, L)
        is_query = _is_token(query_lengths[number])  # (B, 1), or as is_key
        key_places = to_device(np.flatnonzero(is_key), device)
        query_places = to_device(np.flatnonzero(is_query), device)
        attended = call(
            _padded(query, query_places, is_query.shape),
            _padded(keys[number], key_places, is_key.shape),
            _padded(values[number], key_places, is_key.shape),
            attn_mask=to_device(is_key[:, None, None], device),  # (B, 1, 1, L)
        )
        flat = attended.transpose(1, 2).flatten(0, 1)  # (B · L, A, D)
        outputs.append(flat.index_select(0, query_places).flatten(1))
    return torch.cat(outputs)


def groups_of(lengths: np.ndarray) -> list[slice]:
    """Neighbouring texts in groups that, padded to their longest, hold at most PADDING_ALLOWED times their tokens."""
    groups: list[slice] = []
    start = 0
    for end in range(1, len(lengths) + 1):
        with_next = lengths[start : end + 1]
        num_padded = with_next.max() * len(with_next)
        if end == len(lengths) or num_padded > PADDING_ALLOWED * with_next.sum():
            groups.append(slice(start, end))
            start = end
    return groups


def _is_token(lengths: np.ndarray) -> np.ndarray:
    """Which places of the padded texts hold a token (B, L)."""
    return np.arange(lengths.max())[None, :] < lengths[:, None]


def _padded(x: Tensor, places: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Tokens end to end (n, A, D), put at their places (n,) among zeros, by head (B, A, L, D); `shape` is (B, L)."""
    num_texts, length = shape
    flat = x.new_zeros((num_texts * length, *x.shape[1:])).index_copy(0, places, x)
    return flat.unflatten(0, shape).transpose(1, 2)

"""From texts to pooled outputs h: an encoder and how it reads, groups of texts under a token budget, cached features.

Grouping changes no result beyond float rounding: every text sees only itself. T texts of a corpus, B of them at a
time, H pooled width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from biencoder_ablate.config import Config, ConfigError
from biencoder_ablate.encoder.device import forward_flops, release_memory, training_bytes
from biencoder_ablate.encoder.packed import can_pack, encode_packed, finish_layer, pack
from biencoder_ablate.encoder.pretrained import ModelSource, load_encoder, load_tokenizer
from biencoder_ablate.encoder.threads import TwoThreads, halves
from biencoder_ablate.encoder.tokens import Tokens, cached_tokens, length_groups, pad, to_device, tokenize
from biencoder_ablate.utils.distributed import World

TRAIN_TOKEN_BUDGET = {"cpu": 2048, "cuda": 65536, "mps": 8192}
CPU_TRAIN_TOKEN_BUDGET_IN_BF16 = 8192
TURN_TOKEN_BUDGET = {"cpu": 4096, "cuda": 65536, "mps": 8192}
EVAL_TOKEN_BUDGET = {"cpu": 4096, "cuda": 131072, "mps": 16384}
"""Tokens of one pass through the encoder, padding included, by device: what its caches or its memory hold. Of texts in
turns, which are there to save memory, a CPU takes fewer than it could."""
HAND_BACK_TURNS = 4
"""Backward passes of texts in turns on a CPU between two times that freed memory is handed back to the machine."""

Advance = Callable[[int], None]
Hidden = tuple[torch.Tensor, torch.Tensor | None]
"""h (T, H) of texts as candidates, and as points where prompts make that another."""
EncodeFunction = Callable[..., torch.Tensor]
"""Tokens, some texts of them by number (b,) and a device → h (b, H) in one pass through an encoder. Dropout draws
from torch's generator; the fast path's takes another as `generator`."""


@dataclass(frozen=True)
class EncodeSettings:
    """How an encoder reads texts: pooling, the most tokens of one, where and in which precision, whether by the fast
    path (and that through torch.compile), and what is put before a text that asks and one that is ranked."""

    pooling: str
    max_tokens: int
    device: torch.device
    precision: str = "fp32"
    fast: bool = True
    compiled: bool = False
    point_prompt: str | None = None
    candidate_prompt: str | None = None

    def as_points(self, texts: Sequence[str]) -> list[str]:
        """What the encoder is given of texts that ask."""
        return [f"{self.point_prompt or ''}{text}" for text in texts]

    def as_candidates(self, texts: Sequence[str]) -> list[str]:
        """What the encoder is given of texts that are ranked."""
        return [f"{self.candidate_prompt or ''}{text}" for text in texts]


@dataclass(frozen=True)
class PromptedTexts:
    """What the encoder is given of T texts of which some are points, S strings, and which of them a text is.

    The first T are the texts as candidates. as_point (T,): where a text is as a point; the same place where no prompt
    tells the two apart, and None where none does for any.
    """

    strings: tuple[str, ...]
    as_point: np.ndarray | None

    def of(self, h: torch.Tensor) -> Hidden:
        """From h of the strings (S, H) to h of the texts."""
        if self.as_point is None:
            return h, None
        return h[: len(self.as_point)], h.index_select(0, torch.from_numpy(self.as_point).to(h.device))


def prompted_texts(texts: Sequence[str], points: np.ndarray, reading: EncodeSettings) -> PromptedTexts:
    """The roles of texts of which `points` (text indices, repeated or not) ask."""
    candidates = tuple(reading.as_candidates(texts))
    if (reading.point_prompt or "") == (reading.candidate_prompt or ""):
        return PromptedTexts(candidates, None)
    asking, as_point = np.unique(points), np.arange(len(texts))
    as_point[asking] = len(texts) + np.arange(len(asking))
    return PromptedTexts((*candidates, *reading.as_points([texts[i] for i in asking])), as_point)


@dataclass(frozen=True)
class TextEncoder:
    """An encoder with its tokenizer, and how it reads."""

    module: Any
    tokenizer: Any
    source: ModelSource
    reading: EncodeSettings

    def tokens(self, texts: Sequence[str], cache: Path | None = None) -> Tokens:
        """The texts as token ids, kept in `cache` where one is given."""
        if cache is None:
            return tokenize(self.tokenizer, texts, self.reading.max_tokens)
        return cached_tokens(self.tokenizer, self.source.fingerprint, texts, self.reading.max_tokens, cache)

    def over(self, tokens: Tokens) -> EncodedTexts:
        """The texts of these tokens, to be encoded by number."""
        reading, kind = self.reading, self.reading.device.type
        packed = reading.fast and can_pack(self.module)
        encode_group = (
            packed_encoder(self.module, reading.pooling, reading.compiled)
            if packed
            else plain_encoder(self.module, reading.pooling)
        )
        threads = TwoThreads() if packed and not reading.compiled and kind == "cpu" else None
        return EncodedTexts(
            self.module,
            encode_group,
            tokens,
            reading.device,
            reading.precision,
            self._train_token_budget(),
            EVAL_TOKEN_BUDGET[kind],
            threads,
        )

    def _train_token_budget(self) -> int:
        """On CUDA no more than fits beside weights, gradients and two moments, with a fifth of the memory left."""
        budget, device = TRAIN_TOKEN_BUDGET[self.reading.device.type], self.reading.device
        if device.type == "cpu" and self.reading.precision == "bf16":
            return CPU_TRAIN_TOKEN_BUDGET_IN_BF16
        if device.type != "cuda":
            return budget
        weights = sum(value.numel() for value in self.module.parameters())
        free = 0.8 * torch.cuda.get_device_properties(device).total_memory - 16 * weights
        return min(budget, max(512, int(free / training_bytes(self.module.config, self.reading.precision))))

    def __call__(self, texts: Sequence[str], advance: Advance | None = None) -> torch.Tensor:
        """Pooled outputs h (B, H) of any texts, in eval mode; `advance` is told how many more are done."""
        return self.over(self.tokens(texts)).all_pooled(advance)

    def num_tokens(self, text: str) -> int:
        """Length of a text in tokens before it is cut, special ones included."""
        return int(self.tokens([text]).full_lengths[0])


def open_encoder(source: ModelSource, reading: EncodeSettings, dropout: float | None = None) -> TextEncoder:
    """The encoder in `source`, loaded and moved to its device. Raises ConfigError."""
    module = load_encoder(source.directory, reading.pooling, reading.max_tokens, dropout)
    tokenizer = load_tokenizer(source.directory, reading.max_tokens)
    if reading.compiled and not can_pack(module):
        raise ConfigError(
            f"training.compile=true: is part of the path without padding, which there is for BERT and not for "
            f"{module.config.model_type}; must be false"
        )
    if reading.pooling == "cls" and not tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"][0]:
        raise ConfigError("model.pooling=cls: this encoder's texts begin with no special token; must be mean")
    return TextEncoder(module.to(reading.device), tokenizer, source, reading)


class TextSource(Protocol):
    """Pooled outputs of texts by number."""

    def pooled(self, rows: np.ndarray) -> torch.Tensor:
        """h (B, H) of the texts `rows`, which may repeat, with gradients where the encoder is trained."""

    def pooled_cached(self, rows: np.ndarray) -> tuple[torch.Tensor, Callable[[], None]]:
        """The same h (B, H), equal draws of dropout included, without holding what its gradients need; and what hands
        h's gradients on to the encoder, once h has them, a group of texts at a time (Gao et al. 2021, "Scaling Deep
        Contrastive Learning Batch Size under Memory Limited Setup", §3.2)."""

    def all_pooled(self, advance: Advance | None = None) -> torch.Tensor:
        """h (T, H) of every text, in eval mode and without gradients."""

    def flops(self, rows: np.ndarray) -> tuple[int, float]:
        """(tokens, operations) of the forward pass of `hidden`; nothing where texts come from a cache."""


@dataclass(eq=False)
class EncodedTexts:
    """Texts run through the encoder each time; each distinct one of a call once.

    With `threads` two groups of texts are encoded at a time; `encode_group` must take a generator then.
    """

    module: nn.Module
    encode_group: EncodeFunction
    tokens: Tokens
    device: torch.device
    precision: str
    train_token_budget: int
    eval_token_budget: int
    threads: TwoThreads | None = None

    def pooled(self, rows: np.ndarray) -> torch.Tensor:
        distinct, where = np.unique(rows, return_inverse=True)
        parts, generators = self._parts_and_generators(distinct)
        jobs = [
            functools.partial(self._encode, distinct[part], generator)
            for part, generator in zip(parts, generators, strict=True)
        ]
        h = jobs[0]() if self.threads is None or len(jobs) < 2 else self.threads.both_with_gradients(*jobs)
        return h.index_select(0, to_device(back_in_order(parts)[where], h.device))

    def pooled_cached(self, rows: np.ndarray) -> tuple[torch.Tensor, Callable[[], None]]:
        distinct, where = np.unique(rows, return_inverse=True)
        parts, generators = self._parts_and_generators(distinct)
        budget = min(self.train_token_budget, TURN_TOKEN_BUDGET[self.device.type])
        turns: list[tuple[np.ndarray, torch.Generator | None, torch.Tensor]] = []
        pieces = []
        with torch.no_grad():
            for part, generator in zip(parts, generators, strict=True):
                for group in length_groups(self.tokens.lengths[distinct[part]], budget):
                    turns.append((part[group], generator, _random_state(generator, self.device)))
                    pieces.append(self._encode_group(self.tokens, distinct[part[group]], self.device, generator))
        back = back_in_order([group for group, _, _ in turns])
        flat = torch.cat(pieces).requires_grad_()
        h = flat.index_select(0, to_device(back[where], flat.device))

        def spread() -> None:
            assert flat.grad is not None
            gradients = flat.grad.split([len(group) for group, _, _ in turns])
            after = [_random_state(generator, self.device) for generator in generators]
            for turn, ((group, generator, state), gradient) in enumerate(zip(turns, gradients, strict=True)):
                if self.device.type == "cpu" and turn % HAND_BACK_TURNS == 0:
                    release_memory()
                _set_random_state(generator, self.device, state)
                h_group = self._encode_group(self.tokens, distinct[group], self.device, generator)
                torch.autograd.backward(h_group, gradient)
            for generator, state in zip(generators, after, strict=True):
                _set_random_state(generator, self.device, state)

        return h, spread

    def _parts_and_generators(self, rows: np.ndarray) -> tuple[Sequence[np.ndarray], Sequence[torch.Generator | None]]:
        """Positions of `rows` (b,) in one part, or in two of which each draws its dropout from a generator of its own,
        seeded from torch's, so that no draw depends on timing."""
        if self.threads is None or len(rows) < 2:
            return [np.arange(len(rows))], [None]
        parts = halves(forward_flops(self.module.config, self.tokens.lengths[rows]))
        return parts, [torch.Generator().manual_seed(seed) for seed in torch.randint(2**62, (len(parts),)).tolist()]

    def _encode(self, rows: np.ndarray, generator: torch.Generator | None) -> torch.Tensor:
        group = functools.partial(self._encode_group, generator=generator)
        return encode_rows(group, self.tokens, rows, self.train_token_budget, self.device)

    def _encode_group(
        self, tokens: Tokens, rows: np.ndarray, device: torch.device, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        more = {} if generator is None else {"generator": generator}  # which the plain path does not take
        # Here, since autocast counts only in the thread that asks for it. Its cache of cast weights is one for all
        # threads, and would save nothing: a pass uses each weight once.
        bf16 = self.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16, cache_enabled=False):
            return self.encode_group(tokens, rows, device, **more).float()

    def all_pooled(self, advance: Advance | None = None) -> torch.Tensor:
        return self.eval_pooled(np.arange(len(self.tokens)), advance)

    def eval_pooled(self, rows: np.ndarray, advance: Advance | None = None) -> torch.Tensor:
        """h (B, H) of the texts `rows`, in eval mode and without gradients."""
        was_training = self.module.training
        self.module.eval()
        run = map if self.threads is None else self.threads.map
        try:
            with torch.no_grad():
                return encode_rows(
                    self._encode_group, self.tokens, rows, self.eval_token_budget, self.device, advance, run
                )
        finally:
            self.module.train(was_training)

    def flops(self, rows: np.ndarray) -> tuple[int, float]:
        lengths = self.tokens.lengths[np.unique(rows)]
        return int(lengths.sum()), float(forward_flops(self.module.config, lengths).sum())


class CachedTexts:
    """Texts whose pooled outputs (T, H) are known: the frozen encoder's."""

    def __init__(self, features: torch.Tensor) -> None:
        self.features = features

    def pooled(self, rows: np.ndarray) -> torch.Tensor:
        return self.features.index_select(0, to_device(rows, self.features.device))

    def pooled_cached(self, rows: np.ndarray) -> tuple[torch.Tensor, Callable[[], None]]:
        return self.pooled(rows), lambda: None

    def all_pooled(self, advance: Advance | None = None) -> torch.Tensor:
        return self.features

    def flops(self, rows: np.ndarray) -> tuple[int, float]:
        return 0, 0.0


def _random_state(generator: torch.Generator | None, device: torch.device) -> torch.Tensor:
    """The state of what dropout draws from: a generator, or torch's own for the device."""
    if generator is not None:
        return generator.get_state()
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(generator: torch.Generator | None, device: torch.device, state: torch.Tensor) -> None:
    if generator is not None:
        generator.set_state(state)
    elif device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


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
    return torch.cat(pieces).index_select(0, to_device(back_in_order(groups), device))


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


def encode(encoder: Any, pooling: str, input_ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The plain path: padded token ids (B, L) through a model of transformers itself → pooled output (B, H)."""
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


def encode_settings(config: Config, device: torch.device, precision: str) -> EncodeSettings:
    """How the config's encoder reads texts on a device."""
    model, training = config.model, config.training
    return EncodeSettings(
        model.pooling,
        model.max_tokens,
        device,
        precision,
        training.fast,
        training.compile,
        model.point_prompt,
        model.candidate_prompt,
    )


class SharedTexts:
    """Texts whose encoding is shared out among processes and gathered; training batches are shared out already."""

    def __init__(self, inner: EncodedTexts, world: World) -> None:
        self.inner = inner
        self.world = world

    def pooled(self, rows: np.ndarray) -> torch.Tensor:
        return self.inner.pooled(rows)

    def pooled_cached(self, rows: np.ndarray) -> tuple[torch.Tensor, Callable[[], None]]:
        return self.inner.pooled_cached(rows)

    def flops(self, rows: np.ndarray) -> tuple[int, float]:
        return self.inner.flops(rows)

    def all_pooled(self, advance: Advance | None = None) -> torch.Tensor:
        return self.eval_pooled(np.arange(len(self.inner.tokens)), advance)

    def eval_pooled(self, rows: np.ndarray, advance: Advance | None = None) -> torch.Tensor:
        """h (B, H) of the texts `rows`, each process having encoded its share of them."""
        size = -(-len(rows) // self.world.size)
        own = self.inner.eval_pooled(self.world.shard(rows), advance)
        padded = own.new_zeros((size, own.shape[1]))
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.world.size)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[: len(rows)]

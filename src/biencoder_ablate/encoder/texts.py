"""From texts to pooled outputs h: an encoder and how it reads, groups of texts under a token budget, cached features.

Grouping changes no result beyond float rounding: every text sees only itself. T texts of a corpus, B of them at a
time, b of those in one pass, L tokens, H pooled width.

From the outside in: `EncodedTexts.pooled` of any texts → `encode_rows`, group by group → one pass through an encoder,
`packed.encode_packed` or, padded, `encode`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from biencoder_ablate.config import Config, ConfigError
from biencoder_ablate.encoder.device import forward_flops, release_memory, training_bytes
from biencoder_ablate.encoder.packed import can_pack, encode_packed, finish_layer, pack
from biencoder_ablate.encoder.pretrained import ModelSource, load_encoder, load_tokenizer
from biencoder_ablate.encoder.threads import TwoThreads, halves
from biencoder_ablate.encoder.tokens import Tokens, cached_tokens, length_groups, pad, to_device, tokenize
from biencoder_ablate.utils.distributed import World

# Tokens of one pass through the encoder, padding included, by device: what its caches or its memory hold.
TRAIN_TOKEN_BUDGET = {"cpu": 2048, "cuda": 65536, "mps": 8192}
CPU_TRAIN_TOKEN_BUDGET_IN_BF16 = 8192
EVAL_TOKEN_BUDGET = {"cpu": 4096, "cuda": 131072, "mps": 16384}
CACHING_TOKEN_BUDGET = {"cpu": 4096, "cuda": 65536, "mps": 8192}
"""With gradient caching, which is there to save memory, a CPU takes fewer tokens than it could."""

RELEASE_EVERY = 4
"""Backward passes of gradient caching on a CPU between two times that freed memory is given back to the machine."""

Advance = Callable[[int], None]
"""Is told how many more texts are done."""
Hidden = tuple[Tensor, Tensor | None]
"""h (T, H) of texts as candidates, and as points where prompts make that another."""
EncodeFunction = Callable[..., Tensor]
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
        prompt = self.point_prompt or ""
        return [prompt + text for text in texts]

    def as_candidates(self, texts: Sequence[str]) -> list[str]:
        """What the encoder is given of texts that are ranked."""
        prompt = self.candidate_prompt or ""
        return [prompt + text for text in texts]


def encode_settings(config: Config, device: torch.device, precision: str) -> EncodeSettings:
    """How the config's encoder reads texts on a device."""
    model = config.model
    training = config.training
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


@dataclass(frozen=True)
class PromptedTexts:
    """What the encoder is given of T texts of which some are points, S strings, and which of them a text is.

    The first T are the texts as candidates. as_point (T,): where a text is as a point; the same place where no prompt
    tells the two apart, and None where none does for any.
    """

    strings: tuple[str, ...]
    as_point: np.ndarray | None

    def of(self, h: Tensor) -> Hidden:
        """From h of the strings (S, H) to h of the texts."""
        if self.as_point is None:
            return h, None
        rows = torch.from_numpy(self.as_point).to(h.device)
        return h[: len(rows)], h.index_select(0, rows)


def prompted_texts(texts: Sequence[str], points: np.ndarray, settings: EncodeSettings) -> PromptedTexts:
    """What the encoder is given of texts of which `points` (text indices, repeated or not) ask."""
    candidates = settings.as_candidates(texts)
    if (settings.point_prompt or "") == (settings.candidate_prompt or ""):
        return PromptedTexts(tuple(candidates), None)

    # The points' strings follow the candidates'.
    point_rows = np.unique(points)
    as_point = np.arange(len(texts))
    as_point[point_rows] = len(texts) + np.arange(len(point_rows))
    prompted_points = settings.as_points([texts[row] for row in point_rows])
    return PromptedTexts((*candidates, *prompted_points), as_point)


@dataclass(frozen=True)
class TextEncoder:
    """An encoder with its tokenizer, and how it reads."""

    module: Any
    tokenizer: Any
    source: ModelSource
    settings: EncodeSettings

    def tokens(self, texts: Sequence[str], cache: Path | None = None) -> Tokens:
        """The texts as token ids, kept in `cache` where one is given."""
        max_tokens = self.settings.max_tokens
        if cache is None:
            return tokenize(self.tokenizer, texts, max_tokens)
        return cached_tokens(self.tokenizer, self.source.fingerprint, texts, max_tokens, cache)

    def over(self, tokens: Tokens, world: World | None = None, in_parts: bool = False) -> EncodedTexts:
        """The texts of these tokens, to be encoded by number; `in_parts`: those of a step in several calls, whose
        gradients are added up one after another, always in the same order."""
        settings = self.settings
        kind = settings.device.type
        threads = None
        if settings.fast and can_pack(self.module):
            encode_group = packed_encoder(self.module, settings.pooling, settings.compiled)
            if kind == "cpu" and not settings.compiled:
                threads = TwoThreads(together=not in_parts)
        else:
            encode_group = plain_encoder(self.module, settings.pooling)

        train_budget = TRAIN_TOKEN_BUDGET[kind]
        if kind == "cpu" and settings.precision == "bf16":
            train_budget = CPU_TRAIN_TOKEN_BUDGET_IN_BF16
        if kind == "cuda":
            # No more than fits beside weights, gradients and two moments, with a fifth of the memory left.
            num_weights = sum(weight.numel() for weight in self.module.parameters())
            memory = torch.cuda.get_device_properties(settings.device).total_memory
            bytes_per_token = training_bytes(self.module.config, settings.precision)
            num_fitting = int((0.8 * memory - 16 * num_weights) / bytes_per_token)
            train_budget = min(train_budget, max(512, num_fitting))
        return EncodedTexts(
            self.module,
            encode_group,
            tokens,
            settings.device,
            settings.precision,
            train_budget,
            EVAL_TOKEN_BUDGET[kind],
            threads,
            world or World(),
        )

    def __call__(self, texts: Sequence[str], advance: Advance | None = None) -> Tensor:
        """Pooled outputs h (B, H) of any texts, in eval mode."""
        return self.over(self.tokens(texts)).all_pooled(advance)

    def num_tokens(self, text: str) -> int:
        """Length of a text in tokens before it is cut, special ones included."""
        return int(self.tokens([text]).full_lengths[0])


def open_encoder(
    source: ModelSource,
    settings: EncodeSettings,
    dropout: float | None = None,
) -> TextEncoder:
    """The encoder in `source`, loaded and moved to its device. Raises ConfigError."""
    module = load_encoder(source.directory, settings.pooling, settings.max_tokens, dropout)
    tokenizer = load_tokenizer(source.directory, settings.max_tokens)
    if settings.compiled and not can_pack(module):
        raise ConfigError(
            f"training.compile=true: is part of the path without padding, which there is for BERT and not for "
            f"{module.config.model_type}; must be false"
        )
    is_special = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    if settings.pooling == "cls" and not is_special[0]:
        raise ConfigError("model.pooling=cls: this encoder's texts begin with no special token; must be mean")
    return TextEncoder(module.to(settings.device), tokenizer, source, settings)


class TextSource(Protocol):
    """Pooled outputs of texts by number."""

    def pooled(self, rows: np.ndarray) -> Tensor:
        """h (B, H) of the texts `rows`, which may repeat, with gradients where the encoder is trained."""

    def pooled_cached(self, rows: np.ndarray) -> tuple[Tensor, Callable[[], None]]:
        """With gradient caching: the same h (B, H), equal draws of dropout included, without holding what its gradients
        need; and `backward`, to be called once h has its gradients, which hands them on to the encoder, a group of
        texts at a time (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
        §3.2)."""

    def all_pooled(self, advance: Advance | None = None) -> Tensor:
        """h (T, H) of every text, in eval mode and without gradients."""

    def flops(self, rows: np.ndarray) -> tuple[int, float]:
        """(tokens, operations) of the forward pass of `pooled`; nothing where texts come from a cache."""


@dataclass(frozen=True)
class _CachedPass:
    """A pass of gradient caching, to be repeated: its texts, as positions among the distinct ones of the call, what its
    dropout draws from (None: torch's own generator), and the state of that before the pass."""

    positions: np.ndarray
    generator: torch.Generator | None
    random_state: Tensor


@dataclass(eq=False)
class EncodedTexts:
    """Texts run through the encoder each time; each distinct one of a call once.

    With `threads` two groups of texts are encoded at a time; `encode_group` must take a generator then. With several
    processes in `world`, each encodes its part of what is evaluated, and all get the whole; batches of training are
    shared out by the training loop already.
    """

    module: Any
    encode_group: EncodeFunction
    tokens: Tokens
    device: torch.device
    precision: str
    train_token_budget: int
    eval_token_budget: int
    threads: TwoThreads | None = None
    world: World = field(default_factory=World)

    def pooled(self, rows: np.ndarray) -> Tensor:
        distinct, inverse = np.unique(rows, return_inverse=True)
        parts, generators = self._parts_and_generators(distinct)
        jobs = []
        for part, generator in zip(parts, generators, strict=True):
            encode_group = functools.partial(self._encode_in_precision, generator=generator)
            job = functools.partial(
                encode_rows, encode_group, self.tokens, distinct[part], self.train_token_budget, self.device
            )
            jobs.append(job)

        if self.threads is None or len(jobs) == 1:
            (job,) = jobs
            h = job()
        else:
            h = self.threads.both_with_gradients(*jobs)  # (b, H), one part below the other
        order = back_in_order(parts)[inverse]
        return h.index_select(0, to_device(order, h.device))

    def pooled_cached(self, rows: np.ndarray) -> tuple[Tensor, Callable[[], None]]:
        distinct, inverse = np.unique(rows, return_inverse=True)
        parts, generators = self._parts_and_generators(distinct)
        budget = min(self.train_token_budget, CACHING_TOKEN_BUDGET[self.device.type])

        passes: list[_CachedPass] = []
        outputs = []
        with torch.no_grad():
            for part, generator in zip(parts, generators, strict=True):
                for group in length_groups(self.tokens.lengths[distinct[part]], budget):
                    positions = part[group]
                    random_state = _random_state(generator, self.device)
                    passes.append(_CachedPass(positions, generator, random_state))
                    h_group = self._encode_in_precision(self.tokens, distinct[positions], self.device, generator)
                    outputs.append(h_group)
        h_distinct = torch.cat(outputs).requires_grad_()  # (b, H), in the passes' order
        order = back_in_order([one.positions for one in passes])[inverse]
        h = h_distinct.index_select(0, to_device(order, self.device))

        def backward() -> None:
            assert h_distinct.grad is not None
            sizes = [len(one.positions) for one in passes]
            gradients = h_distinct.grad.split(sizes)
            states_after = [_random_state(generator, self.device) for generator in generators]

            # Each pass again, now with gradients, and with the draws of dropout that it had.
            for number, (one, gradient) in enumerate(zip(passes, gradients, strict=True)):
                if self.device.type == "cpu" and number % RELEASE_EVERY == 0:
                    release_memory()
                _set_random_state(one.generator, self.device, one.random_state)
                rows_of_pass = distinct[one.positions]
                h_group = self._encode_in_precision(self.tokens, rows_of_pass, self.device, one.generator)
                torch.autograd.backward(h_group, gradient)

            # What follows must not draw again what was drawn.
            for generator, state in zip(generators, states_after, strict=True):
                _set_random_state(generator, self.device, state)

        return h, backward

    def _parts_and_generators(self, rows: np.ndarray) -> tuple[Sequence[np.ndarray], Sequence[torch.Generator | None]]:
        """Positions of `rows` (b,) in one part, or in two of which each draws its dropout from a generator of its own,
        seeded from torch's, so that no draw depends on timing."""
        if self.threads is None or len(rows) < 2:
            return [np.arange(len(rows))], [None]
        parts = halves(forward_flops(self.module.config, self.tokens.lengths[rows]))
        seeds = torch.randint(2**62, (len(parts),)).tolist()
        return parts, [torch.Generator().manual_seed(seed) for seed in seeds]

    def _encode_in_precision(
        self,
        tokens: Tokens,
        rows: np.ndarray,
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One pass of `encode_group`, under autocast where precision is bf16 → h (b, H), float32."""
        # Autocast counts only in the thread that asks for it. Its cache of cast weights is one for all threads, and
        # would save nothing: a pass uses each weight once.
        is_bf16 = self.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_bf16, cache_enabled=False):
            if generator is None:  # which the plain path does not take
                return self.encode_group(tokens, rows, device).float()
            return self.encode_group(tokens, rows, device, generator=generator).float()

    def all_pooled(self, advance: Advance | None = None) -> Tensor:
        return self.eval_pooled(np.arange(len(self.tokens)), advance)

    def eval_pooled(self, rows: np.ndarray, advance: Advance | None = None) -> Tensor:
        """h (B, H) of the texts `rows`, in eval mode and without gradients."""
        shard = self.world.shard(rows)
        if not len(shard):  # fewer texts than processes: what this one makes of any is cut off below
            shard = rows[:1]
        map_groups = map if self.threads is None else self.threads.map
        was_training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                h = encode_rows(
                    self._encode_in_precision,
                    self.tokens,
                    shard,
                    self.eval_token_budget,
                    self.device,
                    advance,
                    map_groups,
                )
        finally:
            self.module.train(was_training)
        if self.world.size == 1:
            return h

        # Every process pads its part to the same size for all_gather; texts were dealt out in turn.
        largest_part = math.ceil(len(rows) / self.world.size)
        padded = h.new_zeros((largest_part, h.shape[1]))
        padded[: len(h)] = h
        parts = [torch.empty_like(padded) for _ in range(self.world.size)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[: len(rows)]

    def flops(self, rows: np.ndarray) -> tuple[int, float]:
        lengths = self.tokens.lengths[np.unique(rows)]
        operations = forward_flops(self.module.config, lengths)
        return int(lengths.sum()), float(operations.sum())


class CachedTexts:
    """Texts whose pooled outputs (T, H) are known: the frozen encoder's."""

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def pooled(self, rows: np.ndarray) -> Tensor:
        return self.features.index_select(0, to_device(rows, self.features.device))

    def pooled_cached(self, rows: np.ndarray) -> tuple[Tensor, Callable[[], None]]:
        return self.pooled(rows), lambda: None

    def all_pooled(self, advance: Advance | None = None) -> Tensor:
        return self.features

    def flops(self, rows: np.ndarray) -> tuple[int, float]:
        return 0, 0.0


def _random_state(generator: torch.Generator | None, device: torch.device) -> Tensor:
    """The state of what dropout draws from: a generator, or torch's own for the device."""
    if generator is not None:
        return generator.get_state()
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()


def _set_random_state(generator: torch.Generator | None, device: torch.device, state: Tensor) -> None:
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
    advance: Advance | None = None,
    map_groups: Callable[..., Iterable[Tensor]] = map,
) -> Tensor:
    """Pooled outputs h (B, H) of the texts `rows`, in their order; gradients flow where they are on.

    Texts of similar length go through `encode_group` together, so many that they would hold `token_budget`
    tokens if padded; `map_groups` runs the groups as `map` does, in their order.
    """
    groups = length_groups(tokens.lengths[rows], token_budget)
    outputs = []
    for output in map_groups(lambda group: encode_group(tokens, rows[group], device), groups):
        outputs.append(output)  # (b, H)
        if advance is not None:
            advance(len(output))
    return torch.cat(outputs).index_select(0, to_device(back_in_order(groups), device))


def back_in_order(groups: Sequence[np.ndarray]) -> np.ndarray:
    """Where each of n positions lies when the groups that share them out (together (n,)) are laid end to end."""
    return np.argsort(np.concatenate(groups))


def packed_encoder(encoder: nn.Module, pooling: str, compiled: bool = False) -> EncodeFunction:
    """The fast path: no padding (packed.py).

    `compiled` runs what lies between attentions through torch.compile: fewer passes over a GPU's memory, for
    tens of seconds of compiling.
    """
    finish = torch.compile(finish_layer, dynamic=True) if compiled else finish_layer

    def encode_group(
        tokens: Tokens,
        rows: np.ndarray,
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return encode_packed(encoder, pooling, pack(tokens, rows, device), finish, generator)

    return encode_group


def plain_encoder(encoder: nn.Module, pooling: str) -> EncodeFunction:
    """The plain path: each group padded to its longest text, through transformers' own forward."""
    return lambda tokens, rows, device: encode(encoder, pooling, *pad(tokens, rows, device))


def encode(encoder: Any, pooling: str, input_ids: Tensor, mask: Tensor | None) -> Tensor:
    """Padded token ids (B, L) and their mask (B, L) through a model of transformers itself → pooled output (B, H)."""
    output = encoder(input_ids=input_ids, attention_mask=mask)
    if pooling == "pooler":
        return output.pooler_output.float()
    hidden = output.last_hidden_state.float()  # (B, L, H)
    if pooling == "cls":
        return hidden[:, 0]
    if mask is None:
        return hidden.mean(dim=1)
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # (B, L, 1)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)

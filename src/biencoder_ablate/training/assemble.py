"""From a config to the parts of a run: corpus, model source, device, and then what is trained on them."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biencoder_ablate.config import Config, DataConfig, cache_directory
from biencoder_ablate.data.corpus import Corpus
from biencoder_ablate.data.index import TextIndex, build_index
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.data.tokens import Tokens, cached_tokens, tokenize
from biencoder_ablate.evaluation.measure import SplitCandidates, prepare
from biencoder_ablate.model.biencoder import BiEncoder
from biencoder_ablate.model.device import choose_device, choose_precision, describe_device
from biencoder_ablate.model.encoding import packed_encoder, plain_encoder
from biencoder_ablate.model.flops import peak_flops
from biencoder_ablate.model.memory import keep_freed_memory
from biencoder_ablate.model.source import ModelSource, find_model
from biencoder_ablate.model.texts import (
    CachedTexts,
    EncodedTexts,
    TextSource,
    features_path,
    load_features,
    save_features,
)
from biencoder_ablate.model.threads import TwoThreads
from biencoder_ablate.runs.identity import identity, run_name
from biencoder_ablate.runs.log import RunLog, progress_bar
from biencoder_ablate.training.loop import Recipe, Task
from biencoder_ablate.training.losses import LossWeights
from biencoder_ablate.training.negatives import NegativePool, build_pool
from biencoder_ablate.training.processes import SharedTexts, World, world_from_environment

TRAIN_TOKEN_BUDGET = {"cpu": 2048, "cuda": 65536, "mps": 8192}
EVAL_TOKEN_BUDGET = {"cpu": 4096, "cuda": 131072, "mps": 16384}
"""Tokens of one pass through the encoder, padding included, by device: what its caches or its memory hold."""


@dataclass(frozen=True)
class Data:
    """A corpus with all that follows from it alone, worked out once for every run of a sweep in this process."""

    corpus: Corpus
    fingerprint: str
    index: TextIndex
    splits: dict[str, SplitCandidates]
    pool: NegativePool


def read_data(settings: DataConfig) -> Data:
    """Load a corpus and work out what follows from it. Raises DataError."""
    stamp: tuple[int, ...] = ()
    if settings.path is not None and Path(settings.path).expanduser().exists():
        status = Path(settings.path).expanduser().stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
    return _read_data(json.dumps(asdict(settings)), stamp)


@functools.lru_cache(maxsize=1)
def _read_data(settings: str, stamp: tuple[int, ...]) -> Data:
    """Remembered, since a sweep's runs in one process share their corpus; `stamp` changes when the file does."""
    corpus = load_corpus(DataConfig(**json.loads(settings)))
    table = build_index(corpus)
    splits = {name: prepare(split) for name, split in table.splits.items()}
    return Data(corpus, corpus.fingerprint, table, splits, build_pool(table.splits["train"]))


@dataclass(frozen=True)
class Plan:
    """A run before anything heavy: what it is made of and what it is called."""

    config: Config
    data: Data
    source: ModelSource
    device: torch.device
    precision: str
    determined_by: dict[str, Any]
    name: str

    @property
    def corpus(self) -> Corpus:
        return self.data.corpus

    @property
    def directory(self) -> Path:
        return Path(self.config.logs_dir).expanduser() / "runs" / self.name


@dataclass(frozen=True)
class Parts:
    """What a run trains, and the encoder and tokenizer to save with it (None for a frozen one)."""

    task: Task
    recipe: Recipe
    encoder: Any | None
    tokenizer: Any | None
    pooled_dim: int
    tokens: Tokens | None
    untrained: Callable[[], torch.Tensor] | None = None
    """h (T, H) of every text by the encoder as it is before training, from the cache that frozen runs share."""


def make_plan(config: Config) -> Plan:
    """Load the corpus, find the model, choose the device, name the run. Raises ValueErrors that name the key."""
    return plan_runs([config])[0]


def _plan(config: Config, data: Data, source: ModelSource) -> Plan:
    device = choose_device(config.training.device, world_from_environment().local_rank)
    precision = choose_precision(config.training.precision, device)
    determined_by = identity(config, data.fingerprint, source.fingerprint, precision)
    return Plan(config, data, source, device, precision, determined_by, run_name(config, determined_by))


def plan_runs(configs: Sequence[Config]) -> list[Plan]:
    """The plans of many configs, reading each corpus and each model's files once."""
    corpora: dict[str, Data] = {}
    sources: dict[str, ModelSource] = {}
    plans = []
    for config in configs:
        data, model = repr(config.data), repr((config.model.name_or_path, config.model.revision))
        if data not in corpora:
            corpora[data] = read_data(config.data)
        if model not in sources:
            sources[model] = find_model(config.model)
        plans.append(_plan(config, corpora[data], sources[model]))
    return plans


def make_recipe(config: Config) -> Recipe:
    """The training settings as plain values. With rerank=all the epochs' figures use depth 10 (docs/evaluation.md)."""
    training, loss, rerank = config.training, config.loss, config.evaluation.rerank
    depth = {"none": None, "all": 10}.get(rerank) if isinstance(rerank, str) else rerank
    return Recipe(
        seed=config.seed,
        epochs=training.epochs,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        head_learning_rate=training.head_learning_rate,
        warmup_ratio=training.warmup_ratio,
        max_grad_norm=training.max_grad_norm,
        patience=training.patience,
        schedule=config.negatives.schedule,
        start=config.negatives.start,
        ratio=config.neg_ratio,
        weights=LossWeights(loss.triplet, loss.positive, loss.negative, loss.margin),
        rerank=depth,
        source=config.evaluation.source,
    )


def build_parts(plan: Plan, log: RunLog, world: World) -> Parts:
    """Tokens, encoder or cached features, splits, negatives and model of a run."""
    config = plan.config
    table = plan.data.index
    if config.training.fast:
        keep_freed_memory()
    if config.training.freeze_encoder:
        encoder, tokenizer, tokens, untrained = None, None, None, None
        features = _features_once(plan, table, log, world, lambda: _encoder_once(plan, table, log, world))
        pooled_dim = features.shape[1]
        source: TextSource = CachedTexts(features)
    else:
        encoder, tokenizer, tokens = _load(plan, table)
        encoder.to(plan.device)
        pooled_dim = encoder.config.hidden_size
        source = encoded = _encoded_texts(plan, encoder, tokens, world)
        untrained = None
        if plan.source.directory is not None:  # model=tiny is another one for every seed, and encodes in no time

            def untrained() -> torch.Tensor:
                return _features_once(plan, table, log, world, lambda: _all_hidden(encoded, len(tokens), log))

    model = BiEncoder(
        encoder,
        pooled_dim,
        config.model.retrieval_dim,
        config.fusion.name,
        config.head.norm,
        config.head.activation,
        config.head.activation_position,
        config.seed,
    ).to(plan.device)
    task = Task(
        model,
        source,
        table,
        plan.data.splits,
        plan.data.pool,
        plan.device,
        world,
        config.training.fast,
        log.quiet,
        peak_flops(describe_device(plan.device), plan.precision),
    )
    return Parts(task, make_recipe(config), encoder, tokenizer, pooled_dim, tokens, untrained)


def _load(plan: Plan, table: TextIndex) -> tuple[Any, Any, Tokens]:
    """(encoder, tokenizer, tokens) from the model source; model=tiny learns its vocabulary from training texts."""
    from biencoder_ablate.model.load import build_tiny, load_encoder, load_tokenizer

    model, directory = plan.config.model, plan.source.directory
    if directory is None:
        train = table.splits["train"]
        rows = dict.fromkeys(np.stack([train.point, train.counter], axis=1).reshape(-1).tolist())
        encoder, tokenizer = build_tiny(
            [table.texts[row] for row in rows], model.pooling, model.max_tokens, model.dropout, plan.config.seed
        )
        return encoder, tokenizer, tokenize(tokenizer, table.texts, model.max_tokens)
    encoder = load_encoder(directory, model.pooling, model.max_tokens, model.dropout)
    tokenizer = load_tokenizer(directory, model.max_tokens)
    tokens = cached_tokens(
        tokenizer,
        plan.source.fingerprint,
        table.texts,
        table.fingerprint,
        model.max_tokens,
        cache_directory(plan.config),
    )
    return encoder, tokenizer, tokens


def _encoded_texts(plan: Plan, encoder: Any, tokens: Tokens, world: World) -> EncodedTexts | SharedTexts:
    kind = plan.device.type
    training, pooling = plan.config.training, plan.config.model.pooling
    encode_group = (
        packed_encoder(encoder, pooling, training.compile) if training.fast else plain_encoder(encoder, pooling)
    )
    texts = EncodedTexts(
        encoder,
        encode_group,
        tokens,
        plan.device,
        plan.precision,
        TRAIN_TOKEN_BUDGET[kind],
        EVAL_TOKEN_BUDGET[kind],
        TwoThreads() if training.fast and not training.compile and kind == "cpu" else None,
    )
    return texts if world.size == 1 else SharedTexts(texts, world)


def _features_once(
    plan: Plan, table: TextIndex, log: RunLog, world: World, encode: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """The untrained encoder's pooled outputs (T, H) from the cache, or by `encode` once and put there.

    A lock makes parallel runs wait for the first of them instead of encoding the same texts again.
    """
    config = plan.config
    built_from = (
        ""
        if plan.source.directory is not None
        else hashlib.sha256(f"{plan.data.fingerprint} {config.seed}".encode()).hexdigest()
    )
    path = features_path(
        cache_directory(config),
        plan.source.fingerprint,
        built_from,
        table.fingerprint,
        config.model.pooling,
        config.model.max_tokens,
        plan.precision,
        int(config.training.fast) + int(config.training.compile),
    )
    features = load_features(path)
    if not world.agree(features is not None):
        with _waiting_lock(path.with_suffix(".lock"), world):
            features = load_features(path)
            if not world.agree(features is not None):
                log.say(f"encoding {len(table.texts)} texts with the untrained encoder, once; kept in {path}")
                features = encode().cpu().numpy()
                if world.is_main:
                    save_features(path, features)
    if features is None:  # rank 0 found them, and this process a moment too early did not
        features = load_features(path)
    assert features is not None
    return torch.from_numpy(features).to(plan.device)


def _encoder_once(plan: Plan, table: TextIndex, log: RunLog, world: World) -> torch.Tensor:
    """Pooled outputs (T, H) by an encoder loaded for that alone."""
    encoder, _, tokens = _load(plan, table)
    encoder.to(plan.device)
    return _all_hidden(_encoded_texts(plan, encoder, tokens, world), len(tokens), log)


def _all_hidden(texts: TextSource, num_texts: int, log: RunLog) -> torch.Tensor:
    with progress_bar("encoding", num_texts, "text", log.quiet) as bar:
        return texts.all_hidden(bar.update)


@contextlib.contextmanager
def _waiting_lock(path: Path, world: World) -> Iterator[None]:
    if not world.is_main:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

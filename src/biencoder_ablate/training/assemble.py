"""From a config to the parts of a run: corpus, model source, device, and then what is trained on them."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from biencoder_ablate import registry
from biencoder_ablate.config import Config, ConfigError, DataConfig, cache_directory, keywords
from biencoder_ablate.data.corpus import Corpus
from biencoder_ablate.data.index import TextIndex, build_index
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.data.tokens import Tokens, length_groups
from biencoder_ablate.evaluation.candidates import SplitCandidates, prepare
from biencoder_ablate.model.biencoder import Architecture, BiEncoder
from biencoder_ablate.model.device import choose_device, choose_precision, describe_device
from biencoder_ablate.model.encoder import ModelSource, find_model
from biencoder_ablate.model.flops import peak_flops
from biencoder_ablate.model.memory import keep_products_of_a_step
from biencoder_ablate.model.texts import (
    CachedTexts,
    EncodedTexts,
    Hidden,
    Reading,
    TextEncoder,
    TextSource,
    back_in_order,
    features_path,
    load_features,
    open_encoder,
    roles_of,
    save_features,
)
from biencoder_ablate.runs.identity import identity, run_name
from biencoder_ablate.runs.records import RunLog, progress_bar
from biencoder_ablate.text import show_seconds
from biencoder_ablate.training.finetuned import FineTuned, find_finetuned
from biencoder_ablate.training.loop import Trainee
from biencoder_ablate.training.losses import Loss
from biencoder_ablate.training.negatives import NegativePool, build_pool
from biencoder_ablate.training.processes import SharedTexts, World, world_from_environment

GROUPS_PER_PART = 16
"""So many batches of an encoding are lost at most when it is interrupted: some 15 s of MiniLM's on one core."""
TEXTS_OF_A_TURN = 32
"""About so many texts are encoded together where a batch is encoded in turns."""
MEASURED_SECONDS = 5.0
"""After so long an encoding says how long it will take."""


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
    index = build_index(corpus)
    splits = {name: prepare(split) for name, split in index.splits.items()}
    return Data(corpus, corpus.fingerprint, index, splits, build_pool(index.splits["train"]))


@dataclass(frozen=True)
class Plan:
    """A run before anything heavy: what it is made of and what it is called."""

    config: Config
    data: Data
    pretrained: ModelSource
    device: torch.device
    precision: str
    determined_by: dict[str, Any]
    name: str
    finetuned: FineTuned | None = None

    @property
    def source(self) -> ModelSource:
        """The encoder that the run starts from: as downloaded, or as another run has trained it."""
        return self.pretrained if self.finetuned is None else self.finetuned.source

    @property
    def corpus(self) -> Corpus:
        return self.data.corpus

    @property
    def directory(self) -> Path:
        return Path(self.config.logs_dir).expanduser() / "runs" / self.name


@dataclass(frozen=True)
class Parts:
    """What a run trains, and the trained encoder to save with it (None for a frozen one)."""

    trainee: Trainee
    encoder: TextEncoder | None
    tokens: Tokens | None
    pretrained: Callable[[], Hidden]
    """h of every text by the encoder as downloaded, from the cache that all runs share."""


def make_plan(config: Config) -> Plan:
    """Load the corpus, find the model, choose the device, name the run. Raises ValueErrors that name the key."""
    return plan_runs([config])[0]


def _plan(config: Config, data: Data, source: ModelSource) -> Plan:
    if config.training.epochs and not data.corpus.train:
        raise ConfigError(
            f"training.epochs={config.training.epochs}: data={data.corpus.name} has no training split here; must be 0 "
            "(only evaluate)"
        )
    make_loss(config)  # a name or key that is not there is refused before anything is written
    registry.make("heads", "head", config.head.name, keywords(config.head), (1,))
    device = choose_device(config.training.device, world_from_environment().local_rank)
    precision = choose_precision(config.training.precision, device, cache_directory(config))
    finetuned = find_finetuned(config, source)
    from_run = None if finetuned is None else finetuned.identity(config.seed)
    determined_by = identity(config, data.fingerprint, source.fingerprint, precision, from_run)
    return Plan(config, data, source, device, precision, determined_by, run_name(config, determined_by), finetuned)


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
            sources[model] = find_model(config.model, cache_directory(config))
        plans.append(_plan(config, corpora[data], sources[model]))
    return plans


def architecture_of(config: Config, pooled_dim: int) -> Architecture:
    """What the config says of a bi-encoder over an encoder of this width."""
    model = config.model
    return Architecture(
        pooled_dim=pooled_dim,
        retrieval_dim=model.retrieval_dim,
        towers=model.towers,
        similarity=model.similarity,
        projection_init=model.projection_init,
        head_init=model.head_init,
        fusion=config.fusion.name,
        head=config.head.name,
        head_options=keywords(config.head),
        score=config.evaluation.score,
    )


def make_loss(config: Config) -> Loss:
    """The registered loss with its keywords. Raises ConfigError."""
    return registry.make("losses", "loss", config.loss.name, keywords(config.loss))


def build_parts(plan: Plan, log: RunLog, world: World) -> Parts:
    """Tokens, encoder or cached features, splits, negatives and model of a run."""
    config, index, cache = plan.config, plan.data.index, cache_directory(plan.config)
    reading = reading_of(config, plan.device, plan.precision)
    roles = roles_of(index.texts, points_of(index), reading)
    texts = roles.strings
    encoder, tokens = None, None
    if config.training.freeze_encoder:
        features = features_of(plan.source, reading, texts, cache, log, world)
        pooled_dim = features.shape[1]
        source: TextSource = CachedTexts(features)
    else:
        if plan.device.type == "cpu":
            num_texts = config.training.batch_size * (2 + config.negatives.per_pair)
            in_turns = config.training.micro_batch is not None
            keep_products_of_a_step(min(num_texts, TEXTS_OF_A_TURN) if in_turns else num_texts)
        encoder = open_encoder(plan.source, reading, config.model.dropout)
        tokens = encoder.tokens(texts, cache)
        pooled_dim = encoder.module.config.hidden_size
        source = SharedTexts(encoder.over(tokens), world) if world.size > 1 else encoder.over(tokens)

    def pretrained() -> Hidden:
        if encoder is None and plan.finetuned is None:
            return roles.of(source.all_hidden())
        return roles.of(features_of(plan.pretrained, reading, texts, cache, log, world))

    # Where the head says nothing yet, stage 2 then is the softmax that stage 1 is trained by.
    weight = 1.0 / (config.loss.temperature or 1.0)
    model = BiEncoder(architecture_of(config, pooled_dim), encoder and encoder.module, config.seed, weight)
    model.to(plan.device)
    trainee = Trainee(
        config,
        model,
        source,
        index,
        plan.data.splits,
        plan.data.pool,
        make_loss(config),
        plan.device,
        world,
        log.quiet,
        peak_flops(describe_device(plan.device), plan.precision),
        None if roles.as_point is None else roles,
    )
    return Parts(trainee, encoder, tokens, pretrained)


def reading_of(config: Config, device: torch.device, precision: str) -> Reading:
    """How the config's encoder reads texts on a device."""
    model, training = config.model, config.training
    return Reading(
        model.pooling,
        model.max_tokens,
        device,
        precision,
        training.fast,
        training.compile,
        model.point_prompt,
        model.candidate_prompt,
    )


def points_of(index: TextIndex) -> np.ndarray:
    """Text indices of the points of all splits."""
    return np.concatenate([split.point for split in index.splits.values()])


def features_of(
    source: ModelSource,
    reading: Reading,
    texts: Sequence[str],
    cache: Path,
    log: RunLog,
    world: World | None = None,
) -> torch.Tensor:
    """Pooled outputs h (T, H) of texts by an encoder as its files have it: from the cache, or worked out once and kept.

    The one way from texts to features, for training, evaluate and retrieve alike. A lock makes parallel runs wait for
    the first of them instead of encoding the same texts again; an encoding that was interrupted goes on.
    """
    world = world or World()
    path = features_path(cache, source, reading, texts)
    features = load_features(path)
    if not world.agree(features is not None):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")) if world.is_main else contextlib.nullcontext():
            features = load_features(path)
            if not world.agree(features is not None):
                log.say(f"encoding {len(texts)} texts, once; kept in {path}")
                encoder = open_encoder(source, reading)
                encoded = encoder.over(encoder.tokens(texts, cache))
                parts = path.with_suffix(f".{encoded.eval_token_budget}.parts")  # the budget says what is in a part
                features = _encode_in_parts(encoded, parts, log, world)
                if world.is_main:
                    save_features(path, features)
                    shutil.rmtree(parts, ignore_errors=True)
    if features is None:  # rank 0 found them, and this process a moment too early did not
        features = load_features(path)
    assert features is not None
    return torch.from_numpy(features).to(reading.device)


def _encode_in_parts(encoded: EncodedTexts, directory: Path, log: RunLog, world: World) -> np.ndarray:
    """h (T, H) of all texts, so many length groups at a time, the longest texts first.

    Each part is kept in `directory` once it is done, and an interrupted encoding goes on after the last of them. Parts
    hold whole groups, so that the result is bit-equal to that of no interruption. When the first batches have shown
    how fast it goes, `log` says how long the rest will take.
    """
    lengths, shared = encoded.tokens.lengths, SharedTexts(encoded, world) if world.size > 1 else encoded
    groups = length_groups(lengths, encoded.eval_token_budget)
    parts = [np.concatenate(groups[i : i + GROUPS_PER_PART]) for i in range(0, len(groups), GROUPS_PER_PART)]
    files = [directory / f"{number:05d}.npy" for number in range(len(parts))]
    done: list[np.ndarray] = []
    for part, file in zip(parts, files, strict=True):
        h = load_features(file)
        if h is None or len(h) != len(part):
            break
        done.append(h)
    done = done[: world.agree(len(done))]
    rows = np.concatenate(parts)
    num_done, num_tokens = sum(map(len, done)), np.cumsum(lengths[rows])
    if done:
        log.say(f"going on with an encoding that was interrupted: {num_done} of {len(rows)} texts are done")
    began: tuple[float, int] | None = None
    is_said = False

    def advance(num_texts: int) -> None:
        nonlocal num_done, began, is_said
        bar.update(num_texts)
        num_done = min(num_done + num_texts * world.size, len(rows))
        now, tokens = time.perf_counter(), int(num_tokens[num_done - 1])
        if began is None:
            began = (now, tokens)  # the first batch warms up
        elif not is_said and now - began[0] >= MEASURED_SECONDS:
            is_said = True
            seconds = (now - began[0]) * (num_tokens[-1] - tokens) / (tokens - began[1])
            log.say(f"the other {len(rows) - num_done} texts will take about {show_seconds(seconds)}, as the first did")

    with progress_bar("encoding", len(rows), "text", log.quiet) as bar:
        bar.initial = bar.n = num_done
        for part, file in list(zip(parts, files, strict=True))[len(done) :]:
            done.append(shared.eval_hidden(part, advance).cpu().numpy())
            if world.is_main and len(parts) > 1:
                save_features(file, done[-1])
    features = np.concatenate(done)
    return features[back_in_order(parts)]

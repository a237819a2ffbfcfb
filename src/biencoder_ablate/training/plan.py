"""From a config to the parts of a run: corpus, model source, device, and then what is trained on them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from biencoder_ablate.config import Config, ConfigError, DataConfig, registry
from biencoder_ablate.config.schema import cache_directory, keywords
from biencoder_ablate.data.corpus import Corpus
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.data.text_table import TextTable, build_table, points_of
from biencoder_ablate.encoder.device import (
    choose_device,
    choose_precision,
    describe_device,
    keep_step_kernels,
    peak_flops,
)
from biencoder_ablate.encoder.features import features_of
from biencoder_ablate.encoder.pretrained import ModelSource, find_model
from biencoder_ablate.encoder.texts import (
    CachedTexts,
    Hidden,
    TextEncoder,
    TextSource,
    encode_settings,
    open_encoder,
    prompted_texts,
)
from biencoder_ablate.encoder.tokens import Tokens
from biencoder_ablate.evaluation.candidates import RetrievalTask, build_task
from biencoder_ablate.model.biencoder import Architecture, BiEncoder
from biencoder_ablate.model.saved import encoder_source, read_model_spec
from biencoder_ablate.runs.directory import RunDirectory, find_run
from biencoder_ablate.runs.identity import identity, name_without_seed, run_name
from biencoder_ablate.runs.status import SweepDirectory
from biencoder_ablate.training.loop import TrainingContext
from biencoder_ablate.training.losses import Loss
from biencoder_ablate.training.negatives import NegativePool, build_pool
from biencoder_ablate.utils.console import RunLog
from biencoder_ablate.utils.distributed import World, world_from_environment
from biencoder_ablate.utils.files import read_json

TEXTS_OF_A_TURN = 32
"""About so many texts are encoded together where a batch is encoded in turns."""


@dataclass(frozen=True)
class PreparedData:
    """A corpus with all that follows from it alone, worked out once for every run of a sweep in this process."""

    corpus: Corpus
    fingerprint: str
    index: TextTable
    splits: dict[str, RetrievalTask]
    pool: NegativePool


def read_data(settings: DataConfig) -> PreparedData:
    """Load a corpus and work out what follows from it. Raises DataError."""
    stamp: tuple[int, ...] = ()
    if settings.path is not None and Path(settings.path).expanduser().exists():
        status = Path(settings.path).expanduser().stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
    return _read_data(json.dumps(asdict(settings)), stamp)


@functools.lru_cache(maxsize=1)
def _read_data(settings: str, stamp: tuple[int, ...]) -> PreparedData:
    """Remembered, since a sweep's runs in one process share their corpus; `stamp` changes when the file does."""
    corpus = load_corpus(DataConfig(**json.loads(settings)))
    index = build_table(corpus)
    splits = {name: build_task(split) for name, split in index.splits.items()}
    return PreparedData(corpus, corpus.fingerprint, index, splits, build_pool(index.splits["train"]))


@dataclass(frozen=True)
class RunPlan:
    """A run before anything heavy: what it is made of and what it is called."""

    config: Config
    data: PreparedData
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
class Components:
    """What a run trains, and the trained encoder to save with it (None for a frozen one)."""

    trainee: TrainingContext
    encoder: TextEncoder | None
    tokens: Tokens | None
    pretrained: Callable[[], Hidden]
    """h of every text by the encoder as downloaded, from the cache that all runs share."""


def make_plan(config: Config) -> RunPlan:
    """Load the corpus, find the model, choose the device, name the run. Raises ValueErrors that name the key."""
    return plan_runs([config])[0]


def _plan(config: Config, data: PreparedData, source: ModelSource) -> RunPlan:
    if config.training.epochs and not data.corpus.train:
        raise ConfigError(
            f"training.epochs={config.training.epochs}: data={data.corpus.name} has no training split here; must be 0 "
            "(only evaluate)"
        )
    make_loss(config)  # a name or key that is not there is refused before anything is written
    registry.make("heads", "head", config.head.name, keywords(config.head), (1,))
    device = choose_device(config.training.device, world_from_environment().local_rank)
    precision = choose_precision(config.training.precision, device)
    finetuned = find_finetuned(config, source)
    from_run = None if finetuned is None else finetuned.identity(config.seed)
    determined_by = identity(config, data.fingerprint, source.fingerprint, precision, from_run)
    return RunPlan(config, data, source, device, precision, determined_by, run_name(config, determined_by), finetuned)


def plan_runs(configs: Sequence[Config]) -> list[RunPlan]:
    """The plans of many configs, reading each corpus and each model's files once."""
    corpora: dict[str, PreparedData] = {}
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


def build_components(plan: RunPlan, log: RunLog, world: World) -> Components:
    """Tokens, encoder or cached features, splits, negatives and model of a run."""
    config, index, cache = plan.config, plan.data.index, cache_directory(plan.config)
    reading = encode_settings(config, plan.device, plan.precision)
    roles = prompted_texts(index.texts, points_of(index), reading)
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
            keep_step_kernels(min(num_texts, TEXTS_OF_A_TURN) if in_turns else num_texts)
        encoder = open_encoder(plan.source, reading, config.model.dropout)
        tokens = encoder.tokens(texts, cache)
        pooled_dim = encoder.module.config.hidden_size
        source = encoder.over(tokens, world)

    def pretrained() -> Hidden:
        if encoder is None and plan.finetuned is None:
            return roles.of(source.all_pooled())
        return roles.of(features_of(plan.pretrained, reading, texts, cache, log, world))

    # Where the head says nothing yet, stage 2 then is the softmax that stage 1 is trained by.
    weight = 1.0 / (config.loss.temperature or 1.0)
    model = BiEncoder(architecture_of(config, pooled_dim), encoder and encoder.module, config.seed, weight)
    model.to(plan.device)
    trainee = TrainingContext(
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
    return Components(trainee, encoder, tokens, pretrained)


@dataclass(frozen=True)
class FineTuned:
    """An encoder that a finished run trained: its files, what determined that run, and the run's directory."""

    source: ModelSource
    determined_by: Mapping[str, Any]
    run: Path

    def identity(self, seed: int) -> dict[str, Any]:
        """What it adds to what determines a run with this seed: the run it comes from, which of their seeds it has
        where that is another, and its weights."""
        own = self.determined_by["seed"]
        other = {} if own == seed else {"seed": own}
        return {"run": name_without_seed(self.determined_by), **other, "weights": self.source.fingerprint}


def find_finetuned(config: Config, pretrained: ModelSource) -> FineTuned | None:
    """The encoder that model.finetuned asks for: a run's, or that of a sweep's run with the seed of the config.

    None where nothing is asked for. Raises ConfigError where there is no such encoder, or where it was trained from
    another than `pretrained` or reads texts in another way than the config says.
    """
    given = config.model.finetuned
    if given is None:
        return None
    said = f"model.finetuned={given}"
    path = find_run(given if "/" in given else Path(config.logs_dir) / given, sweeps=True)
    if SweepDirectory(path).runs_list.is_file():
        path = _of_seed(SweepDirectory(path), config.seed, said)
    elif RunDirectory(path).read_finished() is None:
        raise ConfigError(
            f"{said}: {path} is no finished run and no sweep; must be one that trained its encoder, as this makes: "
            "python -m biencoder_ablate -m experiment=arguana head=none data.path=… seed=0,1,2 sweep_name=finetuned"
        )
    determined_by, contract = _determined_by(path, said), read_model_spec(path / "model")
    if not contract.copied:
        raise ConfigError(f"{said}: the encoder of {path} was frozen; must be a run that trained it")
    if contract.encoder_fingerprint != pretrained.fingerprint:
        raise ConfigError(
            f"{said}: was trained from {contract.encoder_name}, and not from model.name_or_path="
            f"{config.model.name_or_path or 'null'}; must be the same, for the figures of the pretrained encoder"
        )
    for key in ("pooling", "point_prompt", "candidate_prompt"):
        own, asked = getattr(contract, key), getattr(config.model, key)
        if own != asked:
            raise ConfigError(f"model.{key}={asked}: {said} was trained with {own}; must be that")
    source = encoder_source(path / "model", contract, config.model, cache_directory(config))
    return FineTuned(source, determined_by, path)


def _determined_by(run: Path, said: str) -> Mapping[str, Any]:
    """What determined a finished run."""
    manifest = read_json(run / "manifest.json")
    if not isinstance(manifest, dict) or "determined_by" not in manifest:
        raise ConfigError(f"{said}: {run / 'manifest.json'} cannot be read; train that run again with rerun=true")
    found: Mapping[str, Any] = manifest["determined_by"]
    return found


def _of_seed(sweep: SweepDirectory, seed: int, said: str) -> Path:
    """The one finished run with this seed among a sweep's."""
    by_seed: dict[int, list[Path]] = {}
    for job in sweep.read()["jobs"]:
        run = (sweep.path / job["directory"]).resolve()
        if RunDirectory(run).read_finished() is not None:
            by_seed.setdefault(_determined_by(run, said)["seed"], []).append(run)
    found = by_seed.get(seed, [])
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(sorted(run.name for run in found))
        raise ConfigError(f"{said}: this sweep has {len(found)} finished runs with seed {seed} ({names}); name one run")
    seeds = ", ".join(map(str, sorted(by_seed))) or "none"
    raise ConfigError(f"{said}: this sweep has no finished run with seed {seed} (finished: {seeds}); must have it")

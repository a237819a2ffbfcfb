"""From a config to the parts of a run: corpus, model source, device, and then what is trained on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from biencoder_ablate.config import Config, ConfigError, DataConfig, registry
from biencoder_ablate.config.schema import cache_directory, keywords
from biencoder_ablate.data.candidate_choice import resolve_candidates
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
from biencoder_ablate.encoder.features import cut_share, features_of
from biencoder_ablate.encoder.pretrained import ModelSource, find_model, is_same_encoder
from biencoder_ablate.encoder.texts import (
    CachedTexts,
    Hidden,
    TextEncoder,
    TextSource,
    encode_settings,
    open_encoder,
    prompted_texts,
)
from biencoder_ablate.evaluation.candidates import RetrievalTask, build_task
from biencoder_ablate.model.biencoder import Architecture, BiEncoder
from biencoder_ablate.model.saved import encoder_source, read_model_spec
from biencoder_ablate.runs.directory import RunDirectory, find_run
from biencoder_ablate.runs.identity import identity, name_without_seed, run_name
from biencoder_ablate.runs.status import SweepDirectory
from biencoder_ablate.training.loop import TrainingContext
from biencoder_ablate.training.losses import Loss
from biencoder_ablate.training.negatives import NegativePool, build_pool
from biencoder_ablate.training.watch import PartsWatch
from biencoder_ablate.utils.console import RunLog
from biencoder_ablate.utils.distributed import World, world_from_environment
from biencoder_ablate.utils.files import read_json

TEXTS_OF_A_TURN = 32
"""About so many texts are encoded together under gradient caching (training.micro_batch)."""


# --- the corpus ---


@dataclass(frozen=True)
class PreparedData:
    """A corpus with all that follows from it and from what its candidates are, worked out once for every run of a
    sweep in this process."""

    corpus: Corpus
    fingerprint: str
    index: TextTable
    splits: dict[str, RetrievalTask]
    pool: NegativePool


_last_read: dict[str, tuple[Corpus, TextTable]] = {}
"""The corpus read last, by its settings and the state of its file: the runs of a sweep in one process share it."""
_last_prepared: dict[tuple[str | None, str | None], PreparedData] = {}
"""What follows from it, by what evaluation.candidates and negatives.pool come to."""


def read_data(config: Config) -> PreparedData:
    """Load a corpus and work out what follows from it, or return what was read last.

    Raises DataError, and ConfigError where the corpus cannot be measured as the config says.
    """
    corpus, index = _read_corpus(config.data)
    config = resolve_candidates(config, corpus)
    candidates, pool = config.evaluation.candidates, config.negatives.pool
    if (candidates, pool) not in _last_prepared:
        splits = {name: build_task(split, candidates) for name, split in index.splits.items()}
        negatives = build_pool(index.splits["train"], pool)
        data = PreparedData(corpus, corpus.fingerprint, index, splits, negatives)
        _last_prepared[candidates, pool] = data
    return _last_prepared[candidates, pool]


def _read_corpus(settings: DataConfig) -> tuple[Corpus, TextTable]:
    """The corpus and its texts, read now or last."""
    key = repr(settings)
    if settings.path is not None:
        path = Path(settings.path).expanduser()
        # A file that has changed since is read again.
        if path.exists():
            status = path.stat()
            key += f" {status.st_mtime_ns} {status.st_size} {status.st_ino}"

    if key not in _last_read:
        corpus = load_corpus(settings)
        index = build_table(corpus)
        _last_read.clear()
        _last_prepared.clear()
        _last_read[key] = corpus, index
    return _last_read[key]


# --- the plan ---


@dataclass(frozen=True)
class RunPlan:
    """A run before anything heavy: what it is made of and what it is called."""

    config: Config
    data: PreparedData
    pretrained: ModelSource
    loss: Loss
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
    def directory(self) -> Path:
        return Path(self.config.logs_dir).expanduser() / "runs" / self.name


def make_plan(config: Config) -> RunPlan:
    """Load the corpus, find the model, choose the device, name the run. Raises ValueErrors that name the key."""
    return plan_runs([config])[0]


def plan_runs(configs: Sequence[Config]) -> list[RunPlan]:
    """The plans of many configs, as make_plan's, reading each corpus and each model's files once."""
    corpora: dict[tuple[str, str | None, str | None], PreparedData] = {}
    sources: dict[tuple[str | None, str | None], ModelSource] = {}
    plans = []
    for config in configs:
        corpus = (repr(config.data), config.evaluation.candidates, config.negatives.pool)
        if corpus not in corpora:
            corpora[corpus] = read_data(config)
        model = (config.model.name_or_path, config.model.revision)
        if model not in sources:
            sources[model] = find_model(config.model, cache_directory(config))
        data, source = corpora[corpus], sources[model]
        # From here on the candidates are what the corpus makes of them.
        config = resolve_candidates(config, data.corpus)
        if config.training.epochs and not data.corpus.train:
            raise ConfigError(
                f"training.epochs={config.training.epochs}: data={data.corpus.name} has no training split here; must "
                "be 0 (only evaluate)"
            )

        # A name or key that is not there is refused before anything is written. A head waits for the encoder's width.
        loss = make_loss(config)
        registry.check("heads", "head", config.head.name, keywords(config.head), num_leading=1)

        device = choose_device(config.training.device, world_from_environment().local_rank)
        precision = choose_precision(config.training.precision, device)
        finetuned = find_finetuned(config, source)
        from_run = None if finetuned is None else finetuned.identity(config.seed)
        config = resolve_streams(config)
        determined_by = identity(config, data.fingerprint, source.fingerprint, precision, from_run, data.corpus.folds)
        name = run_name(config, determined_by)
        plans.append(RunPlan(config, data, source, loss, device, precision, determined_by, name, finetuned))
    return plans


def resolve_streams(config: Config) -> Config:
    """The config with training.dropout_streams as the number that it comes to: null for one, or where none is drawn.

    A batch is cut into so many parts, each with its own draws of dropout. Raises ConfigError for a number that the
    processes cannot share out evenly.
    """
    training = config.training
    num_processes = world_from_environment().size
    num_streams = training.dropout_streams or num_processes
    if training.freeze_encoder or training.epochs == 0 or config.model.dropout == 0:
        return replace(config, training=replace(training, dropout_streams=None))
    if num_streams % num_processes:
        raise ConfigError(
            f"training.dropout_streams={num_streams}: {num_processes} processes cannot share them out; must be a "
            f"multiple of {num_processes}, or null"
        )
    return replace(config, training=replace(training, dropout_streams=num_streams if num_streams > 1 else None))


def make_loss(config: Config) -> Loss:
    """The registered loss with its keywords. Raises ConfigError."""
    return registry.make("losses", "loss", config.loss.name, keywords(config.loss))


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


# --- what is trained ---


@dataclass(frozen=True)
class Components:
    """What a run trains, and the trained encoder to save with it (None for a frozen one)."""

    context: TrainingContext
    encoder: TextEncoder | None
    cut_share: float
    """How many of the texts, prompts in them, are longer than max_tokens, and so are cut; from 0 to 1."""
    pretrained: Callable[[], Hidden]
    """h of every text by the encoder as downloaded, from the cache that all runs share."""


def build_components(plan: RunPlan, log: RunLog, world: World) -> Components:
    """Tokens, encoder or cached features, splits, negatives and model of a run."""
    config = plan.config
    index = plan.data.index
    cache = cache_directory(config)
    settings = encode_settings(config, plan.device, plan.precision)
    prompted = prompted_texts(index.texts, points_of(index), settings)
    encoder = None
    if config.training.freeze_encoder:
        share = cut_share(plan.source, prompted.strings, config.model.max_tokens, cache)
        features = features_of(plan.source, settings, prompted.strings, cache, log, world)
        pooled_dim = features.shape[1]
        texts: TextSource = CachedTexts(features)
    else:
        # oneDNN is told before its first use how many kernels a step needs.
        if plan.device.type == "cpu":
            num_texts = config.training.batch_size * (2 + config.negatives.per_pair)
            if config.training.micro_batch is not None:
                num_texts = min(num_texts, TEXTS_OF_A_TURN)
            keep_step_kernels(num_texts)
        encoder = open_encoder(plan.source, settings, config.model.dropout)
        tokens = encoder.tokens(prompted.strings, cache)
        share = tokens.cut_share
        pooled_dim = encoder.module.config.hidden_size
        streams = config.training.dropout_streams or 1
        texts = encoder.over(tokens, world, in_parts=streams > world.size)

    def pretrained() -> Hidden:
        # A frozen encoder as downloaded is what `texts` holds already.
        if encoder is None and plan.finetuned is None:
            return prompted.of(texts.all_pooled())
        return prompted.of(features_of(plan.pretrained, settings, prompted.strings, cache, log, world))

    # Where the head says nothing yet, stage 2 then is the softmax that stage 1 is trained by.
    similarity_weight = 1.0 / (config.loss.temperature or 1.0)
    module = None if encoder is None else encoder.module
    model = BiEncoder(architecture_of(config, pooled_dim), module, config.seed, similarity_weight)
    model.to(plan.device)
    context = TrainingContext(
        config=config,
        model=model,
        texts=texts,
        index=index,
        splits=plan.data.splits,
        pool=plan.data.pool,
        loss=plan.loss,
        device=plan.device,
        world=world,
        quiet=not log.bars,
        peak_flops=peak_flops(describe_device(plan.device), plan.precision),
        watch=PartsWatch(model),
        prompted=None if prompted.as_point is None else prompted,
    )
    return Components(context, encoder, share, pretrained)


# --- an encoder that another run has trained ---


@dataclass(frozen=True)
class FineTuned:
    """An encoder that a finished run trained: its files, what determined that run, and the run's directory."""

    source: ModelSource
    determined_by: Mapping[str, Any]
    run: Path

    def identity(self, seed: int) -> dict[str, Any]:
        """What it adds to what determines a run with this seed.

        The run it comes from, which of their seeds it has where that is another, and its weights.
        """
        trained_with = self.determined_by["seed"]
        other_seed = {} if trained_with == seed else {"seed": trained_with}
        return {"run": name_without_seed(self.determined_by), **other_seed, "weights": self.source.fingerprint}


def find_finetuned(config: Config, pretrained: ModelSource) -> FineTuned | None:
    """The encoder that model.finetuned names: a run's, or that of a sweep's run with the seed of the config.

    None where it names none. Raises ConfigError where there is no such encoder, or where it was trained from
    another than `pretrained` or reads texts in another way than the config says.
    """
    name = config.model.finetuned
    if name is None:
        return None
    key = f"model.finetuned={name}"
    path = find_run(name if "/" in name else Path(config.logs_dir) / name, sweeps=True)
    if SweepDirectory(path).runs_list.is_file():
        path = _run_with_seed(SweepDirectory(path), config.seed, config.data.fold, key)
    elif RunDirectory(path).read_finished() is None:
        raise ConfigError(
            f"{key}: {path} is no finished run and no sweep; must be one that trained its encoder, as this makes: "
            "python -m biencoder_ablate -m experiment=arguana head=none data.path=… seed=0,1,2 sweep_name=finetuned"
        )

    determined_by = _determined_by(path, key)
    spec = read_model_spec(path / "model")
    if not spec.copied:
        raise ConfigError(f"{key}: the encoder of {path} was frozen; must be a run that trained it")
    if not is_same_encoder(spec.encoder_fingerprint, pretrained):
        raise ConfigError(
            f"{key}: was trained from {spec.encoder_name}, and not from model.name_or_path="
            f"{config.model.name_or_path or 'null'}; must be the same, for the figures of the pretrained encoder"
        )
    for setting in ("pooling", "point_prompt", "candidate_prompt"):
        trained_with = getattr(spec, setting)
        given = getattr(config.model, setting)
        if trained_with != given:
            raise ConfigError(f"model.{setting}={given}: {key} was trained with {trained_with}; must be that")
    source = encoder_source(path / "model", spec, config.model, cache_directory(config))
    return FineTuned(source, determined_by, path)


def _determined_by(run: Path, key: str) -> Mapping[str, Any]:
    """What determined a finished run. Raises ConfigError, naming `key`."""
    manifest = read_json(run / "manifest.json", determined_by=dict)
    if manifest is None or type(manifest["determined_by"].get("seed")) is not int:
        raise ConfigError(f"{key}: {run / 'manifest.json'} cannot be read; train that run again with rerun=true")
    determined_by: Mapping[str, Any] = manifest["determined_by"]
    return determined_by


def _run_with_seed(sweep: SweepDirectory, seed: int, fold: int | None, key: str) -> Path:
    """The one finished run with this seed among a sweep's, and of this fold. Raises ConfigError, naming `key`."""
    by_seed: dict[int, list[Path]] = {}
    for job in sweep.read()["jobs"]:
        run = (sweep.path / job["directory"]).resolve()
        if RunDirectory(run).read_finished() is not None:
            determined_by = _determined_by(run, key)
            if fold is None or determined_by.get("folds", {}).get("fold", fold) == fold:
                by_seed.setdefault(determined_by["seed"], []).append(run)

    runs = by_seed.get(seed, [])
    if not runs:
        seeds = ", ".join(map(str, sorted(by_seed))) or "none"
        raise ConfigError(f"{key}: this sweep has no finished run with seed {seed} (finished: {seeds}); must have it")
    if len(runs) > 1:
        names = ", ".join(sorted(run.name for run in runs))
        raise ConfigError(f"{key}: this sweep has {len(runs)} finished runs with seed {seed} ({names}); name one run")
    return runs[0]

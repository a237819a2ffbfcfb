"""What a run is asked to do: dataclasses, one per config group, and their checks. Imports no torch.

The YAML tree in conf/ fills these; `check` is what stands between a typing mistake and hours of training.
Every field's metadata says in words which values are valid, so that a message can say it too.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Union

from platformdirs import user_cache_path

from biencoder_ablate.utils.console import printable
from biencoder_ablate.utils.files import expand_user

DECISIVE = ("top1", "mrr", "ndcg@10", "recall@10")
"""The metrics by which a report and a verdict can decide."""
_LONGEST_MESSAGE = 1500
"""Characters of a message about a setting; a value may be of any length, and what would do comes last."""


class ConfigError(ValueError):
    """A setting that cannot be honoured; the message names the key, the value and what would do.

    A value may hold anything: control characters are escaped, and of a long message the middle is left out.
    """

    def __init__(self, message: object = "") -> None:
        text = printable(str(message))
        if len(text) > _LONGEST_MESSAGE:
            text = f"{text[:1000]}…{text[-499:]}"
        super().__init__(text)


def _key(
    default: Any,
    valid: str,
    names_run: bool | str,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A field with its default, its rule (one of `choices`, or a number in [low, high] or > above), and whether its
    value is part of a run's name. What could change a figure is; where a fingerprint over files stands for it, the
    class says so. `"changed"`: only where it is not the default, so that runs from before the key have their names."""
    metadata = {
        "valid": valid,
        "names_run": names_run,
        "choices": choices,
        "low": low,
        "high": high,
        "above": above,
    }
    if default is dict:
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class DataConfig:
    """Where the debates come from (group `data`). A fingerprint over the pairs that are read names the run."""

    name: str = _key("sample", "sample, arguana, pairs, beir, hub, or the name of another package's reader", False)
    path: str | None = _key(
        None, "a directory or zip (arguana, beir), or a csv, tsv or jsonl file (pairs), or a data set (hub)", False
    )
    split_seed: int = _key(0, "an integer of 0 or more", False, low=0)
    limit: int | None = _key(None, "null, or the number of debates to keep in each split (1 or more)", False, low=1)
    disjoint: bool = _key(False, "true or false", False)
    subset: str | None = _key(None, "null, or the name of a data set's part (hub)", False)
    point: str | None = _key(None, "null, or the column of texts that ask (pairs, hub)", False)
    counter: str | None = _key(None, "null, or the column of right answers (pairs, hub)", False)
    negative: str | None = _key(None, "null, or the column of candidates that are no answers (pairs, hub)", False)
    split: str | None = _key(None, "null, or the column that says train, val or test (pairs, hub)", False)
    group: str | None = _key(
        None, "null, or the column of what is not independent, kept together in one split (pairs, hub)", False
    )
    id: str | None = _key(None, "null, or the column that names the rows (pairs, hub)", False)
    folds: int | None = _key(
        None, "null, or the number of folds of a cross-validation (3 or more; sample, pairs, hub)", False, low=3
    )
    fold: int | None = _key(None, "null, or the fold that is the test split, from 0 to data.folds - 1", False, low=0)
    options: dict[str, Any] = _key(dict, "a mapping: settings of another package's reader", False)


@dataclass
class ModelConfig:
    """The encoder and its retrieval embeddings (group `model`). A fingerprint over the encoder's files names a run,
    and what `finetuned` comes to."""

    name: str = _key("minilm", "minilm, tiny or bert_base", False, choices=("minilm", "tiny", "bert_base"))
    name_or_path: str | None = _key(None, "null, a directory with a text encoder, or a model's name on the hub", False)
    revision: str | None = _key(None, "null, or a commit, tag or branch of the hub's model", False)
    pooling: str = _key("mean", "pooler, cls or mean", True, choices=("pooler", "cls", "mean"))
    max_tokens: int = _key(128, "an integer from 8 to 8192", True, low=8, high=8192)
    towers: str = _key("shared", "shared or separate", True, choices=("shared", "separate"))
    similarity: str = _key("euclidean", "euclidean or cosine", True, choices=("euclidean", "cosine"))
    retrieval_dim: int | None = _key(
        128, "null (the encoder's width), or an integer of 1 or more, at most 65536", True, low=1, high=65_536
    )
    projection_init: str = _key("random", "random or identity", True, choices=("random", "identity"))
    head_init: str = _key("random", "random or zero", True, choices=("random", "zero"))
    point_prompt: str | None = _key(None, "null, or what is put before a text that asks", "changed")
    candidate_prompt: str | None = _key(None, "null, or what is put before a text that is ranked", "changed")
    finetuned: str | None = _key(
        None, "null, or a finished run, or a sweep (its run of the same seed), whose trained encoder is taken", False
    )
    dropout: float | None = _key(None, "null (the checkpoint's own), or a number from 0 to 0.9", True, low=0, high=0.9)


@dataclass
class HeadConfig:
    """The pair-classification head (group `head`): a registered class, and the keywords that it takes.

    What a head does not take is null; `options` are for the keywords of other packages' heads.
    """

    name: str = _key("linear", "linear, bilinear, mlp, or a head that an installed package registers", True)
    norm: str | None = _key(None, "none, layernorm or rmsnorm", True, choices=("none", "layernorm", "rmsnorm"))
    activation: str | None = _key(None, "none, relu, gelu or tanh", True, choices=("none", "relu", "gelu", "tanh"))
    activation_position: str | None = _key(
        None, "after_linear2 or before_linear2", True, choices=("after_linear2", "before_linear2")
    )
    hidden: int | None = _key(
        None, "an integer of 1 or more, at most 65536 (the width of head=mlp)", True, low=1, high=65_536
    )
    options: dict[str, Any] = _key(dict, "the keywords of a head that another package registers", True)


@dataclass
class FusionConfig:
    """Which parts of a pair the head sees (group `fusion`)."""

    name: str = _key("concat", "concat, pooled or retrieval", True, choices=("concat", "pooled", "retrieval"))


@dataclass
class NegativesConfig:
    """How many negatives a pair gets, how the share of hard ones goes over the epochs, and which are hard (group
    `negatives`). What `pool` comes to on the corpus names the run."""

    schedule: str = _key("constant", "constant or curriculum", True, choices=("constant", "curriculum"))
    start: float | None = _key(None, "a number from 0 to 1 (only with negatives=curriculum)", True, low=0, high=1)
    per_pair: int = _key(1, "an integer of 1 or more, at most 1000", True, low=1, high=1000)
    skip: int = _key(0, "an integer of 0 or more (so many of the nearest are left out)", True, low=0)
    depth: int | None = _key(
        None, "null (the nearest), or an integer of 1 or more (drawn from so many of the nearest)", True, low=1
    )
    relative_margin: float | None = _key(
        None,
        "null, or a number from 0 to 1 (hard ones are at most 1 - this times as similar as the counter)",
        True,
        low=0,
        high=1,
    )
    pool: str | None = _key(
        None,
        "null (as evaluation.candidates), answers or all (all: texts that ask may be negatives too)",
        True,
        choices=("answers", "all"),
    )


@dataclass
class LossConfig:
    """The training loss (group `loss`): a registered class, and the keywords that it takes.

    What a loss does not take is null; `options` are for the keywords of other packages' losses.
    """

    name: str = _key("study", "study, contrastive, or a loss that an installed package registers", True)
    triplet: float | None = _key(None, "a number of 0 or more", True, low=0)
    positive: float | None = _key(None, "a number of 0 or more", True, low=0)
    negative: float | None = _key(None, "a number of 0 or more", True, low=0)
    margin: float | None = _key(None, "a number above 0", True, above=0)
    temperature: float | None = _key(None, "a number above 0", True, above=0)
    retrieval: float | None = _key(None, "a number of 0 or more", True, low=0)
    head: float | None = _key(None, "a number of 0 or more", True, low=0)
    in_batch_counters: bool | None = _key(None, "true or false", True)
    in_batch_points: bool | None = _key(None, "true or false", True)
    in_batch_negatives: bool | None = _key(None, "true or false", True)
    options: dict[str, Any] = _key(dict, "the keywords of a loss that another package registers", True)


@dataclass
class TrainingConfig:
    """How the model is trained (group `training`). The precision that `auto` comes to names the run, and so
    does the number that `dropout_streams` comes to, where it is not 1."""

    epochs: int = _key(6, "an integer of 0 or more (0 only evaluates)", True, low=0)
    batch_size: int = _key(8, "an integer of 1 or more, at most 1000000", True, low=1, high=1_000_000)
    learning_rate: float = _key(2e-5, "a number above 0 (the encoder's)", True, above=0)
    projection_learning_rate: float | None = _key(
        None, "null (the head's), or a number above 0 (for linear1)", True, above=0
    )
    head_learning_rate: float = _key(1e-3, "a number above 0 (for the head)", True, above=0)
    distinct_pairs: bool = _key(False, "true or false (true: a pair that the split repeats is trained on once)", True)
    positives: str = _key(
        "all",
        "all, or one (of a point's right answers, one drawn an epoch)",
        "changed",
        choices=("all", "one"),
    )
    optimizer: str = _key("adam", "adam or adamw", True, choices=("adam", "adamw"))
    weight_decay: float = _key(0.0, "a number of 0 or more", True, low=0)
    projection_weight_decay: float | None = _key(
        None, "null (weight_decay), or a number of 0 or more (for linear1)", True, low=0
    )
    schedule: str = _key("constant", "constant, linear or cosine", True, choices=("constant", "linear", "cosine"))
    warmup_ratio: float = _key(0.0, "a number from 0 to 1", True, low=0, high=1)
    max_grad_norm: float | None = _key(None, "null, or a number above 0", True, above=0)
    patience: int | None = _key(None, "null, or an integer of 1 or more", True, low=1)
    freeze_encoder: bool = _key(False, "true or false", True)
    device: str = _key("auto", "auto, cpu, cuda, cuda:N or mps", False)
    precision: str = _key("auto", "auto, fp32 or bf16", True, choices=("auto", "fp32", "bf16"))
    micro_batch: str | None = _key(
        None,
        "null, or auto (gradient caching: few texts at a time keep what their gradients need)",
        False,
        choices=("auto",),
    )
    save_model: bool = _key(True, "true or false", False)
    fast: bool = _key(True, "true or false (false takes the plain encoder path, to compare)", False)
    compile: bool = _key(False, "true or false (torch.compile in the encoder: for long runs on a GPU)", False)
    deterministic: bool = _key(False, "true or false (true: equal runs on one GPU are equal bit for bit)", False)
    dropout_streams: int | None = _key(
        None,
        "null (as many as processes), or an integer of 1 or more, at most 1024 (parts of a batch with their own draws)",
        "changed",
        low=1,
        high=1024,
    )


SELECTABLE = (
    "top1_clean",
    "top1",
    "mrr_clean",
    "mrr",
    "ndcg@10_clean",
    "ndcg@10",
    "map_clean",
    "map",
    "recall@10",
)
"""The val metrics that may select the epoch, by their names in records and results."""


@dataclass
class EvaluationConfig:
    """How a ranking is measured, and which figure selects the epoch (group `evaluation`). What `candidates` comes to
    on the corpus names the run."""

    rerank: Union[int, str] = _key(10, "an integer of 1 or more, all or none", True)  # noqa: UP007 (OmegaConf)
    select: str = _key("top1_clean", f"{', '.join(SELECTABLE)} or last", True, choices=(*SELECTABLE, "last"))
    score: str = _key("head", "head or sum", True, choices=("head", "sum"))
    source: bool = _key(False, "true or false", True)
    candidates: str | None = _key(
        None,
        "null (as the corpus is usually measured), answers, or all (all: texts that ask are candidates too)",
        True,
        choices=("answers", "all"),
    )


@dataclass
class TuningConfig:
    """How a sweep tunes each of its variants before the seeds that count (group `tuning`). A run with tuned settings
    is named by those settings, so that none of these keys names it."""

    name: str = _key("none", "none, or what the tuning is called", False)
    trials: int = _key(
        16, "an integer from 1 to 1000 (how many settings are tried of each variant)", False, low=1, high=1000
    )
    num_seeds: int = _key(2, "an integer from 1 to 100 (each trial's, which the sweep has not)", False, low=1, high=100)
    space: dict[str, Any] = _key(dict, "a mapping from keys to interval(…), tag(log, interval(…)) or choice(…)", False)


@dataclass
class PartsConfig:
    """Which parts of one preset a sweep takes apart, going by another one without them (group `parts`)."""

    name: str = _key("none", "none, out, in, both or pairs", False, choices=("none", "out", "in", "both", "pairs"))
    whole: str = _key("contrastive", "a recipe or experiment, or overrides with blanks between", False)
    bare: str = _key("study", "a recipe or experiment, or overrides with blanks between", False)


@dataclass
class Config:
    """One run. Field names are the keys of the command line."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    negatives: NegativesConfig = field(default_factory=NegativesConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracker: dict[str, Any] = _key(dict, "by name, a tracker's options", False)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    parts: PartsConfig = field(default_factory=PartsConfig)
    neg_ratio: float = _key(0.01, "a number from 0 to 1", True, low=0, high=1)
    seed: int = _key(0, "an integer from 0 to 4294967295", True, low=0, high=2**32 - 1)
    logs_dir: str = _key("logs", "a directory, made if missing", False)
    rerun: bool = _key(False, "true or false", False)
    plan: bool = _key(False, "true or false", False)
    sweep_name: str | None = _key(None, "null, or a name of letters, digits, '.', '_' and '-'", False)
    margin: float | None = _key(
        None,
        "null, or a number above 0 (of a sweep: a part that is worth less may be removed, such as 0.01)",
        False,
        above=0,
    )
    looks: list[int] | None = _key(
        None,
        "null, or rising numbers of seeds from 2, such as [8,12,20] (of a sweep: after each it decides, and goes on "
        "with what is open)",
        False,
    )
    metric: str | None = _key(
        None,
        "null (top1), top1, mrr, ndcg@10 or recall@10 (of a sweep with looks: what decides)",
        False,
        choices=DECISIVE,
    )
    cache_dir: str | None = _key(None, "null (the user's cache directory), or a directory, made if missing", False)


MEASURING_KEYS = (
    "data",
    "data.*",
    "evaluation.*",
    "model.max_tokens",
    "model.name_or_path",
    "model.revision",
    "training.device",
    "training.precision",
    "training.fast",
    "cache_dir",
)
"""What may differ from how a finished run was trained: how it is measured, and where things are."""


def schema_keys(schema: type = Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, what is valid) for every leaf of the schema."""
    for item in fields(schema):
        inner = item.default_factory
        if is_dataclass(inner):
            yield from schema_keys(inner, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item.metadata["valid"]


def check(config: Config) -> None:
    """Raise ConfigError for the first value out of range or pair of keys that contradict each other."""
    _check_ranges(config, "")
    _check_free_text(config)
    _check_model(config.model)
    _check_contradictions(config)


def _check_ranges(node: Any, prefix: str) -> None:
    for item in fields(node):
        key, value, rule = f"{prefix}{item.name}", getattr(node, item.name), item.metadata
        if is_dataclass(value):
            _check_ranges(value, f"{key}.")
            continue
        if value is None or isinstance(value, dict):
            continue
        ok = value.strip() != "" if isinstance(value, str) else True
        ok = ok and (not rule["choices"] or value in rule["choices"])
        if isinstance(value, list):
            ok = len(value) > 0 and value[0] >= 2 and value == sorted(set(value))
        if isinstance(value, int | float) and not isinstance(value, bool):
            ok = ok and math.isfinite(value)
            ok = ok and (rule["low"] is None or value >= rule["low"])
            ok = ok and (rule["high"] is None or value <= rule["high"])
            ok = ok and (rule["above"] is None or value > rule["above"])
        if not ok:
            raise ConfigError(f"{key}={value}: must be {rule['valid']}")


def _check_free_text(config: Config) -> None:
    rerank = config.evaluation.rerank
    good = rerank >= 1 if isinstance(rerank, int) and not isinstance(rerank, bool) else rerank in ("all", "none")
    if not good:
        raise ConfigError(f"evaluation.rerank={rerank}: must be an integer of 1 or more, all or none")
    device = config.training.device
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise ConfigError(f"training.device={device}: must be auto, cpu, cuda, cuda:N or mps")
    name = config.sweep_name
    if name is not None and not re.fullmatch(r"[\w-][\w.-]{0,99}", name):
        raise ConfigError(f"sweep_name={name}: must be a name of at most 100 letters, digits, '.', '_' and '-'")
    # Of these no one is called so, and the word would be taken for a name.
    model = config.model
    names = {"sweep_name": name, "cache_dir": config.cache_dir, "logs_dir": config.logs_dir}
    names |= {f"model.{key}": getattr(model, key) for key in ("revision", "name_or_path", "finetuned")}
    for key, value in names.items():
        if value is not None and is_word_for_null(value):
            raise ConfigError(f"{key}={value}: is taken for no name; must be {dict(schema_keys())[key]}")
    for key in ("logs_dir", "cache_dir", "data.path", "model.name_or_path", "model.finetuned"):
        value = attrgetter(key)(config)
        try:
            place = None if value is None else expand_user(str(value), key)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if place is not None and key in ("logs_dir", "cache_dir") and place.is_file():
            raise ConfigError(f"{key}={value}: is a file; must be a directory, made if missing")


def is_word_for_null(value: object) -> bool:
    """Whether a text, or a truth value that would become one, is what null or false is called elsewhere."""
    return str(value).strip().lower() in ("none", "false", "true", "nil", "nan")


def _check_model(model: ModelConfig) -> None:
    name = model.name_or_path
    if name is None and model.name != "tiny":
        raise ConfigError(f"model.name_or_path=null: model={model.name} needs a directory or a hub name")
    if name is not None and looks_like_path(name) and not expand_user(name).is_dir():
        raise ConfigError(
            f"model.name_or_path={name}: no such directory; must be a directory with a text encoder, or a "
            "model's name on the hub"
        )


def looks_like_path(name: str) -> bool:
    """Whether a model's name cannot be one on the hub (OWNER/NAME) and so must be a directory."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name or Path(name).exists()


def _check_contradictions(config: Config) -> None:
    negatives, loss, training, model = config.negatives, config.loss, config.training, config.model
    _check_folds(config.data)
    if negatives.schedule == "constant" and negatives.start is not None:
        raise ConfigError(
            f"negatives.start={negatives.start}: belongs to negatives=curriculum; "
            "with negatives=constant the share of hard negatives is neg_ratio"
        )
    if negatives.schedule == "curriculum" and negatives.start is None:
        raise ConfigError("negatives.start=null: negatives=curriculum needs a number from 0 to 1")
    if negatives.depth is not None and negatives.depth < negatives.per_pair:
        raise ConfigError(
            f"negatives.depth={negatives.depth}: negatives.per_pair={negatives.per_pair} different ones cannot be "
            f"drawn from so few; must be null, or {negatives.per_pair} or more"
        )
    if negatives.relative_margin is not None and model.similarity != "cosine":
        raise ConfigError(
            f"negatives.relative_margin={negatives.relative_margin}: compares cosines; needs model.similarity=cosine"
        )
    if loss.triplet == loss.positive == loss.negative == 0:
        raise ConfigError("loss.triplet=0 loss.positive=0 loss.negative=0: at least one weight must be above 0")
    if loss.retrieval == loss.head == 0:
        raise ConfigError("loss.retrieval=0 loss.head=0: at least one weight must be above 0")
    head_weights = {
        f"loss.{key}": value for key in ("positive", "negative", "head") if (value := getattr(loss, key)) is not None
    }
    if head_weights and not any(head_weights.values()) and config.evaluation.rerank != "none" and training.epochs > 0:
        raise ConfigError(
            f"evaluation.rerank={config.evaluation.rerank}: with {' and '.join(f'{key}=0' for key in head_weights)} "
            "the head stays untrained; must be none"
        )
    if config.evaluation.score == "sum" and loss.name == "study":
        raise ConfigError(
            "evaluation.score=sum: loss=study does not train the weight of the similarity; must be head, or loss="
            "contrastive"
        )
    if model.projection_init == "identity" and model.towers == "shared" and model.retrieval_dim is None:
        raise ConfigError(
            "model.projection_init=identity: with model.towers=shared and model.retrieval_dim=null there is no "
            "projection; must be random, or model.towers=separate"
        )
    for key in ("weight_decay", "projection_weight_decay"):
        if training.optimizer == "adam" and getattr(training, key):
            raise ConfigError(f"training.{key}={getattr(training, key)}: belongs to training.optimizer=adamw")
    if training.patience is not None and config.evaluation.select == "last":
        raise ConfigError(
            f"training.patience={training.patience}: stops when a val figure no longer rises, and evaluation.select="
            "last looks at none; must be null"
        )
    if training.micro_batch is not None and training.freeze_encoder:
        raise ConfigError("training.micro_batch=auto: has no effect with training.freeze_encoder=true; leave it null")
    if training.compile and not training.fast:
        raise ConfigError("training.compile=true: is part of the fast path; leave out training.fast=false")
    if training.freeze_encoder and model.dropout:
        raise ConfigError(
            f"model.dropout={model.dropout}: has no effect with training.freeze_encoder=true; leave it null"
        )


def _check_folds(data: DataConfig) -> None:
    """Refuse a fold without folds, folds without a fold, and a fold beyond them."""
    folds, fold = data.folds, data.fold
    if folds is None and fold is not None:
        raise ConfigError(f"data.fold={fold}: belongs to data.folds, which is null; must be null")
    if folds is not None and fold is None:
        raise ConfigError(
            f"data.folds={folds}: which fold is the test split? data.fold=0 to data.fold={folds - 1}, or -m (a sweep), "
            "which has all of them"
        )
    if folds is not None and fold is not None and fold >= folds:
        raise ConfigError(f"data.fold={fold}: must be from 0 to {folds - 1} with data.folds={folds}")


def head_name(head: HeadConfig) -> str:
    """The variant's name as in the command line: none, layernorm, relu, layernorm_relu, …; another head's own."""
    if head.name != "linear":
        return head.name
    parts = [part for part in (head.norm, head.activation) if part not in (None, "none")]
    return "_".join(map(str, parts)) or "none"


def keywords(settings: HeadConfig | LossConfig) -> dict[str, Any]:
    """What a registered head or loss is called with: the keys that are given, and the options."""
    given = {item.name: getattr(settings, item.name) for item in fields(settings)}
    options = given.pop("options")
    del given["name"]
    return {key: value for key, value in given.items() if value is not None} | options


def cache_directory(config: Config) -> Path:
    """Where tokens and frozen features are kept: `cache_dir`, or the user's cache directory.

    Raises ConfigError where no home directory is known to hold it.
    """
    if config.cache_dir is None and os.environ.get("XDG_CACHE_HOME"):  # platformdirs asks it on some systems only
        return Path(os.environ["XDG_CACHE_HOME"]) / "biencoder-ablate"
    try:
        if config.cache_dir is not None:
            return Path(config.cache_dir).expanduser()
        Path.home()  # raises where there is none, as not every version of platformdirs does
        return user_cache_path("biencoder-ablate", appauthor=False)
    except RuntimeError as error:
        value = config.cache_dir or "null"
        raise ConfigError(f"cache_dir={value}: no home directory is known here; must be a directory") from error

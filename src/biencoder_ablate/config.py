"""What a run is asked to do: dataclasses, one per config group, and their checks. Imports no torch.

The YAML tree in conf/ fills these; `check` is what stands between a typing mistake and hours of training.
Every field's metadata says in words which values are valid, so that a message can say it too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Union


class ConfigError(ValueError):
    """A setting that cannot be honoured; the message names the key, the value and what would do."""


def _key(
    default: Any,
    valid: str,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A field with its default and its rule: one of `choices`, or a number in [low, high] or > above."""
    return field(
        default=default, metadata={"valid": valid, "choices": choices, "low": low, "high": high, "above": above}
    )


@dataclass
class DataConfig:
    """Where the debates come from (group `data`)."""

    name: str = _key("sample", "sample, arguana or pairs", choices=("sample", "arguana", "pairs"))
    path: str | None = _key(None, "a directory or zip (arguana), or a csv, tsv or jsonl file (pairs)")
    split_seed: int = _key(0, "an integer of 0 or more", low=0)
    limit: int | None = _key(None, "null, or the number of debates to keep in each split (1 or more)", low=1)
    disjoint: bool = _key(False, "true or false")


@dataclass
class ModelConfig:
    """The encoder and its retrieval embedding (group `model`)."""

    name: str = _key("tiny", "tiny, minilm or bert_base", choices=("tiny", "minilm", "bert_base"))
    name_or_path: str | None = _key(None, "null, a directory with a BERT, or a model's name on the hub")
    revision: str | None = _key(None, "null, or a commit, tag or branch of the hub's model")
    pooling: str = _key("mean", "pooler, cls or mean", choices=("pooler", "cls", "mean"))
    max_tokens: int = _key(128, "an integer from 8 to 512", low=8, high=512)
    retrieval_dim: int | None = _key(128, "null (the pooled output itself), or an integer of 1 or more", low=1)
    dropout: float | None = _key(None, "null (the checkpoint's own), or a number from 0 to 0.9", low=0, high=0.9)


@dataclass
class HeadConfig:
    """The pair-classification head (group `head`)."""

    norm: str = _key("layernorm", "none or layernorm", choices=("none", "layernorm"))
    activation: str = _key("relu", "none or relu", choices=("none", "relu"))
    activation_position: str = _key(
        "after_linear2", "after_linear2 or before_linear2", choices=("after_linear2", "before_linear2")
    )


@dataclass
class FusionConfig:
    """Which parts of a pair the head sees (group `fusion`)."""

    name: str = _key("concat", "concat, pooled or retrieval", choices=("concat", "pooled", "retrieval"))


@dataclass
class NegativesConfig:
    """How the share of hard negatives goes over the epochs (group `negatives`)."""

    schedule: str = _key("constant", "constant or curriculum", choices=("constant", "curriculum"))
    start: float | None = _key(None, "a number from 0 to 1 (only with negatives=curriculum)", low=0, high=1)


@dataclass
class LossConfig:
    """Weights of the three losses, and the triplet's margin (group `loss`)."""

    triplet: float = _key(1.0, "a number of 0 or more", low=0)
    positive: float = _key(1.0, "a number of 0 or more", low=0)
    negative: float = _key(1.0, "a number of 0 or more", low=0)
    margin: float = _key(1.0, "a number above 0", above=0)


@dataclass
class TrainingConfig:
    """How the model is trained (group `training`)."""

    epochs: int = _key(6, "an integer of 0 or more (0 only evaluates)", low=0)
    batch_size: int = _key(8, "an integer of 1 or more", low=1)
    learning_rate: float = _key(2e-5, "a number above 0 (the encoder's)", above=0)
    head_learning_rate: float = _key(1e-3, "a number above 0 (for linear1 and the head)", above=0)
    warmup_ratio: float = _key(0.0, "a number from 0 to 1", low=0, high=1)
    max_grad_norm: float | None = _key(None, "null, or a number above 0", above=0)
    patience: int | None = _key(None, "null, or an integer of 1 or more", low=1)
    freeze_encoder: bool = _key(False, "true or false")
    device: str = _key("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: str = _key("auto", "auto, fp32 or bf16", choices=("auto", "fp32", "bf16"))
    save_model: bool = _key(True, "true or false")
    fast: bool = _key(True, "true or false (false takes the plain encoder path, to compare)")
    compile: bool = _key(False, "true or false (torch.compile in the encoder: for long runs on a GPU)")


@dataclass
class EvaluationConfig:
    """How a ranking is measured (group `evaluation`)."""

    rerank: Union[int, str] = _key(10, "an integer of 1 or more, all or none")  # noqa: UP007 (OmegaConf)
    source: bool = _key(False, "true or false")


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
    tracker: dict[str, Any] = field(
        default_factory=dict,
        metadata={"valid": "by name, a tracker's options", "choices": (), "low": None, "high": None, "above": None},
    )
    neg_ratio: float = _key(0.01, "a number from 0 to 1", low=0, high=1)
    seed: int = _key(0, "an integer from 0 to 4294967295", low=0, high=2**32 - 1)
    logs_dir: str = _key("logs", "a directory, made if missing")
    rerun: bool = _key(False, "true or false")
    plan: bool = _key(False, "true or false")
    sweep_name: str | None = _key(None, "null, or a name of letters, digits, '.', '_' and '-'")
    cache_dir: str | None = _key(None, "null (the user's cache directory), or a directory, made if missing")


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
    _check_data(config.data)
    _check_model(config.model)
    _check_contradictions(config)


def _check_ranges(node: Any, prefix: str) -> None:
    for item in fields(node):
        key, value, rule = f"{prefix}{item.name}", getattr(node, item.name), item.metadata
        if is_dataclass(value):
            _check_ranges(value, f"{key}.")
            continue
        if value is None:
            continue
        ok = value.strip() != "" if isinstance(value, str) else True
        ok = ok and (not rule["choices"] or value in rule["choices"])
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
    for key, place in (("logs_dir", config.logs_dir), ("cache_dir", config.cache_dir)):
        if place is not None and Path(place).expanduser().is_file():
            raise ConfigError(f"{key}={place}: is a file; must be a directory, made if missing")


def _check_data(data: DataConfig) -> None:
    if data.name == "sample":
        if data.path is not None:
            raise ConfigError(
                f"data.path={data.path}: data=sample ships with the package and takes no path; "
                "choose data=arguana or data=pairs to read your own"
            )
        return
    what = (
        "the ArguAna Counterargs corpus, a directory or the zip as published"
        if data.name == "arguana"
        else "a csv, tsv or jsonl table with columns point and counter"
    )
    if data.path is None:
        raise ConfigError(f"data.path is missing: data={data.name} needs data.path=…, {what}")
    path = Path(data.path).expanduser()
    if not path.exists():
        raise ConfigError(f"data.path={data.path}: no such file or directory; must be {what}")
    if data.name == "pairs" and path.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        raise ConfigError(f"data.path={data.path}: must be {what}")
    if data.name == "arguana" and data.split_seed != 0:
        raise ConfigError(f"data.split_seed={data.split_seed}: data=arguana comes split; leave the key out")


def _check_model(model: ModelConfig) -> None:
    name = model.name_or_path
    if name is None and model.name != "tiny":
        raise ConfigError(f"model.name_or_path=null: model={model.name} needs a directory with a BERT or a hub name")
    if name is not None and looks_like_path(name) and not Path(name).expanduser().is_dir():
        raise ConfigError(
            f"model.name_or_path={name}: no such directory; must be a directory with a BERT, or a "
            "model's name on the hub"
        )


def looks_like_path(name: str) -> bool:
    """Whether a model's name cannot be one on the hub (OWNER/NAME) and so must be a directory."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name or Path(name).exists()


def _check_contradictions(config: Config) -> None:
    negatives, loss, training = config.negatives, config.loss, config.training
    if negatives.schedule == "constant" and negatives.start is not None:
        raise ConfigError(
            f"negatives.start={negatives.start}: belongs to negatives=curriculum; "
            "with negatives=constant the share of hard negatives is neg_ratio"
        )
    if negatives.schedule == "curriculum" and negatives.start is None:
        raise ConfigError("negatives.start=null: negatives=curriculum needs a number from 0 to 1")
    if loss.triplet == loss.positive == loss.negative == 0:
        raise ConfigError("loss.triplet=0 loss.positive=0 loss.negative=0: at least one weight must be above 0")
    if loss.positive == loss.negative == 0 and config.evaluation.rerank != "none" and training.epochs > 0:
        raise ConfigError(
            f"evaluation.rerank={config.evaluation.rerank}: with loss.positive=0 and "
            "loss.negative=0 the head stays untrained; must be none"
        )
    if training.compile and not training.fast:
        raise ConfigError("training.compile=true: is part of the fast path; leave out training.fast=false")
    if training.freeze_encoder and config.model.dropout:
        raise ConfigError(
            f"model.dropout={config.model.dropout}: has no effect with training.freeze_encoder=true; leave it null"
        )


def head_name(head: HeadConfig) -> str:
    """The variant's name as in the command line: none, layernorm, relu or layernorm_relu."""
    parts = [part for part in (head.norm, head.activation) if part != "none"]
    return "_".join(parts) or "none"


def cache_directory(config: Config) -> Path:
    """Where tokens and frozen features are kept: `cache_dir`, or the user's cache directory."""
    import os
    import sys

    if config.cache_dir is not None:
        return Path(config.cache_dir).expanduser()
    if os.environ.get("XDG_CACHE_HOME"):
        base = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path.home() / ".cache"
    return base / "biencoder-ablate"

"""A run is named by what determines its results, and by nothing else.

Which settings those are, the schema's fields say themselves (`names_run` in config/schema.py). Data and encoder are
named by fingerprints over what was read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from biencoder_ablate.config.schema import Config, head_name

RESULTS_VERSION = 9
"""Raised when a change to the code alters figures, so that old and new runs never share a name."""


def identity(
    config: Config,
    data_fingerprint: str,
    model_fingerprint: str,
    precision: str,
    finetuned: Mapping[str, Any] | None = None,
    folds: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that determines a run's results.

    `config` says what the candidates come to (`resolve_candidates`) and how many streams of dropout there are
    (`resolve_streams`), `precision` is what training.precision came to, `finetuned` describes an encoder that another
    run has trained, and `folds` the cross-validation that the run is a fold of.
    """
    named = _naming_settings(_without_idle_settings(config))
    named["data"] = data_fingerprint
    named["model"]["fingerprint"] = model_fingerprint
    named["training"]["precision"] = precision
    if finetuned is not None:
        named["finetuned"] = dict(finetuned)
    if folds:
        named["folds"] = dict(folds)
    return {"results_version": RESULTS_VERSION, **named}


def _naming_settings(settings: Any) -> dict[str, Any]:
    """The fields that name a run, group by group."""
    values = {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        if is_dataclass(value):
            inner = _naming_settings(value)
            if inner:
                values[item.name] = inner
            continue
        names_run = item.metadata["names_run"]
        if names_run == "changed":
            names_run = value != item.default
        if names_run:
            values[item.name] = value
    return values


def _without_idle_settings(config: Config) -> Config:
    """The config with settings that have no effect beside the others made alike, so that they name nothing."""
    head, model, training = config.head, config.model, config.training
    if head.name == "linear" and head.activation in (None, "none"):  # another head's null may mean what it likes
        head = replace(head, activation_position=None)
    if training.freeze_encoder:
        model, training = replace(model, dropout=None), replace(training, learning_rate=0.0)
    return replace(config, head=head, model=model, training=training)


def run_name(config: Config, determined_by: dict[str, Any]) -> str:
    """Head, schedule, ratio, seed and a hash over the identity: layernorm_relu_neg0.01_seed0_3fa9c1d2."""
    schedule = "neg" if config.negatives.schedule == "constant" else "curr"
    return f"{head_name(config.head)}_{schedule}{config.neg_ratio:g}_seed{config.seed}_{short_hash(determined_by)}"


def name_without_seed(determined_by: Mapping[str, Any]) -> str:
    """One name for runs that differ in their seed alone, or in their fold: a hash over the identity without it.

    Of an encoder that another run has trained, whose weights differ with the seed, the name of that run stands for it.
    """
    rest = {key: value for key, value in without_fold(determined_by).items() if key != "seed"}
    if "finetuned" in rest:
        rest["finetuned"] = rest["finetuned"]["run"]
    return short_hash(rest)


def without_fold(determined_by: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without what sets the folds of a cross-validation apart: the fold, its split of the data, and the
    weights of an encoder that was trained on it."""
    rest = dict(determined_by)
    if "folds" in rest:
        rest["folds"] = {key: value for key, value in rest["folds"].items() if key != "fold"}
        del rest["data"]
        if "finetuned" in rest:
            rest["finetuned"] = {key: value for key, value in rest["finetuned"].items() if key != "weights"}
    return rest


def short_hash(value: Any) -> str:
    """Eight hex digits over a JSON-like value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]

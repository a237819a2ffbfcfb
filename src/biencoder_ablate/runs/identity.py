"""A run is named by what determines its results, and by nothing else (design §3)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from biencoder_ablate.config import Config, head_name

RESULTS_VERSION = 3
"""Raised when a change to the code alters figures, so that old and new runs never share a name."""


def identity(config: Config, data_fingerprint: str, model_fingerprint: str, precision: str) -> dict[str, Any]:
    """Everything that determines a run's results. Settings without effect are left out or made alike."""
    head, negatives, training = config.head, config.negatives, config.training
    frozen = training.freeze_encoder
    return {
        "results_version": RESULTS_VERSION,
        "data": data_fingerprint,
        "model": {
            "fingerprint": model_fingerprint,
            "pooling": config.model.pooling,
            "max_tokens": config.model.max_tokens,
            "retrieval_dim": config.model.retrieval_dim,
            "dropout": None if frozen else config.model.dropout,
        },
        "head": {
            "norm": head.norm,
            "activation": head.activation,
            "activation_position": head.activation_position if head.activation != "none" else None,
        },
        "fusion": config.fusion.name,
        "negatives": {"schedule": negatives.schedule, "start": negatives.start, "ratio": config.neg_ratio},
        "loss": vars(config.loss),
        "training": {
            "epochs": training.epochs,
            "batch_size": training.batch_size,
            "learning_rate": None if frozen else training.learning_rate,
            "head_learning_rate": training.head_learning_rate,
            "warmup_ratio": training.warmup_ratio,
            "max_grad_norm": training.max_grad_norm,
            "patience": training.patience,
            "freeze_encoder": frozen,
            "precision": precision,
        },
        "evaluation": {"rerank": config.evaluation.rerank, "source": config.evaluation.source},
        "seed": config.seed,
    }


def run_name(config: Config, determined_by: dict[str, Any]) -> str:
    """Head, schedule, ratio, seed and a hash over the identity: layernorm_relu_neg0.01_seed0_3fa9c1d2."""
    schedule = "neg" if config.negatives.schedule == "constant" else "curr"
    return f"{head_name(config.head)}_{schedule}{config.neg_ratio:g}_seed{config.seed}_{short_hash(determined_by)}"


def short_hash(value: Any) -> str:
    """Eight hex digits over a JSON-like value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]

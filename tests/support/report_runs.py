"""Run directories with outcomes of one's choosing, written as training writes them: to test reports on many seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from support.helpers import load_sample

from biencoder_ablate.config.schema import Config, DataConfig, HeadConfig, NegativesConfig
from biencoder_ablate.data.corpus import Corpus
from biencoder_ablate.evaluation.candidates import TASKS
from biencoder_ablate.runs.identity import identity, run_name
from biencoder_ablate.runs.records import build_manifest
from biencoder_ablate.utils.files import replace_nonfinite, yaml_string
from biencoder_ablate.utils.seeding import derive_seed

HEADS = {
    "none": HeadConfig(norm="none", activation="none"),
    "layernorm": HeadConfig(norm="layernorm", activation="none"),
    "relu": HeadConfig(norm="none", activation="relu"),
    "layernorm_relu": HeadConfig(norm="layernorm", activation="relu"),
}
CURRICULUM = NegativesConfig("curriculum", 0.2)


def config_of(head: str = "none", seed: int = 0, **changes: Any) -> Config:
    """A config of the sample debates; `changes` are fields of Config."""
    config = Config(head=replace(HEADS[head]), seed=seed)
    return replace(config, **changes)


def manifest_settings(corpus: str, encoder: str, **changes: Any) -> dict[str, Any]:
    """`determined_by` of a manifest in full, with `changes` group by group: head={"norm": "rmsnorm"}, seed=1."""
    settings: dict[str, Any] = {
        "results_version": 4, "data": corpus, "seed": 0, "neg_ratio": 0.01,
        "model": {
            "fingerprint": encoder, "pooling": "mean", "max_tokens": 128, "retrieval_dim": 128, "dropout": None,
            "towers": "shared", "similarity": "euclidean",
        },
        "head": {
            "name": "linear", "norm": "none", "activation": "none", "activation_position": None, "hidden": None,
            "options": {},
        },
        "fusion": {"name": "concat"},
        "negatives": {"schedule": "constant", "start": None, "per_pair": 1, "skip": 0, "depth": None},
        "loss": {"name": "study", "triplet": 1.0, "positive": 1.0, "negative": 1.0, "margin": 1.0, "options": {}},
        "training": {"epochs": 6, "batch_size": 8, "precision": "fp32"},
        "evaluation": {"rerank": 10, "select": "top1_clean", "score": "head"},
    }  # fmt: skip
    for key, value in changes.items():
        settings[key] = {**settings[key], **value} if isinstance(value, Mapping) else value
    return settings


def made_up_points(num_debates: int, per_debate: int = 6) -> list[tuple[str, str]]:
    """(id, debate) of test points whose texts nobody has."""
    return [
        (f"test/theme{d % 7}/debate-{d:03d}/{'con' if k % 2 else 'pro'}{k:02d}", f"debate-{d:03d}")
        for d in range(num_debates)
        for k in range(per_debate)
    ]


def sample_points() -> list[tuple[str, str]]:
    """(id, debate) of the sample debates' test points, whose texts ship with the package."""
    return [(pair.id, pair.debate) for pair in _sample_corpus().test]


def write_run(
    runs: Path,
    config: Config,
    right: Sequence[float],
    points: Sequence[tuple[str, str]] | None = None,
    leaked: Sequence[int] = (),
    fingerprint: str | None = None,
    encoder: str = "tiny-1",
    epochs: int = 4,
    overrides: Sequence[str] = (),
    right_clean: Sequence[float] | None = None,
    determined_by: Mapping[str, Any] | None = None,
) -> Path:
    """One finished run whose test points `right` (N,) have their counter first; points `leaked` are not clean.

    `right_clean` are those that have it first among the clean candidates, `right` unless given. Its curves rise to
    the final figure; its dead pairs grow where the head has a ReLU after linear2. `determined_by` stands in the
    manifest in place of what the config says, over `manifest_settings`.
    """
    points = sample_points() if points is None else points
    corpus = _sample_corpus().fingerprint if fingerprint is None else fingerprint
    determined = identity(config, corpus, encoder, "fp32")
    if determined_by is not None:
        determined = manifest_settings(corpus, encoder, **determined_by)
    directory = runs / run_name(config, determined)
    (directory / ".hydra").mkdir(parents=True)
    (directory / ".hydra" / "config.yaml").write_text(_config_yaml(config), "utf-8")
    typed = list(overrides) or [f"seed={config.seed}", f"neg_ratio={config.neg_ratio:g}"]
    (directory / ".hydra" / "overrides.yaml").write_text("".join(f"- {yaml_string(o)}\n" for o in typed), "utf-8")
    manifest = {**_versions(), "name": directory.name, "determined_by": determined}
    (directory / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    right = np.asarray(right, dtype=bool)
    right_clean = right if right_clean is None else np.asarray(right_clean, dtype=bool)
    clean = np.ones(len(points), dtype=bool)
    clean[list(leaked)] = False
    lines = [
        {
            "id": point, "split": "test", "theme": point.split("/")[1], "debate": debate,
            "stance": "con" if "/con" in point else "pro", "stage1_rank": 1, "rank": 1 if right[k] else 4,
            "clean_stage1_rank": 1 if clean[k] else None,
            "clean_rank": (1 if right_clean[k] else 3) if clean[k] else None,
            "stage1_ranks": dict.fromkeys(TASKS, 1), "ranks": dict.fromkeys(TASKS, 1), "tied": False,
            "num_scored": 10, "num_dead": 0, "first": f"{points[k if right[k] else k - 1][0]}#counter",
        }
        for k, (point, debate) in enumerate(points)
    ]  # fmt: skip
    val = {**lines[0], "id": "val/theme/debate/con01", "split": "val"}
    (directory / "rankings.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in [val, *lines]), "utf-8")
    top1, top1_clean = float(right.mean()), float(right_clean[clean].mean()) if clean.any() else float("nan")
    rng = np.random.default_rng(config.seed)
    after_relu = config.head.activation == "relu" and config.head.activation_position != "before_linear2"
    records = [
        _record(epoch, epochs, top1, top1_clean, after_relu, float(rng.normal(0, 0.01))) for epoch in range(-1, epochs)
    ]
    metrics = "".join(f"{json.dumps(replace_nonfinite(record))}\n" for record in records)
    (directory / "metrics.jsonl").write_text(metrics, "utf-8")
    figures = {
        "top1": top1, "top1_clean": top1_clean, "mrr": top1, "mrr_clean": top1_clean, "recall@10": 0.9,
        "num_points": len(points), "num_points_clean": int(clean.sum()),
        "tasks": {task: {"top1": min(1.0, top1 + 0.05 * (7 - k)), "mrr": top1} for k, task in enumerate(TASKS)},
    }  # fmt: skip
    result = replace_nonfinite(
        {
            "status": "finished",
            "name": directory.name,
            "best_epoch": epochs - 1,
            "selected": records[-1],
            "final": records[-1],
            "initial": records[0],
            "val": figures,
            "test": figures,
            "baselines": {"chance": {"test": {"top1": 0.01, "top1_clean": 0.01, "recall@10": 0.1}}},
            "seconds": 12.5,
        }
    )
    (directory / "result.json").write_text(json.dumps(result), "utf-8")
    return directory


def _config_yaml(config: Config) -> str:
    """The config as YAML. That of another seed is taken from it, since writing YAML is most of the work of a run."""
    without_seed = _yaml(json.dumps(asdict(replace(config, seed=0))))
    return re.sub("^seed: 0$", f"seed: {config.seed}", without_seed, flags=re.MULTILINE)


@cache
def _yaml(content: str) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(json.loads(content)))


@cache
def _versions() -> dict[str, Any]:
    """The part of a manifest that all runs share; it asks git, which takes a while."""
    return build_manifest("", "cpu", "fp32", 1, {})


@cache
def _sample_corpus() -> Corpus:
    return load_sample()


def _record(epoch: int, epochs: int, top1: float, clean: float, after_relu: bool, noise: float) -> dict[str, Any]:
    share = (epoch + 2) / (epochs + 1)
    wobble = noise if epoch < epochs - 1 else 0.0
    record: dict[str, Any] = {"epoch": epoch, "eval_seconds": 0.1, "dead_pairs": 0.1 * share * after_relu}
    for name, more in (("train", 0.1), ("val", 0.02), ("test", 0.0)):
        record[f"{name}/top1"] = top1 * share + more * share + wobble
        record[f"{name}/top1_clean"] = clean * share + more * share + wobble
    return record


def write_study(
    runs: Path,
    means: dict[str, float],
    seeds: Sequence[int] = range(10),
    ratios: Sequence[float] = (0.01,),
    points: Sequence[tuple[str, str]] | None = None,
    change: Callable[[Config], Config] = lambda config: config,
    **more: Any,
) -> list[Path]:
    """A run of each head, seed and ratio. Points differ in ease, seeds a little in luck; heads in `means`.

    Every tenth point is right among the clean candidates only.
    """
    points = made_up_points(30) if points is None else points
    fingerprint = more.pop("fingerprint", None)
    if fingerprint is None and points != sample_points():
        fingerprint = "f" * 64
    ease = np.random.default_rng(7).normal(0, 0.15, len(points))
    written = []
    for head, mean in means.items():
        for ratio in ratios:
            for seed in seeds:
                name = derive_seed(
                    seed, head, str(ratio), str(change(config_of()).negatives), str(change(config_of()).fusion)
                )
                rng = np.random.default_rng(name)
                chance = np.clip(mean + ease + rng.normal(0, 0.01), 0, 1)
                config = change(config_of(head, seed, neg_ratio=ratio))
                if fingerprint is not None and config.data.name == "sample" and points != sample_points():
                    config = replace(config, data=DataConfig(name="arguana", path="gone.zip"))
                right_clean = rng.random(len(points)) < chance
                right = right_clean & (
                    np.arange(len(points)) % 10 != 4
                )  # the rest: a text equal to the point's is first
                written.append(
                    write_run(runs, config, right, points, fingerprint=fingerprint, right_clean=right_clean, **more)
                )
    return written

"""A run in words: what will happen, what happened, what it means."""

from __future__ import annotations

import math
from typing import Any

import torch

import biencoder_ablate
from biencoder_ablate.config import Config, head_name
from biencoder_ablate.data.corpus import SPLITS, Corpus, pair_keys
from biencoder_ablate.evaluation.candidates import TASKS
from biencoder_ablate.model.device import describe_device
from biencoder_ablate.runs.directory import RunDirectory
from biencoder_ablate.training.assemble import Parts, Plan
from biencoder_ablate.training.schedule import describe_hard_share

_MEGABYTE = 1e6


def first_lines(plan: Plan, run: RunDirectory) -> str:
    """What will happen, a line each: data, model, head, negatives, training, device, place."""
    config, training = plan.config, plan.config.training
    lines = [f"biencoder-ablate {biencoder_ablate.__version__}: {run.name}"]
    lines += [f"data       {line}" for line in _data_lines(config, plan.corpus)]
    dim = config.model.retrieval_dim
    lines.append(
        f"model      {_model_words(config)}, {config.model.pooling} pooling, up to {config.model.max_tokens} "
        f"tokens, retrieval width {dim if dim is not None else 'of the pooled output'}"
        + (", encoder frozen" if training.freeze_encoder else "")
    )
    lines.append(f"head       {_head_words(config)}")
    share = describe_hard_share(config.negatives.schedule, config.neg_ratio, config.negatives.start)
    lines.append(f"negatives  hard negatives: {share}")
    lines.append(
        f"training   {training.epochs} epochs of {math.ceil(len(plan.corpus.train) / training.batch_size)} "
        f"batches of {training.batch_size} pairs, seed {config.seed}"
        if training.epochs
        else "training   none: only evaluating"
    )
    lines.append(f"device     {describe_device(plan.device)}, {plan.precision}, {torch.get_num_threads()} threads")
    lines.append(f"writes     {run.path}")
    return "\n".join(lines)


def _data_lines(config: Config, corpus: Corpus) -> list[str]:
    sizes = ", ".join(f"{len(corpus.split(name))} {name}" for name in SPLITS)
    debates = {(pair.theme, pair.debate) for name in SPLITS for pair in corpus.split(name)}
    lines = [
        f"{corpus.name}: {sizes} pairs of {len(debates)} debates"
        + (f", {sum(corpus.incomplete.values())} incomplete points left out" if corpus.incomplete else "")
    ]
    lines += corpus.notes
    for name in ("val", "test"):
        keys = pair_keys(corpus.split(name), corpus.keys)
        shared = keys & pair_keys(corpus.train, corpus.keys)
        if shared:
            lines.append(
                f"warning: {len(shared)} of {len(keys)} distinct {name} texts are also in train; "
                "see top1_clean, or data.disjoint=true"
            )
    if config.data.name == "sample" and config.model.name == "tiny":
        lines.append(
            "this is the demonstration: short debates and a tiny random BERT. For real figures: "
            "experiment=arguana model=minilm data.path=…"
        )
    return lines


def _model_words(config: Config) -> str:
    if config.model.name_or_path is None:
        return "tiny: a small BERT with random weights"
    return f"{config.model.name_or_path}"


def _head_words(config: Config) -> str:
    head = config.head
    steps = ["LayerNorm"] if head.norm == "layernorm" else []
    steps += (
        ["ReLU", "linear2"]
        if head.activation == "relu" and head.activation_position == "before_linear2"
        else ["linear2"] + (["ReLU"] if head.activation == "relu" else [])
    )
    return f"{head_name(head)}: {' → '.join(steps)} over {config.fusion.name} features"


def before_training(parts: Parts) -> str:
    """Sizes known once the model is built: features, trained weights, cut texts, and the disk a run needs."""
    weights = sum(value.numel() for value in parts.task.model.parameters())
    lines = [f"sizes      {parts.task.model.head.linear2.in_features} features a pair, {weights:,} trained weights"]
    if parts.tokens is not None:
        cut = (parts.tokens.full_lengths > parts.tokens.lengths).mean()
        lines[0] += f", {100 * cut:.1f}% of texts cut"
    # while training: weights, two Adam moments and the best weights, twice while an epoch replaces the one before it
    lines.append(
        f"disk       up to {2 * 4 * 4 * weights / _MEGABYTE + 2:.0f} MB while training, "
        f"{4 * weights / _MEGABYTE + 2:.0f} MB when done"
    )
    return "\n".join(lines)


def last_lines(run: RunDirectory, result: dict[str, Any]) -> str:
    """The selected epoch's figures, the eight tasks, and where everything is."""
    best, val, test = result["best_epoch"], result["val"], result["test"]
    lines = [
        f"selected epoch {best} by val top-1" if best >= 0 else "no epoch trained: figures of the initial model",
        f"top-1      val {val['top1']:.4f} ({val['num_points']} points)   test {test['top1']:.4f} "
        f"({test['num_points']} points)",
        f"clean      val {_shown(val['top1_clean'])} ({val['num_points_clean']} points)   test "
        f"{_shown(test['top1_clean'])} ({test['num_points_clean']} points)",
        "tasks      " + "".join(f"{task:>8}" for task in TASKS),
    ]
    for name, figures in (("val", val), ("test", test)):
        lines.append(f"{name:<11}" + "".join(f"{figures['tasks'][task]['top1']:8.4f}" for task in TASKS))
    lines.append(f"done in {result['seconds']:.1f} s: {run.path}")
    return "\n".join(lines)


def _shown(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"


def finished_already(run: RunDirectory, result: dict[str, Any]) -> str:
    """One line for a run that need not run again."""
    return f"{finished_line(run, result)}, already; rerun=true starts over"


def finished_line(run: RunDirectory, result: dict[str, Any]) -> str:
    """A finished run in one line."""
    return (
        f"{run.name}: epoch {result['best_epoch']}, val top-1 {result['val']['top1']:.4f}, "
        f"test top-1 {result['test']['top1']:.4f}: finished"
    )

"""A run in words: what will happen, what happened, what it means, and what looks wrong."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from biencoder_ablate.config.schema import Config, head_name
from biencoder_ablate.data.candidate_choice import IN_WORDS
from biencoder_ablate.data.corpus import SPLITS, Corpus, pair_keys
from biencoder_ablate.encoder.declared import differences
from biencoder_ablate.encoder.device import describe_device
from biencoder_ablate.evaluation.baselines import MEASURED, TITLES, baselines_above
from biencoder_ablate.runs.directory import RunDirectory
from biencoder_ablate.runs.records import (
    Record,
    metric_in_words,
    official_and_clean,
    primary_metric,
    selection_metric,
    stage1_metric,
)
from biencoder_ablate.training.alive import warnings_of_parts
from biencoder_ablate.training.loop import epoch_rows
from biencoder_ablate.training.plan import Components, RunPlan
from biencoder_ablate.utils.console import NEXT, format_number, printable, text_table
from biencoder_ablate.version import __version__

_MEGABYTE = 1e6
_BELOW = {
    "pretrained": (
        "the pretrained encoder's own cosine",
        "this training has cost more than it brought: try recipe=contrastive, or fewer epochs",
    ),
    "bm25": ("BM25", "counting words ranks these points better: try a pretrained encoder (model=minilm)"),
    "chance": ("chance", "a random order would rank these points better: something is wrong with this model"),
}
"""What each baseline is called in a warning, and what it means to be below it."""


# --- before training ---


def first_lines(plan: RunPlan, run: RunDirectory) -> str:
    """What will happen, a line each: data, model, head, negatives, loss, training, device, place."""
    config = plan.config
    training = config.training
    model = config.model
    negatives = config.negatives
    lines = [f"biencoder-ablate {__version__}: {run.name}"]
    lines += data_lines(plan)
    lines.append(f"ranked     {_ranked_line(plan)}")

    name = model.name_or_path or "tiny: a small BERT with random weights"
    encoder = f"model      {name}, {model.pooling} pooling, up to {model.max_tokens} tokens"
    if model.point_prompt is not None:
        encoder += f', "{model.point_prompt}" before points'
    if model.candidate_prompt is not None:
        encoder += f', "{model.candidate_prompt}" before candidates'
    if training.freeze_encoder:
        encoder += ", encoder frozen"
    lines.append(encoder)
    for difference in differences(plan.pretrained.directory, model):
        lines.append(f"model      warning: {printable(difference)}")
    if plan.finetuned is not None:
        lines.append(f"finetuned  its encoder is that of {plan.finetuned.run.name}")
        if plan.finetuned.determined_by["data"] != plan.data.fingerprint:
            lines.append(
                "finetuned  warning: which was trained on another corpus, or on other splits of this one; test texts "
                "may be among those it learned from"
            )

    # Without a retrieval_dim there is no projection.
    width = model.retrieval_dim or "of the encoder"
    lines.append(f"retrieval  {model.towers} towers, width {width}, {model.similarity}, {model.projection_init} start")
    hard = describe_hard_ratio(negatives.schedule, config.neg_ratio, negatives.start)
    several = ""
    if negatives.per_pair > 1:
        several = f"{negatives.per_pair} a pair; "
    drawn = ""
    if negatives.pool != config.evaluation.candidates:
        drawn = f", drawn {IN_WORDS[str(negatives.pool)]}"
    lines.append(f"negatives  {several}hard negatives: {hard}{drawn}")

    if training.epochs:
        train = plan.data.index.splits["train"]
        num_pairs = len(epoch_rows(train, training, config.seed, epoch=0))
        num_steps = math.ceil(num_pairs / training.batch_size)
        lines.append(
            f"training   loss {config.loss.name}, {training.epochs} epochs of {num_steps} batches of "
            f"{training.batch_size} pairs, {training.optimizer}, seed {config.seed}"
        )
    else:
        lines.append("training   none: only evaluating")
    lines.append(f"device     {describe_device(plan.device)}, {plan.precision}, {torch.get_num_threads()} threads")
    lines.append(f"writes     {run.path}")
    return "\n".join(lines)


def _ranked_line(plan: RunPlan) -> str:
    """Among what answers are looked for, and how many queries and candidates val and test have."""
    sizes = []
    for name in MEASURED:
        task = plan.data.splits[name]
        sizes.append(f"{name} {len(task)} queries, {len(task.candidates)} candidates")
    where = "among the documents" if plan.data.corpus.documents else IN_WORDS[str(plan.config.evaluation.candidates)]
    return f"{where}: {'; '.join(sizes)}"


def describe_hard_ratio(schedule: str, ratio: float, start: float | None) -> str:
    """The schedule of hard negatives in words."""
    if schedule == "constant":
        return f"{100 * ratio:.3g}% of each epoch's"
    assert start is not None
    return f"{100 * start:.3g}% of the first epoch's, {100 * ratio:.3g} points more each epoch, at most all"


def data_lines(plan: RunPlan) -> list[str]:
    """What the corpus holds, the texts that its splits share, and whether its figures mean anything."""
    return [f"data       {line}" for line in _describe_data(plan.config, plan.data.corpus)]


def _describe_data(config: Config, corpus: Corpus) -> list[str]:
    sizes: list[str] = []
    debates: set[tuple[str, str]] = set()
    for name in SPLITS:
        pairs = corpus.split(name)
        sizes.append(f"{len(pairs)} {name}")
        debates.update((pair.theme, pair.debate) for pair in pairs)
    line = f"{corpus.name}: {', '.join(sizes)} pairs of {len(debates)} "
    if corpus.documents:
        line += f"queries, {len(corpus.documents)} documents"
    else:
        line += "debates"
    if corpus.incomplete:
        line += f", {sum(corpus.incomplete.values())} incomplete points left out"
    lines = [line, *corpus.notes]

    for name in MEASURED:
        keys = pair_keys(corpus.split(name), corpus.keys)
        shared = keys & pair_keys(corpus.train, corpus.keys)
        if shared:
            lines.append(
                f"warning: {len(shared)} of {len(keys)} distinct {name} texts are also in train; "
                "see top1_clean, or data.disjoint=true"
            )
    if config.data.name == "sample":
        lines.append(
            "this is the demonstration, on thirty short debates; for real figures: experiment=arguana data.path=…, "
            "or your own pairs: data=pairs data.path=…"
        )
    if config.model.name_or_path is None:
        lines.append("model=tiny knows no language: it is for trying the program; for real figures: model=minilm")
    return lines


def before_training(components: Components, plan: RunPlan) -> str:
    """What is known once the model is built: the head, trained weights, cut texts, and the disk a run needs."""
    model = components.context.model
    num_weights = sum(value.numel() for value in model.parameters())
    head = model.head.describe()
    num_features = model.head.num_features
    sizes = f"{num_features} features a pair, {num_weights:,} trained weights"
    sizes += f", {100 * components.cut_share:.1f}% of texts cut"

    # In float32. While training: weights, two Adam moments and the best weights, twice while an epoch replaces the
    # one before it. When done: the weights, and the files of an encoder that another run has trained.
    training_bytes = 2 * 4 * 4 * num_weights
    final_bytes = 4 * num_weights
    if plan.finetuned is not None and components.encoder is None:
        files = plan.finetuned.source.directory.iterdir()
        final_bytes += sum(file.stat().st_size for file in files)
    return (
        f"head       {head_name(plan.config.head)}: {head} over {plan.config.fusion.name} features\n"
        f"sizes      {sizes}\n"
        f"disk       up to {training_bytes / _MEGABYTE + 2:.0f} MB while training, "
        f"{final_bytes / _MEGABYTE + 2:.0f} MB when done"
    )


# --- after training ---


def last_lines(
    run: RunDirectory,
    result: dict[str, Any],
    config: Config,
    records: Sequence[Record],
) -> str:
    """The selected epoch's metrics beside those of no training, what they mean, what looks wrong, what to type next."""
    best = result["best_epoch"]
    if best < 0:
        selected = "no epoch trained: figures of the initial model"
    elif config.evaluation.select == "last":
        selected = f"selected epoch {best}, the last"
    else:
        selected = f"selected epoch {best}, by val {metric_in_words(config.evaluation.select)}"
    lines = [selected, figures_table(result)]
    lines += [f"warning: {warning}" for warning in warnings(result, records)]
    if best >= 0:
        lines.append(meaning(result))
    lines.append(f"done in {result['seconds']:.1f} s: {run.path}")

    # This run is the newest one; a path would fill the line.
    latest = shlex.quote(str(run.path.parent.parent / "latest")) if config.logs_dir != "logs" else "latest"
    lines.append(f'{NEXT}biencoder-ablate retrieve {latest} "an argument"')
    command = "biencoder-ablate" if config.data.name == "sample" else "the same command with"
    lines.append(f"{' ' * len(NEXT)}{command} -m head=none,layernorm,relu,layernorm_relu seed=0,1,2")
    return "\n".join(lines)


def figures_table(result: Mapping[str, Any]) -> str:
    """The metric that has selected the epoch, of val and test before and after the head, beside what needs no training.

    ! marks what is below that. Clean metrics have columns where any differs from the official one.
    """
    baselines = result["baselines"]
    names = [
        "",
        "by distance, this run",
        "after the head, this run",
        *(TITLES[name] for name in baselines),
        "points",
    ]
    columns = [names]
    for split, key in _figures(result):
        metrics = result[split]
        suffix = "_clean" if key.endswith("_clean") else ""
        title = f"{split} clean " if suffix else f"{split} "
        column = [title]
        for value in (metrics.get(stage1_metric(key)), metrics[key]):
            mark = "!" if baselines_above(baselines, split, key, value) else " "
            column.append(_number(value) + mark)
        # A place is left for the mark in every column.
        column += [_number(baseline[split].get(key)) + " " for baseline in baselines.values()]
        column.append(f"{metrics['num_points' + suffix]} ")
        columns.append(column)

    # Without duplicates and leaks the clean metrics are the official ones.
    _, val, val_clean, test, test_clean = columns
    if val[1:] == val_clean[1:] and test[1:] == test_clean[1:]:
        columns.remove(val_clean)
        columns.remove(test_clean)
    header, *rows = zip(*columns, strict=True)
    return text_table(header, rows)


def _figures(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Split and key of the figures that a run is told in: val, val clean, test, test clean."""
    keys = official_and_clean(primary_metric(result.get("select")))
    return [(split, key) for split in MEASURED for key in keys]


def _number(value: object) -> str:
    return format_number(value) or "–"


def meaning(result: dict[str, Any]) -> str:
    """One sentence: what training has changed on clean test points, in points of the split."""
    test = result["test"]
    num = test["num_points_clean"]
    before = result["baselines"]["pretrained"]["test"]["top1_clean"]
    after = test["top1_clean"]
    if not num or before is None or math.isnan(before):
        return "no test point counts in clean figures: every one was seen in an earlier split"

    # Shares of the clean points as numbers of points.
    by_training = round((after - before) * num)
    by_head = round((after - test["top1_stage1_clean"]) * num)
    points = "test points" if num == test["num_points"] else "clean test points"
    training = f"{_more_or_fewer(by_training)} than" if by_training else "as many as"
    head = _more_or_fewer(by_head) if by_head else "no more and no fewer"
    return (
        f"learned: {round(after * num)} of {num} {points} find their counter first, "
        f"{training} without training; the head finds {head} than distance alone"
    )


def _more_or_fewer(change: int) -> str:
    word = "more" if change > 0 else "fewer"
    return f"{abs(change)} {word}"


def warnings(
    result: dict[str, Any],
    records: Sequence[Record],
) -> list[str]:
    """What looks wrong with a finished run, each with what to try."""
    messages = []
    val = result["val"]
    if val["dead_pairs"] >= 0.5:
        messages.append(
            f"the head says nothing of {100 * val['dead_pairs']:.0f}% of val pairs: a ReLU has left both logits at 0, "
            "and distance alone ranks them; try head.activation_position=before_linear2 or a lower "
            "training.head_learning_rate"
        )
    # Where the head is dead, ties are what that leads to.
    elif val["tied_first"] >= 0.5:
        messages.append(
            f"for {100 * val['tied_first']:.0f}% of val points several candidates tie for the first place: texts are "
            "embedded alike; try a lower training.learning_rate"
        )
    # A curve of two points may be level by chance.
    official = official_and_clean(primary_metric(result.get("select")))[0]
    words = metric_in_words(official)
    curve = [record[f"val/{official}"] for record in records]
    if len(curve) > 2 and len(set(curve)) == 1:
        messages.append(
            f"val {words} has not moved in any epoch; try a higher training.head_learning_rate, or more epochs"
        )

    # One warning a baseline, with every figure that is below it; a clean one only where it says something else.
    baselines = result["baselines"]
    for name, (title, remedy) in _BELOW.items():
        below: list[str] = []
        for split, key in _figures(result):
            value = result[split][key]
            if name in baselines_above(baselines, split, key, value):
                baseline = baselines[name][split][key]
                shown = f"{split} {value:.4f} ({baseline:.4f})"
                if key == official:
                    below.append(shown)
                elif shown not in below:
                    below.append(f"clean {shown}")
        if below:
            shown = ", ".join(below)
            messages.append(f"{words} is below {title}, in brackets: {shown}; {remedy}")
    return messages + warnings_of_parts(result)


def finished_line(run: RunDirectory, result: dict[str, Any]) -> str:
    """A finished run in one line."""
    metric = primary_metric(result.get("select"))
    words = metric_in_words(metric)
    val, test = (_number(selection_metric(result[split], metric)) for split in MEASURED)
    return f"{run.name}: epoch {result['best_epoch']}, {words}: val {val}, test {test}: finished"

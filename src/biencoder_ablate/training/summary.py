"""A run in words: what will happen, what happened, what it means, and what looks wrong."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from biencoder_ablate.config.schema import Config, head_name
from biencoder_ablate.data.corpus import SPLITS, Corpus, pair_keys
from biencoder_ablate.encoder.device import describe_device
from biencoder_ablate.evaluation.baselines import MEASURED, TITLES, baselines_above
from biencoder_ablate.runs.directory import RunDirectory
from biencoder_ablate.runs.records import Record
from biencoder_ablate.training.loop import epoch_rows
from biencoder_ablate.training.plan import Components, RunPlan
from biencoder_ablate.utils.console import format_number, text_table
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


def first_lines(plan: RunPlan, run: RunDirectory) -> str:
    """What will happen, a line each: data, model, head, negatives, loss, training, device, place."""
    config, training, model, negatives = plan.config, plan.config.training, plan.config.model, plan.config.negatives
    lines = [f"biencoder-ablate {__version__}: {run.name}"]
    lines += [f"data       {line}" for line in _data_lines(config, plan.corpus)]
    width = model.retrieval_dim if model.retrieval_dim is not None else "of the encoder"
    prompts = "".join(
        f', "{prompt}" before {texts}'
        for prompt, texts in ((model.point_prompt, "points"), (model.candidate_prompt, "candidates"))
        if prompt is not None
    )
    lines.append(
        f"model      {model.name_or_path or 'tiny: a small BERT with random weights'}, {model.pooling} pooling, up to "
        f"{model.max_tokens} tokens{prompts}" + (", encoder frozen" if training.freeze_encoder else "")
    )
    if plan.finetuned is not None:
        lines.append(f"finetuned  its encoder is that of {plan.finetuned.run.name}")
        if plan.finetuned.determined_by["data"] != plan.data.fingerprint:
            lines.append(
                "finetuned  warning: which was trained on another corpus, or on other splits of this one; test texts "
                "may be among those it learned from"
            )
    lines.append(f"retrieval  {model.towers} towers, width {width}, {model.similarity}, {model.projection_init} start")
    several = f"{negatives.per_pair} a pair; " if negatives.per_pair > 1 else ""
    share = describe_hard_share(negatives.schedule, config.neg_ratio, negatives.start)
    lines.append(f"negatives  {several}hard negatives: {share}")
    train = plan.data.index.splits["train"]
    steps = math.ceil(len(epoch_rows(train, training, config.seed, 0)) / training.batch_size)
    lines.append(
        f"training   loss {config.loss.name}, {training.epochs} epochs of {steps} batches of {training.batch_size} "
        f"pairs, {training.optimizer}, seed {config.seed}"
        if training.epochs
        else "training   none: only evaluating"
    )
    lines.append(f"device     {describe_device(plan.device)}, {plan.precision}, {torch.get_num_threads()} threads")
    lines.append(f"writes     {run.path}")
    return "\n".join(lines)


def describe_hard_share(schedule: str, ratio: float, start: float | None) -> str:
    """The schedule in words."""
    if schedule == "constant":
        return f"{100 * ratio:.3g}% of each epoch's"
    assert start is not None
    return f"{100 * start:.3g}% of the first epoch's, {100 * ratio:.3g} points more each epoch, at most all"


def _data_lines(config: Config, corpus: Corpus) -> list[str]:
    sizes = ", ".join(f"{len(corpus.split(name))} {name}" for name in SPLITS)
    debates = {(pair.theme, pair.debate) for name in SPLITS for pair in corpus.split(name)}
    among = f", {len(corpus.documents)} documents" if corpus.documents else ""
    what = "queries" if corpus.documents else "debates"
    lines = [
        f"{corpus.name}: {sizes} pairs of {len(debates)} {what}{among}"
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
    if config.data.name == "sample":
        lines.append(
            "this is the demonstration, on thirty short debates; for real figures: experiment=arguana data.path=…, "
            "or your own pairs: data=pairs data.path=…"
        )
    if config.model.name_or_path is None:
        lines.append("model=tiny knows no language: it is for trying the program; for real figures: model=minilm")
    return lines


def before_training(parts: Components, plan: RunPlan) -> str:
    """What is known once the model is built: the head, trained weights, cut texts, and the disk a run needs."""
    model = parts.trainee.model
    weights = sum(value.numel() for value in model.parameters())
    head = model.head.describe() if hasattr(model.head, "describe") else type(model.head).__name__
    lines = [
        f"head       {head_name(plan.config.head)}: {head} over {plan.config.fusion.name} features",
        f"sizes      {3 * sum(model.architecture.feature_widths)} features a pair, {weights:,} trained weights",
    ]
    if parts.tokens is not None:
        cut = (parts.tokens.full_lengths > parts.tokens.lengths).mean()
        lines[-1] += f", {100 * cut:.1f}% of texts cut"
    # while training: weights, two Adam moments and the best weights, twice while an epoch replaces the one before it
    kept = 4 * weights
    if plan.finetuned is not None and parts.encoder is None:
        kept += sum(file.stat().st_size for file in plan.finetuned.source.directory.iterdir())
    lines.append(
        f"disk       up to {2 * 4 * 4 * weights / _MEGABYTE + 2:.0f} MB while training, "
        f"{kept / _MEGABYTE + 2:.0f} MB when done"
    )
    return "\n".join(lines)


def last_lines(run: RunDirectory, result: dict[str, Any], config: Config, records: Sequence[Record]) -> str:
    """The selected epoch's figures beside those of no training, what they mean, what looks wrong, what to type next."""
    best = result["best_epoch"]
    select = {"top1": "top-1", "top1_clean": "clean top-1", "mrr": "MRR", "last": ""}[config.evaluation.select]
    lines = [
        f"selected epoch {best}, {f'by val {select}' if select else 'the last'}"
        if best >= 0
        else "no epoch trained: figures of the initial model"
    ]
    lines.append(figures_table(result))
    lines += [f"warning: {warning}" for warning in warnings(result, records)]
    if best >= 0:
        lines.append(meaning(result))
    lines.append(f"done in {result['seconds']:.1f} s: {run.path}")
    lines.append(f'next       biencoder-ablate retrieve {shlex.quote(str(run.path))} "an argument"')
    sweep = "-m head=none,layernorm,relu,layernorm_relu seed=0,1,2"
    of_the_sample = f"python -m biencoder_ablate {sweep}"
    lines.append(f"           {of_the_sample if config.data.name == 'sample' else f'the same command with {sweep}'}")
    return "\n".join(lines)


def figures_table(result: Mapping[str, Any]) -> str:
    """Top-1 of val and test before and after the head, beside what needs no training; ! marks what is below that.

    Clean figures have columns where any differs from the official one.
    """
    places = [(split, key) for split in MEASURED for key in ("top1", "top1_clean")]
    columns = [
        ["", "by distance, this run", "after the head, this run", *map(TITLES.get, result["baselines"]), "points"]
    ]
    for split, key in places:
        figures, clean = result[split], key.removeprefix("top1")
        own = [
            (value, bool(baselines_above(result["baselines"], split, key, value)))
            for value in (figures["top1_stage1" + clean], figures[key])
        ]
        others = [(baseline[split].get(key), False) for baseline in result["baselines"].values()]
        shown = [(format_number(value) or "–") + ("!" if below else " ") for value, below in own + others]
        columns.append([split + " clean" * bool(clean) + " ", *shown, f"{figures['num_points' + clean]} "])
    if all(columns[place][1:] == columns[place + 1][1:] for place in (1, 3)):
        del columns[4], columns[2]
    header, *rows = zip(*columns, strict=True)
    return text_table(header, rows)


def meaning(result: dict[str, Any]) -> str:
    """One sentence: what training has changed on clean test points, in points of the split."""
    test, before = result["test"], result["baselines"]["pretrained"]["test"]["top1_clean"]
    after, num = test["top1_clean"], test["num_points_clean"]
    if not num or before is None or math.isnan(before):
        return "no test point counts in clean figures: every one was seen in an earlier split"
    change = round((after - before) * num)
    how = f"{abs(change)} {'more' if change > 0 else 'fewer'}" if change else "as many"
    head = round((after - test["top1_stage1_clean"]) * num)
    part = f"{abs(head)} {'more' if head > 0 else 'fewer'}" if head else "no more and no fewer"
    points = "test points" if num == test["num_points"] else "clean test points"
    return (
        f"learned: {round(after * num)} of {num} {points} find their counter first, {how} "
        f"{'as' if not change else 'than'} without training; the head finds {part} than distance alone"
    )


def warnings(result: dict[str, Any], records: Sequence[Record]) -> list[str]:
    """What looks wrong with a finished run, each with what to try."""
    found = []
    val = result["val"]
    if val["dead_pairs"] >= 0.5:
        found.append(
            f"the head says nothing of {100 * val['dead_pairs']:.0f}% of val pairs: a ReLU has left both logits at 0, "
            "and distance alone ranks them; try head.activation_position=before_linear2 or a lower "
            "training.head_learning_rate"
        )
    if val["tied_first"] >= 0.5 and val["dead_pairs"] < 0.5:
        found.append(
            f"for {100 * val['tied_first']:.0f}% of val points several candidates tie for the first place: texts are "
            "embedded alike; try a lower training.learning_rate"
        )
    trained = [record["val/top1"] for record in records]
    if len(trained) > 2 and len(set(trained)) == 1:
        found.append("val top-1 has not moved in any epoch; try a higher training.head_learning_rate, or more epochs")
    for name, (title, remedy) in _BELOW.items():
        below = []
        for split, key in itertools.product(MEASURED, ("top1", "top1_clean")):
            value = result[split][key]
            if name in baselines_above(result["baselines"], split, key, value):
                shown = f"{split} {value:.4f} ({result['baselines'][name][split][key]:.4f})"
                below += [shown] if key == "top1" else [f"clean {shown}"] if shown not in below else []
        if below:
            found.append(f"top-1 is below {title}, in brackets: {', '.join(below)}; {remedy}")
    return found


def finished_line(run: RunDirectory, result: dict[str, Any]) -> str:
    """A finished run in one line."""
    return (
        f"{run.name}: epoch {result['best_epoch']}, val top-1 {format_number(result['val']['top1']) or '–'}, "
        f"test top-1 {format_number(result['test']['top1']) or '–'}: finished"
    )

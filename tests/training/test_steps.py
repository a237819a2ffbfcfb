"""One optimizer step: the batch that a loss is handed, rates over the steps, which weights decay."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support.loss_batches import COUNTERS, NEGATIVES, NUM_TEXTS, POINTS, make_model, make_texts, plain_contrastive
from transformers import BertConfig, BertModel

from biencoder_ablate.config.schema import Config, TrainingConfig
from biencoder_ablate.data.corpus import Pair, build_corpus
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.encoder.texts import CachedTexts
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.model.biencoder import Architecture, BiEncoder, Embeddings
from biencoder_ablate.training import loop
from biencoder_ablate.training.loop import (
    Pairs,
    TrainingContext,
    TrainingDiverged,
    check_trained,
    embed,
    make_optimizer,
    rate_factor,
    train_epoch,
    train_step,
)
from biencoder_ablate.training.losses import ContrastiveLoss, StudyLoss
from biencoder_ablate.training.negatives import build_pool
from biencoder_ablate.utils.distributed import World
from biencoder_ablate.utils.seeding import derive_seed, generator


def test_a_constant_rate_after_a_linear_warm_up():
    assert [rate_factor(step, 4, 9, "constant") for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert rate_factor(0, 0, 9, "constant") == 1.0


def test_a_linear_schedule_goes_to_zero_and_never_reaches_it():
    assert [rate_factor(step, 2, 6, "linear") for step in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert [rate_factor(step, 0, 4, "linear") for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_a_cosine_schedule_is_half_a_cosine():
    """At thirds of the way: (1 + cos 60°)/2 = 3/4 and (1 + cos 120°)/2 = 1/4."""
    assert [rate_factor(step, 1, 4, "cosine") for step in range(4)] == pytest.approx([1.0, 1.0, 0.75, 0.25])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_warm_up_of_the_whole_training_only_rises(schedule):
    assert [rate_factor(step, 4, 4, schedule) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert math.isfinite(rate_factor(4, 4, 4, schedule))


# The pairs of test_losses.py in a corpus of their own: point 1 has a second counter outside the batch, and all texts
# that are mined are points or counters of some pair.
ROWS = np.arange(len(POINTS))
TRAIN = [*zip(POINTS, COUNTERS, strict=True), (1, 19), (20, 17)]


def make_context(loss, **training):
    model, numbered = make_model(), make_texts()
    pairs = [Pair("train", "t", "d", "pro", i, *(f"text {n}" for n in both)) for i, both in enumerate(TRAIN)]
    pairs += [Pair(split, "t", "d", "pro", 0, "another text", "and its answer") for split in ("val", "test")]
    index = build_table(build_corpus("hand", pairs))
    row_of = {text: row for row, text in enumerate(index.texts)}
    features = torch.zeros(len(index.texts), 6, dtype=torch.float64)
    for number in range(NUM_TEXTS):
        if f"text {number}" in row_of:
            features[row_of[f"text {number}"]] = numbered[number]
    train = index.splits["train"]
    config = Config(training=TrainingConfig(freeze_encoder=True, fast=False, **training))
    context = TrainingContext(
        config, model, CachedTexts(features), index, {}, build_pool(train), loss, torch.device("cpu"), quiet=True
    )
    negative = np.array([[row_of[f"text {number}"] for number in row] for row in NEGATIVES])
    rows = np.arange(len(POINTS))
    return context, Pairs(rows, train.point[rows], train.counter[rows], negative), numbered


def test_a_step_hands_the_loss_what_the_design_says():
    """By the pool of the whole training split, against plain loops: values, and the gradients of the batch's mean."""
    context, pairs, numbered = make_context(ContrastiveLoss(0.3))
    expected = plain_contrastive(context.model, numbered, 0.3)
    (expected["total"] / len(POINTS)).backward()
    plain = {name: value.grad.clone() for name, value in context.model.named_parameters()}
    sums, work = train_step(context, make_optimizer(context.model, context.config), pairs)
    assert sums.tolist() == pytest.approx([expected[name].item() for name in ("total", "retrieval", "head")], rel=1e-5)
    assert work == (0, 0.0)
    for name, value in context.model.named_parameters():
        torch.testing.assert_close(value.grad, plain[name], rtol=1e-5, atol=1e-7)


def test_pairs_may_come_in_any_order():
    context, pairs, _ = make_context(ContrastiveLoss())
    order = np.array([4, 1, 5, 0, 3, 2])
    found = [
        train_step(context, make_optimizer(context.model, context.config), pairs.map(of), rate=0.0)[0]
        for of in (lambda values: values, lambda values: values[order])
    ]
    torch.testing.assert_close(*found)


def test_a_step_moves_by_the_rate_and_the_norm_is_cut():
    """Adam's first step is as long as the rate in every weight that has a gradient."""
    context, pairs, _ = make_context(StudyLoss(), head_learning_rate=0.01, max_grad_norm=1e-3)
    optimizer = make_optimizer(context.model, context.config)
    before = context.model.head.linear2.weight.detach().clone()
    train_step(context, optimizer, pairs, rate=0.5)
    moved = (context.model.head.linear2.weight.detach() - before).abs()
    assert moved.median().item() == pytest.approx(0.005, rel=1e-2)
    norm = torch.stack([value.grad.norm() for value in context.model.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
    assert {group["lr"] for group in optimizer.param_groups} == {0.005}


@pytest.mark.parametrize(("optimizer", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_each_parameter_has_one_rate_and_only_weights_decay(optimizer, kind, decay):
    config = BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    model = BiEncoder(Architecture(4, 3, head_options={"norm": "layernorm"}), BertModel(config), seed=0)
    training = TrainingConfig(optimizer=optimizer, weight_decay=decay, learning_rate=1e-5, head_learning_rate=1e-2)
    made = make_optimizer(model, Config(training=training))
    assert type(made) is kind
    found = {id(value): group for group in made.param_groups for value in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in made.param_groups) == len(list(model.parameters()))
    for name, value in model.named_parameters():
        group = found[id(value)]
        assert group["lr"] == (1e-5 if name.startswith("encoder.") else 1e-2), name
        is_weight = name.endswith("weight") and "norm" not in name.lower()
        assert group["weight_decay"] == (decay if is_weight else 0.0), name


def test_projections_may_have_a_rate_and_a_decay_of_their_own():
    model = BiEncoder(Architecture(4, 3, towers="separate", score="sum"), seed=0)
    training = TrainingConfig(
        optimizer="adamw",
        weight_decay=0.0,
        projection_weight_decay=0.2,
        projection_learning_rate=1e-4,
        head_learning_rate=1e-2,
    )
    made = make_optimizer(model, Config(training=training))
    found = {id(value): group for group in made.param_groups for value in group["params"]}
    seen = {
        name: (found[id(value)]["lr"], found[id(value)]["weight_decay"]) for name, value in model.named_parameters()
    }
    assert seen == {
        "linear1.weight": (1e-4, 0.2),
        "linear1.bias": (1e-4, 0.0),
        "linear1_candidate.weight": (1e-4, 0.2),
        "linear1_candidate.bias": (1e-4, 0.0),
        "head.linear2.weight": (1e-2, 0.0),
        "head.linear2.bias": (1e-2, 0.0),
        "similarity_weight": (1e-2, 0.0),
    }


def ready_for_epochs(seed=0, batch_size=3):
    """A context whose epochs can be trained, and the embeddings before the first."""
    context, _, _ = make_context(StudyLoss(), batch_size=batch_size)
    splits = {"train": build_task(context.index.splits["train"])}
    context = replace(context, splits=splits, config=replace(context.config, seed=seed))
    return context, embed(context)


def test_the_order_and_the_dropout_of_an_epoch_come_from_streams_of_their_own(monkeypatch):
    """Of seed and epoch: runs that are resumed, or made again years later, see the pairs in the same order."""
    seen = []
    plain = loop.train_step

    def watched(context, optimizer, pairs, rate):
        seen.append((pairs.rows.tolist(), torch.initial_seed()))
        return plain(context, optimizer, pairs, rate)

    monkeypatch.setattr(loop, "train_step", watched)
    for seed, epoch in ((0, 0), (5, 0), (5, 2)):
        context, before = ready_for_epochs(seed)
        train_epoch(context, make_optimizer(context.model, context.config), epoch, 0, before)
        rows = loop.epoch_rows(context.splits["train"].split, context.config.training, seed, epoch)
        order = rows[generator(seed, "shuffle", epoch).permutation(len(rows))].tolist()
        masks = derive_seed(seed, "dropout", epoch, 0)
        assert seen == [(order[start : start + 3], masks) for start in range(0, len(order), 3)]
        seen.clear()


def test_utilisation_is_of_all_processes_work_on_all_their_devices(monkeypatch):
    """Three operations for one of the forward pass. This process's half stands for all work: nobody else adds to it."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        context, before = ready_for_epochs()
        monkeypatch.setattr(CachedTexts, "flops", lambda texts, rows: (10 * len(rows), 1e6 * len(rows)))
        context = replace(context, world=World(0, 2), peak_flops=1e9)
        record = train_epoch(context, make_optimizer(context.model, context.config), 0, 0, before).record
    finally:
        dist.destroy_process_group()
    num_pairs = len(loop.epoch_rows(context.splits["train"].split, context.config.training, 0, 0))
    num_texts = record["tokens_per_second"] * record["train_seconds"] / 10
    assert 3 * num_pairs / 2 <= num_texts < 3 * num_pairs
    expected = 3 * 1e6 * num_texts / record["train_seconds"] / 2e9
    assert record["flop_utilisation"] == pytest.approx(expected)


@pytest.mark.parametrize("broken", ["h", "point", "candidate"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_number_that_is_none_is_enough_to_stop(broken, value):
    embeddings = {name: torch.ones(4, 3) for name in ("h", "point", "candidate")}
    check_trained(Embeddings(**embeddings), 0)
    embeddings[broken][2, 1] = value
    with pytest.raises(TrainingDiverged, match="epoch 7"):
        check_trained(Embeddings(**embeddings), 7)

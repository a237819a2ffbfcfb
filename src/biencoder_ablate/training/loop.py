"""The training loop: an epoch of steps, then every split measured. Reads top to bottom.

N pairs of the split, B of a batch, K negatives a pair, T texts of the corpus.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from biencoder_ablate.config.schema import Config, TrainingConfig
from biencoder_ablate.data.corpus import SPLITS
from biencoder_ablate.data.text_table import SplitArrays, TextTable
from biencoder_ablate.encoder.device import TRAINING_FACTOR, release_memory
from biencoder_ablate.encoder.texts import Hidden, PromptedTexts, TextSource, back_in_order
from biencoder_ablate.encoder.tokens import to_device
from biencoder_ablate.evaluation.candidates import RetrievalTask
from biencoder_ablate.evaluation.pair_scores import pair_scorer
from biencoder_ablate.evaluation.protocols import measure_split, study_top1
from biencoder_ablate.model.biencoder import BiEncoder, Embeddings
from biencoder_ablate.runs.records import Record
from biencoder_ablate.training.losses import Batch, Loss
from biencoder_ablate.training.negatives import NegativePool, draw_negatives, hard_ratio
from biencoder_ablate.training.watch import PartsWatch
from biencoder_ablate.utils.console import progress_bar
from biencoder_ablate.utils.distributed import World
from biencoder_ablate.utils.seeding import derive_seed, generator

HAND_BACK_STEPS = 8
"""Freed memory is handed back to the machine after so many steps of a trained encoder on a CPU.

After every step it would cost a quarter of the step's time; without it memory grows to several times what a step needs
(docs/performance.md)."""
_WHAT_TO_TRY = (
    "try a lower training.learning_rate or training.head_learning_rate, training.warmup_ratio=0.1, or "
    "training.max_grad_norm=1"
)


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class TrainingContext:
    """What is trained, on what, and how: the model, its texts, the splits, the pool of negatives, the loss."""

    config: Config
    model: BiEncoder
    texts: TextSource
    index: TextTable
    splits: dict[str, RetrievalTask]
    pool: NegativePool
    loss: Loss
    device: torch.device
    world: World = field(default_factory=World)
    quiet: bool = False
    peak_flops: float | None = None
    """Operations a second that the device can do at best, where known."""
    watch: PartsWatch | None = None
    """Counts which parts of the model are alive while it is trained."""
    prompted: PromptedTexts | None = None
    """How the texts are given to the encoder, where a point is given otherwise than a candidate."""


class Pairs(NamedTuple):
    """Pairs of a step: their rows (B,) in the training split, and as text indices their points and counters (B,) and
    negatives (B, K)."""

    rows: np.ndarray
    point: np.ndarray
    counter: np.ndarray
    negative: np.ndarray

    def map(self, select: Callable[[np.ndarray], np.ndarray]) -> Pairs:
        """Some of the pairs: `select` takes their part of each array."""
        return Pairs(*map(select, self))


# --- before the first step ---


def make_optimizer(model: BiEncoder, config: Config) -> torch.optim.Optimizer:
    """Adam or AdamW, with a rate each for the encoder, the projections, and the head.

    Weights decay, biases and norms' gains do not (Loshchilov and Hutter 2019; the exception is BERT's own training's).
    """
    training = config.training
    rates = {
        "head": training.head_learning_rate,
        "projection": training.projection_learning_rate or training.head_learning_rate,
        "encoder": training.learning_rate,
    }
    decays = dict.fromkeys(rates, training.weight_decay)
    if training.projection_weight_decay is not None:
        decays["projection"] = training.projection_weight_decay

    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for part, rate in rates.items():
        for decay in (decays[part], 0.0):
            groups[part, decay] = {
                "params": [],
                "lr": rate,
                "initial_lr": rate,
                "weight_decay": decay,
                "part": part,
            }
    # A parameter's first name says which part it belongs to; what is neither encoder nor projection is the head's.
    part_of = {"encoder": "encoder", "linear1": "projection", "linear1_candidate": "projection"}
    for name, parameter in model.named_parameters():
        part = part_of.get(name.split(".")[0], "head")
        decay = decays[part] if parameter.dim() >= 2 else 0.0
        groups[part, decay]["params"].append(parameter)
    used = [group for group in groups.values() if group["params"]]

    if training.optimizer == "adamw":
        return torch.optim.AdamW(used, fused=training.fast)
    return torch.optim.Adam(used, fused=training.fast)


def epoch_rows(
    train: SplitArrays,
    training: TrainingConfig,
    seed: int,
    epoch: int,
) -> np.ndarray:
    """Rows of the pairs that an epoch uses, ascending, the same number in every epoch.

    Right answers, each distinct pair once or as often as it comes (training.distinct_pairs), or one pair of each
    point, drawn (training.positives=one).
    """
    # What counts in clean metrics of the training split is the first occurrence of each distinct pair.
    used = train.clean if training.distinct_pairs else train.grade > 0
    rows = np.flatnonzero(used)
    if training.positives == "all":
        return rows
    # The first of each point in a random order.
    drawn = generator(seed, "positives", epoch).permutation(rows)
    _, first = np.unique(train.point_key[drawn], return_index=True)
    return np.sort(drawn[first])


def rate_factor(step: int, num_warmup: int, num_steps: int, schedule: str) -> float:
    """What the learning rates are multiplied by at optimizer step `step` (from 0) of `num_steps`.

    Linear from 1/n to 1 over the warm-up, then 1, or down to 0 on a line, or on half a cosine (Loshchilov and Hutter
    2017).
    """
    if step < num_warmup:
        return (step + 1) / num_warmup
    if schedule == "constant":
        return 1.0
    num_decay = max(1, num_steps - num_warmup)
    done = (step - num_warmup) / num_decay
    if schedule == "linear":
        return 1.0 - done
    return 0.5 * (1.0 + math.cos(math.pi * done))


# --- an epoch ---

StepRecords = list[tuple[int, Record]]
"""Optimizer steps, counted from 1, and the metrics of each."""


@dataclass(frozen=True)
class EpochResult:
    """An epoch of training: its metrics, the step reached, and the metrics of every step, for trackers."""

    record: Record
    step: int
    steps: StepRecords


def train_epoch(
    context: TrainingContext, optimizer: torch.optim.Optimizer, epoch: int, step: int, before: Embeddings
) -> EpochResult:
    """One pass over the training pairs, after `step` optimizer steps; hard negatives are mined from the embeddings
    `before` it. Raises TrainingDiverged on a loss that is not finite."""
    started = time.perf_counter()
    config = context.config
    training = config.training

    # Negatives are drawn for all pairs of the split, so that a pair's do not depend on which others an epoch uses.
    train = context.splits["train"].split
    negatives = config.negatives
    ratio = hard_ratio(negatives.schedule, epoch, config.neg_ratio, negatives.start)
    mining = (negatives.per_pair, negatives.skip, negatives.depth, negatives.relative_margin)
    negative, hard = draw_negatives(context.pool, ratio, config.seed, epoch, before, train, *mining)
    pairs = Pairs(np.arange(len(train)), train.point, train.counter, negative)

    # The order of the pairs and the masks of dropout come from streams of this epoch.
    rows = epoch_rows(train, training, config.seed, epoch)
    num_pairs = len(rows)
    shuffled = generator(config.seed, "shuffle", epoch).permutation(num_pairs)
    batches = np.split(rows[shuffled], range(training.batch_size, num_pairs, training.batch_size))
    torch.manual_seed(derive_seed(config.seed, "dropout", epoch, 0))
    num_steps = len(batches) * training.epochs
    num_warmup = round(training.warmup_ratio * num_steps)

    # Sums over the pairs of the epoch, and over the forward passes of this process.
    totals = dict.fromkeys(["loss", *(f"loss/{part}" for part in context.loss.parts)], 0.0)
    num_tokens, num_flops = 0, 0.0
    steps: StepRecords = []

    def log_step(step: int, batch_size: int, losses: AsyncCopy, rates: Record) -> None:
        """Add up a step's loss sums and keep its means; `step` counts from 1."""
        sums = dict(zip(totals, losses.get().tolist(), strict=True))
        if not math.isfinite(sums["loss"]):
            shown = ", ".join(f"{name} {value:.4g}" for name, value in sums.items())
            where = f"epoch {epoch}, step {step - 1}"
            raise TrainingDiverged(f"the loss is not finite at {where} ({shown}); {_WHAT_TO_TRY}")
        record: Record = {}
        for name, value in sums.items():
            totals[name] += value
            record[f"step/{name}"] = value / batch_size
        bar.set_postfix(loss=f"{record['step/loss']:.4f}", refresh=False)
        steps.append((step, record | rates))

    context.model.train()
    # Losses are read one step late, so that a GPU computes while the next batch is made ready.
    pending: tuple[int, int, AsyncCopy, Record] | None = None
    with progress_bar(f"epoch {epoch}", num_pairs, "pair", context.quiet) as bar:
        for batch in batches:
            factor = rate_factor(step, num_warmup, num_steps, training.schedule)
            chosen = pairs.map(operator.itemgetter(batch))
            losses, (step_tokens, step_flops) = train_step(context, optimizer, chosen, factor)
            if context.watch is not None:
                context.watch.after_step()
            step += 1
            num_tokens += step_tokens
            num_flops += step_flops
            if pending is not None:
                log_step(*pending)
            rates = {f"step/rate/{group['part']}": group["lr"] for group in optimizer.param_groups}
            pending = (step, len(batch), AsyncCopy(losses), rates)
            if context.device.type == "cpu" and step_tokens and step % HAND_BACK_STEPS == 0:
                release_memory()
            bar.update(len(batch))
        assert pending is not None
        log_step(*pending)

    seconds = time.perf_counter() - started
    record: Record = {name: total / num_pairs for name, total in totals.items()}
    record["hard_share"] = ratio
    record["num_hard"] = int(hard[rows].sum())
    record["num_steps"] = len(batches)
    record["train_seconds"] = seconds
    record["pairs_per_second"] = num_pairs / seconds
    work = context.world.sum(torch.tensor([num_tokens, num_flops], dtype=torch.float64))
    all_tokens, all_flops = work.tolist()
    if all_tokens:
        record["tokens_per_second"] = all_tokens / seconds
    if all_flops and context.peak_flops is not None:
        peak = context.peak_flops * context.world.size
        record["flop_utilisation"] = TRAINING_FACTOR * all_flops / seconds / peak
    if context.watch is not None:
        record |= context.watch.epoch_record()
    return EpochResult(record, step, steps)


# --- a step ---


def train_step(
    context: TrainingContext,
    optimizer: torch.optim.Optimizer,
    pairs: Pairs,
    rate: float = 1.0,
) -> tuple[torch.Tensor, tuple[int, float]]:
    """One optimizer step on B pairs, learning rates times `rate`. Returns loss sums and this process's work.

    The sums (1 + P,) are the total and the loss's P parts; the work is the tokens encoded and the operations of
    their forward pass. With several processes each takes its shard of the pairs; gradients and sums are those of all
    of them.
    """
    model = context.model
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * rate

    shard = pairs.map(context.world.shard)
    optimizer.zero_grad(set_to_none=True)
    h, finish_backward, work = _encode_shard(context, shard)
    losses = context.loss(_make_batch(context, pairs, shard, h))
    (losses["total"] / len(pairs.rows)).backward()
    finish_backward()
    context.world.sum_gradients(model.parameters())

    max_grad_norm = context.config.training.max_grad_norm
    if max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()

    logged = ("total", *context.loss.parts)
    sums = torch.stack([losses[name].detach().float() for name in logged])
    return context.world.sum(sums), work


def _encode_shard(context: TrainingContext, shard: Pairs) -> tuple[torch.Tensor, Callable[[], None], tuple[int, float]]:
    """h of this process's pairs, as `_encode_pairs` has it, each part of them with its own stream of dropout.

    Also what is left to do after the backward pass, and this process's work. A batch has the same parts and streams
    with any number of processes, of which each takes its share (training.dropout_streams).
    """
    world = context.world
    num_streams = context.config.training.dropout_streams or 1
    if num_streams == 1:
        return _encode_pairs(context, shard)

    # All processes draw the same seed here, and go on from the same state behind it.
    step_seed = int(torch.randint(2**62, (1,)))
    state = torch.get_rng_state()
    num_parts = num_streams // world.size
    outputs, finishes, works = [], [], []
    for number in range(num_parts):
        stream = world.rank + number * world.size
        torch.manual_seed(derive_seed(step_seed, "dropout", stream))
        part = shard.map(operator.itemgetter(slice(number, None, num_parts)))
        h, finish, work = _encode_pairs(context, part)
        outputs.append(h.unflatten(0, (-1, len(part.rows))) if len(part.rows) else None)
        finishes.append(finish)
        works.append(work)
    torch.set_rng_state(state)
    if num_parts == 1:
        return h, finishes[0], works[0]

    def finish_backward() -> None:
        for finish in finishes:
            finish()

    total_work = (sum(tokens for tokens, _ in works), sum(operations for _, operations in works))
    if not len(shard.rows):
        return h, finish_backward, total_work
    # From one part after another back to the order of the shard's pairs.
    positions = [np.arange(number, len(shard.rows), num_parts) for number in range(num_parts)]
    order = to_device(back_in_order(positions), context.device)
    by_kind = torch.cat([h for h in outputs if h is not None], dim=1)
    return by_kind.index_select(1, order).flatten(0, 1), finish_backward, total_work


def _encode_pairs(context: TrainingContext, shard: Pairs) -> tuple[torch.Tensor, Callable[[], None], tuple[int, float]]:
    """h of some pairs' points, counters and negatives, end to end (with prompts, of the points as what asks before
    them); what is left to do after the backward pass; and the tokens and operations of the forward pass."""
    texts = context.texts
    prompted = context.prompted
    rows = np.concatenate([shard.point, shard.counter, *shard.negative.T])
    # With prompts a point is read twice: as what asks, and as what other points may be paired with.
    if prompted is not None:
        assert prompted.as_point is not None
        rows = np.concatenate([prompted.as_point[shard.point], rows])

    if not len(rows):
        # Fewer pairs than processes: this one still takes part in what is gathered, and in the backward pass of it
        # where the others have one.
        h = torch.zeros(
            (0, context.model.architecture.pooled_dim),
            device=context.device,
            requires_grad=context.model.encoder is not None,
        )
        return h, _nothing, (0, 0.0)
    work = texts.flops(rows)
    if context.config.training.micro_batch is not None:
        return *texts.pooled_cached(rows), work
    return texts.pooled(rows), _nothing, work


def _nothing() -> None:
    """What is left to do where the backward pass has done all."""


def _make_batch(
    context: TrainingContext,
    pairs: Pairs,
    shard: Pairs,
    h: torch.Tensor,
) -> Batch:
    """What the loss needs of this process's `shard` of the pairs.

    Their points, counters and negatives lie end to end in h, with prompts after the points as what asks.
    """
    model = context.model
    pool = context.pool
    world = context.world
    num_pairs, num_negatives = shard.negative.shape
    h_asking = None
    if context.prompted is not None:
        h_asking = h[:num_pairs]
        h = h[num_pairs:]
    h = h.unflatten(0, (2 + num_negatives, num_pairs))  # (2 + K, B, H)
    candidate = model.as_candidates(h)  # (2 + K, B, R)
    # As a point a text is embedded like a candidate, unless it has a tower or a prompt of its own.
    point = candidate[0]
    if model.linear1_candidate is not None or h_asking is not None:
        point = model.as_points(h[0] if h_asking is None else h_asking)

    def gather(values: torch.Tensor) -> torch.Tensor:
        sizes = [len(rows) for rows in world.shards(pairs.rows)]
        return world.gather(values, sizes)

    def excluded(kind: str) -> torch.Tensor:
        """For the whole batch's texts of a kind, in the order of `gather`, by where they stand in the pool."""
        if kind == "counters":
            positions = pool.counter[pairs.rows]
        elif kind == "points":
            positions = pool.point[pairs.rows]
        else:
            positions = pool.positions_of(pairs.negative)
        gathered = np.concatenate(world.shards(positions), axis=None)
        mask = pool.are_excluded(shard.rows, gathered)
        return to_device(mask, context.device)

    points = Embeddings(h[0], point, candidate[0], h_asking)
    others = Embeddings(h[1:], candidate[1:], candidate[1:])
    return Batch(model, points, others, gather, excluded)


class AsyncCopy:
    """A small tensor on its way to the host: the copy begins here, behind the work under way; `get` waits for it.

    A copy that began only when it is needed would wait for all that a GPU was given in between.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values
        self.event = None
        if values.device.type == "cuda":
            self.values = values.to("cpu", non_blocking=True)  # torch sees to pinned memory
            self.event = torch.cuda.Event()
            self.event.record()

    def get(self) -> torch.Tensor:
        """The values on the CPU."""
        if self.event is not None:
            self.event.synchronize()
        return self.values.cpu()


# --- after an epoch ---


def embed(context: TrainingContext, hidden: Hidden | None = None) -> Embeddings:
    """Embed every text of the corpus once; mining, evaluation and the next epoch's negatives share the result.

    `hidden` are the pooled outputs where they are known already.
    """
    prompted = context.prompted
    with torch.no_grad():
        context.model.eval()
        if hidden is None:
            strings = context.index.texts if prompted is None else prompted.strings
            with progress_bar("encoding", len(strings), "text", context.quiet) as bar:
                h = context.texts.all_pooled(bar.update)
            hidden = (h, None) if prompted is None else prompted.of(h)
        return context.model.embed(*hidden)


def check_trained(embeddings: Embeddings, epoch: int) -> None:
    """Raise TrainingDiverged when an epoch has left the model unable to place texts: no metric would mean anything."""
    for values in (embeddings.h, embeddings.point, embeddings.candidate):
        if not bool(values.isfinite().all()):
            raise TrainingDiverged(f"the model's embeddings are not finite after epoch {epoch}; {_WHAT_TO_TRY}")


def measure_all(context: TrainingContext, embeddings: Embeddings) -> Record:
    """Official and clean metrics of the three splits, keys like `val/top1`; with evaluation.source the study's own.

    With evaluation.rerank=all an epoch's metrics are of depth 10 (docs/evaluation.md).
    """
    evaluation = context.config.evaluation
    score = pair_scorer(context.model, embeddings, context.config.training.fast)
    record: Record = {}
    num_scored = num_dead = 0
    with torch.no_grad():
        for name in SPLITS:
            task = context.splits[name]
            metrics = measure_split(task, embeddings, score, evaluation.rerank)
            num_scored += metrics.pop("num_scored")
            num_dead += metrics.pop("num_dead")
            record |= {f"{name}/{key}": value for key, value in metrics.items()}
            if evaluation.source:
                record[f"source/{name}/top1"] = study_top1(task, embeddings, score)
    record["dead_pairs"] = num_dead / num_scored if num_scored else 0.0
    return record

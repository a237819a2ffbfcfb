"""The training loop: an epoch of steps, then every split measured. Reads top to bottom.

N pairs, B of a batch, T texts of the corpus.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from biencoder_ablate.data.corpus import SPLITS
from biencoder_ablate.data.index import TextIndex
from biencoder_ablate.evaluation import measure
from biencoder_ablate.evaluation.fast_scoring import fast_scorer, plain_scorer
from biencoder_ablate.evaluation.measure import SplitCandidates
from biencoder_ablate.evaluation.ranking import LogitsFunction
from biencoder_ablate.model.biencoder import BiEncoder
from biencoder_ablate.model.flops import TRAINING_FACTOR
from biencoder_ablate.model.texts import TextSource
from biencoder_ablate.runs.log import progress_bar
from biencoder_ablate.runs.records import Record
from biencoder_ablate.runs.trackers import Trackers
from biencoder_ablate.seeding import derive_seed, generator
from biencoder_ablate.training.losses import Losses, LossWeights, batch_losses
from biencoder_ablate.training.negatives import NegativePool, draw_negatives
from biencoder_ablate.training.processes import World
from biencoder_ablate.training.schedule import hard_share, warmup_factor

_WHAT_TO_TRY = (
    "try a lower training.learning_rate or training.head_learning_rate, training.warmup_ratio=0.1, or "
    "training.max_grad_norm=1"
)


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class Recipe:
    """What determines a training, in plain values."""

    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    head_learning_rate: float
    warmup_ratio: float
    max_grad_norm: float | None
    patience: int | None
    schedule: str
    start: float | None
    ratio: float
    weights: LossWeights
    rerank: int | None
    """Depth of stage 2 in each epoch's figures; None ranks by distance alone."""
    source: bool


@dataclass(frozen=True)
class Task:
    """What is trained and measured: the model, its texts, the splits and the pool of negatives."""

    model: BiEncoder
    texts: TextSource
    index: TextIndex
    splits: dict[str, SplitCandidates]
    pool: NegativePool
    device: torch.device
    world: World = field(default_factory=World)
    fast: bool = True
    quiet: bool = False
    peak_flops: float | None = None
    """Operations a second that the device can do at best, where known."""


@dataclass(frozen=True)
class Embeddings:
    """Of every text, in eval mode: pooled outputs h (T, H) and retrieval embeddings r (T, R)."""

    h: torch.Tensor
    r: torch.Tensor


def make_optimizer(model: BiEncoder, recipe: Recipe, fused: bool) -> torch.optim.Optimizer:
    """Adam, the encoder at one rate, linear1 and the head at another."""
    groups = [{"params": [*model.linear1.parameters(), *model.head.parameters()], "lr": recipe.head_learning_rate}]
    if model.encoder is not None:
        groups.append({"params": list(model.encoder.parameters()), "lr": recipe.learning_rate})
    for group in groups:
        group["initial_lr"] = group["lr"]
    return torch.optim.Adam(groups, fused=fused)


def embed(task: Task, h: torch.Tensor | None = None) -> Embeddings:
    """Embed every text of the corpus once; mining, evaluation and the next epoch's negatives share the result.

    `h` (T, H) are the pooled outputs where they are known already.
    """
    with torch.no_grad():
        task.model.eval()
        if h is None:
            with progress_bar("encoding", len(task.index.texts), "text", task.quiet) as bar:
                h = task.texts.all_hidden(bar.update)
        return Embeddings(h, task.model.retrieval(h))


def check_finite(embeddings: Embeddings, epoch: int) -> None:
    """Raise TrainingDiverged when an epoch has left the model unable to place texts: no figure would mean anything."""
    if not bool(embeddings.h.isfinite().all() and embeddings.r.isfinite().all()):
        raise TrainingDiverged(f"the model's embeddings are not finite after epoch {epoch}; {_WHAT_TO_TRY}")


def train_epoch(
    task: Task,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    step: int,
    before: Embeddings,
    trackers: Trackers | None = None,
) -> tuple[Record, int]:
    """One pass over the training pairs. Returns the epoch's training record and the step reached.

    `before` are the embeddings before the epoch, from which hard negatives are mined. Raises
    TrainingDiverged on a loss that is not finite.
    """
    train = task.splits["train"].split
    share = hard_share(recipe.schedule, epoch, recipe.ratio, recipe.start)
    started = time.perf_counter()
    negative, hard = draw_negatives(task.pool, share, recipe.seed, epoch, before.r, train.point)
    order = generator(recipe.seed, "shuffle", epoch).permutation(len(train))
    torch.manual_seed(derive_seed(recipe.seed, "dropout", epoch, task.world.rank))
    num_steps = math.ceil(len(train) / recipe.batch_size)
    num_warmup = round(recipe.warmup_ratio * num_steps * recipe.epochs)
    sums, waiting = torch.zeros(4, dtype=torch.float64), None
    work = torch.zeros(2, dtype=torch.float64)
    task.model.train()
    with progress_bar(f"epoch {epoch}", len(train), "pair", task.quiet) as bar:
        for batch in _batches(order, recipe.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * warmup_factor(step, num_warmup)
            losses, done = train_step(
                task, recipe, optimizer, train.point[batch], train.counter[batch], negative[batch]
            )
            work += torch.tensor(done, dtype=torch.float64)
            # Losses are read one step late, so that a GPU computes while the next batch is made ready.
            if waiting is not None:
                sums += _read(*waiting, epoch, step, trackers)
                bar.set_postfix(loss=f"{waiting[0][0] / recipe.batch_size:.4f}", refresh=False)
            waiting = (losses, len(batch), [group["lr"] for group in optimizer.param_groups])
            step += 1
            bar.update(len(batch))
        assert waiting is not None
        sums += _read(*waiting, epoch, step, trackers)
    seconds = time.perf_counter() - started
    means = (sums / len(train)).tolist()
    num_tokens, flops = task.world.sum(work).tolist()
    record: Record = {
        "loss": means[0],
        "loss/triplet": means[1],
        "loss/positive": means[2],
        "loss/negative": means[3],
        "hard_share": share,
        "num_hard": int(hard.sum()),
        "train_seconds": seconds,
        "pairs_per_second": len(train) / seconds,
    }
    if num_tokens:
        record["tokens_per_second"] = num_tokens / seconds
    if flops and task.peak_flops is not None:
        record["flop_utilisation"] = TRAINING_FACTOR * flops / seconds / (task.peak_flops * task.world.size)
    return record, step


def _read(
    losses: torch.Tensor, batch_size: int, rates: list[float], epoch: int, step: int, trackers: Trackers | None
) -> torch.Tensor:
    """Loss sums (4,) of the step that made it `step` of them; trackers get them as means over the batch's pairs."""
    sums = _finite(losses, epoch, step - 1)
    if trackers:
        names = ("step/loss", "step/loss/triplet", "step/loss/positive", "step/loss/negative")
        figures = dict(zip(names, (sums / batch_size).tolist(), strict=True))
        figures |= zip(("step/rate/head", "step/rate/encoder"), rates, strict=False)  # no encoder where it is frozen
        trackers.step(step, figures)
    return sums


def train_step(
    task: Task,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    point: np.ndarray,
    counter: np.ndarray,
    negative: np.ndarray,
) -> tuple[torch.Tensor, tuple[int, float]]:
    """One optimizer step on B triplets of text indices (B,). Returns loss sums (4,) and this process's work.

    The sums are the total, triplet, positive and negative losses; the work is the tokens encoded and the operations
    of their forward pass. With several processes each takes its share of the triplets; gradients and sums are those
    of all of them.
    """
    batch_size = len(point)
    point, counter, negative = (task.world.share(rows) for rows in (point, counter, negative))
    optimizer.zero_grad(set_to_none=True)
    sums, work = torch.zeros(4, device=task.device), (0, 0.0)
    if len(point):
        losses, work = _share_losses(task, recipe, point, counter, negative)
        (losses.total / batch_size).backward()
        sums = torch.stack([losses.total, losses.triplet, losses.positive, losses.negative]).detach()
    task.world.sum_gradients(task.model.parameters())
    if recipe.max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), recipe.max_grad_norm)
    optimizer.step()
    return task.world.sum(sums), work


def _share_losses(
    task: Task, recipe: Recipe, point: np.ndarray, counter: np.ndarray, negative: np.ndarray
) -> tuple[Losses, tuple[int, float]]:
    """Losses of triplets of text indices (B,), and the work of encoding them."""
    rows = np.concatenate([point, counter, negative])
    h = task.texts.hidden(rows)
    h_p, h_cn = _points_and_others(h)
    r_p, r_cn = _points_and_others(task.model.retrieval(h))
    # Counters and negatives go through the head in one call: small batches cost calls rather than products.
    logits = task.model.logits(h_p.expand_as(h_cn), r_p.expand_as(r_cn), h_cn, r_cn)
    losses = batch_losses(r_p, r_cn[0], r_cn[1], logits[0], logits[1], recipe.weights)
    return losses, task.texts.work(rows)


def _points_and_others(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Points, counters and negatives end to end (3B, W) → points (B, W); counters and negatives (2, B, W)."""
    points, others = x.unflatten(0, (3, -1)).split([1, 2])
    return points[0], others


def _finite(losses: torch.Tensor, epoch: int, step: int) -> torch.Tensor:
    """Loss sums (4,) as float64 on the CPU. Raises TrainingDiverged when their total is no number."""
    sums = losses.to("cpu").double()
    if not bool(torch.isfinite(sums[0])):
        names = ("total", "triplet", "positive", "negative")
        shown = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, sums.tolist(), strict=True))
        raise TrainingDiverged(f"the loss is not finite at epoch {epoch}, step {step} ({shown}); {_WHAT_TO_TRY}")
    return sums


def _batches(order: np.ndarray, size: int) -> Iterable[np.ndarray]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def measure_all(task: Task, recipe: Recipe, embeddings: Embeddings) -> Record:
    """Official and clean figures of the three splits, keys like `val/top1`; `source` ones where asked."""
    record: Record = {}
    scored = dead = 0
    score = pair_scorer(task, embeddings)
    with torch.no_grad():
        for name in SPLITS:
            prepared = task.splits[name]
            official, clean = measure.rank_both(prepared, embeddings.r, score, recipe.rerank)
            values = measure.figures(official, clean, prepared.split.clean)
            record |= {f"{name}/{key}": value for key, value in values.items()}
            scored, dead = scored + int(official.num_scored.sum()), dead + int(official.num_dead.sum())
            if recipe.source:
                ranks = measure.rank_source(prepared, embeddings.r, score).final_rank
                record[f"source/{name}/top1"] = float((ranks == 0).mean())
    record["dead_pairs"] = dead / scored if scored else 0.0
    return record


def pair_scorer(task: Task, embeddings: Embeddings) -> LogitsFunction:
    """Scores pairs of texts with the head: text indices (M,), (M,) → margins (M,) and dead flags (M,)."""
    scorer = fast_scorer if task.fast else plain_scorer
    return scorer(task.model, embeddings.h, embeddings.r)

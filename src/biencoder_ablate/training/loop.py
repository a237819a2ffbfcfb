"""The training loop: an epoch of steps, then every split measured. Reads top to bottom.

N pairs of the split, B of a batch, K negatives a pair, T texts of the corpus.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from biencoder_ablate.config.schema import Config, TrainingConfig
from biencoder_ablate.data.corpus import SPLITS
from biencoder_ablate.data.text_table import SplitArrays, TextTable
from biencoder_ablate.encoder.device import TRAINING_FACTOR, release_memory
from biencoder_ablate.encoder.texts import Hidden, PromptedTexts, TextSource
from biencoder_ablate.encoder.tokens import to_device
from biencoder_ablate.evaluation.candidates import RetrievalTask
from biencoder_ablate.evaluation.pair_scores import PairScorer, pair_scorer
from biencoder_ablate.evaluation.protocols import measure_split, study_top1
from biencoder_ablate.model.biencoder import BiEncoder, Embeddings
from biencoder_ablate.runs.records import Record
from biencoder_ablate.training.losses import Batch, Loss
from biencoder_ablate.training.negatives import Mining, NegativePool, draw_negatives, hard_share
from biencoder_ablate.utils.console import progress_bar
from biencoder_ablate.utils.distributed import World
from biencoder_ablate.utils.seeding import derive_seed, generator

HAND_BACK_STEPS = 8
"""After so many steps of a trained encoder on a CPU freed memory is handed back: after every one it costs a quarter of
a step's time, never and it grows to several times what a step needs (docs/performance.md)."""
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
    roles: PromptedTexts | None = None
    """How the texts are given to the encoder, where a point is given otherwise than a candidate."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of a step: their rows (B,) in the training split, and as text indices their points and counters (B,) and
    negatives (B, K)."""

    rows: np.ndarray
    point: np.ndarray
    counter: np.ndarray
    negative: np.ndarray

    def map(self, part: Callable[[np.ndarray], np.ndarray]) -> Pairs:
        return Pairs(part(self.rows), part(self.point), part(self.counter), part(self.negative))


def make_optimizer(model: BiEncoder, config: Config) -> torch.optim.Optimizer:
    """Adam or AdamW, with a rate each for the encoder, the projections, and the head. Weights decay, biases and
    norms' gains do not (Loshchilov and Hutter 2019; the exception is BERT's own training's)."""
    training = config.training
    rates = {
        "head": training.head_learning_rate,
        "projection": training.projection_learning_rate or training.head_learning_rate,
        "encoder": training.learning_rate,
    }
    decays = dict.fromkeys(rates, training.weight_decay)
    if training.projection_weight_decay is not None:
        decays["projection"] = training.projection_weight_decay
    groups: list[dict[str, Any]] = []
    for part, rate in rates.items():
        members = [value for name, value in model.named_parameters() if _part_of(name) == part]
        steady = [value for value in members if decays[part] and value.dim() < 2]
        decaying = [value for value in members if not decays[part] or value.dim() >= 2]
        for chosen, decay in ((decaying, decays[part]), (steady, 0.0)):
            if chosen:
                group = {"params": chosen, "lr": rate, "initial_lr": rate, "weight_decay": decay, "part": part}
                groups.append(group)
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, fused=training.fast)


def _part_of(parameter: str) -> str:
    """Which part of a bi-encoder a parameter belongs to, by its name."""
    first = parameter.split(".")[0]
    return {"encoder": "encoder", "linear1": "projection", "linear1_candidate": "projection"}.get(first, "head")


def epoch_rows(train: SplitArrays, training: TrainingConfig, seed: int, epoch: int) -> np.ndarray:
    """Rows of the pairs that an epoch uses, ascending: right answers, each distinct pair once or as often as it comes
    (training.distinct_pairs), or one pair of each point, drawn (training.positives=one). Always as many."""
    # What counts in clean figures of the training split is the first asking of each distinct pair.
    rows = np.flatnonzero(train.clean if training.distinct_pairs else train.grade > 0)
    if training.positives == "all":
        return rows
    drawn = generator(seed, "positives", epoch).permutation(rows)
    return np.sort(drawn[np.unique(train.point_key[drawn], return_index=True)[1]])


def rate_factor(step: int, num_warmup: int, num_steps: int, schedule: str) -> float:
    """What the learning rates are multiplied by at optimizer step `step` (from 0) of `num_steps`: linear from 1/n to
    1 over the warm-up, then 1, or down to 0 on a line, or on half a cosine (Loshchilov and Hutter 2017)."""
    if step < num_warmup:
        return (step + 1) / num_warmup
    if schedule == "constant":
        return 1.0
    done = (step - num_warmup) / max(1, num_steps - num_warmup)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def embed(trainee: TrainingContext, hidden: Hidden | None = None) -> Embeddings:
    """Embed every text of the corpus once; mining, evaluation and the next epoch's negatives share the result.

    `hidden` are the pooled outputs where they are known already.
    """
    with torch.no_grad():
        trainee.model.eval()
        if hidden is None:
            total = len(trainee.index.texts if trainee.roles is None else trainee.roles.strings)
            with progress_bar("encoding", total, "text", trainee.quiet) as bar:
                h = trainee.texts.all_pooled(bar.update)
            hidden = (h, None) if trainee.roles is None else trainee.roles.of(h)
        return trainee.model.embed(*hidden)


def check_trained(embeddings: Embeddings, epoch: int) -> None:
    """Raise TrainingDiverged when an epoch has left the model unable to place texts: no figure would mean anything."""
    if not all(bool(part.isfinite().all()) for part in (embeddings.h, embeddings.point, embeddings.candidate)):
        raise TrainingDiverged(f"the model's embeddings are not finite after epoch {epoch}; {_WHAT_TO_TRY}")


@dataclass(frozen=True)
class EpochResult:
    """An epoch of training: its figures, the step reached, and the figures of every step, for trackers."""

    record: Record
    step: int
    steps: list[tuple[int, Record]]


def train_epoch(
    trainee: TrainingContext, optimizer: torch.optim.Optimizer, epoch: int, step: int, before: Embeddings
) -> EpochResult:
    """One pass over the training pairs. `before` are the embeddings before the epoch, from which hard negatives are
    mined. Raises TrainingDiverged on a loss that is not finite."""
    config, training, world = trainee.config, trainee.config.training, trainee.world
    train = trainee.splits["train"].split
    settings = config.negatives
    share = hard_share(settings.schedule, epoch, config.neg_ratio, settings.start)
    mining = Mining(settings.per_pair, settings.skip, settings.depth, settings.relative_margin)
    started = time.perf_counter()
    negative, hard = draw_negatives(trainee.pool, share, config.seed, epoch, before, train, mining)
    pairs = Pairs(np.arange(len(train)), train.point, train.counter, negative)
    rows = epoch_rows(train, training, config.seed, epoch)
    order = rows[generator(config.seed, "shuffle", epoch).permutation(len(rows))]
    torch.manual_seed(derive_seed(config.seed, "dropout", epoch, world.rank))
    num_steps = math.ceil(len(rows) / training.batch_size) * training.epochs
    num_warmup = round(training.warmup_ratio * num_steps)
    names = ("loss", *(f"loss/{part}" for part in trainee.loss.parts))
    sums, steps = torch.zeros(len(names), dtype=torch.float64), []
    waiting: tuple[AsyncCopy, int, dict[str, float]] | None = None
    work = torch.zeros(2, dtype=torch.float64)

    def read(losses: AsyncCopy, size: int, rates: dict[str, float]) -> None:
        """Losses are read one step late, so that a GPU computes while the next batch is made ready."""
        found = _finite(losses.get(), names, epoch, step - 1)
        sums.add_(found)
        means = {f"step/{name}": value for name, value in zip(names, (found / size).tolist(), strict=True)}
        steps.append((step, means | rates))
        bar.set_postfix(loss=f"{means['step/loss']:.4f}", refresh=False)

    trainee.model.train()
    with progress_bar(f"epoch {epoch}", len(rows), "pair", trainee.quiet) as bar:
        for batch in np.split(order, range(training.batch_size, len(order), training.batch_size)):
            factor = rate_factor(step, num_warmup, num_steps, training.schedule)
            losses, done = train_step(trainee, optimizer, pairs.map(operator.itemgetter(batch)), factor)
            work += torch.tensor(done, dtype=torch.float64)
            if waiting is not None:
                read(*waiting)
            rates = {f"step/rate/{group['part']}": group["lr"] for group in optimizer.param_groups}
            waiting = (AsyncCopy(losses), len(batch), rates)
            step += 1
            if trainee.device.type == "cpu" and done[0] and step % HAND_BACK_STEPS == 0:
                release_memory()
            bar.update(len(batch))
        assert waiting is not None
        read(*waiting)
    seconds = time.perf_counter() - started
    num_tokens, flops = world.sum(work).tolist()
    record: Record = dict(zip(names, (sums / len(rows)).tolist(), strict=True)) | {
        "hard_share": share,
        "num_hard": int(hard[rows].sum()),
        "train_seconds": seconds,
        "pairs_per_second": len(rows) / seconds,
    }
    if num_tokens:
        record["tokens_per_second"] = num_tokens / seconds
    if flops and trainee.peak_flops is not None:
        record["flop_utilisation"] = TRAINING_FACTOR * flops / seconds / (trainee.peak_flops * world.size)
    return EpochResult(record, step, steps)


def train_step(
    trainee: TrainingContext, optimizer: torch.optim.Optimizer, pairs: Pairs, rate: float = 1.0
) -> tuple[torch.Tensor, tuple[int, float]]:
    """One optimizer step on B pairs, learning rates times `rate`. Returns loss sums and this process's work.

    The sums (1 + P,) are the total and the loss's P parts; the work is the tokens encoded and the operations of
    their forward pass. With several processes each takes its share of the pairs; gradients and sums are those of all
    of them.
    """
    training, model = trainee.config.training, trainee.model
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * rate
    own = pairs.map(trainee.world.shard)
    texts = np.concatenate([own.point, own.counter, own.negative.T.reshape(-1)])
    if trainee.roles is not None:  # a point is read twice: as what asks, and as what other points may be paired with
        assert trainee.roles.as_point is not None
        texts = np.concatenate([trainee.roles.as_point[own.point], texts])
    optimizer.zero_grad(set_to_none=True)
    spread = None
    if not len(texts):  # fewer pairs than processes: this one still takes part in what is gathered
        trained = model.encoder is not None  # then the others wait for its part of the backward pass as well
        h = torch.zeros(0, model.architecture.pooled_dim, device=trainee.device, requires_grad=trained)
    elif training.micro_batch is not None:
        h, spread = trainee.texts.pooled_cached(texts)
    else:
        h = trainee.texts.pooled(texts)
    losses = trainee.loss(_as_batch(trainee, pairs, own, h))
    (losses["total"] / len(pairs.rows)).backward()
    if spread is not None:
        spread()
    trainee.world.sum_gradients(model.parameters())
    if training.max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
    optimizer.step()
    sums = torch.stack([losses[name].detach().float() for name in ("total", *trainee.loss.parts)])
    return trainee.world.sum(sums), trainee.texts.flops(texts)


def _as_batch(trainee: TrainingContext, pairs: Pairs, own: Pairs, h: torch.Tensor) -> Batch:
    """What the loss needs of this process's `own` pairs, whose points, counters and negatives lie end to end in h;
    with roles, the points as what asks before them."""
    model, pool, world = trainee.model, trainee.pool, trainee.world
    asking = None if trainee.roles is None else h[: len(own.rows)]
    h = (h if asking is None else h[len(own.rows) :]).unflatten(0, (2 + own.negative.shape[1], len(own.rows)))
    candidate = model.as_candidates(h)
    point = candidate[0]
    if model.linear1_candidate is not None or asking is not None:
        point = model.as_points(h[0] if asking is None else asking)

    def gather(values: torch.Tensor) -> torch.Tensor:
        return world.gather(values, [len(world.share_of(pairs.rows, rank)) for rank in range(world.size)])

    def forbidden(kind: str) -> torch.Tensor:
        positions = {
            "counters": lambda: pool.counter[pairs.rows],
            "points": lambda: pool.point[pairs.rows],
            "negatives": lambda: pool.positions_of(pairs.negative),
        }[kind]()
        gathered = [world.share_of(positions, rank).reshape(-1) for rank in range(world.size)]
        mask = pool.are_forbidden(own.rows, np.concatenate(gathered))
        return to_device(mask, trainee.device)

    return Batch(
        model,
        Embeddings(h[0], point, candidate[0], asking),
        Embeddings(h[1:], candidate[1:], candidate[1:]),
        gather,
        forbidden,
    )


class AsyncCopy:
    """A small tensor on its way to the host: asked for now, behind the work under way, and waited for in `get`.

    A copy that is asked for later would wait for all that a GPU was given in between.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self.values, self.event = values, None
        if values.device.type == "cuda":
            self.values = values.to("cpu", non_blocking=True)  # into pinned memory, which torch sees to
            self.event = torch.cuda.Event()
            self.event.record()

    def get(self) -> torch.Tensor:
        """The values on the CPU."""
        if self.event is not None:
            self.event.synchronize()
        return self.values.cpu()


def _finite(losses: torch.Tensor, names: tuple[str, ...], epoch: int, step: int) -> torch.Tensor:
    """Loss sums as float64 on the CPU. Raises TrainingDiverged when their total is no number."""
    sums = losses.double()
    if not bool(torch.isfinite(sums[0])):
        shown = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, sums.tolist(), strict=True))
        raise TrainingDiverged(f"the loss is not finite at epoch {epoch}, step {step} ({shown}); {_WHAT_TO_TRY}")
    return sums


def measure_all(trainee: TrainingContext, embeddings: Embeddings) -> Record:
    """Official and clean figures of the three splits, keys like `val/top1`; the study's own where asked.

    With evaluation.rerank=all an epoch's figures are of depth 10 (docs/evaluation.md).
    """
    record: Record = {}
    scored = dead = 0
    rerank = trainee.config.evaluation.rerank
    score = scorer_of(trainee, embeddings)
    with torch.no_grad():
        for name in SPLITS:
            figures = measure_split(trainee.splits[name], embeddings, score, rerank)
            scored, dead = scored + figures.pop("num_scored"), dead + figures.pop("num_dead")
            record |= {f"{name}/{key}": value for key, value in figures.items()}
            if trainee.config.evaluation.source:
                record[f"source/{name}/top1"] = study_top1(trainee.splits[name], embeddings, score)
    record["dead_pairs"] = dead / scored if scored else 0.0
    return record


def scorer_of(trainee: TrainingContext, embeddings: Embeddings) -> PairScorer:
    """Scores pairs of the corpus's texts with the head, the fast way where the run takes it."""
    return pair_scorer(trainee.model, embeddings, trainee.config.training.fast)

"""The sentence-transformers trainer on the same triples, and its `encode`: what one would otherwise use.

Needs sentence-transformers, datasets and accelerate beside this project. Its TripletLoss has no head; dropout is
as in the setting, and in training mode.
"""

from __future__ import annotations

import resource
import tempfile
import threading
import time
from collections.abc import Callable
from queue import Queue
from typing import Any

from setting import Setting, draw_triples


def is_installed() -> bool:
    """Whether it can be imported, with what its trainer needs."""
    import importlib.util

    return all(importlib.util.find_spec(name) for name in ("sentence_transformers", "datasets", "accelerate"))


def make_model(setting: Setting, device: str = "cpu") -> Any:
    """The same encoder with mean pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    config = (
        {}
        if setting.dropout is None
        else {"hidden_dropout_prob": setting.dropout, "attention_probs_dropout_prob": setting.dropout}
    )
    encoder = Transformer(str(setting.model_directory()), max_seq_length=setting.max_tokens, config_kwargs=config)
    pooling = Pooling(encoder.get_embedding_dimension(), pooling_mode="mean")
    return SentenceTransformer(modules=[encoder, pooling], device=device)


def training(
    setting: Setting, num_steps: int, device: str = "cpu", cached: int | None = None
) -> Callable[[int | None], float]:
    """A function that takes the trainer's next step and returns its seconds; of None, peak memory in GB. With `cached`
    its in-batch loss with gradient caching, so many texts at a time, instead of the triplet loss.

    The trainer runs in a thread of its own and waits at each step's end until it is asked for the next.
    """
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        TripletDistanceMetric,
        TripletLoss,
    )
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback

    table = setting.table()
    batches = draw_triples(table, setting.batch_size, num_steps, setting.seed)
    columns = zip(("anchor", "positive", "negative"), zip(*batches, strict=True), strict=True)
    dataset = Dataset.from_dict({name: [table.texts[i] for batch in role for i in batch] for name, role in columns})
    go: Queue[None] = Queue()
    done: Queue[float | BaseException] = Queue()

    class Turns(TrainerCallback):
        """Waits before each step, reports after it."""

        started = 0.0

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            go.get()
            self.started = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            done.put(time.perf_counter() - self.started)
            go.get()
            self.started = time.perf_counter()

    def in_order(rows: Any, batch_size: int, drop_last: bool, **kwargs: Any) -> Any:
        from sentence_transformers.base.sampler import DefaultBatchSampler

        return DefaultBatchSampler(SequentialSampler(rows), batch_size=batch_size, drop_last=drop_last)

    def run() -> None:
        try:
            with tempfile.TemporaryDirectory() as directory:
                given = SentenceTransformerTrainingArguments(
                    output_dir=directory,
                    num_train_epochs=1,
                    per_device_train_batch_size=setting.batch_size,
                    batch_sampler=in_order,
                    save_strategy="no",
                    logging_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    use_cpu=device == "cpu",
                    learning_rate=2e-5,
                    seed=setting.seed,
                    bf16=setting.precision == "bf16",
                )
                model = make_model(setting, device)
                if cached is None:
                    loss = TripletLoss(model, distance_metric=TripletDistanceMetric.EUCLIDEAN, triplet_margin=1.0)
                else:
                    loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=cached)
                SentenceTransformerTrainer(
                    model=model, args=given, train_dataset=dataset, loss=loss, callbacks=[Turns()]
                ).train()
        except BaseException as error:
            done.put(error)

    threading.Thread(target=run, daemon=True).start()

    def step(index: int | None) -> float:
        if index is None:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        go.put(None)
        answer = done.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return step


def encoding(setting: Setting, device: str = "cpu") -> Callable[[list[str]], float]:
    """A function that encodes texts and returns the seconds that took."""
    model = make_model(setting, device)
    if setting.precision == "bf16":
        model = model.bfloat16()

    def encode(texts: list[str]) -> float:
        started = time.perf_counter()
        model.encode(texts, show_progress_bar=False)
        return time.perf_counter() - started

    return encode


def plain_training(setting: Setting, num_steps: int, device: str = "cpu") -> Callable[[int | None], float]:
    """As `training`, by a plain loop in place of the trainer, which needs datasets: same model, loss and triples."""
    import torch
    from sentence_transformers.sentence_transformer.losses import TripletDistanceMetric, TripletLoss

    model = make_model(setting, device).train()
    loss_of = TripletLoss(model, distance_metric=TripletDistanceMetric.EUCLIDEAN, triplet_margin=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
    texts = setting.table().texts
    batches = draw_triples(setting.table(), setting.batch_size, num_steps, setting.seed)

    def step(index: int | None) -> float:
        if index is None:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        started = time.perf_counter()
        features = []
        for role in batches[index]:
            tokens = model.preprocess([texts[row] for row in role])
            features.append({key: value.to(device) for key, value in tokens.items() if torch.is_tensor(value)})
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=setting.precision == "bf16"):
            loss = loss_of(features, None)
        loss.backward()
        optimizer.step()
        loss.item()
        return time.perf_counter() - started

    return step

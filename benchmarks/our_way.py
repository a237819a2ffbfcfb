"""The program's own training step, encoding and ranking, through the parts that a run builds."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from setting import Setting, draw_triples

from biencoder_ablate.encoder.pretrained import load_tokenizer
from biencoder_ablate.encoder.texts import CachedTexts, EncodedTexts, plain_encoder
from biencoder_ablate.encoder.tokens import tokenize
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.model.biencoder import BiEncoder
from biencoder_ablate.training.loop import Pairs, TrainingContext, embed, make_optimizer, measure_all, train_step
from biencoder_ablate.training.negatives import build_pool, draw_negatives
from biencoder_ablate.training.plan import Components, architecture_of, build_components, make_loss, make_plan
from biencoder_ablate.utils.console import RunLog
from biencoder_ablate.utils.distributed import World


def build(setting: Setting, without: str = "", contrastive: bool = False, **training: object) -> Components:
    """The parts of a run of this setting, `without` one thing that makes it fast: see WITHOUT."""
    assert without in ("", *WITHOUT)
    config = (setting.contrastive if contrastive else setting.config)(save_model=False, **training)
    parts = build_components(make_plan(config), RunLog(None, quiet=True), World())
    texts = parts.context.texts
    if without in ("two threads", "packing"):
        assert isinstance(texts, EncodedTexts)
        texts.threads = None
        if without == "packing":
            texts.encode_group = plain_encoder(texts.module, config.model.pooling)
    return parts


WITHOUT = ("two threads", "packing")
"""What `build` can leave out. Without packing, texts of similar length are padded together, on one thread at a time."""


def training(
    setting: Setting, num_steps: int, device: str = "cpu", contrastive: bool = False, **options: object
) -> Callable[[int | None], float]:
    """A function that takes training step number i and returns its seconds; of None, peak memory in GB."""
    parts = build(setting, device=device, contrastive=contrastive, **options)  # type: ignore[arg-type]
    context = parts.context
    optimizer = make_optimizer(context.model, context.config)
    batches = draw_triples(context.index, setting.batch_size, num_steps, setting.seed)
    context.model.train()

    def step(index: int | None) -> float:
        if index is None:
            return peak_gigabytes()
        started = time.perf_counter()
        losses, _ = train_step(context, optimizer, as_pairs(batches[index]))
        losses.tolist()
        return time.perf_counter() - started

    return step


def peak_gigabytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def as_pairs(triples: np.ndarray) -> Pairs:
    """Triples (3, B) as the pairs of a step."""
    point, counter, negative = triples
    return Pairs(np.arange(len(point)), point, counter, negative[:, None])


def encoding(setting: Setting, device: str = "cpu", **options: object) -> Callable[[list[str]], float]:
    """A function that encodes texts, tokenising included, and returns the seconds that took."""
    parts = build(setting, device=device, **options)
    source, tokenizer = parts.context.texts, load_tokenizer(setting.model_directory(), setting.max_tokens)
    assert isinstance(source, EncodedTexts)

    def encode(texts: list[str]) -> float:
        started = time.perf_counter()
        tokens = tokenize(tokenizer, texts, setting.max_tokens)
        replace(source, tokens=tokens).all_pooled().cpu()
        return time.perf_counter() - started

    return encode


def ranking(setting: Setting, fast: bool = True) -> Callable[[object], float]:
    """A function that mines a hard negative for every pair, ranks all splits, and returns the seconds that took."""
    table = setting.table()
    width = json.loads((setting.model_directory() / "config.json").read_text("utf-8"))["hidden_size"]
    random = torch.Generator().manual_seed(setting.seed)
    texts = CachedTexts(torch.randn(len(table.texts), width, generator=random))
    config = setting.config(fast=fast)
    context = TrainingContext(
        config,
        BiEncoder(architecture_of(config, width)),
        texts,
        table,
        {name: build_task(split) for name, split in table.splits.items()},
        build_pool(table.splits["train"]),
        make_loss(config),
        torch.device("cpu"),
        quiet=True,
    )

    def rank(_: object) -> float:
        embeddings = embed(context)
        started = time.perf_counter()
        draw_negatives(context.pool, 1.0, config.seed, 0, embeddings, table.splits["train"])
        measure_all(context, embeddings)
        return time.perf_counter() - started

    return rank

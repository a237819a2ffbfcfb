"""What every way under test is given: one corpus, one encoder, one list of triples, one set of lengths.

B triples of a batch, T distinct texts of the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from biencoder_ablate.config.schema import (
    Config,
    DataConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    TrainingConfig,
    cache_directory,
)
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.data.text_table import TextTable, build_table
from biencoder_ablate.encoder.pretrained import MINILM_NAME, find_model


@dataclass(frozen=True)
class Setting:
    """One measurement. `dropout` is the probability in training, null for the checkpoint's own."""

    data: str | None
    model: str = MINILM_NAME
    max_tokens: int = 512
    batch_size: int = 8
    dropout: float | None = 0.0
    cache_dir: str | None = None
    seed: int = 0
    precision: str = "fp32"

    def config(self, **training: object) -> Config:
        """The program's own config of it: the study recipe, which the direct way computes as well."""
        return Config(
            data=DataConfig("arguana", self.data) if self.data else DataConfig(),
            model=ModelConfig("minilm", self.model, max_tokens=self.max_tokens, dropout=self.dropout),
            head=HeadConfig("linear", "layernorm", "relu", "after_linear2"),
            training=TrainingConfig(batch_size=self.batch_size, precision=self.precision, **training),  # type: ignore[arg-type]
            seed=self.seed,
            cache_dir=self.cache_dir,
        )

    def contrastive(self, **training: object) -> Config:
        """The same with the contrastive loss, on the encoder's own output: what other libraries' losses compute too."""
        study = self.config(**training)
        loss = LossConfig(
            "contrastive",
            temperature=0.05,
            retrieval=1.0,
            head=0.0,
            in_batch_counters=True,
            in_batch_points=False,
            in_batch_negatives=True,
        )
        own = {"towers": "separate", "similarity": "cosine", "retrieval_dim": None, "projection_init": "identity"}
        return replace(study, loss=loss, model=replace(study.model, **own))

    def table(self) -> TextTable:
        return build_table(load_corpus(self.config().data))

    def model_directory(self) -> Path:
        config = self.config()
        return find_model(config.model, cache_directory(config)).directory


def draw_triples(table: TextTable, batch_size: int, num: int, seed: int) -> list[np.ndarray]:
    """`num` batches of text indices, each (3, B): points, counters and uniform negatives of the training split."""
    random = np.random.default_rng(seed)
    train = table.splits["train"]
    texts = np.concatenate([train.point, train.counter])
    batches = []
    for _ in range(num):
        rows = random.choice(len(train), min(batch_size, len(train)), replace=False)
        batches.append(np.stack([train.point[rows], train.counter[rows], random.choice(texts, len(rows))]))
    return batches

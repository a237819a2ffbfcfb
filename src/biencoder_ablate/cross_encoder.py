"""The trained head as a re-ranker of sentence-transformers: CrossEncoder("OUT/run", trust_remote_code=True).

`biencoder_ablate.export` writes OUT/run. The library imports this class from the installed package by its name; the
directory itself holds no code. B pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule

import biencoder_ablate
from biencoder_ablate.api import TrainedModel


class PairScore(InputModule):
    """Scores pairs (point, candidate) as stage 2 does: logit₁ − logit₀, with evaluation.score=sum the similarity added.
    With activation_fn=torch.nn.Sigmoid() `predict` gives P(class 1), for evaluation.score=head."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.model = model
        self.biencoder = model.biencoder
        self.tokenizer = model.encoder.tokenizer

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """The pairs as they are: each text is encoded by itself."""
        return {"pairs": [(str(point), str(candidate)) for point, candidate in inputs]}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """`scores` (B, 1)."""
        points, candidates = zip(*features["pairs"], strict=True)
        scores = torch.from_numpy(self.model.score(points, candidates))
        return features | {"scores": scores[:, None]}

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("copy the exported directory as it is")

    @classmethod
    def load(cls, model_name_or_path: str, *args: Any, **kwargs: Any) -> PairScore:
        """The head of an export, on the device of its settings. Raises ConfigError."""
        return cls(biencoder_ablate.load(model_name_or_path))

"""Where the pooled outputs of texts come from: an encoder that is being trained, or a cache of a frozen one.

T texts of a corpus, B of them at a time, H pooled width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from biencoder_ablate.data.tokens import Tokens
from biencoder_ablate.files import whole_file
from biencoder_ablate.model.encoding import EncodeFunction, encode_rows
from biencoder_ablate.model.flops import forward_flops

Advance = Callable[[int], None]


class TextSource(Protocol):
    """Pooled outputs of texts by number."""

    def hidden(self, rows: np.ndarray) -> torch.Tensor:
        """h (B, H) of the texts `rows`, with gradients where the encoder is trained."""

    def all_hidden(self, advance: Advance | None = None) -> torch.Tensor:
        """h (T, H) of every text, in eval mode and without gradients."""

    def work(self, rows: np.ndarray) -> tuple[int, float]:
        """(tokens, operations) of a forward pass over the texts `rows`; nothing where they come from a cache."""


class EncodedTexts:
    """Texts run through the encoder each time."""

    def __init__(
        self,
        module: nn.Module,
        encode_group: EncodeFunction,
        tokens: Tokens,
        device: torch.device,
        precision: str,
        train_token_budget: int,
        eval_token_budget: int,
    ) -> None:
        self.module = module
        self.encode_group = encode_group
        self.tokens = tokens
        self.device = device
        self.precision = precision
        self.train_token_budget = train_token_budget
        self.eval_token_budget = eval_token_budget

    def _run(self, rows: np.ndarray, budget: int, advance: Advance | None = None) -> torch.Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            return encode_rows(self.encode_group, self.tokens, rows, budget, self.device, advance).float()

    def hidden(self, rows: np.ndarray) -> torch.Tensor:
        return self._run(rows, self.train_token_budget)

    def all_hidden(self, advance: Advance | None = None) -> torch.Tensor:
        return self.eval_hidden(np.arange(len(self.tokens)), advance)

    def eval_hidden(self, rows: np.ndarray, advance: Advance | None = None) -> torch.Tensor:
        """h (B, H) of the texts `rows`, in eval mode and without gradients."""
        was_training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                return self._run(rows, self.eval_token_budget, advance)
        finally:
            self.module.train(was_training)

    def work(self, rows: np.ndarray) -> tuple[int, float]:
        lengths = self.tokens.lengths[rows]
        return int(lengths.sum()), forward_flops(self.module.config, lengths)


class CachedTexts:
    """Texts whose pooled outputs (T, H) are known: the frozen encoder's."""

    def __init__(self, features: torch.Tensor) -> None:
        self.features = features

    def hidden(self, rows: np.ndarray) -> torch.Tensor:
        return self.features[torch.from_numpy(rows).to(self.features.device)]

    def all_hidden(self, advance: Advance | None = None) -> torch.Tensor:
        return self.features

    def work(self, rows: np.ndarray) -> tuple[int, float]:
        return 0, 0.0


def features_path(directory: Path, *determined_by: str | int) -> Path:
    """The file in the cache directory that holds features determined by these values."""
    text = " ".join(map(str, ("features-1", *determined_by)))
    return directory / "features" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"


def load_features(path: Path) -> np.ndarray | None:
    """Features (T, H) saved earlier, or None where there are none that can be read."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def save_features(path: Path, features: np.ndarray) -> None:
    """Keep features (T, H), whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, "wb") as file:
        np.save(file, features, allow_pickle=False)

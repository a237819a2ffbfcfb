"""The direct way, as the source study's scripts went about it: what one writes first, and a baseline to beat.

Texts are tokenised in the training loop and padded to the longest of their role; points, counters and negatives
go through the encoder in three calls; distances and scores are worked out one pair to a Python call. Dropout is
off, as it was there: the encoder stays in the evaluation mode in which it is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from setting import Setting, draw_triples
from torch import nn
from transformers import AutoTokenizer, BertModel


class DirectModel(nn.Module):
    """BERT, linear1 and a head over [r_a, r_b, |r_a−r_b|, h_a, h_b, |h_a−h_b|]."""

    def __init__(self, directory: str, max_tokens: int) -> None:
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.max_tokens = max_tokens
        self.encoder = BertModel.from_pretrained(directory, add_pooling_layer=False)
        width = self.encoder.config.hidden_size
        self.linear1 = nn.Linear(width, 128)
        self.norm = nn.LayerNorm(3 * (width + 128))
        self.linear2 = nn.Linear(3 * (width + 128), 2)

    def embed(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts → h (B, H) by mean pooling and r (B, R)."""
        encoded = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        encoded = encoded.to(self.linear1.weight.device)
        hidden = self.encoder(**encoded).last_hidden_state
        weights = encoded["attention_mask"].unsqueeze(-1).float()
        h = (hidden * weights).sum(1) / weights.sum(1)
        return h, self.linear1(h)

    def classify(self, a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        (h_a, r_a), (h_b, r_b) = a, b
        features = torch.cat([r_a, r_b, (r_a - r_b).abs(), h_a, h_b, (h_a - h_b).abs()], dim=-1)
        return torch.relu(self.linear2(self.norm(features)))


def batch_loss(model: DirectModel, points: list[str], counters: list[str], negatives: list[str]) -> torch.Tensor:
    """Mean loss of B triples, as the program's: a triplet loss and two cross-entropies."""
    point, counter, negative = model.embed(points), model.embed(counters), model.embed(negatives)
    ones = torch.ones(len(points), dtype=torch.long, device=point[0].device)
    cross_entropy = nn.CrossEntropyLoss()
    return (
        nn.TripletMarginLoss(margin=1.0, p=2)(point[1], counter[1], negative[1])
        + cross_entropy(model.classify(point, counter), ones)
        + cross_entropy(model.classify(point, negative), torch.zeros_like(ones))
    )


def training(setting: Setting, num_steps: int, device: str = "cpu") -> Callable[[int], float]:
    """A function that takes training step number i and returns its seconds."""
    table = setting.table()
    batches = draw_triples(table, setting.batch_size, num_steps, setting.seed)
    model = DirectModel(str(setting.model_directory()), setting.max_tokens).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-5)

    def step(index: int) -> float:
        started = time.perf_counter()
        loss = batch_loss(model, *([table.texts[i] for i in role] for role in batches[index]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        return time.perf_counter() - started

    return step


def ranking(setting: Setting, num_points: int) -> Callable[[object], float]:
    """A function that returns the seconds of mining all negatives and ranking all splits, one pair to a Python call.

    That would take many minutes: `num_points` test points are ranked, and their seconds a pair multiplied by all
    pairs (a mined negative costs a pair what stage 1 does). Embeddings are given; random ones do.
    """
    splits = setting.table().splits
    model = DirectModel(str(setting.model_directory()), setting.max_tokens)
    num, width = 2 * len(splits["test"]), model.encoder.config.hidden_size
    h = torch.randn(num, width, generator=torch.Generator().manual_seed(setting.seed))
    num_texts = len({*splits["train"].point_key.tolist(), *splits["train"].counter_key.tolist()})
    num_pairs = len(splits["train"]) * num_texts + sum(2 * len(split) ** 2 for split in splits.values())

    def rank(_: object) -> float:
        with torch.no_grad():
            r = model.linear1(h)
            started = time.perf_counter()
            for point in range(num_points):
                distances = [torch.dist(r[point], r[candidate]).item() for candidate in range(num)]
                nearest = sorted(range(num), key=distances.__getitem__)[:10]
                scores = {}
                for candidate in nearest:
                    pair = [(h[row : row + 1], r[row : row + 1]) for row in (point, candidate)]
                    scores[candidate] = torch.softmax(model.classify(*pair), dim=-1)[0, 1].item()
                sorted(nearest, key=scores.__getitem__, reverse=True)
        return (time.perf_counter() - started) / (num_points * num) * num_pairs

    return rank

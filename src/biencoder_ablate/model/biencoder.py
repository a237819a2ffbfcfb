"""The bi-encoder: one text encoder for points and counters, retrieval embeddings, and a head over pairs.

B texts or pairs, L tokens, H pooled width, R retrieval width, F features of a pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biencoder_ablate.config import ConfigError, registry
from biencoder_ablate.model.heads import PairHead, head_score
from biencoder_ablate.utils.seeding import derive_seed

FUSION_PARTS = {"concat": ("r", "h"), "pooled": ("h",), "retrieval": ("r",)}
"""The embeddings of a text that the head sees, by fusion."""


@dataclass(frozen=True)
class Architecture:
    """What a bi-encoder is made of beside its encoder, in plain values; goes into biencoder.json.

    `head_options` are the keyword arguments of the registered head `head`.
    """

    pooled_dim: int
    retrieval_dim: int | None = None
    towers: str = "shared"
    similarity: str = "euclidean"
    projection_init: str = "random"
    head_init: str = "random"
    fusion: str = "concat"
    head: str = "linear"
    head_options: Mapping[str, Any] = field(default_factory=dict)
    score: str = "head"

    @property
    def retrieval_width(self) -> int:
        """R; as wide as h where no retrieval_dim is given."""
        return self.retrieval_dim or self.pooled_dim

    @property
    def feature_widths(self) -> tuple[int, ...]:
        """The widths of the parts that the head sees of each text, in their order."""
        widths = {"r": self.retrieval_width, "h": self.pooled_dim}
        return tuple(widths[part] for part in FUSION_PARTS[self.fusion])


@dataclass(frozen=True)
class Embeddings:
    """Of B texts: pooled outputs h (B, H), and retrieval embeddings (B, R) as a point, which asks, and as a
    candidate, which is ranked. With shared towers the two are one tensor. `h_asking` (B, H) is h as a point where
    prompts make it another; then `h` is as a candidate."""

    h: Tensor
    point: Tensor
    candidate: Tensor
    h_asking: Tensor | None = None

    @property
    def h_point(self) -> Tensor:
        """h as a point (B, H)."""
        return self.h if self.h_asking is None else self.h_asking


class BiEncoder(nn.Module):
    """encoder: texts → h (B, H); linear1: h → r (B, R); head: pairs → logits.

    The encoder is a plain model of transformers held as a submodule, or None where it is frozen and h comes from a
    cache. With `towers=shared` there is one linear1, none where retrieval_dim is None; with `separate` a text that is
    ranked has one of its own, linear1_candidate. With `score=sum` stage 2 adds the similarity, its weight a parameter
    that begins at `similarity_weight`. An identity projection is h + linear1(h), linear1 begun at zero.

    Raises ConfigError for a head's unknown options, and for an identity projection between different widths.
    """

    def __init__(
        self,
        architecture: Architecture,
        encoder: Any | None = None,
        seed: int = 0,
        similarity_weight: float = 1.0,
    ) -> None:
        super().__init__()
        assert encoder is None or encoder.config.hidden_size == architecture.pooled_dim
        self.architecture = architecture
        self.encoder = encoder
        # Each projection and the head draw from a stream of their own: for a seed they are equal across head variants.
        with torch.random.fork_rng(devices=[]):
            self.linear1 = self._projection(seed, "linear1")
            self.linear1_candidate = None
            if architecture.towers == "separate":
                self.linear1_candidate = self._projection(seed, "linear1_candidate")
            torch.manual_seed(derive_seed(seed, "weights", "head"))
            self.head = registry.make(
                "heads", "head", architecture.head, architecture.head_options, architecture.feature_widths
            )
        if not isinstance(self.head, PairHead):
            raise ConfigError(f"head.name={architecture.head}: not a head; must be a subclass of model.heads.PairHead")
        if architecture.head_init == "zero":
            self.head.zero_init()
        if architecture.score == "sum":
            self.similarity_weight = nn.Parameter(torch.tensor(similarity_weight))

    def _projection(self, seed: int, name: str) -> nn.Module:
        """h → r with its initial weights; nothing to train where both towers see h itself."""
        shape = self.architecture
        if shape.retrieval_dim is None and shape.towers == "shared":
            return nn.Identity()
        torch.manual_seed(derive_seed(seed, "weights", name))
        projection = nn.Linear(shape.pooled_dim, shape.retrieval_width)
        if shape.projection_init == "identity":
            if shape.retrieval_width != shape.pooled_dim:
                raise ConfigError(
                    f"model.retrieval_dim={shape.retrieval_dim}: model.projection_init=identity needs the encoder's "
                    f"own width; must be null or {shape.pooled_dim}"
                )
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)
        return projection

    def embed(self, h: Tensor, h_asking: Tensor | None = None) -> Embeddings:
        """h (B, H), and where it is another h as points (B, H) → the texts' retrieval embeddings in both roles."""
        candidate = self.as_candidates(h)
        if self.linear1_candidate is None and h_asking is None:
            return Embeddings(h, candidate, candidate)
        h_point = h if h_asking is None else h_asking
        return Embeddings(h, self.as_points(h_point), candidate, h_asking)

    def as_points(self, h: Tensor) -> Tensor:
        """h (…, H) → r (…, R) of texts that ask; of unit length where similarity is cosine."""
        return self._projected(h, self.linear1)

    def as_candidates(self, h: Tensor) -> Tensor:
        """h (…, H) → r (…, R) of texts that are ranked; of unit length where similarity is cosine."""
        return self._projected(h, self.linear1_candidate or self.linear1)

    def _projected(self, h: Tensor, projection: nn.Module) -> Tensor:
        r = projection(h)
        if self.architecture.projection_init == "identity" and isinstance(projection, nn.Linear):
            # The projection is what is added, so that a decay of its weights leads back to the encoder's own space.
            r = h + r
        return F.normalize(r, dim=-1) if self.architecture.similarity == "cosine" else r

    def similarity(self, point: Tensor, candidate: Tensor) -> Tensor:
        """Of embeddings (…, R), a point by a candidate: their cosine, or minus their Euclidean distance (…,)."""
        if self.architecture.similarity == "cosine":
            return (point * candidate).sum(-1)
        return -(point - candidate).square().sum(-1).clamp_min(1e-12).sqrt()

    def all_similarities(self, points: Tensor, candidates: Tensor) -> Tensor:
        """Of every one of points (B, R) to every one of candidates (C, R): (B, C)."""
        if self.architecture.similarity == "cosine":
            return points @ candidates.T
        # A large part that all embeddings have in common would cost the digits of small distances.
        centre = candidates.detach().mean(dim=0)  # (R,)
        return -torch.cdist(points - centre, candidates - centre)

    def pair_score(self, logits: Tensor, point: Tensor, candidate: Tensor) -> Tensor:
        """What stage 2 ranks by (…,), float32: the head's score, and with score=sum the similarity with it."""
        score = head_score(logits)
        if self.architecture.score == "sum":
            score = score + self.similarity_weight * self.similarity(point, candidate)
        return score

    def logits(self, h_a: Tensor, r_a: Tensor, h_b: Tensor, r_b: Tensor) -> Tensor:
        """Pairs (a asks, b is ranked) given by h and r of both (…, H), (…, R) → logits (…, 2)."""
        return self.head(fuse(self.architecture.fusion, h_a, r_a, h_b, r_b))


def fuse(fusion: str, h_a: Tensor, r_a: Tensor, h_b: Tensor, r_b: Tensor) -> Tensor:
    """Features (…, F) of pairs. concat: [r_a, r_b, |r_a−r_b|, h_a, h_b, |h_a−h_b|]; pooled and retrieval: the h and
    the r parts."""
    parts = {"r": (r_a, r_b), "h": (h_a, h_b)}
    features = []
    for name in FUSION_PARTS[fusion]:
        a, b = parts[name]
        features += [a, b, (a - b).abs()]
    return torch.cat(features, dim=-1)

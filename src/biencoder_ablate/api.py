"""A trained model in use: embeddings of texts, scores of pairs, the best of a corpus. `biencoder_ablate.load` gives it.

What is loaded is never executed: weights are safetensors, what goes with them is JSON, a run's settings are YAML read
as plain values, and a head of one's own comes from an installed package alone.

B points or pairs, C candidates, D distinct strings among them, H pooled width, R retrieval width, k kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from biencoder_ablate.data.corpus import text_key
from biencoder_ablate.evaluation.candidates import as_candidates
from biencoder_ablate.evaluation.distances import Targets, check_finite, distances_to, first_k, make_targets
from biencoder_ablate.evaluation.pair_scores import pair_scorer
from biencoder_ablate.evaluation.ranking import Stage1, rerank
from biencoder_ablate.model.biencoder import BiEncoder
from biencoder_ablate.model.texts import Advance, TextEncoder
from biencoder_ablate.trained_run import TrainedRun

BLOCK_FLOATS = 16_000_000
"""So many distances at a time (64 MB)."""


@dataclass(frozen=True)
class Answers:
    """The best candidates of B points in their final order, the head's first and then by distance; each array (B, k).

    candidate: its place in the corpus, −1 where a point has fewer than k. distance: Euclidean, in retrieval space.
    score: what stage 2 ranks by, logit₁ − logit₀ (with evaluation.score=sum the similarity in it); NaN where only
    stage 1 ranked. dead: whether a ReLU has left both logits at zero, so that the head says nothing of the pair.
    """

    candidate: np.ndarray
    distance: np.ndarray
    score: np.ndarray
    dead: np.ndarray


@dataclass(frozen=True)
class Index:
    """A corpus ready to be searched: its D distinct strings, where each of the C candidates lies among them (C,), a
    hash of what makes each the text it is (D,), h (D, H), and what distances are measured to (D, R)."""

    texts: Sequence[str]
    place: np.ndarray
    keys: np.ndarray
    h: torch.Tensor
    targets: Targets

    def __len__(self) -> int:
        return len(self.place)

    def equal_to(self, text: str) -> np.ndarray:
        """Which of the distinct strings (D,) are equal to a text, after folding case, space and punctuation."""
        own, equal = text_key(text), self.keys == key_hash(text)
        equal[equal] = [text_key(self.texts[place]) == own for place in np.flatnonzero(equal).tolist()]
        return equal


@dataclass(frozen=True)
class TrainedModel:
    """A finished run's model. Texts are taken as they are, behind the run's own prompts where it has some, and cut at
    its max_tokens; a single string is a list of one. Everything comes back as numpy arrays, on the CPU.

    `rerank` is how far stage 2 goes (evaluation.rerank: a number, all or none).
    """

    name: str
    encoder: TextEncoder
    biencoder: BiEncoder
    rerank: int | str = 10

    def encode_points(self, texts: str | Sequence[str]) -> np.ndarray:
        """r (B, R) float32 of texts that ask; of unit length where the run's similarity is cosine."""
        with torch.no_grad():
            return self.biencoder.as_points(self.hidden_points(texts)).cpu().numpy()

    def encode_candidates(self, texts: str | Sequence[str]) -> np.ndarray:
        """r (B, R) float32 of texts that are ranked. With towers=shared the same as `encode_points`."""
        with torch.no_grad():
            return self.biencoder.as_candidates(self.hidden_candidates(texts)).cpu().numpy()

    def score(self, points: str | Sequence[str], candidates: str | Sequence[str]) -> np.ndarray:
        """What stage 2 ranks by (B,) float32, pair by pair; a single point is scored with every candidate.

        Raises ValueError where there are not as many points as candidates.
        """
        asking, ranked = _as_list(points), _as_list(candidates)
        if len(asking) not in (1, len(ranked)):
            raise ValueError(f"{len(asking)} points with {len(ranked)} candidates: must be as many, or one point")
        with torch.no_grad():
            h = torch.cat([self.hidden_points(asking), self.hidden_candidates(ranked)])
            embeddings = self.biencoder.embed(h)
        row = torch.arange(len(ranked))
        score = pair_scorer(self.biencoder, embeddings, self.encoder.reading.fast)
        return score(row if len(asking) > 1 else torch.zeros_like(row), row + len(asking))[0].cpu().numpy()

    def index(self, corpus: Sequence[str], advance: Advance | None = None) -> Index:
        """A corpus encoded once, for many calls of `retrieve`; `advance` is told how many more texts are done."""
        return self.index_of(corpus, self.hidden_candidates(list(dict.fromkeys(corpus)), advance))

    def index_of(self, corpus: Sequence[str], h: torch.Tensor) -> Index:
        """The same from pooled outputs h (D, H) of the distinct strings, in order of first use."""
        distinct = {text: number for number, text in enumerate(dict.fromkeys(corpus))}
        place = np.array([distinct[text] for text in corpus], dtype=np.int64)
        with torch.no_grad():
            targets = make_targets(self.biencoder.as_candidates(h))
        return Index(list(distinct), place, np.array([key_hash(text) for text in distinct], dtype=np.int64), h, targets)

    def retrieve(self, points: str | Sequence[str], corpus: Sequence[str] | Index, k: int = 10) -> Answers:
        """The best k of a corpus for each point, ranked as evaluation ranks: by distance, then the first `rerank` by
        the head; equal ones in the corpus's order.

        A text never answers itself: candidates equal to the point, after folding case, space and punctuation, are
        left out. Raises ValueError for an empty corpus, and where distances or scores are not finite.
        """
        index, asking = corpus if isinstance(corpus, Index) else self.index(corpus), _as_list(points)
        if not len(index) or k < 1:
            raise ValueError(f"k={k}, {len(index)} candidates: both must be 1 or more")
        depth = {"all": len(index), "none": 0}.get(str(self.rerank), self.rerank)
        assert isinstance(depth, int)
        h = self.hidden_points(asking)
        rows = max(1, BLOCK_FLOATS // len(index))
        blocks = [
            self._retrieve(asking[start : start + rows], h[start : start + rows], index, k, depth)
            for start in range(0, len(asking), rows)
        ]
        if not blocks:
            return Answers(*(np.zeros((0, k), dtype) for dtype in (np.int64, np.float32, np.float32, bool)))
        return Answers(*(np.concatenate([getattr(block, name) for block in blocks]) for name in vars(blocks[0])))

    def _retrieve(self, points: Sequence[str], h: torch.Tensor, index: Index, k: int, depth: int) -> Answers:
        num, device = len(points), h.device
        place = torch.from_numpy(index.place).to(device)
        with torch.no_grad():
            distances = distances_to(self.biencoder.as_points(h), index.targets)
        check_finite(distances)
        for row, text in enumerate(points):
            distances[row, torch.from_numpy(index.equal_to(text)).to(device)] = torch.inf
        if len(index) > len(index.texts):
            distances = distances.index_select(1, place)
        order, distance = first_k(distances, min(len(index), max(k, depth)))
        # Only what stage 2 will score is embedded: the points, then these texts.
        kept, back = torch.unique(place[order[:, :depth].clamp_min(0)], return_inverse=True)
        number = np.zeros(len(index), dtype=np.int64)
        number[order[:, :depth].clamp_min(0).cpu().numpy()] = num + back.cpu().numpy()
        with torch.no_grad():
            embeddings = self.biencoder.embed(torch.cat([h, index.h[kept].to(h)]))
        score = pair_scorer(self.biencoder, embeddings, self.encoder.reading.fast)
        stage1 = Stage1(torch.zeros(num, dtype=torch.int64), order, distance)
        found = rerank(stage1, depth, np.arange(num), as_candidates(number), score)
        best = [of[:, :k] for of in (found.order, found.distance, found.score, found.dead)]
        return Answers(best[0], np.sqrt(best[1]), np.where(np.isfinite(best[2]), best[2], np.nan), best[3])

    def hidden_points(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Pooled outputs h (B, H) of texts that ask, on the model's device, each distinct string encoded once."""
        return self._hidden(self.encoder.reading.as_points(_as_list(texts)))

    def hidden_candidates(self, texts: str | Sequence[str], advance: Advance | None = None) -> torch.Tensor:
        """The same of texts that are ranked."""
        return self._hidden(self.encoder.reading.as_candidates(_as_list(texts)), advance)

    def _hidden(self, wanted: Sequence[str], advance: Advance | None = None) -> torch.Tensor:
        distinct = {text: number for number, text in enumerate(dict.fromkeys(wanted))}
        if not distinct:
            return torch.zeros(0, self.biencoder.architecture.pooled_dim, device=self.encoder.reading.device)
        h = self.encoder(list(distinct), advance)
        return h.index_select(0, torch.tensor([distinct[text] for text in wanted]).to(h.device))

    def fingerprint(self) -> str:
        """sha256 over what determines an embedding, for what is kept of a corpus."""
        digest = hashlib.sha256(f"{self.encoder.source.fingerprint} {self.encoder.reading}".encode())
        for name, value in self.biencoder.state_dict().items():
            digest.update(name.encode() + value.cpu().numpy().tobytes())
        return digest.hexdigest()


def _as_list(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def key_hash(text: str) -> int:
    """64 bits of what makes a text the text it is: equal where `text_key` is, and else almost never."""
    key = text_key(text).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big", signed=True)


def use(run: TrainedRun) -> TrainedModel:
    """The model of an opened run. Raises ConfigError."""
    return TrainedModel(run.name, run.encoder(), run.biencoder(), run.config.evaluation.rerank)

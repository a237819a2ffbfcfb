"""A trained model in use: embeddings of texts, scores of pairs, the best of a corpus. `biencoder_ablate.load` gives it.

`open_run` finds a finished run, and `TrainedRun.load_model` makes a `TrainedModel` of it. What is loaded is never
executed: weights are safetensors, what goes with them is JSON, a run's settings are YAML read as plain values, and a
head of one's own comes from an installed package alone.

B points or pairs, C candidates, D distinct strings among them, H pooled width, R retrieval width, k kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from biencoder_ablate.config import Config, ConfigError, DataConfig
from biencoder_ablate.config.compose import compose_command, parse_arguments, to_config
from biencoder_ablate.config.kept import escape, read_settings
from biencoder_ablate.config.schema import MEASURING_KEYS, cache_directory, check, schema_keys
from biencoder_ablate.data.candidate_choice import measured_candidates
from biencoder_ablate.data.corpus import Corpus, text_key
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.data.text_table import TextTable, points_of
from biencoder_ablate.encoder.device import choose_device, choose_precision
from biencoder_ablate.encoder.features import features_of
from biencoder_ablate.encoder.pretrained import ModelSource
from biencoder_ablate.encoder.texts import (
    Advance,
    EncodeSettings,
    Hidden,
    TextEncoder,
    encode_settings,
    open_encoder,
    prompted_texts,
)
from biencoder_ablate.evaluation.candidates import as_candidates
from biencoder_ablate.evaluation.distances import Targets, check_finite, distances_to, first_k, make_targets
from biencoder_ablate.evaluation.pair_scores import pair_scorer
from biencoder_ablate.evaluation.ranking import TopK, rerank, rerank_depth
from biencoder_ablate.model.biencoder import BiEncoder
from biencoder_ablate.model.saved import ModelSpec, encoder_source, read_model_spec, restore_biencoder
from biencoder_ablate.runs.directory import RunDirectory, find_run
from biencoder_ablate.utils.arrays import concatenate_fields
from biencoder_ablate.utils.console import RunLog, format_error
from biencoder_ablate.utils.files import Damaged, read_json

BLOCK_FLOATS = 16_000_000
"""How many distances are computed at a time (64 MB)."""


@dataclass(frozen=True)
class SearchResults:
    """The best candidates of B points in their final order, the head's first and then by distance; each array (B, k).

    candidate: its place in the corpus, −1 where a point has fewer than k. distance: Euclidean, in retrieval space.
    score: what stage 2 ranks by, logit₁ − logit₀ (with evaluation.score=sum the similarity in it); NaN where only
    stage 1 ranked. dead: whether a ReLU has left both logits at zero, so that the head says nothing of the pair.
    text: the candidate's own, empty where there is none.
    """

    candidate: np.ndarray
    distance: np.ndarray
    score: np.ndarray
    dead: np.ndarray
    text: np.ndarray


@dataclass(frozen=True)
class SearchIndex:
    """A corpus ready to be searched: its D distinct strings, where each of the C candidates lies among them (C,), a
    hash of each one's text key (D,), h (D, H), and what distances are measured to (D, R)."""

    texts: Sequence[str]
    place: np.ndarray
    keys: np.ndarray
    h: Tensor
    targets: Targets

    def __len__(self) -> int:
        return len(self.place)

    def equal_to(self, text: str) -> np.ndarray:
        """Which of the distinct strings (D,) are equal to a text, after folding case, space and punctuation."""
        key = text_key(text)
        equal = self.keys == key_hash(text)
        # Equal hashes are almost always equal keys.
        equal[equal] = [text_key(self.texts[place]) == key for place in np.flatnonzero(equal).tolist()]
        return equal


@dataclass(frozen=True, repr=False)
class TrainedModel:
    """A finished run's model. Texts are taken as they are, behind the run's own prompts where it has some, and cut at
    its max_tokens; a single string is a list of one. Everything comes back as numpy arrays, on the CPU.

    `rerank` is how far stage 2 goes (evaluation.rerank: a number, all or none).
    """

    name: str
    encoder: TextEncoder
    biencoder: BiEncoder
    rerank: int | str = 10

    def __repr__(self) -> str:
        settings = self.encoder.settings
        return f"<TrainedModel {self.name}: {self.encoder.source.name}, up to {settings.max_tokens} tokens>"

    @torch.no_grad()
    def encode_points(self, texts: str | Sequence[str]) -> np.ndarray:
        """r (B, R) float32 of texts that ask; of unit length where the run's similarity is cosine."""
        return self.biencoder.as_points(self.pooled_points(texts)).cpu().numpy()

    @torch.no_grad()
    def encode_candidates(self, texts: str | Sequence[str]) -> np.ndarray:
        """r (B, R) float32 of texts that are ranked. With towers=shared the same as `encode_points`."""
        return self.biencoder.as_candidates(self.pooled_candidates(texts)).cpu().numpy()

    @torch.no_grad()
    def score(self, points: str | Sequence[str], candidates: str | Sequence[str]) -> np.ndarray:
        """What stage 2 ranks by (B,) float32, pair by pair; a single point is scored with every candidate.

        Raises ValueError where there are not as many points as candidates.
        """
        asking, ranked = _as_list(points), _as_list(candidates)
        if len(asking) not in (1, len(ranked)):
            raise ValueError(f"{len(asking)} points with {len(ranked)} candidates: must be as many, or one point")
        h = torch.cat([self.pooled_points(asking), self.pooled_candidates(ranked)])
        score = pair_scorer(self.biencoder, self.biencoder.embed(h), self.encoder.settings.fast)

        # Row i of h is a point, row len(asking) + i a candidate; a single point is paired with all.
        rows = torch.arange(len(ranked))
        point_rows = rows if len(asking) > 1 else torch.zeros_like(rows)
        scores, _ = score(point_rows, rows + len(asking))
        return scores.cpu().numpy()

    def index(self, corpus: Sequence[str], advance: Advance | None = None) -> SearchIndex:
        """A corpus encoded once, for many calls of `retrieve`; `advance` is told how many more texts are done."""
        distinct, _ = _distinct(corpus)
        return self.index_of(corpus, self.pooled_candidates(distinct, advance))

    @torch.no_grad()
    def index_of(self, corpus: Sequence[str], h: Tensor) -> SearchIndex:
        """The same from pooled outputs h (D, H) of the distinct strings, in order of first use."""
        distinct, place = _distinct(corpus)
        keys = np.array([key_hash(text) for text in distinct], dtype=np.int64)
        targets = make_targets(self.biencoder.as_candidates(h))
        return SearchIndex(distinct, place, keys, h, targets)

    def retrieve(
        self,
        points: str | Sequence[str],
        corpus: Sequence[str] | SearchIndex,
        k: int = 10,
    ) -> SearchResults:
        """The best k of a corpus for each point, ranked as evaluation ranks: by distance, then the first `rerank` by
        the head; equal ones in the corpus's order.

        A text never answers itself: candidates equal to the point, after folding case, space and punctuation, are
        left out. Raises ValueError for an empty corpus, and where distances or scores are not finite.
        """
        index = corpus if isinstance(corpus, SearchIndex) else self.index(corpus)
        if not len(index) or k < 1:
            raise ValueError(f"k={k}, {len(index)} candidates: both must be 1 or more")

        asking = _as_list(points)
        if not asking:
            nothing = np.zeros((0, k), np.float32)
            none = nothing.astype(bool)
            return SearchResults(nothing.astype(np.int64), nothing, nothing, none, nothing.astype(object))

        # In blocks, so that memory does not grow with the number of points.
        h = self.pooled_points(asking)
        size = max(1, BLOCK_FLOATS // len(index))
        blocks = []
        for start in range(0, len(asking), size):
            block = slice(start, start + size)
            blocks.append(self._retrieve_block(asking[block], h[block], index, k))
        return concatenate_fields(blocks)

    @torch.no_grad()
    def _retrieve_block(
        self,
        points: Sequence[str],
        h: Tensor,
        index: SearchIndex,
        k: int,
    ) -> SearchResults:
        place = torch.from_numpy(index.place).to(h.device)
        distances = distances_to(self.biencoder.as_points(h), index.targets)  # (b, D)
        check_finite(distances)
        # A text never answers itself.
        for row, text in enumerate(points):
            distances[row, torch.from_numpy(index.equal_to(text)).to(h.device)] = torch.inf
        # Where no string comes twice, candidates are the distinct strings as they are.
        if len(index) > len(index.texts):
            distances = distances.index_select(1, place)  # (b, C)
        depth = rerank_depth(self.rerank, len(index))
        order, distance = first_k(distances, min(len(index), max(k, depth)))

        # Only what stage 2 scores is embedded: the b points, then the distinct texts of their first candidates.
        scored = order[:, :depth].clamp_min(0)
        texts, back = torch.unique(place[scored], return_inverse=True)
        embeddings = self.biencoder.embed(torch.cat([h, index.h[texts].to(h)]))
        embedded_as = np.zeros(len(index), dtype=np.int64)
        embedded_as[scored.cpu().numpy()] = len(points) + back.cpu().numpy()

        nearest = TopK.unscored(order, distance, stage1_rank=torch.zeros(len(points)))
        score = pair_scorer(self.biencoder, embeddings, self.encoder.settings.fast)
        best = rerank(nearest, depth, np.arange(len(points)), as_candidates(embedded_as), score)
        scores = best.score[:, :k]
        candidates = best.order[:, :k]
        found = np.array([*index.texts, ""], dtype=object)[index.place[candidates]]
        return SearchResults(
            candidates,
            np.sqrt(best.distance[:, :k]),
            np.where(np.isfinite(scores), scores, np.nan),
            best.dead[:, :k],
            np.where(candidates < 0, "", found),
        )

    def pooled_points(self, texts: str | Sequence[str]) -> Tensor:
        """Pooled outputs h (B, H) of texts that ask, on the model's device, each distinct string encoded once."""
        return self._pooled(self.encoder.settings.as_points(_as_list(texts)))

    def pooled_candidates(self, texts: str | Sequence[str], advance: Advance | None = None) -> Tensor:
        """The same of texts that are ranked."""
        return self._pooled(self.encoder.settings.as_candidates(_as_list(texts)), advance)

    def _pooled(self, strings: Sequence[str], advance: Advance | None = None) -> Tensor:
        distinct, place = _distinct(strings)
        if not distinct:
            return torch.zeros(0, self.biencoder.architecture.pooled_dim, device=self.encoder.settings.device)
        h = self.encoder(distinct, advance)
        return h.index_select(0, torch.from_numpy(place).to(h.device))

    def fingerprint(self) -> str:
        """sha256 over what determines an embedding, for what is kept of a corpus."""
        digest = hashlib.sha256(f"{self.encoder.source.fingerprint} {self.encoder.settings}".encode())
        for name, value in self.biencoder.state_dict().items():
            digest.update(name.encode() + value.cpu().numpy().tobytes())
        return digest.hexdigest()


def _as_list(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _distinct(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The distinct strings in order of first use, and where each text (B,) lies among them."""
    number_of: dict[str, int] = {}
    place = [number_of.setdefault(text, len(number_of)) for text in texts]
    return list(number_of), np.array(place, dtype=np.int64)


def key_hash(text: str) -> int:
    """64 bits of a text's key: equal where `text_key` is, and else almost never."""
    key = text_key(text).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: how it was trained, how it is to be used now, its result.json, and the contract of its weights.

    `trained_on` is the fingerprint of the corpus that it was trained on.
    """

    path: Path
    trained: Config
    config: Config
    result: Mapping[str, Any]
    trained_on: str | None
    contract: ModelSpec
    is_data_given: bool = False
    """Whether the overrides say which corpus is meant."""

    @property
    def name(self) -> str:
        """What the run is called, wherever its directory lies."""
        return str(self.result.get("name") or self.path.resolve().name)

    @property
    def warning(self) -> str:
        """What one must know before the model is used: that its head says nothing of most pairs. Else nothing."""
        dead = self.result["val"].get("dead_pairs") or 0.0
        if dead < 0.5:
            return ""
        return (
            f"the head of {self.name} says nothing of {100 * dead:.0f}% of val pairs (a ReLU has left both logits at "
            "0): distance alone ranks them"
        )

    @property
    def settings(self) -> EncodeSettings:
        """How the encoder reads texts now."""
        training = self.config.training
        device = choose_device(training.device)
        precision = choose_precision(training.precision, device)
        return replace(
            encode_settings(self.config, device, precision),
            pooling=self.contract.pooling,
            point_prompt=self.contract.point_prompt,
            candidate_prompt=self.contract.candidate_prompt,
        )

    def as_pretrained(self) -> TrainedRun:
        """The run as if its encoder had been frozen: with the encoder that it started from."""
        return replace(self, contract=replace(self.contract, copied=False))

    def source(self) -> ModelSource:
        """The encoder's files. Raises ConfigError where they are gone or have changed."""
        return encoder_source(self.path / "model", self.contract, self.config.model, cache_directory(self.config))

    def encoder(self) -> TextEncoder:
        """The run's encoder, ready for texts. Raises ConfigError as `source`."""
        return open_encoder(self.source(), self.settings)

    def features(self, texts: Sequence[str], log: RunLog) -> Tensor:
        """Pooled outputs h (B, H) of texts, prompts in them, kept in the cache. Raises ConfigError as `source`."""
        return features_of(self.source(), self.settings, texts, cache_directory(self.config), log)

    def pooled(self, table: TextTable, log: RunLog) -> Hidden:
        """h of a corpus's texts, kept likewise."""
        prompted = prompted_texts(table.texts, points_of(table), self.settings)
        return prompted.of(self.features(prompted.strings, log))

    def biencoder(self) -> BiEncoder:
        """The trained projections and head, on the device, in eval mode."""
        return restore_biencoder(self.path / "model", self.contract).to(self.settings.device)

    def corpus(self) -> tuple[Corpus, list[str]]:
        """The corpus to measure or search, and what must be said where it is not the one that the run was trained on.

        Raises ConfigError and DataError as `load_corpus`.
        """
        corpus = load_corpus(self.config.data) if self.is_data_given else self.own_corpus()
        if corpus.fingerprint == self.trained_on:
            return corpus, []
        if self.is_data_given:
            return corpus, ["not the corpus, or not the part of it, that the run's own figures are of"]
        place = self.trained.data.path or f"data={self.trained.data.name}"
        return corpus, [
            f"{place} is no longer the corpus that the run was trained on: other texts, or another file of that name, "
            "or read by another version; give data.path=… of the one that was"
        ]

    def own_corpus(self) -> Corpus:
        """What lies now where the run read its corpus, a relative path as seen from here or from where the run was
        started: the first that is still the same, or the first that can be read. Raises as `load_corpus`."""
        settings = self.trained.data
        places = [settings]
        if settings.path is not None and not settings.path.startswith(("/", "~")):
            there = _started_in(self.path, self.trained.logs_dir) / settings.path
            if there.exists():
                places.append(replace(settings, path=str(there)))

        read, errors = [], []
        for place in places:
            try:
                corpus = load_corpus(place)
            except (ValueError, OSError) as error:
                errors.append(error)
                continue
            if corpus.fingerprint == self.trained_on:
                return corpus
            read.append(corpus)
        if not read:
            raise errors[0]
        return read[0]

    def load_model(self) -> TrainedModel:
        """The run's model, ready for texts. Raises ConfigError as `source`."""
        return TrainedModel(self.name, self.encoder(), self.biencoder(), self.config.evaluation.rerank)


def _started_in(run: Path, logs_dir: str) -> Path:
    """The directory that a run was started in, as far as its own place, logs_dir/runs/NAME, tells."""
    logs = run.resolve().parent.parent
    parts = Path(logs_dir).parts
    is_below = parts and logs.parts[-len(parts) :] == parts
    return logs.parents[len(parts) - 1] if is_below else logs.parent


def open_run(run_dir: str | Path, overrides: Sequence[str]) -> TrainedRun:
    """The finished run that `run_dir` names (`find_run`), its config changed by the overrides. Raises ConfigError."""
    path = find_run(run_dir)
    manifest = read_json(path / "manifest.json") or {}
    try:
        result = RunDirectory(path).read_result()
    except Damaged as error:
        raise ConfigError(f"{error}; the command that started this run makes it anew") from error
    except OSError as error:
        raise ConfigError(
            f"{run_dir}: no result.json there; must be the directory of a finished run, logs/runs/NAME, "
            "its name, or latest"
        ) from error
    if result.get("status") != "finished":
        raise ConfigError(
            f"{run_dir}: this run has not finished (status {result.get('status')}); the command that "
            "started it goes on with it"
        )
    config_file = path / ".hydra" / "config.yaml"
    if not config_file.is_file():
        raise ConfigError(f"{config_file}: no such file; it says how the run was trained")
    model = path / "model"
    if not model.is_dir():
        raise ConfigError(f"{model}: no such directory; train the run again with training.save_model=true rerun=true")

    composed = OmegaConf.create(escape(read_settings(config_file)))
    try:
        trained = config = to_config(composed, checked=False)
    except ConfigError as error:
        raise ConfigError(f"{config_file}: {format_error(error)}") from error
    if overrides:  # composing them takes Hydra a fifth of a second
        config = to_config(_overridden(composed, overrides), checked=False)
    check(config)

    determined_by = manifest.get("determined_by")
    if not isinstance(determined_by, dict):
        determined_by = {}
    trained, config = _with_candidates(trained, config, measured_candidates(determined_by, result))
    is_data_given = any(override.lstrip("+").startswith(("data=", "data.")) for override in overrides)
    trained_on = determined_by.get("data")
    return TrainedRun(path, trained, config, result, trained_on, read_model_spec(model), is_data_given)


def _with_candidates(trained: Config, config: Config, measured: str) -> tuple[Config, Config]:
    """Both configs with the candidates that the run measured, which its own config.yaml may leave open.

    Where something else is asked for, that stands; of another reader's corpus the usual ones are taken.
    """
    asked = config.evaluation.candidates
    is_same_reader = config.data.name == trained.data.name
    if asked is None and is_same_reader:
        asked = measured
    return (
        replace(trained, evaluation=replace(trained.evaluation, candidates=measured)),
        replace(config, evaluation=replace(config.evaluation, candidates=asked)),
    )


def _overridden(composed: Any, overrides: Sequence[str]) -> Any:
    """A run's composed config with changes. Hydra reads the overrides; only keys of MEASURING_KEYS are taken."""
    keys = set()
    with compose_command(parse_arguments(list(overrides))) as command:
        for override in overrides:
            key = override.split("=", 1)[0].lstrip("+")
            group = key.split(".")[0]
            keys.add(key)
            if key not in MEASURING_KEYS and f"{group}.*" not in MEASURING_KEYS:
                raise ConfigError(
                    f"{override}: a finished run is measured, not trained anew; only {', '.join(MEASURING_KEYS)} "
                    "can be given"
                )
        new = command.base

    # Another corpus: nothing of how the run's own was read holds for it.
    is_other_corpus = "data" in keys
    if is_other_corpus:
        composed = OmegaConf.merge(composed, {"data": OmegaConf.structured(DataConfig)})

    # The overrides were composed with the defaults: only what they name is taken from there.
    changed = OmegaConf.create({})
    for key, _ in schema_keys():
        if key in keys or (is_other_corpus and key.startswith("data.")):
            OmegaConf.update(changed, key, escape(OmegaConf.select(new, key)), force_add=True)
    return OmegaConf.merge(composed, changed)

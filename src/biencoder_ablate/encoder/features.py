"""Pooled outputs h of a corpus's texts by an encoder as its files have it: cached, or encoded once.

T texts, H pooled width.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from biencoder_ablate.data.text_table import fingerprint_texts
from biencoder_ablate.encoder.pretrained import ModelSource, load_tokenizer
from biencoder_ablate.encoder.texts import EncodedTexts, EncodeSettings, back_in_order, open_encoder
from biencoder_ablate.encoder.tokens import cached_tokens, length_groups
from biencoder_ablate.utils.cache import entry_path, load_entry, load_or_make, locked_entry, save_entry
from biencoder_ablate.utils.console import RunLog, progress_bar, show_seconds
from biencoder_ablate.utils.distributed import World
from biencoder_ablate.utils.files import read_json

GROUPS_PER_PART = 16
"""So many batches of an encoding are lost at most when it is interrupted: some 15 s of MiniLM's on one core."""

MEASURED_SECONDS = 5.0
"""After so long an encoding says how long it will take."""


def features_path(
    cache: Path,
    source: ModelSource,
    settings: EncodeSettings,
    texts: Sequence[str],
) -> Path:
    """The file in the cache directory that holds the pooled outputs of these texts by this encoder."""
    determined_by: list[object] = [
        source.fingerprint,
        fingerprint_texts(texts),
        settings.pooling,
        settings.max_tokens,
        settings.precision,
        int(settings.fast) + int(settings.compiled),
    ]
    if settings.device.type != "cpu":  # each rounds in its own way
        determined_by.append(settings.device.type)
    return entry_path(cache, "features", ".npy", "features-2", *determined_by)


def load_features(path: Path, num_texts: int, width: int | None) -> np.ndarray | None:
    """Features saved earlier, or None where there are none, or none of this shape (T, H) as they were saved.

    `width`: H, where it is known beforehand.
    """

    def read(path: Path) -> np.ndarray:
        features: np.ndarray = np.load(path, allow_pickle=False)
        shape = (num_texts, width or features.shape[-1])
        if features.shape != shape or features.dtype != np.float32:
            raise ValueError(f"holds {features.dtype} {features.shape}, not float32 {shape}")
        return features

    return load_entry(path, read)


def save_features(path: Path, features: np.ndarray) -> None:
    """Keep features (T, H), whole or not at all."""
    save_entry(path, lambda file: np.save(file, features, allow_pickle=False))


def features_of(
    source: ModelSource,
    settings: EncodeSettings,
    texts: Sequence[str],
    cache: Path,
    log: RunLog,
    world: World | None = None,
) -> torch.Tensor:
    """Pooled outputs h (T, H) of texts by an encoder as its files have it: from the cache, or worked out once and kept.

    The one way from texts to features, for training, evaluate and retrieve alike. A lock makes parallel runs wait for
    the first of them instead of encoding the same texts again; an encoding that was interrupted goes on.
    """
    world = world or World()
    path = features_path(cache, source, settings, texts)
    width = (read_json(source.directory / "config.json") or {}).get("hidden_size")  # not every kind calls it so

    # Rank 0 decides for all processes whether there are features, since all must encode or none.
    features = load_features(path, len(texts), width)
    if not world.broadcast(features is not None):
        with locked_entry(path) if world.is_main else contextlib.nullcontext():
            features = load_features(path, len(texts), width)
            if not world.broadcast(features is not None):
                log.say(f"encoding {len(texts)} texts, once; kept in {path}")
                encoder = open_encoder(source, settings)
                encoded = encoder.over(encoder.tokens(texts, cache), world)
                parts = path.with_suffix(f".{encoded.eval_token_budget}.parts")  # the budget says what is in a part
                features = _encode_in_parts(encoded, parts, log, world)
                if world.is_main:
                    save_features(path, features)
                    shutil.rmtree(parts, ignore_errors=True)

    # This process may have looked a moment before they were written, and rank 0 after.
    if features is None:
        features = load_features(path, len(texts), width)
    assert features is not None
    return torch.from_numpy(features).to(settings.device)


def cut_share(source: ModelSource, texts: Sequence[str], max_tokens: int, cache: Path) -> float:
    """The share of texts that an encoder cuts at max_tokens, from 0 to 1; kept, as features need no tokens any more."""
    path = entry_path(cache, "cut", ".json", source.fingerprint, fingerprint_texts(texts), max_tokens)

    def count() -> float:
        tokenizer = load_tokenizer(source.directory, max_tokens)
        return cached_tokens(tokenizer, source.fingerprint, texts, max_tokens, cache).cut_share

    return load_or_make(
        path,
        lambda kept: float(kept.read_text("utf-8")),
        count,
        lambda share, file: file.write(f"{share!r}\n".encode()),
    )


def _encode_in_parts(encoded: EncodedTexts, directory: Path, log: RunLog, world: World) -> np.ndarray:
    """h (T, H) of all texts, so many length groups at a time, the longest texts first.

    Each part is kept in `directory` once it is done, and an interrupted encoding goes on after the last of them. Parts
    hold whole groups, so that the result is bit-equal to that of no interruption. When the first batches have shown
    how fast it goes, `log` says how long the rest will take.
    """
    lengths = encoded.tokens.lengths
    groups = length_groups(lengths, encoded.eval_token_budget)
    parts = [
        np.concatenate(groups[start : start + GROUPS_PER_PART]) for start in range(0, len(groups), GROUPS_PER_PART)
    ]
    files = [directory / f"{number:05d}.npy" for number in range(len(parts))]

    # What an interrupted encoding has left.
    features: list[np.ndarray] = []
    for part, file in zip(parts, files, strict=True):
        h = load_features(file, len(part), encoded.module.config.hidden_size)
        if h is None:
            break
        features.append(h)
    num_parts_done = world.broadcast(len(features))
    features = features[:num_parts_done]

    num_texts = len(lengths)
    num_done = sum(len(h) for h in features)
    num_tokens = np.cumsum(lengths[np.concatenate(parts)])  # (T,): of each text and those encoded before it
    if num_done:
        log.say(f"going on with an encoding that was interrupted: {num_done} of {num_texts} texts are done")
    warm: tuple[float, int] | None = None  # when the first batch, which warms up, was done, and the tokens until then
    is_said = False

    def advance(num_encoded: int) -> None:
        nonlocal num_done, warm, is_said
        bar.update(num_encoded)
        num_done = min(num_done + num_encoded * world.size, num_texts)
        now = time.perf_counter()
        tokens_done = int(num_tokens[num_done - 1])
        if warm is None:
            warm = (now, tokens_done)
            return

        began, tokens_before = warm
        if not is_said and now - began >= MEASURED_SECONDS:
            is_said = True
            seconds = (now - began) * (num_tokens[-1] - tokens_done) / (tokens_done - tokens_before)
            log.say(f"the other {num_texts - num_done} texts will take about {show_seconds(seconds)}, as the first did")

    with progress_bar("encoding", num_texts, "text", quiet=not log.bars) as bar:
        bar.initial = bar.n = num_done
        for part, file in zip(parts[num_parts_done:], files[num_parts_done:], strict=True):
            h = encoded.eval_pooled(part, advance).cpu().numpy()
            features.append(h)
            if world.is_main and len(parts) > 1:
                save_features(file, h)
    return np.concatenate(features)[back_in_order(parts)]

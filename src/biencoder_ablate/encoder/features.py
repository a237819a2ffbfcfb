"""Pooled outputs h of a corpus's texts by an encoder as its files have it: cached, or encoded once.

T texts, H pooled width.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from biencoder_ablate.data.text_table import fingerprint_texts
from biencoder_ablate.encoder.pretrained import ModelSource
from biencoder_ablate.encoder.texts import EncodedTexts, EncodeSettings, SharedTexts, back_in_order, open_encoder
from biencoder_ablate.encoder.tokens import length_groups
from biencoder_ablate.utils.console import RunLog, progress_bar, show_seconds
from biencoder_ablate.utils.distributed import World
from biencoder_ablate.utils.files import whole_file


def features_path(cache: Path, source: ModelSource, reading: EncodeSettings, texts: Sequence[str]) -> Path:
    """The file in the cache directory that holds the pooled outputs of these texts by this encoder."""
    determined_by = (
        source.fingerprint,
        fingerprint_texts(texts),
        reading.pooling,
        reading.max_tokens,
        reading.precision,
        int(reading.fast) + int(reading.compiled),
        *([] if reading.device.type == "cpu" else [reading.device.type]),  # which rounds in its own way
    )
    text = " ".join(map(str, ("features-2", *determined_by)))
    return cache / "features" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"


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


GROUPS_PER_PART = 16
"""So many batches of an encoding are lost at most when it is interrupted: some 15 s of MiniLM's on one core."""

MEASURED_SECONDS = 5.0
"""After so long an encoding says how long it will take."""


def features_of(
    source: ModelSource,
    reading: EncodeSettings,
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
    path = features_path(cache, source, reading, texts)
    features = load_features(path)
    if not world.broadcast(features is not None):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")) if world.is_main else contextlib.nullcontext():
            features = load_features(path)
            if not world.broadcast(features is not None):
                log.say(f"encoding {len(texts)} texts, once; kept in {path}")
                encoder = open_encoder(source, reading)
                encoded = encoder.over(encoder.tokens(texts, cache))
                parts = path.with_suffix(f".{encoded.eval_token_budget}.parts")  # the budget says what is in a part
                features = _encode_in_parts(encoded, parts, log, world)
                if world.is_main:
                    save_features(path, features)
                    shutil.rmtree(parts, ignore_errors=True)
    if features is None:  # rank 0 found them, and this process a moment too early did not
        features = load_features(path)
    assert features is not None
    return torch.from_numpy(features).to(reading.device)


def _encode_in_parts(encoded: EncodedTexts, directory: Path, log: RunLog, world: World) -> np.ndarray:
    """h (T, H) of all texts, so many length groups at a time, the longest texts first.

    Each part is kept in `directory` once it is done, and an interrupted encoding goes on after the last of them. Parts
    hold whole groups, so that the result is bit-equal to that of no interruption. When the first batches have shown
    how fast it goes, `log` says how long the rest will take.
    """
    lengths, shared = encoded.tokens.lengths, SharedTexts(encoded, world) if world.size > 1 else encoded
    groups = length_groups(lengths, encoded.eval_token_budget)
    parts = [np.concatenate(groups[i : i + GROUPS_PER_PART]) for i in range(0, len(groups), GROUPS_PER_PART)]
    files = [directory / f"{number:05d}.npy" for number in range(len(parts))]
    done: list[np.ndarray] = []
    for part, file in zip(parts, files, strict=True):
        h = load_features(file)
        if h is None or len(h) != len(part):
            break
        done.append(h)
    done = done[: world.broadcast(len(done))]
    rows = np.concatenate(parts)
    num_done, num_tokens = sum(map(len, done)), np.cumsum(lengths[rows])
    if done:
        log.say(f"going on with an encoding that was interrupted: {num_done} of {len(rows)} texts are done")
    began: tuple[float, int] | None = None
    is_said = False

    def advance(num_texts: int) -> None:
        nonlocal num_done, began, is_said
        bar.update(num_texts)
        num_done = min(num_done + num_texts * world.size, len(rows))
        now, tokens = time.perf_counter(), int(num_tokens[num_done - 1])
        if began is None:
            began = (now, tokens)  # the first batch warms up
        elif not is_said and now - began[0] >= MEASURED_SECONDS:
            is_said = True
            seconds = (now - began[0]) * (num_tokens[-1] - tokens) / (tokens - began[1])
            log.say(f"the other {len(rows) - num_done} texts will take about {show_seconds(seconds)}, as the first did")

    with progress_bar("encoding", len(rows), "text", log.quiet) as bar:
        bar.initial = bar.n = num_done
        for part, file in list(zip(parts, files, strict=True))[len(done) :]:
            done.append(shared.eval_pooled(part, advance).cpu().numpy())
            if world.is_main and len(parts) > 1:
                save_features(file, done[-1])
    features = np.concatenate(done)
    return features[back_in_order(parts)]

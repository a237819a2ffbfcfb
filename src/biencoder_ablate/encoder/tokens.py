"""Texts as token ids, each tokenised once, and padded batches of them. B texts, L tokens."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biencoder_ablate.data.text_table import fingerprint_texts
from biencoder_ablate.utils.files import whole_file


@dataclass(frozen=True)
class Tokens:
    """Token ids of T texts, one after another in `ids` (int32); text i is ids[offsets[i]:offsets[i+1]].

    Each has the special tokens of its encoder around it ([CLS] and [SEP] for BERT) and is cut at the encoder's
    max_tokens. `full_lengths` (T,) are the lengths before cutting.
    """

    ids: np.ndarray
    offsets: np.ndarray
    full_lengths: np.ndarray
    pad_id: int

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1


def tokenize(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> Tokens:
    """Tokenise every text once with a fast transformers tokenizer, cutting at `max_tokens` before its last special."""
    plain = {"truncation": False, "return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    rows = tokenizer(list(texts), **plain)["input_ids"] if texts else []
    full = np.array([len(row) for row in rows], dtype=np.int64)
    inside = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    last = inside[::-1].index(0) if 0 in inside else 0
    cut = [row if len(row) <= max_tokens else row[: max_tokens - last] + row[len(row) - last :] for row in rows]
    lengths = np.minimum(full, max_tokens)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.fromiter((token for row in cut for token in row), dtype=np.int32, count=int(offsets[-1]))
    return Tokens(ids, offsets, full, tokenizer.pad_token_id)


def cached_tokens(
    tokenizer: Any, tokenizer_fingerprint: str, texts: Sequence[str], max_tokens: int, directory: Path
) -> Tokens:
    """`tokenize`, kept in `directory` under what determines it; a damaged file is made anew."""
    determined_by = f"1 {tokenizer_fingerprint} {fingerprint_texts(texts)} {max_tokens}"
    path = directory / "tokens" / f"{hashlib.sha256(determined_by.encode()).hexdigest()[:32]}.npz"
    if path.exists():
        try:
            with np.load(path) as saved:
                return Tokens(saved["ids"], saved["offsets"], saved["full_lengths"], int(saved["pad_id"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            pass
    tokens = tokenize(tokenizer, texts, max_tokens)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, "wb") as file:
        np.savez(
            file,
            ids=tokens.ids,
            offsets=tokens.offsets,
            full_lengths=tokens.full_lengths,
            pad_id=np.int64(tokens.pad_id),
        )
    return tokens


def pad(tokens: Tokens, rows: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Token ids (B, L) of the texts `rows` padded to the longest, and their mask, None where nothing is padded."""
    lengths = tokens.lengths[rows]
    length = int(lengths.max())
    columns = np.arange(length)
    inside = columns[None, :] < lengths[:, None]
    flat = tokens.offsets[rows][:, None] + np.minimum(columns[None, :], lengths[:, None] - 1)
    ids = np.where(inside, tokens.ids[flat], tokens.pad_id).astype(np.int64)
    return to_device(ids, device), None if inside.all() else to_device(inside.astype(np.int64), device)


def to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array on a device; of CUDA's the host does not wait, which takes a copy in pinned memory first."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def length_groups(lengths: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Positions of `lengths` in groups of similar length, each at most `token_budget` tokens once padded.

    Sorted longest first (stable), so that memory peaks at once; every position is in exactly one group, and a
    text longer than the budget is a group by itself.
    """
    order = np.argsort(-lengths, kind="stable")
    groups, start = [], 0
    while start < len(order):
        size = max(1, token_budget // max(1, int(lengths[order[start]])))
        groups.append(order[start : start + size])
        start += size
    return groups

"""Texts as token ids, each tokenised once, and padded batches of them. B texts, L tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from biencoder_ablate.data.text_table import fingerprint_texts
from biencoder_ablate.utils.cache import entry_path, load_or_make


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

    @property
    def cut_share(self) -> float:
        """The share of texts that are cut, from 0 to 1."""
        return float((self.full_lengths > self.lengths).mean()) if len(self) else 0.0

    def __len__(self) -> int:
        return len(self.offsets) - 1


def tokenize(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> Tokens:
    """Tokenise every text once with a fast transformers tokenizer, cutting at `max_tokens` before its last special."""
    rows: list[list[int]] = []
    if texts:
        encoding = tokenizer(
            list(texts),
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        rows = encoding["input_ids"]
    full_lengths = np.array([len(row) for row in rows], dtype=np.int64)

    # A text that is cut keeps the special tokens at its end, so many as stand behind the "a" here.
    is_special = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    num_last = is_special[::-1].index(0) if 0 in is_special else 0
    for number, row in enumerate(rows):
        if len(row) > max_tokens:
            last = row[len(row) - num_last :]
            rows[number] = row[: max_tokens - num_last] + last

    lengths = np.minimum(full_lengths, max_tokens)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = itertools.chain.from_iterable(rows)
    ids = np.fromiter(flat, dtype=np.int32, count=int(offsets[-1]))
    return Tokens(ids, offsets, full_lengths, tokenizer.pad_token_id)


def cached_tokens(
    tokenizer: Any,
    tokenizer_fingerprint: str,
    texts: Sequence[str],
    max_tokens: int,
    directory: Path,
) -> Tokens:
    """`tokenize`, kept in the cache `directory` under what determines it.

    Raises OSError where it cannot be kept.
    """

    def read(path: Path) -> Tokens:
        with np.load(path) as saved:
            pad_id = int(saved["pad_id"])
            tokens = Tokens(saved["ids"], saved["offsets"], saved["full_lengths"], pad_id)
        if len(tokens) != len(texts) or len(tokens.ids) != tokens.offsets[-1]:
            raise ValueError(f"holds {len(tokens)} texts, not {len(texts)}")
        return tokens

    def write(tokens: Tokens, file: IO[bytes]) -> None:
        np.savez(file, **vars(tokens))

    determined_by = (1, tokenizer_fingerprint, fingerprint_texts(texts), max_tokens)
    path = entry_path(directory, "tokens", ".npz", *determined_by)
    return load_or_make(path, read, lambda: tokenize(tokenizer, texts, max_tokens), write)


def pad(tokens: Tokens, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Token ids (B, L) of the texts `rows` padded to the longest, and their mask, None where nothing is padded."""
    lengths = tokens.lengths[rows][:, None]  # (B, 1)
    columns = np.arange(lengths.max())[None, :]  # (1, L)
    is_token = columns < lengths  # (B, L)
    # Past its end a text reads its last token again, which padding then replaces.
    places = np.minimum(columns, lengths - 1)
    positions = tokens.offsets[rows][:, None] + places
    ids = np.where(is_token, tokens.ids[positions], tokens.pad_id).astype(np.int64)
    if is_token.all():
        return to_device(ids, device), None
    return to_device(ids, device), to_device(is_token.astype(np.int64), device)


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """An array on a device. The host does not wait for a copy to CUDA, which needs pinned memory for that."""
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def length_groups(lengths: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Positions of `lengths` in groups of similar length, each at most `token_budget` tokens once padded.

    Sorted longest first (stable), so that memory peaks at once; every position is in exactly one group, and a
    text longer than the budget is a group by itself.
    """
    order = np.argsort(-lengths, kind="stable")
    groups: list[np.ndarray] = []
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        size = max(1, token_budget // longest)
        groups.append(order[start : start + size])
        start += size
    return groups

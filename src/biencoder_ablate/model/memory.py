"""Bounds the memory of training on a CPU, where batches of ever other lengths leave gaps that glibc cannot fill."""

from __future__ import annotations

import ctypes
import os


def keep_products_of_a_step(num_texts: int) -> None:
    """Have oneDNN keep code for as many shapes of products as a step over so many texts can meet, rather than for 1024:
    six a length in attention, there and back, and those of the layers.

    It lies between activations, whose memory can then not be joined; with fewer it is made anew again and again
    (docs/performance.md). oneDNN asks the environment, which may have its own say, at its first product.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(min(1024, 64 + 6 * num_texts)))


def hand_back_freed_memory() -> bool:
    """malloc_trim(3); returns whether anything was handed back. Does nothing where the C library has no such call."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):
        return False

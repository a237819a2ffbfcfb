"""Named random streams: every draw in the program comes from (seed, name, …), never from shared state."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream `names` of a run; equal arguments give equal seeds on every machine."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """NumPy's generator for the stream `names`, e.g. generator(0, "negatives", epoch)."""
    return np.random.default_rng(derive_seed(seed, *names))

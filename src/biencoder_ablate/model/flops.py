"""How much arithmetic an encoder does, what share of a GPU's best that is (model FLOP utilisation), and what it holds.

Counted as Chowdhery et al. 2022 (PaLM, appendix B): the model's own products, one multiply-add being two
operations, without what an implementation does besides (padding, recomputation). B texts, L tokens of one, H width.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

TRAINING_FACTOR = 3
"""A backward pass takes twice the products of a forward pass."""

BF16_PEAKS = {
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989.4e12,
    "H200": 989.4e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
}
"""Dense bf16 operations a second of GPUs, from their makers' data sheets, by words of the name CUDA gives them."""


def forward_flops(config: Any, lengths: np.ndarray) -> np.ndarray:
    """Operations of a BertModel's forward pass over each text of `lengths` tokens (B,) → (B,); of an encoder of another
    kind, whose products are not counted here, zeros.

    Per layer and token 8 H² for the four projections of attention and 4 H I for the feed-forward's two, I wide;
    per layer and text 4 L² H for queries on keys and weights on values.
    """
    if config.model_type != "bert":
        return np.zeros(len(lengths))
    width, tokens = config.hidden_size, lengths.astype(np.float64)
    per_token = 8 * width**2 + 4 * width * config.intermediate_size
    return config.num_hidden_layers * (per_token * tokens + 4 * width * tokens**2)


def training_bytes(config: Any, precision: str) -> float:
    """Bytes that a token of a training step holds until its backward pass, I wide: 22 H + 4 I a layer in bf16 with
    dropout, as benchmarks/traced_step.py has it within a twentieth; up to 2.4 times that in float32."""
    a_layer = 22 * config.hidden_size + 4 * config.intermediate_size
    return config.num_hidden_layers * a_layer * (1.0 if precision == "bf16" else 2.4)


def peak_flops(device_name: str, precision: str) -> float | None:
    """Operations a second that a GPU can do at best in bf16; None in another precision or where not known."""
    if precision != "bf16":
        return None
    named = (peak for words, peak in BF16_PEAKS.items() if re.search(rf"\b{words}\b", device_name))
    return next(named, None)

"""On which device and in which precision an encoder runs."""

from __future__ import annotations

import ctypes
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from biencoder_ablate.config import ConfigError

if TYPE_CHECKING:
    import torch

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
"""What torch.cpu.get_capabilities() calls instructions that multiply bf16: the last is Arm's."""


def choose_device(asked: str, local_rank: int = 0) -> torch.device:
    """auto: cuda, else mps, else cpu; of several GPUs, the one of this process's `local_rank`, unless one is named.

    Raises ConfigError for a device that is not there.
    """
    import torch

    count = torch.cuda.device_count() if asked.startswith("cuda") or torch.cuda.is_available() else 0
    if asked == "auto":
        kind = "cuda" if count else "mps" if torch.backends.mps.is_available() else "cpu"
    else:
        kind = asked.partition(":")[0]
    if kind == "cuda":
        number = int(asked.partition(":")[2] or local_rank)
        if number >= count:
            few = f"a process each for {count} GPUs at most, " if count and local_rank >= count else ""
            raise ConfigError(
                f"training.device={asked}: there are {count} CUDA devices here; must be {few}"
                f"{'cpu or auto' if not count else f'cuda:0 to cuda:{count - 1}, cpu or auto'}"
            )
        return torch.device("cuda", number)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("training.device=mps: there is no Apple GPU here; must be cpu or auto")
    return torch.device(kind)


def choose_precision(asked: str, device: torch.device) -> str:
    """auto: bf16 where the chip computes in it natively, else fp32. Raises ConfigError for bf16 on an Apple GPU.

    That is CUDA from Ampere on, and a CPU with instructions for bf16 (`cpu_has_bf16`).
    """
    import torch

    if asked == "auto":
        if device.type == "cpu":
            native = cpu_has_bf16()
        else:
            native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    if asked == "bf16" and device.type == "mps":
        raise ConfigError("training.precision=bf16: not supported on mps here; must be fp32 or auto")
    return asked


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies matrices in bf16 natively: by AMX or AVX-512 on x86, by Arm's own instructions.

    oneDNN, which does the products, leaves these instructions unused where ONEDNN_MAX_CPU_ISA says so.
    """
    import torch

    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    if not any(name in limit for name in ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in BF16_INSTRUCTIONS)


def describe_device(device: torch.device) -> str:
    """The device in words: its type and, for a GPU, its name."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


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


def keep_step_kernels(num_texts: int) -> None:
    """Have oneDNN keep code for as many shapes of products as a step over so many texts can meet, rather than for 1024:
    six a length in attention, there and back, and those of the layers.

    It lies between activations, whose memory can then not be joined; with fewer it is made anew again and again
    (docs/performance.md). oneDNN asks the environment, which may have its own say, at its first product.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(min(1024, 64 + 6 * num_texts)))


def release_memory() -> bool:
    """malloc_trim(3); returns whether anything was handed back. Does nothing where the C library has no such call."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):
        return False

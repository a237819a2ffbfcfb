"""The device an encoder runs on: which one, in which precision, how much work it does there, and in how much memory.

B texts, L tokens of a text, H hidden width, I width of the feed-forward.
"""

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
"""Dense bf16 operations a second of GPUs, from their makers' data sheets, by words of the name CUDA gives them. Of two
that fit the first counts."""

TRAINING_FACTOR = 3
"""A step takes so many times the products of a forward pass: its backward pass takes twice as many."""


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device that training.device names. auto: cuda, else mps, else cpu.

    Of several GPUs it is the one of this process's `local_rank`, unless one is named. Raises ConfigError for a device
    that is not there.
    """
    import torch

    kind, _, number = name.partition(":")
    num_gpus = 0
    if kind == "cuda" or torch.cuda.is_available():
        num_gpus = torch.cuda.device_count()
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        kind = "mps" if has_mps else "cpu"
        if num_gpus:
            kind = "cuda"

    if kind == "cuda":
        index = int(number or local_rank)
        if index >= num_gpus:
            remedy = "cpu or auto"
            if num_gpus:
                remedy = f"cuda:0 to cuda:{num_gpus - 1}, {remedy}"
                if local_rank >= num_gpus:
                    remedy = f"a process each for {num_gpus} GPUs at most, {remedy}"
            raise ConfigError(f"training.device={name}: there are {num_gpus} CUDA devices here; must be {remedy}")
        return torch.device("cuda", index)
    if kind == "mps" and not has_mps:
        raise ConfigError("training.device=mps: there is no Apple GPU here; must be cpu or auto")
    return torch.device(kind)


def describe_device(device: torch.device) -> str:
    """The device in words: its type and, for a GPU, its name."""
    import torch

    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


def choose_precision(name: str, device: torch.device) -> str:
    """The precision that training.precision names. auto: bf16 where the chip computes in it natively, else fp32.

    That is CUDA from Ampere on, and a CPU with instructions for bf16 (`cpu_has_bf16`). Raises ConfigError for bf16 on
    an Apple GPU.
    """
    import torch

    if name == "bf16" and device.type == "mps":
        raise ConfigError("training.precision=bf16: not supported on mps here; must be fp32 or auto")
    if name != "auto":
        return name
    is_native = False
    if device.type == "cpu":
        is_native = cpu_has_bf16()
    elif device.type == "cuda":
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if is_native else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies matrices in bf16 natively: by AMX or AVX-512 on x86, by Arm's own instructions.

    oneDNN, which does the products, leaves these instructions unused where ONEDNN_MAX_CPU_ISA says so.
    """
    import torch

    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    if not any(name in limit for name in ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")):
        return False
    if not hasattr(torch.cpu, "get_capabilities"):  # before torch 2.13 it may be missing
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in BF16_INSTRUCTIONS)


def peak_flops(device_name: str, precision: str) -> float | None:
    """Operations a second that a GPU can do at best in bf16; None in another precision or where not known."""
    if precision == "bf16":
        for words, peak in BF16_PEAKS.items():
            if re.search(rf"\b{words}\b", device_name):
                return peak
    return None


def forward_flops(config: Any, lengths: np.ndarray) -> np.ndarray:
    """Operations of a BertModel's forward pass over each text of `lengths` tokens (B,) → (B,); of an encoder of another
    kind, whose products are not counted here, zeros.

    Per layer and token 8 H² for the four projections of attention and 4 H I for the feed-forward's two; per layer and
    text 4 L² H for queries on keys and weights on values.
    """
    if config.model_type != "bert":
        return np.zeros(len(lengths))
    width = config.hidden_size
    tokens = lengths.astype(np.float64)
    per_token = 8 * width**2 + 4 * width * config.intermediate_size
    return config.num_hidden_layers * (per_token * tokens + 4 * width * tokens**2)


def training_bytes(config: Any, precision: str) -> float:
    """Bytes that a token of a training step holds until its backward pass: 22 H + 4 I a layer in bf16 with dropout, as
    benchmarks/traced_step.py has it within a twentieth; up to 2.4 times that in float32."""
    per_layer = 22 * config.hidden_size + 4 * config.intermediate_size
    return config.num_hidden_layers * per_layer * (1.0 if precision == "bf16" else 2.4)


def keep_step_kernels(num_texts: int) -> None:
    """Have oneDNN keep code for as many shapes of products as a step over so many texts can meet, rather than for 1024.

    The code lies between activations, whose memory can then not be joined; with less of it kept, it is made anew again
    and again (docs/performance.md). oneDNN reads the environment at its first product; what a user has set there stays.
    """
    # Of each length six in attention, there and back, and those of the layers.
    num_shapes = min(1024, 64 + 6 * num_texts)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(num_shapes))


def release_memory() -> bool:
    """malloc_trim(3): give freed memory back to the machine; returns whether there was any.

    Does nothing where the C library has no such call.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):
        return False

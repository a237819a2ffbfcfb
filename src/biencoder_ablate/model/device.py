"""Which device and precision a run uses: asked for, or the best that is there."""

from __future__ import annotations

import torch

from biencoder_ablate.config import ConfigError


def choose_device(asked: str, local_rank: int = 0) -> torch.device:
    """auto: cuda, else mps, else cpu; of several GPUs, the one of this process's `local_rank`.

    Raises ConfigError for a device that is not there.
    """
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(asked)
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(
            f"training.device={asked}: there are {count} CUDA devices here; must be "
            f"{'cpu or auto' if not count else f'cuda:0 to cuda:{count - 1}, cpu or auto'}"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("training.device=mps: there is no Apple GPU here; must be cpu or auto")
    return device


def choose_precision(asked: str, device: torch.device) -> str:
    """auto: bf16 on CUDA, else fp32."""
    if asked == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if asked == "bf16" and device.type == "mps":
        raise ConfigError("training.precision=bf16: not supported on mps here; must be fp32 or auto")
    return asked


def describe_device(device: torch.device) -> str:
    """The device in words: its type and, for a GPU, its name."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)

"""On which device and in which precision an encoder runs."""

from __future__ import annotations

import functools
import hashlib
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from biencoder_ablate.config import ConfigError
from biencoder_ablate.files import read_json, write_json

if TYPE_CHECKING:
    import torch

NATIVE_TIMES = 1.3
"""A CPU that multiplies matrices at least so many times as fast in bf16 as in fp32 computes in it natively; where it
is emulated it is slower."""


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


def choose_precision(asked: str, device: torch.device, cache: Path) -> str:
    """auto: bf16 where the chip computes in it natively, else fp32.

    That is CUDA from Ampere on, and a CPU on which products of matrices are seen to be NATIVE_TIMES as fast in it.
    """
    import torch

    if asked == "auto":
        if device.type == "cpu":
            native = cpu_times_in_bf16(cache) >= NATIVE_TIMES
        else:
            native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    if asked == "bf16" and device.type == "mps":
        raise ConfigError("training.precision=bf16: not supported on mps here; must be fp32 or auto")
    return asked


def cpu_times_in_bf16(cache: Path) -> float:
    """How many times as fast as in fp32 this CPU multiplies matrices in bf16. Measured once for a kind of CPU and a
    torch, in a tenth of a second, and kept: the precision names a run, and must not hang on what else the CPU does."""
    import torch

    directory = cache / "bf16"
    path = directory / f"{hashlib.sha256(f'{torch.__version__} {_chip()}'.encode()).hexdigest()[:16]}.json"
    seen = read_json(path)
    if isinstance(seen, dict) and "times" in seen:
        return float(seen["times"])
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / ".lock"):
        seen = read_json(path)
        if not isinstance(seen, dict) or "times" not in seen:  # else another process was faster
            seen = {"chip": _chip().partition("\n")[0], "torch": torch.__version__, "times": _measure_bf16()}
            write_json(path, seen)
    return float(seen["times"])


@functools.lru_cache
def _chip() -> str:
    """What tells CPUs apart: name and instructions, a line each, or what Python knows where Linux does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [next((line for line in lines if line.startswith(key)), "") for key in ("model name", "flags")]
    return "\n".join(line.partition(":")[2].strip() for line in named) if all(named) else platform.platform()


def _measure_bf16() -> float:
    """The quickest of seven products in fp32 over the quickest in bf16: MiniLM's widest weights, 512 tokens."""
    import torch

    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    given = {dtype: (torch.ones(512, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)) for dtype in seconds}
    for _ in range(7):
        for dtype, (tokens, weights) in given.items():
            started = time.perf_counter()
            tokens @ weights
            seconds[dtype].append(time.perf_counter() - started)
    quickest = {dtype: min(times) for dtype, times in seconds.items()}
    return quickest[torch.float32] / quickest[torch.bfloat16]


def describe_device(device: torch.device) -> str:
    """The device in words: its type and, for a GPU, its name."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)

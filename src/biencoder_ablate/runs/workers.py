"""Hands one GPU to each worker of a parallel sweep on one machine, by a lock that goes with its process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


@contextlib.contextmanager
def take_device(directory: Path, asked: str, parallel: bool) -> Iterator[str]:
    """The device a job should use: what was asked, or, of several GPUs, one that no other job of the sweep has."""
    count = 0
    if parallel and asked in ("auto", "cuda"):
        import torch

        count = torch.cuda.device_count()
    if count < 2:
        yield asked
        return
    with take_first_free(directory, count) as number:
        yield f"cuda:{number}"


@contextlib.contextmanager
def take_first_free(directory: Path, count: int) -> Iterator[int]:
    """Hold the first free number below `count` while in use; waits for any of them when all are taken."""
    directory.mkdir(parents=True, exist_ok=True)
    locks = [FileLock(directory / f".gpu{number}.lock") for number in range(count)]
    while True:
        for number, lock in enumerate(locks):
            try:
                held = lock.acquire(timeout=0)
            except Timeout:
                continue
            with held:
                yield number
            return
        time.sleep(0.2)

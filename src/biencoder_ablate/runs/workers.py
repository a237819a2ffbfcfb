"""Hands one GPU to each worker of a parallel sweep on one machine, by a lock that goes with its process."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def take_device(directory: Path, asked: str, parallel: bool) -> Iterator[str]:
    """The device a job should use: what was asked, or, of several GPUs, one that no other job of the sweep has."""
    count = _num_gpus() if parallel and asked in ("auto", "cuda") else 0
    if count < 2:
        yield asked
        return
    with take_first_free(directory, count) as number:
        yield f"cuda:{number}"


@contextlib.contextmanager
def take_first_free(directory: Path, count: int) -> Iterator[int]:
    """Hold the first free number below `count` while in use; waits for number 0 when all are taken."""
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        for number in range(count):
            file = stack.enter_context((directory / f".gpu{number}.lock").open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield number
            return
        file = stack.enter_context((directory / ".gpu0.lock").open("w"))
        fcntl.flock(file, fcntl.LOCK_EX)
        yield 0


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()

"""Ways side by side in one run: each in a process of its own, taking turns, compared turn by turn.

Other work on the machine slows all of them alike, so the median of the ratios of neighbouring turns says more than
any of the times.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

Turn = Callable[[Any], float]
"""Does one turn's work, given what to work on, and returns the seconds that took."""


@dataclass(frozen=True)
class Way:
    """A name for the table, and what makes its Turn inside its process: a module-level function, its arguments."""

    name: str
    make: Callable[..., Turn]
    arguments: tuple[Any, ...]


def quiet_libraries() -> None:
    """Keep progress bars, loading reports and warnings of processes started from here out of the table."""
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    os.environ["PYTHONWARNINGS"] = "ignore"  # of processes that are stopped after their last turn


def alternate(ways: Sequence[Way], turns: Sequence[Any], num_warm: int = 1) -> dict[str, list[float]]:
    """Seconds of every turn of every way; the first `num_warm` turns of each are left out.

    Raises RuntimeError with a way's own traceback when it fails.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for way in ways:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, way), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    try:
        for way, pipe in zip(ways, pipes, strict=True):
            _receive(way, pipe)
        for number, turn in enumerate(turns):
            # The order is turned round each time, so that no way always runs after the same other.
            pairs = list(zip(ways, pipes, strict=True))
            for way, pipe in pairs if number % 2 == 0 else reversed(pairs):
                pipe.send(turn)
                taken = _receive(way, pipe)
                if number >= num_warm:
                    seconds[way.name].append(taken)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    return seconds


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """(median, lowest, highest) of how many times faster the second is, turn by turn."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def _serve(pipe: Connection, way: Way) -> None:
    """Inside a way's process: make it, then a turn for every message."""
    try:
        turn = way.make(*way.arguments)
        pipe.send(0.0)
        while True:
            pipe.send(turn(pipe.recv()))
    except EOFError:
        return
    except BaseException:
        pipe.send(traceback.format_exc())


def _receive(way: Way, pipe: Connection) -> float:
    answer = pipe.recv()
    if isinstance(answer, str):
        raise RuntimeError(f"{way.name}: {answer}")
    return answer

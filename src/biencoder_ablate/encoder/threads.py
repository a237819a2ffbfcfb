"""Two jobs at once on the CPU, each with half of the kernel threads: products of few rows gain little from more.

A backward pass runs in the thread that asks for it, so that two at once need two graphs: each job's own, joined by
`both_with_gradients`. Only two, because two gradients of one weight have the same sum in either order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

From = TypeVar("From")
To = TypeVar("To")


class TwoThreads:
    """Two threads that share out the kernel threads which the caller has; they live as long as this object.

    A caller with one kernel thread gets the jobs done in turn, so that what is drawn in them is the same. Threads
    that others start later have the half as well, until they say what they want (torch.set_num_threads).
    """

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(2, "encoder", torch.set_num_threads, (threads // 2,)) if threads > 1 else None

    def map(self, job: Callable[[From], To], items: Iterable[From]) -> Iterator[To]:
        """The jobs' results, in the order of `items`; without gradients, whatever the caller's mode."""
        return (self._pool.map if self._pool else map)(torch.no_grad()(job), items)

    def both_with_gradients(
        self, first: Callable[[], torch.Tensor], second: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """The outputs (b, H) of two jobs, one below the other. A backward pass runs in both threads as well, and
        adds to the gradients of whatever the jobs made their outputs from."""
        if self._pool is None:
            return torch.cat([first(), second()])
        joined: torch.Tensor = _Both.apply(torch.empty(0, requires_grad=True), self._pool, first, second)
        return joined


class _Both(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, _: torch.Tensor, pool: ThreadPoolExecutor, *jobs: Callable[[], torch.Tensor]) -> torch.Tensor:
        # This thread has gradients off here; the pool's have them on.
        ctx.pool, ctx.outputs = pool, list(pool.map(lambda job: job(), jobs))
        return torch.cat([output.detach() for output in ctx.outputs])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, ...]:
        pieces = gradients[0].split([len(output) for output in ctx.outputs])
        list(ctx.pool.map(torch.autograd.backward, ctx.outputs, pieces))
        return None, None, None, None


def halves(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of `costs` (n,), two or more, in two sets of about equal cost: the dearest first, to the lighter."""
    sets: tuple[list[int], list[int]] = ([], [])
    totals = [0.0, 0.0]
    for position in np.argsort(-costs, kind="stable").tolist():
        lighter = int(totals[1] < totals[0])
        sets[lighter].append(position)
        totals[lighter] += costs[position]
    return np.array(sets[0], dtype=np.int64), np.array(sets[1], dtype=np.int64)

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
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


class TwoThreads:
    """Two threads that share out the kernel threads which the caller has; they live as long as this object.

    A caller with one kernel thread gets the jobs done in turn, so that what is drawn in them is the same. Threads
    that others start later have the half as well, until they say what they want (torch.set_num_threads). With
    `together=False` the jobs are done in turn anyway.
    """

    def __init__(self, together: bool = True) -> None:
        self._pool: ThreadPoolExecutor | None = None
        num_threads = torch.get_num_threads()
        if num_threads > 1 and together:
            half = (num_threads // 2,)
            self._pool = ThreadPoolExecutor(2, "encoder", torch.set_num_threads, half)

    def map(self, job: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The jobs' results, in the order of `items`; without gradients, whatever the caller's mode."""
        without_gradients = torch.no_grad()(job)  # grad mode is a thread's own
        if self._pool is None:
            return map(without_gradients, items)
        return self._pool.map(without_gradients, items)

    def both_with_gradients(
        self,
        first: Callable[[], Tensor],
        second: Callable[[], Tensor],
    ) -> Tensor:
        """The outputs (b, H) of two jobs, one below the other. A backward pass runs in both threads as well, and
        adds to the gradients of whatever the jobs made their outputs from."""
        if self._pool is None:
            return torch.cat([first(), second()])
        # Autograd calls `_Both.backward` only if something that goes in wants a gradient.
        anchor = torch.empty(0, requires_grad=True)
        joined: Tensor = _Both.apply(anchor, self._pool, first, second)
        return joined


class _Both(torch.autograd.Function):
    """Cuts the graph between what two jobs made and their joined output: `backward` goes on in the pool's threads."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, pool: ThreadPoolExecutor, *jobs: Callable[[], Tensor]) -> Tensor:
        # This thread has gradients off here; the pool's have them on.
        ctx.pool = pool
        ctx.outputs = list(pool.map(lambda job: job(), jobs))
        return torch.cat([output.detach() for output in ctx.outputs])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        parts = gradients[0].split([len(output) for output in ctx.outputs])
        list(ctx.pool.map(torch.autograd.backward, ctx.outputs, parts))
        return None, None, None, None


def halves(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of `costs` (n,), two or more, in two sets of about equal cost: the dearest first, to the lighter."""
    first: list[int] = []
    second: list[int] = []
    difference = 0.0  # by how much `first` costs more
    for position in np.argsort(-costs, kind="stable").tolist():
        if difference > 0:
            second.append(position)
            difference -= costs[position]
        else:
            first.append(position)
            difference += costs[position]
    return np.array(first, dtype=np.int64), np.array(second, dtype=np.int64)

"""One run on several processes (torchrun): who this process is, and what they tell each other.

Every process holds the whole model and the same data. A batch is shared out by position, gradients are summed,
so that training.batch_size is the global batch; encoding is shared out by text and gathered. Rank 0 alone
ranks, decides and writes. With one process every function here does nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

BUCKET_BYTES = 64 * 2**20
"""Of gradients summed over processes in one call."""


@dataclass(frozen=True)
class World:
    """This process's rank among `size` processes, and its rank on its own machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of the rows: every size-th, starting at its rank."""
        return self.share_of(rows, self.rank)

    def share_of(self, rows: np.ndarray, rank: int) -> np.ndarray:
        """The part of the rows that the process `rank` has."""
        return rows[rank :: self.size]

    def gather(self, values: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """The rows (size of a process, R) of all processes end to end, gradients flowing back to where they are from.

        Every process must call it, in the same order; `sizes` says how many rows each of them has.
        """
        assert len(values) == sizes[self.rank]
        return values if self.size == 1 else _Gather.apply(values, self.rank, list(sizes))

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum every gradient over the processes; one without a share of the batch contributes zeros."""
        if self.size == 1:
            return
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        for some in buckets(gradients):
            joined = torch.cat([gradient.flatten() for gradient in some])
            dist.all_reduce(joined)
            parts = joined.split([gradient.numel() for gradient in some])
            torch._foreach_copy_(some, [part.view_as(own) for part, own in zip(parts, some, strict=True)])


def buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Neighbours of one dtype together, to BUCKET_BYTES and the one that goes beyond it: many small sums are slow."""
    held: list[torch.Tensor] = []
    for number, tensor in enumerate(tensors, start=1):
        held.append(tensor)
        full = sum(one.nbytes for one in held) >= BUCKET_BYTES
        if full or number == len(tensors) or tensors[number].dtype != tensor.dtype:
            yield held
            held = []


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, rank: int, sizes: list[int]) -> torch.Tensor:
        ctx.begin, ctx.end = sum(sizes[:rank]), sum(sizes[: rank + 1])
        padded = values.new_zeros((max(sizes), *values.shape[1:]))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        # Every process's loss looks at every row, so a row's gradient is the sum of what they all found.
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)  # the original may be others' as well
        dist.all_reduce(gradient)
        return gradient[ctx.begin : ctx.end], None, None


def world_from_environment() -> World:
    """What torchrun says of this process; a world of one without it."""
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return World()
    return World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0")))


@contextlib.contextmanager
def process_group(world: World, device: torch.device) -> Iterator[None]:
    """Join the processes of a world while in use: NCCL between GPUs, Gloo otherwise."""
    if world.size == 1:
        yield
        return
    dist.init_process_group("cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo")
    try:
        yield
        world.broadcast(None)  # the others leave only when rank 0 has done its last work
    finally:
        dist.destroy_process_group()

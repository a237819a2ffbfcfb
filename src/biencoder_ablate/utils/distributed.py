"""One run on several processes (torchrun): this process's rank, and the collectives that a run needs.

Every process holds the whole model and the same data. A batch is sharded by position and gradients are summed, so
that training.batch_size is the global batch; encoding is sharded by text and gathered. Rank 0 alone ranks, decides and
writes. With one process every function here does nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

WAIT_FOR_MAIN = timedelta(days=30)
"""How long the others wait for what rank 0 does alone, such as a ranking: as long as it takes. A process that dies
closes its connections, which ends the wait at once."""
BUCKET_BYTES = 64 * 2**20
"""About so many bytes of gradients are summed over processes in one call."""


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
        """This process's shard of the rows: every size-th, starting at its rank."""
        return rows[self.rank :: self.size]

    def shards(self, rows: np.ndarray) -> list[np.ndarray]:
        """The shards of all processes, in order of rank."""
        return [rows[rank :: self.size] for rank in range(self.size)]

    def gather(self, values: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """The rows (size of a process, R) of all processes end to end; gradients flow back to the process of a row.

        Every process must call it, in the same order; `sizes` says how many rows each of them has.
        """
        assert len(values) == sizes[self.rank]
        if self.size == 1:
            return values
        return _Gather.apply(values, self.rank, list(sizes))

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=_joined["waiting"])
        return box[0]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum every gradient over the processes; one whose shard of the batch is empty contributes zeros."""
        if self.size == 1:
            return
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        for bucket in buckets(gradients):
            summed = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(summed)
            parts = summed.split([gradient.numel() for gradient in bucket])
            parts = [part.view_as(gradient) for part, gradient in zip(parts, bucket, strict=True)]
            torch._foreach_copy_(bucket, parts)


def buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Neighbours of one dtype together, to BUCKET_BYTES and the one that goes beyond it: many small sums are slow."""
    bucket: list[torch.Tensor] = []
    for number, tensor in enumerate(tensors, start=1):
        bucket.append(tensor)
        is_full = sum(member.nbytes for member in bucket) >= BUCKET_BYTES
        is_last = number == len(tensors) or tensors[number].dtype != tensor.dtype
        if is_full or is_last:
            yield bucket
            bucket = []


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, rank: int, sizes: list[int]) -> torch.Tensor:
        ctx.begin = sum(sizes[:rank])
        ctx.end = ctx.begin + sizes[rank]
        # all_gather takes tensors of one shape, so that shorter shards are padded.
        padded = values.new_zeros((max(sizes), *values.shape[1:]))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        # Every process's loss looks at every row, so a row's gradient is the sum over processes. Autograd may use the
        # original elsewhere, hence the copy.
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[ctx.begin : ctx.end], None, None


def world_from_environment() -> World:
    """This process's place by torchrun's environment variables; a world of one without them."""
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return World()
    rank = int(os.environ["RANK"])
    size = int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return World(rank, size, local_rank)


class ProcessLost(RuntimeError):
    """Another process of the run has ended or cannot be reached; its own message, if it had any, says why."""


_joined: dict[str, Any] = {"store": None, "waiting": None}
"""Where the processes of this world meet, kept for all groups of a sweep; and the group in which they wait for rank 0,
while there is one."""
_group_numbers = itertools.count()


@contextlib.contextmanager
def losses_explained() -> Iterator[None]:
    """Raise ProcessLost where a collective failed because another process is gone."""
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        of_torch = isinstance(error, dist.DistError) or "gloo" in said.lower() or "NCCL" in said
        if not of_torch:
            raise
        raise ProcessLost(
            "another process of this run has ended or cannot be reached; the same command goes on after the last "
            "finished epoch"
        ) from error


@contextlib.contextmanager
def process_group(world: World, device: torch.device) -> Iterator[None]:
    """Join the processes of a world for the time of a `with`: NCCL between GPUs, Gloo otherwise."""
    if world.size == 1:
        yield
        return
    # One store for all runs of a sweep. A second one at the same port might find the first one's still there, and hang.
    if _joined["store"] is None:
        _joined["store"], _, _ = next(rendezvous("env://"))
    store = dist.PrefixStore(f"group {next(_group_numbers)}", _joined["store"])
    backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size)
    try:
        _joined["waiting"] = dist.new_group(backend="gloo", timeout=WAIT_FOR_MAIN)
        yield
        # The others leave only when rank 0 has done its last work.
        with losses_explained():
            world.broadcast(None)
    finally:
        _joined["waiting"] = None
        dist.destroy_process_group()

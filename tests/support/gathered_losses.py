"""The contrastive loss of test_losses.py's pairs and all its gradients, by one of several real processes.

python -m support.gathered_losses OUT SHARES, with torchrun's variables: SHARES is JSON, for each case a list of every
process's pairs by row. Each process works on a copy of the model, as in training; rank 0 saves the sums over processes.
Each case is a process group of its own, as the runs of a sweep are. In the end the last process goes without a word
while rank 0 waits for it; what rank 0 then says is saved as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys

import torch
from support.loss_batches import gradients, make_batch, make_model, make_texts

from biencoder_ablate.training.losses import ContrastiveLoss
from biencoder_ablate.utils.distributed import ProcessLost, losses_explained, process_group, world_from_environment

CPU = torch.device("cpu")


def main(out: str, cases: str) -> None:
    world = world_from_environment()
    found = []
    for shares in json.loads(cases):
        with process_group(world, CPU):
            model, h = make_model(score="sum"), make_texts().requires_grad_()
            sizes = [len(share) for share in shares]
            rows = [row for share in shares for row in share]
            batch = make_batch(
                model, h, shares[world.rank], rows, lambda values, sizes=sizes: world.gather(values, sizes)
            )
            losses = ContrastiveLoss(0.3)(batch)
            values = losses | gradients(model, h, losses["total"])
            found.append({name: world.sum(value.detach().clone()) for name, value in values.items()})
    said = ""
    with contextlib.suppress(ProcessLost), process_group(world, CPU):
        if not world.is_main:
            os._exit(0)
        try:
            with losses_explained():
                world.sum(torch.zeros(1))
        except ProcessLost as error:
            said = str(error)
            raise
    torch.save((found, said), out)
    os._exit(0)  # torch's store would wait for the process that is gone


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The contrastive loss of test_losses.py's pairs and all its gradients, by one of several real processes.

python -m support.gathered_losses OUT SHARES, with torchrun's variables: SHARES is JSON, for each case a list of every
process's pairs by row. Each process works on a copy of the model, as in training; rank 0 saves the sums over processes.
"""

from __future__ import annotations

import json
import sys

import torch
from support.loss_batches import gradients, make_batch, make_model, make_texts

from biencoder_ablate.training.losses import ContrastiveLoss
from biencoder_ablate.utils.distributed import process_group, world_from_environment

CPU = torch.device("cpu")


def main(out: str, cases: str) -> None:
    world = world_from_environment()
    found = []
    with process_group(world, CPU):
        for shares in json.loads(cases):
            model, h = make_model(score="sum"), make_texts().requires_grad_()
            sizes = [len(share) for share in shares]
            rows = [row for share in shares for row in share]
            batch = make_batch(
                model, h, shares[world.rank], rows, lambda values, sizes=sizes: world.gather(values, sizes)
            )
            losses = ContrastiveLoss(0.3)(batch)
            values = losses | gradients(model, h, losses["total"])
            found.append({name: world.sum(value.detach().clone()) for name, value in values.items()})
    if world.is_main:
        torch.save(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Twenty training steps of a small run, by one process or by torchrun's; what each step did goes to a file.

python tests/twenty_steps.py OUT.npz
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from biencoder_ablate.config import Config, DataConfig, HeadConfig, ModelConfig, TrainingConfig
from biencoder_ablate.runs.records import RunLog
from biencoder_ablate.seeding import generator
from biencoder_ablate.training.assemble import build_parts, make_plan
from biencoder_ablate.training.loop import embed, make_optimizer, train_step
from biencoder_ablate.training.negatives import draw_negatives
from biencoder_ablate.training.processes import joined, world_from_environment

NUM_STEPS = 20
STRIDE = 97
"""One gradient value in so many is kept of each parameter, and the norm of all of them."""


def main(out: str) -> None:
    config = Config(
        data=DataConfig(limit=4),
        model=ModelConfig(max_tokens=24, dropout=0.0),
        head=HeadConfig("layernorm", "relu"),
        training=TrainingConfig(learning_rate=1e-4, head_learning_rate=1e-4, device="cpu", max_grad_norm=1.0),
        neg_ratio=0.5,
    )
    world = world_from_environment()
    plan = make_plan(config)
    with joined(world, plan.device):
        parts = build_parts(plan, RunLog(None, quiet=True), world)
        task, recipe = parts.task, parts.recipe
        optimizer = make_optimizer(task.model, recipe, fused=True)
        split = task.splits["train"].split
        negative, _ = draw_negatives(task.pool, 0.5, config.seed, 0, embed(task).r, split.point)
        random = generator(config.seed, "twenty steps")
        losses, gradients = [], []
        task.model.train()
        for step in range(NUM_STEPS):
            size = 1 if step % 5 == 4 else 8  # of one triplet, the second process has no share
            batch = random.choice(len(split), size, replace=False)
            sums, _ = train_step(task, recipe, optimizer, split.point[batch], split.counter[batch], negative[batch])
            losses.append(sums.numpy() / size)
            gradients.append(_sampled(task.model))
        if world.is_main:
            np.savez(out, losses=np.stack(losses), gradients=np.stack(gradients), size=world.size)


def _sampled(model: torch.nn.Module) -> np.ndarray:
    values = []
    for parameter in model.parameters():
        assert parameter.grad is not None
        values += [parameter.grad.flatten()[::STRIDE], parameter.grad.norm().reshape(1)]
    return torch.cat(values).numpy()


if __name__ == "__main__":
    main(sys.argv[1])

"""Twenty training steps of a small run, by one process or by torchrun's; what each step did goes to a file.

python tests/twenty_steps.py study|contrastive|dropout OUT.npz
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from biencoder_ablate.config.schema import (
    Config,
    DataConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    NegativesConfig,
    TrainingConfig,
)
from biencoder_ablate.training.loop import Pairs, embed, make_optimizer, train_step
from biencoder_ablate.training.negatives import draw_negatives
from biencoder_ablate.training.plan import build_components, make_plan
from biencoder_ablate.utils.console import RunLog
from biencoder_ablate.utils.distributed import process_group, world_from_environment
from biencoder_ablate.utils.seeding import generator

NUM_STEPS = 20
STRIDE = 97
"""One gradient value in so many is kept of each parameter, and the norm of all of them."""
RECIPES = {
    "study": (ModelConfig("tiny", max_tokens=24, dropout=0.0), LossConfig("study"), NegativesConfig(), 1e-4),
    # Nothing between the encoder and its embeddings, so that a process without pairs has nothing to differentiate.
    "contrastive": (
        ModelConfig("tiny", max_tokens=24, dropout=0.0, similarity="cosine", retrieval_dim=None),
        LossConfig("contrastive"),
        NegativesConfig(per_pair=2, skip=1, depth=6),
        1e-4,
    ),
}
# Dropout falls alike in the two halves of a batch, whether one process has both or two have one each.
RECIPES["dropout"] = (ModelConfig("tiny", max_tokens=24, dropout=0.2), *RECIPES["contrastive"][1:])


def main(recipe: str, out: str) -> None:
    model, loss, negatives, rate = RECIPES[recipe]
    config = Config(
        data=DataConfig(limit=4),
        model=model,
        head=HeadConfig("linear", "layernorm", "relu"),
        loss=loss,
        negatives=negatives,
        training=TrainingConfig(
            learning_rate=rate, head_learning_rate=rate, device="cpu", max_grad_norm=1.0, dropout_streams=2
        ),
        neg_ratio=0.5,
    )
    world = world_from_environment()
    plan = make_plan(config)
    with process_group(world, plan.device):
        context = build_components(plan, RunLog(None, quiet=True), world).context
        optimizer = make_optimizer(context.model, config)
        split = context.splits["train"].split
        mining = (negatives.per_pair, negatives.skip, negatives.depth)
        negative, _ = draw_negatives(context.pool, 0.5, config.seed, 0, embed(context), split, *mining)
        pairs = Pairs(np.arange(len(split)), split.point, split.counter, negative)
        random = generator(config.seed, "twenty steps")
        losses, gradients = [], []
        context.model.train()
        torch.manual_seed(0)  # as at the beginning of an epoch
        for step in range(NUM_STEPS):
            size = 1 if step % 5 == 4 else 7 + step % 2  # of one pair, the second process has no share
            batch = random.choice(len(split), size, replace=False)
            sums, _ = train_step(context, optimizer, pairs.map(lambda values, batch=batch: values[batch]))
            losses.append(sums.numpy() / size)
            gradients.append(_sampled(context.model))
        if world.is_main:
            np.savez(out, losses=np.stack(losses), gradients=np.stack(gradients), size=world.size)


def _sampled(model: torch.nn.Module) -> np.ndarray:
    values = []
    for parameter in model.parameters():
        assert parameter.grad is not None
        values += [parameter.grad.flatten()[::STRIDE], parameter.grad.norm().reshape(1)]
    return torch.cat(values).numpy()


if __name__ == "__main__":
    main(*sys.argv[1:])

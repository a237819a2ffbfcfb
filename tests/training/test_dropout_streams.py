"""Dropout's draws belong to a part of a batch, not to a process: one name, one result, whatever the processes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from biencoder_ablate.config.schema import Config, ConfigError, DataConfig, HeadConfig, ModelConfig, TrainingConfig
from biencoder_ablate.training.loop import Pairs, _encode_shard
from biencoder_ablate.training.plan import build_components, make_plan, resolve_streams
from biencoder_ablate.utils.console import RunLog
from biencoder_ablate.utils.distributed import World

ROWS = np.array([3, 0, 5, 1, 4, 2, 6])


def make_config(tmp_path, streams=None, micro_batch=None, model=None, **changes):
    training = TrainingConfig(device="cpu", precision="fp32", dropout_streams=streams, micro_batch=micro_batch)
    return Config(
        data=DataConfig(limit=2),
        model=model or ModelConfig("tiny", max_tokens=16, retrieval_dim=8, dropout=0.3),
        head=HeadConfig("linear", "layernorm", "relu"),
        training=replace(training, **changes),
        logs_dir=str(tmp_path / "logs"),
        cache_dir=str(tmp_path / "cache"),
    )


def encoded(context, world, rows=ROWS):
    """h (kinds, B, H) of a process's share of a batch, and the encoder's gradients of a sum over it."""
    context.model.train()
    context.model.zero_grad()
    torch.manual_seed(7)
    split = context.splits["train"].split
    batch = Pairs(rows, split.point[rows], split.counter[rows], split.counter[rows[::-1, None]])
    shard = batch.map(world.shard)
    h, finish, work = _encode_shard(replace(context, world=world), shard)
    (h * torch.linspace(-1, 1, h.shape[1])).sum().backward()
    finish()
    gradients = [value.grad.clone() for value in context.model.encoder.parameters() if value.grad is not None]
    return h.detach().unflatten(0, (3, -1)), gradients, work, torch.get_rng_state()


@pytest.mark.parametrize("micro_batch", [None, "auto"])
def test_two_processes_encode_what_one_does(tmp_path, micro_batch):
    """Seven pairs and four streams: parts of two pairs and of one. Bit for bit, but for the order of sums."""
    plan = make_plan(make_config(tmp_path, 4, micro_batch))
    context = build_components(plan, RunLog(None, quiet=True), World()).context
    whole, gradients, work, state = encoded(context, World())
    shares = [encoded(context, World(rank, 2)) for rank in range(2)]
    for rank, (h, _, _, state_after) in enumerate(shares):
        assert torch.equal(h, whole[:, rank::2])
        assert torch.equal(state_after, state), "the next step's draws are the same as well"
    for one, *parts in zip(gradients, *(found for _, found, _, _ in shares), strict=True):
        torch.testing.assert_close(sum(parts), one, rtol=1e-5, atol=1e-6)
    assert work == tuple(sum(values) for values in zip(*(found for _, _, found, _ in shares), strict=True))


def test_each_part_of_a_batch_draws_for_itself(tmp_path):
    """The same pair four times: alike in a part, whose distinct texts are encoded once, and not in another."""
    context = build_components(make_plan(make_config(tmp_path, 2)), RunLog(None, quiet=True), World()).context
    h = encoded(context, World(), np.array([5, 5, 5, 5]))[0][0]
    assert torch.equal(h[0], h[2]) and torch.equal(h[1], h[3]) and not torch.equal(h[0], h[1])


def test_a_process_may_have_no_pair(tmp_path):
    context = build_components(make_plan(make_config(tmp_path, 16)), RunLog(None, quiet=True), World()).context
    whole, *_ = encoded(context, World())
    last, *_ = encoded(context, World(7, 8))
    assert whole.shape[:2] == (3, 7) and last.shape[:2] == (3, 0)


def test_the_name_says_how_many_streams_there_are(tmp_path, monkeypatch):
    def name(processes, streams=None, **changes):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        monkeypatch.setenv("RANK", "0")
        return make_plan(make_config(tmp_path, streams, **changes)).name

    without = ModelConfig("tiny", max_tokens=16, dropout=0.0)
    assert name(1) == name(1, 1)
    assert name(2) == name(1, 2) == name(2, 2) != name(1)
    assert name(2, freeze_encoder=True) == name(1, freeze_encoder=True)
    assert name(2, model=without) == name(1, 4, model=without)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"dropout_streams=3: 2 processes cannot share .* a multiple of 2, or null"):
        resolve_streams(make_config(tmp_path, 3))

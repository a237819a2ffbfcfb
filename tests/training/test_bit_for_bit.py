"""training.deterministic=true: two equal runs have the same bits in every gradient and weight, resumed ones too.

By hashes of each step, as torchtitan compares its parallel ways. On the CPU always, on CUDA where there is one.
"""

import hashlib

import pytest
import torch
from support.runs import timeless

from biencoder_ablate.config.schema import Config, DataConfig, HeadConfig, ModelConfig, TrainingConfig
from biencoder_ablate.training import loop
from biencoder_ablate.training.experiment import run_experiment
from biencoder_ablate.utils.files import read_json

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def sha256(tensors):
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def hashed_run(folder, cache, device, monkeypatch, stop_at=None):
    """Run, or go on, and stop before step `stop_at`; hashes of gradients and weights after each step."""
    config = Config(
        data=DataConfig(limit=1),
        model=ModelConfig("tiny", max_tokens=24, retrieval_dim=16),
        head=HeadConfig("linear", "layernorm", "relu"),
        training=TrainingConfig(epochs=2, batch_size=3, learning_rate=3e-4, device=device, deterministic=True),
        neg_ratio=0.5,
        logs_dir=str(folder),
        cache_dir=str(cache),
    )
    hashes = []

    def step_and_hash(context, optimizer, pairs, rate):
        if len(hashes) == stop_at:
            raise KeyboardInterrupt
        assert torch.are_deterministic_algorithms_enabled()
        done = plain(context, optimizer, pairs, rate)
        weights = list(context.model.parameters())
        hashes.append((sha256([value.grad for value in weights]), sha256(weights)))
        return done

    plain = loop.train_step
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", step_and_hash)
        try:
            outcome = run_experiment(config, "", [], quiet=True)
        except KeyboardInterrupt:
            return hashes, None
    return hashes, outcome


@pytest.mark.parametrize("device", DEVICES)
def test_equal_runs_and_resumed_ones_have_equal_bits(tmp_path, device, monkeypatch):
    cache = tmp_path / "cache"
    whole, outcome = hashed_run(tmp_path / "whole", cache, device, monkeypatch)
    assert len({weights for _, weights in whole}) == len(whole) >= 4
    manifest = read_json(outcome.directory.path / "manifest.json")
    assert manifest["deterministic"] is True and "deterministic" not in manifest["determined_by"]["training"]

    stop = len(whole) // 2 + 1  # in the second epoch
    first, _ = hashed_run(tmp_path / "resumed", cache, device, monkeypatch, stop)
    assert first == whole[:stop]
    rest, resumed = hashed_run(tmp_path / "resumed", cache, device, monkeypatch)
    assert rest == whole[len(whole) // 2 :]
    assert timeless(resumed.result["selected"]) == timeless(outcome.result["selected"])

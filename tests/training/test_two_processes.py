"""Two processes against one, equal in losses and gradients, to float tolerance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.helpers import run_python, run_ranks
from support.loss_batches import gradients, make_batch, make_model, make_texts

from biencoder_ablate.training.losses import ContrastiveLoss
from biencoder_ablate.utils import distributed as processes

HERE = Path(__file__).parents[1] / "support"
SHARES = [
    [[0, 2, 4], [1, 3, 5]],
    [[0, 2, 4], [1, 3]],  # uneven
    [[5], []],  # one process has no pair
    [[], [3, 1]],
]


def test_the_contrastive_loss_of_two_processes_is_that_of_one(tmp_path):
    """Values and every gradient of the whole batch, texts of the other process included, in float64.

    And a group after a group, at one port; and that a process which is gone is said in one line.
    """
    run_ranks(["-m", "support.gathered_losses", tmp_path / "found.pt", json.dumps(SHARES)], tmp_path, 2)
    of_cases, said = torch.load(tmp_path / "found.pt")
    assert said.startswith("another process of this run has ended or cannot be reached; the same command goes on")
    for shares, found in zip(SHARES, of_cases, strict=True):
        model, h = make_model(score="sum"), make_texts().requires_grad_()
        losses = ContrastiveLoss(0.3)(make_batch(model, h, [row for share in shares for row in share]))
        expected = losses | gradients(model, h, losses["total"])
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value.detach(), rtol=1e-6, atol=1e-7, msg=f"{shares} {name}")


def test_gradients_are_summed_in_buckets_of_a_size_and_one_dtype(monkeypatch):
    monkeypatch.setattr(processes, "BUCKET_BYTES", 40)
    sizes = [4, 5, 11, 1, 1, 3]
    tensors = [torch.zeros(size, dtype=torch.float64 if size == 3 else torch.float32) for size in sizes]
    found = list(processes.buckets(tensors))
    assert [[len(tensor) for tensor in some] for some in found] == [[4, 5, 11], [1, 1], [3]]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["study", "contrastive", "dropout"])
def test_loss_and_gradients_of_twenty_steps_equal_those_of_one_process(recipe, tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        ended = run_python([*launcher, HERE / "twenty_steps.py", recipe, f"{name}.npz"], tmp_path, timeout=300)
        assert ended.returncode == 0, ended.stderr
    one, two = (np.load(tmp_path / f"{name}.npz") for name in ("one", "two"))
    assert (int(one["size"]), int(two["size"])) == (1, 2)
    assert len(one["losses"]) == 20 and np.ptp(one["losses"][:, 0]) > 0.1
    loss_error = np.abs(two["losses"] - one["losses"]).max()
    off = np.linalg.norm(two["gradients"] - one["gradients"], axis=1) / np.linalg.norm(one["gradients"], axis=1)
    print(f"\nlargest difference over 20 steps: loss {loss_error:.1e}, gradients {off.max():.1e} of their length")
    assert loss_error < 1e-5 and off.max() < 1e-5

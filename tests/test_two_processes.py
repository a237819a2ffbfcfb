"""Two processes against one, as design §2 defines equal: loss and gradients of twenty steps, to float tolerance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import run_python

STEPS = Path(__file__).with_name("twenty_steps.py")


@pytest.mark.slow
def test_loss_and_gradients_of_twenty_steps_equal_those_of_one_process(tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        ended = run_python([*launcher, STEPS, f"{name}.npz"], tmp_path, timeout=300)
        assert ended.returncode == 0, ended.stderr
    one, two = (np.load(tmp_path / f"{name}.npz") for name in ("one", "two"))
    assert (int(one["size"]), int(two["size"])) == (1, 2)
    assert one["losses"].shape == (20, 4) and np.ptp(one["losses"][:, 0]) > 0.1
    loss_error = np.abs(two["losses"] - one["losses"]).max()
    off = np.linalg.norm(two["gradients"] - one["gradients"], axis=1) / np.linalg.norm(one["gradients"], axis=1)
    print(f"\nlargest difference over 20 steps: loss {loss_error:.1e}, gradients {off.max():.1e} of their length")
    assert loss_error < 1e-5 and off.max() < 1e-5

"""Which device and precision a process takes, with CUDA's answers as a machine with GPUs would give them."""

import pytest
import torch

from biencoder_ablate.config import ConfigError
from biencoder_ablate.model.encoder import choose_device, choose_precision


@pytest.fixture
def gpus(monkeypatch):
    """A machine with so many GPUs, that compute in bf16 natively or do not."""

    def pretend(count, native_bf16=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native_bf16
        )

    return pretend


@pytest.mark.parametrize(
    ("asked", "rank", "device"),
    [("auto", 0, "cuda:0"), ("auto", 1, "cuda:1"), ("cuda", 1, "cuda:1"), ("cuda:0", 1, "cuda:0"), ("cpu", 1, "cpu")],
)
def test_a_process_takes_the_gpu_of_its_rank_unless_one_is_named(gpus, asked, rank, device):
    gpus(2)
    assert choose_device(asked, rank) == torch.device(device)


@pytest.mark.parametrize(("asked", "rank", "count"), [("cuda", 2, 2), ("auto", 2, 2), ("cuda:5", 0, 2), ("cuda", 0, 0)])
def test_a_gpu_that_is_not_there_is_refused(gpus, asked, rank, count):
    gpus(count)
    with pytest.raises(ConfigError, match=f"training.device={asked}: there are {count} CUDA devices here"):
        choose_device(asked, rank)


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_only_where_the_chip_computes_in_it(gpus, native, precision):
    """torch says yes for older GPUs as well, which emulate it."""
    gpus(1, native)
    assert choose_precision("auto", torch.device("cuda", 0)) == precision
    assert choose_precision("auto", torch.device("cpu")) == "fp32"

"""Which device and precision a process takes, with CUDA's answers as a machine with GPUs would give them."""

import json
from pathlib import Path

import pytest
import torch

from biencoder_ablate.config import ConfigError
from biencoder_ablate.model.device import NATIVE_TIMES, choose_device, choose_precision, cpu_times_in_bf16


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
def test_auto_is_bf16_only_where_the_gpu_computes_in_it(gpus, tmp_path, native, precision):
    """torch says yes for older GPUs as well, which emulate it."""
    gpus(1, native)
    assert choose_precision("auto", torch.device("cuda", 0), tmp_path) == precision


CPU = torch.device("cpu")


def test_on_a_cpu_auto_is_what_products_of_matrices_are_quicker_in(tmp_path):
    times = cpu_times_in_bf16(tmp_path)
    assert times > 0
    assert choose_precision("auto", CPU, tmp_path) == ("bf16" if times >= NATIVE_TIMES else "fp32")
    cpu = Path("/proc/cpuinfo")
    text = cpu.read_text("utf-8") if cpu.exists() else ""
    if "amx_bf16" in text:
        assert times >= NATIVE_TIMES


@pytest.mark.parametrize(("times", "precision"), [(1.0, "fp32"), (1.9, "bf16")])
def test_what_was_seen_of_a_cpu_is_kept(tmp_path, times, precision):
    """A run's name must not hang on what else the CPU does."""
    cpu_times_in_bf16(tmp_path)
    (path,) = (tmp_path / "bf16").glob("*.json")
    path.write_text(json.dumps({"times": times}), "utf-8")
    assert choose_precision("auto", CPU, tmp_path) == precision
    assert cpu_times_in_bf16(tmp_path) == times
    path.write_text("damaged", "utf-8")
    assert cpu_times_in_bf16(tmp_path) > 0

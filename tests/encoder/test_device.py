"""Which device and precision a process takes, with CUDA's answers as a machine with GPUs would give them."""

from pathlib import Path

import pytest
import torch

from biencoder_ablate.config.schema import ConfigError
from biencoder_ablate.encoder.device import choose_device, choose_precision, cpu_has_bf16


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
def test_auto_is_bf16_only_where_the_gpu_computes_in_it(gpus, native, precision):
    """torch says yes for older GPUs as well, which emulate it."""
    gpus(1, native)
    assert choose_precision("auto", torch.device("cuda", 0)) == precision


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "limit", "precision"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, None, "bf16"),
        ({"amx_bf16": True}, None, "bf16"),
        ({"architecture": "aarch64", "bf16": True}, None, "bf16"),
        ({"avx512_bf16": False, "avx512_f": True}, None, "fp32"),
        ({}, None, "fp32"),
        ({"avx512_bf16": True}, "AVX512_CORE", "fp32"),
        ({"amx_bf16": True}, "avx2", "fp32"),
        ({"avx512_bf16": True}, "AVX512_CORE_BF16", "bf16"),
    ],
)
def test_on_a_cpu_auto_is_bf16_where_it_has_instructions_for_it(monkeypatch, capabilities, limit, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert choose_precision("auto", CPU) == precision


def test_torch_says_of_a_cpu_what_the_system_says(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    cpu = Path("/proc/cpuinfo")
    if not cpu.exists() or "flags" not in cpu.read_text("utf-8"):
        pytest.skip("no /proc/cpuinfo of an x86 CPU")
    flags = cpu.read_text("utf-8").split()
    assert cpu_has_bf16() == ("avx512_bf16" in flags or "amx_bf16" in flags)

"""Strict mode for a time, and what it refuses in one line."""

import os

import pytest
import torch
from torch.utils import deterministic as strict

from biencoder_ablate.utils.deterministic import NotDeterministic, deterministic_kernels

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_an_op_without_a_deterministic_kernel_is_refused_by_name_and_the_mode_ends():
    filled = strict.fill_uninitialized_memory
    with (
        pytest.raises(NotDeterministic, match=r"deterministic=true: torch has no deterministic put_ on cpu; must be"),
        deterministic_kernels(True, CPU),
    ):
        assert torch.are_deterministic_algorithms_enabled() and not strict.fill_uninitialized_memory
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
    assert not torch.are_deterministic_algorithms_enabled() and strict.fill_uninitialized_memory == filled
    with deterministic_kernels(False, CPU):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="size of tensor"), deterministic_kernels(True, CPU):
        torch.zeros(2) + torch.zeros(3)


@pytest.mark.parametrize(
    ("value", "begun", "found"),
    [(None, False, None), (":16:8", True, None), (None, True, "CUDA has begun"), (":0:0", False, "it is :0:0")],
)
def test_cublas_is_told_before_it_begins(monkeypatch, value, begun, found):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", value or "")
    if value is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: begun)
    if found is None:
        with deterministic_kernels(True, CUDA):
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == (value or ":4096:8")
        return
    with pytest.raises(NotDeterministic, match=found), deterministic_kernels(True, CUDA):
        pass

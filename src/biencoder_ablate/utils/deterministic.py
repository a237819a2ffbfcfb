"""Deterministic kernels: torch's strict mode for the time of a `with`, and one line for what it refuses."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

import torch
import torch.utils.deterministic as strict

_FILL = "fill_uninitialized_memory"  # a property of the module, which type checkers do not see
WORKSPACES = (":4096:8", ":16:8")
"""Values of CUBLAS_WORKSPACE_CONFIG with which cuBLAS gives the same bits (NVIDIA, cuBLAS, "Results
Reproducibility")."""


class NotDeterministic(ValueError):
    """An op or a setting with which two equal runs would not be equal bit for bit; says which."""


@contextlib.contextmanager
def deterministic_kernels(wanted: bool, device: torch.device) -> Iterator[None]:
    """torch.use_deterministic_algorithms(True) where `wanted`, and cuBLAS's workspace on CUDA.

    Attention's backward pass on CUDA then takes its deterministic kernels. Raises NotDeterministic for an op that has
    none, or where cuBLAS may have begun otherwise.
    """
    if not wanted:
        yield
        return
    if device.type == "cuda":
        _set_workspace()

    mode = torch.get_deterministic_debug_mode()
    filled = getattr(strict, _FILL)
    torch.use_deterministic_algorithms(True)
    # All that is allocated here is written before it is read: to fill it first would be one more launch each.
    setattr(strict, _FILL, False)
    try:
        yield
    except RuntimeError as error:
        refused = re.match(r"(.+?) does not have a deterministic implementation", str(error))
        if refused is None:
            raise
        raise NotDeterministic(
            f"training.deterministic=true: torch has no deterministic {refused[1]} on {device}; must be false with "
            "this configuration"
        ) from error
    finally:
        torch.set_deterministic_debug_mode(mode)
        setattr(strict, _FILL, filled)


def _set_workspace() -> None:
    """cuBLAS reads the variable once, when it begins."""
    value = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if value in WORKSPACES:
        return
    if value is None and not torch.cuda.is_initialized():
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = WORKSPACES[0]
        return
    found = "CUDA has begun in this process without it" if value is None else f"it is {value}"
    raise NotDeterministic(
        f"training.deterministic=true: needs CUBLAS_WORKSPACE_CONFIG={WORKSPACES[0]} in the environment, and {found}; "
        "set it before the command"
    )

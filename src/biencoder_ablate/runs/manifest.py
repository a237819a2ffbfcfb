"""What a run was made with: versions, commit, device, threads, fingerprints."""

from __future__ import annotations

import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import biencoder_ablate

_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "hydra-core", "omegaconf", "numpy")


def build_manifest(
    name: str, device: str, precision: str, num_threads: int, determined_by: dict[str, Any]
) -> dict[str, Any]:
    """The manifest of a run; `determined_by` is its identity, fingerprints included."""
    return {
        "name": name,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "biencoder_ablate": biencoder_ablate.__version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {library: _version(library) for library in _LIBRARIES},
        "device": device,
        "precision": precision,
        "num_threads": num_threads,
        "determined_by": determined_by,
    }


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of the source tree this package runs from, with "+" when it is modified; None elsewhere."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None

"""biencoder-ablate: does this part of my head earn its place?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biencoder_ablate.version import __version__

if TYPE_CHECKING:
    from biencoder_ablate.api import TrainedModel
    from biencoder_ablate.frames import compare, study

__all__ = ["__version__", "compare", "load", "study"]


def __getattr__(name: str) -> Any:
    """`compare` and `study` come with what they need when they are first used, so that the import stays fast."""
    if name in ("compare", "study"):
        from biencoder_ablate import frames

        return getattr(frames, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(run_dir: str | Path, overrides: Sequence[str] = ()) -> TrainedModel:
    """The trained model of a finished run: `encode_points`, `encode_candidates`, `score`, `retrieve`.

    `run_dir` is the run's directory, its bare name in logs/runs, `latest`, or what `biencoder_ablate.export` wrote.
    `overrides` are those of `biencoder_ablate.evaluate`, as "evaluation.rerank=all" or "training.device=cpu".
    Nothing that is loaded is executed. Raises ConfigError, a ValueError, for what cannot be used.
    """
    from biencoder_ablate.api import open_run  # torch comes with it

    return open_run(run_dir, overrides).load_model()

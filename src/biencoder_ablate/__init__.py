"""biencoder-ablate: does this part of my head earn its place?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from biencoder_ablate.version import __version__

if TYPE_CHECKING:
    from biencoder_ablate.api import TrainedModel

__all__ = ["__version__", "load"]


def load(run_dir: str | Path, overrides: Sequence[str] = ()) -> TrainedModel:
    """The trained model of a finished run: `encode_points`, `encode_candidates`, `score`, `retrieve`.

    `run_dir` is the run's directory, its bare name in logs/runs, `latest`, or what `biencoder_ablate.export` wrote.
    `overrides` are those of `biencoder_ablate.evaluate`, as "evaluation.rerank=all" or "training.device=cpu".
    Nothing that is loaded is executed. Raises ConfigError, a ValueError, for what cannot be used.
    """
    from biencoder_ablate.api import open_run  # torch comes with it

    run = open_run(run_dir, overrides)
    if run.warning:
        warnings.warn(run.warning, stacklevel=2)
    return run.load_model()


def __dir__() -> list[str]:
    """The public API alone."""
    return [*__all__]

"""biencoder-ablate: does this part of my head earn its place?"""

# No `from __future__` here: it would be looked for in the working directory before that is left out.
import os
import sys


def _leave_out_working_directory() -> None:
    """After `python -m biencoder_ablate…` look for no module in the working directory, which Python has put first.

    A torch.py or hydra_plugins/ that lies beside somebody's logs would else be run. What PYTHONPATH names stays, and so
    does a directory that this package itself is imported from; processes that are started from here do likewise.
    """
    if sys.argv[:1] != ["-m"] or sys.flags.safe_path or not sys.path:
        return
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    first = os.path.realpath(sys.path[0] or os.curdir)
    if first == os.path.realpath(os.curdir) and first != os.path.realpath(home):
        del sys.path[0]
        os.environ["PYTHONSAFEPATH"] = "1"


_leave_out_working_directory()

# What follows may be looked for.
import warnings  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

from biencoder_ablate.version import __version__  # noqa: E402

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


def load(run_dir: str | Path, overrides: Sequence[str] = ()) -> "TrainedModel":
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

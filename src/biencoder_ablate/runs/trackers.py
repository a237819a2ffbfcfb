"""Trackers: a run's metrics in TensorBoard, Weights & Biases or MLflow too, beside its own files.

`tracker=tensorboard` or several, `tracker=[tensorboard,mlflow]`. What a tracker is given it is given after the epoch's
checkpoint is on disk, the steps of that epoch together with its metrics: an epoch that was cut short was never
logged, so that a resumed run logs nothing twice. A step's number is how many optimizer steps have been done; an
epoch's metrics stand at the step it reached, those before training at 0. Imports no tracker's library before a run
starts that asks for it.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from biencoder_ablate.config import ConfigError
from biencoder_ablate.config.schema import is_word_for_null
from biencoder_ablate.utils.files import expand_user, flatten, read_regular, write_text

Values = Mapping[str, float]
Steps = Sequence[tuple[int, Values]]


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run when it starts."""

    name: str
    directory: Path
    """<logs_dir>/runs/NAME; a tracker may keep a file of its own there, under a name of its own."""
    config: Mapping[str, Any]
    step: int
    """How many optimizer steps have been logged before: all up to this one."""
    resumed: bool
    """Whether the run goes on where an earlier process left it: then its epochs up to `step` were logged before."""


class Tracker:
    """What a tracker does; another one overrides what it needs (docs/extending.md).

    Its constructor's keyword arguments are its options, as conf/tracker/NAME.yaml gives them, and it raises
    ConfigError for a value that cannot be. A method may raise any Exception: the run then goes on without it.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Modules that must be installed, looked for, not imported, before training starts."""

    def start(self, run: TrackedRun) -> None:
        """A run begins, or goes on."""

    def epoch(self, step: int, record: Values, steps: Steps) -> None:
        """An epoch is finished at `step`: its metrics, named as in metrics.jsonl, and those of its steps, in order.

        `steps` holds (step, values): `step/loss`, `step/loss/PART` (means over the batch's pairs) and
        `step/rate/GROUP` (learning rates).
        """

    def finish(self, step: int, result: Values | None) -> None:
        """The run has ended: the selected epoch's metrics, or None for a run that failed or was interrupted."""


class Trackers:
    """Those that one run asked for; none of them can stop it."""

    def __init__(self, chosen: Mapping[str, Tracker] | None = None) -> None:
        self._trackers = dict(chosen or {})
        self._step = 0
        self._say: Callable[[str], None] | None = None

    def start(self, run: TrackedRun, say: Callable[[str], None]) -> None:
        """Before the first epoch of this process; `say` takes the warnings."""
        self._say, self._step = say, run.step
        self._each(lambda tracker: tracker.start(run))

    def epoch(self, step: int, record: Mapping[str, Any], steps: Steps) -> None:
        """The epoch's checkpoint is on disk: hand on its metrics and those of its steps."""
        self._step = step
        self._each(lambda tracker: tracker.epoch(step, numbers(record), steps))

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """The run has ended, with result.json written, or without (None).

        A second call does nothing, nor does one before `start`.
        """
        if self._say is None:
            return
        values = None
        if result is not None:
            values = {"best_epoch": float(result["best_epoch"])}
            values |= {f"selected/{key}": value for key, value in numbers(result["selected"]).items()}
        self._each(lambda tracker: tracker.finish(self._step, values))
        self._trackers = {}

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:
                del self._trackers[name]
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                assert self._say is not None, "start comes first"
                with contextlib.suppress(OSError):  # the disk with train.log on it may be full: the run will find out
                    self._say(f"warning: tracker={name} failed and gets nothing more of this run ({reason})")


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a record, as floats: no tracker draws the others."""
    return {
        key: float(value)
        for key, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _text(key: str, value: Any) -> str | None:
    """An option that is null or a text that says something. Raises ConfigError."""
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise ConfigError(f"{key}={value}: must be null or a text")
    if value is not None and is_word_for_null(value):
        raise ConfigError(f"{key}={value}: must be null, or a text that is no word for it")
    return value


class TensorBoard(Tracker):
    """Event files below the run's directory, or in DIRECTORY/RUN_NAME."""

    needs = ("tensorboard",)

    def __init__(self, directory: str | None = None) -> None:
        self.directory = _text("tracker.tensorboard.directory", directory)

    def start(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.directory / "tensorboard"
        if self.directory is not None:
            folder = expand_user(self.directory) / run.name
        if not run.resumed:  # of a run that rerun=true does anew, or that was stopped before its first epoch
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        self.writer = SummaryWriter(folder)
        if not run.resumed:
            lines = (f"    {key}: {value}" for key, value in flatten(run.config).items())
            self.writer.add_text("config", "\n".join(lines), run.step)

    def epoch(self, step: int, record: Values, steps: Steps) -> None:
        for at, values in [*steps, (step, record)]:
            for key, value in values.items():
                self.writer.add_scalar(key, value, at)
        self.writer.flush()

    def finish(self, step: int, result: Values | None) -> None:
        for key, value in (result or {}).items():
            self.writer.add_scalar(key, value, step)
        self.writer.close()


def _kept_id(path: Path) -> str | None:
    """The tracker's name of this run, 32 hexadecimal digits as both trackers have it; None where the file says none.

    A file that says something else is damaged, and the tracker is given a new run.
    """
    try:
        content = read_regular(path)
    except FileNotFoundError:
        return None
    text = content[:100].decode("ascii", "replace").strip()
    return text if re.fullmatch("[0-9a-f]{32}", text) else None


class Wandb(Tracker):
    """A run of Weights & Biases; offline ones lie in RUN_DIR/wandb, for `wandb sync`."""

    needs = ("wandb",)

    def __init__(
        self, project: str | None = "biencoder-ablate", entity: str | None = None, mode: str | None = None
    ) -> None:
        self.project, self.entity = _text("tracker.wandb.project", project), _text("tracker.wandb.entity", entity)
        if mode not in (None, "online", "offline"):
            raise ConfigError(f"tracker.wandb.mode={mode}: must be null, online or offline")
        self.mode = mode

    def start(self, run: TrackedRun) -> None:
        import wandb

        id_file = run.directory / "wandb" / "run_id"  # not the run's name: rerun=true makes another run of that name
        kept = _kept_id(id_file) if run.resumed else None
        identifier = kept or uuid.uuid4().hex
        id_file.parent.mkdir(exist_ok=True)
        write_text(id_file, identifier)
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,  # type: ignore[arg-type]
            id=identifier,
            name=run.name,
            dir=run.directory,
            config=dict(run.config),
            allow_val_change=True,
            resume="allow",
            reinit="create_new",
            # Its process would else keep up to 15 seconds of metrics in memory, which a kill of this one loses.
            settings=wandb.Settings(console="off", x_transaction_log_flush_interval=0.5),
        )

    def epoch(self, step: int, record: Values, steps: Steps) -> None:
        rows: dict[int, dict[str, float]] = {}
        for at, values in [*steps, (step, record)]:
            rows.setdefault(at, {}).update(values)  # one row a step: wandb takes no second one
        for at, row in rows.items():
            self.run.log(row, step=at, commit=True)

    def finish(self, step: int, result: Values | None) -> None:
        self.run.summary.update(dict(result or {}))
        self.run.finish(exit_code=0 if result is not None else 1)


class Mlflow(Tracker):
    """A run of MLflow, in the store that MLFLOW_TRACKING_URI names, or else in LOGS_DIR/mlflow.db."""

    needs = ("mlflow", "sqlalchemy", "alembic")

    def __init__(self, tracking_uri: str | None = None, experiment: str | None = "biencoder-ablate") -> None:
        self.tracking_uri = _text("tracker.mlflow.tracking_uri", tracking_uri)
        self.experiment = _text("tracker.mlflow.experiment", experiment) or "Default"

    def start(self, run: TrackedRun) -> None:
        import os

        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        default = f"sqlite:///{run.directory.resolve().parents[1] / 'mlflow.db'}"
        self.client = MlflowClient(self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default)
        id_file = run.directory / "mlflow_run_id"
        kept = _kept_id(id_file) if run.resumed else None
        if kept is not None:
            self.run_id = kept
            self.client.update_run(self.run_id, "RUNNING")
            return
        if self.client.get_experiment_by_name(self.experiment) is None:
            with contextlib.suppress(MlflowException):  # another run of the sweep may be faster
                self.client.create_experiment(self.experiment)
        experiment = self.client.get_experiment_by_name(self.experiment)
        assert experiment is not None
        self.run_id = self.client.create_run(experiment.experiment_id, run_name=run.name).info.run_id
        write_text(id_file, self.run_id)
        params = [Param(key, str(value)) for key, value in flatten(run.config).items()]
        self.client.log_batch(self.run_id, params=params[:100])

    def epoch(self, step: int, record: Values, steps: Steps) -> None:
        self._log([*steps, (step, record)])

    def finish(self, step: int, result: Values | None) -> None:
        self._log([(step, result or {})])
        self.client.set_terminated(self.run_id, "FINISHED" if result is not None else "KILLED")

    def _log(self, rows: Steps) -> None:
        """In batches of the 1000 that a call may hold; MLflow allows no @ in a name."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(key.replace("@", "_at_"), value, now, at) for at, row in rows for key, value in row.items()]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(self.run_id, metrics[start : start + 1000])

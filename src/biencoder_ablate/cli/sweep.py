"""A sweep: its jobs through Hydra's launcher, failures kept in their job, and the table of all runs.

What is finished is never launched again; the table comes from the runs' own result.json, so that it is the same
whichever launcher, machine or attempt made them. Of a plain sweep all jobs are known, checked and listed before the
first one starts. Any other sweeper (a search) chooses its jobs as it goes, a batch at a time, and is given the figure
of each; its jobs go the same way.
"""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict

from biencoder_ablate.cli.beforehand import describe_prospects
from biencoder_ablate.cli.launchers import failure_of, run_on_cluster
from biencoder_ablate.cli.looks import looks_of, run_looks, with_seeds
from biencoder_ablate.cli.parts import describe_parts, expand
from biencoder_ablate.cli.seeds import describe_seeds
from biencoder_ablate.cli.sweep_table import (
    describe_sweep,
    failed_line,
    plan_text,
    run_line,
    sweep_text,
    sweep_warnings,
    write_table,
)
from biencoder_ablate.cli.tuning import (
    Trials,
    check_earlier,
    describe_choice,
    pick,
    plan_trials,
    tuned_jobs,
    with_earlier,
    with_runs,
)
from biencoder_ablate.config.compose import Command, to_config, unresolved, without_hydra
from biencoder_ablate.config.overrides import format_hydra_error
from biencoder_ablate.config.schema import Config, ConfigError
from biencoder_ablate.runs.directory import RunDirectory, find_run
from biencoder_ablate.runs.identity import short_hash
from biencoder_ablate.runs.records import metric_in_words, primary_metric
from biencoder_ablate.runs.status import RunStatus, SweepDirectory, objective
from biencoder_ablate.runs.tuning import Tuning, load_tuning, write_tuning
from biencoder_ablate.utils.command import Terminated, raise_on_sigterm, ready_streams
from biencoder_ablate.utils.console import NEXT, RunLog, format_error, show, terminal_width
from biencoder_ablate.utils.files import Damaged, expand_user

if TYPE_CHECKING:
    from biencoder_ablate.training.plan import RunPlan

_NOT_IN_THE_NAME = (
    "logs_dir=",
    "rerun=",
    "plan=",
    "sweep_name=",
    "margin=",
    "tuning",
    "+tuning",
    "looks=",
    "metric=",
    "cache_dir=",
    "hydra",
    "training.device=",
    "tracker",
)
"""How overrides begin that choose no runs, and so have no part in a sweep's name."""


def run_sweep(command: Command) -> int:
    """Run what is not finished, print the table of all that the sweep has; returns the exit code.

    1 if any run of this command failed; runs that an earlier command put under the same sweep_name only show.
    Raises ConfigError for settings that no job can have.
    """
    if command.sweeper != "BasicSweeper":
        return _search(command)
    jobs = runs_alone(command.jobs(), command.task_overrides())
    looks = looks_of(command)
    about_parts: list[str] = []
    settings = to_config(command.base, checked=False)
    if settings.parts.name != "none":
        jobs, design = expand(command, settings.parts, jobs)
        about_parts = describe_parts(design, settings.parts.name)
    if looks:
        is_typed = any(item.startswith("seed=") for item in command.overrides)
        jobs = with_seeds(jobs, looks, is_typed)
    plans = _plans(command.configs(jobs))
    names = [plan.name for plan in plans]
    _say_twice(jobs, names)
    first = plans[0].config
    directory = sweep_directory(first.logs_dir, first.sweep_name, command.overrides, jobs)
    earlier = {job["name"] for job in directory.read()["jobs"]}
    # Seeds that an earlier command has brought count as well in a report.
    seeds = describe_seeds(plans, jobs, len(looks)) if earlier <= set(names) else []
    trials = plan_trials(settings, jobs)
    if trials is not None:
        if looks:
            raise ConfigError("looks: a tuned sweep has all its seeds before a verdict; leave looks or tuning out")
        check_earlier(trials, primary_metric(first.evaluation.select), _earlier_tuning(directory))
    if first.plan:
        print(plan_text(directory.statuses(directory.list_jobs(jobs, names)), first.training.epochs))
        if looks:
            show(f"looks after {', '.join(map(str, looks))} seeds: what is decided before the last needs fewer runs")
        tuning_words = [] if trials is None else [_trials_in_words(trials, len(jobs))]
        for line in [*about_parts, *tuning_words, *seeds, *describe_prospects(plans, jobs, directory.runs)]:
            show(line)
        return 0

    for line in about_parts:
        show(line)
    # Of a sweep with looks, runs are listed once a look needs them.
    declared = _declared(first)
    directory.write(command.overrides, [] if looks else jobs, [] if looks else names, **declared)
    tuning = None
    if trials is not None:
        show(_trials_in_words(trials, len(jobs)))
        tuning = _tune(command, directory, trials, first)
        if tuning is None:
            return 1
    sweep = _Sweep(command, directory, first.rerun)
    statuses = directory.statuses(directory.list_jobs(jobs, names))
    finished = {run.name for run in statuses if run.status == "finished" and not first.rerun}
    num_runs, num_done = len(set(names)), len(finished)
    print(
        f"sweep {directory.path.name}: {'up to ' if looks else ''}{num_runs} runs, {num_done} finished, "
        f"{num_runs - num_done} to run"
    )
    show("\n".join([*describe_sweep(plans, directory), *seeds, ""]))

    def run(some_jobs: list[list[str]], some_names: list[str]) -> bool:
        """Whether all of these have finished."""
        directory.write(command.overrides, some_jobs, some_names, **declared)
        sweep.run_all(some_jobs, some_names)
        return sweep.has_finished(some_names)

    if looks:
        run_looks(directory.path, jobs, names, looks, run)
    else:
        run(jobs, names)
    if tuning is None:
        return sweep.close()
    code = sweep.close(says_next=False)
    return max(code, _run_tuned(command, directory, tuning, jobs, first))


def runs_alone(jobs: Sequence[Sequence[str]], typed: Sequence[str]) -> list[list[str]]:
    """The jobs without how their sweep is tuned or taken apart, which is no setting of a run.

    `typed` are the overrides of the command. Raises ConfigError where such a key has several values, and where
    hydra.sweeper.params of a YAML set it, from which only runs take their settings.
    """
    values: dict[str, dict[str, None]] = {}
    for job in jobs:
        for item in filter(_is_of_the_sweep, job):
            key, _, value = item.lstrip("+").partition("=")
            values.setdefault(key, {})[value] = None

    keys_typed = {item.lstrip("+").partition("=")[0] for item in typed}
    for key, different in values.items():
        listed = ",".join(different)
        if len(different) > 1:
            raise ConfigError(f"{key}={listed}: cannot be swept; must be one value")
        if key not in keys_typed:
            raise ConfigError(
                f"hydra.sweeper.params: {key}={listed} is of the sweep and not of its runs; give it outside"
            )
    return [[item for item in job if not _is_of_the_sweep(item)] for job in jobs]


def _is_of_the_sweep(override: str) -> bool:
    return override.lstrip("+").startswith(("tuning=", "tuning.", "parts=", "parts."))


def _trials_in_words(trials: Trials, num_jobs: int) -> str:
    num_variants, num_points, num_seeds = len(trials.variants), len(trials.points), len(trials.seeds)
    return (
        f"tuning: {num_variants * num_points * num_seeds} trials ({num_variants} variants, {num_points} settings of "
        f"{', '.join(trials.space)}, {num_seeds} seed{'s' * (num_seeds != 1)}) come before these runs, and "
        f"{num_jobs} runs with what each variant has chosen after them"
    )


def _earlier_tuning(directory: SweepDirectory) -> Tuning | None:
    """What earlier commands have tuned of the sweep; None as well where it cannot be read, and is tuned anew."""
    try:
        return load_tuning(directory.path)
    except Damaged:
        return None


def _tune(command: Command, directory: SweepDirectory, trials: Trials, first: Config) -> Tuning | None:
    """Run the trials, which are a sweep of their own beside this one, and keep in this one's directory what each
    variant has chosen; None, with a message, where some have not ended."""
    jobs = trials.jobs()
    names = [plan.name for plan in _plans(command.configs(jobs))]
    of_trials = SweepDirectory(directory.path.with_name(f"{directory.path.name}_trials"))
    of_trials.write(command.overrides, jobs, names)
    sweep = _Sweep(command, of_trials, first.rerun)
    print(f"sweep {of_trials.path.name}: {len(jobs)} runs, {len(sweep.left(names))} to run\n")
    sweep.run_all(jobs, names)
    sweep.close_quietly()

    statuses = {run.name: run for run in of_trials.statuses()}
    left = [name for name in names if statuses[name].status not in ("finished", "failed")]
    if left:
        show(
            f"error: {len(left)} of {len(jobs)} trials have not ended ({left[0]}: {statuses[left[0]].why}); nothing is "
            "chosen before every variant has had the same number of them. The same command goes on",
            sys.stderr,
        )
        return None
    tuning = pick(trials, primary_metric(first.evaluation.select), names, statuses)
    for line in describe_choice(tuning):
        show(line)
    print()
    return tuning


def _run_tuned(
    command: Command, directory: SweepDirectory, tuning: Tuning, jobs: Sequence[list[str]], first: Config
) -> int:
    """The sweep's runs once more, each variant with what it has chosen: a sweep of its own beside this one."""
    of_variants = tuned_jobs(tuning, jobs)
    names = [plan.name for plan in _plans(command.configs(of_variants))]
    joined, lines = with_earlier(with_runs(tuning, jobs, names), _earlier_tuning(directory))
    for line in lines:
        show(line, sys.stderr)
    write_tuning(directory.path, joined)
    tuned = SweepDirectory(directory.path.with_name(f"{directory.path.name}_tuned"))
    tuned.write(command.overrides, of_variants, names, **_declared(first))
    sweep = _Sweep(command, tuned, first.rerun)
    print(f"\nsweep {tuned.path.name}: {len(set(names))} runs, {len(sweep.left(names))} to run\n")
    sweep.run_all(of_variants, names)
    return sweep.close(report=directory)


def sweep_directory(
    logs_dir: str, name: str | None, overrides: Sequence[str], jobs: Sequence[Sequence[str]] = ()
) -> SweepDirectory:
    """The directory of a sweep: by its name, or by a hash of the overrides that choose its runs.

    Before the hash, for the eye, stand its presets and what its jobs vary: heads_seed8_3fa9c1d2. A directory that an
    earlier version named by the hash alone stays the sweep's.
    """
    sweeps = expand_user(logs_dir, "logs_dir") / "sweeps"
    if name is not None:
        return SweepDirectory(sweeps / name)
    chosen = sorted(item for item in overrides if not item.startswith(_NOT_IN_THE_NAME))
    digest = short_hash(chosen)
    if (sweeps / digest).exists():
        return SweepDirectory(sweeps / digest)

    presets = [item.partition("=")[2] for item in chosen if item.startswith("experiment=") and "," not in item]
    words = [preset for preset in presets if preset.isidentifier()]
    values: dict[str, set[str]] = {}
    for key, _, value in (override.partition("=") for job in jobs for override in job):
        short_key = key.rpartition(".")[2].lstrip("+")
        values.setdefault(short_key, set()).add(value)
    words += [f"{key}{len(different)}" for key, different in values.items() if len(different) > 1]
    if not jobs:
        words.append("search")
    label = "_".join(words)[:60]
    return SweepDirectory(sweeps / f"{label}_{digest}".lstrip("_"))


def _search(command: Command) -> int:
    """A sweeper other than the plain one: Hydra makes it, and it hands its jobs to our launcher."""
    settings = to_config(command.base, checked=False)
    for group, name in (("tuning", settings.tuning.name), ("parts", settings.parts.name)):
        if name != "none":
            raise ConfigError(f"{group}={name}: {command.sweeper} chooses settings itself; leave it out")
    if settings.plan:
        raise ConfigError(f"plan=true: {command.sweeper} chooses its runs as it goes; leave it out")
    if "hydra.sweeper.direction=minimize" in command.overrides:
        raise ConfigError(
            "hydra.sweeper.direction=minimize: a run's figure is a val metric, and more is better; leave it out"
        )
    if command.base.hydra.sweeper.get("storage"):  # Optuna 2, which Hydra's plugin needs, fails beside SQLAlchemy 2
        raise ConfigError("hydra.sweeper.storage: leave it out; the same command finds its runs, and goes on")
    for key in ("looks", "metric"):
        if getattr(settings, key) is not None:
            raise ConfigError(f"{key}: {command.sweeper} chooses its runs as it goes, by val; leave it out")
    directory = sweep_directory(settings.logs_dir, settings.sweep_name, command.overrides)
    sweep = _Sweep(command, directory, settings.rerun)

    selects: set[str] = set()

    def launch_batch(jobs: Sequence[Sequence[str]]) -> list[JobReturn]:
        plans = _plans(command.configs(jobs))
        names = [plan.name for plan in plans]
        # Figures of several metrics have no greatest one.
        selects.update(primary_metric(plan.config.evaluation.select) for plan in plans)
        if len(selects) > 1:
            raise ConfigError(
                f"evaluation.select: a search maximises one metric, and its runs have {', '.join(sorted(selects))}; "
                "give one value"
            )
        directory.write(command.overrides, jobs, names, **_declared(settings))
        for name in set(names) - set(sweep.left(names)):
            print(f"{name}: finished already")
        return sweep.run([list(job) for job in jobs], names)

    config = command.in_directory(directory.path)
    with open_dict(config):
        config.hydra.launcher = {"_target_": "hydra_plugins.biencoder_ablate.BatchLauncher"}
        if command.sweeper == "OptunaSweeper":
            config.hydra.sweeper.direction = "maximize"  # Optuna's own is minimize; of a metric more is better
            if config.hydra.sweeper.sampler.get("seed", 0) is None:
                config.hydra.sweeper.sampler.seed = 0  # the same command chooses the same values, and goes on
    try:
        sweeper = Plugins.instance().instantiate_sweeper(
            hydra_context=sweep.context, task_function=launch_batch, config=config
        )
    except Exception as error:  # whatever the plugin's own settings lead to
        raise ConfigError(f"{command.sweeper}: {format_hydra_error(error)}") from error

    if not command.base.hydra.verbose:
        logging.getLogger("optuna").setLevel(logging.WARNING)  # it says of each trial what the table says
    print(f"sweep {directory.path.name}: {command.sweeper} chooses the runs\n")
    try:
        sweeper.sweep(command.task_overrides())
    except (ConfigError, OSError):
        raise
    except Exception as error:  # one of its jobs', or its own
        reason = format_hydra_error(error) or type(error).__name__
        print(f"error: {command.sweeper} stopped: {reason}", file=sys.stderr)
        sweep.stopped = True
    return sweep.close(best=True)


def _declared(settings: Config) -> dict[str, Any]:
    """What a sweep declares before its figures are seen, and keeps."""
    metric = settings.metric or ("top1" if settings.looks else None)
    return {"margin": settings.margin, "looks": settings.looks, "metric": metric}


def _plans(configs: Sequence[Config]) -> list[RunPlan]:
    """The plans of the jobs' runs. Raises ConfigError where they could not be one sweep."""
    from biencoder_ablate.training.plan import plan_runs

    for key in ("logs_dir", "sweep_name", "rerun", "plan", "margin", "looks", "metric"):
        values = {str(getattr(config, key)) for config in configs}
        if len(values) > 1:
            listed = ",".join(sorted(values))
            raise ConfigError(f"{key}={listed}: cannot be swept; must be one value")
    return plan_runs(list(configs))


def _say_twice(jobs: Sequence[Sequence[str]], names: Sequence[str]) -> None:
    """Say which jobs are one run, as their settings come to the same: it is made once, and counted once."""
    first: dict[str, Sequence[str]] = {}
    for job, name in zip(jobs, names, strict=True):
        other = first.setdefault(name, job)
        if other is job:
            continue
        one, two = (
            " ".join(item for item in items if item not in rest) for items, rest in ((other, job), (job, other))
        )
        print(f"note: {one or ' '.join(other)} and {two or ' '.join(job)} are one run, {name}", file=sys.stderr)


class _FailedJob(JobReturn):
    """What a sweeper learns of a job that failed. Hydra's own prints lines for everyone who looks at its value."""

    @property  # type: ignore[misc]
    def return_value(self) -> Any:
        raise RuntimeError("its run failed")


class _Sweep:
    """The runs of this command so far, and what went wrong with them."""

    def __init__(self, command: Command, directory: SweepDirectory, rerun: bool) -> None:
        self.directory = directory
        self.rerun = rerun
        self.stopped = False
        self.context = command.context()
        self._names: set[str] = set()
        self._errors: dict[str, str] = {}  # by the run's name
        self._started = time.time()
        self._config = command.in_directory(directory.path)
        self._config_name = command.base.hydra.job.config_name
        self.context.callbacks.on_multirun_start(config=self._config, config_name=self._config_name)

    def left(self, names: Sequence[str]) -> list[str]:
        """Those of these runs that are still to do, each once."""
        finished = {run.name for run in self.directory.statuses() if run.status == "finished"}
        return [name for name in dict.fromkeys(names) if self.rerun or name not in finished]

    def has_finished(self, names: Sequence[str]) -> bool:
        """Whether all of these runs have, and none failed in this command."""
        finished = {run.name for run in self.directory.statuses() if run.status == "finished"}
        return finished.issuperset(names) and not self._errors

    def run(self, jobs: Sequence[list[str]], names: Sequence[str]) -> list[JobReturn]:
        """Run what of these jobs is not finished; returns for each what a sweeper wants to know.

        Where a launcher gave all up for one job that was killed, the rest is launched again while that gets them on.
        """
        started, epochs_before = time.time(), 0
        job_of = dict(zip(reversed(names), reversed(jobs), strict=True))  # of two jobs that are one run, the first
        todo = {name: job_of[name] for name in self.left(names)}
        self._names |= set(names)
        while todo:
            try:
                self._launch(todo)
                break
            except Exception as error:  # joblib's, say, when one worker was killed, as a rule for want of memory
                reason = f"the launcher stopped: {type(error).__name__}: {' '.join(str(error).split())}"
            print(f"error: {reason}", file=sys.stderr)

            runs = {run.name: run for run in self.directory.statuses()}
            epochs_done = sum(run.epochs_done for run in runs.values())
            left = {name: job for name, job in todo.items() if not _ended_since(started, runs[name])}
            if epochs_done <= epochs_before and len(left) == len(todo):
                self._errors |= dict.fromkeys(left, reason)  # nothing got on: another try would not either
                break
            epochs_before = epochs_done
            todo = left
            print(f"going on with the {len(todo)} runs that have not ended", flush=True)
        return [self._returned(name, job) for name, job in zip(names, jobs, strict=True)]

    def run_all(self, jobs: Sequence[list[str]], names: Sequence[str]) -> None:
        """Run what of these jobs is not finished, no more at once than hydra.sweeper.max_batch_size says."""
        size = self._config.hydra.sweeper.max_batch_size or max(len(jobs), 1)
        for start in range(0, len(jobs), size):
            self.run(jobs[start : start + size], names[start : start + size])

    def _launch(self, todo: dict[str, list[str]]) -> None:
        """Hand the jobs, by the names of their runs, to Hydra's launcher, and note what went wrong with each.

        Raises what the launcher raises, which other jobs than these may have caused.
        """
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=run_job, config=self._config
        )
        names, jobs = list(todo), list(todo.values())

        def ended(number: int, error: str | None) -> None:
            print(run_line(self.directory, names[number], error, terminal_width()), flush=True)

        errors: list[str | None]
        if getattr(launcher, "_EXECUTOR", None) == "slurm":  # submitit's
            errors = run_on_cluster(launcher, jobs, ended)
        else:
            # What Hydra returns of a job holds its settings, some 1,000 objects, and of a failed one the frames with
            # its model: in this process one job at a time, so that a long sweep does not keep them all.
            in_process = self._config.hydra.launcher._target_.endswith("BasicLauncher")
            size = 1 if in_process else max(len(jobs), 1)
            errors = []
            for start in range(0, len(jobs), size):
                batch = launcher.launch(jobs[start : start + size], initial_job_idx=start)
                failures = [failure_of(returned) for returned in batch]
                errors += [None if failure is None else format_error(failure) for failure in failures]
        self._errors |= {name: error for name, error in zip(names, errors, strict=True) if error is not None}

    def _returned(self, name: str, job: list[str]) -> JobReturn:
        result = RunDirectory(self.directory.runs / name).read_finished()
        if name in self._errors or result is None:
            return _FailedJob(overrides=job, status=JobStatus.FAILED)
        returned = JobReturn(overrides=job, status=JobStatus.COMPLETED)
        returned.return_value = objective(result)
        return returned

    def close_quietly(self) -> list[RunStatus]:
        """Keep the table without printing it; returns how the runs are."""
        runs = self.directory.statuses(errors=self._errors)
        write_table(self.directory.table, runs)
        self.context.callbacks.on_multirun_end(config=self._config, config_name=self._config_name)
        return runs

    def close(self, best: bool = False, says_next: bool = True, report: SweepDirectory | None = None) -> int:
        """Print and keep the table, after a search with its best run; returns the exit code.

        The last line is how to report on `report`, or else on this sweep.
        """
        runs = self.close_quietly()
        seconds = time.time() - self._started
        print(f"\n{sweep_text(runs, terminal_width())}")
        for warning in sweep_warnings(runs):
            show(warning)
        show(f"{seconds:.1f} s; {self.directory.path}")

        finished = [run for run in runs if run.status == "finished" and run.name in self._names]
        if best and finished:
            first = max(finished, key=lambda run: objective(run.result))
            metric = metric_in_words(primary_metric(first.result.get("select")))
            show(f"best by {metric} on val: {objective(first.result):.4f}, {' '.join(first.overrides)}")
        if says_next:
            show(f"{NEXT}biencoder-ablate report {shlex.quote(_typed(report or self.directory))} -o report")
        return 0 if len(finished) == len(self._names) and not self.stopped else 1


def _typed(sweep: SweepDirectory) -> str:
    """The sweep as one types it: its bare name, where that finds it."""
    path = sweep.path
    return path.name if find_run(path.name, sweeps=True).resolve() == path.resolve() else str(path)


def _ended_since(started: float, run: RunStatus) -> bool:
    result = run.directory.result
    return result.exists() and result.stat().st_mtime >= started


def run_job(composed: DictConfig) -> float:
    """One job of a sweep, in whatever process the launcher chose; returns what a search maximises.

    An exception marks this job alone as failed.
    """
    from biencoder_ablate.cli.launchers import acquire_gpu
    from biencoder_ablate.encoder.device import release_memory
    from biencoder_ablate.training.experiment import run_experiment

    hydra = HydraConfig.get()
    sweep = SweepDirectory(Path(hydra.sweep.dir))
    overrides = unresolved(hydra.overrides.task)
    parallel = not hydra.launcher._target_.endswith("BasicLauncher")
    config = to_config(composed)
    if parallel:  # a process of its own, whose launcher may have taken SIGTERM for itself
        raise_on_sigterm()
        ready_streams()
    try:
        with acquire_gpu(sweep.path, config.training.device, parallel) as device:
            config = replace(config, training=replace(config.training, device=device))
            # What a run says is in its log. Bars of several at a time would overwrite each other.
            outcome = run_experiment(config, without_hydra(composed), overrides, quiet=True, bars=not parallel)
    except Exception as error:
        reason = format_error(error)
        print(failed_line(sweep, overrides, reason, terminal_width(sys.stderr)), file=sys.stderr, flush=True)
        raise
    except Terminated:
        if not parallel:
            raise
        raise RuntimeError("stopped by SIGTERM") from None
    RunLog(None).say(run_line(sweep, outcome.directory.name, width=terminal_width()))
    if not parallel:  # what the C library keeps of freed memory grows from run to run
        release_memory()
    return objective(outcome.result)

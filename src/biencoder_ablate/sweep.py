"""A sweep: its jobs through Hydra's launcher, failures kept in their job, and the table of all runs.

What is finished is never launched again; the table comes from the runs' own result.json, so that it is the
same whichever launcher, machine or attempt made them.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig

from biencoder_ablate.compose import Command, to_config, without_hydra
from biencoder_ablate.config import Config, ConfigError
from biencoder_ablate.files import explained
from biencoder_ablate.runs.directory import RunDirectory
from biencoder_ablate.runs.signals import Terminated, raise_on_sigterm
from biencoder_ablate.runs.slurm import is_slurm, run_on_cluster
from biencoder_ablate.runs.sweep_directory import (
    JobState,
    SweepDirectory,
    job_states,
    progress_line,
    sweep_directory,
    write_sweep,
)
from biencoder_ablate.runs.sweep_table import plan_text, table_text, write_table


def run_sweep(command: Command, configs: list[Config]) -> int:
    """Run what is not finished, print the table of all that the sweep has; returns the exit code.

    1 if any run of this command failed; runs that an earlier command put under the same sweep_name only show.
    """
    from biencoder_ablate.training.assemble import plan_runs

    names = [plan.name for plan in plan_runs(configs)]
    sweep = sweep_directory(configs[0].logs_dir, configs[0].sweep_name, command.overrides)
    if any(config.plan for config in configs):
        print(plan_text(job_states(sweep.describe(command.overrides, command.jobs, names)), configs[0].training.epochs))
        return 0
    write_sweep(sweep, command.overrides, command.jobs, names)
    status = {state.name: state.status for state in job_states(sweep.read())}
    done = {name for name in names if status[name] == "finished" and not configs[0].rerun}
    jobs = dict(zip(reversed(names), reversed(command.jobs), strict=True))  # of two jobs that are one run, the first
    todo = {name: jobs[name] for name in names if name not in done}
    print(f"sweep {sweep.path.name}: {len(jobs)} runs, {len(done)} finished, {len(todo)} to run\n")
    started = time.time()
    errors = _run_all(command, sweep, todo)
    states = job_states(sweep.read(), errors)
    write_table(sweep.table, states)
    print(f"\n{table_text(states)}\n{time.time() - started:.1f} s; {sweep.path}")
    return 0 if all(state.status == "finished" for state in states if state.name in jobs) else 1


def _run_all(command: Command, sweep: SweepDirectory, todo: dict[str, list[str]]) -> dict[str, str]:
    """Launch the jobs. Where a launcher gave all up for one that was killed, the rest again while that gets them on.

    Returns what went wrong, by the job's overrides.
    """
    started, reached = time.time(), -1
    while todo:
        try:
            return _launch(command, sweep, todo)
        except Exception as error:  # joblib's, say, when one worker was killed, as a rule for want of memory
            why = f"the launcher stopped: {type(error).__name__}: {' '.join(str(error).split())}"
        print(f"error: {why}", file=sys.stderr)
        runs = {state.name: state for state in job_states(sweep.read())}
        before, reached = reached, sum(runs[name].epochs_done for name in runs)
        left = {name: job for name, job in todo.items() if not _ended_since(started, runs[name])}
        if reached <= max(before, 0) and len(left) == len(todo):
            return {" ".join(job): why for job in left.values()}
        todo = left
        print(f"going on with the {len(todo)} runs that have not ended", flush=True)
    return {}


def _ended_since(started: float, state: JobState) -> bool:
    result = state.directory.result
    return result.exists() and result.stat().st_mtime >= started


def _launch(command: Command, sweep: SweepDirectory, todo: dict[str, list[str]]) -> dict[str, str]:
    """Hand the jobs, by the names of their runs, to the launcher. Returns what went wrong, by the job's overrides.

    Raises what the launcher raises, which other jobs than these may have caused.
    """
    from hydra._internal.callbacks import Callbacks

    from biencoder_ablate.training.summary import finished_line

    base = command.compose_sweep([f"hydra.sweep.dir='{sweep.path}'"])
    context = HydraContext(config_loader=command.hydra.config_loader, callbacks=Callbacks(base))
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=run_job, config=base)
    names, jobs = list(todo), list(todo.values())

    def ended(number: int, error: str | None) -> None:
        run = RunDirectory(sweep.runs / names[number])
        result = run.read_result() or {}
        finished = error is None and result.get("status") == "finished"
        print(finished_line(run, result) if finished else f"{names[number]}: {error}")
        print(progress_line(sweep), flush=True)

    if is_slurm(launcher):
        outcomes = run_on_cluster(launcher, jobs, ended)
    else:
        outcomes = [_error_of(returned) for returned in launcher.launch(jobs, initial_job_idx=0)]
    return {" ".join(job): error for job, error in zip(jobs, outcomes, strict=True) if error is not None}


def _error_of(returned: JobReturn) -> str | None:
    return _in_words(returned._return_value) if returned.status == JobStatus.FAILED else None


def _in_words(error: Any) -> str:
    return explained(error) if isinstance(error, OSError) else str(error)


def run_job(composed: DictConfig) -> dict[str, Any]:
    """One job of a sweep, in whatever process the launcher chose. An exception marks this job alone as failed."""
    from biencoder_ablate.runs.workers import take_device
    from biencoder_ablate.training.experiment import run_experiment
    from biencoder_ablate.training.summary import finished_line

    hydra = HydraConfig.get()
    sweep = SweepDirectory(Path(hydra.sweep.dir))
    overrides = [str(item) for item in hydra.overrides.task]
    parallel = not hydra.launcher._target_.endswith("BasicLauncher")
    config = to_config(composed)
    if parallel:  # a process of its own, whose launcher may have taken SIGTERM for itself
        raise_on_sigterm()
    try:
        with take_device(sweep.path, config.training.device, parallel) as device:
            config = replace(config, training=replace(config.training, device=device))
            outcome = run_experiment(config, without_hydra(composed), overrides, quiet=parallel)
        if parallel:
            print(finished_line(outcome.directory, outcome.result))
    except Exception as error:
        print(f"error: {' '.join(overrides)}: {_in_words(error)}", file=sys.stderr)
        raise
    except Terminated:
        if not parallel:
            raise
        raise RuntimeError("stopped by SIGTERM") from None
    finally:
        print(progress_line(sweep), flush=True)
    return {"name": outcome.directory.name, **asdict(config.head)}


def check_same_place(configs: list[Config]) -> None:
    """A sweep has one logs_dir, sweep_name, rerun and plan. Raises ConfigError."""
    for key in ("logs_dir", "sweep_name", "rerun", "plan"):
        values = {getattr(config, key) for config in configs}
        if len(values) > 1:
            shown = ",".join(map(str, sorted(values, key=str)))
            raise ConfigError(f"{key}={shown}: cannot be swept; must be one value")

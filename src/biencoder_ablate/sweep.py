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
from hydra.core.utils import JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig

from biencoder_ablate.compose import Command, to_config, without_hydra
from biencoder_ablate.config import Config, ConfigError
from biencoder_ablate.runs.signals import Terminated, raise_on_sigterm
from biencoder_ablate.runs.sweep_directory import (
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
    from biencoder_ablate.training.build import plan_runs

    names = [plan.name for plan in plan_runs(configs)]
    sweep = sweep_directory(configs[0].logs_dir, configs[0].sweep_name, command.overrides)
    if any(config.plan for config in configs):
        print(plan_text(job_states(sweep.describe(command.overrides, command.jobs, names)), configs[0].training.epochs))
        return 0
    write_sweep(sweep, command.overrides, command.jobs, names)
    status = {state.name: state.status for state in job_states(sweep.read())}
    done = {name for name in names if status[name] == "finished" and not configs[0].rerun}
    jobs = dict(zip(reversed(names), reversed(command.jobs), strict=True))  # of two jobs that are one run, the first
    todo = [jobs[name] for name in dict.fromkeys(names) if name not in done]
    print(f"sweep {sweep.path.name}: {len(jobs)} runs, {len(done)} finished, {len(todo)} to run\n")
    started, errors = time.time(), {}
    if todo:
        errors = _launch(command, sweep, todo)
    states = job_states(sweep.read(), errors)
    write_table(sweep.table, states)
    print(f"\n{table_text(states)}\n{time.time() - started:.1f} s; {sweep.path}")
    return 0 if all(state.status == "finished" for state in states if state.name in jobs) else 1


def _launch(command: Command, sweep: SweepDirectory, jobs: list[list[str]]) -> dict[str, str]:
    """Hand the jobs to the configured launcher. Returns what went wrong, by the job's overrides."""
    from hydra._internal.callbacks import Callbacks

    base = command.compose_sweep([f"hydra.sweep.dir='{sweep.path}'"])
    context = HydraContext(config_loader=command.hydra.config_loader, callbacks=Callbacks(base))
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=run_job, config=base)
    errors: dict[str, str] = {}
    try:
        returns = launcher.launch(jobs, initial_job_idx=0)
    except Exception as error:  # a launcher may raise when one of its jobs was killed; the table tells the rest
        print(f"error: the launcher stopped: {error}", file=sys.stderr)
        return errors
    for job, outcome in zip(jobs, returns, strict=True):
        if outcome.status == JobStatus.FAILED:
            errors[" ".join(job)] = str(outcome._return_value)
    return errors


def run_job(composed: DictConfig) -> dict[str, Any]:
    """One job of a sweep, in whatever process the launcher chose. An exception marks this job alone as failed."""
    from biencoder_ablate.runs.devices import take_device
    from biencoder_ablate.training.describe import finished_line
    from biencoder_ablate.training.experiment import run_experiment

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
        print(f"error: {' '.join(overrides)}: {error}", file=sys.stderr)
        raise
    except Terminated:
        if not parallel:
            raise
        raise RuntimeError("terminated; the same command goes on from the last finished epoch") from None
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

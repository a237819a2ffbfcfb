"""Carries out a training command: one run here, or a sweep through Hydra's launcher, and its table."""

from __future__ import annotations

import sys
from typing import Any

from omegaconf import DictConfig

from biencoder_ablate.compose import (
    Command,
    conf_directory,
    parse_arguments,
    register_schema,
    to_config,
    understood,
    without_hydra,
)
from biencoder_ablate.config import Config
from biencoder_ablate.files import explained
from biencoder_ablate.runs.signals import Terminated, raise_on_sigterm


def run_command(argv: list[str], asks_hydra: bool) -> int:
    """Carry out the command line; returns the exit code."""
    if asks_hydra:
        return _ask_hydra()
    raise_on_sigterm()
    try:
        with understood(parse_arguments(argv)) as command:
            configs = [to_config(command.compose(job)) for job in command.jobs]
            if command.multirun:
                from biencoder_ablate.sweep import check_same_place, run_sweep

                check_same_place(configs)
                return run_sweep(command, configs)
            return _run_one(command, configs[0])
    except KeyboardInterrupt:
        return _stopped("interrupted", 130)
    except Terminated:
        return _stopped("terminated", 143)
    except (ValueError, OSError) as error:
        return fail(error)


def _run_one(command: Command, config: Config) -> int:
    from biencoder_ablate.runs.directory import RunBusy, RunDirectory
    from biencoder_ablate.runs.sweep_directory import run_state
    from biencoder_ablate.runs.sweep_table import plan_text
    from biencoder_ablate.training.assemble import plan_runs
    from biencoder_ablate.training.experiment import run_experiment
    from biencoder_ablate.training.loop import TrainingDiverged

    if config.plan:
        run = RunDirectory(plan_runs([config])[0].directory)
        print(plan_text([run_state(run)], config.training.epochs))
        return 0
    composed = without_hydra(command.compose(command.jobs[0]))
    try:
        run_experiment(config, composed, command.jobs[0])
    except (RunBusy, TrainingDiverged) as error:
        return fail(error)
    return 0


def fail(error: BaseException) -> int:
    """One message, exit code 1."""
    print(f"error: {explained(error) if isinstance(error, OSError) else error}", file=sys.stderr)
    return 1


def _stopped(how: str, code: int) -> int:
    print(f"{how}: the last finished epoch is on disk; the same command goes on from there", file=sys.stderr)
    return code


def _ask_hydra() -> int:
    """--help, --cfg, --info and tab completion are Hydra's own."""
    import hydra

    register_schema()

    def nothing(config: DictConfig) -> Any:
        raise AssertionError("Hydra was only asked")

    hydra.main(config_path=str(conf_directory()), config_name="config", version_base="1.3")(nothing)()
    return 0

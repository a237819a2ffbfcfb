"""The training command: one run, or a sweep, and exit codes. Loads no torch before a run starts."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from biencoder_ablate.config.schema import ConfigError
from biencoder_ablate.utils.command import Terminated, did_you_mean, raise_on_sigterm, until_nobody_reads
from biencoder_ablate.utils.console import format_error, show
from biencoder_ablate.version import __version__

COMMANDS = {
    "audit": "audit",
    "benchmark": "benchmark",
    "decide": "decide",
    "evaluate": "evaluate",
    "export": "export",
    "report": "report.__main__",
    "retrieve": "retrieve",
    "runs": "runs.__main__",
}
"""What `biencoder-ablate WORD …` does besides training, and in which module."""


def main() -> None:
    """`python -m biencoder_ablate`: exit code 0, 1 for any failure, 130 after Ctrl-C, 143 after SIGTERM.

    A first word of COMMANDS is that command, with all that follows; `help` and one of them is its --help.
    """
    if sys.argv[1:2] == ["help"]:
        sys.argv[1:] = [*sys.argv[2:], "--help"]
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        command = importlib.import_module(f"biencoder_ablate.{COMMANDS[sys.argv[1]]}")
        sys.exit(command.main(sys.argv[2:]))
    if "WORLD_SIZE" not in os.environ:
        sys.exit(until_nobody_reads(lambda: _carry_out(sys.argv[1:])))
    if os.environ.get("RANK", "0") != "0":  # the first process alone says what all of them do
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    code = until_nobody_reads(lambda: _carry_out(sys.argv[1:]))
    # One of several processes (torchrun) goes without tearing Python down: threads of PyTorch's process groups may
    # still run then, and abort a process whose work is done (github.com/pytorch/pytorch/pull/179291).
    os._exit(code)


def _carry_out(argv: list[str]) -> int:
    if "--version" in argv:
        print(f"biencoder-ablate {__version__}")
        return 0
    from biencoder_ablate.config.compose import check_hydra_query, compose_command, is_hydra_query, parse_arguments

    try:
        _check_word(argv)
        arguments = parse_arguments(argv)
        if arguments.shell_completion:
            return _complete(arguments)
        if is_hydra_query(arguments):
            check_hydra_query(arguments)
            return _ask_hydra(arguments)
        raise_on_sigterm()
        with compose_command(arguments) as command:
            if command.multirun:
                _check_processes(command)
                from biencoder_ablate.cli.sweep import run_sweep

                return run_sweep(command)
            return _run_one(command)
    except KeyboardInterrupt:
        return _stopped("interrupted", 130)
    except Terminated:
        return _stopped("terminated", 143)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        return _fail(error)


def _run_one(command: Any) -> int:
    """The run of a command that is no sweep, between the user's hydra.callbacks."""
    from hydra.core.utils import run_job

    from biencoder_ablate.config.compose import to_config, without_hydra

    idle = [override for override in command.overrides if override.startswith(("hydra/launcher=", "hydra/sweeper="))]
    if idle:
        raise ConfigError(f"{idle[0]}: is for a sweep; add -m, or leave it out")
    declared = [item for item in command.overrides if item.startswith(("margin=", "looks=", "metric="))]
    if declared:
        raise ConfigError(f"{declared[0]}: is for a sweep, whose runs are compared; add -m, or leave it out")
    config = to_config(command.base)
    if config.parts.name != "none":
        raise ConfigError(f"parts={config.parts.name}: is for a sweep; add -m, or leave it out")
    if config.tuning.name != "none":
        raise ConfigError(
            f"tuning={config.tuning.name}: is for a sweep, whose variants it tunes; add -m, or leave it out"
        )

    from biencoder_ablate.cli.launchers import failure_of
    from biencoder_ablate.cli.sweep_table import plan_text
    from biencoder_ablate.runs.directory import RunBusy, RunDirectory
    from biencoder_ablate.runs.status import objective, run_status
    from biencoder_ablate.training.experiment import OutOfMemory, run_experiment
    from biencoder_ablate.training.loop import TrainingDiverged
    from biencoder_ablate.training.plan import plan_runs
    from biencoder_ablate.utils.distributed import ProcessLost, world_from_environment

    if config.plan:
        run = RunDirectory(plan_runs([config])[0].directory)
        print(plan_text([run_status(run)], config.training.epochs))
        return 0

    def train(composed: DictConfig) -> float | None:
        outcome = run_experiment(config, without_hydra(command.base), command.overrides)
        return objective(outcome.result) if outcome.result else None  # of several processes the first has it

    context, name = command.context(), command.base.hydra.job.config_name
    context.callbacks.on_run_start(config=command.base, config_name=name)
    done = run_job(train, command.base, "hydra.run.dir", None, context, configure_logging=command.logs)
    context.callbacks.on_run_end(config=command.base, config_name=name, job_return=done)
    error = failure_of(done)
    if isinstance(error, ProcessLost) and not world_from_environment().is_main:
        return 1  # the first process says it, or torchrun, where that one is lost
    if isinstance(error, RunBusy | TrainingDiverged | OutOfMemory | ProcessLost):
        return _fail(error)
    if error is not None:
        raise error
    return 0


def _check_processes(command: Any) -> None:
    """Refuse a parallel launcher inside torchrun, whose workers would take themselves for its processes."""
    launchers = [override for override in command.overrides if override.startswith("hydra/launcher=")]
    if launchers and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"{launchers[0]}: with torchrun the runs of a sweep come one after another, on all processes; leave it "
            "out, or start the command without torchrun"
        )


def _check_word(argv: list[str]) -> None:
    """Refuse a first word that is neither a command nor KEY=VALUE. Raises ConfigError."""
    if argv and re.fullmatch(r"[A-Za-z][\w.-]*", argv[0]):
        hint = did_you_mean(argv[0], [*COMMANDS, "help"])
        hint = hint or f"must be one of {', '.join(COMMANDS)}, or settings such as head=relu; see --help"
        raise ConfigError(f"{argv[0]}: there is no such command; {hint}")


def _fail(error: BaseException) -> int:
    """One message, exit code 1."""
    show(f"error: {format_error(error)}", sys.stderr)
    return 1


def _stopped(how: str, code: int) -> int:
    what = "every finished epoch and part of an encoding is on disk"
    show(f"{how}: {what}; the same command goes on from there", sys.stderr)
    return code


def _ask_hydra(arguments: argparse.Namespace) -> int:
    """--help, --cfg, --info and most of tab completion are Hydra's own."""
    import hydra

    from biencoder_ablate.config.compose import conf_directory, register_schema

    register_schema()

    def nothing(config: DictConfig) -> Any:
        raise AssertionError("Hydra was only asked")

    # Hydra's parser takes no option after an override, ours does
    sys.argv[1:] = [item for item in sys.argv[1:] if item not in arguments.overrides] + arguments.overrides
    ask = hydra.main(config_path=str(conf_directory()), config_name="config", version_base="1.3")(nothing)
    if not arguments.help:
        ask()
        return 0
    answer = io.StringIO()
    with contextlib.redirect_stdout(answer), contextlib.suppress(SystemExit):
        ask()
    show(answer.getvalue().rstrip("\n"))
    return 0


def _complete(arguments: argparse.Namespace) -> int:
    """What the shell may offer for the word that is being typed: Hydra's keys and choices, commands, and runs.

    Nothing is said where a line cannot be understood: a message would land in the middle of it.
    """
    typed = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT") or sys.maxsize)]
    words = typed.split(" ")[1:]
    if "biencoder_ablate" in words:  # python -m biencoder_ablate …
        words = words[words.index("biencoder_ablate") + 1 :]
    command, word = (words or [""])[0], (words or [""])[-1]
    if len(words) == 1:
        print(*(name for name in (*COMMANDS, "help") if word and name.startswith(word)))
    elif command in (*COMMANDS, "help"):
        print(*_offered(command, word))
        return 0
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        _ask_hydra(arguments)
    return 0


def _offered(command: str, word: str) -> list[str]:
    """Names of runs, and for a report of sweeps, for a command that takes them."""
    names = {"help": list(COMMANDS)}.get(command, [])
    if command in ("evaluate", "export", "report", "retrieve"):
        kinds = ("runs", "sweeps") if command == "report" else ("runs",)
        names = ["latest", *(path.name for kind in kinds for path in Path("logs", kind).glob("[!.]*"))]
    return sorted(name for name in names if name.startswith(word))

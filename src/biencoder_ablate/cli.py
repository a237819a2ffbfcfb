"""The training command: compose with Hydra, check, dispatch. Loads no torch before a run starts."""

from __future__ import annotations

import os
import sys

import biencoder_ablate

_PASS_TO_HYDRA = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}


def main() -> None:
    """`python -m biencoder_ablate`: exit code 0, 1 for any failure, 130 after Ctrl-C, 143 after SIGTERM."""
    if "--version" in sys.argv[1:]:
        print(f"biencoder-ablate {biencoder_ablate.__version__}")
        return
    from biencoder_ablate import launch
    from biencoder_ablate.compose import check_question
    from biencoder_ablate.config import ConfigError

    asks_hydra = any(argument.split("=")[0] in _PASS_TO_HYDRA for argument in sys.argv[1:])
    if asks_hydra:
        try:
            check_question(sys.argv[1:])
        except ConfigError as error:
            sys.exit(launch.fail(error))
    _leave(launch.run_command(sys.argv[1:], asks_hydra=asks_hydra))


def _leave(code: int) -> None:
    """Exit. One of several processes (torchrun) goes without tearing Python down.

    Threads of PyTorch's process groups may still run then, and abort a process whose work is done
    (github.com/pytorch/pytorch/pull/179291).
    """
    if "WORLD_SIZE" not in os.environ:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

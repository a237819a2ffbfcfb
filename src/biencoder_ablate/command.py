"""What the commands share: one line for a mistake, exit codes, JSON, SIGTERM. Imports nothing heavy: all begin here."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from biencoder_ablate.config import ConfigError

ALLOWED = (
    "data",
    "data.*",
    "evaluation.*",
    "model.max_tokens",
    "model.name_or_path",
    "model.revision",
    "training.device",
    "training.precision",
    "training.fast",
    "cache_dir",
)
"""What may differ from how a finished run was trained: how it is measured, and where things are."""


def refuse_in_one_line(parser: argparse.ArgumentParser) -> None:
    """Have a parser raise ConfigError where argparse would print its usage and exit with 2."""

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")

    parser.error = refuse  # type: ignore[method-assign]


def answer(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, carry_out: Callable[[argparse.Namespace], None]
) -> int:
    """Parse and carry out; returns the exit code: 1 with one message for a mistake, 130 after Ctrl-C."""
    refuse_in_one_line(parser)
    try:
        carry_out(parser.parse_intermixed_args(argv))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def print_json(value: Any) -> None:
    """A value as indented JSON, without NaN or infinity."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


class Terminated(BaseException):
    """SIGTERM arrived, as Slurm sends before a time limit. Not an Exception, so that nothing takes it for its own."""


def raise_on_sigterm() -> None:
    """From now on SIGTERM raises Terminated in the main thread, to stop as after Ctrl-C; elsewhere nothing changes."""

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)

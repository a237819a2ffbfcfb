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

from biencoder_ablate.utils.console import printable


def raise_usage_errors(parser: argparse.ArgumentParser, error: type[ValueError] = ValueError) -> None:
    """Have a parser raise `error` where argparse would print its usage and exit with 2."""

    def refuse(message: str) -> NoReturn:
        raise error(f"{message}; see --help")

    parser.error = refuse  # type: ignore[method-assign]


def run_command(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, action: Callable[[argparse.Namespace], None]
) -> int:
    """Parse, and run `action`; returns the exit code: 1 with one message for a mistake, 130 after Ctrl-C."""
    raise_usage_errors(parser)
    try:
        action(parser.parse_intermixed_args(argv))
    except (ValueError, OSError) as error:
        # What a damaged file holds must not steer the terminal.
        message = printable(str(error), keep="\n")
        print(f"error: {message}", file=sys.stderr)
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

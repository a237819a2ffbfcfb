"""What the commands share: one line for a mistake, exit codes, JSON, SIGTERM. Imports nothing heavy: all begin here."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any, NoReturn

from biencoder_ablate.utils.console import OutputClosed, printable, show


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`did you mean X?`, or X or Y, for a word that is nearly one of the choices; nothing where none is near."""
    similar = difflib.get_close_matches(word, list(choices), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(similar)}?" if similar else ""


def raise_usage_errors(parser: argparse.ArgumentParser, error: type[ValueError] = ValueError) -> None:
    """Have a parser raise `error` where argparse would print its usage and exit with 2."""

    def refuse(message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        hint = did_you_mean(unknown[1], parser._option_string_actions) if unknown else ""
        raise error(f"{message}; {hint or 'see --help'}")

    parser.error = refuse  # type: ignore[method-assign]


NOBODY_READS = 141
"""The exit code of what a closed pipe has ended, as shells have it (128 + SIGPIPE)."""


def ready_streams() -> None:
    """Make standard output and error such that writing a line cannot fail for what the line is.

    One that the shell has closed (`>&-`) goes nowhere, and its number is taken, so that no file gets it. A character
    that the encoding does not have is replaced.
    """
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream.closed:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def until_nobody_reads(action: Callable[[], int]) -> int:
    """The exit code of `action`, with standard streams as `ready_streams` leaves them.

    Where nobody reads its output any more it ends there, and says nothing, as Unix programs do.
    """
    ready_streams()
    try:
        code = action()
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, OutputClosed) as error:
        if isinstance(error, BrokenPipeError) and error.filename is not None:
            raise
        # Python would try once more, and say that it failed, on its way out.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
                continue
            with contextlib.suppress(OSError, ValueError):
                os.dup2(nowhere, stream.fileno())
        return NOBODY_READS
    return code


def run_command(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, action: Callable[[argparse.Namespace], None]
) -> int:
    """Parse, and run `action`; returns the exit code: 1 with one message for a mistake, 130 after Ctrl-C."""
    raise_usage_errors(parser)

    def answer() -> int:
        try:
            action(parser.parse_intermixed_args(argv))
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            # What a damaged file holds must not steer the terminal.
            message = printable(str(error), keep="\n")
            show(f"error: {message}", sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        return 0

    return until_nobody_reads(answer)


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

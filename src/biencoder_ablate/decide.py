"""`biencoder-ablate decide SWEEP`: keep, remove, equal or not yet, for people and for scripts, by lines or as JSON."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence

from biencoder_ablate.report.arguments import add_reading_options, read_looks, read_runs
from biencoder_ablate.utils.command import add_json_option, print_json, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Print the verdict; exit code 0 where all is decided, 3 where not yet, 1 with one message for a mistake."""
    codes = []

    def action(arguments: argparse.Namespace) -> None:
        codes.append(_decide(arguments))

    return run_command(_parser(), argv, action) or codes[-1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="biencoder-ablate decide",
        description="Does each part earn its place, or may it be removed? One line a comparison. Nothing is trained. "
        "Exit code 0: all is decided; 3: not yet; 1: an error.",
        epilog="example: biencoder-ablate decide logs/sweeps/heads --margin 0.01 --json",
    )
    add_reading_options(parser)
    add_json_option(parser)
    return parser


def _decide(arguments: argparse.Namespace) -> int:
    """Work out and print what can be decided; returns the exit code. Raises ValueError for a mistake."""
    if importlib.util.find_spec("scipy") is None:
        raise ValueError("a verdict needs scipy; install the `report` extra: pip install 'biencoder-ablate[report]'")
    from biencoder_ablate.report.decision import judge, lines, remember, verdict_json
    from biencoder_ablate.report.folds import note_folds
    from biencoder_ablate.report.ledger import open_ledger
    from biencoder_ablate.report.read import Protocol

    looks = read_looks(arguments.looks)
    protocol = Protocol(arguments.protocol) if arguments.protocol else None
    collection = note_folds(read_runs(arguments))
    ledger = open_ledger(collection, arguments.margin, looks)
    judged = judge(
        collection,
        ledger,
        protocol,
        arguments.baseline,
    )
    document = verdict_json(collection, judged, ledger)
    said = lines(collection, judged, ledger)
    problem = remember(ledger, judged)
    if problem:
        print(f"note: {problem}", file=sys.stderr)
    if arguments.json:
        print_json(document)
    else:
        print("\n".join(said))
    code: int = document["exit_code"]
    return code


if __name__ == "__main__":
    sys.exit(main())

"""`python -m biencoder_ablate.report DIR… -o OUT`: the answer of a sweep, as a page, tables and figures."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from biencoder_ablate.command import answer
from biencoder_ablate.runs.directory import find_run

NEEDED = ("scipy", "matplotlib", "jinja2")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report; exit code 0, or 1 with one message."""
    command = shlex.join(["python", "-m", "biencoder_ablate.report", *(sys.argv[1:] if argv is None else argv)])

    def carry_out(arguments: argparse.Namespace) -> None:
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise ValueError(
                f"a report needs {' and '.join(missing)}; install the `report` extra: "
                "pip install 'biencoder-ablate[report]'"
            )
        from biencoder_ablate.report.write import write_report

        write_report([find_run(place, sweeps=True) for place in arguments.directories], Path(arguments.output), command)

    parser = argparse.ArgumentParser(
        prog="python -m biencoder_ablate.report",
        description="One page that answers: which head, at which negative ratio, by how much, how sure? "
        "Also report.md, table.csv, table.tex and the figures.",
        epilog="example: python -m biencoder_ablate.report logs/sweeps/heads -o report",
    )
    parser.add_argument(
        "directories",
        nargs="+",
        metavar="DIR",
        help="runs and sweeps (logs/sweeps/NAME, or the bare name; latest), or a logs directory",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="where to write; made if missing")
    return answer(parser, argv, carry_out)


if __name__ == "__main__":
    sys.exit(main())

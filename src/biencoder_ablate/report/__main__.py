"""`biencoder-ablate report DIR… -o OUT`: the answer of a sweep, as a page, tables and figures."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from biencoder_ablate.report.arguments import add_reading_options, read_looks, read_runs
from biencoder_ablate.runs.directory import find_run
from biencoder_ablate.utils.command import run_command
from biencoder_ablate.utils.files import expand_user

NEEDED = ("scipy", "matplotlib", "jinja2")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report; exit code 0, or 1 with one message."""
    command = shlex.join(["biencoder-ablate", "report", *(sys.argv[1:] if argv is None else argv)])

    def action(arguments: argparse.Namespace) -> None:
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise ValueError(
                f"a report needs {' and '.join(missing)}; install the `report` extra: "
                "pip install 'biencoder-ablate[report]'"
            )
        from biencoder_ablate.report.read import Protocol
        from biencoder_ablate.report.write import write_report

        given = read_runs(arguments)
        looks = read_looks(arguments.looks)
        protocol = Protocol(arguments.protocol) if arguments.protocol else None
        output = _output(arguments)
        declared = (arguments.baseline, arguments.margin)
        write_report(given, output, command, protocol, looks, arguments.points, *declared, arguments.by)

    parser = argparse.ArgumentParser(
        prog="biencoder-ablate report",
        description="One page that answers: which head, at which negative ratio, by how much, how sure? "
        "Also report.md, table.csv, table.tex and the figures. With --from the same of any other program's runs.",
        epilog="example: biencoder-ablate report logs/sweeps/heads -o report",
    )
    add_reading_options(parser)
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="where to write; made if missing; report/ (report-evaluations/ "
        "with --evaluations) in the sweep's directory unless given, or in the current one for several places and other "
        "programs' runs",
    )  # fmt: skip
    parser.add_argument(
        "--points", action="store_true", help="write points.csv as well: what --from reads, to go beside other systems"
    )
    parser.add_argument(
        "--by", metavar="COLUMN", help="a table by theme, debate or another column that runs keep of their queries, "
        "and by_COLUMN.csv; nothing is tested in it",
    )  # fmt: skip
    return run_command(parser, argv, action)


def _output(arguments: argparse.Namespace) -> Path:
    """Where to write: as given; else in the directory of the one sweep; else here."""
    if arguments.output:
        return expand_user(Path(arguments.output))
    # Beside the report on the runs' own figures, not in its place.
    folder = "report" if arguments.evaluations is None else "report-evaluations"
    if len(arguments.directories) == 1:
        place = find_run(arguments.directories[0], sweeps=True)
        if (place / "runs.json").is_file():
            return place / folder
    return Path(folder)


if __name__ == "__main__":
    sys.exit(main())

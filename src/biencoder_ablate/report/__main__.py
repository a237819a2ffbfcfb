"""`biencoder-ablate report DIR… -o OUT`: the answer of a sweep, as a page, tables and figures."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from biencoder_ablate.runs.directory import find_run
from biencoder_ablate.utils.command import run_command
from biencoder_ablate.utils.files import expand_user

if TYPE_CHECKING:
    from biencoder_ablate.report.read import Collection

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

        given = _read(arguments)
        looks = sorted({_count(part) for part in arguments.looks.split(",")}) if arguments.looks else []
        protocol = Protocol(arguments.protocol) if arguments.protocol else None
        output = _output(arguments)
        write_report(given, output, command, protocol, looks, arguments.points, arguments.baseline)

    parser = argparse.ArgumentParser(
        prog="biencoder-ablate report",
        description="One page that answers: which head, at which negative ratio, by how much, how sure? "
        "Also report.md, table.csv, table.tex and the figures. With --from the same of any other program's runs.",
        epilog="example: biencoder-ablate report logs/sweeps/heads -o report",
    )
    parser.add_argument(
        "directories",
        nargs="*",
        metavar="DIR",
        help="runs and sweeps (logs/sweeps/NAME, or the bare name; latest), or a logs directory",
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="where to write, made if missing; unless given report/ in the "
        "sweep's directory, or in the current one for several places and other programs' runs",
    )  # fmt: skip
    parser.add_argument(
        "--baseline", action="append", default=[], metavar="KEY=VALUE", help="what the others are compared with: a "
        "setting, such as head=none; several times to name one configuration",
    )  # fmt: skip
    parser.add_argument(
        "--metric",
        choices=("top1", "mrr", "ndcg@10", "recall@10"),
        help="what decides: top1 (unless given), or another",
    )
    parser.add_argument(
        "--protocol", choices=("clean", "official"), help="which figure decides: clean, where there is one"
    )
    parser.add_argument(
        "--looks", metavar="N,N,…", help="numbers of seeds, declared beforehand, at which to look; alpha is shared"
    )
    parser.add_argument(
        "--from", dest="outside", nargs="+", metavar="PATH", help="results.csv (system, seed, query, value; group, "
        "baseline, measure, factors), or several such tables, or a directory of TREC run files SYSTEM.seed0.run",
    )  # fmt: skip
    parser.add_argument("--qrels", metavar="FILE", help="what is relevant, for --from a directory")
    parser.add_argument(
        "--points", action="store_true", help="write points.csv as well: what --from reads, to go beside other systems"
    )
    parser.add_argument("--groups", metavar="FILE", help="query and group a line: queries that are not independent")
    return run_command(parser, argv, action)


def _read(arguments: argparse.Namespace) -> Collection:
    """The runs that the arguments name. Raises ValueError where options do not go together."""
    from biencoder_ablate.report.external import read_csv, read_trec
    from biencoder_ablate.report.read import Metric, collect

    given = [expand_user(Path(path)) for path in arguments.outside or ()]
    if bool(given) == bool(arguments.directories):
        raise ValueError("give run directories, or --from tables or a directory of run files: one of the two")
    run_files = len(given) == 1 and given[0].is_dir()
    if not run_files:
        for name in ("qrels", "groups"):
            if getattr(arguments, name):
                raise ValueError(f"--{name}: goes with --from a directory of TREC run files")
    metric = Metric(arguments.metric or Metric.TOP1)
    if not given:
        return collect([find_run(place, sweeps=True) for place in arguments.directories], metric)
    for path in given:
        if not path.exists() or (path.is_dir() and not run_files):
            raise ValueError(f"--from {path}: {'is a directory among tables' if path.exists() else 'no such file'}")
    if not run_files:
        return read_csv(given, metric.label if arguments.metric else None)
    if not arguments.qrels:
        raise ValueError("--from a directory of TREC run files: needs --qrels FILE, what is relevant")
    return read_trec(given[0], Path(arguments.qrels), metric, Path(arguments.groups) if arguments.groups else None)


def _output(arguments: argparse.Namespace) -> Path:
    """Where to write: as given; else in the directory of the one sweep; else here."""
    if arguments.output:
        return expand_user(Path(arguments.output))
    if len(arguments.directories) == 1:
        place = find_run(arguments.directories[0], sweeps=True)
        if (place / "runs.json").is_file():
            return place / "report"
    return Path("report")


def _count(text: str) -> int:
    if not text.strip().isdigit() or int(text) < 2:
        raise ValueError(f"--looks {text}: must be numbers of seeds with commas between, such as 8,12,20")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

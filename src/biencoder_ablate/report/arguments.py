"""Which runs a report or a verdict is of, and what was declared of them: the options that the commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biencoder_ablate.runs.directory import find_run
from biencoder_ablate.utils.files import expand_user

if TYPE_CHECKING:
    from biencoder_ablate.report.read import Collection


class Once(argparse.Action):
    """An option that may be given twice only with the same value: what was declared is not what comes last."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        if before not in (None, values):
            raise argparse.ArgumentError(self, f"{before} and {values} contradict each other; give one")
        setattr(namespace, self.dest, values)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which runs are read, what decides, and what was declared beforehand."""
    parser.add_argument(
        "directories",
        nargs="*",
        metavar="DIR",
        help="runs and sweeps (logs/sweeps/NAME, or the bare name; latest), or a logs directory",
    )
    parser.add_argument(
        "--evaluations",
        nargs="?",
        const="",
        metavar="NAME",
        help="the figures that `evaluate` kept of these runs, in place of their own: those of the corpus or file NAME, "
        "or all",
    )
    parser.add_argument(
        "--baseline", action="append", default=[], metavar="KEY=VALUE", help="what the others are compared with: a "
        "setting, such as head=none; several times to name one configuration",
    )  # fmt: skip
    parser.add_argument(
        "--metric",
        action=Once,
        choices=("top1", "mrr", "ndcg@10", "recall@10"),
        help="what decides: top1 (unless given), or another",
    )
    parser.add_argument(
        "--protocol", action=Once, choices=("clean", "official"), help="which figure decides: clean, where there is one"
    )
    parser.add_argument(
        "--looks",
        action=Once,
        metavar="N,N,…",
        help="numbers of seeds, declared beforehand, at which to look; alpha is shared; "
        "unless the sweep has declared its own",
    )
    parser.add_argument(
        "--from", dest="outside", nargs="+", metavar="PATH", help="results.csv (system, seed, query, value; group, "
        "baseline, measure, factors), or several such tables, or a directory of TREC run files SYSTEM.seed0.run",
    )  # fmt: skip
    parser.add_argument("--qrels", metavar="FILE", help="what is relevant, for --from a directory")
    parser.add_argument("--groups", metavar="FILE", help="query and group a line: queries that are not independent")
    parser.add_argument(
        "--margin",
        action=Once,
        type=float,
        metavar="M",
        help="the smallest difference that matters, declared beforehand (0.01 of top-1 is one query in a hundred): a "
        "part that is worth less may be removed, systems that differ by less are equal; unless the sweep has declared "
        "its own",
    )


def read_runs(arguments: argparse.Namespace) -> Collection:
    """The runs that the arguments name. Raises ValueError where options do not go together."""
    from biencoder_ablate.report.external import read_csv, read_trec
    from biencoder_ablate.report.read import Metric, collect, declared_metric

    given = [expand_user(Path(path)) for path in arguments.outside or ()]
    if bool(given) == bool(arguments.directories):
        if arguments.evaluations and not given:
            raise ValueError(f"--evaluations {arguments.evaluations}: is taken for a name; give the sweep before it")
        raise ValueError("give run directories, or --from tables or a directory of run files: one of the two")
    if given and arguments.evaluations is not None:
        raise ValueError("--evaluations: goes with runs of this program, not with --from")
    run_files = len(given) == 1 and given[0].is_dir()
    if not run_files:
        for name in ("qrels", "groups"):
            if getattr(arguments, name):
                raise ValueError(f"--{name}: goes with --from a directory of TREC run files")
    metric = Metric(arguments.metric) if arguments.metric else None
    if not given:
        collection = collect([find_run(place, sweeps=True) for place in arguments.directories], metric)
        if arguments.evaluations is None:
            from biencoder_ablate.report.tuning import with_tuned

            return with_tuned(collection, declared_metric(collection.sweeps, metric))
        from biencoder_ablate.report.evaluations import as_evaluated
        from biencoder_ablate.report.tuning import note_left_out

        collection = note_left_out(collection)
        return as_evaluated(collection, arguments.evaluations, declared_metric(collection.sweeps, metric))
    for path in given:
        if not path.exists() or (path.is_dir() and not run_files):
            raise ValueError(f"--from {path}: {'is a directory among tables' if path.exists() else 'no such file'}")
    if not run_files:
        return read_csv(given, metric.label if metric else None)
    if not arguments.qrels:
        raise ValueError("--from a directory of TREC run files: needs --qrels FILE, what is relevant")
    return read_trec(
        given[0], Path(arguments.qrels), metric or Metric.TOP1, Path(arguments.groups) if arguments.groups else None
    )


def read_looks(text: str | None) -> list[int]:
    """The declared looks, ascending. Raises ValueError for what is no number of seeds."""
    return sorted({_count(part) for part in text.split(",")}) if text else []


def _count(text: str) -> int:
    if not text.strip().isdigit() or int(text) < 2:
        raise ValueError(f"--looks {text}: must be numbers of seeds with commas between, such as 8,12,20")
    return int(text)

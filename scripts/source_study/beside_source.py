"""The source study's logs beside this program's `source` figures: the same protocol, and no other one.

    python scripts/source_study/beside_source.py logs/sweeps/NAME --source-log none=none.txt -o OUT

writes OUT/source.csv, each log and each of our arms at its selected epoch and at its last, and OUT/source.svg and .png,
their curves. Runs have these figures if they were trained with evaluation.source=true. Needs the `report` extra.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from source_log import SPLITS, SourceLog, parse_source_log

from biencoder_ablate.report import plot_style as style
from biencoder_ablate.report.analysis import analyse
from biencoder_ablate.report.plots import MOST_LINES
from biencoder_ablate.report.read import collect
from biencoder_ablate.report.study import Arms, Cell, make_studies
from biencoder_ablate.report.tables import Value
from biencoder_ablate.report.write import csv_text
from biencoder_ablate.utils.files import whole_file, write_text

ABOUT = (
    "Top-1 as the source study's scripts computed it: over the first sixteenth of a split's points, the point itself "
    "among the candidates, so that a model which takes a point for its own counter gets it wrong. Not a figure to "
    "publish, and not comparable with any other. A log's selected epoch is the first with its highest val figure; ours "
    "are means over seeds at the val-selected epoch."
)
HEADING = [
    "what",
    *(f"{which} {what}" for which in ("selected", "last") for what in ("epoch", *SPLITS)),
    "damaged lines",
    "stray lines",
    "restarts",
]
LINEAR_EPOCHS = 10  # the logs go on to epoch 199: beyond these the axis is logarithmic
_LOG_COLOURS = ("#555555", "#999999", "#bbbbbb")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table and the figures; exit code 0, or 1 with one message."""
    parser = argparse.ArgumentParser(description=ABOUT)
    parser.add_argument("directories", nargs="+", metavar="DIR", type=Path, help="runs, sweeps, or a logs directory")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", type=Path, help="where to write")
    parser.add_argument("--source-log", action="append", required=True, metavar="NAME=FILE", help="a log; may be again")
    arguments = parser.parse_args(argv)
    try:
        logs = read_logs(arguments.source_log)
        arms = source_arms(arguments.directories)
        arguments.output.mkdir(parents=True, exist_ok=True)
        write_text(arguments.output / "source.csv", csv_text(table(logs, arms)))
        for k, some in enumerate(arms or [None]):
            drawn = picture(logs, some, f"source_{k + 1}" if len(arms) > 1 else "source")
            for ending, content in (("svg", drawn.svg), ("png", drawn.png)):
                with whole_file(arguments.output / f"{drawn.name}.{ending}", "wb") as file:
                    file.write(content)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(ABOUT)
    if not arms:
        print("No run here has these figures; train with evaluation.source=true to read them beside the logs.")
    print(f"written: {arguments.output / 'source.csv'}")
    return 0


def read_logs(given: Sequence[str]) -> dict[str, SourceLog]:
    """The logs by the names given. Raises ValueError for one that is no NAME=FILE, comes twice, or cannot be read."""
    logs: dict[str, SourceLog] = {}
    for item in given:
        name, equals, file = item.partition("=")
        if not (name and equals and file):
            raise ValueError(f"--source-log {item}: must be NAME=FILE, such as --source-log none=none.txt")
        if name in logs:
            raise ValueError(f"--source-log {item}: there are two logs called {name}; give each its own name")
        logs[name] = parse_source_log(Path(file).expanduser())
    return logs


def source_arms(places: Sequence[Path]) -> list[Arms]:
    """The arms of each study whose runs all recorded source figures; studies without any are left out."""
    found = []
    for study in make_studies(collect(places).runs):
        arms = analyse(study).main
        names = tuple(name for name in arms.names if style.curves(arms.cells[name], "source/test/top1")[1].size)
        if names:
            found.append(replace(arms, names=names, cells={name: arms.cells[name] for name in names}))
    return found


def table(logs: Mapping[str, SourceLog], arms: Sequence[Arms]) -> list[dict[str, Value]]:
    """Rows by HEADING: each log at its best val epoch and at its last, and our arms at theirs."""
    rows = [_log_row(name, log) for name, log in logs.items()]
    for k, some in enumerate(arms):
        prefix = f"study {k + 1}: " if len(arms) > 1 else ""
        rows += [_our_row(f"{prefix}{name} (ours)", some.cells[name]) for name in some.names]
    return [dict(zip(HEADING, row, strict=True)) for row in rows]


def _log_row(name: str, log: SourceLog) -> tuple[Value, ...]:
    row: list[Value] = [f"{name} (log)"]
    best = max((line for line in log.rows if line.val is not None), key=lambda line: line.val or 0.0, default=None)
    with_figures = [line for line in log.rows if (line.train, line.val, line.test) != (None, None, None)]
    for line in (best, with_figures[-1] if with_figures else None):
        row += [line.epoch, line.train, line.val, line.test] if line else [None] * 4
    return (*row, log.num_damaged_lines, log.num_stray_lines, log.num_restarts)


def _our_row(name: str, cells: Sequence[Cell]) -> tuple[Value, ...]:
    row: list[Value] = [name]
    for part in ("selected", "final"):
        records = [run.result.get(part) or {} for cell in cells for run in cell.runs.values()]
        for key in ("epoch", *(f"source/{split}/top1" for split in SPLITS)):
            values = [record[key] for record in records if record.get(key) is not None]
            row.append(float(np.mean(values)) if values else None)
    return (*row, None, None, None)


def picture(logs: Mapping[str, SourceLog], arms: Arms | None, name: str) -> style.Plot:
    """The logs' curves in grey and ours in colour, one panel a split."""
    names = arms.names[:MOST_LINES] if arms else ()
    looks = style.styles(names)

    def drawn(width: float) -> Figure:
        beside = width != style.NARROW
        height, rows, columns = (3.1, 1, 3) if beside else (6.6, 3, 1)
        figure, axes = style.new_figure(height, rows, columns, width, sharey=True)
        for split, panel in zip(SPLITS, axes.flat, strict=True):
            epochs: list[int] = []
            for k, (label, log) in enumerate(logs.items()):
                read = {row.epoch: getattr(row, split) for row in log.rows if getattr(row, split) is not None}
                dashes = ("-", (0, (4, 2)), (0, (1, 1.5)))[k % 3]
                look = style.Style(_LOG_COLOURS[k % len(_LOG_COLOURS)], dashes, "xPX*"[k % 4])
                style.plot_curves(panel, list(read), np.array([list(read.values())]), look, f"{label} (log)")
                epochs += read
            for arm in names:
                shown, values = style.curves(arms.cells[arm], f"source/{split}/top1")
                style.plot_curves(panel, shown, values, looks[arm], f"{arm} (ours)")
                epochs += shown
            panel.set_title(split)
            panel.set_xlabel("epoch" if beside or split == SPLITS[-1] else "")
            style.epoch_axis(panel, epochs)
            if max(epochs, default=0) > LINEAR_EPOCHS:
                panel.set_xscale("symlog", linthresh=LINEAR_EPOCHS, linscale=1.2)
                start = {-1: "start"} if min(epochs) == -1 else {0: "0"}
                ticks = start | {epoch: str(epoch) for epoch in (5, 10, 20, 50, 200) if epoch <= max(epochs) + 1}
                panel.set_xticks(list(ticks), list(ticks.values()))
                panel.set_xticks([], minor=True)
                panel.set_xlim(min(epochs) - 0.4, max(epochs) + 10)
        axes[0, 0].set_ylabel("source top-1")
        style.legend(figure, axes[0, 0])
        return figure

    with style.applied():
        return style.save_plots([drawn], name, "Beside the source study", ABOUT)[0]


if __name__ == "__main__":
    sys.exit(main())

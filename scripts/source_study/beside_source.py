"""The source study's logs beside this program's `source` figures: the same protocol, and no other one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from biencoder_ablate.report.analysis import Analysis
from biencoder_ablate.report.balance import Arms
from biencoder_ablate.report.figures import MOST_LINES, all_arms, first_arms
from biencoder_ablate.report.grouping import Cell
from biencoder_ablate.report.plotting import (
    Picture,
    Style,
    curves,
    epoch_axis,
    legend,
    new_figure,
    picture,
    plot_curves,
    style,
    styles,
)
from biencoder_ablate.report.source_log import SPLITS, SourceLog
from biencoder_ablate.report.tables import Column, Table, Value

LINEAR_EPOCHS = 10  # the logs go on to epoch 199: beyond these the axis is logarithmic
_LOG_COLOURS = ("#555555", "#999999", "#bbbbbb")


@dataclass(frozen=True)
class BesideSource:
    """The logs' table and figure; `problem` says why there are no figures of ours beside them, if so."""

    table: Table
    pictures: tuple[Picture, ...]
    problem: str


def beside_source(logs: Mapping[str, SourceLog], analyses: Sequence[Analysis]) -> BesideSource:
    """Each log at its best val epoch and at its last, and our arms at theirs, where they have source figures."""
    ours = [(analysis, arms) for analysis in analyses if (arms := _with_source(all_arms(analysis))) is not None]
    rows = [_log_row(name, log) for name, log in logs.items()]
    for analysis, arms in ours:
        prefix = f"{analysis.study.name}: " if len(analyses) > 1 else ""
        rows += [_our_row(f"{prefix}{name} (ours)", arms.cells[name]) for name in arms.names]
    columns = [Column("what")]
    for which in ("selected epoch", "last epoch"):
        columns += [Column(which, 1), *(Column(split, 3) for split in SPLITS)]
    columns += [Column("damaged lines", 0), Column("stray lines", 0), Column("restarts", 0)]
    caption = (
        "Top-1 as the source study's scripts computed it: over the first sixteenth of a split's points, the point "
        "itself among the candidates, so that a model which takes a point for its own counter gets it wrong. Not a "
        "figure to publish, and not comparable with any other table here. A log's "
        "selected epoch is the first with its highest val figure; ours are means over seeds at the val-selected epoch."
    )
    problem = ""
    if not ours:
        problem = "No run here has these figures; train with evaluation.source=true to read them beside the logs."
    with style():
        pictures = [
            _picture(logs, first_arms(arms, MOST_LINES), f"source_{k + 1}" if len(ours) > 1 else "source")
            for k, (_, arms) in enumerate(ours)
        ] or [_picture(logs, None, "source")]
    return BesideSource(Table("source-figures", caption, tuple(columns), tuple(rows)), tuple(pictures), problem)


def _with_source(arms: Arms) -> Arms | None:
    """The arms whose runs all recorded source figures."""
    names = tuple(name for name in arms.names if curves(arms.cells[name], "source/test/top1")[1].size)
    return Arms(names, arms.settings, {name: arms.cells[name] for name in names}, arms.seeds) if names else None


def _log_row(name: str, log: SourceLog) -> tuple[Value, ...]:
    row: list[Value] = [f"{name} (log)"]
    with_val = [found for found in log.rows if found.val is not None]
    best = max(with_val, key=lambda found: found.val or 0.0, default=None)
    with_figures = [found for found in log.rows if (found.train, found.val, found.test) != (None, None, None)]
    for found in (best, with_figures[-1] if with_figures else None):
        row += [found.epoch, found.train, found.val, found.test] if found else [None] * 4
    return (*row, log.num_damaged_lines, log.num_stray_lines, log.num_restarts)


def _our_row(name: str, cells: Sequence[Cell]) -> tuple[Value, ...]:
    runs = [run for cell in cells for run in cell.runs.values()]
    row: list[Value] = [name]
    for part in ("selected", "final"):
        records = [run.result.get(part) or {} for run in runs]
        for key in ("epoch", *(f"source/{split}/top1" for split in SPLITS)):
            values = [record[key] for record in records if record.get(key) is not None]
            row.append(float(np.mean(values)) if values else None)
    return (*row, None, None, None)


def _picture(logs: Mapping[str, SourceLog], arms: Arms | None, name: str) -> Picture:
    figure, axes = new_figure(3.1, 1, 3, sharey=True)
    looks = styles(arms.names) if arms else {}
    for split, panel in zip(SPLITS, axes[0], strict=True):
        epochs: list[int] = []
        for k, (label, log) in enumerate(logs.items()):
            found = [(row.epoch, getattr(row, split)) for row in log.rows if getattr(row, split) is not None]
            look = Style(_LOG_COLOURS[k % len(_LOG_COLOURS)], ("-", (0, (4, 2)), (0, (1, 1.5)))[k % 3], "xPX*"[k % 4])
            values = np.array([[value for _, value in found]])
            plot_curves(panel, [epoch for epoch, _ in found], values, look, f"{label} (log)")
            epochs += [epoch for epoch, _ in found]
        for arm in arms.names if arms else ():
            shown, values = curves(arms.cells[arm], f"source/{split}/top1")  # type: ignore[union-attr]
            plot_curves(panel, shown, values, looks[arm], f"{arm} (ours)")
            epochs += shown
        panel.set_title(split)
        panel.set_xlabel("epoch")
        epoch_axis(panel, epochs)
        if max(epochs, default=0) > LINEAR_EPOCHS:
            panel.set_xscale("symlog", linthresh=LINEAR_EPOCHS, linscale=1.2)
            start = {-1: "start"} if min(epochs) == -1 else {0: "0"}
            ticks = start | {epoch: str(epoch) for epoch in (5, 10, 20, 50, 200) if epoch <= max(epochs) + 1}
            panel.set_xticks(list(ticks), list(ticks.values()))
            panel.set_xticks([], minor=True)
            panel.set_xlim(min(epochs) - 0.4, max(epochs) + 10)
    axes[0, 0].set_ylabel("source top-1")
    legend(figure, axes[0, 0])
    caption = "The source study's own figure, from its logs (grey) and from our runs (means, bands and seeds as above)."
    return picture(figure, name, "Beside the source study", caption)

"""The figures of a report: which there are, the seeds and the eight tasks. plotting.py says how they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from biencoder_ablate.evaluation.candidates import TASKS
from biencoder_ablate.report.analysis import Analysis
from biencoder_ablate.report.balance import Arms, task_values
from biencoder_ablate.report.forest import forest, forest_by_setting
from biencoder_ablate.report.grouping import Cell
from biencoder_ablate.report.learning_figures import curves_by_setting, dead_pairs, learning_curves
from biencoder_ablate.report.plotting import (
    GREY,
    Picture,
    Style,
    key_legend,
    legend,
    new_figure,
    numbered,
    picture,
    seeds_text,
    style,
    styles,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 12  # of which colours, dashes and markers are told apart
MOST_ROWS = 40
MOST_PANELS = 12


def draw(analysis: Analysis) -> list[Picture]:
    """Every figure that the analysis has something for."""
    arms = all_arms(analysis)
    makers = (
        (learning_curves, MOST_LINES),
        (curves_by_setting, MOST_LINES),
        (forest, None),
        (forest_by_setting, None),
        (_dots, MOST_ROWS),
        (dead_pairs, MOST_LINES),
        (_tasks, MOST_LINES),
    )
    with style():
        return [
            _noted(picture, len(arms.names), most)
            for make, most in makers
            for picture in make(analysis, first_arms(arms, most))
        ]


def all_arms(analysis: Analysis) -> Arms:
    """What the figures' lines are: the arms of the verdict, or else every configuration."""
    if analysis.main is not None:
        return analysis.main
    cells = analysis.study.cells
    return Arms(tuple(cell.name for cell in cells), (), {cell.name: (cell,) for cell in cells}, ())


def first_arms(arms: Arms, most: int | None) -> Arms:
    """So many of the arms, or all of them."""
    names = arms.names[:most]
    return replace(arms, names=names, cells={name: arms.cells[name] for name in names})


def _noted(found: Picture, num: int, most: int | None) -> Picture:
    if most is None or num <= most:
        return found
    return replace(found, caption=f"{found.caption} Shown are the first {most} of {num}; the tables have all.")


# --- the seeds ---


def _dots(analysis: Analysis, arms: Arms) -> list[Picture]:
    """Each seed's figure, one panel a setting: what the means are made of."""
    settings = arms.settings if len(arms.settings) > 1 else ("",)
    places = range(0, len(settings), MOST_PANELS)
    caption = (
        f"{analysis.primary.capitalize()} test top-1 at the val-selected epoch, {seeds_text(arms)} a row; the mean's "
        "95% interval is Student's t over seeds."
    )
    return [
        picture(
            _dots_page(analysis, arms, settings[start : start + MOST_PANELS], start),
            *numbered("seeds", "Seed by seed", page, len(places)),
            caption,
        )
        for page, start in enumerate(places)
    ]


def _dots_page(analysis: Analysis, arms: Arms, settings: Sequence[str], start: int) -> Figure:
    columns = min(3, len(settings))
    rows = -(-len(settings) // columns)
    height = rows * (0.55 + 0.3 * len(arms.names)) + 0.65
    figure, axes = new_figure(height, rows, columns, sharex=True, sharey=True)
    looks = styles(arms.names)
    for k, panel in enumerate(axes.ravel()):
        if k >= len(settings):
            panel.set_axis_off()
            continue
        for y, name in enumerate(arms.names):
            _dot_row(panel, arms.cells[name][start + k], analysis, y, looks[name])
        panel.set_title(settings[k])
        panel.grid(axis="y", visible=False)
        panel.set_yticks(range(len(arms.names)), arms.names)
        panel.set_ylim(len(arms.names) - 0.5, -0.5)
        panel.tick_params(axis="y", length=0)
        panel.tick_params(labelbottom=k >= len(settings) - columns)
    figure.supxlabel("test top-1 (share of points)", fontsize=8.5)
    keys: list[tuple[str, dict[str, Any]]] = [
        (f"{analysis.primary}, one seed", {"color": "black", "marker": "o", "markersize": 3.6, "linestyle": ""}),
        ("mean", {"color": "black", "marker": "|", "markersize": 10, "markeredgewidth": 1.6, "linestyle": ""}),
        ("its 95% interval", {"color": "black", "alpha": 0.28, "linewidth": 6}),
    ]
    if analysis.primary == "clean":
        keys.append(("official, mean", {"color": GREY, "marker": "x", "markersize": 4.5, "linestyle": ""}))
    key_legend(figure, keys)
    return figure


def _dot_row(panel: Axes, cell: Cell, analysis: Analysis, y: float, look: Style) -> None:
    summary = analysis.summaries[cell.name][analysis.primary]
    values = [_selected(cell, seed, analysis.primary) for seed in cell.runs]
    offsets = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
    if np.isfinite(summary.low):
        panel.plot(
            [summary.low, summary.high], [y, y], color=look.color, alpha=0.28, linewidth=6, solid_capstyle="butt"
        )
    panel.plot(values, y + offsets, look.marker, color=look.color, markersize=3.6, alpha=0.8, markeredgewidth=0)
    panel.plot([summary.mean] * 2, [y - 0.34, y + 0.34], color=look.color, linewidth=1.6)
    if analysis.primary == "clean":
        official = analysis.summaries[cell.name]["official"].mean
        panel.plot([official], [y], marker="x", color=GREY, markersize=4.5)


def _selected(cell: Cell, seed: int, protocol: str) -> float:
    outcomes = cell.runs[seed].outcomes
    assert outcomes is not None
    return float(np.nanmean(getattr(outcomes, protocol)))


# --- the eight tasks ---


def _tasks(analysis: Analysis, arms: Arms) -> list[Picture]:
    figure, axes = new_figure(3.0, 1, 1)
    panel, looks = axes[0, 0], styles(arms.names)
    spread = np.linspace(-0.28, 0.28, len(arms.names)) if len(arms.names) > 1 else [0.0]
    for shift, name in zip(spread, arms.names, strict=True):
        look = looks[name]
        values = [task_values(arms.cells[name], task) for task in TASKS]
        x = np.arange(len(TASKS)) + shift
        for place, seeds in zip(x, values, strict=True):
            if len(seeds):
                panel.plot([place, place], [seeds.min(), seeds.max()], color=look.color, linewidth=1.1, alpha=0.7)
        panel.plot(
            x, [seeds.mean() if len(seeds) else np.nan for seeds in values], look.marker, color=look.color,
            markersize=5, markerfacecolor="white", markeredgewidth=1.3, label=name,
        )  # fmt: skip
    panel.set_xticks(range(len(TASKS)), TASKS)
    panel.grid(axis="x", visible=False)
    for edge in np.arange(len(TASKS) - 1) + 0.5:
        panel.axvline(edge, color="#eeeeee", linewidth=0.6)
    panel.set(ylabel="test top-1 (share of points)", ylim=(0, None))
    legend(figure, panel)
    caption = (
        "The eight candidate sets of Wachsmuth et al. 2018: same debate (sd), same theme (st), entire portal (ep); "
        "opposing counters (oc), counters (c), opposing arguments (oa), arguments (a). epa is the official figure. "
        f"Marker: mean over {seeds_text(arms)}; line: lowest to highest seed."
    )
    return [picture(figure, "tasks", "The eight tasks", caption)]

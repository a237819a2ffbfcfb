"""The figures of a report: what each shows, from an analysis. plotting.py says how they look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from biencoder_ablate.evaluation.candidates import TASKS
from biencoder_ablate.report.analysis import ALPHA, Analysis, Family
from biencoder_ablate.report.balance import Arms
from biencoder_ablate.report.bootstrap import FloatArray
from biencoder_ablate.report.grouping import Cell
from biencoder_ablate.report.plotting import (
    GREY,
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
from biencoder_ablate.report.statistics import ContrastResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ARMS = 12
MOST_SETTINGS = 12
MOST_ROWS = 40  # of a forest plot


def draw(analysis: Analysis) -> list[Picture]:
    """Every figure that the analysis has something for."""
    arms = shown_arms(analysis)
    makers = (_learning_curves, _curves_by_setting, _forest, _forest_by_setting, _dots, _dead_pairs, _tasks)
    with style():
        return [picture for maker in makers for picture in maker(analysis, arms)]


def shown_arms(analysis: Analysis) -> Arms:
    """What the figures' lines are: the arms of the verdict, or the first configurations."""
    if analysis.main is not None and len(analysis.main.names) <= MOST_ARMS:
        return analysis.main
    cells = analysis.study.cells[:MOST_ARMS]
    return Arms(tuple(cell.name for cell in cells), (), {cell.name: (cell,) for cell in cells}, ())


# --- learning curves and dead pairs ---


def _suffix(analysis: Analysis) -> str:
    return "_clean" if analysis.primary == "clean" else ""


def _learning_curves(analysis: Analysis, arms: Arms) -> list[Picture]:
    figure, axes = new_figure(3.0, 1, 3, sharey=True)
    _curve_row(axes[0], analysis, arms.names, arms.cells)
    legend(figure, axes[0, 0], len(arms.names))
    over = f", averaged over {len(arms.settings)} settings" if len(arms.settings) > 1 else ""
    caption = (
        f"{analysis.primary.capitalize()} top-1 after each epoch on train, val and test{over}. Line: mean over "
        "seeds; band: its 95% interval (Student's t); faint lines: single seeds; start: before training."
    )
    return [picture(figure, "learning_curves", "Learning curves", caption)]


def _curve_row(axes: Any, analysis: Analysis, names: Sequence[str], cells: dict[str, tuple[Cell, ...]]) -> None:
    looks = styles(names)
    for split, panel in zip(("train", "val", "test"), axes, strict=True):
        shown: list[int] = []
        for name in names:
            epochs, values = curves(cells[name], f"{split}/top1{_suffix(analysis)}")
            plot_curves(panel, epochs, values, looks[name], name)
            shown = [*shown, *epochs]
        panel.set_title(split)
        panel.set_xlabel("epoch")
        epoch_axis(panel, shown)
    axes[0].set_ylabel(f"{analysis.primary} top-1")


def _curves_by_setting(analysis: Analysis, arms: Arms) -> list[Picture]:
    if not 1 < len(arms.settings) <= MOST_SETTINGS:
        return []
    rows = len(arms.settings)
    figure, axes = new_figure(0.5 + 1.9 * rows, rows, 3, sharex=True, sharey=True)
    for k, setting in enumerate(arms.settings):
        _curve_row(axes[k], analysis, arms.names, {name: (arms.cells[name][k],) for name in arms.names})
        for panel, split in zip(axes[k], ("train", "val", "test"), strict=True):
            panel.set_title(f"{split}, {setting}")
            panel.set_xlabel("epoch" if k == rows - 1 else "")
    legend(figure, axes[0, 0], len(arms.names))
    caption = f"{analysis.primary.capitalize()} top-1 after each epoch, one row a setting; as above."
    return [picture(figure, "learning_curves_by_setting", "Learning curves by setting", caption)]


def _dead_pairs(analysis: Analysis, arms: Arms) -> list[Picture]:
    found = {name: curves(arms.cells[name], "dead_pairs") for name in arms.names}
    dying = [name for name in arms.names if found[name][1].size and found[name][1].max() > 0]
    if not dying:
        return []
    figure, axes = new_figure(2.6, 1, 1)
    looks = styles(arms.names)
    for name in dying:
        plot_curves(axes[0, 0], *found[name], looks[name], name)
    epoch_axis(axes[0, 0], [epoch for name in dying for epoch in found[name][0]])
    axes[0, 0].set(xlabel="epoch", ylabel="share of scored pairs", ylim=(0, None))
    legend(figure, axes[0, 0], len(dying))
    none = [name for name in arms.names if name not in dying]
    caption = "Pairs that a ReLU leaves with both logits at zero, among those scored in ranking all splits." + (
        f" Never any with: {', '.join(none)}." if none else ""
    )
    return [picture(figure, "dead_pairs", "Dead pairs", caption)]


# --- differences ---


def _forest(analysis: Analysis, arms: Arms) -> list[Picture]:
    kinds = ("effects", "pairs", "effects before", "variants", "interaction", "axis")
    families = [family for kind in kinds for family in analysis.families if family.kind == kind]
    return _forests(analysis, families, "forest", "Differences")


def _forest_by_setting(analysis: Analysis, arms: Arms) -> list[Picture]:
    families = [family for family in analysis.families if family.kind == "setting"]
    return _forests(analysis, families, "forest_by_setting", "Differences, setting by setting")


def _forests(analysis: Analysis, families: Sequence[Family], name: str, title: str) -> list[Picture]:
    """One figure of all families, or several where they have more rows than a page."""
    pages: list[list[Family]] = []
    for family in families:
        if pages and sum(len(other.primary) for other in pages[-1]) + len(family.primary) <= MOST_ROWS:
            pages[-1].append(family)
        else:
            pages.append([family])
    other = "official" if analysis.primary == "clean" else "clean"
    beside = any(family.beside for family in families)
    caption = (
        f"Differences in {analysis.primary} test top-1 with 95% bootstrap intervals over seeds and debates; filled: "
        f"told apart from 0 (Holm p < {ALPHA:g} and an interval that excludes 0), hollow: not."
        + (f" Grey: the same for the {other} figure." if beside else "")
    )
    pictures = []
    for k, page in enumerate(pages):
        number = f"_{k + 1}" if len(pages) > 1 else ""
        words = f" ({k + 1} of {len(pages)})" if len(pages) > 1 else ""
        pictures.append(picture(_forest_page(page), f"{name}{number}", title + words, caption))
    return pictures


def _forest_page(families: Sequence[Family]) -> Figure:
    rows = [max(1, len(family.primary)) for family in families]
    height = 0.25 * sum(rows) + 0.42 * len(rows) + 0.5
    figure, axes = new_figure(height, len(rows), 1, sharex=True, gridspec_kw={"height_ratios": [n + 0.9 for n in rows]})
    for panel, family in zip(axes[:, 0], families, strict=True):
        _forest_panel(panel, family)
    axes[-1, 0].set_xlabel("difference in top-1")
    return figure


def _forest_panel(panel: Axes, family: Family) -> None:
    panel.axvline(0, color="#444444", linewidth=0.8)
    panel.grid(axis="y", visible=False)
    for k, result in enumerate(family.primary):
        if family.beside:
            _whisker(panel, family.beside[k], k + 0.26, GREY, 3.0, 0.9)
        _whisker(panel, result, k, "black", 5.5, 1.5)
        panel.text(
            1.02, k, p_text(result.p_holm), transform=panel.get_yaxis_transform(), va="center",
            color="black" if result.told_apart(ALPHA) else GREY, fontsize=7.5,
        )  # fmt: skip
    panel.set_yticks(range(len(family.primary)), [result.contrast.name for result in family.primary])
    panel.set_ylim(len(family.primary) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.set_title(family.title)
    panel.annotate(
        "Holm p", (1.02, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", color=GREY, fontsize=7.5
    )


def _whisker(panel: Axes, result: ContrastResult, y: float, color: str, size: float, width: float) -> None:
    interval = result.interval
    if not np.isfinite(interval.estimate):
        return
    panel.plot([interval.low, interval.high], [y, y], color=color, linewidth=width, solid_capstyle="butt")
    fill = color if result.told_apart(ALPHA) else "white"
    panel.plot([interval.estimate], [y], marker="o", color=color, markersize=size, markerfacecolor=fill)


def p_text(p: float) -> str:
    """A p-value for people."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.9995 else "1"


def _dots(analysis: Analysis, arms: Arms) -> list[Picture]:
    """Each seed's figure, one panel a setting: what the means are made of."""
    settings = arms.settings if len(arms.settings) > 1 else ("",)
    settings = settings[:MOST_SETTINGS]
    columns = min(3, len(settings))
    rows = -(-len(settings) // columns)
    figure, axes = new_figure(rows * (0.55 + 0.3 * len(arms.names)) + 0.4, rows, columns, sharex=True, sharey=True)
    looks = styles(arms.names)
    for k, panel in enumerate(axes.ravel()):
        if k >= len(settings):
            panel.set_axis_off()
            continue
        for y, name in enumerate(arms.names):
            _dot_row(panel, arms.cells[name][k], analysis, y, looks[name])
        panel.set_title(settings[k])
        panel.grid(axis="y", visible=False)
        panel.set_yticks(range(len(arms.names)), arms.names)
        panel.set_ylim(len(arms.names) - 0.5, -0.5)
        panel.tick_params(axis="y", length=0)
        panel.tick_params(labelbottom=k >= len(settings) - columns)
    figure.supxlabel(f"{analysis.primary} test top-1", fontsize=8.5)
    beside = "official" if analysis.primary == "clean" else None
    caption = (
        f"{analysis.primary.capitalize()} test top-1 at the val-selected epoch, one dot a seed; stroke: the mean; bar: "
        "its 95% interval over seeds." + (" Grey cross: mean of the official figure." if beside else "")
    )
    return [picture(figure, "seeds", "Seed by seed", caption)]


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


def task_values(cells: Sequence[Cell], task: str) -> FloatArray:
    """Test top-1 of a task for each seed (S,), averaged over cells."""
    seeds = sorted(set.intersection(*(set(cell.runs) for cell in cells)))
    return np.array(
        [np.mean([cell.runs[seed].result["test"]["tasks"][task]["top1"] for cell in cells]) for seed in seeds]
    )


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
    panel.set(ylabel="test top-1", ylim=(0, None))
    legend(figure, panel, len(arms.names))
    caption = (
        "The eight candidate sets of Wachsmuth et al. 2018: same debate (sd), same theme (st), entire portal (ep); "
        "opposing counters (oc), counters (c), opposing arguments (oa), arguments (a). epa is the official figure. "
        "Marker: mean over seeds; line: lowest to highest seed."
    )
    return [picture(figure, "tasks", "The eight tasks", caption)]

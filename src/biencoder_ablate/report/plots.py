"""The figures of a report: learning curves, differences, seeds, dead pairs, tasks. style.py says how they look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biencoder_ablate.evaluation.candidates import TASKS
from biencoder_ablate.report import style
from biencoder_ablate.report.contrasts import ContrastResult
from biencoder_ablate.report.questions import ALPHA, Analysis, Family, Kind
from biencoder_ablate.report.read import Protocol
from biencoder_ablate.report.study import Arms, Cell, task_values
from biencoder_ablate.report.style import GREY, Picture, Style
from biencoder_ablate.report.tables import p_text

MOST_LINES = 12  # of which colours, dashes and markers are told apart
MOST_ROWS = 40  # of arms or of comparisons on one figure
MOST_CURVE_ROWS = 6  # settings on one figure
MOST_PANELS = 12
LONG_NAME = 44  # characters
SPLITS = ("train", "val", "test")
_PRIMARY = {"color": "black", "linewidth": 1.5, "marker": "o", "markersize": 5.5}
_BESIDE = {"color": GREY, "linewidth": 0.9, "marker": "o", "markersize": 3.0}


def draw(analysis: Analysis) -> list[Picture]:
    """Every figure that the analysis has something for."""
    arms = analysis.main
    makers: tuple[tuple[Callable[[Analysis, Arms], list[Picture]], int], ...] = (
        (_learning_curves, MOST_LINES),
        (_differences, len(arms.names)),
        (_dots, MOST_ROWS),
        (_dead_pairs, MOST_LINES),
        (_tasks, MOST_LINES),
    )
    pictures = []
    with style.applied():
        for make, most in makers:
            names = arms.names[:most]
            note = f" Shown are the first {most} of {len(arms.names)}; the tables have all."
            for made in make(analysis, replace(arms, names=names, cells={name: arms.cells[name] for name in names})):
                pictures.append(replace(made, caption=made.caption + note) if len(arms.names) > most else made)
    return pictures


def _learning_curves(analysis: Analysis, arms: Arms) -> list[Picture]:
    """Top-1 over epochs on the three splits, averaged over settings; then a row each, where there are several."""
    over = f", averaged over {len(arms.settings)} settings" if len(arms.settings) > 1 else ""
    caption = (
        f"{analysis.primary.capitalize()} top-1 after each epoch on train, val and test{over}. Line: mean over "
        f"{style.seeds_text(arms)}; band: its 95% interval (Student's t); faint lines: single seeds; start: before "
        "training."
    )
    pictures = style.pictures(
        [_curves_page(analysis, 3.0, {"": arms.cells})], "learning_curves", "Learning curves", caption
    )
    if len(arms.settings) < 2:
        return pictures
    figures = []
    for start in range(0, len(arms.settings), MOST_CURVE_ROWS):
        settings = enumerate(arms.settings[start : start + MOST_CURVE_ROWS], start)
        rows = {setting: {name: (arms.cells[name][k],) for name in arms.names} for k, setting in settings}
        figures.append(_curves_page(analysis, 0.5 + 1.9 * len(rows), rows))
    caption = f"{analysis.primary.capitalize()} top-1 after each epoch, one row a setting; as above."
    return pictures + style.pictures(figures, "learning_curves_by_setting", "Learning curves by setting", caption)


def _curves_page(analysis: Analysis, height: float, rows: Mapping[str, Mapping[str, tuple[Cell, ...]]]) -> Figure:
    """One row a setting, named where there are several, one panel a split, one line an arm."""
    figure, axes = style.new_figure(height, len(rows), 3, sharex=len(rows) > 1, sharey=True)
    for row, (setting, cells) in enumerate(rows.items()):
        looks = style.styles(list(cells))
        for split, panel in zip(SPLITS, axes[row], strict=True):
            shown: list[int] = []
            for name in cells:
                epochs, values = style.curves(cells[name], f"{split}/{analysis.primary.top1}")
                style.plot_curves(panel, epochs, values, looks[name], name)
                shown += epochs
            panel.set_title(f"{split}, {setting}" if setting else split)
            panel.set_xlabel("epoch" if row == len(rows) - 1 else "")
            style.epoch_axis(panel, shown)
        axes[row, 0].set_ylabel(f"{analysis.primary} top-1")
    style.legend(figure, axes[0, 0])
    return figure


def _dead_pairs(analysis: Analysis, arms: Arms) -> list[Picture]:
    """The share of pairs with both logits at zero, over epochs; nothing where there are none."""
    by_name = {name: style.curves(arms.cells[name], "dead_pairs") for name in arms.names}
    dying = [name for name, (_, values) in by_name.items() if values.size and values.max() > 0]
    if not dying:
        return []
    figure, axes = style.new_figure(2.6, 1, 1)
    looks = style.styles(arms.names)
    for name in dying:
        style.plot_curves(axes[0, 0], *by_name[name], looks[name], name)
    style.epoch_axis(axes[0, 0], [epoch for name in dying for epoch in by_name[name][0]])
    axes[0, 0].set(xlabel="epoch", ylabel="share of scored pairs", ylim=(0, None))
    style.legend(figure, axes[0, 0])
    never = [name for name in arms.names if name not in dying]
    caption = (
        f"Pairs that a ReLU leaves with both logits at zero, among those scored in ranking all splits; mean over "
        f"{style.seeds_text(arms)}, its 95% interval, single seeds."
        + (f" Never any with: {', '.join(never)}." if never else "")
    )
    return style.pictures([figure], "dead_pairs", "Dead pairs", caption)


def _differences(analysis: Analysis, arms: Arms) -> list[Picture]:
    """Every comparison with its interval and p, the figure that decides and the other beside it; each setting after."""
    pictures: list[Picture] = []
    kinds = [kind for kind in Kind if kind is not Kind.SETTING]
    for name, title, families in (
        ("forest", "Differences", analysis.of(*kinds)),
        ("forest_by_setting", "Differences, setting by setting", analysis.of(Kind.SETTING)),
    ):
        pages: list[list[Family]] = []
        for family in families:
            if pages and sum(len(other.primary) for other in pages[-1]) + len(family.primary) <= MOST_ROWS:
                pages[-1].append(family)
            else:
                pages.append([family])
        caption = (
            f"Differences in {analysis.primary} test top-1 with 95% intervals over seeds and debates. Right of 0 "
            "the first named is better, or a part better than without it. Told apart from 0: Holm p < "
            f"{ALPHA:g}, of seeds and of seeds and debates."
        )
        pictures += style.pictures([forest_page(page, analysis.primary) for page in pages], name, title, caption)
    return pictures


def forest_page(families: Sequence[Family], primary: Protocol) -> Figure:
    """One panel a family, one row a comparison."""
    heights = [0.25 * max(1, len(family.primary)) for family in families]
    shares = {"height_ratios": [height + 0.225 for height in heights]}
    height = sum(heights) + 0.42 * len(heights) + 0.75
    figure, axes = style.new_figure(height, len(heights), 1, sharex=True, gridspec_kw=shares)
    for panel, family in zip(axes[:, 0], families, strict=True):
        _forest_panel(panel, family)
    axes[-1, 0].set_xlabel("difference in test top-1 (share of points)")
    axes[-1, 0].locator_params(axis="x", nbins=8)
    keys = [
        (f"{primary}, told apart from 0", {**_PRIMARY, "markerfacecolor": "black"}),
        (f"{primary}, not told apart", {**_PRIMARY, "markerfacecolor": "white"}),
        (f"{primary.other} figure, likewise", {**_BESIDE, "markerfacecolor": "white"}),
    ]
    style.key_legend(figure, keys if any(family.beside for family in families) else keys[:2])
    return figure


def _forest_panel(panel: Axes, family: Family) -> None:
    panel.axvline(0, color="#444444", linewidth=0.8)
    panel.grid(axis="y", visible=False)
    for k, result in enumerate(family.primary):
        if family.beside:
            _whisker(panel, family.beside[k], k + 0.26, _BESIDE)
        _whisker(panel, result, k, _PRIMARY)
        panel.text(
            1.02, k, p_text(result.p_family), transform=panel.get_yaxis_transform(), va="center",
            color="black" if result.told_apart(ALPHA) else GREY, fontsize=7.5,
        )  # fmt: skip
    names = [result.contrast.name for result in family.primary]
    names = [name.replace(" − ", "\n− ") if len(name) > LONG_NAME else name for name in names]  # room for the plot
    panel.set_yticks(range(len(names)), names)
    for label in panel.get_yticklabels():
        if "\n" in label.get_text():
            label.set_fontsize(6.8)  # two lines in the height of a row
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.set_title(family.title)
    panel.annotate(
        "Holm p", (1.02, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", color=GREY, fontsize=7.5
    )


def _whisker(panel: Axes, result: ContrastResult, y: float, look: Mapping[str, Any]) -> None:
    interval = result.interval
    if np.isfinite(interval.estimate):
        line = {name: value for name, value in look.items() if not name.startswith("marker")}
        panel.plot([interval.low, interval.high], [y, y], **line, solid_capstyle="butt")
        fill = look["color"] if result.told_apart(ALPHA) else "white"
        panel.plot([interval.estimate], [y], **look, markerfacecolor=fill)


def _dots(analysis: Analysis, arms: Arms) -> list[Picture]:
    """Each seed's figure, one panel a setting: what the means are made of."""
    settings = arms.settings if len(arms.settings) > 1 else ("",)
    caption = (
        f"{analysis.primary.capitalize()} test top-1 at the val-selected epoch, {style.seeds_text(arms)} a row; the "
        "mean's 95% interval is Student's t over seeds."
    )
    starts = range(0, len(settings), MOST_PANELS)
    figures = [_dots_page(analysis, arms, settings[start : start + MOST_PANELS], start) for start in starts]
    return style.pictures(figures, "seeds", "Seed by seed", caption)


def _dots_page(analysis: Analysis, arms: Arms, settings: Sequence[str], start: int) -> Figure:
    columns = min(3, len(settings))
    rows = -(-len(settings) // columns)
    height = rows * (0.55 + 0.3 * len(arms.names)) + 0.65
    figure, axes = style.new_figure(height, rows, columns, sharex=True, sharey=True)
    looks = style.styles(arms.names)
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
    if analysis.primary is Protocol.CLEAN:
        keys.append(("official, mean", {"color": GREY, "marker": "x", "markersize": 4.5, "linestyle": ""}))
    style.key_legend(figure, keys)
    return figure


def _dot_row(panel: Axes, cell: Cell, analysis: Analysis, y: float, look: Style) -> None:
    summary = analysis.summaries[cell.name][analysis.primary]
    values = cell.outcomes(analysis.primary).correct.mean(axis=1)
    offsets = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
    if np.isfinite(summary.low):
        ends = [summary.low, summary.high]
        panel.plot(ends, [y, y], color=look.color, alpha=0.28, linewidth=6, solid_capstyle="butt")
    panel.plot(values, y + offsets, look.marker, color=look.color, markersize=3.6, alpha=0.8, markeredgewidth=0)
    panel.plot([summary.mean] * 2, [y - 0.34, y + 0.34], color=look.color, linewidth=1.6)
    if analysis.primary is Protocol.CLEAN:
        official = analysis.summaries[cell.name][Protocol.OFFICIAL].mean
        panel.plot([official], [y], marker="x", color=GREY, markersize=4.5)


def _tasks(analysis: Analysis, arms: Arms) -> list[Picture]:
    figure, axes = style.new_figure(3.0, 1, 1)
    panel, looks = axes[0, 0], style.styles(arms.names)
    spread = np.linspace(-0.28, 0.28, len(arms.names)) if len(arms.names) > 1 else [0.0]
    for shift, name in zip(spread, arms.names, strict=True):
        look = looks[name]
        values = [task_values(arms.cells[name], task) for task in TASKS]
        x = np.arange(len(TASKS)) + shift
        for at, seeds in zip(x, values, strict=True):
            if len(seeds):
                panel.plot([at, at], [seeds.min(), seeds.max()], color=look.color, linewidth=1.1, alpha=0.7)
        panel.plot(
            x, [seeds.mean() if len(seeds) else np.nan for seeds in values], look.marker, color=look.color,
            markersize=5, markerfacecolor="white", markeredgewidth=1.3, label=name,
        )  # fmt: skip
    panel.set_xticks(range(len(TASKS)), TASKS)
    panel.grid(axis="x", visible=False)
    for edge in np.arange(len(TASKS) - 1) + 0.5:
        panel.axvline(edge, color="#eeeeee", linewidth=0.6)
    panel.set(ylabel="test top-1 (share of points)", ylim=(0, None))
    style.legend(figure, panel)
    caption = (
        "The eight candidate sets of Wachsmuth et al. 2018: same debate (sd), same theme (st), entire portal (ep); "
        "opposing counters (oc), counters (c), opposing arguments (oa), arguments (a). epa is the official figure. "
        f"Marker: mean over {style.seeds_text(arms)}; line: lowest to highest seed."
    )
    return style.pictures([figure], "tasks", "The eight tasks", caption)

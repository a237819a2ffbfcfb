"""The plots of a report: learning curves, differences, seeds, dead pairs, tasks. plot_style.py says how they look.

A page of a plot is a function from a width in inches to a figure: each is drawn for the page and for a telephone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biencoder_ablate.report import plot_style as style
from biencoder_ablate.report.analysis import Analysis, Family, Kind
from biencoder_ablate.report.candidate_sets import measured_tasks, tasks_title
from biencoder_ablate.report.comparisons import ContrastResult
from biencoder_ablate.report.diagnostics import Baseline
from biencoder_ablate.report.plot_style import GREY, Plot, Style, save_plots
from biencoder_ablate.report.read import Protocol
from biencoder_ablate.report.statistics import ALPHA
from biencoder_ablate.report.study import Arms, Cell, task_values
from biencoder_ablate.report.tables import p_text

MOST_LINES = 12  # of which colours, dashes and markers are told apart
MOST_ROWS = 40  # of arms or of comparisons on one page
MOST_BESIDE = 16  # comparisons beside the answers, where the table below is to stay on the first screen
MOST_CURVE_ROWS = 6  # settings on one page
MOST_PANELS = 12
MOST_SQUEEZED = 2  # times the range of the seeds' values that a baseline may lie beyond it and still be drawn
SHORT_NAME, LONG_NAME = 18, 44  # characters
SPLITS = ("train", "val", "test")
_PRIMARY = dict(
    color="black",
    linewidth=2.2,
    marker="o",
    markersize=5.5,
)
_BESIDE = dict(
    color=GREY,
    linewidth=0.9,
    marker="o",
    markersize=3.0,
)
_BASELINE = dict(
    color=GREY,
    linewidth=1.1,
    linestyle=":",
)


def draw(analysis: Analysis, others: Sequence[Baseline] = ()) -> list[Plot]:
    """Every plot that the analysis has something for; the highest of `others` is a line in them."""
    # One line alone: more would squeeze what is compared.
    key = analysis.key()
    known = [other for other in others if other.figures.get(key) is not None]
    lines = sorted(known, key=lambda other: -other.figures[key])[:1]

    arms = analysis.main
    num_arms = len(arms.names)
    plots = []
    with style.applied():
        for make, most in (
            (partial(_learning_curves, lines=lines), MOST_LINES),
            (_differences, num_arms),
            (partial(_dots, lines=lines), MOST_ROWS),
            (_dead_pairs, MOST_LINES),
            (_tasks, MOST_LINES),
        ):
            names = arms.names[:most]
            first_arms = replace(arms, names=names, cells={name: arms.cells[name] for name in names})
            for plot in make(analysis, first_arms):
                if most < num_arms:
                    note = f" Shown are the first {most} of {num_arms}; the tables have all."
                    plot = replace(plot, caption=plot.caption + note)
                plots.append(plot)
    return plots


# --- over epochs ---


def _learning_curves(
    analysis: Analysis,
    arms: Arms,
    lines: Sequence[Baseline],
) -> list[Plot]:
    """The metric over epochs on the three splits, averaged over settings; then a row each, where there are several."""
    epochs, _ = style.curves(arms.cells[arms.names[0]], f"test/{analysis.key()}")
    if not epochs:  # as external runs have none
        return []
    num_settings = len(arms.settings)
    over = f", averaged over {num_settings} settings" if num_settings > 1 else ""
    metric = f"{analysis.primary.capitalize()} {analysis.measure}"
    plots = save_plots(
        [partial(_curves_page, analysis, {"": arms.cells}, lines)],
        "learning_curves",
        "Learning curves",
        f"{metric} after each epoch on train, val and test{over}. Line: mean over {style.seeds_text(arms)}; bar at its "
        "end: its 95% interval there (Student's t); start: before training.",
    )
    if num_settings < 2:
        return plots

    pages = []
    for start in range(0, num_settings, MOST_CURVE_ROWS):
        rows = {}
        for k, setting in enumerate(arms.settings[start : start + MOST_CURVE_ROWS], start):
            rows[setting] = {name: (cells[k],) for name, cells in arms.cells.items()}
        pages.append(partial(_curves_page, analysis, rows, lines))
    return plots + save_plots(
        pages,
        "learning_curves_by_setting",
        "Learning curves by setting",
        f"{metric} after each epoch, one row a setting.",
    )


def _curves_page(
    analysis: Analysis,
    rows: Mapping[str, Mapping[str, tuple[Cell, ...]]],
    lines: Sequence[Baseline],
    width: float,
) -> Figure:
    """One row a setting, named where there are several, one panel a split, one line an arm.

    A narrow page has val above test, and leaves train out, which is no answer.
    """
    # One setting alone has its panels below one another on a narrow page.
    narrow = width == style.NARROW
    single = len(rows) == 1
    splits = SPLITS[1:] if narrow else SPLITS
    num_rows, num_columns = len(rows), len(splits)
    if narrow and single:
        num_rows, num_columns = num_columns, 1
    row_height = 2.7 if single and not narrow else 1.9
    figure, axes = style.new_figure(
        row_height * num_rows + 0.55,
        num_rows,
        num_columns,
        width,
        sharex=not single,
    )

    panels = axes.reshape(len(rows), len(splits))
    for row, (setting, cells_by_arm) in zip(panels, rows.items(), strict=True):
        looks = style.styles(list(cells_by_arm))
        for split, panel in zip(splits, row, strict=True):
            key = f"{split}/{analysis.key()}"
            curves = {name: style.curves(cells, key) for name, cells in cells_by_arm.items()}
            style.plot_all_curves(panel, curves, looks)
            if split == "test":
                _baseline_lines(panel.axhline, analysis, lines)
            title = f"{split}, {setting}" if setting else split
            panel.set_title(style.fitted(title, width / num_columns))

    # One scale for val and test; train, known by heart in the end, has its own.
    held_out = panels[:, -2:].ravel()
    lows, highs = zip(*(panel.get_ylim() for panel in held_out), strict=True)
    for panel in held_out:
        panel.set_ylim(min(lows), max(highs))

    for panel in axes[-1]:
        panel.set_xlabel("epoch")
    for panel in axes[:, 0]:
        panel.set_ylabel(f"{analysis.primary} {analysis.measure}")
    style.legend(figure, panels[0, -1])
    return figure


def _baseline_lines(
    draw_line: Callable[..., Any],
    analysis: Analysis,
    lines: Sequence[Baseline],
) -> None:
    for baseline in lines:
        draw_line(baseline.figures[analysis.key()], **_BASELINE, label=baseline.label)


def _dead_pairs(analysis: Analysis, arms: Arms) -> list[Plot]:
    """The share of pairs with both logits at zero, over epochs; nothing where there are none."""
    curves, never = {}, []
    for name in arms.names:
        epochs, values = style.curves(arms.cells[name], "dead_pairs")
        if values.size and values.max() > 0:
            curves[name] = epochs, values
        else:
            never.append(name)
    if not curves:
        return []
    looks = style.styles(arms.names)  # of all arms, so that each looks as in the other plots

    def page(width: float) -> Figure:
        figure, axes = style.new_figure(2.6, 1, 1, width)
        panel = axes[0, 0]
        style.plot_all_curves(panel, curves, looks)
        panel.set(xlabel="epoch", ylabel="share of scored pairs", ylim=(0, None))
        style.legend(figure, panel)
        return figure

    caption = (
        f"Pairs that a ReLU leaves with both logits at zero, among those scored in ranking all splits; mean over "
        f"{style.seeds_text(arms)}, its 95% interval at the end."
    )
    if never:
        caption += f" Never any with: {', '.join(never)}."
    return save_plots([page], "dead_pairs", "Dead pairs", caption)


# --- comparisons ---


def _differences(analysis: Analysis, arms: Arms) -> list[Plot]:
    """Every comparison with its interval and p, by the protocol that decides and the other beside it.

    First the parts and every pair, which stand beside the answers as far as there is room; then further questions, then
    each setting.
    """
    # Whole families beside the answers, at least one, as many as have room.
    families = analysis.of(Kind.PARTS, Kind.EFFECTS, Kind.PAIRS)
    further = analysis.of(Kind.EFFECTS_BEFORE, Kind.VARIANTS, Kind.INTERACTION, Kind.AXIS)
    rows_so_far = np.cumsum([len(family.primary) for family in families])
    num_beside = max(1, int(np.sum(rows_so_far <= MOST_BESIDE)))

    plots: list[Plot] = []
    for name, title, families_here, width in (
        ("forest", "Differences", families[:num_beside], style.HALF),
        ("forest_more", "Further differences", families[num_beside:] + further, style.WIDTH),
        ("forest_by_setting", "Differences, setting by setting", analysis.of(Kind.SETTING), style.WIDTH),
    ):
        # Families stay whole: one that does not fit begins a page.
        groups: list[list[Family]] = []
        num_rows = 0
        for family in families_here:
            num_rows += len(family.primary)
            if not groups or num_rows > MOST_ROWS:
                groups.append([])
                num_rows = len(family.primary)
            groups[-1].append(family)
        page = partial(forest_page, measure=analysis.measure, queries=analysis.words.plural)
        pages = [partial(page, group, analysis.primary) for group in groups]

        caption = "As in the first figure."
        if not plots:
            caption = (
                f"Differences in {analysis.figure()}, right of 0 where the first named is better. Thick: 95% interval "
                f"over seeds and {analysis.words.groups}; thin: the one that holds for its whole family at once. "
                f"Filled: told apart from 0, Holm p < {ALPHA:g}."
            )
        plots += save_plots(pages, name, title, caption, width)
    return plots


def forest_page(
    families: Sequence[Family],
    primary: Protocol,
    width: float = style.WIDTH,
    measure: str = "test top-1",
    queries: str = "queries",
) -> Figure:
    """One panel a family, one row a comparison; on a narrow page its name above it."""
    narrow = width == style.NARROW
    # In inches: 0.42 for a family's title, margins once.
    row_height = 0.4 if narrow else 0.25
    heights = [row_height * max(1, len(family.primary)) for family in families]
    margins = 1.35 if narrow else 0.75
    figure, axes = style.new_figure(
        sum(heights) + 0.42 * len(heights) + margins,
        len(heights),
        1,
        width,
        sharex=True,
        gridspec_kw={"height_ratios": [height + 0.225 for height in heights]},
    )
    for panel, family in zip(axes[:, 0], families, strict=True):
        _forest_panel(panel, family, narrow)
    lowest = axes[-1, 0]
    lowest.set_xlabel(f"difference in {measure}, mean over {queries}")
    lowest.locator_params(axis="x", nbins=5 if narrow else 8)

    # The mark beside is explained only where there is one.
    keys = [
        ("told apart from 0", _PRIMARY | dict(markerfacecolor="black")),
        ("not told apart", _PRIMARY | dict(markerfacecolor="white")),
    ]
    if any(family.beside for family in families):
        keys.append((f"{primary.other} figure", _BESIDE | dict(markerfacecolor="white")))
    style.key_legend(figure, keys)
    return figure


def _forest_panel(panel: Axes, family: Family, narrow: bool) -> None:
    panel.axvline(0, color="#444444", linewidth=0.8)
    panel.grid(axis="y", visible=False)

    # What varies is in the title, and a long name takes two lines: both leave room for the plot.
    longest = (SHORT_NAME + LONG_NAME) // 2 if narrow else LONG_NAME
    names = []
    for result in family.primary:
        name = result.contrast.name.replace(f"{family.subject}=", "")
        if len(name) > longest:
            # A difference is broken before its second name, a change of several settings after the first.
            name = name.replace(" − ", "\n− ", 1) if " − " in name else name.replace(", ", ",\n", 1)
        names.append(name)

    from_the_left: dict[str, Any] = dict(
        transform=panel.get_yaxis_transform(),
        va="center",
    )
    # One row a comparison; p at the right edge, and on a narrow page the name above it at the left.
    for k, result in enumerate(family.primary):
        if family.beside:
            _whisker(panel, family.beside[k], k + 0.26, _BESIDE)
        _whisker(panel, result, k, _PRIMARY)
        x, y, aligned = (1, k - 0.36, "right") if narrow else (1.02, k, "left")
        if narrow:
            panel.text(0, y, names[k], fontsize=6.5 if "\n" in names[k] else 7.5, **from_the_left)
        panel.text(
            x,
            y,
            p_text(result.p_family),
            ha=aligned,
            color="black" if result.is_significant() else GREY,
            fontsize=7.5,
            **from_the_left,
        )

    if narrow:
        panel.set_yticks([])
        panel.set_ylim(len(names) - 0.5, -0.7)
    else:
        panel.set_yticks(range(len(names)), names)
        for label in panel.get_yticklabels():
            if "\n" in label.get_text():
                label.set_fontsize(6.8)  # two lines in the height of a row
        panel.set_ylim(len(names) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    title = family.title.partition(", which is ")[0]  # what the centre is stands above the figure
    panel.set_title(style.fitted(title, style.NARROW if narrow else style.HALF))
    panel.annotate(
        "Holm p",
        (1 if narrow else 1.02, 1),
        (0, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        color=GREY,
        fontsize=7.5,
        ha="right" if narrow else "left",
    )


def _whisker(
    panel: Axes,
    result: ContrastResult,
    y: float,
    look: Mapping[str, Any],
) -> None:
    """A comparison's estimate and interval; of the deciding protocol also the interval of the whole family."""
    interval = result.interval
    if not np.isfinite(interval.estimate):
        return
    line: dict[str, Any] = dict(color=look["color"], linewidth=look["linewidth"])
    ends = [y, y]
    if look is _PRIMARY and np.isfinite(result.family_low):
        panel.plot([result.family_low, result.family_high], ends, **line | dict(linewidth=0.7))
    panel.plot([interval.low, interval.high], ends, **line, solid_capstyle="butt")
    fill = look["color"] if result.is_significant() else "white"
    panel.plot([interval.estimate], [y], **look, markerfacecolor=fill)


# --- seed by seed ---


def _dots(
    analysis: Analysis,
    arms: Arms,
    lines: Sequence[Baseline],
) -> list[Plot]:
    """Each seed's value, one panel a setting: what the means are made of."""
    # A baseline far from all seeds would squeeze them: it is named in the caption instead.
    primary, key = analysis.primary, analysis.key()
    values = np.concatenate([cell.outcomes(primary).correct.mean(axis=1) for cell in analysis.study.cells])
    room = MOST_SQUEEZED * np.ptp(values)
    near, beyond = [], []
    for baseline in lines:
        value = baseline.figures[key]
        if values.min() - room <= value <= values.max() + room:
            near.append(baseline)
        else:
            beyond.append(f"{baseline.label} ({value:.3f})")

    selected = " at the selected epoch" if analysis.study.trained_here else ""
    caption = (
        f"{analysis.figure(starts=True)}{selected}, {style.seeds_text(arms)} a row; the mean's 95% interval is "
        "Student's t over seeds."
    )
    if beyond:
        caption += f" Beyond the edge: {', '.join(beyond)}."
    settings = arms.settings if len(arms.settings) > 1 else ("",)
    pages = []
    for start in range(0, len(settings), MOST_PANELS):
        settings_here = settings[start : start + MOST_PANELS]
        pages.append(partial(_dots_page, analysis, arms, near, settings_here, start))
    return save_plots(pages, "seeds", "Seed by seed", caption)


def _dots_page(
    analysis: Analysis,
    arms: Arms,
    lines: Sequence[Baseline],
    settings: Sequence[str],
    start: int,
    width: float,
) -> Figure:
    """One panel for each of these settings, which begin at `start` among the arms' cells; one row an arm."""
    names = arms.names
    num_rows = len(names)
    narrow = width == style.NARROW
    above = narrow and max(map(len, names)) > SHORT_NAME  # names above their rows leave room for the plot
    num_columns = 1 if narrow else min(3, len(settings))
    num_panel_rows = -(-len(settings) // num_columns)

    # In inches: a title and a margin for each row of panels, the axis's label once.
    row_height = 0.5 if above else 0.3
    figure, axes = style.new_figure(
        num_panel_rows * (0.55 + row_height * num_rows) + 0.65,
        num_panel_rows,
        num_columns,
        width,
        sharex=True,
        sharey=True,
    )
    looks = style.styles(names)
    panels = axes.ravel()
    for panel in panels[len(settings) :]:
        panel.set_axis_off()
    for k, (setting, panel) in enumerate(zip(settings, panels, strict=False)):
        for y, name in enumerate(names):
            _dot_row(panel, arms.cells[name][start + k], analysis, y, looks[name])
        _baseline_lines(panel.axvline, analysis, lines)
        panel.set_title(style.fitted(setting, width / num_columns))
        panel.grid(axis="y", visible=False)

        if above:
            panel.set_yticks(range(num_rows), [""] * num_rows)
            for y, name in enumerate(names):
                panel.text(0, y - 0.42, name, fontsize=7.5, va="center", transform=panel.get_yaxis_transform())
        else:
            panel.set_yticks(range(num_rows), names)
        panel.set_ylim(num_rows - 0.5, -0.7 if above else -0.5)
        panel.tick_params(axis="y", length=0)
        panel.tick_params(labelbottom=k >= len(settings) - num_columns)  # nothing stands below
    figure.supxlabel(f"{analysis.measure}, mean over {analysis.words.plural}", fontsize=8.5)

    # In black: the marks mean the same for every arm.
    dot = dict(
        color="black",
        marker="o",
        markersize=3.6,
        linestyle="",
    )
    bar = dict(
        marker="|",
        markersize=10,
        markeredgewidth=1.6,
    )
    one_seed = f"{analysis.primary}, one seed" if analysis.study.trained_here else "one seed"
    keys = [
        (one_seed, dot),
        ("mean", dot | bar),
        ("its 95% interval", dict(color="black", alpha=0.28, linewidth=6)),
    ]
    keys += [(baseline.label, _BASELINE) for baseline in lines]
    style.key_legend(figure, keys)
    return figure


def _dot_row(
    panel: Axes,
    cell: Cell,
    analysis: Analysis,
    y: float,
    look: Style,
) -> None:
    """A configuration's seeds side by side, their mean, and its interval."""
    summary = analysis.summaries[cell.name][analysis.primary]
    values = cell.outcomes(analysis.primary).correct.mean(axis=1)  # (S,)
    if np.isfinite(summary.low):
        panel.plot(
            [summary.low, summary.high],
            [y, y],
            color=look.color,
            alpha=0.28,
            linewidth=6,
            solid_capstyle="butt",
        )
    panel.plot(
        values,
        y + style.side_by_side(len(values), 0.2),
        look.marker,
        color=look.color,
        markersize=3.6,
        alpha=0.8,
        markeredgewidth=0,
    )
    panel.plot([summary.mean] * 2, [y - 0.34, y + 0.34], color=look.color, linewidth=1.6)


# --- candidate sets ---


def _tasks(analysis: Analysis, arms: Arms) -> list[Plot]:
    """Test top-1 on the candidate sets of Wachsmuth et al. 2018 that were measured."""
    tasks = measured_tasks(analysis.study.runs)
    if not tasks:
        return []
    looks = style.styles(arms.names)
    offsets = style.side_by_side(len(arms.names), 0.28)
    values = {name: [task_values(arms.cells[name], task) for task in tasks] for name in arms.names}

    def page(width: float) -> Figure:
        figure, axes = style.new_figure(3.0, 1, 1, width)
        panel = axes[0, 0]
        # An arm's marks stand side by side with the others' above a task's name.
        for offset, name in zip(offsets, arms.names, strict=True):
            color = looks[name].color
            positions = np.arange(len(tasks)) + offset
            means = []
            for x, seeds in zip(positions, values[name], strict=True):
                means.append(seeds.mean() if len(seeds) else np.nan)
                if len(seeds):
                    panel.plot([x, x], [seeds.min(), seeds.max()], color=color, linewidth=1.1, alpha=0.7)
            panel.plot(
                positions,
                means,
                looks[name].marker,
                color=color,
                markersize=5,
                markerfacecolor="white",
                markeredgewidth=1.3,
                label=name,
            )
        panel.set_xticks(range(len(tasks)), tasks)
        panel.grid(axis="x", visible=False)
        for edge in np.arange(len(tasks) - 1) + 0.5:
            panel.axvline(edge, color="#eeeeee", linewidth=0.6)
        panel.set_ylabel(f"test top-1 (share of {analysis.words.plural})")
        style.legend(figure, panel)
        return figure

    caption = (
        "Candidate sets of Wachsmuth et al. 2018: same debate (sd), same theme (st), entire portal (ep); "
        "opposing counters (oc), counters (c), opposing arguments (oa), arguments (a). "
        f"{tasks[-1]} is the official figure. "
        f"Marker: mean over {style.seeds_text(arms)}; line: lowest to highest seed."
    )
    return save_plots([page], "tasks", tasks_title(tasks), caption)

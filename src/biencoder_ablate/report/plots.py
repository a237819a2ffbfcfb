"""The figures of a report: learning curves, differences, seeds, dead pairs, tasks. style.py says how they look."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biencoder_ablate.evaluation.candidates import TASKS
from biencoder_ablate.report import plot_style as style
from biencoder_ablate.report.analysis import Analysis, Family, Kind
from biencoder_ablate.report.comparisons import ContrastResult
from biencoder_ablate.report.diagnostics import Baseline
from biencoder_ablate.report.plot_style import GREY, Picture, Style
from biencoder_ablate.report.read import Protocol
from biencoder_ablate.report.statistics import ALPHA
from biencoder_ablate.report.study import Arms, Cell, task_values
from biencoder_ablate.report.tables import p_text

MOST_LINES = 12  # of which colours, dashes and markers are told apart
MOST_ROWS = 40  # of arms or of comparisons on one figure
MOST_BESIDE = 16  # comparisons beside the answers, where the table below is to stay on the first screen
MOST_CURVE_ROWS = 6  # settings on one figure
MOST_PANELS = 12
MOST_SQUEEZED = 2  # times as wide as the seeds' figures that a baseline may make their axis, on its side
SHORT_NAME, LONG_NAME = 18, 44  # characters
SPLITS = ("train", "val", "test")
T = TypeVar("T")
_PRIMARY = {"color": "black", "linewidth": 2.2, "marker": "o", "markersize": 5.5}
_BESIDE = {"color": GREY, "linewidth": 0.9, "marker": "o", "markersize": 3.0}
_LINE = {"color": GREY, "linewidth": 1.1, "linestyle": ":"}


def draw(analysis: Analysis, others: Sequence[Baseline] = ()) -> list[Picture]:
    """Every figure that the analysis has something for; `others` are lines to read the figures beside."""
    arms = analysis.main
    known = [other for other in others if other.figures.get(analysis.key()) is not None]
    lines = sorted(known, key=lambda other: -other.figures[analysis.key()])[:1]  # more would squeeze what is compared
    makers: tuple[tuple[Callable[[Analysis, Arms, Sequence[Baseline]], list[Picture]], int], ...] = (
        (_learning_curves, MOST_LINES),
        (_differences, len(arms.names)),
        (_dots, MOST_ROWS),
        (_dead_pairs, MOST_LINES),
        (_tasks, MOST_LINES),
    )

    def drawn(places: Sequence[int]) -> dict[int, list[Picture]]:
        """What the makers at these places draw."""
        found = {}
        for place in places:
            make, most = makers[place]
            names = arms.names[:most]
            note = f" Shown are the first {most} of {len(arms.names)}; the tables have all."
            shown = replace(arms, names=names, cells={name: arms.cells[name] for name in names})
            made = make(analysis, shown, lines)
            cut = len(arms.names) > most
            found[place] = [replace(picture, caption=picture.caption + note * cut) for picture in made]
        return found

    with style.applied():
        others_drawn = _meanwhile(partial(drawn, (0, 4)))  # about as much as the rest
        pictures = drawn((1, 2, 3)) | others_drawn()
    return [picture for place in range(len(makers)) for picture in pictures[place]]


def _meanwhile(work: Callable[[], T]) -> Callable[[], T]:
    """Begin the work in a second process, where there is a core for it and fork, which costs nothing; returns what
    waits for its result. What fails there is done again here, so that errors are those of this process."""
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2 or multiprocessing.current_process().daemon:
        return work
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)

    def carry_out() -> None:
        with contextlib.suppress(BaseException):
            sender.send(work())

    process = fork.Process(target=carry_out, daemon=True)
    process.start()
    sender.close()

    def result() -> T:
        try:
            return receiver.recv()
        except EOFError:
            return work()
        finally:
            process.join()

    return result


def _twins(make: Callable[[float], Figure], width: float = style.WIDTH) -> tuple[Figure, Figure]:
    """A figure at the page's width, and drawn anew for a telephone's."""
    return make(width), make(style.NARROW)


def _learning_curves(analysis: Analysis, arms: Arms, lines: Sequence[Baseline]) -> list[Picture]:
    """Top-1 over epochs on the three splits, averaged over settings; then a row each, where there are several."""
    over = f", averaged over {len(arms.settings)} settings" if len(arms.settings) > 1 else ""
    caption = (
        f"{analysis.primary.capitalize()} {analysis.measure} after each epoch on train, val and test{over}. Line: "
        f"mean over {style.seeds_text(arms)}; bar at its end: its 95% interval there (Student's t); start: before "
        "training."
    )
    if not style.curves(arms.cells[arms.names[0]], f"test/{analysis.key()}")[0]:  # an outside run has no epochs
        return []
    page = [_twins(partial(_curves_page, analysis, {"": arms.cells}, lines))]
    pictures = style.pictures(page, "learning_curves", "Learning curves", caption)
    if len(arms.settings) < 2:
        return pictures
    figures = []
    for start in range(0, len(arms.settings), MOST_CURVE_ROWS):
        settings = enumerate(arms.settings[start : start + MOST_CURVE_ROWS], start)
        rows = {setting: {name: (arms.cells[name][k],) for name in arms.names} for k, setting in settings}
        figures.append(_twins(partial(_curves_page, analysis, rows, lines)))
    caption = f"{analysis.primary.capitalize()} {analysis.measure} after each epoch, one row a setting."
    return pictures + style.pictures(figures, "learning_curves_by_setting", "Learning curves by setting", caption)


def _curves_page(
    analysis: Analysis, rows: Mapping[str, Mapping[str, tuple[Cell, ...]]], lines: Sequence[Baseline], width: float
) -> Figure:
    """One row a setting, named where there are several, one panel a split, one line an arm.

    A narrow page has val above test, and leaves train out, which is no answer.
    """
    narrow, single = width == style.NARROW, len(rows) == 1
    splits = SPLITS[1:] if narrow else SPLITS
    grid = (len(splits), 1) if narrow and single else (len(rows), len(splits))
    height = (1.9 * grid[0] if narrow else 1.9 * len(rows) if not single else 2.7) + 0.55
    figure, axes = style.new_figure(height, *grid, width, sharex=not single)
    panels = axes.reshape(len(rows), len(splits))
    for row, (setting, cells) in enumerate(rows.items()):
        looks = style.styles(list(cells))
        for split, panel in zip(splits, panels[row], strict=True):
            drawn = {name: style.curves(cells[name], f"{split}/{analysis.key()}") for name in cells}
            shown = [epoch for epochs, _ in drawn.values() for epoch in epochs]
            shifts = style.end_shifts(len(drawn), shown)
            for shift, (name, (epochs, values)) in zip(shifts, drawn.items(), strict=True):
                style.plot_curves(panel, epochs, values, looks[name], name, shift)
            if split == "test":
                _baseline_lines(panel.axhline, analysis, lines)
            panel.set_title(style.fitted(f"{split}, {setting}" if setting else split, width / grid[1]))
            style.epoch_axis(panel, shown, shifts[-1] * 1.3)
    learnt = panels[:, -2:].ravel()  # train, known by heart in the end, has a scale of its own
    limits = [panel.get_ylim() for panel in learnt]
    for panel in learnt:
        panel.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    for panel in axes[-1]:
        panel.set_xlabel("epoch")
    for panel in axes[:, 0]:
        panel.set_ylabel(f"{analysis.primary} {analysis.measure}")
    style.legend(figure, panels[0, -1])
    return figure


def _baseline_lines(draw_line: Callable[..., Any], analysis: Analysis, lines: Sequence[Baseline]) -> None:
    for other in lines:
        draw_line(other.figures[analysis.key()], **_LINE, label=other.label)


def _dead_pairs(analysis: Analysis, arms: Arms, lines: Sequence[Baseline]) -> list[Picture]:
    """The share of pairs with both logits at zero, over epochs; nothing where there are none."""
    by_name = {name: style.curves(arms.cells[name], "dead_pairs") for name in arms.names}
    dying = [name for name, (_, values) in by_name.items() if values.size and values.max() > 0]
    if not dying:
        return []
    looks, shown = style.styles(arms.names), [epoch for name in dying for epoch in by_name[name][0]]
    shifts = style.end_shifts(len(dying), shown)

    def page(width: float) -> Figure:
        figure, axes = style.new_figure(2.6, 1, 1, width)
        for shift, name in zip(shifts, dying, strict=True):
            style.plot_curves(axes[0, 0], *by_name[name], looks[name], name, shift)
        style.epoch_axis(axes[0, 0], shown, shifts[-1] * 1.3)
        axes[0, 0].set(xlabel="epoch", ylabel="share of scored pairs", ylim=(0, None))
        style.legend(figure, axes[0, 0])
        return figure

    never = [name for name in arms.names if name not in dying]
    caption = (
        f"Pairs that a ReLU leaves with both logits at zero, among those scored in ranking all splits; mean over "
        f"{style.seeds_text(arms)}, its 95% interval at the end."
        + (f" Never any with: {', '.join(never)}." if never else "")
    )
    return style.pictures([_twins(page)], "dead_pairs", "Dead pairs", caption)


def _differences(analysis: Analysis, arms: Arms, lines: Sequence[Baseline]) -> list[Picture]:
    """Every comparison with its interval and p, the figure that decides and the other beside it.

    First the parts and every pair, which stand beside the answers as far as there is room; then further questions, then
    each setting.
    """
    pictures: list[Picture] = []
    first = (Kind.EFFECTS, Kind.PARTS, Kind.PAIRS)
    asked, others = analysis.of(*first), [kind for kind in Kind if kind is not Kind.SETTING and kind not in first]
    rows = np.cumsum([len(family.primary) for family in asked])
    beside = max(1, int(np.sum(rows <= MOST_BESIDE)))
    for name, title, families, width in (
        ("forest", "Differences", asked[:beside], style.HALF),
        ("forest_more", "Further differences", asked[beside:] + analysis.of(*others), style.WIDTH),
        ("forest_by_setting", "Differences, setting by setting", analysis.of(Kind.SETTING), style.WIDTH),
    ):
        pages: list[list[Family]] = []
        for family in families:
            if pages and sum(len(other.primary) for other in pages[-1]) + len(family.primary) <= MOST_ROWS:
                pages[-1].append(family)
            else:
                pages.append([family])
        caption = "As in the first figure."
        if not pictures:
            caption = (
                f"Differences in {analysis.figure()}, right of 0 where the first named is better. Thick: 95% interval "
                "over seeds and debates; thin: the one that holds for its whole family at once. Filled: told apart "
                f"from 0, Holm p < {ALPHA:g}."
            )
        drawn = [
            _twins(partial(forest_page, page, analysis.primary, measure=analysis.measure), width) for page in pages
        ]
        pictures += style.pictures(drawn, name, title, caption)
    return pictures


def forest_page(
    families: Sequence[Family], primary: Protocol, width: float = style.WIDTH, measure: str = "test top-1"
) -> Figure:
    """One panel a family, one row a comparison; on a narrow page its name above it."""
    narrow = width == style.NARROW
    heights = [(0.4 if narrow else 0.25) * max(1, len(family.primary)) for family in families]
    shares = {"height_ratios": [height + 0.225 for height in heights]}
    height = sum(heights) + 0.42 * len(heights) + (1.35 if narrow else 0.75)
    figure, axes = style.new_figure(height, len(heights), 1, width, sharex=True, gridspec_kw=shares)
    for panel, family in zip(axes[:, 0], families, strict=True):
        _forest_panel(panel, family, narrow)
    axes[-1, 0].set_xlabel(f"difference in {measure}, mean over points")
    axes[-1, 0].locator_params(axis="x", nbins=5 if narrow else 8)
    keys = [
        ("told apart from 0", {**_PRIMARY, "markerfacecolor": "black"}),
        ("not told apart", {**_PRIMARY, "markerfacecolor": "white"}),
        (f"{primary.other} figure", {**_BESIDE, "markerfacecolor": "white"}),
    ]
    style.key_legend(figure, keys if any(family.beside for family in families) else keys[:2])
    return figure


def _forest_panel(panel: Axes, family: Family, narrow: bool) -> None:
    panel.axvline(0, color="#444444", linewidth=0.8)
    panel.grid(axis="y", visible=False)
    names = [result.contrast.name.replace(f"{family.subject}=", "") for result in family.primary]  # the title has it
    longest = (SHORT_NAME + LONG_NAME) // 2 if narrow else LONG_NAME
    names = [name.replace(" − ", "\n− ", 1) if len(name) > longest else name for name in names]  # room for the plot
    for k, result in enumerate(family.primary):
        if family.beside:
            _whisker(panel, family.beside[k], k + 0.26, _BESIDE)
        _whisker(panel, result, k, _PRIMARY)
        ink: dict[str, Any] = {"color": "black" if result.is_significant() else GREY, "fontsize": 7.5}
        where: dict[str, Any] = {"transform": panel.get_yaxis_transform(), "va": "center"}
        if narrow:
            panel.text(0, k - 0.36, names[k], fontsize=6.5 if "\n" in names[k] else 7.5, **where)
            panel.text(1, k - 0.36, p_text(result.p_family), ha="right", **ink, **where)
        else:
            panel.text(1.02, k, p_text(result.p_family), **ink, **where)
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
    panel.set_title(style.fitted(family.title, style.NARROW if narrow else style.HALF))
    at, aligned = (1, "right") if narrow else (1.02, "left")
    panel.annotate(
        "Holm p", (at, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", color=GREY, fontsize=7.5,
        ha=aligned,
    )  # fmt: skip


def _whisker(panel: Axes, result: ContrastResult, y: float, look: Mapping[str, Any]) -> None:
    interval = result.interval
    if np.isfinite(interval.estimate):
        line = {name: value for name, value in look.items() if not name.startswith("marker")}
        if look is _PRIMARY and np.isfinite(result.family_low):
            panel.plot([result.family_low, result.family_high], [y, y], **{**line, "linewidth": 0.7})
        panel.plot([interval.low, interval.high], [y, y], **line, solid_capstyle="butt")
        fill = look["color"] if result.is_significant() else "white"
        panel.plot([interval.estimate], [y], **look, markerfacecolor=fill)


def _dots(analysis: Analysis, arms: Arms, lines: Sequence[Baseline]) -> list[Picture]:
    """Each seed's figure, one panel a setting: what the means are made of."""
    settings = arms.settings if len(arms.settings) > 1 else ("",)
    caption = (
        f"{analysis.figure(starts=True)}{' at the selected epoch' * analysis.study.trained_here}, "
        f"{style.seeds_text(arms)} a row; the "
        "mean's 95% interval is Student's t over seeds."
    )
    seen = np.concatenate([cell.outcomes(analysis.primary).correct.mean(axis=1) for cell in analysis.study.cells])
    low, high, room = seen.min(), seen.max(), MOST_SQUEEZED * np.ptp(seen)
    near = [other for other in lines if low - room <= other.figures[analysis.key()] <= high + room]
    beyond = [f"{other.label} ({other.figures[analysis.key()]:.3f})" for other in lines if other not in near]
    caption += f" Beyond the edge: {', '.join(beyond)}." if beyond else ""
    figures = []
    for start in range(0, len(settings), MOST_PANELS):
        here = settings[start : start + MOST_PANELS]
        figures.append(_twins(partial(_dots_page, analysis, arms, near, here, start)))
    return style.pictures(figures, "seeds", "Seed by seed", caption)


def _dots_page(
    analysis: Analysis, arms: Arms, lines: Sequence[Baseline], settings: Sequence[str], start: int, width: float
) -> Figure:
    narrow = width == style.NARROW
    above = narrow and max(map(len, arms.names)) > SHORT_NAME  # names above their rows leave room for the plot
    columns = 1 if narrow else min(3, len(settings))
    rows = -(-len(settings) // columns)
    height = rows * (0.55 + (0.5 if above else 0.3) * len(arms.names)) + 0.65
    figure, axes = style.new_figure(height, rows, columns, width, sharex=True, sharey=True)
    looks = style.styles(arms.names)
    for k, panel in enumerate(axes.ravel()):
        if k >= len(settings):
            panel.set_axis_off()
            continue
        for y, name in enumerate(arms.names):
            _dot_row(panel, arms.cells[name][start + k], analysis, y, looks[name])
        _baseline_lines(panel.axvline, analysis, lines)
        panel.set_title(style.fitted(settings[k], width / columns))
        panel.grid(axis="y", visible=False)
        panel.set_yticks(range(len(arms.names)), ["" if above else name for name in arms.names])
        for y, name in enumerate(arms.names if above else ()):
            panel.text(0, y - 0.42, name, fontsize=7.5, va="center", transform=panel.get_yaxis_transform())
        panel.set_ylim(len(arms.names) - 0.5, -0.7 if above else -0.5)
        panel.tick_params(axis="y", length=0)
        panel.tick_params(labelbottom=k >= len(settings) - columns)
    figure.supxlabel(f"{analysis.measure}, mean over points", fontsize=8.5)
    keys: list[tuple[str, dict[str, Any]]] = [
        (
            f"{analysis.primary}, one seed" if analysis.study.trained_here else "one seed",
            {"color": "black", "marker": "o", "markersize": 3.6, "linestyle": ""},
        ),
        ("mean", {"color": "black", "marker": "|", "markersize": 10, "markeredgewidth": 1.6, "linestyle": ""}),
        ("its 95% interval", {"color": "black", "alpha": 0.28, "linewidth": 6}),
    ]
    keys += [(other.label, _LINE) for other in lines]
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


def _tasks(analysis: Analysis, arms: Arms, lines: Sequence[Baseline]) -> list[Picture]:
    if not analysis.study.has_tasks:
        return []
    looks = style.styles(arms.names)
    spread = np.linspace(-0.28, 0.28, len(arms.names)) if len(arms.names) > 1 else [0.0]
    by_name = {name: [task_values(arms.cells[name], task) for task in TASKS] for name in arms.names}

    def page(width: float) -> Figure:
        figure, axes = style.new_figure(3.0, 1, 1, width)
        panel = axes[0, 0]
        for shift, (name, values) in zip(spread, by_name.items(), strict=True):
            look = looks[name]
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
        panel.set_ylabel("test top-1 (share of points)")
        style.legend(figure, panel)
        return figure

    caption = (
        "The eight candidate sets of Wachsmuth et al. 2018: same debate (sd), same theme (st), entire portal (ep); "
        "opposing counters (oc), counters (c), opposing arguments (oa), arguments (a). epa is the official figure. "
        f"Marker: mean over {style.seeds_text(arms)}; line: lowest to highest seed."
    )
    return style.pictures([_twins(page)], "tasks", "The eight tasks", caption)

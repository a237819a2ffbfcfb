"""Figures over epochs: learning curves, setting by setting as well, and dead pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from biencoder_ablate.report.analysis import Analysis
from biencoder_ablate.report.balance import Arms
from biencoder_ablate.report.grouping import Cell
from biencoder_ablate.report.plotting import (
    Picture,
    curves,
    epoch_axis,
    legend,
    new_figure,
    numbered,
    picture,
    plot_curves,
    seeds_text,
    styles,
)

MOST_ROWS = 6  # settings on one figure


def learning_curves(analysis: Analysis, arms: Arms) -> list[Picture]:
    """Top-1 over epochs on the three splits, averaged over settings."""
    figure, axes = new_figure(3.0, 1, 3, sharey=True)
    _curve_row(axes[0], analysis, arms.names, arms.cells)
    legend(figure, axes[0, 0])
    over = f", averaged over {len(arms.settings)} settings" if len(arms.settings) > 1 else ""
    caption = (
        f"{analysis.primary.capitalize()} top-1 after each epoch on train, val and test{over}. Line: mean over "
        f"{seeds_text(arms)}; band: its 95% interval (Student's t); faint lines: single seeds; start: before training."
    )
    return [picture(figure, "learning_curves", "Learning curves", caption)]


def _curve_row(axes: Any, analysis: Analysis, names: Sequence[str], cells: dict[str, tuple[Cell, ...]]) -> None:
    looks = styles(names)
    suffix = "_clean" if analysis.primary == "clean" else ""
    for split, panel in zip(("train", "val", "test"), axes, strict=True):
        shown: list[int] = []
        for name in names:
            epochs, values = curves(cells[name], f"{split}/top1{suffix}")
            plot_curves(panel, epochs, values, looks[name], name)
            shown = [*shown, *epochs]
        panel.set_title(split)
        panel.set_xlabel("epoch")
        epoch_axis(panel, shown)
    axes[0].set_ylabel(f"{analysis.primary} top-1")


def curves_by_setting(analysis: Analysis, arms: Arms) -> list[Picture]:
    """The same, one row a setting, over as many figures as it takes."""
    if len(arms.settings) < 2:
        return []
    found = []
    places = range(0, len(arms.settings), MOST_ROWS)
    for page, start in enumerate(places):
        settings = arms.settings[start : start + MOST_ROWS]
        rows = len(settings)
        figure, axes = new_figure(0.5 + 1.9 * rows, rows, 3, sharex=True, sharey=True)
        for k, setting in enumerate(settings):
            _curve_row(axes[k], analysis, arms.names, {name: (arms.cells[name][start + k],) for name in arms.names})
            for panel, split in zip(axes[k], ("train", "val", "test"), strict=True):
                panel.set_title(f"{split}, {setting}")
                panel.set_xlabel("epoch" if k == rows - 1 else "")
        legend(figure, axes[0, 0])
        caption = f"{analysis.primary.capitalize()} top-1 after each epoch, one row a setting; as above."
        name, title = numbered("learning_curves_by_setting", "Learning curves by setting", page, len(places))
        found.append(picture(figure, name, title, caption))
    return found


def dead_pairs(analysis: Analysis, arms: Arms) -> list[Picture]:
    """The share of pairs with both logits at zero, over epochs; nothing where there are none."""
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
    legend(figure, axes[0, 0])
    none = [name for name in arms.names if name not in dying]
    caption = (
        f"Pairs that a ReLU leaves with both logits at zero, among those scored in ranking all splits; mean over "
        f"{seeds_text(arms)}, its 95% interval, single seeds."
        + (f" Never any with: {', '.join(none)}." if none else "")
    )
    return [picture(figure, "dead_pairs", "Dead pairs", caption)]

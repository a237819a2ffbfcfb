"""Forest plots: every comparison with its interval and p, the figure that decides and the other one beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from biencoder_ablate.report.analysis import ALPHA, Analysis, Family
from biencoder_ablate.report.balance import Arms
from biencoder_ablate.report.plotting import GREY, Picture, key_legend, new_figure, numbered, picture
from biencoder_ablate.report.statistics import ContrastResult
from biencoder_ablate.report.tables import p_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 40  # of one figure
LONG_NAME = 44  # characters
_PRIMARY = {"color": "black", "linewidth": 1.5, "marker": "o", "markersize": 5.5}
_BESIDE = {"color": GREY, "linewidth": 0.9, "marker": "o", "markersize": 3.0}


def forest(analysis: Analysis, arms: Arms) -> list[Picture]:
    """All families but those within one setting."""
    kinds = ("effects", "pairs", "effects before", "variants", "interaction", "axis")
    families = [family for kind in kinds for family in analysis.families if family.kind == kind]
    return _forests(analysis, families, "forest", "Differences")


def forest_by_setting(analysis: Analysis, arms: Arms) -> list[Picture]:
    """The families within one setting."""
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
    caption = (
        f"Differences in {analysis.primary} test top-1 with 95% bootstrap intervals over seeds and debates. Right of 0 "
        f"the first named is better, or a part better than without it. Told apart from 0: Holm p < {ALPHA:g} and an "
        "interval that excludes 0."
    )
    pictures = []
    for k, page in enumerate(pages):
        figure = _forest_page(page, analysis.primary, other)
        pictures.append(picture(figure, *numbered(name, title, k, len(pages)), caption))
    return pictures


def _forest_page(families: Sequence[Family], primary: str, other: str) -> Figure:
    heights = [0.25 * max(1, len(family.primary)) for family in families]
    shares = {"height_ratios": [height + 0.225 for height in heights]}
    figure, axes = new_figure(
        sum(heights) + 0.42 * len(heights) + 0.75, len(heights), 1, sharex=True, gridspec_kw=shares
    )
    for panel, family in zip(axes[:, 0], families, strict=True):
        _forest_panel(panel, family)
    axes[-1, 0].set_xlabel("difference in test top-1 (share of points)")
    axes[-1, 0].locator_params(axis="x", nbins=8)
    keys = [
        (f"{primary}, told apart from 0", {**_PRIMARY, "markerfacecolor": "black"}),
        (f"{primary}, not told apart", {**_PRIMARY, "markerfacecolor": "white"}),
        (f"{other} figure, likewise", {**_BESIDE, "markerfacecolor": "white"}),
    ]
    key_legend(figure, keys if any(family.beside for family in families) else keys[:2])
    return figure


def _forest_panel(panel: Axes, family: Family) -> None:
    panel.axvline(0, color="#444444", linewidth=0.8)
    panel.grid(axis="y", visible=False)
    for k, result in enumerate(family.primary):
        if family.beside:
            _whisker(panel, family.beside[k], k + 0.26, _BESIDE)
        _whisker(panel, result, k, _PRIMARY)
        panel.text(
            1.02, k, p_text(result.p_holm), transform=panel.get_yaxis_transform(), va="center",
            color="black" if result.told_apart(ALPHA) else GREY, fontsize=7.5,
        )  # fmt: skip
    panel.set_yticks(range(len(family.primary)), [_row_name(result) for result in family.primary])
    for label in panel.get_yticklabels():
        if "\n" in label.get_text():
            label.set_fontsize(6.8)  # two lines in the height of a row
    panel.set_ylim(len(family.primary) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.set_title(family.title)
    panel.annotate(
        "Holm p", (1.02, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", color=GREY, fontsize=7.5
    )


def _row_name(result: ContrastResult) -> str:
    """The comparison's name, on two lines where one would leave no room for the plot."""
    name = result.contrast.name
    return name.replace(" − ", "\n− ") if len(name) > LONG_NAME else name


def _whisker(panel: Axes, result: ContrastResult, y: float, look: Mapping[str, Any]) -> None:
    interval = result.interval
    if not np.isfinite(interval.estimate):
        return
    line = {name: value for name, value in look.items() if not name.startswith("marker")}
    panel.plot([interval.low, interval.high], [y, y], **line, solid_capstyle="butt")
    fill = look["color"] if result.told_apart(ALPHA) else "white"
    panel.plot([interval.estimate], [y], **look, markerfacecolor=fill)

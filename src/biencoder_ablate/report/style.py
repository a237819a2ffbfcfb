"""How the report's figures look: readable in grey and by the colour-blind, the same bytes every time.

Colours are Okabe and Ito's (2008, "Color Universal Design"), chosen to differ in lightness as well; every line also has
its own dashes and marker. S seeds, E epochs.
"""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from biencoder_ablate.report.contrasts import HEADS
from biencoder_ablate.report.significance import FloatArray, t_quantile
from biencoder_ablate.report.study import Arms, Cell

WIDTH = 8.0  # inches, the width of a page's text
GREY = "#777777"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1)), (0, (8, 3)))
_COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Picture:
    """One figure: its file name without ending, what it shows (its caption), its size on a page, its bytes."""

    name: str
    title: str
    caption: str
    width: int  # in CSS pixels
    height: int
    svg: bytes
    png: bytes


@dataclass(frozen=True)
class Style:
    color: str
    dashes: Any
    marker: str


@contextmanager
def applied() -> Iterator[None]:
    """Matplotlib's settings for all figures (templates/figures.mplstyle), and nothing left behind."""
    with matplotlib.rc_context(), resources.as_file(resources.files("biencoder_ablate.report")) as package:
        matplotlib.rcdefaults()
        matplotlib.rc_file(package / "templates" / "figures.mplstyle")
        yield


def pictures(figures: Sequence[Figure], name: str, title: str, caption: str) -> list[Picture]:
    """Save figures in both formats, without dates or versions in them; of several, name and title get a number."""
    saved = []
    for page, figure in enumerate(figures, start=1):
        svg, png = io.BytesIO(), io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*Glyph.*missing.*")  # a name in a script the font lacks
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out now: not once more for each format, which takes half the time
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
            figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
        several = len(figures) > 1
        names = (f"{name}_{page}", f"{title} ({page} of {len(figures)})") if several else (name, title)
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        saved.append(Picture(*names, caption, width, height, svg.getvalue(), png.getvalue()))
    return saved


def new_figure(height: float, rows: int, columns: int, **more: Any) -> tuple[Figure, Any]:
    """A figure of the page's width with a grid of axes (rows, columns)."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **more)


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A colour, dashes and marker for each name: a head of the 2×2 design has its own, others those that are left."""
    places = {name: HEADS.index(name) for name in names if name in HEADS}
    free = (place for place in itertools.count() if place not in places.values())
    places |= {name: next(free) for name in names if name not in places}
    return {
        name: Style(*(choices[place % len(choices)] for choices in (_COLOURS, _DASHES, _MARKERS)))
        for name, place in places.items()
    }


def curves(cells: Sequence[Cell], key: str) -> tuple[list[int], FloatArray]:
    """Epochs (E,) that all runs have, and the figure `key` there for each seed (S, E), averaged over cells."""
    seeds = sorted(set.intersection(*(set(cell.runs) for cell in cells)))
    by_run = [
        [{r["epoch"]: r[key] for r in cell.runs[seed].metrics if r.get(key) is not None} for cell in cells]
        for seed in seeds
    ]
    epochs = sorted(set.intersection(*(set(by_epoch) for row in by_run for by_epoch in row))) if by_run else []
    values = [[np.mean([by_epoch[epoch] for by_epoch in row]) for epoch in epochs] for row in by_run]
    return epochs, np.array(values, dtype=np.float64).reshape(len(seeds), len(epochs))


def plot_curves(axes: Axes, epochs: Sequence[int], values: FloatArray, look: Style, label: str) -> None:
    """Mean over seeds with its 95% interval as a band, and each seed faintly."""
    if not epochs:
        return
    mean = values.mean(axis=0)
    if len(values) > 1:
        half = t_quantile(len(values) - 1, 0.95) * values.std(axis=0, ddof=1) / np.sqrt(len(values))
        low, high = np.clip([mean - half, mean + half], 0, 1)  # the figures are shares; a t interval does not know
        axes.fill_between(epochs, low, high, color=look.color, alpha=0.16, linewidth=0)
        for row in values:
            axes.plot(epochs, row, color=look.color, alpha=0.22, linewidth=0.5, solid_capstyle="round")
    every = max(1, len(epochs) // 8)
    axes.plot(
        epochs, mean, color=look.color, linestyle=look.dashes, marker=look.marker, markersize=3.6,
        markevery=every, markerfacecolor="white", markeredgewidth=1.0, label=label,
    )  # fmt: skip


def epoch_axis(axes: Axes, epochs: Sequence[int]) -> None:
    """Whole epochs; before the first, at −1, "start", and no number so close that the two would touch."""
    if not epochs:
        return
    first, last = min(epochs), max(epochs)
    axes.set_xlim(first - 0.25, last + 0.25)
    locator = MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10])
    ticks = [round(x) for x in locator.tick_values(max(first, 0), max(last, 0)) if max(first, 0) <= x <= last]
    if first == -1:
        ticks = [-1, *(x for x in ticks if x + 1 >= 0.11 * (last + 1))]
    axes.set_xticks(ticks, ["start" if x == -1 else f"{x}" for x in ticks])


def seeds_text(arms: Arms) -> str:
    """How many seeds the arms' means are over: "10 seeds", or "3 to 10 seeds"."""
    counts = [len(set.intersection(*(set(cell.runs) for cell in cells))) for cells in arms.cells.values()]
    low, high = min(counts), max(counts)
    return f"{low} to {high} seeds" if low < high else "one seed" if high == 1 else f"{high} seeds"


def legend(figure: Figure, axes: Axes) -> None:
    """What the lines of `axes` are, above the figure, in as many columns as their names leave room for."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=_columns(labels))


def key_legend(figure: Figure, keys: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """What marks mean that belong to no one line: (words, the mark's Line2D settings)."""
    labels, looks = zip(*keys, strict=True)
    handles = [Line2D([], [], **look) for look in looks]
    figure.legend(handles, labels, loc="outside upper left", ncols=_columns(labels), handlelength=2.2, fontsize=8)


def _columns(labels: Sequence[str]) -> int:
    room, widest = 108, max(map(len, labels), default=0)  # in characters; a handle takes about nine
    most = max(1, min(4, len(labels), room // (widest + 9)))
    rows = -(-len(labels) // most)
    return -(-len(labels) // max(1, rows))

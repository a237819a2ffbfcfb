"""How the report's figures look: readable in grey and by the colour-blind, the same bytes every time.

Colours are Okabe and Ito's (2008, "Color Universal Design"), chosen to differ in lightness as well; every line also has
its own dashes and marker. S seeds, E epochs.
"""

from __future__ import annotations

import io
import itertools
import textwrap
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

from biencoder_ablate.report.comparisons import HEADS
from biencoder_ablate.report.statistics import FloatArray, t_quantile
from biencoder_ablate.report.study import Arms, Cell

WIDTH, HALF, NARROW = 10.4, 6.6, 3.75  # inches: the page's column, the figure beside the answers, a telephone
GREY = "#777777"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1)), (0, (8, 3)))
_COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Picture:
    """One figure: its file name without ending, what it shows (its caption), its size on a page, its bytes.

    `narrow` is the same drawn for a telephone.
    """

    name: str
    title: str
    caption: str
    width: int  # in CSS pixels
    height: int
    svg: bytes
    png: bytes
    narrow: bytes


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


def pictures(drawn: Sequence[tuple[Figure, Figure]], name: str, title: str, caption: str) -> list[Picture]:
    """Save figures, each with its narrow twin; of several, name and title get a number, and the first has the caption.

    Without dates or versions in them.
    """
    saved = []
    for page, (figure, narrow) in enumerate(drawn, start=1):
        several = len(drawn) > 1
        names = (f"{name}_{page}", f"{title} ({page} of {len(drawn)})") if several else (name, title)
        svg, png, small = _written(figure, "svg"), _written(figure, "png"), _written(narrow, "svg")
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        saved.append(Picture(*names, caption if page == 1 else "As above.", width, height, svg, png, small))
    return saved


def _written(figure: Figure, kind: str) -> bytes:
    file, metadata = io.BytesIO(), {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Glyph.*missing.*")  # a name in a script the font lacks
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
            figure.set_layout_engine(None)  # laid out now: not once more for each format, which takes half the time
        figure.savefig(file, format=kind, dpi=160, metadata=metadata)
    return file.getvalue()


def new_figure(height: float, rows: int, columns: int, width: float = WIDTH, **more: Any) -> tuple[Figure, Any]:
    """A figure of a page's width with a grid of axes (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **more)


def fitted(title: str, width: float) -> str:
    """A title in at most two lines of so many inches, beside the axes' labels."""
    return "\n".join(textwrap.wrap(title, int(11 * width), max_lines=2, placeholder=" …"))


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


def plot_curves(
    axes: Axes, epochs: Sequence[int], values: FloatArray, look: Style, label: str, shift: float = 0.0
) -> None:
    """Mean over seeds; after its last epoch, `shift` further, the mean's 95% interval there.

    An interval at one epoch: bands along the whole of several curves hide each other and the lines.
    """
    if not epochs:
        return
    mean = values.mean(axis=0)
    every = max(1, len(epochs) // 8)
    axes.plot(
        epochs, mean, color=look.color, linestyle=look.dashes, marker=look.marker, markersize=3.6,
        markevery=every, markerfacecolor="white", markeredgewidth=1.0, label=label,
    )  # fmt: skip
    if len(values) > 1:
        last = values[:, -1]
        half = t_quantile(len(last) - 1, 0.95) * last.std(ddof=1) / np.sqrt(len(last))
        ends = np.clip([mean[-1] - half, mean[-1] + half], 0, 1)  # figures are shares; a t interval does not know
        at = epochs[-1] + shift
        axes.plot([at, at], ends, color=look.color, linewidth=2.2, alpha=0.75, solid_capstyle="butt")


def end_shifts(num: int, epochs: Sequence[int]) -> list[float]:
    """Where beyond the last epoch the intervals of `num` curves stand side by side."""
    step = 0.016 * max(1, max(epochs, default=0) - min(epochs, default=0))
    return [step * (k + 1.5) for k in range(num)]


def epoch_axis(axes: Axes, epochs: Sequence[int], room: float = 0.25) -> None:
    """Whole epochs; before the first, at −1, "start", and no number so close that the two would touch.

    `room` is left after the last.
    """
    if not epochs:
        return
    first, last = min(epochs), max(epochs)
    axes.set_xlim(first - 0.25, last + max(room, 0.25))
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
    figure.legend(handles, labels, loc="outside upper left", ncols=_columns(labels, figure.get_figwidth()))


def key_legend(figure: Figure, keys: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """What marks mean that belong to no one line: (words, the mark's Line2D settings)."""
    labels, looks = zip(*keys, strict=True)
    handles = [Line2D([], [], **look) for look in looks]
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=_columns(labels, figure.get_figwidth()),
        handlelength=2.2,
        fontsize=8,
    )


def _columns(labels: Sequence[str], width: float) -> int:
    room, widest = 14.6 * width, max(map(len, labels), default=0)  # in characters; a handle takes about nine
    most = int(max(1, min(6, len(labels), room // (widest + 9))))
    rows = -(-len(labels) // most)
    return -(-len(labels) // max(1, rows))

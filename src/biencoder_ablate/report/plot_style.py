"""How the report's plots look: readable in grey and by the colour-blind, the same bytes every time.

Colours are Okabe and Ito's (2008, "Color Universal Design"), chosen to differ in lightness as well; every line also has
its own dashes and marker. S seeds, E epochs.
"""

from __future__ import annotations

import io
import itertools
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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

WIDTH, HALF, NARROW = 10.4, 6.6, 3.75  # inches: the page's column, the plot beside the answers, a telephone
GREY = "#777777"
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.6)),
    (0, (1.2, 1.4)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (3, 1)),
    (0, (8, 3)),
)
_COLOURS = (
    "#000000",
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
)
_MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Plot:
    """One plot: its file name without ending, what it shows (its caption), its size on a page, its bytes.

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
    """How a line looks."""

    color: str
    dashes: Any
    marker: str


@contextmanager
def applied() -> Iterator[None]:
    """Matplotlib's settings for all plots (templates/figures.mplstyle), and nothing left behind."""
    with matplotlib.rc_context(), resources.as_file(resources.files("biencoder_ablate.report")) as package:
        matplotlib.rcdefaults()
        matplotlib.rc_file(package / "templates" / "figures.mplstyle")
        yield


def save_plots(
    pages: Sequence[Callable[[float], Figure]],
    name: str,
    title: str,
    caption: str,
    width: float = WIDTH,
) -> list[Plot]:
    """Draw pages, each `width` inches wide and as narrow as a telephone, and save them without dates or versions.

    Of several, name and title get a number, and the first has the caption.
    """
    plots = []
    num_pages = len(pages)
    for number, draw in enumerate(pages, start=1):
        several = num_pages > 1
        figure = draw(width)
        inches_wide, inches_high = figure.get_size_inches()
        plots.append(
            Plot(
                name=f"{name}_{number}" if several else name,
                title=f"{title} ({number} of {num_pages})" if several else title,
                caption=caption if number == 1 else "As above.",
                width=round(96 * inches_wide),
                height=round(96 * inches_high),
                svg=_saved(figure, "svg"),
                png=_saved(figure, "png"),
                narrow=_saved(draw(NARROW), "svg"),
            )
        )
    return plots


def _saved(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Glyph.*missing.*")  # a name in a script the font lacks
        # Laid out here, and not once more for each format, which takes half the time.
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(file, format=kind, dpi=160, metadata=metadata)
    return file.getvalue()


def new_figure(
    height: float,
    rows: int,
    columns: int,
    width: float = WIDTH,
    **options: Any,
) -> tuple[Figure, Any]:
    """A figure of a page's width with a grid of axes (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def fitted(title: str, width: float) -> str:
    """A title in at most two lines of so many inches, beside the axes' labels."""
    characters = int(11 * width)
    return "\n".join(textwrap.wrap(title, characters, max_lines=2, placeholder=" …"))


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A colour, dashes and marker for each name: a head of the 2×2 design has its own, others those that are left."""
    # A place in the lists below; those of the 2×2's heads are theirs, also where one of them is not shown.
    places = {name: HEADS.index(name) for name in names if name in HEADS}
    free = (place for place in itertools.count() if place not in places.values())
    places |= {name: next(free) for name in names if name not in places}
    looks = {}
    for name, place in places.items():
        looks[name] = Style(
            _COLOURS[place % len(_COLOURS)],
            _DASHES[place % len(_DASHES)],
            _MARKERS[place % len(_MARKERS)],
        )
    return looks


def side_by_side(num: int, half_width: float) -> FloatArray:
    """Offsets (num,) that spread marks evenly about 0; a mark alone stays where it is."""
    return np.linspace(-half_width, half_width, num) if num > 1 else np.zeros(1)


# --- curves ---


def curves(cells: Sequence[Cell], key: str) -> tuple[list[int], FloatArray]:
    """Epochs (E,) that all runs have, and the metric `key` there for each seed (S, E), averaged over cells."""
    by_seed: list[list[dict[int, float]]] = []  # for each seed and cell: epoch → metric
    for seed in _common_seeds(cells):
        by_cell = []
        for cell in cells:
            records = cell.runs[seed].metrics
            by_cell.append({record["epoch"]: record[key] for record in records if record.get(key) is not None})
        by_seed.append(by_cell)

    # Runs that stopped early end the curve for all.
    known = [set(by_epoch) for by_cell in by_seed for by_epoch in by_cell]
    epochs = sorted(set.intersection(*known)) if known else []
    means = [[np.mean([by_epoch[epoch] for by_epoch in by_cell]) for epoch in epochs] for by_cell in by_seed]
    return epochs, np.array(means, dtype=np.float64).reshape(len(by_seed), len(epochs))


def plot_all_curves(
    axes: Axes,
    curves: Mapping[str, tuple[list[int], FloatArray]],
    looks: Mapping[str, Style],
) -> None:
    """A curve for each name, their last intervals side by side beyond the last epoch of all."""
    epochs = [epoch for shown, _ in curves.values() for epoch in shown]
    # In epochs: intervals stand a little more than their own width apart.
    step = 0.016 * max(1, max(epochs, default=0) - min(epochs, default=0))
    shift = 0.0
    for k, (name, (shown, values)) in enumerate(curves.items()):
        shift = step * (k + 1.5)
        plot_curves(axes, shown, values, looks[name], name, shift)
    epoch_axis(axes, epochs, room=shift * 1.3)


def plot_curves(
    axes: Axes,
    epochs: Sequence[int],
    values: FloatArray,
    look: Style,
    label: str,
    shift: float = 0.0,
) -> None:
    """Mean over seeds of `values` (S, E); after its last epoch, `shift` further, the mean's 95% interval there.

    An interval at one epoch: bands along the whole of several curves hide each other and the lines.
    """
    if not epochs:
        return
    means = values.mean(axis=0)  # (E,)
    axes.plot(
        epochs,
        means,
        color=look.color,
        linestyle=look.dashes,
        marker=look.marker,
        markersize=3.6,
        markevery=max(1, len(epochs) // 8),
        markerfacecolor="white",
        markeredgewidth=1.0,
        label=label,
    )
    num_seeds = len(values)
    if num_seeds > 1:
        half = t_quantile(num_seeds - 1, 0.95) * values[:, -1].std(ddof=1) / np.sqrt(num_seeds)
        x = epochs[-1] + shift
        axes.plot(
            [x, x],
            np.clip([means[-1] - half, means[-1] + half], 0, 1),  # of shares, which a t interval does not know
            color=look.color,
            linewidth=2.2,
            alpha=0.75,
            solid_capstyle="butt",
        )


def epoch_axis(axes: Axes, epochs: Sequence[int], room: float = 0.25) -> None:
    """Whole epochs; before the first, at −1, "start", and no number so close that the two would touch.

    `room` is left after the last.
    """
    if not epochs:
        return
    first, last = min(epochs), max(epochs)
    axes.set_xlim(first - 0.25, last + max(room, 0.25))

    # −1 is before training: a word in place of a number, with room for it.
    start = max(first, 0)
    locator = MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10])
    ticks = [round(tick) for tick in locator.tick_values(start, max(last, 0)) if start <= tick <= last]
    if first == -1:
        ticks = [-1, *(tick for tick in ticks if tick + 1 >= 0.11 * (last + 1))]
    axes.set_xticks(ticks, ["start" if tick == -1 else f"{tick}" for tick in ticks])


def seeds_text(arms: Arms) -> str:
    """How many seeds the arms' means are over: "10 seeds", or "3 to 10 seeds"."""
    counts = [len(_common_seeds(cells)) for cells in arms.cells.values()]
    low, high = min(counts), max(counts)
    if low < high:
        return f"{low} to {high} seeds"
    return "one seed" if high == 1 else f"{high} seeds"


def _common_seeds(cells: Sequence[Cell]) -> list[int]:
    return sorted(set.intersection(*(set(cell.runs) for cell in cells)))


# --- legends ---


def legend(figure: Figure, axes: Axes) -> None:
    """What the lines of `axes` are, above the figure, in as many columns as their names leave room for."""
    handles, labels = axes.get_legend_handles_labels()
    _legend_above(figure, handles, labels)


def key_legend(figure: Figure, keys: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """What marks mean that belong to no one line: (words, the mark's Line2D settings)."""
    handles = [Line2D([], [], **look) for _, look in keys]
    _legend_above(figure, handles, [label for label, _ in keys], handlelength=2.2, fontsize=8)


def _legend_above(
    figure: Figure,
    handles: Sequence[Any],
    labels: Sequence[str],
    **options: Any,
) -> None:
    # In characters: what an inch holds, and a handle's nine beside its label.
    room = 14.6 * figure.get_figwidth()
    widest = max(map(len, labels), default=0) + 9
    most = int(max(1, min(6, len(labels), room // widest)))
    # As even as so many rows can be.
    num_rows = -(-len(labels) // most)
    num_columns = -(-len(labels) // max(1, num_rows))
    figure.legend(handles, labels, loc="outside upper left", ncols=num_columns, **options)

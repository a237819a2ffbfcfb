"""The plots: the same bytes every time, told apart without colour, and true to the runs."""

from __future__ import annotations

import itertools
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from support.report_runs import CURRICULUM, HEADS, config_of, made_up_points, write_run, write_study

from biencoder_ablate.config.schema import DataConfig, FusionConfig, TrainingConfig
from biencoder_ablate.data.text_cache import SplitTexts
from biencoder_ablate.report import plot_style as style
from biencoder_ablate.report import plots
from biencoder_ablate.report.analysis import Analysis, Kind, analyse
from biencoder_ablate.report.examples import side_by_side
from biencoder_ablate.report.plot_style import (
    applied,
    curves,
    epoch_axis,
    key_legend,
    legend,
    new_figure,
    plot_curves,
    seeds_text,
    styles,
)
from biencoder_ablate.report.plots import MOST_LINES, draw, forest_page
from biencoder_ablate.report.read import Collection, Protocol, collect
from biencoder_ablate.report.render import missing_section, page, study_report
from biencoder_ablate.report.study import make_studies
from biencoder_ablate.report.tables import tasks_table
from biencoder_ablate.utils.files import write_json

MEANS = {"none": 0.4, "layernorm": 0.5, "relu": 0.45, "layernorm_relu": 0.6}


def analysis_of(runs: Path) -> Analysis:
    (study,) = make_studies(collect([runs]).runs)
    return analyse(study)


@pytest.fixture(scope="module")
def analysis(tmp_path_factory) -> Analysis:
    runs = tmp_path_factory.mktemp("runs")
    write_study(runs, MEANS, seeds=range(3), ratios=(0.01, 0.5), leaked=(0, 1))
    return analysis_of(runs)


@pytest.fixture(scope="module")
def drawn(analysis):
    return draw(analysis)


def test_every_figure_is_drawn(drawn):
    assert [plot.name for plot in drawn] == [
        "learning_curves",
        "learning_curves_by_setting",
        "forest",
        "forest_more",
        "forest_by_setting",
        "seeds",
        "dead_pairs",
        "tasks",
    ]
    for plot in drawn:
        assert plot.png.startswith(b"\x89PNG\r\n\x1a\n")
        root = ET.fromstring(plot.svg)
        assert root.tag.endswith("svg")
        assert plot.width == (634 if plot.name == "forest" else 998)
        assert float(root.attrib["height"].removesuffix("pt")) == pytest.approx(plot.height * 0.75, abs=1)
        assert ET.fromstring(plot.narrow).attrib["width"] == "270pt", "360 pixels: a telephone's"


def test_no_sentence_of_the_page_is_said_twice(analysis, drawn):
    """Here for its figures, whose captions are sentences too."""
    parts = study_report(analysis, (), drawn, side_by_side(analysis), SplitTexts({}), "", "figures")
    html = page([parts], missing_section(Collection(tuple(analysis.study.runs)), [parts]), "a command", "0")
    html = re.sub(r'<section id="debates">.*?</section>|<p class=sideways.*?</p>', "", html, flags=re.DOTALL)
    said = re.findall(r"<(?:li|p|figcaption)(?: [^>]*)?>(.*?)</(?:li|p|figcaption)>", html, re.DOTALL)
    sentences = [s for text in said for s in re.split(r"(?<=[.]) ", re.sub("<.*?>", " ", text)) if len(s) > 30]
    assert len(sentences) > 30
    assert sorted(s for s, times in Counter(sentences).items() if times > 1) == []


def test_figures_hold_no_date_version_or_link(drawn):
    for plot in drawn:
        text = plot.svg.decode()
        assert matplotlib.__version__ not in text
        assert not re.search(r"<dc:date>|20\d\d-\d\d-\d\dT", text)
        links = set(re.findall(r'(?:href|src)="([^#"][^"]*)"', text))
        assert links == set(), plot.name


def test_drawing_leaves_matplotlib_s_settings_alone():
    with matplotlib.rc_context({"font.size": 33.0, "svg.hashsalt": "mine"}):
        with applied():
            assert matplotlib.rcParams["font.size"] != 33.0
        assert matplotlib.rcParams["font.size"] == 33.0
        assert matplotlib.rcParams["svg.hashsalt"] == "mine"


# --- room for everything ---


@pytest.mark.parametrize(
    ("epochs", "labels"),
    [
        (range(-1, 15), ["start", "2", "4", "6", "8", "10", "12", "14"]),
        (range(-1, 4), ["start", "0", "1", "2", "3"]),
        (range(-1, 0), ["start"]),
        (range(0, 4), ["0", "1", "2", "3"]),
        (range(-1, 200), ["start", "50", "100", "150"]),
    ],
    ids=str,
)
def test_the_epochs_begin_with_the_start(epochs, labels):
    with applied():
        _, axes = new_figure(2.0, 1, 3)
        epoch_axis(axes[0, 0], list(epochs))
    assert [label.get_text() for label in axes[0, 0].get_xticklabels()] == labels


def overlaps(figure) -> list[tuple[str, str]]:
    """Texts of a figure's legends that lie upon each other or beyond its edges."""
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for key in figure.legends for text in key.get_texts()]
    wide, high = figure.bbox.width, figure.bbox.height
    beyond = [(name, "edge") for name, box in boxes if box.x0 < 0 or box.x1 > wide or box.y0 < 0 or box.y1 > high]
    return beyond + [(a, b) for (a, x), (b, y) in itertools.combinations(boxes, 2) if x.overlaps(y)]


@pytest.mark.parametrize("num", [1, 4, 5, 12])
@pytest.mark.parametrize("name", ["relu", "layernorm_relu before linear2, curr 0.02", "none, neg 0.01, fusion=pooled"])
def test_a_legend_has_room_for_its_names(num, name):
    with applied():
        figure, axes = new_figure(4.0, 1, 1)
        for k in range(num):
            axes[0, 0].plot([0, 1], label=f"{name} {k}")
        legend(figure, axes[0, 0])
        key_legend(figure, [(name, {"color": "black"})])
        assert [pair for pair in overlaps(figure) if pair[1] == "edge" or name not in pair] == []


def test_intervals_of_shares_stay_shares():
    """Two seeds, 0 and 1: Student's t would reach from −5.9 to 6.9."""
    with applied():
        _, axes = new_figure(2.0, 1, 1)
        plot_curves(axes[0, 0], [0, 1], np.array([[0.0, 1.0], [1.0, 0.0]]), styles(["a"])["a"], "a")
    _, interval = axes[0, 0].lines
    assert list(interval.get_ydata()) == [0, 1]


@pytest.mark.slow
def test_many_settings_are_all_drawn_on_as_many_figures_as_it_takes(tmp_path):
    """Fourteen: six curves and twelve panels of seeds are the most that one figure holds."""
    ratios = [round(0.05 * k, 2) for k in range(14)]
    means, points = {"none": 0.4, "layernorm": 0.45, "relu": 0.4}, made_up_points(2)  # of two heads: two factors
    write_study(tmp_path / "all", means, seeds=(0,), ratios=ratios, points=points)
    write_study(tmp_path / "last", means, seeds=(0,), ratios=ratios[12:], points=points)
    every, last = ({plot.name: plot for plot in draw(analysis_of(tmp_path / place))} for place in ("all", "last"))
    assert {"learning_curves_by_setting_1", "learning_curves_by_setting_2", "seeds_1"} <= set(every)
    assert every["learning_curves_by_setting_3"].svg == last["learning_curves_by_setting"].svg
    assert every["seeds_2"].svg == last["seeds"].svg
    assert every["seeds_2"].title == "Seed by seed (2 of 2)"


def test_lines_beyond_what_can_be_told_apart_are_left_out_and_that_is_said(tmp_path, monkeypatch):
    looks = {
        (look.color, look.marker, str(look.dashes)) for look in styles([f"{k}" for k in range(MOST_LINES)]).values()
    }
    assert len(looks) == MOST_LINES == 12
    monkeypatch.setattr(plots, "MOST_LINES", 3)  # as many as that take their time to draw
    write_study(tmp_path, {"none": 0.4}, seeds=(0,), ratios=(0.1, 0.2, 0.3, 0.4), points=made_up_points(2))
    analysis = analysis_of(tmp_path)
    assert len(analysis.main.names) == 4
    for plot in draw(analysis):
        few = "Shown are the first 3 of 4; the tables have all." in plot.caption
        assert few == (plot.name in ("learning_curves", "tasks")), plot.name
    assert len(tasks_table(analysis.study, analysis.main).rows) == 4


def test_seeds_are_counted_where_they_differ(tmp_path):
    write_study(tmp_path, {"none": 0.4}, seeds=range(3))
    write_study(tmp_path, {"relu": 0.4}, seeds=range(5))
    analysis = analysis_of(tmp_path)
    assert seeds_text(analysis.main) == "3 to 5 seeds"
    for plot in draw(analysis):
        if plot.name != "forest":
            assert "3 to 5 seeds" in plot.caption, plot.name


def test_long_names_leave_room_for_the_plot(tmp_path):
    """Configurations compared one by one have the longest names: the forest's axes keep half of the width."""
    for head, fusion, ratio in (
        ("layernorm_relu", "retrieval", 0.125),
        ("relu", "retrieval", 0.25),
        ("relu", "pooled", 0.125),
        ("layernorm", "pooled", 0.25),
    ):
        change = lambda c, f=fusion: replace(c, fusion=FusionConfig(f), negatives=CURRICULUM)  # noqa: E731
        write_study(tmp_path, {head: 0.4}, seeds=range(2), ratios=(ratio,), change=change)
    analysis = analysis_of(tmp_path)
    assert max(len(result.contrast.name) for result in analysis.family(Kind.PAIRS).primary) > 60
    with applied():
        figure = forest_page(analysis.families, Protocol.CLEAN)
        figure.draw_without_rendering()
    assert figure.axes[0].get_position().width > 0.5


# --- without colour ---


def lightness(color: str) -> float:
    """CIE L* of an sRGB colour (#rrggbb): 0 black, 100 white."""
    channels = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


def test_heads_are_told_apart_by_dashes_markers_and_lightness():
    looks = styles(list(HEADS)).values()
    assert len({look.marker for look in looks}) == 4
    assert len({str(look.dashes) for look in looks}) == 4
    for a, b in itertools.combinations(looks, 2):
        assert abs(lightness(a.color) - lightness(b.color)) > 10, (a, b)
    assert max(lightness(look.color) for look in looks) < 75, "on white paper"


def test_a_head_looks_the_same_whichever_others_there_are():
    assert styles(["layernorm", "relu"])["relu"] == styles(list(HEADS))["relu"]


def test_heads_that_have_no_look_of_their_own_take_those_that_are_left():
    names = ["none", "relu", "relu before linear2", "rmsnorm_gelu"]
    assert len({look.marker for look in styles(names).values()}) == 4


def test_twelve_levels_all_look_different():
    looks = styles([f"level {k}" for k in range(12)]).values()
    assert len({(look.color, str(look.dashes), look.marker) for look in looks}) == 12


# --- true to the runs ---


def test_curves_are_means_over_settings_for_each_seed(analysis):
    cells = analysis.main.cells["relu"]
    epochs, values = curves(cells, "test/top1")
    assert epochs == [-1, 0, 1, 2, 3]
    expected = np.mean([cell.runs[2].metrics[-1]["test/top1"] for cell in cells])
    assert values[2, -1] == pytest.approx(expected)


def test_curves_stop_where_a_run_stopped_early(tmp_path):
    write_study(tmp_path, {"none": 0.4}, seeds=(0,))
    write_study(tmp_path, {"none": 0.4}, seeds=(1,), epochs=2)
    (study,) = make_studies(collect([tmp_path]).runs)
    epochs, values = curves(study.cells, "test/top1")
    assert (epochs, values.shape) == ([-1, 0, 1], (2, 3))


def test_heads_without_relu_have_no_dead_pairs_to_draw(tmp_path, drawn):
    write_study(tmp_path, {"none": 0.4, "layernorm": 0.5}, seeds=range(2))
    assert "dead_pairs" not in {plot.name for plot in draw(analysis_of(tmp_path))}
    (dead,) = (plot for plot in drawn if plot.name == "dead_pairs")
    assert "Never any with: none, layernorm." in dead.caption


def test_one_run_alone_can_be_drawn_and_has_no_tasks_where_it_was_not_measured_on_them(tmp_path):
    (run,) = write_study(tmp_path, {"none": 0.4}, seeds=(0,))
    result = json.loads((run / "result.json").read_text("utf-8"))
    result["test"]["tasks"] = {}
    write_json(run / "result.json", result)
    assert [plot.name for plot in draw(analysis_of(tmp_path))] == ["learning_curves", "seeds"]


@pytest.mark.parametrize("name", ["$x_1$ \\alpha", "$\\frac{$", "</text><script>", "头 🤯", "a\nb", "_private"])
def test_any_name_can_be_a_label(name, recwarn):
    with applied():
        figure, axes = new_figure(1.0, 1, 1)
        axes[0, 0].plot([0, 1], label=name)
        axes[0, 0].set_title(name)
        (plot,) = style.save_plots([lambda width: figure], "odd", name, name)
    ET.fromstring(plot.svg)
    assert b"<script" not in plot.svg
    assert [str(warning.message) for warning in recwarn] == []


def test_a_run_of_no_epochs_can_be_drawn(tmp_path):
    """training.epochs=0 only evaluates: the one record is the initial model's."""
    points = made_up_points(3)
    config = config_of(data=DataConfig(name="arguana", path="x"), training=TrainingConfig(epochs=0))
    write_run(tmp_path, config, [1, 0] * 9, points, fingerprint="f" * 64, epochs=0)
    assert len(draw(analysis_of(tmp_path))) == 3

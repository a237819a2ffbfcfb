"""Stars and declared baselines: what is asked of which configuration, and that no row is passed over in silence."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.report_runs import config_of, made_up_points, write_run, write_study

from biencoder_ablate.config.schema import DataConfig
from biencoder_ablate.report import render, sentences
from biencoder_ablate.report.__main__ import main
from biencoder_ablate.report.analysis import Analysis, Kind, analyse
from biencoder_ablate.report.comparisons import quoted
from biencoder_ablate.report.design import declare, star_of
from biencoder_ablate.report.examples import load_texts
from biencoder_ablate.report.external import read_csv
from biencoder_ablate.report.read import FINISHED, Outcomes, Protocol, Run, collect
from biencoder_ablate.report.study import Study, make_studies
from biencoder_ablate.report.tables import arms_table, groups_table
from biencoder_ablate.report.write import comparisons_csv, points_csv
from biencoder_ablate.runs.status import SweepDirectory

LAST = render.Section("missing", "What is missing", [])
QUERIES = tuple(f"q{k}" for k in range(8))


def made_up(configurations: dict[tuple[str, ...], float], seeds: int = 2, lacking: dict | None = None) -> Study:
    """A study of configurations, each given by its levels on the axes A, B, C … and its mean, seeds being all alike.

    `lacking` says how many of the first seeds a configuration does not have.
    """
    runs = []
    for levels, mean in configurations.items():
        scores = np.full(len(QUERIES), mean)
        measured = Outcomes(
            QUERIES,
            tuple(f"g{k // 2}" for k in range(len(QUERIES))),
            {Protocol.OFFICIAL: scores, Protocol.CLEAN: np.full(len(QUERIES), np.nan)},
            ("",) * len(QUERIES),
            "value",
        )
        factors = dict(zip("ABCDE", levels, strict=False))
        for seed in range((lacking or {}).get(levels, 0), seeds):
            identity = {"data": "f" * 64, "results_version": 0, **factors, "seed": seed}
            path = Path("r.csv") / f"{' '.join(levels)} seed {seed}"
            runs.append(Run(path, FINISHED, identity=identity, config={"data": {"name": "r.csv"}}, measured=measured))
    (study,) = make_studies(runs)
    return study


def test_a_star_is_seen_and_its_changes_are_one_family_the_largest_first():
    study = made_up({("a", "x", "u"): 0.5, ("b", "x", "u"): 0.6, ("a", "y", "u"): 0.2, ("a", "x", "v"): 0.55}, seeds=8)
    analysis = analyse(study)
    (family,) = analysis.families
    assert (family.kind, family.baseline) == (Kind.PARTS, "A=a, B=x, C=u")
    assert [result.contrast.name for result in family.primary] == ["B=y", "A=b", "C=v"]
    assert [result.estimate for result in family.primary] == pytest.approx([-0.3, 0.1, 0.05])
    assert {result.num_tests for result in family.primary} == {3}
    headline = sentences.headline(analysis, [])
    assert headline == (
        "Against the centre, the metric is higher with “A=b” (by 0.100), “C=v” (by 0.050); lower with “B=y” (by 0.300)."
    )
    parts = [answer.part for answer in sentences.answers(analysis)]
    assert parts == ["B=y", "A=b", "C=v"]
    table = groups_table(analysis, [])
    assert [row[0] for row in table.rows] == ["the centre", "C=v", "B=y", "A=b"]


@pytest.mark.parametrize(
    ("cells", "centre"),
    [
        (["00", "10", "01"], "00"),
        (["00", "10", "20", "01"], "00"),
        (["000", "110", "001"], "000"),  # A and B move together
        (["00", "10", "20"], None),  # one axis: any level could be the centre
        (["00", "10", "01", "11"], None),  # a grid
        (["00", "10", "01", "21"], None),  # a change of both beside changes of each
        (["00", "10"], None),
    ],
)
def test_only_what_can_be_nothing_else_is_a_star(cells, centre):
    study = made_up({tuple(levels): 0.5 for levels in cells})
    star = star_of(study)
    found = None if star is None else "".join(level.label for level in star.centre.levels)
    assert found == (centre if centre != "000" else "00"), "of axes that move together the first names both"


def test_a_change_of_two_settings_names_both():
    star = star_of(made_up({("0", "0", "0"): 0.5, ("1", "1", "0"): 0.5, ("0", "0", "1"): 0.5}))
    assert list(star.changes.values()) == ["C=1", "A=1, B=1"]


def test_heads_beside_other_changes_are_also_asked_among_themselves():
    study = made_up({("a", "x", "u"): 0.5, ("b", "x", "u"): 0.6, ("c", "x", "u"): 0.7, ("a", "y", "u"): 0.2}, seeds=8)
    changes, heads = analyse(study).families
    assert [result.contrast.name for result in changes.primary] == ["B=y", "A=c", "A=b"]
    assert (heads.kind, len(heads.primary)) == (Kind.AXIS, 3)
    assert heads.title == "A: every pair of levels, all else as in the centre"


# --- declared ---

GRID = {(a, b): 0.4 + 0.1 * int(a) + 0.02 * int(b) for a in "012" for b in "01"}


def test_a_declared_level_is_what_the_others_of_its_axis_are_compared_with():
    study = declare(made_up(GRID, seeds=6), ["A=2"])
    family = analyse(study).family(Kind.PARTS)
    assert [(result.contrast.name, round(result.estimate, 9)) for result in family.primary] == [
        ("A=0", -0.2),
        ("A=1", -0.1),
    ]
    second = analyse(declare(made_up(GRID, seeds=6), ["B=1"])).family(Kind.PARTS)
    assert [(result.contrast.name, round(result.estimate, 9)) for result in second.primary] == [("B=0", -0.02)]


def test_a_declared_configuration_is_the_centre_of_all_others():
    analysis = analyse(declare(made_up(GRID, seeds=6), ["A=0", "B=1"]))
    assert analysis.star.centre.name == "A=0, B=1"
    estimates = {result.contrast.name: round(result.estimate, 9) for result in analysis.families[0].primary}
    assert estimates == {"A=2": 0.2, "A=2, B=0": 0.18, "A=1": 0.1, "A=1, B=0": 0.08, "B=0": -0.02}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["A=7"], "--baseline A=7: no run has that; A is 0, 1, 2"),
        (["D=1"], "--baseline D=1: no run has a setting D; what differs between them is A, B"),
        (["A"], "--baseline A: must be a setting and its value, such as head=none"),
        (["A=0", "A=1"], "--baseline A=0 --baseline A=1: no configuration has all of these"),
    ],
)
def test_a_baseline_that_names_nothing_is_refused(overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        declare(made_up(GRID), overrides)


def test_what_every_configuration_has_is_no_baseline():
    study = made_up({levels: 0.5 for levels in GRID})
    with pytest.raises(ValueError, match="all 6 configurations have it; must tell one from the others"):
        declare(
            replace(study, cells=tuple(replace(cell, levels=cell.levels) for cell in study.cells)),
            ["results_version=0"],
        )


# --- no row is passed over ---


@st.composite
def designs(draw):
    """Grids with holes, stars and stars beside grids, with means from a few values and seeds that some lack."""
    sizes = draw(st.lists(st.integers(2, 3), min_size=1, max_size=3))
    everything = [tuple(map(str, place)) for place in np.ndindex(*sizes)]
    cells = draw(st.lists(st.sampled_from(everything), min_size=2, max_size=8, unique=True))
    means = {levels: draw(st.integers(1, 9)) / 10 for levels in cells}
    lacking = {levels: draw(st.integers(0, 2)) for levels in cells}
    return means, lacking


def said_first(analysis: Analysis) -> str:
    """What is read before the table: the answers and the headline."""
    return " ".join([*map(str, sentences.answers(analysis)), sentences.headline(analysis, [])])


@given(design=designs(), num_seeds=st.sampled_from([3, 8]))
@settings(max_examples=60, deadline=None)
def test_no_configuration_above_the_one_named_best_is_passed_over(design, num_seeds):
    means, lacking = design
    analysis = analyse(made_up(means, num_seeds, lacking))
    said = said_first(analysis)
    claimed = re.search(r"“([^“”]*)” (?:has the highest mean|wins)|The highest mean so far is that of “([^”]*)”", said)
    if claimed is None:
        return
    best = claimed[1] or claimed[2]
    arms = analysis.main
    best_mean = arms.means(analysis.primary)[best]
    above = []
    for cell in analysis.study.cells:
        mean = analysis.summaries[cell.name][analysis.primary].mean
        if mean > best_mean + 1e-6 and not (len(arms.settings) < 2 and cell is arms.cells[best][0]):
            above.append(cell)
    names = {cells[0].name: name for name, cells in arms.cells.items() if len(cells) == 1}
    unsaid = [
        cell.name for cell in above if quoted(cell.name) not in said and quoted(names.get(cell.name, "")) not in said
    ]
    counted = re.search(r"and (\d+) more\.", said)
    assert len(unsaid) <= int(counted[1] if counted else 0), (said, unsaid)


def test_a_higher_configuration_outside_the_verdict_stands_beside_it():
    """A in two levels at B=x; at B=y only A=a, which is the highest of all. C makes it no star."""
    cells = {
        ("a", "x", "u"): 0.5,
        ("b", "x", "u"): 0.6,
        ("a", "x", "v"): 0.5,
        ("b", "x", "v"): 0.6,
        ("a", "y", "u"): 0.9,
    }
    analysis = analyse(made_up(cells, seeds=8))
    assert analysis.star is None
    assert "single configurations above it are “A=a, B=y, C=u” (0.900)" in sentences.headline(analysis, [])
    assert arms_table(analysis, []).rows[0][0] == "A=a"
    remarks = {row[:3]: row[-1] for row in groups_table(analysis, []).rows}
    assert remarks["a", "y", "u"] == "not in the verdict"


# --- from runs on disk ---


@pytest.fixture(scope="module")
def star(tmp_path_factory) -> Path:
    """none, relu, one tower, and more negatives: eight seeds each."""
    runs = tmp_path_factory.mktemp("star") / "runs"
    points = made_up_points(12)
    rng = np.random.default_rng(3)
    towers = replace(config_of().model, towers="separate")
    more = replace(config_of().negatives, per_pair=5)
    for seed in range(8):
        for mean, config, typed in (
            (0.5, config_of("none", seed), ["head=none"]),
            (0.5, config_of("relu", seed), ["head=relu"]),
            (0.3, config_of("none", seed, model=towers), ["head=none", "model.towers=separate"]),
            (0.8, config_of("none", seed, neg_ratio=1, negatives=more), ["neg_ratio=1", "negatives.per_pair=5"]),
        ):
            right = rng.random(len(points)) < mean
            write_run(runs, config, right, points, fingerprint="f" * 64, overrides=[*typed, f"seed={seed}"])
    return runs


def test_a_star_of_runs_is_answered_change_by_change_on_the_first_screen(star, tmp_path, capsys):
    assert main([str(star), "-o", str(tmp_path / "out")]) == 0
    first, second, third, headline, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("neg 1, 5 a pair: above the centre; 0.")
    assert second.startswith("model.towers=separate: below the centre; 0.")
    assert third.startswith("relu: cannot be told from the centre; ")
    assert "any difference is smaller than 0." in third
    assert headline.startswith("Against the centre, the metric is higher with “neg 1, 5 a pair” (by 0.")
    assert "highest" not in headline


ASKED = ("family", "settings", "comparison", "estimate", "low", "high", "p", "p_holm", "p_crossed_holm", "told_apart")


@pytest.mark.parametrize(("design", "declared"), [("star", []), ("grid", []), ("grid", ["head=relu"])])
def test_points_csv_leads_to_the_same_comparisons_and_answers(star, tmp_path, design, declared):
    """Also of the four heads at several ratios, where effects are asked, and with a declared baseline."""
    place = star
    if design == "grid":
        place = tmp_path
        write_study(place, {"none": 0.4, "layernorm": 0.5, "relu": 0.4, "layernorm_relu": 0.6}, range(3), (0.2, 1, 10))
    analysis = analyse(declare(*make_studies(collect([place]).runs), declared))
    path = tmp_path / "points.csv"
    path.write_text(points_csv(analysis), "utf-8")
    again = analyse(declare(*make_studies(read_csv([path]).runs), declared))

    ours, theirs = (list(csv.DictReader(io.StringIO(comparisons_csv([each])))) for each in (analysis, again))
    ours = [row for row in ours if row["decides"] == "True"]
    for column in ASKED:
        assert [row[column] for row in theirs] == [row[column] for row in ours], column
    said = [" ".join(map(str, sentences.answers(each))) for each in (analysis, again)]
    assert said[0].replace("points", "queries") == said[1]
    assert "None" not in path.read_text("utf-8").splitlines()[1]


def test_a_study_is_declared_by_what_one_types(star, tmp_path):
    (study,) = make_studies(collect([star]).runs)
    for overrides in (["head=relu"], ["neg_ratio=1"], ["negatives.per_pair=5"], ["model.towers=separate"]):
        centre = star_of(declare(study, overrides)).centre
        assert all(any(o in run.overrides for run in centre.runs.values()) for o in overrides)
    assert star_of(declare(study, ["head=none"])).centre is star_of(study).centre, (
        "of those that have it, the star's own"
    )


def test_the_paper_s_table_marks_the_changes_that_are_told_apart(star):
    (study,) = make_studies(collect([star]).runs)
    text = render.latex(analyse(study), "headline", [])
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert rows[0] == r"change & seeds & test top-1 & 95\% interval \\"
    assert rows[1].startswith("none: the centre & 8 & 0.")
    marked = {row.partition(" & ")[0] for row in rows if r"$^{\mathrm{*}}$" in row}
    assert marked == {"model.towers=separate", "neg 1, 5 a pair"}
    assert r"*: told apart from the centre (Holm p \textless{} 0.05, 3 comparisons)." in text


# --- where it is written, and what has no interval ---


def test_without_an_output_the_report_lies_in_the_sweep(tmp_path, capsys):
    run = write_run(tmp_path / "logs" / "runs", config_of(), [1] * 72, made_up_points(12), fingerprint="f" * 64)
    sweep = tmp_path / "logs" / "sweeps" / "mine"
    SweepDirectory(sweep).write(["seed=0"], [["seed=0"]], [run.name])
    assert main([str(sweep)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"written: {sweep / 'report' / 'index.html'}"
    assert (sweep / "report" / "report.md").is_file()


def test_an_output_in_the_home_directory_is_expanded(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_run(tmp_path / "runs", config_of(), [1] * 72, made_up_points(12), fingerprint="f" * 64)
    assert main([str(tmp_path / "runs"), "-o", "~/x"]) == 0
    assert (tmp_path / "x" / "index.html").is_file()


def test_seeds_that_are_all_alike_have_no_interval_and_no_nan():
    only = analyse(made_up({("a",): 0.5}, seeds=3))
    assert only.headline.endswith("Its value is 0.500, the same with each seed, over 3 seeds.")
    one_group = analyse(made_up({("a",): 0.5, ("b",): 0.4}, seeds=1))
    said = said_first(one_group)
    assert "nan" not in said.replace("None", "")


def test_other_people_s_data_has_queries_and_no_debates(tmp_path):
    theirs = config_of(data=DataConfig(name="pairs", path="faq.csv"))
    rng = np.random.default_rng(0)
    for seed in range(3):
        for head in ("none", "relu"):
            config = replace(config_of(head, seed), data=theirs.data)
            write_run(tmp_path, config, rng.random(72) < 0.5, made_up_points(12), fingerprint="f" * 64)
    (study,) = make_studies(collect([tmp_path]).runs)
    analysis = analyse(study)
    assert analysis.asked == "72 test queries of 12 groups"
    page = render.page([render.study_report(analysis, [], [], [], load_texts(study), "", "")], LAST, "command", "1")
    text = re.sub(r"<script>.*?</script>|<style>.*?</style>", "", page, flags=re.DOTALL)
    for word in ("debate", "counter", " points"):
        assert word not in re.sub(r"The eight tasks.*?</section>", "", text, flags=re.DOTALL).lower(), word

"""A report's figures by theme or another column of the queries."""

from __future__ import annotations

import csv

import pytest
from support.report_runs import config_of, made_up_points, write_run

from biencoder_ablate.report.__main__ import main as report

POINTS = made_up_points(8, per_debate=2)
"""Debates 0 to 7, two points each; themes 0 to 6, of which theme 0 has the debates 0 and 7."""


@pytest.fixture
def runs(tmp_path):
    """Head none: the first point of each debate right with seed 0, both with seed 1; layernorm: those of theme 0."""
    folder = tmp_path / "logs" / "runs"
    for seed in (0, 1):
        write_run(folder, config_of("none", seed), [k % 2 == 0 or seed for k in range(16)], POINTS, leaked=[2])
        in_theme_0 = [point.startswith("test/theme0/") for point, _ in POINTS]
        write_run(folder, config_of("layernorm", seed), in_theme_0, POINTS, leaked=[2])
    return folder


def read_rows(folder, column):
    """(level, configuration) → (queries, mean) of by_COLUMN.csv."""
    with (folder / f"by_{column}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row[column], row["configuration"]): (int(row["num_queries"]), float(row["mean"])) for row in rows}


def test_means_by_theme_are_over_the_seeds_and_the_queries_that_count(runs, tmp_path):
    assert report([str(runs), "-o", str(tmp_path / "out"), "--by", "theme"]) == 0
    rows = read_rows(tmp_path / "out", "theme")
    assert len(rows) == 7 * 2
    assert rows["theme0", "none"] == (4, pytest.approx(6 / 8))
    assert rows["theme0", "layernorm"] == (4, 1.0)
    # The first point of theme 1 is not clean: the other is wrong with seed 0 and right with seed 1.
    assert rows["theme1", "none"] == (1, 0.5)
    assert rows["theme1", "layernorm"] == (1, 0.0)

    page = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "## By theme" in page or "### By theme" in page
    assert "Nothing is tested here" in page


def test_any_column_of_the_records_will_do_and_no_other(runs, tmp_path, capsys):
    assert report([str(runs), "-o", str(tmp_path / "out"), "--by", "stance"]) == 0
    rows = read_rows(tmp_path / "out", "stance")
    assert rows["pro", "none"] == (7, 1.0)
    assert rows["con", "none"] == (8, 0.5)

    capsys.readouterr()
    assert report([str(runs), "-o", str(tmp_path / "none"), "--by", "year"]) == 1
    message = capsys.readouterr().err
    assert "--by year: no such column of" in message
    assert "there are theme, debate, stance, tied" in message
    assert not (tmp_path / "none").exists()


def test_all_queries_together_are_the_last_row(runs, tmp_path):
    report([str(runs), "-o", str(tmp_path / "out"), "--by", "debate"])
    page = (tmp_path / "out" / "report.md").read_text("utf-8").splitlines()
    last = next(line for line in page if line.startswith("| all |"))
    # none: (7 + 15) of 30; layernorm: 4 of 15.
    assert [cell.strip() for cell in last.strip("|").split("|")] in (
        ["all", "15", "0.733", "0.267"],
        ["all", "15", "0.7333", "0.2667"],
    )

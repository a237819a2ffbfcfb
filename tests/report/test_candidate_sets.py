"""Runs that ranked different candidates are kept apart, and the page says what was ranked and what hangs on it."""

import json

import pytest
from support.report_runs import config_of, made_up_points, write_run

from biencoder_ablate.config.schema import EvaluationConfig
from biencoder_ablate.report.__main__ import main
from biencoder_ablate.report.among_answers import order_among_answers
from biencoder_ablate.report.analysis import analyse
from biencoder_ablate.report.candidate_sets import measured_tasks, ranked
from biencoder_ablate.report.read import collect
from biencoder_ablate.report.study import make_studies

POINTS = made_up_points(4, per_debate=5)  # 20 points


def first_so_many(count):
    return [number < count for number in range(len(POINTS))]


def make_run(folder, head, seed, count, candidates=None, epc=None):
    """A run that has its counter first for `count` of 20 points, and for `epc` of them among the answers."""
    config = config_of(head, seed, evaluation=EvaluationConfig(candidates=candidates))
    path = write_run(folder / "logs" / "runs", config, first_so_many(count), POINTS, fingerprint="f" * 64)
    if epc is None:
        return
    lines = [json.loads(line) for line in (path / "rankings.jsonl").read_text().splitlines()]
    of_test = [line for line in lines if line["split"] == "test"]
    for line, is_first in zip(of_test, first_so_many(epc), strict=True):
        line["ranks"]["epc"] = 1 if is_first else 2
    (path / "rankings.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def studies_of(folder):
    return make_studies(collect([folder / "logs"]).runs)


@pytest.mark.parametrize(
    ("none", "relu", "said"),
    [
        # none is ahead by 2 of 20 with points, and behind by 4 among the answers.
        ((12, 14), (10, 18), "“relu” has 0.900 and “none” 0.700, where with points among the candidates they have"),
        ((12, 18), (10, 14), None),  # the same order
        ((12, 14), (10, 14), None),  # level among the answers
    ],
)
def test_another_order_among_the_answers_is_said_with_both_figures(tmp_path, none, relu, said):
    for head, (count, epc) in (("none", none), ("relu", relu)):
        for seed in range(3):
            make_run(tmp_path, head, seed, count, "all", epc)
    (study,) = studies_of(tmp_path)
    sentences = order_among_answers(analyse(study))
    assert len(sentences) == (said is not None)
    assert all(said in sentence and "0.500 and 0.600" in sentence for sentence in sentences)


def test_runs_that_ranked_different_candidates_are_two_studies(tmp_path, capsys):
    for candidates, count in (("all", 5), ("answers", 15)):
        for head in ("none", "relu"):
            for seed in range(2):
                make_run(tmp_path, head, seed, count, candidates)
    studies = studies_of(tmp_path)
    names = [study.name for study in studies]
    assert len(set(names)) == 2
    assert sorted(name.partition(", ")[2] for name in names) == [
        "ranked among answers and points of the split",
        "ranked among the answers of the split",
    ]
    assert main([str(tmp_path / "logs"), "-o", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "ranked different candidates" in page and "nothing is compared across them" in page
    assert "· ranked among the answers of the split</p>" in page


def test_a_run_from_before_the_setting_is_said_to_have_ranked_points(tmp_path):
    make_run(tmp_path, "none", 0, 5)
    (study,) = studies_of(tmp_path)
    assert "candidates" not in study.runs[0].identity["evaluation"] or (
        study.runs[0].identity["evaluation"]["candidates"] is None
    )
    assert ranked(study.runs) == "ranked among answers and points of the split"
    assert measured_tasks(study.runs)[-1] == "epa"

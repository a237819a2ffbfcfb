"""Cross-validation in a report: one run a seed over the points of all folds."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from support.helpers import run_here
from support.report_runs import config_of, made_up_points, write_run

from biencoder_ablate.config.schema import DataConfig
from biencoder_ablate.decide import main as decide
from biencoder_ablate.report.__main__ import main as report
from biencoder_ablate.report.examples import load_texts
from biencoder_ablate.report.folds import pool_folds
from biencoder_ablate.report.read import Protocol, collect
from biencoder_ablate.report.study import make_studies
from biencoder_ablate.runs.identity import name_without_seed

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate_folds.py"
_spec = importlib.util.spec_from_file_location("simulate_folds", SCRIPT)
simulation = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = simulation  # dataclasses look their module up
_spec.loader.exec_module(simulation)

POINTS = made_up_points(9, per_debate=2)
FOLDS = [POINTS[:4], POINTS[4:10], POINTS[10:]]
"""4, 6 and 8 points."""


def write_fold(runs, head, seed, fold, right, **more):
    """The run of a fold, with `right` (N,) of its points right, as training writes it."""
    data = DataConfig(folds=3, fold=fold)
    path = write_run(
        runs, config_of(head, seed, data=data), right, FOLDS[fold], fingerprint=f"{fold}" * 64,
        overrides=[f"data.fold={fold}", f"head={head}", "data.folds=3", f"seed={seed}"], **more,
    )  # fmt: skip
    manifest = json.loads((path / "manifest.json").read_text())
    common = {"num": 3, "split_seed": 0, "disjoint": False, "limit": None, "pairs": "a" * 64}
    manifest["determined_by"]["folds"] = {**common, "fold": fold}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


@pytest.fixture
def runs(tmp_path):
    """Two heads, two seeds, three folds: of each fold none is right with seed 0, the first half with seed 1."""
    folder = tmp_path / "logs" / "runs"
    for head in ("none", "layernorm"):
        for seed in (0, 1):
            for fold, points in enumerate(FOLDS):
                right = [seed and k < len(points) / 2 for k in range(len(points))]
                write_fold(folder, head, seed, fold, right, leaked=[0] if fold == 2 else [])
    return folder


def pooled(runs):
    return pool_folds(collect([runs]).runs)


def test_runs_that_differ_in_the_fold_are_one_over_all_points(runs):
    found, notes = pooled(runs)
    assert notes == ["cross-validation: the 12 runs of its folds count as 4, over all folds' points"]
    (study,) = make_studies(found)
    assert [(cell.name, list(cell.runs)) for cell in study.cells] == [("none", [0, 1]), ("layernorm", [0, 1])]
    assert study.size == "12 finished runs, 2 configurations, 2 seeds, 3 folds"
    run = study.cells[0].runs[1]
    assert list(zip(run.outcomes.ids, run.outcomes.debates, strict=True)) == POINTS
    right = [1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert run.outcomes.correct[Protocol.OFFICIAL].tolist() == right
    clean = run.outcomes.correct[Protocol.CLEAN]
    assert np.isnan(clean).tolist() == [k == 10 for k in range(18)], "a point counts as it does in its own fold"


def test_metrics_are_over_points_and_not_over_folds(runs):
    for path in runs.glob("*"):
        result = json.loads((path / "result.json").read_text())
        if result["test"]["num_points"] == 4:  # now fold 0 is all right but for seed 0
            result["test"]["recall@10"] = 0.6
            (path / "result.json").write_text(json.dumps(result))
    found, _ = pooled(runs)
    run = next(run for run in found if run.identity["seed"] == 1)
    assert run.test["top1"] == pytest.approx(9 / 18)
    assert run.test["top1_clean"] == pytest.approx(8 / 17)
    assert run.test["recall@10"] == pytest.approx((4 * 0.6 + 14 * 0.9) / 18)
    assert (run.test["num_points"], run.test["num_points_clean"]) == (18, 17)
    assert run.result["seconds"] == pytest.approx(3 * 12.5)
    assert [record["epoch"] for record in run.metrics] == [-1, 0, 1, 2, 3]
    assert run.metrics[-1]["test/top1"] == pytest.approx(9 / 18)
    assert run.result["baselines"]["chance"]["test"]["top1"] == pytest.approx(0.01)
    assert run.overrides == ("-m", f"head={run.identity['head']['norm']}", "data.folds=3", "seed=1")


def test_curves_end_where_the_first_fold_stops(runs):
    path = next(path for path in runs.glob("none*seed1*") if '"fold": 1' in (path / "manifest.json").read_text())
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (path / "metrics.jsonl").write_text("".join(lines[:3]))
    found, _ = pooled(runs)
    run = next(run for run in found if run.name.startswith("none") and run.identity["seed"] == 1)
    assert [record["epoch"] for record in run.metrics] == [-1, 0, 1]


def test_a_fold_without_clean_points_weighs_nothing(runs):
    for path in runs.glob("*"):
        result = json.loads((path / "result.json").read_text())
        if result["test"]["num_points"] == 4:  # the first fold
            result["test"] |= {"top1_clean": None, "num_points_clean": 0}
            (path / "result.json").write_text(json.dumps(result))
    found, _ = pooled(runs)
    run = next(run for run in found if run.identity["seed"] == 1)
    assert run.test["top1_clean"] == pytest.approx((3 + 3) / 13)


def test_a_seed_that_lacks_a_fold_is_left_out_and_said(runs):
    path = next(path for path in runs.glob("none*seed1*") if '"fold": 1' in (path / "manifest.json").read_text())
    shutil.rmtree(path)
    found, notes = pooled(runs)
    assert len(found) == 3
    assert "have finished: none_neg0.01_seed1 lacks fold 1 of 3" in notes[-1]


def test_a_point_that_two_folds_test_is_refused(runs, tmp_path):
    first, second = (
        next(path for path in runs.glob("none*seed1*") if f'"fold": {fold}' in (path / "manifest.json").read_text())
        for fold in (0, 1)
    )
    for name in ("rankings.jsonl", "result.json"):
        shutil.copy(first / name, second / name)
    with pytest.raises(ValueError, match="two folds of a cross-validation have a test point in common"):
        pooled(runs)


def test_other_runs_stay_as_they_are(runs):
    write_run(runs, config_of("relu", 0), [1] * len(POINTS), POINTS)
    found, _ = pooled(runs)
    assert len(found) == 5
    assert [run.parts for run in found if run.name.startswith("relu")] == [()]


def test_a_report_of_folds_alone_that_are_not_all_there_says_which(runs, tmp_path, capsys):
    for path in runs.glob("*"):
        if '"fold": 2' in (path / "manifest.json").read_text():
            shutil.rmtree(path)
    assert report([str(runs), "-o", str(tmp_path / "out")]) == 1
    assert "none_neg0.01_seed0 lacks fold 2 of 3" in capsys.readouterr().err


def test_decide_says_which_seed_lacks_a_fold(runs, capsys):
    """A verdict is never of a part without a word."""
    lacking = next(
        path for path in runs.glob("none_neg0.01_seed1*") if '"fold": 1' in (path / "manifest.json").read_text()
    )
    shutil.rmtree(lacking)
    assert decide([str(runs), "--json"]) in (0, 3)
    notes = json.loads(capsys.readouterr().out)["runs"]["notes"]
    assert any("none_neg0.01_seed1 lacks fold 1 of 3" in note for note in notes)


def test_the_report_is_of_the_pooled_points(runs, tmp_path, capsys):
    assert report([str(runs), "-o", str(tmp_path / "out"), "--points"]) == 0
    assert "cross-validation: the 12 runs of its folds count as 4" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.md").read_text()
    assert "Test top-1, mean over seeds (17 clean points, 18 official)" in page
    assert "| data.folds | 3 |" in page
    assert len((tmp_path / "out" / "points.csv").read_text().splitlines()) == 1 + 4 * 17


def test_the_encoder_of_another_fold_is_of_the_same_configuration():
    common = {"num": 3, "pairs": "a"}
    folds = [{"data": f"{fold}", "seed": 5, "folds": {**common, "fold": fold}} for fold in (0, 1)]
    assert name_without_seed(folds[0]) == name_without_seed(folds[1])
    assert name_without_seed(folds[0]) != name_without_seed(folds[0] | {"folds": {**common, "num": 4, "fold": 0}})
    assert name_without_seed({"data": "0", "seed": 5}) != name_without_seed({"data": "1", "seed": 5})


def test_a_sweep_over_the_folds_tests_every_point_once(tmp_path):
    texts = [(f"Question {i}?", f"Answer {i}." if i else "Answer 1.") for i in range(12)]
    lines = ["question,answer,product"] + [f"{ask},{answer},p{i % 4}" for i, (ask, answer) in enumerate(texts)]
    (tmp_path / "faq.csv").write_text("\n".join(lines) + "\n")
    arguments = ["data=pairs", f"data.path={tmp_path / 'faq.csv'}", "data.group=product", "training.epochs=0"]
    ended = run_here(
        [
            "-m",
            *arguments,
            "data.folds=3",
            "model=tiny",
            "model.max_tokens=16",
            "sweep_name=cv",
            f"cache_dir={tmp_path / 'cache'}",
        ],
        tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    (study,) = make_studies(pool_folds(collect([tmp_path / "logs" / "sweeps" / "cv"]).runs)[0])
    (run,) = study.runs
    assert len(set(run.outcomes.ids)) == 12
    assert set(run.outcomes.debates) == {f"p{i}" for i in range(4)}

    # The texts of all folds, and groups that share one, also where they lie in two folds.
    texts_found = load_texts(study)
    assert {texts_found.by_name[f"{name}#point"] for name in run.outcomes.ids} == {ask for ask, _ in texts}
    assert texts_found.cluster_of["p0"] == texts_found.cluster_of["p1"] != texts_found.cluster_of["p2"]
    (tmp_path / "faq.csv").write_text("\n".join(lines[:-1]) + "\n")
    shutil.rmtree(tmp_path / "cache")
    assert "is not the one that these runs used" in load_texts(study).problem


# --- is it right? ---


@pytest.mark.parametrize("name", ["easy and hard folds", "luck in each fold"])
def test_pooled_points_cover_and_err_as_they_claim(name):
    for design in ((6, 3, 12), (10, 5, 30)):
        covers, _, errs = simulation.shares(simulation.SCENARIOS[name], design, 400, name)
        assert covers >= 0.93 and errs <= 0.07, "two standard errors of 400 studies"


def test_what_pooled_points_cannot_cover_is_other_training_sets():
    scenario = simulation.SCENARIOS["training sets, large"]
    covers_these, covers_any, _ = simulation.shares(scenario, (10, 5, 75), 200, "test")
    assert covers_these > 0.95 > 0.8 > covers_any

"""A run in words: the table of its last lines, what training changed, and a warning for each thing that looks wrong."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from support.helpers import run_here

from biencoder_ablate.config.schema import Config, EvaluationConfig
from biencoder_ablate.runs.directory import RunDirectory
from biencoder_ablate.training.summary import (
    describe_hard_ratio,
    figures_table,
    finished_line,
    last_lines,
    meaning,
    warnings,
)

FIGURES = {"top1": 0.5, "top1_clean": 0.6, "top1_stage1": 0.4, "top1_stage1_clean": 0.3, "num_points": 20}
GOOD: dict[str, Any] = {
    "best_epoch": 2,
    "seconds": 1.5,
    "val": FIGURES | {"num_points_clean": 10, "dead_pairs": 0.0, "tied_first": 0.0},
    "test": FIGURES | {"num_points_clean": 10, "dead_pairs": 0.0, "tied_first": 0.0},
    "baselines": {
        name: {split: {"top1": value, "top1_clean": value} for split in ("val", "test")}
        for name, value in {"pretrained": 0.2, "bm25": 0.15, "tfidf": 0.7, "chance": 0.05}.items()
    },
}
RISING = [{"val/top1": value} for value in (0.3, 0.4, 0.5)]


def changed(**places: float | None) -> dict[str, Any]:
    """GOOD with other figures, given as split__key."""
    result = copy.deepcopy(GOOD)
    for place, value in places.items():
        group, key = place.split("__")
        result[group][key] = value
    return result


def test_nothing_is_wrong_with_a_run_that_went_well():
    assert warnings(GOOD, RISING) == []


@pytest.mark.parametrize(
    ("result", "records", "words"),
    [
        (changed(val__dead_pairs=0.75), RISING, ["75% of val pairs", "logits at 0", "before_linear2"]),
        (changed(val__tied_first=0.5), RISING, ["50% of val points", "tie", "training.learning_rate"]),
        (GOOD, [{"val/top1": 0.5}] * 3, ["val top-1 has not moved", "training.head_learning_rate"]),
        (
            changed(test__top1_clean=0.18),
            RISING,
            ["below the pretrained encoder's own cosine", "clean test 0.1800 (0.2000);", "recipe=contrastive"],
        ),
    ],
    ids=["dead head", "tied", "unmoved", "below the pretrained cosine"],
)
def test_what_looks_wrong_is_said_once_with_what_to_try(result, records, words):
    (found,) = warnings(result, records)
    for word in words:
        assert word in found


def test_a_dead_head_is_not_also_called_tied_and_two_epochs_are_too_few_to_say_unmoved():
    assert len(warnings(changed(val__dead_pairs=1.0, val__tied_first=1.0), RISING)) == 1
    assert warnings(GOOD, [{"val/top1": 0.5}] * 2) == []
    nothing_clean = changed(test__top1_clean=None)
    for figures in nothing_clean["baselines"].values():
        figures["test"]["top1_clean"] = None
    assert warnings(nothing_clean, RISING) == []


def test_each_baseline_that_is_better_is_named_with_its_figure():
    """0.04 is below all three; of TF-IDF, which is above every figure here, nothing is said."""
    pretrained, bm25, chance = warnings(changed(val__top1=0.04, val__top1_clean=0.04), RISING)
    assert "encoder's own cosine, in brackets: val 0.0400 (0.2000); " in pretrained, "once, where clean is the same"
    assert "below BM25, in brackets: val 0.0400 (0.1500)" in bm25 and "counting words" in bm25
    assert "below chance, in brackets: val 0.0400 (0.0500)" in chance and "random order" in chance


def test_the_last_lines_name_the_figure_without_training_by_distance_and_after_the_head():
    config = Config(evaluation=EvaluationConfig(select="top1_clean"))
    lines = last_lines(RunDirectory(Path("logs/runs/name")), GOOD, config, RISING).splitlines()
    assert lines[0] == "selected epoch 2, by val clean top-1"
    titles = ["by distance, this run", "after the head, this run", "pretrained encoder", "BM25", "TF-IDF", "chance"]
    assert [line.split("  ")[0] for line in lines[2:9]] == [*titles, "points"]
    assert [line.split()[-4:] for line in lines[2:5]] == [
        ["0.4000", "0.3000", "0.4000", "0.3000"],
        ["0.5000", "0.6000", "0.5000", "0.6000"],
        ["0.2000"] * 4,
    ]
    assert lines[1].split() == ["val", "val", "clean", "test", "test", "clean"]
    assert lines[8].split() == ["points", "20", "10", "20", "10"]
    assert "done in 1.5 s: logs/runs/name" in lines and lines[-2].startswith("next: ")
    config_of_last = Config(evaluation=EvaluationConfig(select="last"))
    assert last_lines(RunDirectory(Path("x")), GOOD, config_of_last, RISING).startswith("selected epoch 2, the last\n")
    untrained = last_lines(RunDirectory(Path("x")), GOOD | {"best_epoch": -1}, config, [])
    assert untrained.startswith("no epoch trained") and "learned:" not in untrained


def test_figures_below_what_needs_no_training_are_marked_and_clean_ones_hidden_where_they_are_the_same():
    result = changed(test__top1=0.1)
    assert [line.split()[-2] for line in figures_table(result).splitlines()[1:3]] == ["0.4000", "0.1000!"]
    for split in ("val", "test"):
        result[split] |= {"top1_clean": result[split]["top1"], "top1_stage1_clean": 0.4, "num_points_clean": 20}
    table = figures_table(result).splitlines()
    assert table[0].split() == ["val", "test"] and table[2].split()[-2:] == ["0.5000", "0.1000!"]
    assert max(map(len, figures_table(GOOD).splitlines())) < 80


def test_figures_are_of_the_metric_that_selects_the_epoch():
    """nDCG@10 has no figure before the head, and is below BM25 on test."""
    ndcg = {"ndcg@10": 0.75, "ndcg@10_clean": 0.75}
    result = changed() | {"select": "ndcg@10"}
    for split in ("val", "test"):
        result[split] |= ndcg | {"num_points_clean": 20}
    result["baselines"]["bm25"] = {
        split: {"ndcg@10": value, "ndcg@10_clean": value} for split, value in (("val", 0.7), ("test", 0.8))
    }
    rows = [line.split() for line in figures_table(result).splitlines()]
    assert rows[1][-2:] == ["–", "–"] and rows[2][-2:] == ["0.7500", "0.7500!"] and rows[4][-2:] == ["0.7000", "0.8000"]
    (found,) = warnings(result, [{"val/ndcg@10": value} for value in (0.3, 0.4, 0.5)])
    assert found.startswith("nDCG@10 is below BM25, in brackets: test 0.7500 (0.8000); ")
    assert finished_line(RunDirectory(Path("x")), result) == "x: epoch 2, nDCG@10: val 0.7500, test 0.7500: finished"


def test_what_training_changed_is_counted_in_points():
    """Of 10 clean test points: 0.6 after the head, 0.3 by distance, 0.2 without training."""
    assert meaning(GOOD) == (
        "learned: 6 of 10 clean test points find their counter first, 4 more than without training; the head finds "
        "3 more than distance alone"
    )
    same = meaning(changed(test__top1_clean=0.2, test__top1_stage1_clean=0.2))
    assert "2 of 10" in same and "as many as without training" in same and "no more and no fewer" in same
    assert "1 fewer than without training" in meaning(changed(test__top1_clean=0.1))
    assert "no test point counts" in meaning(changed(test__num_points_clean=0))


def test_the_schedule_in_words():
    assert describe_hard_ratio("constant", 0.01, None) == "1% of each epoch's"
    assert describe_hard_ratio("curriculum", 0.02, 0.2) == (
        "20% of the first epoch's, 2 points more each epoch, at most all"
    )


def test_the_lines_of_a_real_run_agree_with_its_result(finished_run):
    result = json.loads((finished_run.path / "result.json").read_text("utf-8"))
    lines = finished_run.ended.stdout.splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith("selected epoch 0, by val clean top-1"))
    assert lines[start + 1].split() == ["val", "test"], "the sample leaks nothing"
    rows = {line[:26].strip(): line.split()[-1] for line in lines[start + 2 : start + 9]}
    test, beside = result["test"], result["baselines"]
    assert rows["by distance, this run"].startswith(f"{test['top1_stage1']:.4f}")
    assert rows["after the head, this run"].startswith(f"{test['top1']:.4f}")
    assert rows["BM25"] == "0.2917" == f"{beside['bm25']['test']['top1']:.4f}" and rows["chance"] == "0.0105"
    assert rows["points"] == "48" and test["top1"] < 0.5, "a random encoder"
    assert (
        any(line.startswith("warning: top-1 is below BM25") for line in lines)
        and "!" in rows["after the head, this run"]
    )


def test_a_dead_head_is_found_in_a_real_run(tmp_path):
    """ReLU over logits that a step of the head has sent far below zero."""
    cwd = tmp_path / "dead"
    cwd.mkdir()
    sizes = ("model.max_tokens=16", "data.limit=4", "training.freeze_encoder=true", "training.epochs=3")
    rates = ("training.head_learning_rate=1", "training.projection_learning_rate=1e-3")
    ended = run_here(["recipe=study", "head=relu", *sizes, *rates], cwd)
    assert ended.returncode == 0, ended.stderr
    assert "warning: the head says nothing of" in ended.stdout


def test_a_frozen_run_says_how_many_texts_are_cut_as_one_that_trains_does(tmp_path):
    """Every counter has 40 words, more than the 16 tokens that are read, and no point has: half of the texts are cut.

    Said again when the features come from the cache, and no text is tokenised any more.
    """
    rows = [
        f"{split},Point {n}{split}.,{'word ' * 40}{n}{split}" for split in ("train", "val", "test") for n in range(4)
    ]
    (tmp_path / "long.csv").write_text("split,point,counter\n" + "\n".join(rows) + "\n")
    settings = ["data=pairs", "data.path=long.csv", "model=tiny", "model.max_tokens=16", "training.epochs=0"]
    for frozen in ("true", "true", "false"):
        ended = run_here([*settings, f"training.freeze_encoder={frozen}", "rerun=true"], tmp_path)
        assert ended.returncode == 0, ended.stderr
        (line,) = [line for line in ended.stdout.splitlines() if line.startswith("sizes ")]
        assert line.endswith(" trained weights, 50.0% of texts cut")

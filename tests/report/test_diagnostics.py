"""What figures are read beside: stage 1 before the head, baselines, and other rules of picking the epoch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.report_runs import HEADS, made_up_points, write_study

from biencoder_ablate.report import sentences
from biencoder_ablate.report.analysis import Analysis, analyse
from biencoder_ablate.report.diagnostics import baselines, selection
from biencoder_ablate.report.read import collect
from biencoder_ablate.report.study import make_studies
from biencoder_ablate.report.tables import groups_table, selection_table
from biencoder_ablate.utils.files import write_json

POINTS = made_up_points(10, 4)
MEANS = {"none": 0.4, "layernorm": 0.42, "relu": 0.8}


def edit(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    result = json.loads((run / "result.json").read_text("utf-8"))
    change(result)
    write_json(run / "result.json", result)


def written(runs: Path, change: Callable[[str, dict[str, Any]], None], means: Mapping[str, float] = MEANS) -> Analysis:
    """Three heads × eight seeds whose results `change` (head, result) has passed over."""
    for head, mean in means.items():
        for run in write_study(runs, {head: mean}, seeds=range(8), points=POINTS):
            edit(run, lambda result, head=head: change(head, result))
    (study,) = make_studies(collect([runs]).runs)
    return analyse(study)


def remarks(analysis: Analysis) -> dict[str, str]:
    table = groups_table(analysis, baselines(analysis.study))
    if table.columns[-1].name != "remarks":
        return {}
    return {str(row[0]): str(row[-1]) for row in table.rows if row[-1]}


def test_a_dead_head_is_not_the_headline(tmp_path):
    def kill(head, result):
        result["selected"]["dead_pairs"] = 1.0 if head == "relu" else 0.0

    analysis = written(tmp_path, kill)
    said = sentences.headline(analysis, ())
    assert said.startswith("“relu” has the highest mean (0.")
    assert " and no claim to it: head dead in 8 of 8 runs. Of those that do something: no clear winner: “" in said
    assert remarks(analysis) == {"relu": "head dead in 8 of 8 runs"}


def test_a_head_that_leaves_stage_1_as_it_was_is_not_the_headline(tmp_path):
    def idle(head, result):
        test = result["test"]
        test |= {"top1_stage1": test["top1"], "top1_stage1_clean": test["top1_clean"], "mrr_stage1": test["mrr"]}
        if head == "none":
            test |= {"top1_stage1_clean": 0.1, "mrr_stage1": 0.2}

    said = sentences.headline(written(tmp_path, idle, {"none": 0.4, "relu": 0.8}), ())
    assert "no claim to it: head changes nothing in 8 of 8 runs. Only “none” does something (0." in said


def test_where_every_head_only_does_harm_none_is_the_headline(tmp_path):
    analysis = written(tmp_path, lambda head, result: result["test"].update(top1_stage1_clean=0.95, mrr_stage1=0.97))
    assert sentences.headline(analysis, ()).startswith("No head brings anything over its own stage 1. “relu” has the")
    assert set(remarks(analysis).values()) == {"no gain over stage 1"}


def test_stage_1_stands_before_the_head(tmp_path):
    analysis = written(tmp_path, lambda head, result: result["test"].update(top1_stage1_clean=0.125))
    table = groups_table(analysis, ())
    names = [column.name for column in table.columns]
    assert names[2:4] == ["clean, before", "clean, after"]
    assert [row[2] for row in table.rows] == [0.125] * 3


def test_what_needs_no_training_is_a_row_and_what_is_below_it_is_marked(tmp_path):
    figures = {
        "pretrained": {"test": {"top1": 0.5, "top1_clean": 0.6, "recall@10": 0.9}},
        "bm25": {"test": {"top1": 0.2, "top1_clean": 0.3, "recall@10": 0.7}},
    }
    analysis = written(tmp_path, lambda head, result: result.update(baselines=figures))
    others = baselines(analysis.study)
    table = groups_table(analysis, others)
    assert [(row[0], row[2], row[-1]) for row in table.rows[-2:]] == [
        ("pretrained encoder", 0.6, ""),
        ("BM25", 0.3, ""),
    ]
    assert table.num_last == 2
    below = [str(row[0]) for row in table.rows[:-2] if row[2] < 0.6]
    assert below and remarks(analysis) == dict.fromkeys(below, "below pretrained encoder")
    assert "below" not in sentences.headline(analysis, others), "relu, at 0.8, is above all of them"
    higher = {"bm25": {"test": {"top1_clean": 0.97}}}
    for run in tmp_path.iterdir():
        edit(run, lambda result: result.update(baselines=higher))
    (study,) = make_studies(collect([tmp_path]).runs)
    assert "below BM25 (0.970)" in sentences.headline(analyse(study), baselines(study))


def test_older_runs_have_the_pretrained_encoder_s_figures_from_before_training(tmp_path):
    def older(head, result):
        del result["baselines"]
        result["initial"] |= {"pretrained/test/top1": 0.25, "pretrained/test/top1_clean": 0.31}

    (pretrained,) = baselines(written(tmp_path, older).study)
    assert (pretrained.label, pretrained.figures) == ("pretrained encoder", {"top1": 0.25, "top1_clean": 0.31})


@pytest.fixture
def curves(tmp_path) -> Analysis:
    """One seed: clean val picks epoch 0, official val epoch 1; relu leads by the one, trails by the other."""
    test = {"none": (0.5, 0.6, 0.7), "relu": (0.55, 0.58, 0.75), "layernorm": (0.2, 0.2, 0.2)}
    for head, figures in test.items():
        (run,) = write_study(tmp_path, {head: 0.5}, seeds=(0,), points=POINTS, leaked=(0,))
        records = [
            {"epoch": k, "val/top1": official, "val/top1_clean": clean, "test/top1_clean": figure, "test/top1": 0.1}
            for k, (official, clean, figure) in enumerate(zip((0.1, 0.3, 0.3), (0.9, 0.2, 0.9), figures, strict=True))
        ]
        lines = "".join(f"{json.dumps(record)}\n" for record in [{"epoch": -1, "test/top1_clean": 0.0}, *records])
        (run / "metrics.jsonl").write_text(lines, "utf-8")
    (study,) = make_studies(collect([tmp_path]).runs)
    return analyse(study)


def test_every_rule_s_epoch_and_figures_are_shown(curves):
    found = selection(curves)
    assert found.declared == "top1_clean"
    assert found.epochs == {"top1_clean": 0.0, "top1": 1.0, "last": 2.0}, "the first on a tie"
    assert found.means["top1_clean"] == {"none": 0.5, "layernorm": 0.2, "relu": 0.55}
    assert found.means["top1"] == {"none": 0.6, "layernorm": 0.2, "relu": 0.58}
    table = selection_table(curves, found)
    assert [column.name for column in table.columns] == ["figure", "clean val, declared", "official val", "last epoch"]
    assert table.rows[1] == ("none", 0.5, 0.6, 0.7)


def test_heads_that_change_places_by_another_rule_are_named(curves):
    assert sentences.selected(selection(curves)) == (
        "By another rule of picking the epoch “none” and “relu” change places; under no rule are they more than "
        "0.050 apart."
    )


def test_one_rule_or_one_epoch_is_nothing_to_show(tmp_path):
    write_study(tmp_path, dict.fromkeys(HEADS, 0.5), seeds=(0,), points=POINTS, epochs=1)
    (study,) = make_studies(collect([tmp_path]).runs)
    assert selection(analyse(study)) is None

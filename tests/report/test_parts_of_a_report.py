"""What a report says of parts: which are not alive, what each is worth in two ways, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.report_runs import made_up_points, write_study

from biencoder_ablate.report.analysis import analyse
from biencoder_ablate.report.decision import describe, judge, verdict_json
from biencoder_ablate.report.ledger import open_ledger
from biencoder_ablate.report.parts import is_worth_its_price, void_comparisons, void_sentences, worths
from biencoder_ablate.report.parts_tables import alive_table, costs_table, parts_blocks, prices_table
from biencoder_ablate.report.read import collect
from biencoder_ablate.report.sentences import answers
from biencoder_ablate.report.study import make_studies
from biencoder_ablate.report.verdicts import decisions, with_void_parts
from biencoder_ablate.utils.files import write_json

MEANS = {"none": 0.4, "layernorm": 0.5, "relu": 0.4, "layernorm_relu": 0.5}
SEEDS = (0, 1)


def part(words: str, lost: float | None = None, changed: int = 3, **record: Any) -> dict[str, Any]:
    """A part's record in result.json; with its bypass where it loses something."""
    bypassed = None
    if lost is not None:
        figures = {"lost": {"top1_clean": lost}, "num_changed": changed, "num_points": 20}
        bypassed = {"val": figures, "test": figures}
    return {"words": words, "weights": 0, "operations": 2, "bypassed": bypassed, **record}


def parts_of_head(head: str) -> dict[str, Any]:
    """All alive: LayerNorm of 12 weights, which loses 0.2 when bypassed, and a ReLU without any, which loses 0.1."""
    parts = {"encoder": part("frozen encoder"), "head": part("head", 0.3, weights=8, gradient_share=1.0, change=0.5)}
    if "layernorm" in head:
        parts["head.norm"] = part("LayerNorm", 0.2, weights=12, operations=70, gradient_share=0.75, change=0.01)
    if "relu" in head:
        parts["head.activation"] = part("ReLU", 0.1, acted_share=0.5)
    return parts


def analysis_of(runs: Path, change: Callable[[dict[str, Any]], None] = lambda parts: None, means=MEANS):
    """A study of heads whose records `change` has passed over; each costs ten operations a pair for each layer."""
    for head, mean in means.items():
        for run in write_study(runs, {head: mean}, seeds=SEEDS, points=made_up_points(8, 4)):
            result = json.loads((run / "result.json").read_text("utf-8"))
            parts = parts_of_head(head)
            change(parts)
            costs = {"operations_a_pair": 10 * len(parts), "bytes_a_text": 100}
            write_json(run / "result.json", {**result, "parts": parts, "costs": costs, "trained_weights": 8})
    (study,) = make_studies(collect([runs]).runs)
    return analyse(study)


def idle_relu(parts):
    if "head.activation" in parts:
        parts["head.activation"] = part("ReLU", 0.0, changed=0, acted_share=0.0)


def frozen_norm(parts):
    if "head.norm" in parts:
        parts["head.norm"] |= {"gradient_share": 0.0, "change": 0.0}


def test_of_parts_that_are_alive_nothing_is_said(tmp_path):
    analysis = analysis_of(tmp_path)
    assert void_sentences(analysis) == [] and void_comparisons(analysis) == {}
    assert "not alive" not in [column.name for column in alive_table(analysis, worths(analysis)).columns]


@pytest.mark.parametrize(
    ("change", "label", "why", "effect"),
    [
        (
            idle_relu,
            "ReLU (head.activation)",
            "does nothing: bypassing it changes no ranking in any of the 4 runs",
            "ReLU",
        ),
        (frozen_norm, "LayerNorm (head.norm)", "never got a gradient in any of the 4 runs that have it", "LayerNorm"),
    ],
    ids=["idle ReLU", "frozen LayerNorm"],
)
def test_a_verdict_about_a_part_that_is_not_alive_says_so_first(tmp_path, change, label, why, effect):
    analysis = analysis_of(tmp_path, change)
    (said,) = void_sentences(analysis)
    assert said.startswith(f"The {label} {why}")

    # Of the comparisons those that are about this part alone, and no other.
    other = {"ReLU": "layernorm", "LayerNorm": "relu"}[effect]
    own = {"ReLU": "relu", "LayerNorm": "layernorm"}[effect]
    assert set(void_comparisons(analysis)) == {effect, f"none − {own}", f"{other} − layernorm_relu"}
    found = {answer.part: answer.words for answer in with_void_parts(answers(analysis), analysis)}
    assert found[effect].startswith(f"the {label} {why}")
    (unconcerned,) = {"ReLU", "LayerNorm"} - {effect}
    assert label not in found[unconcerned]

    # decide says it as well: in its lines, in the headline and in its JSON.
    collection = collect([tmp_path])
    ledger = open_ledger(collection, None)
    judged = judge(collection, ledger)
    assert judged[0].headline.startswith(said)
    (decision,) = [each for each in decisions(analysis) if each.name == effect]
    assert describe(decision, analysis).startswith(f"{effect}: the {label} {why}")
    comparisons = verdict_json(collection, judged, ledger)["studies"][0]["comparisons"]
    void = {each["name"] for each in comparisons if each["void"]}
    assert void == set(void_comparisons(analysis))


def test_a_part_that_is_alive_in_one_run_is_judged(tmp_path):
    seen = []

    def idle_but_once(parts):
        if "head.activation" in parts and seen:
            idle_relu(parts)
        seen.append(parts)

    assert void_sentences(analysis_of(tmp_path, idle_but_once, {"relu": 0.4, "none": 0.4})) == []


def test_bypassed_after_training_stands_beside_trained_without_it(tmp_path):
    analysis = analysis_of(tmp_path)
    rows = {row[0]: row for row in alive_table(analysis, worths(analysis)).rows}
    runs, gradient, moved, acted, changed, bypassed, without = rows["LayerNorm (head.norm)"][1:]
    means = analysis.main.means(analysis.primary)
    expected = (means["layernorm"] - means["none"] + means["layernorm_relu"] - means["relu"]) / 2
    assert (runs, gradient, moved, acted) == (4, 0.75, 0.01, None)
    assert (changed, bypassed) == (pytest.approx(3 / 20), pytest.approx(0.2))
    assert without == pytest.approx(expected)
    assert rows["head"][-2:] == (pytest.approx(0.3), None), "no configuration was trained without a head"


def test_what_a_part_costs_stands_beside_what_it_brings(tmp_path):
    analysis = analysis_of(tmp_path)
    rows = {row[0]: row[1:] for row in prices_table(analysis, worths(analysis)).rows}
    assert set(rows) == {"LayerNorm (head.norm)", "ReLU (head.activation)"}
    assert rows["LayerNorm (head.norm)"][1:4] == (12, 70, 0)
    of_configurations = costs_table(analysis)
    names = [column.name for column in of_configurations.columns]
    assert "operations a pair" in names and "ms a step" not in names, "these runs do not say how long a step took"


def test_worth_its_price_is_what_nothing_as_cheap_reaches(tmp_path):
    study = analysis_of(tmp_path).study
    means = {"none": 0.4, "layernorm": 0.5, "relu": 0.4, "layernorm_relu": 0.45}
    assert is_worth_its_price(study, means) == {
        "none": True,
        "layernorm": True,
        "relu": False,
        "layernorm_relu": False,
    }


def test_times_of_a_step_and_of_an_answer_are_those_of_the_epochs(tmp_path):
    analysis_of(tmp_path, means={"none": 0.4})
    for path in tmp_path.glob("*/metrics.jsonl"):
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for record in records[1:]:
            record |= {"num_steps": 5, "train_seconds": 0.1, "eval_seconds": 0.6}
            record |= {f"{split}/num_points": 100 for split in ("train", "val", "test")}
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    (study,) = make_studies(collect([tmp_path]).runs)
    table = costs_table(analyse(study))
    row = dict(zip([column.name for column in table.columns], table.rows[0], strict=True))
    assert row["ms a step"] == pytest.approx(20.0)
    assert row["ms an answer"] == pytest.approx(2.0)


def test_runs_that_did_not_watch_their_parts_stay_readable_and_say_nothing(tmp_path):
    write_study(tmp_path, MEANS, seeds=SEEDS, points=made_up_points(8, 4))
    (study,) = make_studies(collect([tmp_path]).runs)
    analysis = analyse(study)
    assert parts_blocks(analysis) == [] and void_sentences(analysis) == []
    assert "operations a pair" not in [column.name for column in costs_table(analysis).columns]


@pytest.mark.parametrize("parts", [None, 3, {"head": None}, {"head": {"words": "head", "bypassed": {"test": 1}}}])
def test_records_in_no_usable_form_are_left_out(tmp_path, parts):
    analysis = analysis_of(tmp_path, means={"none": 0.4, "relu": 0.4})
    for path in tmp_path.glob("*/result.json"):
        result = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps({**result, "parts": parts, "costs": parts}), "utf-8")
    (study,) = make_studies(collect([tmp_path]).runs)
    analysis = replace(analysis, study=study)
    assert void_sentences(analysis) == []
    assert len(parts_blocks(analysis)) == ("words" in str(parts))

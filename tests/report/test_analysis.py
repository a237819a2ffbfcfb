"""The questions a report asks: which runs it compares, what it concludes, and when it refuses to conclude."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.helpers import load_sample
from support.report_runs import CURRICULUM, HEADS, config_of, made_up_points, sample_points, write_run, write_study

from biencoder_ablate.config.schema import DataConfig, FusionConfig
from biencoder_ablate.data.corpus import Pair
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.data.text_cache import joined_debates
from biencoder_ablate.report import render, sentences
from biencoder_ablate.report.analysis import Analysis, Kind, analyse
from biencoder_ablate.report.comparisons import compare, factorial_effects
from biencoder_ablate.report.diagnostics import find_leakage
from biencoder_ablate.report.examples import load_texts, side_by_side
from biencoder_ablate.report.parts_tables import costs_table
from biencoder_ablate.report.read import Metric, Protocol, collect
from biencoder_ablate.report.statistics import sign_flip_p
from biencoder_ablate.report.study import Study, arms_of, make_studies
from biencoder_ablate.report.tables import (
    constants_table,
    groups_table,
    leakage_table,
    missing_table,
    overview_table,
    runs_table,
)
from biencoder_ablate.utils.seeding import generator

EQUAL = dict.fromkeys(HEADS, 0.5)
CLEAR = {"none": 0.3, "layernorm": 0.35, "relu": 0.3, "layernorm_relu": 0.7}


def study_of(runs: Path) -> Study:
    (study,) = make_studies(collect([runs]).runs)
    return study


def analysis_of(runs: Path) -> Analysis:
    return analyse(study_of(runs))


@pytest.fixture(scope="module")
def clear(tmp_path_factory) -> Analysis:
    """layernorm_relu is far better, at two ratios; every third point is leaked."""
    runs = tmp_path_factory.mktemp("clear")
    write_study(runs, CLEAR, seeds=range(8), ratios=(0.01, 0.2), leaked=range(0, 180, 3))
    return analysis_of(runs)


# --- verdicts ---


def test_a_clear_winner_is_named_first(clear):
    assert clear.verdict is not None
    assert clear.verdict.winner == "layernorm_relu"
    assert clear.headline.startswith("“layernorm_relu” wins: mean 0.")
    assert clear.primary == "clean"
    assert clear.num_points == {Protocol.CLEAN: 120, Protocol.OFFICIAL: 180}


def test_the_families_are_those_declared(clear):
    assert [(family.kind, len(family.primary), len(family.beside)) for family in clear.families] == [
        (Kind.EFFECTS, 3, 3),
        (Kind.PAIRS, 6, 6),
        (Kind.INTERACTION, 3, 3),
        (Kind.SETTING, 6, 6),
        (Kind.SETTING, 6, 6),
        (Kind.AXIS, 1, 1),
    ]
    pairs = clear.family(Kind.PAIRS)
    assert pairs is not None
    assert pairs.arms.settings == ("neg 0.01", "neg 0.2")
    assert {result.num_tests for result in pairs.primary} == {6}
    assert pairs.verdict_beside is not None


def test_figures_are_those_of_the_statistics_on_the_same_outcomes(clear):
    """The effects by hand: average each head over its two cells, compare on clean points by debate."""
    run = clear.study.runs[0]
    counts = ~np.isnan(run.outcomes.correct[Protocol.CLEAN])
    debates = np.array(run.outcomes.debates)[counts]
    arms = arms_of(clear.study, [(level.label, {0: level}) for level in clear.study.axes[0].levels])
    expected = compare(arms.groups(Protocol.CLEAN), debates, factorial_effects(("LayerNorm", "ReLU"), HEADS))
    assert clear.family(Kind.EFFECTS).primary == expected
    cell = clear.study.cells[0]
    group = cell.outcomes(Protocol.CLEAN)
    assert group.correct.mean() == pytest.approx(
        np.mean([run.result["test"]["top1_clean"] for run in cell.runs.values()])
    )


def test_equal_heads_have_no_clear_winner(tmp_path):
    write_study(tmp_path, EQUAL, seeds=range(8))
    analysis = analysis_of(tmp_path)
    assert analysis.verdict.status == "no_clear_winner"
    assert analysis.headline.startswith("No clear winner")


def test_too_few_seeds_are_said_with_how_many_are_needed(tmp_path):
    write_study(tmp_path, CLEAR, seeds=range(7))
    analysis = analysis_of(tmp_path)
    assert analysis.verdict.status == "too_few_seeds"
    assert "8 are needed" in analysis.headline


def test_two_heads_are_one_pair_and_no_effects(tmp_path):
    write_study(tmp_path, {"none": 0.3, "relu": 0.6}, seeds=range(6))
    analysis = analysis_of(tmp_path)
    assert [(family.kind, len(family.primary)) for family in analysis.families] == [(Kind.PAIRS, 1)]
    assert analysis.verdict.winner == "relu"


def test_three_heads_still_interact_with_the_ratio(tmp_path):
    write_study(tmp_path, {"none": 0.3, "relu": 0.6, "layernorm": 0.4}, seeds=range(3), ratios=(0.01, 0.5))
    interaction = analysis_of(tmp_path).family(Kind.INTERACTION)
    assert len(interaction.primary) == 3
    assert interaction.primary[0].contrast.name == "none − layernorm: neg 0.5 − neg 0.01"


def test_one_configuration_is_described_and_not_judged(tmp_path):
    write_study(tmp_path, {"none": 0.3}, seeds=range(3))
    analysis = analysis_of(tmp_path)
    assert (analysis.families, find_leakage(analysis)) == ((), None)
    assert analysis.main.names == ("the only configuration",)
    mean = analysis.summaries[analysis.study.cells[0].name]["clean"].mean
    assert "Nothing to compare" in analysis.headline and f"clean test top-1 is {mean:.3f} (95% " in analysis.headline
    assert analysis.headline.endswith("over 3 seeds.")
    assert groups_table(analysis, ()).rows[0][:2] == ("the only configuration", 3)


def test_without_clean_points_the_official_figure_decides_and_says_so(tmp_path):
    write_study(tmp_path, CLEAR, seeds=range(8), leaked=range(180))
    analysis = analysis_of(tmp_path)
    assert analysis.primary == "official"
    assert analysis.verdict.winner == "layernorm_relu"
    assert analysis.family(Kind.PAIRS).beside == ()
    assert find_leakage(analysis) is None
    assert "leakage is not excluded" in render.declared(analysis)[0]


# --- which settings are averaged ---


def test_a_setting_that_lacks_a_head_is_left_out_of_the_average_but_not_lost(tmp_path):
    write_study(tmp_path, CLEAR, seeds=range(8))
    write_study(tmp_path, {"none": 0.3, "relu": 0.3}, seeds=range(8), ratios=(0.5,))
    analysis = analysis_of(tmp_path)
    pairs = analysis.family(Kind.PAIRS)
    assert pairs.arms.settings == ("neg 0.01",)
    assert pairs.arms.left_out == ("neg 0.5 (no finished run of layernorm, layernorm_relu)",)
    within = [family for family in analysis.families if family.subject == "neg 0.5" and family.kind is Kind.SETTING]
    assert [len(family.primary) for family in within] == [1], "compared pairwise with what is there"
    said = "The verdict is for neg 0.01 alone. Not in it: neg 0.5 (no finished run of layernorm, layernorm_relu)."
    assert said in sentences.findings(analysis)


def test_a_trial_with_one_seed_does_not_cost_the_others_theirs(tmp_path):
    write_study(tmp_path, CLEAR, seeds=range(8))
    write_study(tmp_path, CLEAR, seeds=(0,), ratios=(0.5,))
    pairs = analysis_of(tmp_path).family(Kind.PAIRS)
    assert pairs.arms.seeds == tuple(range(8))
    assert pairs.arms.left_out == ("neg 0.5 (too few seeds in common with the other settings)",)


def test_one_failed_seed_costs_that_seed_only(tmp_path):
    written = write_study(tmp_path, CLEAR, seeds=range(8), ratios=(0.01, 0.5))
    (written[3] / "result.json").unlink()
    analysis = analysis_of(tmp_path)
    pairs = analysis.family(Kind.PAIRS)
    assert pairs.arms.settings == ("neg 0.01", "neg 0.5")
    assert pairs.arms.seeds == (0, 1, 2, 4, 5, 6, 7)
    assert [len(result.seeds) for result in pairs.primary] == [7, 7, 7, 8, 8, 8]
    table = missing_table(collect([tmp_path]).runs, [analysis.study])
    assert [row[1] for row in table.rows] == ["interrupted", "lacks seeds"]
    assert table.rows[1][:3] == ("none, neg 0.01", "lacks seeds", "3; others have it")


def test_heads_that_never_met_are_compared_configuration_by_configuration(tmp_path):
    """Three configurations that differ in head, ratio and fusion at once: no axis can be compared alone."""
    for k, (head, ratio, fusion) in enumerate(
        (("none", 0.01, "concat"), ("relu", 0.5, "concat"), ("relu", 0.01, "pooled"), ("layernorm", 0.5, "pooled"))
    ):
        write_study(
            tmp_path,
            {head: 0.3 + 0.1 * k},
            seeds=range(3),
            ratios=(ratio,),
            change=lambda config, fusion=fusion: replace(config, fusion=FusionConfig(fusion)),
        )
    analysis = analysis_of(tmp_path)
    assert [(family.kind, family.subject, len(family.primary)) for family in analysis.families] == [
        (Kind.PAIRS, "configuration", 6)
    ]
    assert "Heads are not compared over settings: no setting has finished runs of all." in analysis.notes


def test_the_relu_before_linear2_is_a_question_of_its_own(tmp_path):
    def before(config):
        return replace(config, head=replace(config.head, activation_position="before_linear2"))

    write_study(tmp_path, EQUAL, seeds=range(3), ratios=(0.01, 0.5))
    write_study(tmp_path, {"relu": 0.5, "layernorm_relu": 0.5}, seeds=range(3), change=before)
    analysis = analysis_of(tmp_path)
    kinds = {family.kind: family for family in analysis.families}
    assert len(kinds[Kind.PAIRS].primary) == 6
    assert kinds[Kind.PAIRS].arms.settings == ("neg 0.01", "neg 0.5"), "the four heads keep both settings"
    assert len(kinds[Kind.VARIANTS].primary) == 15
    assert kinds[Kind.VARIANTS].arms.settings == ("neg 0.01",)
    assert dict(kinds[Kind.EFFECTS_BEFORE].primary[0].contrast.weights) == {
        "none": -0.5,
        "layernorm": 0.5,
        "relu before linear2": -0.5,
        "layernorm_relu before linear2": 0.5,
    }


def test_curricula_and_constants_are_levels_of_one_axis(tmp_path):
    write_study(tmp_path, EQUAL, seeds=range(2))
    write_study(tmp_path, EQUAL, seeds=range(2), change=lambda c: replace(c, negatives=CURRICULUM))
    analysis = analysis_of(tmp_path)
    assert [family.subject for family in analysis.families] == [
        "head",
        "head",
        "negatives",
        "neg 0.01",
        "curr 0.01",
        "negatives",
    ]


def test_parts_taken_out_are_each_compared_with_the_whole(tmp_path):
    """Two keys may change with one part, and two parts may change the same key."""
    parts = {"nothing": {}, "pooled": {"fusion": FusionConfig("pooled")}, "ratio": {"neg_ratio": 0.5}}
    parts["both"] = {"fusion": FusionConfig("pooled"), "neg_ratio": 0.3}
    for k, (part, changes) in enumerate(parts.items()):
        for seed in range(3):
            right = np.arange(24) % (k + 2) == 0
            config = config_of(seed=seed, **changes)
            write_run(tmp_path, config, right, made_up_points(4), fingerprint="f" * 64, overrides=[f"without={part}"])
    analysis = analysis_of(tmp_path)
    (axis,) = analysis.study.axes
    assert (axis.name, [level.label for level in axis.levels]) == ("without", ["nothing", "both", "pooled", "ratio"])
    (family,) = analysis.families
    assert (family.kind, family.baseline) == (Kind.PARTS, "without=nothing")
    assert {r.contrast.name: r.estimate for r in family.primary} == pytest.approx(
        {"without=both": 5 / 24 - 0.5, "without=pooled": 8 / 24 - 0.5, "without=ratio": 6 / 24 - 0.5}
    )
    (answer, *_) = sentences.answers(analysis)
    assert (answer.part, answer.words) == ("both", "not known at this number of seeds")
    assert "lower without it" in answer.detail


def test_the_figure_and_the_protocol_that_decide_can_be_chosen(tmp_path):
    write_study(tmp_path, CLEAR, seeds=range(2), leaked=range(0, 180, 3))
    (study,) = make_studies(collect([tmp_path], Metric.TOP1).runs)
    by_official = analyse(study, Protocol.OFFICIAL)
    assert (by_official.primary, by_official.figure()) == ("official", "official test top-1")
    assert find_leakage(by_official) == find_leakage(analyse(study))
    for directory in tmp_path.iterdir():
        result = json.loads((directory / "result.json").read_text("utf-8"))
        ranks = [
            json.loads(line)["rank"] for line in (directory / "rankings.jsonl").read_text("utf-8").splitlines()[1:]
        ]
        result["test"]["mrr"] = float(np.mean(1 / np.array(ranks)))
        (directory / "result.json").write_text(json.dumps(result), "utf-8")
    (study,) = make_studies(collect([tmp_path], Metric.MRR).runs)
    analysis = analyse(study)
    assert analysis.figure() == "clean test MRR"
    cell = study.cells[0]
    wrong = 1 / 3  # where report_runs puts a counter that is not first
    top1 = np.mean([run.result["test"]["top1_clean"] for run in cell.runs.values()])
    assert analysis.summaries[cell.name][Protocol.CLEAN].mean == pytest.approx(top1 + (1 - top1) * wrong)


def test_debates_that_share_a_text_are_one():
    """b and c share a text, c and d another; e is alone."""
    texts = [("a", "1"), ("b", "2"), ("c", "2"), ("c", "3"), ("d", "3"), ("e", "4")]
    assert joined_debates(texts) == {"a": "a", "b": "b", "c": "b", "d": "b", "e": "e"}


# --- leakage ---


def leaky(runs: Path, seeds=range(8), clean=(0.6, 0.3)) -> Analysis:
    """relu remembers the leaked points and layernorm knows the clean ones, as many as `clean` says of both."""
    points = made_up_points(20)
    leaked = [k for k in range(len(points)) if k % 2]
    data = DataConfig(name="arguana", path="gone.zip")
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for head, on_leaked, on_clean in zip(("layernorm", "relu"), (0.1, 0.9), clean, strict=True):
            chance = np.where(np.arange(len(points)) % 2, on_leaked, on_clean)
            right = rng.random(len(points)) < chance
            write_run(runs, config_of(head, seed, data=data), right, points, leaked, fingerprint="e" * 64)
    return analyse(make_studies(collect([runs]).runs)[0])


def test_leakage_that_changes_who_is_best_is_found(tmp_path):
    analysis = leaky(tmp_path)
    orders = "it is relu > layernorm by the official figure and layernorm > relu by the clean one."
    assert orders in find_leakage(analysis).sentence
    (shift,) = find_leakage(analysis).shifts
    assert shift.swaps
    assert shift.p == 2 / 2**8
    assert "“layernorm” and “relu” change places; they can be told apart" in find_leakage(analysis).sentence
    assert leakage_table(find_leakage(analysis)).rows[0][-1] is True
    assert analysis.verdict.winner == "layernorm", "the clean figure decides"


def test_leakage_is_no_chance_where_one_figure_alone_can_tell_the_heads_apart(tmp_path):
    analysis = leaky(tmp_path, clean=(0.5, 0.48))
    pairs = analysis.family(Kind.PAIRS)
    assert [pairs.primary[0].is_significant(), pairs.beside[0].is_significant()] == [False, True]
    (shift,) = find_leakage(analysis).shifts
    assert shift.swaps
    assert "they can be told apart under at least one figure" in find_leakage(analysis).sentence


def test_with_many_seeds_the_signs_of_leakage_are_drawn_from_a_stream_of_its_own(tmp_path):
    analysis = leaky(tmp_path, range(16), clean=(0.6, 0.2))
    pairs = analysis.family(Kind.PAIRS)
    clean, official = (np.array([family[0].seed_estimates]) for family in (pairs.primary, pairs.beside))
    (shift,) = find_leakage(analysis).shifts
    assert shift.p == sign_flip_p(np.round(official - clean, 12), generator(0, "report", "leakage"))[0]


def test_leakage_without_enough_seeds_may_be_chance(tmp_path):
    assert "may be chance" in find_leakage(leaky(tmp_path, seeds=range(2))).sentence


def test_leakage_that_changes_nothing_is_said(clear):
    assert "do not change the order" in find_leakage(clear).sentence
    assert "it is layernorm_relu > " in find_leakage(clear).sentence


# --- tables and words ---


def test_the_overview_marks_what_may_be_best(clear):
    table = overview_table(clear)
    assert [row[0] for row in table.rows] == ["neg 0.01", "neg 0.2", "all settings"]
    for row in table.rows:
        assert [str(value).startswith("• ") for value in row[1:]] == [False, False, False, True]


def test_the_overview_marks_nothing_with_too_few_seeds(tmp_path):
    write_study(tmp_path, CLEAR, seeds=range(3), ratios=(0.01, 0.5))
    assert not any("•" in str(value) for row in overview_table(analysis_of(tmp_path)).rows for value in row)


def test_findings_say_what_was_averaged_and_group_equal_answers(clear):
    said = sentences.findings(clear)
    assert said[0] == "Averaged over 2 settings: negatives (neg 0.01, neg 0.2)."
    assert said[1].startswith("By the official figure: “layernorm_relu” wins")
    assert "“layernorm_relu” wins in each of the 2 settings" in said[2]
    assert said[3] == "That what the head does depends on negatives cannot be told (3 tests)."
    assert said[4].startswith("Negatives: ")
    assert len(said) == 5


def test_what_each_part_of_the_head_does_is_said_in_queries_of_the_test_set(clear):
    total = clear.num_points[clear.primary]
    said = sentences.answers(clear)
    assert [(answer.part, answer.status) for answer in said] == [
        ("LayerNorm", "earns"), ("ReLU", "earns"), ("LayerNorm and ReLU together", "earns")
    ]  # fmt: skip
    for answer, result in zip(said, clear.family(Kind.EFFECTS).primary, strict=True):
        size = f"{result.estimate:.3f} (about {round(result.estimate * total)} of {total} points)"
        low, high = (f"{end:+.3f}" for end in (result.family_low, result.family_high))
        assert size in answer.detail and f"; 95% interval for all at once {low} to {high}; Holm p 0." in answer.detail
    assert str(said[0]).startswith("LayerNorm: earns its place; it brings ")


def test_a_part_that_costs_does_not_earn_its_place(tmp_path):
    write_study(tmp_path, {"none": 0.8, "layernorm": 0.5, "relu": 0.8, "layernorm_relu": 0.5}, seeds=range(8))
    layernorm, relu, _ = map(str, sentences.answers(analysis_of(tmp_path)))
    assert layernorm.startswith("LayerNorm: does not earn its place; it costs ")
    assert relu.startswith("ReLU: cannot be told from nothing; it ")


def test_effects_that_too_few_seeds_cannot_tell_are_said_to_be_so(tmp_path):
    """Three tests need seven seeds, twelve nine: 3·2/2⁷ and 12·2/2⁹ are below 0.05."""
    write_study(tmp_path, EQUAL, seeds=range(6), ratios=(0.01, 0.1, 0.2, 0.3, 0.5))
    analysis = analysis_of(tmp_path)
    assert {answer.words for answer in sentences.answers(analysis)} == {"not known at this number of seeds"}
    few = "Too few seeds to tell whether what the head does depends on negatives: 6 seeds of the 9 that 12 tests need."
    assert few in sentences.findings(analysis)


def test_effects_over_seeds_that_no_two_heads_share_are_not_made_up(tmp_path):
    for k, head in enumerate(HEADS):
        write_study(tmp_path, {head: 0.5}, seeds=(k,))
    analysis = analysis_of(tmp_path)
    assert "with no seed in common, the sign-flip test cannot reach" in analysis.headline
    assert ", each group over its own seeds)" in analysis.headline
    for answer in sentences.answers(analysis):
        assert answer.status == "unknown" and "an unknown amount (no seed in common)" in answer.detail


def test_without_parts_every_level_stands_beside_the_best(tmp_path):
    write_study(tmp_path, {"none": 0.7, "layernorm": 0.3, "relu": 0.7}, seeds=range(8))
    analysis = analysis_of(tmp_path)
    best = analysis.verdict.best
    other = "relu" if best == "none" else "none"
    said = {answer.part: answer for answer in sentences.answers(analysis)}
    assert set(said) == {"layernorm", other}
    assert said["layernorm"].words == f"loses to “{best}”" and f" behind “{best}”; 95% " in said["layernorm"].detail
    assert said[other].words == f"cannot be told from “{best}”"


def test_an_interaction_that_is_there_is_found(tmp_path):
    write_study(tmp_path, CLEAR, seeds=range(8))
    write_study(tmp_path, EQUAL, seeds=range(8), ratios=(0.5,))
    said = sentences.findings(analysis_of(tmp_path))
    (found,) = [sentence for sentence in said if sentence.startswith("What the head does depends on negatives: ")]
    assert "LayerNorm × ReLU: neg 0.5 − neg 0.01 (−0." in found


def test_a_head_s_name_is_no_word_of_the_sentence(tmp_path):
    """Without quotes, "none wins" would say that there is no winner."""
    write_study(tmp_path, {"none": 0.7, "relu": 0.3, "layernorm": 0.3}, seeds=range(8))
    analysis = analysis_of(tmp_path)
    assert analysis.verdict.winner == "none"
    assert analysis.headline.startswith("“none” wins: mean 0.")


def test_notes_say_which_comparisons_they_are_on(tmp_path):
    written = write_study(tmp_path, {"none": 0.3, "relu": 0.3, "layernorm": 0.3}, seeds=range(3))
    (written[0] / "result.json").unlink()
    analysis = analysis_of(tmp_path)
    assert sentences.about(analysis.study, analysis.family(Kind.PAIRS)) == [
        "Note on none − layernorm; none − relu: seeds not in all of its groups, left out: 0."
    ]


def test_each_run_has_the_command_that_makes_it(tmp_path):
    write_run(tmp_path, config_of(), [1] * len(sample_points()), overrides=["head=none", "data.path=/a b/c.csv"])
    table = runs_table(study_of(tmp_path))
    (row,) = table.rows
    command = row[[column.name for column in table.columns].index("command")]
    assert command == "python -m biencoder_ablate head=none 'data.path=/a b/c.csv'"


# --- wins and losses ---


@pytest.fixture
def two_heads(tmp_path) -> Analysis:
    """On the sample debates, none gets the first debate right in both seeds, relu the last, and once the first."""
    points = sample_points()
    debates = [debate for _, debate in points]
    for seed in (0, 1):
        write_run(tmp_path, config_of("none", seed), [debate == debates[0] for debate in debates])
        known = (debates[-1], debates[0]) if seed else (debates[-1],)
        write_run(tmp_path, config_of("relu", seed), [debate in known for debate in debates])
    return analysis_of(tmp_path)


def test_debates_are_told_by_who_leads(two_heads):
    (pair,) = side_by_side(two_heads)
    debates = [debate for _, debate in sample_points()]
    assert (pair.a, pair.b, pair.num_runs) == ("none", "relu", 2)
    assert pair.debates[0] == (debates[0], debates.count(debates[0]), 1.0, 0.5)
    assert pair.debates[-1] == (debates[-1], debates.count(debates[-1]), 0.0, 1.0)
    assert sum(num_points for _, num_points, _, _ in pair.debates) == len(debates)
    (example,) = pair.for_a
    assert (example.point, example.instead_runs, example.num_wrong) == (sample_points()[0][0], 1, 1)
    assert example.instead == f"{sample_points()[-1][0]}#counter"


def test_the_texts_are_the_corpus_s(two_heads):
    texts = load_texts(two_heads.study)
    pair = load_sample().test[0]
    assert texts.by_name[f"{pair.id}#point"] == pair.point
    assert texts.by_name[f"{pair.id}#counter"] == pair.counter
    assert texts.problem == ""


def test_texts_that_are_gone_or_others_are_not_shown(tmp_path):
    write_study(tmp_path / "a", {"none": 0.5}, seeds=(0,))
    texts = load_texts(study_of(tmp_path / "a"))
    assert (dict(texts.by_name), texts.problem) == ({}, "the corpus cannot be read from gone.zip any more")
    write_run(tmp_path / "b", config_of(), [1] * len(sample_points()), fingerprint="d" * 64)
    assert "not the one that these runs used" in load_texts(study_of(tmp_path / "b")).problem


def run_on_pairs(table: Path, runs: Path, path: str, cache: Path) -> Pair:
    """A run of nine pairs of a csv, in a config of this path and cache; returns its first test pair."""
    table.parent.mkdir(exist_ok=True)
    rows = [f"{table.parent.name} point {k},“counter” {k}\n" for k in range(9)]
    table.write_text("point,counter\n" + "".join(rows), "utf-8")
    corpus = load_corpus(DataConfig(name="pairs", path=str(table)))
    points = [(pair.id, pair.debate) for pair in corpus.test]
    config = config_of(data=DataConfig(name="pairs", path=path), cache_dir=str(cache))
    write_run(runs, config, [1] * len(points), points, fingerprint=corpus.fingerprint)
    return corpus.test[0]


def test_a_relative_corpus_is_found_beside_the_logs(tmp_path, monkeypatch):
    runs = tmp_path / "work" / "logs" / "runs"
    pair = run_on_pairs(tmp_path / "work" / "pairs.csv", runs, "pairs.csv", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    assert load_texts(study_of(runs)).by_name[f"{pair.id}#point"] == pair.point


def test_texts_are_kept_so_that_a_corpus_is_read_once(tmp_path, monkeypatch):
    """Under the corpus's fingerprint: another corpus at the same path has texts of its own."""
    table, runs = tmp_path / "mine" / "pairs.csv", tmp_path / "logs" / "runs"
    pair = run_on_pairs(table, runs, str(table), tmp_path / "cache")
    first = load_texts(study_of(runs))
    table.unlink()
    again = load_texts(study_of(runs))
    assert again == first
    assert (again.by_name[f"{pair.id}#counter"], again.problem) == (pair.counter, "")
    assert pair.debate in again.cluster_of
    other = run_on_pairs(tmp_path / "other" / "pairs.csv", tmp_path / "other_logs", str(table), tmp_path / "cache")
    assert "cannot be read" in load_texts(study_of(tmp_path / "other_logs")).problem
    assert other.point != pair.point


@pytest.mark.parametrize("kept", ["", "[]", '{"by_name": '])
def test_texts_that_cannot_be_kept_or_are_damaged_are_read_anew(tmp_path, kept):
    table, runs, cache = tmp_path / "mine" / "pairs.csv", tmp_path / "logs" / "runs", tmp_path / "cache"
    if not kept:
        cache.write_text("a file is in the way", "utf-8")
    pair = run_on_pairs(table, runs, str(table), cache)
    for _ in range(2):
        assert load_texts(study_of(runs)).by_name[f"{pair.id}#point"] == pair.point
        for file in cache.rglob("*.json"):
            file.write_text(kept, "utf-8")
    assert kept == "" or len(list(cache.rglob("*.json"))) == 1


def test_costs_are_of_the_epochs_and_weights_are_left_out_where_runs_do_not_tell_them(tmp_path):
    write_study(tmp_path, {"none": 0.5, "relu": 0.5}, seeds=(0, 1))
    for k, path in enumerate(sorted(tmp_path.iterdir())):
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text("utf-8").splitlines()]
        lines[0] |= {"train_seconds": None, "eval_seconds": 0.5}
        for line in lines[1:]:
            line |= {"train_seconds": 1.0 + k % 2, "eval_seconds": 0.25}
        (path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    expected = [("none", 0.5 + 4 * 1.75), ("relu", 0.5 + 4 * 1.75)]  # of four epochs; the mean of two seeds
    assert [(row[0], row[-1]) for row in costs_table(analysis_of(tmp_path)).rows] == expected
    for path in tmp_path.glob("relu*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"trained_weights": 1234}), "utf-8")
    assert [row[2] for row in costs_table(analysis_of(tmp_path)).rows] == [None, 1234]


# --- any heads ---


def write_heads(runs: Path, heads: list[dict], seeds=range(3), **more) -> None:
    points = made_up_points(10)
    for k, head in enumerate(heads):
        for seed in seeds:
            right = np.random.default_rng(10 * k + seed).random(len(points)) < 0.3 + 0.1 * k
            settings = {"head": head, "seed": seed, **more}
            write_run(runs, config_of(seed=seed), right, points, fingerprint="f" * 64, determined_by=settings)


FOUR = [{"norm": norm, "activation": activation} for activation in ("none", "relu") for norm in ("none", "layernorm")]
OTHERS = [{"norm": "rmsnorm", "activation": "gelu"}, {"name": "bilinear", "norm": None}]


def test_effects_are_asked_where_the_four_heads_are_there_among_others(tmp_path):
    write_heads(tmp_path, [*FOUR, *OTHERS])
    analysis = analysis_of(tmp_path)
    assert [(family.kind, len(family.primary)) for family in analysis.families] == [
        (Kind.EFFECTS, 3),
        (Kind.PAIRS, 15),
    ]
    assert analysis.main.names == (*HEADS, "bilinear", "rmsnorm_gelu")


def test_heads_that_are_not_the_four_are_compared_without_effects(tmp_path):
    write_heads(tmp_path, [*FOUR[2:], *OTHERS])
    write_heads(tmp_path, [*FOUR[2:], *OTHERS], fusion={"name": "pooled"})
    analysis = analysis_of(tmp_path)
    assert analysis.family(Kind.EFFECTS) is None
    assert len(analysis.family(Kind.PAIRS).primary) == 6
    assert [result.contrast.name for result in analysis.family(Kind.INTERACTION).primary][3:] == [
        "layernorm_relu − bilinear: fusion=pooled − fusion=concat",
        "layernorm_relu − rmsnorm_gelu: fusion=pooled − fusion=concat",
        "bilinear − rmsnorm_gelu: fusion=pooled − fusion=concat",
    ]


def test_a_head_that_is_there_in_one_place_alone_is_no_variant(tmp_path):
    """gelu stands before linear2 and relu after it: that sets them apart, and both belong to the verdict."""
    gelu = {"activation": "gelu", "activation_position": "before_linear2"}
    write_heads(tmp_path, [FOUR[0], {**FOUR[2], "activation_position": "after_linear2"}, gelu])
    analysis = analysis_of(tmp_path)
    assert analysis.main.names == ("none", "relu", "gelu before linear2")
    assert [family.kind for family in analysis.families] == [Kind.PAIRS]


@pytest.mark.parametrize(
    ("select", "words"),
    [
        ("top1_clean", "best clean val top-1 "),
        ("top1", "best official val top-1 "),
        ("mrr", "best official val MRR "),
        ("ndcg@10_clean", "best clean val nDCG@10 "),
    ],
)
def test_the_figure_that_chose_the_epoch_is_named_as_the_runs_say(tmp_path, select, words):
    write_heads(tmp_path, FOUR[:2], evaluation={"select": select})
    assert words in render.declared(analysis_of(tmp_path))[0]


# --- settings as they are shown ---


def test_numbers_that_a_search_draws_are_shown_with_six_digits_where_these_tell_them_apart(tmp_path):
    drawn = (0.16464405117819741, 0.00016464405117819741)
    write_study(tmp_path / "apart", {"none": 0.5}, seeds=range(2), ratios=drawn)
    (axis,) = study_of(tmp_path / "apart").axes
    assert [level.label for level in axis.levels] == ["neg 0.000164644", "neg 0.164644"]
    alike = (0.16464405117819741, 0.16464405117819742 + 1e-12)
    write_study(tmp_path / "alike", {"none": 0.5}, seeds=range(2), ratios=alike)
    (axis,) = study_of(tmp_path / "alike").axes
    assert [level.label for level in axis.levels] == [f"neg {ratio}" for ratio in alike]


def test_the_rate_of_an_encoder_that_was_frozen_is_no_setting_of_the_runs(tmp_path):
    for frozen in (True, False):
        runs = tmp_path / str(frozen)
        training = replace(config_of().training, freeze_encoder=frozen)
        write_study(runs, {"none": 0.5}, seeds=range(2), change=lambda config: replace(config, training=training))  # noqa: B023
        settings = [row[0] for row in constants_table(study_of(runs)).rows]
        assert "training.head_learning_rate" in settings
        assert ("training.learning_rate" in settings) is not frozen

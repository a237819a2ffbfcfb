"""Keep, remove, equal or not yet: which outcome a comparison gets, and what is said of those that are open."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.report_runs import made_up_points, write_study
from support.tables import scores, write_columns

from biencoder_ablate.report import sentences
from biencoder_ablate.report.analysis import analyse
from biencoder_ablate.report.external import read_csv
from biencoder_ablate.report.margins import NEVER, Enough
from biencoder_ablate.report.read import collect
from biencoder_ablate.report.study import make_studies
from biencoder_ablate.report.verdicts import (
    Decision,
    Outcome,
    Role,
    check_margin,
    decisions,
    in_words,
    what_would_decide,
    with_verdicts,
)


def analysis_of(collection, margin=None, looks=()):
    (study,) = make_studies(collection.runs)
    return replace(analyse(study, looks=looks), margin=margin)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """LayerNorm costs 0.1, the ReLU brings nothing; ten seeds, a hundred debates."""
    runs = tmp_path_factory.mktemp("heads")
    means = {"none": 0.5, "layernorm": 0.4, "relu": 0.5, "layernorm_relu": 0.4}
    write_study(runs, means, points=made_up_points(100, 8))
    return collect([runs])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A table of another program's: b is 0.02 above a, c as good as a, d 0.2 below."""
    columns = scores({"a": 0.0, "b": 0.02, "c": 0.0, "d": -0.2})
    path = write_columns(tmp_path_factory.mktemp("table") / "scores.csv", columns)
    return read_csv([path])


def by_name(analysis) -> dict[str, Decision]:
    return {decision.name: decision for decision in decisions(analysis)}


def test_a_part_that_costs_does_harm_and_one_that_brings_nothing_may_be_removed_within_the_margin(heads):
    found = by_name(analysis_of(heads, 0.03))
    assert found["LayerNorm"].outcome is Outcome.HARMS
    assert found["ReLU"].outcome is Outcome.REMOVABLE
    assert found["ReLU"].role is Role.PART
    assert found["ReLU"].p_margin < 0.05
    assert in_words(found["ReLU"]) == "may be removed"


def test_without_a_margin_nothing_may_be_removed(heads):
    found = by_name(analysis_of(heads))
    assert {decision.outcome for decision in found.values()} <= {
        Outcome.HARMS,
        Outcome.LOWER,
        Outcome.HIGHER,
        Outcome.NOT_YET,
    }
    assert found["ReLU"].outcome is Outcome.NOT_YET
    assert found["ReLU"].p_margin is None
    assert found["ReLU"].to_clear == NEVER


def test_only_the_parts_decide_and_pairs_and_interactions_stand_beside(heads):
    deciding = [decision.name for decision in decisions(analysis_of(heads, 0.03)) if decision.decides]
    assert deciding == ["LayerNorm", "ReLU"]
    roles = {decision.name: decision.role for decision in decisions(analysis_of(heads, 0.03))}
    assert roles["LayerNorm × ReLU"] is Role.INTERACTION
    assert roles["none − relu"] is Role.SYSTEMS


def test_systems_are_higher_lower_or_equal(recipe):
    found = by_name(analysis_of(recipe, 0.08))
    assert found["a − c"].outcome is Outcome.EQUAL
    assert found["a − d"].outcome is Outcome.HIGHER
    assert not found["a − d"].within_margin
    assert found["b − d"].outcome is Outcome.HIGHER

    # Told apart, and by less than what matters: both are said.
    assert found["a − b"].outcome is Outcome.LOWER
    assert in_words(found["a − b"]) == "lower, by less than the margin"


def test_the_margin_decides_what_is_equal(recipe):
    outcomes = [by_name(analysis_of(recipe, margin))["a − c"].outcome for margin in (0.0001, 0.05)]
    assert outcomes == [Outcome.NOT_YET, Outcome.EQUAL]


def test_what_is_taken_out_of_a_recipe_is_worth_what_the_metric_loses(tmp_path):
    """Of a sweep over `without` the contrast is without minus with: its sign is turned."""
    points = made_up_points(60, 8)
    for part, mean in (("nothing", 0.6), ("towers", 0.4), ("skip", 0.6)):
        write_study(tmp_path, {"none": mean}, points=points, overrides=[f"without={part}"], ratios=(RATIOS[part],))
    found = by_name(analysis_of(collect([tmp_path]), 0.05))
    assert found["towers"].role is Role.PART
    assert found["towers"].estimate == pytest.approx(0.2, abs=0.04)
    assert found["towers"].outcome is Outcome.EARNS
    assert found["skip"].outcome is Outcome.REMOVABLE


RATIOS = {"nothing": 0.01, "towers": 0.02, "skip": 0.03}  # so that the runs have names of their own


def test_looks_share_alpha_among_the_margin_tests_too_and_nothing_is_decided_before_the_first(recipe):
    alone, shared = (by_name(analysis_of(recipe, 0.05, looks))["a − c"] for looks in ((), (5, 10)))
    assert shared.p_margin == pytest.approx(2 * alone.p_margin, rel=0.5)
    early = by_name(analysis_of(recipe, 0.05, (12, 20)))["a − c"]
    assert early.outcome is Outcome.NOT_YET
    assert early.p_margin == 1.0


def test_one_seed_decides_nothing_and_says_how_many_would(tmp_path):
    path = write_columns(tmp_path / "one.csv", scores({"a": 0.0, "b": 0.3}, num_seeds=1))
    (decision,) = decisions(analysis_of(read_csv([path]), 0.05))
    assert decision.outcome is Outcome.NOT_YET
    assert decision.seeds_needed == 6, "2/2^6 < 0.05"
    assert what_would_decide(decision, 40, "groups") == "1 seed cannot show what another would do; 6 are needed"


@pytest.mark.parametrize("margin", [0.0, -0.01, float("nan"), float("inf")])
def test_a_margin_is_a_finite_number_above_0(margin):
    with pytest.raises(ValueError, match=r"^margin=.*must be a number above 0"):
        check_margin(margin)


@pytest.mark.parametrize(
    ("enough", "said"),
    [
        (Enough(14, None, 2), "about 4 more seeds (14 in all)"),
        (Enough(11, 60, 2), "about 1 more seed (11 in all), or about 20 more debates (60 in all)"),
        (
            Enough(None, 120, 3),
            "no number of seeds can, as 40 debates are too few; about 80 more debates (120 in all) would",
        ),
        (
            Enough(None, None, 3),
            "neither more seeds nor more debates alone would; together, about 30 seeds and 120 debates would",
        ),
        (NEVER, "no number of seeds and debates would, if the difference stays as it is"),
    ],
)
def test_what_is_open_says_what_would_decide_it(recipe, enough, said):
    decision = by_name(analysis_of(recipe, 0.0001))["a − c"]
    decision = replace(decision, to_tell_apart=NEVER, to_clear=enough)
    assert what_would_decide(decision, 40, "debates") == said


def test_the_pages_answers_have_the_verdict_in_place_of_their_words(heads):
    analysis = analysis_of(heads, 0.03)
    answers = with_verdicts(sentences.answers(analysis), decisions(analysis), analysis)
    words = {answer.part: (answer.words, answer.status) for answer in answers}
    assert words["LayerNorm"] == ("does harm", "costs")
    assert words["ReLU"] == ("may be removed", "removable")
    assert "margin p" in next(answer.detail for answer in answers if answer.part == "ReLU")

"""Any program's runs in the report: tables of values, TREC run files, designs with factors, a baseline, one seed."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from support.helpers import run_module
from support.report_runs import made_up_points, write_study

from biencoder_ablate.evaluation import metrics
from biencoder_ablate.report import sentences
from biencoder_ablate.report.__main__ import main
from biencoder_ablate.report.analysis import Kind, analyse
from biencoder_ablate.report.external import read_csv, read_trec
from biencoder_ablate.report.plots import draw
from biencoder_ablate.report.read import Metric, Protocol
from biencoder_ablate.report.study import make_studies

IR_MEASURES = {"top1": "Success@1", "mrr": "RR", "ndcg@10": "nDCG@10", "recall@10": "R@10"}


def table(path: Path, heading: str, rows) -> Path:
    path.write_text("\n".join([heading, *(",".join(map(str, row)) for row in rows)]) + "\n", "utf-8")
    return path


def analysis_of(collection):
    (study,) = make_studies(collection.runs)
    return analyse(study)


def factorial(path: Path, num_seeds: int = 12) -> Path:
    """Three factors; A adds 0.3, C takes 0.2 away, B only helps beside A, by 0.1; forty queries in ten groups."""
    rng = np.random.default_rng(0)
    ease, rows = rng.random(40), []
    for a, b, c, seed in itertools.product((0, 1), (0, 1), (0, 1), range(num_seeds)):
        luck = rng.normal(0, 0.02)
        for q in range(40):
            value = ease[q] + 0.3 * a + 0.1 * a * b - 0.2 * c + luck + rng.normal(0, 0.05)
            rows.append(("yes" if a else "no", b, f"c{c}", seed, f"q{q}", f"{value:.4f}", f"g{q // 4}"))
    return table(path, "A,B,C,seed,query,value,group", rows)


@pytest.mark.parametrize("metric", Metric)
def test_run_files_score_as_ir_measures_scores_them(tmp_path, metric):
    """Ties, a query that a run lacks, several relevant documents of two grades, more than ten documents."""
    rng = np.random.default_rng(1)
    graded = [(f"q{q}", f"d{d}", int(rng.integers(0, 3))) for q in range(8) for d in rng.permutation(20)[:4]]
    graded = [*graded, ("q0", "d0x", 1)]
    scored = [(f"q{q}", f"d{d}", int(rng.integers(0, 6))) for q in range(7) for d in rng.permutation(20)[:15]]
    (tmp_path / "qrels").write_text("".join(f"{q} 0 {d} {grade}\n" for q, d, grade in graded), "utf-8")
    (tmp_path / "runs").mkdir()
    lines = "".join(f"{q} Q0 {d} {k} {score} mine\n" for k, (q, d, score) in enumerate(scored))
    (tmp_path / "runs" / "mine.seed3.run").write_text(lines, "utf-8")
    (run,) = read_trec(tmp_path / "runs", tmp_path / "qrels", metric).runs
    assert (run.identity["system"], run.identity["seed"]) == ("mine", 3)
    measure = ir_measures.parse_measure(IR_MEASURES[metric])
    qrels = [ir_measures.Qrel(*line) for line in graded]
    told = {
        found.query_id: found.value
        for found in ir_measures.iter_calc([measure], qrels, [ir_measures.ScoredDoc(*line) for line in scored])
    }
    ours = dict(zip(run.outcomes.ids, run.outcomes.correct[Protocol.OFFICIAL].tolist(), strict=True))
    assert ours == pytest.approx({query: told.get(query, 0.0) for query in ours})
    assert len(set(ours.values())) > 1


@pytest.mark.parametrize(
    ("metric", "plain"),
    [
        (Metric.TOP1, metrics.top1),
        (Metric.MRR, metrics.mrr),
        (Metric.NDCG, lambda ranks: metrics.ndcg(ranks, 10, np.arange(len(ranks)), np.ones(len(ranks)))),
        (Metric.RECALL, lambda ranks: metrics.recall(ranks, 10, np.arange(len(ranks)))),
    ],
)
def test_scores_of_ranks_are_the_programs_own_figures(metric, plain):
    ranks = np.arange(25)
    assert metric.of_ranks(ranks + 1.0).mean() == pytest.approx(plain(ranks))
    assert math.isnan(metric.of_ranks(np.array([math.nan]))[0])


def test_scores_over_several_answers_by_hand():
    """Grades 2 and 1 at final ranks 3 and 1, at stage-1 ranks 4 and 12."""
    answers = [("a", 2, 4, 3), ("b", 1, 12, 1)]
    ideal = 2 / math.log2(2) + 1 / math.log2(3)
    assert Metric.NDCG.of_answers(answers) == pytest.approx((2 / math.log2(4) + 1) / ideal)
    assert Metric.RECALL.of_answers(answers) == 0.5
    assert (Metric.TOP1.of_answers(answers), Metric.NDCG.of_answers(answers[:1])) == (None, None)


def test_a_complete_design_gives_main_effects_and_interactions(tmp_path):
    analysis = analysis_of(read_csv([factorial(tmp_path / "design.csv")]))
    assert [axis.name for axis in analysis.study.axes] == ["A", "B", "C"]
    effects = {result.contrast.name: result for result in analysis.family(Kind.EFFECTS).primary}
    assert list(effects) == ["A", "B", "C (c1 − c0)", "A × B", "A × C", "B × C", "A × B × C"]
    expected = {"A": 0.35, "B": 0.05, "C (c1 − c0)": -0.2, "A × B": 0.1}
    for name, result in effects.items():
        assert result.estimate == pytest.approx(expected.get(name, 0.0), abs=0.04)
        assert result.family_low < result.interval.low < result.interval.high < result.family_high
    assert {name for name, result in effects.items() if result.is_significant()} >= {"A", "C (c1 − c0)"}
    assert (analysis.num_points[Protocol.OFFICIAL], analysis.num_debates[Protocol.OFFICIAL]) == (40, 10)
    parts = [answer.part for answer in sentences.answers(analysis)]
    assert (parts[:3], parts[-1]) == (["A", "B", "C (c1 − c0)"], "Interactions"), "those not told apart in one line"
    forest = [picture for picture in draw(analysis) if picture.name.startswith("forest")]
    assert [picture.name for picture in forest] == ["forest", "forest_more"], "28 pairs stand below"


def test_beside_a_complete_design_an_axis_of_several_levels_is_a_question_of_its_own(tmp_path):
    design = itertools.product("01", "01", "xyz", range(2), range(6))
    rows = [(a, b, d, seed, f"q{q}", (int(a) + q + seed) % 2) for a, b, d, seed, q in design]
    analysis = analysis_of(read_csv([table(tmp_path / "r.csv", "A,B,D,seed,query,value", rows)], "top-1"))
    assert [(family.kind, family.subject, len(family.primary)) for family in analysis.families] == [
        (Kind.EFFECTS, "A × B", 3),
        (Kind.PAIRS, "configuration", 6),
        (Kind.AXIS, "D", 3),
    ]


def test_no_difference_at_all_is_said_so(tmp_path):
    rows = [(system, seed, f"q{q}", q % 2) for system in "ab" for seed in range(2) for q in range(10)]
    analysis = analysis_of(read_csv([table(tmp_path / "r.csv", "system,seed,query,value", rows)], "top-1"))
    (answer,) = sentences.answers(analysis)
    assert answer.detail == "0.000 (none of 10 queries) behind “a”; 95% interval 0.000 to 0.000; Holm p 1"
    assert analysis.families[0].primary[0].power.seeds_to_decide is None


def test_the_page_over_a_table_speaks_of_nothing_that_outside_runs_lack(tmp_path, capsys):
    path = factorial(tmp_path / "design.csv", num_seeds=3)
    assert main(["--from", str(path), "--metric", "mrr", "-o", str(tmp_path / "out")]) == 0
    assert "A: not known at this number of seeds; it brings 0.3" in capsys.readouterr().out
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "MRR of 40 queries in 10 groups" in page
    for absent in ("epoch", "recall@10", "val-selected", "clean test", "eight tasks"):
        assert absent not in page.partition("<article")[2].partition('id="declared"')[0], absent


def test_systems_beside_a_baseline_without_seeds(tmp_path):
    rows = [("mine", seed, f"q{q}", float(q % 4 != seed % 2), "") for seed in range(8) for q in range(40)]
    rows += [("bm25", "", f"q{q}", float(q % 4 == 3), "yes") for q in range(40)]
    collection = read_csv([table(tmp_path / "r.csv", "system,seed,query,value,baseline", rows)])
    assert collection.notes == ("bm25 has no seeds: it is the same beside each seed of the others.",)
    analysis = analysis_of(collection)
    (family,) = analysis.families
    (result,) = family.primary
    assert (family.kind, family.baseline, len(result.seeds)) == (Kind.PARTS, "bm25", 8)
    assert result.estimate == pytest.approx(0.5)
    assert analysis.headline == "Against “bm25”: higher “mine”."
    (answer,) = sentences.answers(analysis)
    assert (answer.part, answer.words) == ("mine", "above “bm25”")


def test_one_seed_is_tested_over_groups_and_what_it_cannot_show_is_said(tmp_path):
    rows = [("a", 0, f"q{q}", 1, f"g{q // 4}") for q in range(40)]
    rows += [("b", 0, f"q{q}", int(q % 4 == 0), f"g{q // 4}") for q in range(40)]
    analysis = analysis_of(read_csv([table(tmp_path / "r.csv", "system,seed,query,value,group", rows)]))
    (result,) = analysis.families[0].primary
    assert result.p_debates == 2 / 2**10, "ten groups, all on one side"
    assert not result.is_significant()
    said = " ".join(sentences.about(analysis.study, analysis.families[0]))
    assert "a − b (Holm p 0.002) can be told from 0" in said
    assert "it cannot show" in said


@pytest.mark.parametrize("word", ["1", "1.0", "true", "Y", "t"])
def test_the_baseline_may_be_marked_as_people_and_pandas_do(tmp_path, word):
    rows = [(system, seed, "q", hit, word if system == "b" else "") for system in "ab" for seed, hit in enumerate("01")]
    runs = read_csv([table(tmp_path / "r.csv", "system,seed,query,value,baseline", rows)]).runs
    assert [(run.identity["system"], run.baseline) for run in runs] == [("a", False)] * 2 + [("b", True)] * 2


def test_numbers_that_pandas_has_made_of_seeds_and_hits_are_read(tmp_path):
    rows = [("a", "0.0", "q", "True"), ("a", "1.0", "q", "False")]
    runs = read_csv([table(tmp_path / "r.csv", "system,seed,query,value", rows)]).runs
    values = {run.identity["seed"]: run.outcomes.correct[Protocol.OFFICIAL].tolist() for run in runs}
    assert values == {0: [1.0], 1: [0.0]}


# --- run files: q1 to q4 have one relevant document each, r1 to r4; system `one` has the first three of them first ---

QRELS = "".join(f"q{k} 0 r{k} 1\nq{k} 0 n{k} 0\n" for k in range(1, 5))
RUN = "".join(f"q{k} Q0 {'rn'[k == 4]}{k} 1 2 one\nq{k} Q0 {'nr'[k == 4]}{k} 2 1 one\n" for k in range(1, 5))


def read_files(folder: Path, runs: dict[str, str], qrels: str = QRELS, groups: str | None = None):
    """What read_trec makes of these files, given as texts."""
    (folder / "runs").mkdir()
    for name, text in {
        "qrels.txt": qrels,
        "groups.txt": groups or "",
        **{f"runs/{n}": t for n, t in runs.items()},
    }.items():
        (folder / name).write_bytes(text.encode())
    given = folder / "groups.txt" if groups is not None else None
    return read_trec(folder / "runs", folder / "qrels.txt", Metric.TOP1, given)


def scores_of(run) -> list[float]:
    return run.outcomes.correct[Protocol.OFFICIAL].tolist()


@pytest.mark.parametrize("marked", ["run", "qrels", "groups", "none"])
def test_a_byte_order_mark_is_no_part_of_a_query(tmp_path, marked):
    texts = {"run": RUN, "qrels": QRELS, "groups": "q1 a\nq2 a\nq3 b\nq4 b\n"}
    texts = {name: "\ufeff" * (name == marked) + text for name, text in texts.items()}
    (run,) = read_files(tmp_path, {"one.run": texts["run"]}, texts["qrels"], texts["groups"]).runs
    assert run.outcomes.ids == ("q1", "q2", "q3", "q4")
    assert run.outcomes.debates == ("a", "a", "b", "b")
    assert (scores_of(run), run.outcomes.num_missing) == ([1, 1, 1, 0], 0)


@pytest.mark.parametrize("score", ["nan", "inf", "-inf", "two", "1,5"])
def test_a_score_that_is_no_number_has_no_place_in_an_order(tmp_path, score):
    with pytest.raises(ValueError, match=rf"one\.run, line 3: score {score}; must be a number"):
        read_files(tmp_path, {"one.run": RUN.replace("q2 Q0 r2 1 2", f"q2 Q0 r2 1 {score}")})


def test_scores_that_are_equal_in_single_precision_tie_as_in_trec_eval(tmp_path):
    """Single precision has 24 bits: 1 + 2^-30 is 1, 1 + 2^-20 is not. Of equal scores the last document is first."""
    close = "q1 Q0 n1 1 1.000000000931 x\nq1 Q0 r1 2 1 x\n"
    apart = "q2 Q0 n2 1 1.00000095367 x\nq2 Q0 r2 2 1 x\n"
    (run,) = read_files(tmp_path, {"one.run": close + apart + "q3 Q0 n3 1 1 x\nq4 Q0 r4 1 1e39 x\n"}).runs
    assert scores_of(run) == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("one.run", "one.txt"), r"system one has two run files without a seed \(one\.run, one\.txt\)"),
        (("one.seed0.run", "one.seed00.run"), r"system one has seed 0 twice \(one\.seed0\.run, one\.seed00\.run\)"),
        (("one.seed07.run", "one_seed7.trec"), r"system one has seed 7 twice \(one\.seed07\.run, one_seed7\.trec\)"),
        (("one.run", "one.seed1.run"), r"one has runs with and without seeds \(one\.run, one\.seed1\.run\)"),
        (("one\ntwo",), r"'one\\ntwo' names no run"),
    ],
)
def test_a_run_is_there_once(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        read_files(tmp_path, dict.fromkeys(names, RUN))


def test_queries_that_a_run_lacks_count_as_0_and_it_is_said_where_the_figure_stands(tmp_path, capsys):
    """`two` ends after two of four queries, both right: 0.5, beside 0.75 of the same rankings in whole."""
    half = "".join(RUN.splitlines(keepends=True)[:4])
    runs = read_files(tmp_path, {"one.run": RUN, "two.run": half}).runs
    assert [scores_of(run) for run in runs] == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert [run.outcomes.num_missing for run in runs] == [0, 2]

    arguments = ["--from", tmp_path / "runs", "--qrels", tmp_path / "qrels.txt", "-o", tmp_path / "out"]
    assert main([*map(str, arguments)]) == 0
    said = "2 of 4 queries missing, counted as 0"
    assert f"“two”: {said}." in capsys.readouterr().out
    for name in ("report.md", "index.html"):
        assert (tmp_path / "out" / name).read_text("utf-8").count(said) == 2, "in the headline and in the table"


def test_seeds_that_lack_different_queries_are_told_by_the_most(tmp_path):
    lines = RUN.splitlines(keepends=True)
    cut = {f"two.seed{k}.run": "".join(lines[: 2 * num]) for k, num in enumerate((4, 1, 3))}
    (study,) = make_studies(read_files(tmp_path, cut).runs)
    assert study.cells[0].missing_queries == "up to 3 of 4 queries missing, counted as 0"


@pytest.mark.parametrize("text", ["", "".join(RUN.replace("q", "query-"))])
def test_a_run_of_none_of_the_queries_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"two\.run: has none of the 4 queries of --qrels .*qrels\.txt"):
        read_files(tmp_path, {"one.run": RUN, "two.run": text})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 0 n1 0.5\n", "line 9: grade 0.5; must be a whole number"),
        ("q1 0 x 1.5\n", "line 9: grade 1.5; must be a whole number"),
        ("q1 0 x inf\n", "line 9: grade inf; must be a whole number"),
        ("q1 0 x nan\n", "line 9: grade nan; must be a whole number"),
        ("q1 0 r1 0\n", "line 9: document r1 of query q1 is judged 0 here and 1 above"),
        ("q1 0 n1 1\n", "line 9: document n1 of query q1 is judged 1 here and 0 above"),
    ],
)
def test_judgements_that_contradict_each_other_or_are_no_grades_are_refused(tmp_path, line, message):
    with pytest.raises(ValueError, match=rf"qrels\.txt, {message}"):
        read_files(tmp_path, {"one.run": RUN}, QRELS + line)


@pytest.mark.parametrize("qrels", ["", "q1 0 r1 0\nq2 0 r2 -1\n"])
def test_judgements_without_a_relevant_document_are_refused(tmp_path, qrels):
    with pytest.raises(ValueError, match=r"--qrels .*qrels\.txt: no relevant document in it; lines are: query 0"):
        read_files(tmp_path, {"one.run": RUN}, qrels)


def test_a_system_without_seeds_stands_beside_each_seed_in_order(tmp_path):
    runs = read_files(tmp_path, {"a.seed8.run": RUN, "a.seed1.run": RUN, "b.run": RUN}).runs
    assert [run.identity["seed"] for run in runs if run.identity["system"] == "b"] == [1, 8]


def test_grades_may_be_repeated_negative_or_written_with_a_point(tmp_path):
    (run,) = read_files(tmp_path, {"one.run": RUN}, QRELS + "q1 0 r1 1.0\nq4 0 n4 -0\nq2 0 x -1\n").runs
    assert scores_of(run) == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("q1 a\n", "groups.txt: no group of 3 of the 4 queries, q2 the first; must name one for every query"),
        ("q1 a\nq2 a\nq1 b\n", "groups.txt, line 3: query q1 is of group b here and of a above"),
    ],
)
def test_groups_that_do_not_group_every_query_once_are_refused(tmp_path, groups, message):
    with pytest.raises(ValueError, match=message):
        read_files(tmp_path, {"one.run": RUN}, groups=groups)


def test_groups_may_name_other_queries_and_say_a_thing_twice(tmp_path):
    groups = "q9 z\nq1 a\nq1 a\nq2 a\nq3 b\nq4 b\n"
    assert read_files(tmp_path, {"one.run": RUN}, groups=groups).runs[0].outcomes.debates == ("a", "a", "b", "b")


@pytest.mark.parametrize("name", ["one.run", "one.run.gz"])
def test_a_file_that_is_no_text_is_named(tmp_path, name):
    read_files(tmp_path, {"two.run": RUN})
    (tmp_path / "runs" / name).write_bytes(b"q1 Q0 r1 1 2 \xe9\x8b\n")
    with pytest.raises(ValueError, match=rf"{name}: not UTF-8"):
        read_trec(tmp_path / "runs", tmp_path / "qrels.txt", Metric.TOP1)


def test_options_that_do_not_go_together_are_refused(tmp_path):
    ended = run_module("biencoder_ablate.report", ["--from", tmp_path, "-o", "out"], tmp_path)
    assert ended.stderr == "error: --from a directory of TREC run files: needs --qrels FILE, what is relevant\n"


def test_a_study_s_points_go_beside_another_program_s_in_one_report(tmp_path, capsys):
    """report --points, then --from that table and another: the same means, and the stranger compared with each."""
    points = made_up_points(12)
    write_study(tmp_path / "runs", {"none": 0.4, "relu": 0.6}, range(3), points=points)
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "ours"), "--points"]) == 0
    rows = [("theirs", 0, point, 1, debate) for point, debate in points]
    theirs = table(tmp_path / "theirs.csv", "system,seed,query,value,group", rows)
    ours = tmp_path / "ours" / "points.csv"
    assert main(["--from", str(ours), str(theirs), "-o", str(tmp_path / "both")]) == 0
    with (tmp_path / "ours" / "table.csv").open(encoding="utf-8") as file:
        means = {row["head"]: float(row["clean_mean"]) for row in csv.DictReader(file)}
    with (tmp_path / "both" / "table.csv").open(encoding="utf-8") as file:
        again = {row["system"]: float(row["official_mean"]) for row in csv.DictReader(file)}
    assert again == pytest.approx({**means, "theirs": 1.0})
    capsys.readouterr()
    assert main(["--from", str(ours), str(tmp_path / "gone.csv"), "-o", str(tmp_path / "both")]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("gone.csv: no such file")

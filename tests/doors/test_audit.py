"""The audit: a corpus small enough to count by hand, near duplicates against all pairs compared, the command."""

import json
import re
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference
from support.helpers import make_pairs, only_error, run_module, run_python, write_arguana_tree, write_pairs_csv
from support.reference import published_and_used

from biencoder_ablate import audit as command
from biencoder_ablate.audit import audit_corpus, describe, near_duplicates
from biencoder_ablate.data.corpus import SPLITS, Document, Pair, build_corpus
from biencoder_ablate.data.text_table import build_table


def audited(corpus, **lengths):
    return audit_corpus(corpus, build_table(corpus), **lengths)


def words(first, last):
    return " ".join(f"w{i}" for i in range(first, last))


# Near duplicates.


def plain_shingles(text):
    found = re.findall(r"\w+", text.casefold())
    if 0 < len(found) < 5:
        return {tuple(found)}
    return {tuple(found[i : i + 5]) for i in range(len(found) - 4)}


def plain_near_duplicates(texts):
    sets, pairs = [plain_shingles(text) for text in texts], []
    for i, one in enumerate(sets):
        for j in range(i + 1, len(sets)):
            if one | sets[j] and Fraction(len(one & sets[j]), len(one | sets[j])) >= Fraction(4, 5):
                pairs.append([i, j])
    return pairs


@st.composite
def similar_texts(draw):
    """A few texts of few words, and copies of them with a word changed, dropped, added or shouted."""
    word = st.sampled_from("abcd")
    texts = draw(st.lists(st.lists(word, max_size=30), min_size=1, max_size=5))
    for _ in range(draw(st.integers(0, 8))):
        text = list(draw(st.sampled_from(texts)))
        place = draw(st.integers(0, len(text)))
        text[place : place + draw(st.integers(0, 1))] = draw(st.lists(word, max_size=1))
        texts.append(text)
    return [
        draw(st.sampled_from([" ", ", ", "\n"])).join(map(draw(st.sampled_from([str, str.upper])), text))
        for text in texts
    ]


@settings(max_examples=200, deadline=None)
@given(similar_texts())
def test_near_duplicates_are_those_of_all_pairs_compared(texts):
    assert near_duplicates(texts).tolist() == plain_near_duplicates(texts)


def test_near_duplicates_by_hand():
    texts = [
        words(0, 8),  # 4 shingles
        words(0, 9),  # the same 4 and one more: 4 of 5, just enough
        words(0, 10),  # 6: 4 of 6 with the first, 5 of 6 with the second
        "one two",
        "One, two!",
        "two one",  # below five words the whole text is one shingle
        "",
        "!?",  # without words nothing is in common
    ]
    assert near_duplicates(texts).tolist() == [[0, 1], [1, 2], [3, 4]]
    assert near_duplicates([]).shape == (0, 2)


def test_near_duplicates_in_scripts_without_spaces_and_with_marks():
    texts = [
        "動物園は絶滅危惧種を守っている",  # 14 pairs of characters, 10 shingles
        "動物園は絶滅危惧種を守っているよ",  # the same and one more: 10 of 11
        "学校で料理を教えるべきだと思います",
        "पता क्या है",
        "पिता क्या हैं",  # the same letters, other vowel signs
    ]
    assert near_duplicates(texts).tolist() == [[0, 1]]


def test_near_duplicates_are_found_without_comparing_all_pairs():
    """900 texts of 200 words, a third of them copies with the last word changed; comparing all pairs takes minutes."""
    random = np.random.default_rng(0)
    texts = [" ".join(map(str, random.integers(5000, size=200))) for _ in range(600)]
    copies = [text.rsplit(" ", 1)[0] + " end" for text in texts[:300]]
    assert near_duplicates(texts + copies).tolist() == [[i, 600 + i] for i in range(300)]


# The report.


def by_hand():
    """Train has p0 in two debates and a near-duplicate pair; val shares two texts with train, test c9 with val."""
    long = words(0, 20)
    rows = [
        ("train", "t1", "a", "con", "p0", "c0"),
        ("train", "t1", "a", "pro", "p1", "c1"),
        ("train", "t2", "b", "con", "P0!", "c0"),
        ("train", "t2", "b", "pro", long, f"{long} more"),
        ("val", "t1", "c", "con", "p0", "c9"),
        ("val", "t1", "c", "pro", "p3", f"{long} and more"),
        ("val", "t1", "c", "pro", long, "c7"),
        ("test", "t2", "d", "con", "p4", "c4"),
        ("test", "t2", "e", "con", "p4", "c4"),
        ("test", "t2", "e", "pro", "c9", "c5"),
    ]
    pairs = [Pair(*row[:4], i, *row[4:]) for i, row in enumerate(rows)]
    return build_corpus("hand", pairs, {("train", "t1"): 2, ("test", "t3"): 1}, asks_pairs=True)


def test_counts_by_hand():
    report = audited(by_hand())
    train, val, test = (report["splits"][name] for name in SPLITS)
    assert {name: report["splits"][name]["num_pairs"] for name in SPLITS} == {"train": 4, "val": 3, "test": 3}
    assert [split["num_incomplete"] for split in (train, val, test)] == [2, 0, 1]
    assert train["num_distinct_texts"] == 6  # p0 c0 p1 c1 and the two long ones
    assert train["num_distinct_strings"] == 7  # p0 and P0! are two
    assert train["num_distinct_pairs"] == 3  # p0 → c0 is there twice
    assert train["num_exact_duplicates"] == 2  # p0 and c0 again
    assert (train["num_near_duplicates"], train["num_near_duplicate_pairs"]) == (2, 1)
    assert (val["num_near_duplicates"], test["num_near_duplicates"]) == (2, 0)
    assert [split["num_points_clean"] for split in (train, val, test)] == [3, 1, 1]
    assert report["shared_texts"] == {"train_val": 2, "train_test": 0, "val_test": 1}
    # The long text of val is in train, and so are its near duplicates: only the other one is news.
    assert report["near_shared_texts"] == {"train_val": 1, "train_test": 0, "val_test": 0}
    assert test["themes"] == {
        "t2": {"num_pairs": 3, "num_incomplete": 0, "num_debates": 2, "num_distinct_texts": 4},
        "t3": {"num_pairs": 0, "num_incomplete": 1, "num_debates": 0, "num_distinct_texts": 0},
    }
    assert train["words"] == {"min": 1, "mean": 45 / 6, "median": 1.0, "p95": pytest.approx(20.75), "max": 21}
    assert train["tokens"] is None


def test_a_split_without_queries_has_no_right_answers():
    documents = [Document("d1", "one"), Document("d2", "two")]
    pairs = [Pair("test", "", "q", "", n, "asked", d.text, 1, "q", d.id) for n, d in enumerate(documents, 1)]
    splits = audited(build_corpus("made", pairs, documents=documents, may_lack=("train", "val")))["splits"]
    counted = ("num_queries", "num_right_mean", "num_right_max")
    assert {name: [splits[name][key] for key in counted] for name in splits} == {
        "train": [0, 0.0, 0],
        "val": [0, 0.0, 0],
        "test": [1, 2.0, 2],
    }


def test_truncation_counts_distinct_texts():
    """Lengths are of every string; P0! is a second spelling of p0 and does not count again."""
    corpus = by_hand()
    lengths = np.array([100 if text in ("P0!", "p1") else 3 for text in build_table(corpus).texts])
    tokens = audited(corpus, token_lengths=lengths, max_tokens=50)["splits"]["train"]["tokens"]
    assert (tokens["num_truncated"], tokens["share_truncated"], tokens["max"]) == (1, 1 / 6, 100)
    at_the_limit = audited(corpus, token_lengths=lengths, max_tokens=100)["splits"]["train"]["tokens"]
    assert at_the_limit["num_truncated"] == 0


@settings(max_examples=60, deadline=None)
@given(published_and_used())
def test_counts_against_the_reference(both):
    published, used = both
    report, earlier = audited(used), []
    texts = {
        name: {reference.fold(text) for pair in used.split(name) for text in (pair.point, pair.counter)}
        for name in SPLITS
    }
    for name in SPLITS:
        pairs, split = used.split(name), report["splits"][name]
        assert split["num_pairs"] == len(pairs)
        assert split["num_distinct_texts"] == len(texts[name])
        assert split["num_distinct_pairs"] == len({(reference.fold(p.point), reference.fold(p.counter)) for p in pairs})
        assert split["num_distinct_strings"] == len({text for p in pairs for text in (p.point, p.counter)})
        assert split["num_points_clean"] == len(reference.clean_rows(pairs, earlier))
        assert split["candidates"] == reference.candidate_totals(pairs)
        earlier += published.split(name)
    assert report["shared_texts"] == {
        f"{a}_{b}": len(texts[a] & texts[b]) for a, b in (("train", "val"), ("train", "test"), ("val", "test"))
    }


def test_description_shows_every_split_and_theme():
    shown = describe(audited(by_hand())).splitlines()
    assert next(line for line in shown if line.startswith("distinct texts")).split()[-3:] == ["6", "6", "4"]
    assert any(line.startswith("t3 ") for line in shown)
    (row,) = (line for line in shown if line.startswith("val texts also in train"))
    assert row.split()[-4:] == ["6", "2", "33.3%", "1"], "distinct, equal, share, near duplicates besides"
    assert max(map(len, shown)) <= 80


def test_description_fits_a_hundred_columns_and_says_everything_in_words():
    pairs = [Pair(*pair, 1, f"{i} p", f"{i} c") for i, pair in enumerate(product(SPLITS, ["t" * 90], "a", ["pro"]))]
    token_lengths = np.arange(6) + 10**6
    for corpus, lengths in (
        (by_hand(), {}),
        (build_corpus("b", pairs), dict(token_lengths=token_lengths, max_tokens=9)),
    ):
        shown = describe(audited(corpus, **lengths))
        assert max(map(len, shown.splitlines())) <= 100
        assert "_" not in shown


# The command.


def run_audit(*arguments, cwd):
    return run_module("biencoder_ablate.audit", arguments, cwd)


def test_json_and_tables_of_a_directory(tmp_path, capsys):
    root = write_arguana_tree(tmp_path / "corpus", make_pairs(num_debates=2, num_points=2))
    (root / "test" / "theme0" / "test-debate-0" / "con" / "con03a-point.txt").write_text("An incomplete point.")
    arguments = ["data=arguana", f"data.path={root}"]
    assert command.main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["splits"]["test"]["num_pairs"] == 8
    assert report["splits"]["test"]["num_incomplete"] == 1
    assert report["splits"]["test"]["themes"]["theme0"]["num_incomplete"] == 1
    assert report["splits"]["test"]["candidates"]["true"] == 8
    assert report["shared_texts"] == {"train_val": 0, "train_test": 0, "val_test": 0}
    assert report["tokenizer"]["model"].endswith("all-MiniLM-L6-v2")
    assert report["splits"]["train"]["tokens"]["min"] >= 3  # [CLS], a word at least, [SEP]
    assert command.main(arguments) == 0
    assert "theme1" in capsys.readouterr().out


def test_tokens_of_tiny_are_those_that_training_sees(capsys):
    """At max_tokens=64 the audit says which share a run with that setting would cut."""
    from biencoder_ablate.config.compose import load_config
    from biencoder_ablate.data.corpus import SPLITS
    from biencoder_ablate.training.plan import build_components, make_plan
    from biencoder_ablate.utils.console import RunLog
    from biencoder_ablate.utils.distributed import World

    assert command.main(["--json", "model.max_tokens=64"]) == 0
    report = json.loads(capsys.readouterr().out)
    parts = build_components(make_plan(load_config(["model.max_tokens=64"])), RunLog(None, quiet=True), World())
    cut = sum(report["splits"][name]["tokens"]["num_truncated"] for name in SPLITS)
    assert cut == round(parts.cut_share * len(parts.context.index.texts)) > 0


def test_a_model_that_is_not_there_costs_only_the_tokens(capsys):
    assert command.main(["--json", "model=bert_base", "model.name_or_path=nobody/no-such-model"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["splits"]["val"]["tokens"] is None
    assert "nobody/no-such-model" in report["tokenizer"]["note"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data=arguana", "data.path=nowhere.zip"], ["data.path=nowhere.zip", "no such file"]),
        (["data.pth=x"], ["data.pth", "data.path"]),
        (["--jsn"], ["--jsn", "did you mean --json?"]),
        (["data=nothing"], ["data=nothing", "sample"]),
    ],
)
def test_mistakes_end_in_one_line(arguments, said, tmp_path):
    message = only_error(run_audit(*arguments, cwd=tmp_path), tmp_path)
    assert all(part in message for part in said), message


def test_a_damaged_table_is_named(tmp_path, capsys):
    path = write_pairs_csv(tmp_path / "pairs.csv", make_pairs())
    path.write_bytes(path.read_bytes() + b"\xff")
    assert command.main(["data=pairs", f"data.path={path}"]) == 1
    error = capsys.readouterr().err
    assert str(path) in error and "UTF-8" in error and error.count("\n") == 1


@pytest.mark.parametrize("entry", ["audit", "evaluate", "retrieve"])
def test_help_loads_nothing_heavy(entry, tmp_path):
    code = f"""import sys, biencoder_ablate.{entry} as entry
try:
    entry.main(["--help"])
except SystemExit as ended:
    assert not ended.code
heavy = {{"torch", "hydra", "transformers", "scipy"}} & set(sys.modules)
assert not heavy, heavy"""
    ended = run_python(["-c", code], tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "KEY=VALUE" in ended.stdout


@pytest.mark.slow
def test_the_real_corpus(arguana):
    """What the corpus itself publishes: candidates of the test split, summed over its points; and what leaks."""
    report = audited(arguana)
    train, val, test = (report["splits"][name] for name in SPLITS)
    assert test["candidates"] == {
        "true": 1401,
        "debate_same_counter": 4052,
        "debate_same_point": 4058,
        "debate_other_counter": 5260,
        "debate_other_point": 5260,
        "theme_counter": 180558,
        "theme_point": 180558,
        "portal_counter": 1771312,
        "portal_point": 1771524,
    }
    assert [split["num_pairs"] for split in (train, val, test)] == [4065, 1287, 1401]
    assert [split["num_distinct_texts"] for split in (train, val, test)] == [6182, 2386, 2586]
    assert [split["num_incomplete"] for split in (train, val, test)] == [18, 3, 5]
    assert [val["num_points_clean"], test["num_points_clean"]] == [631, 550]
    assert report["shared_texts"] == {"train_val": 1125, "train_test": 1143, "val_test": 442}
    assert [split["num_near_duplicate_pairs"] for split in (train, val, test)] == [42, 7, 8]


# What an earlier split, or another collection, has.


def test_pairs_that_an_earlier_split_has_are_counted(capsys, tmp_path):
    rows = [("train", "p1", "c1"), ("train", "p2", "c2"), ("val", "P1", "c1!"), ("val", "p3", "c3")]
    rows += [("test", "p1", "c1"), ("test", "p3", "c3"), ("test", "p2", "new"), ("test", "p4", "c4")]
    table = tmp_path / "own.csv"
    table.write_text("split,point,counter\n" + "\n".join(map(",".join, rows)) + "\n")
    assert command.main(["data=pairs", f"data.path={table}", "model=tiny", "--json"]) == 0
    shared = json.loads(capsys.readouterr().out)["shared_pairs"]
    assert (shared["train_val"]["exact"], shared["train_val"]["folded"]) == (0, 1)
    assert (shared["train_test"]["folded"], shared["train_test"]["point"]) == (1, 2)
    assert shared["train_or_val_test"]["folded"] == 2


def test_another_collection_is_read_and_what_it_has_of_each_split_is_said(capsys, tmp_path):
    own = tmp_path / "own.csv"
    own.write_text("split,point,counter\ntrain,p1,c1\nval,p2,c2\ntest,p3,c3\ntest,p4,c4\ntest,p5,c5\n")
    other = tmp_path / 'their "data".csv'
    other.write_text("split,point,counter\ntrain,P3,C3.\nval,p9,c9\ntest,p4,something else\n")
    named = tmp_path / "asked.csv"
    named.write_text("split,request,reply\ntrain,p5,c5\nval,p9,c9\ntest,p8,c8\n")
    settings_of_it = f"data=hub data.path={named} data.point=request data.counter=reply data.split=split"
    arguments = ["data=pairs", f"data.path={own}", "model=tiny", "--against", str(other), "--against", settings_of_it]
    assert command.main([*arguments, "--json"]) == 0
    against = json.loads(capsys.readouterr().out)["against"]
    test = against[str(other)]["splits"]["test"]
    assert (test["num_pairs"], test["exact"], test["folded"], test["point"]) == (3, 0, 1, 2)
    assert against[settings_of_it]["splits"]["test"]["exact"] == 1
    assert command.main(arguments) == 0
    assert "33.3%" in capsys.readouterr().out


def test_a_collection_that_is_not_there_is_named(tmp_path):
    write_pairs_csv(tmp_path / "own.csv", make_pairs())
    ended = run_module(
        "biencoder_ablate.audit",
        ["data=pairs", "data.path=own.csv", "model=tiny", "--against", "gone.csv"],
        tmp_path,
    )
    assert ended.returncode == 1
    assert "gone.csv" in ended.stderr and len(ended.stderr.splitlines()) == 1


# Which candidates a corpus suggests.


def both_roles(candidates, num_asking=3):
    """In test, p0 → a0, p1 → a1, … and a0 → b; in train a1 asks, and val shares nothing."""
    rows = [("test", f"p{n}", f"a{n}") for n in range(num_asking)]
    rows += [("test", "A0!", "b"), ("train", "a1", "c"), ("val", "v", "w")]
    pairs = [Pair(split, "t", "d", "", number, *texts) for number, (split, *texts) in enumerate(rows)]
    return build_corpus("hand", pairs, candidates=candidates)


def test_texts_that_ask_and_answer_are_counted_by_split_and_in_all():
    """a0 does both in test; a1 answers there and asks in train, so that it does both in all only."""
    report = audited(both_roles("answers"))
    assert [report["splits"][name]["num_ask_and_answer"] for name in SPLITS] == [0, 0, 1]
    assert report["candidates"] == {
        "num_ask": 6,  # p0, p1, p2, a0, a1, v
        "num_ask_and_answer": 2,
        "suggested": "all",
        "in_force": "answers",
    }
    assert "that suggests evaluation.candidates=all; in force: answers" in describe(report)
    # Four points, one right answer each, of a0, a1, a2 and b. (A0! is left out of none: official folds nothing.)
    assert report["splits"]["test"]["candidates"] == {"true": 4, "answer": 12}


def test_few_texts_that_do_both_suggest_answers_only():
    """2 of 23 texts that ask answer too: fewer than 1 in 10."""
    report = audited(both_roles("all", num_asking=20), among="answers")
    assert report["candidates"]["suggested"] == report["candidates"]["in_force"] == "answers"
    assert audited(both_roles("all"))["candidates"]["in_force"] == "all"


def test_blocks_that_say_nothing_of_plain_pairs_are_left_out():
    pairs = [Pair(split, "", f"row{n}", "", n, f"{split} p{n}", f"{split} a{n}") for split in SPLITS for n in range(3)]
    shown = describe(audited(build_corpus("pairs", pairs, candidates="answers")))
    for word in ("documents", "incomplete", "stance", "theme  ", "data.disjoint"):
        assert word not in shown, word
    leaking = [*pairs, Pair("test", "", "row9", "", 9, "train p0", "new")]
    assert "data.disjoint=true" in describe(audited(build_corpus("pairs", leaking, candidates="answers")))

"""Loaders: the sample, the ArguAna corpus whole and damaged, the user's own tables, and how debates are split."""

import hashlib
import itertools
import json
import re
import shutil
import unicodedata
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.helpers import (
    argument_files,
    make_pairs,
    read,
    run_python,
    write_arguana_tree,
    write_pairs_csv,
    zip_directory,
)

from biencoder_ablate.config.registry import check_corpus
from biencoder_ablate.config.schema import ConfigError, DataConfig
from biencoder_ablate.data.corpus import SPLITS, DataError, Pair, build_corpus, limit_debates, make_disjoint, text_key
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.data.splitting import split_debates
from biencoder_ablate.data.text_table import build_table, fingerprint_texts

COLUMNS = ("point", "counter", "split", "theme", "debate", "stance")


@pytest.fixture(scope="module")
def sample():
    return read("sample")


def all_pairs(corpus):
    return [pair for name in SPLITS for pair in corpus.split(name)]


def refusal(load, *arguments):
    """The message with which a loader refuses; always one line."""
    with pytest.raises(DataError) as refused:
        load(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# --- the sample ---


def test_the_sample_has_enough_debates_themes_and_points(sample):
    points = defaultdict(Counter)
    for pair in all_pairs(sample):
        points[pair.theme, pair.debate][pair.stance] += 1
    assert len(points) >= 24
    assert len({theme for theme, _ in points}) >= 10
    assert all(stances == {"pro": 4, "con": 4} for stances in points.values())
    assert not sample.incomplete


def test_the_sample_texts_are_short_arguments_each_unlike_the_others(sample):
    texts = [text for pair in all_pairs(sample) for text in (pair.point, pair.counter)]
    lengths = {text: len(text.split()) for text in texts}
    assert {text: length for text, length in lengths.items() if not 25 <= length <= 70} == {}
    assert len({text_key(text) for text in texts}) == len(texts)
    words = [frozenset(re.findall(r"\w+", text.lower())) for text in texts]
    alike = max(len(a & b) / len(a | b) for a, b in itertools.combinations(words, 2))
    assert alike < 0.3, "two texts are nearly the same"
    phrases = Counter()
    for text in texts:
        spoken = re.findall(r"\w+", text.lower())
        phrases.update({tuple(spoken[i : i + 7]) for i in range(len(spoken) - 6)})
    assert phrases.most_common(1)[0][1] == 1, "a phrase of seven words comes twice, as from a template"


def test_the_sample_is_split_by_whole_debates_60_20_20(sample):
    debates = {name: {(pair.theme, pair.debate) for pair in sample.split(name)} for name in SPLITS}
    total = sum(map(len, debates.values()))
    assert len(set().union(*debates.values())) == total, "a debate lies in two splits"
    assert {name: round(len(found) / total, 1) for name, found in debates.items()} == {
        "train": 0.6,
        "val": 0.2,
        "test": 0.2,
    }


def test_the_sample_split_follows_split_seed_and_nothing_else(sample):
    assert read("sample", split_seed=0) == sample
    assert read("sample", split_seed=0).fingerprint == sample.fingerprint
    other = read("sample", split_seed=1)
    assert other.fingerprint != sample.fingerprint
    assert {pair.debate for pair in other.val} != {pair.debate for pair in sample.val}
    assert {pair.point for pair in all_pairs(other)} == {pair.point for pair in all_pairs(sample)}


# --- records ---


def test_pairs_stand_in_candidate_order():
    """Theme, then debate, then con before pro, then the number as a number."""
    wanted = [
        ("a", "x", "con", 2),
        ("a", "x", "con", 10),
        ("a", "x", "pro", 1),
        ("a", "y", "con", 1),
        ("b", "a", "pro", 1),
    ]
    pairs = [
        Pair("train", theme, debate, stance, number, f"p{i}", f"c{i}")
        for i, (theme, debate, stance, number) in enumerate(wanted)
    ]
    corpus = build_corpus("made", [*reversed(pairs), *make_pairs(splits=("val", "test"))])
    assert [(pair.theme, pair.debate, pair.stance, pair.number) for pair in corpus.train] == wanted
    assert corpus.train[1].id == "train/a/x/con10"
    assert corpus.train[0].id == "train/a/x/con02"


def test_the_fingerprint_is_over_the_parsed_pairs():
    pairs = make_pairs(1, 1)
    corpus = build_corpus("made", pairs)
    assert build_corpus("other name", reversed(pairs)).fingerprint == corpus.fingerprint
    first = pairs[0]  # changed so that it stays the first: order alone would change the fingerprint too
    for field, value in [
        ("point", "Else."),
        ("counter", "Else."),
        ("theme", "a"),
        ("debate", "a"),
        ("number", 0),
        ("split", "val"),
    ]:
        changed = [replace(first, **{field: value}), *pairs[1:]]
        assert build_corpus("made", changed).fingerprint != corpus.fingerprint, field


def test_only_where_a_text_comes_twice_does_it_matter_who_asks():
    """Pairs without a text in common are asked one by one either way, and runs on them keep their names."""
    distinct = make_pairs(2, 2)
    again = [replace(distinct[0], point=distinct[1].point), *distinct[1:]]
    for pairs, differ in ((distinct, False), (again, True)):
        one_by_one, by_point = (build_corpus("made", pairs, asks_pairs=asks).fingerprint for asks in (True, False))
        assert (one_by_one != by_point) == differ


def test_the_fingerprint_of_texts_is_over_their_lengths_and_bytes():
    """Eight bytes of length before each, so that no two lists of texts run into one."""
    lengths = [bytes(7) + bytes([3]), bytes(8), bytes(7) + bytes([2])]
    expected = hashlib.sha256(lengths[0] + b"abc" + lengths[1] + lengths[2] + "é".encode()).hexdigest()
    assert fingerprint_texts(["abc", "", "é"]) == expected


def test_what_is_no_answer_is_never_clean_and_makes_no_answer_a_second_one():
    graded = [("q", "a", 0), ("q", "b", 1), ("Q!", "B", 1), ("p", "b", 0), ("P", "b", 2)]
    pairs = [Pair("train", "t", "d", "pro", i, point, text, grade) for i, (point, text, grade) in enumerate(graded)]
    pairs += [Pair(split, "t", "d", "pro", 0, f"{split} asks", f"{split} answers") for split in ("val", "test")]
    train = build_table(build_corpus("made", pairs)).splits["train"]
    assert train.clean.tolist() == [False, True, False, False, True]


def test_an_empty_split_is_named():
    for left_out in SPLITS:
        splits = [name for name in SPLITS if name != left_out]
        assert f"split {left_out}" in refusal(build_corpus, "made", make_pairs(splits=splits))


# --- what is kept of a corpus: data.disjoint, data.limit ---


def overlapping():
    """Train shares texts with val and test, val with test; spelled differently each time."""
    rows = [
        ("train", "t0", "A point.", "Its answer."),
        ("train", "t0", "Shared with VAL!", "x1"),
        ("train", "t1", "x2", "shared with test"),
        ("val", "v0", "shared with val", "y1"),
        ("val", "v0", "y2", "Both, val and test"),
        ("test", "e0", "Shared with test.", "z1"),
        ("test", "e0", "both VAL and test", "z2"),
    ]
    return build_corpus(
        "made",
        [
            Pair(split, "theme", debate, "pro", i, point, counter)
            for i, (split, debate, point, counter) in enumerate(rows)
        ],
    )


def test_disjoint_drops_what_later_splits_have():
    corpus = overlapping()
    kept = make_disjoint(corpus)
    assert [pair.point for pair in kept.train] == ["A point."]
    assert [pair.point for pair in kept.val] == ["shared with val"]
    assert kept.test == corpus.test
    assert kept.published == corpus.published
    assert kept.fingerprint != corpus.fingerprint
    (note,) = kept.notes
    assert "2 of 3 train" in note and "1 of 2 val" in note


def test_disjoint_refuses_to_leave_nothing():
    pairs = [Pair(split, "t", split, "pro", 1, "the same", f"c {split}") for split in SPLITS]
    assert "train" in refusal(make_disjoint, build_corpus("made", pairs))


def test_limit_keeps_the_first_debates_of_each_split_whole():
    corpus = build_corpus("made", make_pairs(num_debates=3, num_points=2))
    kept = limit_debates(corpus, 2)
    for name in SPLITS:
        debates = list(dict.fromkeys((pair.theme, pair.debate) for pair in corpus.split(name)))
        assert kept.split(name) == tuple(
            pair for pair in corpus.split(name) if (pair.theme, pair.debate) in debates[:2]
        )
        assert len(kept.split(name)) == 8
    assert kept.published == corpus.published
    assert limit_debates(corpus, 99).train == corpus.train
    assert "first 2 debates" in kept.notes[0]


def test_load_makes_disjoint_before_it_shortens(tmp_path):
    table = write_pairs_csv(tmp_path / "pairs.csv", all_pairs(overlapping()))
    asked = DataConfig("pairs", str(table), disjoint=True, limit=1)
    corpus = load_corpus(asked)
    assert [pair.point for pair in corpus.train] == ["A point."]
    assert len(corpus.notes) == 2
    assert corpus.fingerprint != load_corpus(replace(asked, limit=None, disjoint=False)).fingerprint


# --- what a reader cannot take ---


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (DataConfig(path="x.csv"), ["data.path=x.csv", "data=sample", "data=pairs"]),
        (DataConfig("arguana"), ["data.path is missing", "data=arguana", "zip"]),
        (DataConfig("pairs"), ["data.path is missing", "data=pairs", "csv"]),
        (DataConfig("arguana", "no/such.zip"), ["data.path=no/such.zip", "no such file"]),
        (DataConfig("pairs", "no/such.csv"), ["data.path=no/such.csv", "no such file"]),
        (DataConfig("pairs", __file__), ["data.path=", "csv, tsv or jsonl"]),
        (DataConfig("arguana", __file__, split_seed=3), ["data.split_seed=3", "comes split"]),
        (DataConfig("Sample"), ["data.name=Sample", "sample, arguana, pairs"]),
        (DataConfig(options={"column": "a"}), ["data.options={'column': 'a'}", "data=sample takes none"]),
        (DataConfig("pairs", __file__, options={"column": "a"}), ["data.options=", "data=pairs takes none"]),
    ],
)
def test_settings_that_a_reader_cannot_take_are_refused_before_anything_is_read(asked, said):
    for refuses in (check_corpus, load_corpus):
        with pytest.raises(ConfigError) as refused:
            refuses(asked)
        assert all(part in str(refused.value) for part in said) and "\n" not in str(refused.value)


def test_a_command_refuses_them_without_torch(tmp_path):
    program = """import sys
from biencoder_ablate.config.compose import load_config
try:
    load_config(["data=pairs", "data.path=no/such.csv"])
except ValueError as error:
    print(error, {"torch", "transformers"} & set(sys.modules))"""
    ended = run_python(["-c", program], tmp_path)
    assert "no such file" in ended.stdout and ended.stdout.endswith("set()\n"), ended.stderr


# --- splitting ---


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.text("xyz", max_size=3)), min_size=1, max_size=60),
    st.integers(0, 2**32 - 1),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_splitting_depends_on_the_debates_and_the_seed_alone(debates, seed, shuffler):
    distinct = set(debates)
    if len(distinct) < 3:
        assert "at least 3" in refusal(split_debates, debates, seed)
        return
    chosen = split_debates(debates, seed)
    shuffled = debates * 2
    shuffler.shuffle(shuffled)
    assert split_debates(shuffled, seed) == chosen
    assert set(chosen) == distinct
    held_out = max(1, round(len(distinct) / 5))
    sizes = Counter(chosen.values())
    assert (sizes["val"], sizes["test"]) == (held_out, held_out)
    assert sizes["train"] == len(distinct) - 2 * held_out >= 1


def test_another_split_seed_splits_otherwise():
    debates = [("theme", str(i)) for i in range(30)]
    assert len({tuple(sorted(split_debates(debates, seed).items())) for seed in range(5)}) == 5


# --- the ArguAna corpus ---

ROOTS = ["", "02-extracted-arguments", "arguana-counterargs-corpus/02-extracted-arguments"]


@pytest.fixture
def tree(tmp_path):
    """A small corpus at the root of a directory."""
    return write_arguana_tree(tmp_path / "tree", make_pairs())


def first_point(root):
    return root / argument_files(make_pairs()[0])[0]


@pytest.mark.parametrize("root", ROOTS)
def test_the_directory_and_the_zip_are_the_same_corpus_at_any_usual_root(root, tmp_path):
    pairs = make_pairs()
    wanted = build_corpus("arguana", pairs, asks_pairs=True)
    directory = tmp_path / "corpus"
    write_arguana_tree(directory / root, pairs)
    archive = zip_directory(directory, tmp_path / "corpus.zip")
    for path in (directory, str(directory), archive, str(archive)):
        corpus = read("arguana", path)
        assert corpus == wanted
        assert corpus.fingerprint == wanted.fingerprint


def test_stray_files_are_left_alone(tree, tmp_path):
    wanted = read("arguana", tree).fingerprint
    point = first_point(tree)
    for stray in [
        tree / ".DS_Store",
        tree / "training" / ".DS_Store",
        point.parent / ".DS_Store",
        point.with_name(f"._{point.name}"),
        tree / "__MACOSX" / "training" / f"._{point.name}",
        point.parents[1] / "thesis.txt",
        point.with_name("con01c-point.txt"),
        point.with_name("con01a-point.txt~"),
        point.with_name("pro01a-point.txt"),
        tree / "arguana-counterargs-readme.txt",
        tree / "training" / "theme0" / "con01a-point.txt",
    ]:
        stray.parent.mkdir(parents=True, exist_ok=True)
        stray.write_bytes(b"\xff\x00 not an argument")
    assert read("arguana", tree).fingerprint == wanted
    assert read("arguana", zip_directory(tree, tmp_path / "stray.zip")).fingerprint == wanted


@pytest.mark.parametrize("kind", ["a-point", "b-counter"])
def test_two_arguments_of_one_number_are_not_joined(kind, tree, tmp_path):
    """pro1a-point.txt beside pro01b-counter.txt: two arguments, of which one pair would be made."""
    old = next(tree.rglob(f"pro01{kind}.txt"))
    new = old.with_name(f"pro1{kind}.txt")
    old.rename(new)
    for path in (tree, zip_directory(tree, tmp_path / "numbers.zip")):
        message = refusal(read, "arguana", path)
        assert str(path) in message and f"pro1{kind}.txt" in message and "have the same number" in message
        assert "pro01" in message
    old.write_text("Another text.")
    assert "have the same number" in refusal(read, "arguana", tree)


def test_counters_without_a_point_are_counted(tree):
    (tree / argument_files(make_pairs()[0])[0]).unlink()
    assert read("arguana", tree).notes == ("counters without a point beside them, left out: 1",)


def test_points_without_a_counter_are_counted_and_used_nowhere(tree):
    pairs = make_pairs()
    without_counter, without_point = pairs[0], pairs[1]
    (tree / argument_files(without_counter)[1]).unlink()
    (tree / argument_files(without_point)[0]).unlink()
    corpus = read("arguana", tree)
    assert dict(corpus.incomplete) == {(without_counter.split, without_counter.theme): 1}
    used = all_pairs(corpus)
    assert len(used) == len(pairs) - 2
    texts = {text for pair in used for text in (pair.point, pair.counter)}
    assert not {without_counter.point, without_point.counter} & texts


def test_byte_order_marks_and_blank_ends_are_not_part_of_a_text(tree):
    wanted = read("arguana", tree)
    point = first_point(tree)
    point.write_bytes(b"\xef\xbb\xbf  \r\n" + point.read_bytes() + b"\r\n\n")
    assert read("arguana", tree).fingerprint == wanted.fingerprint


def test_a_file_that_is_not_utf8_or_empty_is_named(tree, tmp_path):
    point = first_point(tree)
    for content, said in [("Überzeugend.".encode("latin-1"), "not UTF-8"), (b"", "empty"), (b" \n", "empty")]:
        point.write_bytes(content)
        for path in (tree, zip_directory(tree, tmp_path / "damaged.zip")):
            message = refusal(read, "arguana", path)
            assert str(path) in message and point.relative_to(tree).as_posix() in message and said in message


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_missing_split_is_named_and_no_other(split, tree, tmp_path):
    shutil.rmtree(tree / {"train": "training", "val": "validation", "test": "test"}[split])
    for path in (tree, zip_directory(tree, tmp_path / "short.zip")):
        assert f"no arguments found for {split};" in refusal(read, "arguana", path)


def test_a_directory_of_something_else_says_what_was_expected(tmp_path):
    (tmp_path / "notes.txt").write_text("no corpus here")
    message = refusal(read, "arguana", tmp_path)
    assert str(tmp_path) in message and "training/" in message and "02-extracted-arguments" in message


def test_two_corpora_in_one_place_are_refused(tmp_path):
    for name in ("one", "two"):
        write_arguana_tree(tmp_path / "both" / name, make_pairs())
    for path in (tmp_path / "both", zip_directory(tmp_path / "both", tmp_path / "both.zip")):
        message = refusal(read, "arguana", path)
        assert "one/" in message and "two/" in message


def test_what_is_not_a_zip_is_refused_by_name(tree, tmp_path):
    whole = zip_directory(tree, tmp_path / "whole.zip").read_bytes()
    directory_offset_past_the_end = whole[:-4] + b"\x01" + whole[-3:]
    for name, content in [
        ("text.zip", b"this is no zip at all"),
        ("empty.zip", b""),
        ("cut.zip", whole[: len(whole) // 2]),
        ("offset.zip", directory_offset_past_the_end),
    ]:
        (tmp_path / name).write_bytes(content)
        message = refusal(read, "arguana", tmp_path / name)
        assert name in message and "zip" in message


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_truncated_or_damaged_zip_never_passes_for_whole(data, tmp_path_factory):
    """Cut anywhere: refused. A byte changed: refused with a DataError, or the damage lies in a name or between."""
    directory = tmp_path_factory.mktemp("zip")
    archive = zip_directory(write_arguana_tree(directory / "tree", make_pairs(1)), directory / "whole.zip")
    wanted = {(pair.point, pair.counter) for pair in all_pairs(read("arguana", archive))}
    whole = archive.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1), label="cut")
    (directory / "cut.zip").write_bytes(whole[:cut])
    assert "cut.zip" in refusal(read, "arguana", directory / "cut.zip")
    place, value = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    (directory / "bad.zip").write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
    try:
        found = {(pair.point, pair.counter) for pair in all_pairs(read("arguana", directory / "bad.zip"))}
    except DataError as error:
        assert "bad.zip" in str(error)
    else:
        assert found <= wanted


def test_the_real_corpus(arguana):
    assert [len(arguana.split(name)) for name in SPLITS] == [4065, 1287, 1401]
    assert sum(arguana.incomplete.values()) == 26
    assert all(pair.point and pair.counter for pair in all_pairs(arguana))
    assert {pair.stance for pair in all_pairs(arguana)} == {"pro", "con"}


# --- the user's tables ---


def as_jsonl(pairs, columns=COLUMNS):
    return "".join(json.dumps({column: getattr(pair, column) for column in columns}) + "\n" for pair in pairs)


def test_csv_tsv_and_jsonl_give_the_same_pairs(tmp_path):
    pairs = [replace(pair, point=f'{pair.point} "Quoted, with a comma"\tand ö\n2nd line') for pair in make_pairs()]
    write_pairs_csv(tmp_path / "a.csv", pairs)
    write_pairs_csv(tmp_path / "a.tsv", pairs, delimiter="\t")
    (tmp_path / "a.jsonl").write_text(as_jsonl(pairs), encoding="utf-8")
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        corpus = read("pairs", tmp_path / name)
        for split in SPLITS:
            assert sorted((p.theme, p.debate, p.stance, p.point, p.counter) for p in corpus.split(split)) == sorted(
                (p.theme, p.debate, p.stance, p.point, p.counter) for p in pairs if p.split == split
            )


def test_points_that_differ_in_signs_and_vowel_signs_are_points_of_their_own(tmp_path):
    points = ["What is C?", "What is C++?", "What is C#?", "By 1.5%?", "By 15%?", "पता क्या है?", "पिता क्या हैं?"]
    first = [Pair("train", "", "", "", 1, "Trains beat planes.", "Not over an ocean.")]
    first += [Pair("val", "", "", "", 1, "What is bread?", "Flour and water.")]
    asked = [Pair("test", "", "", "", 1, point, f"The answer to number {i}.") for i, point in enumerate(points)]
    corpus = read("pairs", write_pairs_csv(tmp_path / "a.csv", first + asked, ("split", "point", "counter")))
    queries = build_table(corpus).splits["test"].query
    assert len(set(queries.tolist())) == len(points)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_leak_is_found_in_either_normal_form(tmp_path, form):
    """The first test pair is the train pair."""
    leaked, answer = "Le café est meilleur à Paris qu'à Berlin.", "À Berlin, on le torréfie soi-même."
    pairs = [
        Pair("train", "", "", "", 1, leaked, answer),
        Pair("val", "", "", "", 1, "What is bread?", "Flour and water."),
        Pair("test", "", "", "", 1, *(unicodedata.normalize(form, text) for text in (leaked, answer))),
        Pair("test", "", "", "", 2, "What is glass?", "Molten sand."),
    ]
    corpus = read("pairs", write_pairs_csv(tmp_path / "a.csv", pairs, ("split", "point", "counter")))
    split = build_table(corpus).splits["test"]
    by_point = {pair.point: bool(clean) for pair, clean in zip(split.pairs, split.clean, strict=True)}
    assert by_point["What is glass?"] and sum(by_point.values()) == 1
    kept = replace(pairs[0], number=2, point="Trains are best.", counter="Not at sea.")
    assert make_disjoint(build_corpus("a", [*all_pairs(corpus), kept])).train == (kept,)


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path):
    table = write_pairs_csv(tmp_path / "a.csv", make_pairs())
    wanted = read("pairs", table).fingerprint
    content = table.read_bytes().replace(b"\r\n", b"\n")
    for changed in (content, content.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + content, content.rstrip(b"\n")):
        table.write_bytes(changed)
        assert read("pairs", table).fingerprint == wanted


def test_columns_are_known_by_name_whatever_their_case_and_space(tmp_path):
    (tmp_path / "a.csv").write_text(" Point, COUNTER ,Split,Nothing of ours\na,b,train,x\nc,d,val,x\ne,f,test,x\n")
    assert [pair.counter for pair in all_pairs(read("pairs", tmp_path / "a.csv"))] == ["b", "d", "f"]


def test_split_names_of_other_habits_are_understood(tmp_path):
    lines = ["point,counter,split", "a,b,Training", "c,d,validation", "e,f,TEST", "g,h,dev", "i,j,valid", "k,l,train"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    corpus = read("pairs", tmp_path / "a.csv")
    assert [[pair.point for pair in corpus.split(name)] for name in SPLITS] == [["a", "k"], ["c", "g", "i"], ["e"]]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_without_a_split_whole_debates_are_split_by_split_seed(name, tmp_path):
    pairs = make_pairs(num_debates=4)
    columns = [column for column in COLUMNS if column != "split"]
    write_pairs_csv(tmp_path / "a.csv", pairs, columns)
    (tmp_path / "a.jsonl").write_text(as_jsonl(pairs, columns))
    corpus = read("pairs", tmp_path / name, split_seed=3)
    chosen = split_debates([(pair.theme, pair.debate) for pair in pairs], 3)
    assert {(pair.theme, pair.debate): pair.split for pair in all_pairs(corpus)} == chosen
    assert len(all_pairs(corpus)) == len(pairs)
    assert read("pairs", tmp_path / name, split_seed=4).fingerprint != corpus.fingerprint


def test_without_debates_each_row_is_one(tmp_path):
    (tmp_path / "a.csv").write_text("point,counter\n" + "".join(f"p{i},c{i}\n" for i in range(10)))
    corpus = read("pairs", tmp_path / "a.csv")
    assert [len(corpus.split(name)) for name in SPLITS] == [6, 2, 2]
    assert len({pair.id for pair in all_pairs(corpus)}) == 10


def test_a_row_without_a_counter_is_an_incomplete_point(tmp_path):
    rows = ["point,counter,split,theme", "a,b,train,x", "alone,,train,x", "c,d,val,x", "e,f,test,x"]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    corpus = read("pairs", tmp_path / "a.csv")
    assert dict(corpus.incomplete) == {("train", "x"): 1}
    assert [pair.point for pair in corpus.train] == ["a"]


def test_what_a_table_leaves_out_is_a_note_of_the_corpus(tmp_path):
    (tmp_path / "a.csv").write_text("point,counter,split\na,b,train\n,,\nc,d,val\ne,f,test")
    notes = read("pairs", tmp_path / "a.csv").notes
    assert "1 blank row is left out" in notes[0] and "no line end" in notes[1]


# --- columns that say which rows are right ---

JUDGED = [(f"{split} {i}", f"{word} {split} {i}", split, word == "right") for split in SPLITS for i in range(2)
          for word in ("right", "wrong")]  # fmt: skip


def write_judged(path, column, values=None):
    """Each point with a right and a wrong row, as classifiers' data have them; `values`: what right and wrong are."""
    right, wrong = values or (1, 0)
    rows = [dict(zip(("point", "counter", "split"), row, strict=False)) | {column: right if row[3] else wrong}
            for row in JUDGED]  # fmt: skip
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    separator = "," if path.suffix == ".csv" else "\t"
    lines = [list(rows[0]), *(list(map(str, row.values())) for row in rows)]
    path.write_text("".join(separator.join(line) + "\n" for line in lines))
    return path


LABELS = [
    "label", "Labels", " LABEL ", "gold_label", "score", "Score", "similarity_score", "relevance", "is_relevant", "rel",
    "rating", "human_rating", "is_duplicate", "isDuplicate", "is_counter", "IS_COUNTER", "is counter", "isAnswer",
    "similarityScore", "grades", "my_grade", "correct", "judgement", "has_answer", "target",
]  # fmt: skip


@pytest.mark.parametrize("column", LABELS)
def test_a_column_that_may_judge_rows_is_never_ignored(column, tmp_path):
    message = refusal(read, "pairs", write_judged(tmp_path / "a.csv", column))
    assert f"a column {column.strip()}, so not every row need be a right answer; rename it to grade" in message
    assert str(tmp_path / "a.csv") in message and message.isprintable()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
@pytest.mark.parametrize(
    "values", [(1, 0), (True, False), (1.0, 0.0), ("1", "0"), ("yes", "no"), (0.9, -0.2), ("90%", "10%"), (4, None)]
)
def test_whatever_numbers_and_booleans_it_holds(name, values, tmp_path):
    values = tuple("" if value is None and name != "a.jsonl" else value for value in values)
    assert "a column is_counter" in refusal(read, "pairs", write_judged(tmp_path / name, "is_counter", values))


def test_a_label_may_be_words_and_a_text_is_none(tmp_path):
    path = write_judged(tmp_path / "a.csv", "label", ("entailment", "contradiction"))
    assert "a column label" in refusal(read, "pairs", path)
    texts = ("It attacks the point and gives a reason for that", "Nothing but the point in other words again and again")
    for column, values in (("score_comment", texts), ("label", texts), ("id", (1, 2)), ("upgrade", ("a", "b"))):
        corpus = read("pairs", write_judged(tmp_path / "b.csv", column, values))
        assert corpus.notes == (f"columns that are not read: {column}",)
    assert read("pairs", write_judged(tmp_path / "c.csv", "label", ("", ""))).notes


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
@pytest.mark.parametrize("column", ["grade", "Grade", " GRADE "])
@pytest.mark.parametrize("values", [(1, 0), (True, False), (1.0, 0.0), ("1", "0"), ("1.", "0.0")])
def test_called_grade_it_counts(name, column, values, tmp_path):
    corpus = read("pairs", write_judged(tmp_path / name, column, values))
    found = {(pair.point, pair.counter, pair.split, pair.grade > 0) for pair in all_pairs(corpus)}
    assert found == set(JUDGED)
    assert corpus.notes == ()


def test_beside_a_grade_other_columns_are_only_named(tmp_path):
    path = write_judged(tmp_path / "a.csv", "grade")
    path.write_text("".join(f"{line},{i or 'score'}\n" for i, line in enumerate(path.read_text().splitlines())))
    assert read("pairs", path).notes == ("columns that are not read: score",)


@pytest.mark.parametrize("value", ["0.5", "-1", "inf", "1e3", "good", ".", "[1]"])
def test_a_grade_is_a_whole_number(value, tmp_path):
    message = refusal(read, "pairs", write_judged(tmp_path / "a.csv", "grade", (value, 0)))
    assert f"line 2: grade={value}; must be an integer of 0 or more, or empty" in message


def test_a_reader_that_gives_a_name_twice_is_refused(monkeypatch):
    pairs = [Pair(split, "t", "d", "pro", 1, "p", f"{split} {i}") for split in SPLITS for i in range(2)]
    monkeypatch.setattr("biencoder_ablate.data.readers.registry.find", lambda *_: lambda _: build_corpus("x", pairs))
    monkeypatch.setattr("biencoder_ablate.data.readers.check_corpus", lambda _: None)
    assert "data=x: two pairs are called train/t/d/pro01" in refusal(load_corpus, DataConfig("x"))

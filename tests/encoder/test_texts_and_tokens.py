"""Texts as numbers: what makes two texts the same, which points count as clean, token ids, their cache, batches."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.encoders import make_tokenizer
from support.helpers import load_sample
from support.reference import corpora, fold

from biencoder_ablate.data.corpus import SPLITS, DataError, Pair, build_corpus, limit_debates, make_disjoint, text_key
from biencoder_ablate.data.text_table import answers_of, build_table, fingerprint_texts
from biencoder_ablate.encoder.tokens import Tokens, cached_tokens, length_groups, pad, tokenize
from biencoder_ablate.evaluation.candidates import candidate_texts
from biencoder_ablate.training.negatives import build_pool

# --- a corpus as numbers, worked by hand ---

ROWS = {  # (debate, point, counter, counts in clean figures)
    "train": [
        ("t0", "A", "B", True),
        ("t0", "C", "D", True),
        ("t1", "a!", "b.", False),  # asked before
        ("t1", "S", "T", True),
    ],
    "val": [
        ("v0", "E", "F", True),
        ("v0", "A", "G", False),  # its point is in train
        ("v0", "H", "b", False),  # its counter is in train
        ("v1", "e", "f", False),  # asked before
        ("v1", "E", "I", True),  # the same point with another answer is another pair
    ],
    "test": [
        ("e0", "F.", "J", False),  # a counter of val as a point
        ("e0", "K", "L", True),
        ("e0", "G", "M", False),  # came in a val pair that does not count itself
        ("e1", "K", "D", False),  # in train
        ("e1", "k", "l", False),  # asked before
        ("e1", "N", "N", True),
    ],
}


def worked_corpus():
    return build_corpus(
        "worked",
        [
            Pair(split, "theme", debate, "pro", i, point, counter)
            for split in SPLITS
            for i, (debate, point, counter, _) in enumerate(ROWS[split])
        ],
        asks_pairs=True,
    )


def clean_points(index, split):
    arrays = index.splits[split]
    return [arrays.pairs[row].point for row in np.flatnonzero(arrays.clean)]


def test_clean_points_worked_by_hand():
    index = build_table(worked_corpus())
    for split in SPLITS:
        assert index.splits[split].clean.tolist() == [clean for *_, clean in ROWS[split]]
        assert len(index.splits[split]) == len(ROWS[split])


def test_what_was_published_counts_even_where_it_is_left_out():
    """data.limit and data.disjoint drop pairs from use; a text that was published earlier stays leaked."""
    corpus = worked_corpus()
    limited = build_table(limit_debates(corpus, 1))
    assert clean_points(limited, "val") == ["E"]
    assert clean_points(limited, "test") == ["K"], "G is published in val, F too"
    disjoint = build_table(make_disjoint(corpus))
    assert [pair.point for pair in disjoint.splits["train"].pairs] == ["S"]
    assert [pair.point for pair in disjoint.splits["val"].pairs] == ["H", "E"]
    assert clean_points(disjoint, "val") == ["E"], "the answer to H was published in train"
    assert clean_points(disjoint, "test") == ["K", "N"]


def test_numbers_lead_back_to_the_texts():
    index = build_table(worked_corpus())
    assert len(set(index.texts)) == len(index.texts)
    keys = dict(zip(index.texts, index.keys.tolist(), strict=True))
    assert keys["A"] == keys["a!"] != keys["B"]
    assert len(set(keys.values())) == len({text_key(text) for text in index.texts})
    for name in SPLITS:
        split = index.splits[name]
        assert split.name == name
        for i, pair in enumerate(split.pairs):
            assert (index.texts[split.point[i]], index.texts[split.counter[i]]) == (pair.point, pair.counter)
            assert (split.point_key[i], split.counter_key[i]) == (keys[pair.point], keys[pair.counter])
    assert index.splits["val"].debate.tolist() == [0, 0, 0, 1, 1]
    assert index.splits["val"].theme.tolist() == [0] * 5


def test_right_answers_worked_by_hand():
    """A and a! are one point, whose answers are B and D; its own text B is an answer to no one else."""
    rows = [("A", "B"), ("C", "D"), ("a!", "D."), ("A", "b."), ("B", "A")]
    pairs = [Pair("train", "t", "d", "pro", i, *row) for i, row in enumerate(rows)]
    pairs += [Pair(split, "t", "d", "pro", 1, "A", f"only in {split}") for split in ("val", "test")]
    index = build_table(build_corpus("made", pairs))
    key = dict(zip(index.texts, index.keys.tolist(), strict=True))
    found_rows, found_keys = answers_of(index.splits["train"])
    both = sorted([key["B"], key["D"]])
    assert found_rows.tolist() == [0, 0, 1, 2, 2, 3, 3, 4]
    assert found_keys.tolist() == [*both, key["D"], *both, *both, key["A"]]
    assert [array.tolist() for array in answers_of(index.splits["val"])] == [[0], [key["only in val"]]]


@settings(max_examples=60, deadline=None)
@given(corpora())
def test_negatives_and_candidates_can_both_be_told_what_is_right(corpus):
    """From the answers alone: what a training pair never gets, and which candidates a point has among the right."""
    index = build_table(corpus)
    train = index.splits["train"]
    rows, keys = answers_of(train)
    pool = build_pool_or_none(train)
    if pool is not None:
        position = {key: place for place, key in enumerate(index.keys[pool.text].tolist())}
        right = zip([*rows, *range(len(train))], [*keys, *train.point_key], strict=True)
        forbidden = [list(map(int, pair)) for pair in zip(*pool.excluded, strict=True)]
        assert forbidden == sorted([row, position[key]] for row, key in {*right})
    for name in SPLITS:
        split, pairs = index.splits[name], corpus.split(name)
        rows, keys = answers_of(split)
        candidate_key = index.keys[candidate_texts(split)]
        for row, pair in enumerate(pairs):
            answers = {fold(other.counter) for other in pairs if fold(other.point) == fold(pair.point)}
            texts = [other.counter for other in pairs] + [other.point for other in pairs]
            expected = [place for place, text in enumerate(texts) if fold(text) in answers]
            assert np.flatnonzero(np.isin(candidate_key, keys[rows == row])).tolist() == expected


def build_pool_or_none(train):
    try:
        return build_pool(train)
    except DataError:
        return None


def test_debates_of_one_name_under_two_themes_are_two():
    pairs = [
        Pair(split, theme, "same", stance, 1, f"p {split} {theme} {stance}", f"c {split} {theme} {stance}")
        for split in SPLITS
        for theme in ("a", "b")
        for stance in ("con", "pro")
    ]
    split = build_table(build_corpus("made", pairs)).splits["train"]
    assert split.theme.tolist() == [0, 0, 1, 1]
    assert split.debate.tolist() == [0, 0, 1, 1]
    assert split.stance.tolist() == [0, 1, 0, 1]


def test_the_fingerprint_of_texts_is_over_strings_and_order():
    assert fingerprint_texts(("ab", "c")) != fingerprint_texts(("a", "bc"))
    assert fingerprint_texts(("a", "b")) != fingerprint_texts(("b", "a"))
    one, other = (fingerprint_texts(build_table(worked_corpus()).texts) for _ in range(2))
    assert one == other


def test_clean_points_of_the_real_corpus(arguana):
    splits = build_table(arguana).splits
    assert [len(splits[name]) for name in SPLITS] == [4065, 1287, 1401]
    assert (int(splits["val"].clean.sum()), int(splits["test"].clean.sum())) == (631, 550)


# --- token ids ---


@pytest.fixture(scope="module")
def texts():
    return build_table(load_sample()).texts[:60]


@pytest.fixture(scope="module")
def tokenizer(texts):
    return make_tokenizer(texts)


@pytest.mark.parametrize("max_tokens", [8, 40, 512])
def test_tokens_are_what_the_tokenizer_itself_gives_cut_at_max_tokens(max_tokens, texts, tokenizer):
    tokens = tokenize(tokenizer, texts, max_tokens)
    wanted = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    rows = [tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist() for i in range(len(tokens))]
    assert rows == wanted
    assert tokens.lengths.tolist() == [len(row) for row in wanted]
    assert tokens.lengths.max() == min(max_tokens, tokens.full_lengths.max())
    for row in rows:
        assert (row[0], row[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert not {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id} & set(row[1:-1])
    full = tokenizer(list(texts), truncation=False)["input_ids"]
    assert tokens.full_lengths.tolist() == [len(row) for row in full]


def test_tokens_of_nothing_and_of_empty_texts(tokenizer):
    assert len(tokenize(tokenizer, [], 16)) == 0
    tokens = tokenize(tokenizer, ["", "word"], 16)
    assert tokens.ids[:2].tolist() == [tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert tokens.lengths[0] == 2


def test_padding_and_the_mask(texts, tokenizer):
    tokens = tokenize(tokenizer, texts, 128)
    rows = np.array([5, 0, 5, 17])
    ids, mask = pad(tokens, rows, torch.device("cpu"))
    assert ids.shape == mask.shape == (4, tokens.lengths[rows].max())
    assert ids.dtype == mask.dtype == torch.int64
    for i, row in enumerate(rows):
        length = tokens.lengths[row]
        assert ids[i, :length].tolist() == tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist()
        assert (ids[i, length:] == tokenizer.pad_token_id).all()
        assert mask[i].tolist() == [1] * length + [0] * (ids.shape[1] - length)


def test_there_is_no_mask_where_nothing_is_padded(texts, tokenizer):
    tokens = tokenize(tokenizer, texts, 8)
    assert (tokens.lengths == 8).all()
    ids, mask = pad(tokens, np.arange(5), torch.device("cpu"))
    assert mask is None and ids.shape == (5, 8)
    assert pad(tokenize(tokenizer, ["one", "two of them"], 16), np.array([1]), torch.device("cpu"))[1] is None


@given(lengths=st.lists(st.integers(1, 300), max_size=80), budget=st.integers(1, 1000))
@settings(deadline=None)
def test_length_groups_hold_every_text_once_within_the_budget(lengths, budget):
    lengths = np.array(lengths, dtype=np.int64)
    groups = length_groups(lengths, budget)
    together = np.concatenate([np.empty(0, dtype=np.int64), *groups])
    assert sorted(together.tolist()) == list(range(len(lengths)))
    assert lengths[together].tolist() == sorted(lengths.tolist(), reverse=True)
    for group in groups:
        assert len(group) == 1 or len(group) * lengths[group].max() <= budget
        assert len(group) > 0
    for group in groups[:-1]:
        assert (len(group) + 1) * lengths[group].max() > budget, "one more text would have had room"


# --- the cache ---


def same_tokens(a: Tokens, b: Tokens) -> bool:
    return (
        np.array_equal(a.ids, b.ids)
        and np.array_equal(a.offsets, b.offsets)
        and a.ids.dtype == b.ids.dtype
        and np.array_equal(a.full_lengths, b.full_lengths)
        and a.pad_id == b.pad_id
    )


class Unasked:
    """A tokenizer that must not be asked: the tokens are to come from the cache."""

    def __call__(self, *arguments, **options):
        raise AssertionError("tokenised again")


def test_cached_tokens_equal_fresh_ones(texts, tokenizer, tmp_path):
    fresh = tokenize(tokenizer, texts, 32)
    made = cached_tokens(tokenizer, "model", texts, 32, tmp_path)
    read = cached_tokens(Unasked(), "model", texts, 32, tmp_path)
    assert same_tokens(made, fresh) and same_tokens(read, fresh)


@pytest.mark.parametrize("other", [("model 2", 0, 32), ("model", 1, 32), ("model", 0, 33)])
def test_the_cache_keeps_apart_what_determines_the_tokens(other, texts, tokenizer, tmp_path):
    cached_tokens(tokenizer, "model", texts, 32, tmp_path)
    model, first, max_tokens = other
    with pytest.raises(AssertionError, match="tokenised again"):
        cached_tokens(Unasked(), model, texts[first:], max_tokens, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "empty", "other content", "one byte"])
def test_a_damaged_cache_file_is_made_anew(damage, texts, tokenizer, tmp_path):
    fresh = cached_tokens(tokenizer, "model", texts, 32, tmp_path)
    (path,) = (tmp_path / "tokens").glob("*.npz")
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "cut": whole[:middle],
            "empty": b"",
            "other content": b"not an archive",
            "one byte": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
        }[damage]
    )
    assert same_tokens(cached_tokens(tokenizer, "model", texts, 32, tmp_path), fresh)
    assert same_tokens(cached_tokens(Unasked(), "model", texts, 32, tmp_path), fresh)
    left = {file.name for file in (tmp_path / "tokens").glob("*.npz*")}
    assert left == {path.name, f"{path.name}.sha256"}


def test_whole_tokens_of_other_texts_are_not_believed(texts, tokenizer, tmp_path, capsys):
    """As when a cache is copied together wrongly: the checksum fits, the number of texts does not."""
    fresh = cached_tokens(tokenizer, "model", texts, 32, tmp_path)
    (path,) = (tmp_path / "tokens").glob("*.npz")
    cached_tokens(tokenizer, "model", texts[:5], 32, tmp_path)
    (other,) = set((tmp_path / "tokens").glob("*.npz")) - {path}
    for suffix in ("", ".sha256"):
        shutil.copyfile(f"{other}{suffix}", f"{path}{suffix}")
    assert same_tokens(cached_tokens(tokenizer, "model", texts, 32, tmp_path), fresh)
    assert "holds 5 texts, not 60" in capsys.readouterr().err

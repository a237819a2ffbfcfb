"""TF-IDF and BM25 against three documents worked by hand and a slow, plain reference; chance; once a corpus, kept."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference
from support.helpers import load_sample, run_python, train

from biencoder_ablate.data.corpus import limit_debates, make_disjoint
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.evaluation.baselines import baselines_of_run, chance_metrics, corpus_baselines
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.evaluation.lexical import bm25_similarities, count_words, tfidf_similarities
from biencoder_ablate.utils.cache import seal

THREE = ["Cats purr.", "cats and DOGS", "dogs bark, dogs bite"]


def plain_words(text):
    return re.findall(r"\w+", text.lower())


def plain_tfidf(texts, point, candidate, statistics):
    def vector(text):
        words = plain_words(text)
        weights = {}
        for word in set(words):
            df = sum(word in plain_words(texts[i]) for i in statistics)
            weights[word] = words.count(word) * (math.log((1 + len(statistics)) / (1 + df)) + 1)
        return weights

    a, b = vector(texts[point]), vector(texts[candidate])
    norms = math.hypot(*a.values()) * math.hypot(*b.values())
    return sum(a[word] * b.get(word, 0) for word in a) / norms if norms else 0.0


def plain_bm25(texts, point, candidate, statistics, k1=1.2, b=0.75):
    words = plain_words(texts[candidate])
    average = sum(len(plain_words(texts[i])) for i in statistics) / len(statistics)
    relative_length = len(words) / average if average else 1.0
    score = 0.0
    for word in plain_words(texts[point]):  # a word said twice counts twice
        df = sum(word in plain_words(texts[i]) for i in statistics)
        idf = math.log(1 + (len(statistics) - df + 0.5) / (df + 0.5))
        tf = words.count(word)
        if tf:
            score += idf * tf / (tf + k1 * (1 - b + b * relative_length))
    return score


def test_words_are_counted():
    counts = count_words([*THREE, "", "!?"])
    assert counts.toarray().tolist() == [  # cats purr and dogs bark bite
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 1, 0, 0],
        [0, 0, 0, 2, 1, 1],
        [0] * 6,
        [0] * 6,
    ]


def test_tfidf_of_three_documents():
    similarities = tfidf_similarities(count_words(THREE), [0, 1], [0, 1, 2], [0, 1, 2])
    # df: cats 2, dogs 2, the others 1, so ln(4/3) + 1 and ln(4/2) + 1.
    common, rare = math.log(4 / 3) + 1, math.log(2) + 1
    cats_purr, cats_and_dogs = math.hypot(common, rare), math.hypot(common, rare, common)
    dogs_bark_dogs_bite = math.hypot(2 * common, rare, rare)
    want = [
        [1, common**2 / (cats_purr * cats_and_dogs), 0],
        [
            common**2 / (cats_purr * cats_and_dogs),
            1,
            2 * common**2 / (cats_and_dogs * dogs_bark_dogs_bite),
        ],
    ]
    assert similarities.dtype == np.float32
    np.testing.assert_allclose(similarities, want, rtol=1e-6)


def test_bm25_of_three_documents():
    similarities = bm25_similarities(count_words(THREE), [1, 2], [0, 2], [0, 1, 2])
    # Average length 3. idf of a word in two of three: ln(1 + 1.5 / 2.5); in one of three: ln(1 + 2.5 / 1.5).
    common, rare = math.log(1.6), math.log(8 / 3)
    short, long = 1.2 * (0.25 + 0.75 * 2 / 3), 1.2 * (0.25 + 0.75 * 4 / 3)
    dogs, bark = common * 2 / (2 + long), rare / (1 + long)
    want = [[common / (1 + short), dogs], [0, 2 * dogs + 2 * bark]]  # "bite" is as rare as "bark"
    assert similarities.dtype == np.float32
    np.testing.assert_allclose(similarities, want, rtol=1e-6)


TEXTS = st.lists(
    st.lists(st.sampled_from(["a", "B", "b", "über", "x1", "don't", "--"]), max_size=6).map(" ".join),
    min_size=1,
    max_size=7,
)


@settings(deadline=None, max_examples=80)
@given(data=st.data(), texts=TEXTS, k1=st.sampled_from([0.0, 1.2, 2.0]), b=st.sampled_from([0.0, 0.75, 1.0]))
def test_equal_to_the_plain_reference(data, texts, k1, b):
    indices = st.lists(st.integers(0, len(texts) - 1), max_size=5)
    points, candidates = data.draw(indices), data.draw(indices)
    statistics = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, unique=True))
    counts = count_words(texts)
    tfidf = tfidf_similarities(counts, points, candidates, statistics)
    bm25 = bm25_similarities(counts, points, candidates, statistics, k1, b)
    assert tfidf.shape == bm25.shape == (len(points), len(candidates))
    for row, point in enumerate(points):
        for column, candidate in enumerate(candidates):
            plain = plain_tfidf(texts, point, candidate, statistics)
            assert tfidf[row, column] == pytest.approx(plain, rel=1e-6, abs=1e-7)
            plain = plain_bm25(texts, point, candidate, statistics, k1, b)
            assert bm25[row, column] == pytest.approx(plain, rel=1e-6, abs=1e-7)


def test_candidates_with_the_same_words_tie_exactly():
    texts = ["the cat saw a dog, or three", "A dog saw the CAT", "padding " * 50, "a dog; saw the cat!"]
    counts = count_words(texts)
    for measure in (tfidf_similarities, bm25_similarities):
        similarities = measure(counts, [0], [1, 2, 3], [1, 2, 3])
        assert similarities[0, 0] == similarities[0, 2] > similarities[0, 1]


def test_statistics_need_not_be_of_the_candidates():
    counts = count_words(["cat dog", "cat", "dog", "bird"])
    rare_cat = tfidf_similarities(counts, [0], [1, 2], [2, 3])
    rare_dog = tfidf_similarities(counts, [0], [1, 2], [1, 3])
    assert rare_cat[0, 0] > rare_cat[0, 1] and rare_dog[0, 0] < rare_dog[0, 1]


def test_texts_without_words():
    counts = count_words(["", "cat", "..."])
    for measure in (tfidf_similarities, bm25_similarities):
        assert not measure(counts, [0, 2], [0, 1, 2], [0, 1, 2]).any()
        assert np.isfinite(measure(counts, [1], [1], [0, 2])).all()
        assert measure(count_words([""]), [0], [0], [0]).tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("point", "answer", "other"),
    [
        ("電車は飛行機よりよい。", "海の上に電車は走らない。", "料理の設備は学校には高すぎる。"),
        ("รถไฟดีกว่าเครื่องบิน", "กลางทะเลไม่มีรถไฟ", "ครัวแพงเกินไป"),
        ("विद्यालय में खाना बनाना", "रसोई विद्यालय के लिए", "वद यलय खन बनन"),  # the last: its letters without marks
    ],
)
def test_words_are_found_in_other_scripts(point, answer, other):
    counts = count_words([point, other, answer])
    for measure in (tfidf_similarities, bm25_similarities):
        (similarities,) = measure(counts, [0], [1, 2], [1, 2])
        assert similarities[1] > similarities[0]


def test_bm25_of_three_japanese_documents():
    """電車がよい is the pairs 電車 車が がよ よい; of the first, 電車 is in two documents of three, よい in one."""
    texts = ["電車がよい", "電車", "よい学校", "学校へ電車"]
    similarities = bm25_similarities(count_words(texts), [0], [1, 2, 3], [1, 2, 3])
    two_of_three, one_of_three = math.log(1.6), math.log(8 / 3)
    average = (1 + 3 + 4) / 3  # 電車; よい い学 学校; 学校 校へ へ電 電車
    first, second, third = (1 + 1.2 * (0.25 + 0.75 * length / average) for length in (1, 3, 4))
    np.testing.assert_allclose(
        similarities, [[two_of_three / first, one_of_three / second, two_of_three / third]], rtol=1e-6
    )


# Chance, and what is kept.


@settings(max_examples=20, deadline=None)
@given(reference.published_and_used())
def test_chance_is_the_mean_over_all_places_of_the_counter(both):
    published, used = both
    for name, split in build_table(used).splits.items():
        pairs = used.split(name)
        order = ("train", "val", "test")
        earlier = [pair for other in order[: order.index(name)] for pair in published.split(other)]
        found = chance_metrics(build_task(split))
        sizes = [len(reference.official_candidates(pairs, row)) for row in range(len(pairs))]
        assert found["top1"] == pytest.approx(np.mean([1 / size for size in sizes]))
        assert found["mrr"] == pytest.approx(np.mean([np.mean(1 / np.arange(1, size + 1)) for size in sizes]))
        assert found["recall@10"] == pytest.approx(np.mean([np.mean(np.arange(size) < 10) for size in sizes]))
        clean = [len(reference.clean_candidates(pairs, row)) for row in reference.clean_rows(pairs, earlier)]
        if clean:
            assert found["top1_clean"] == pytest.approx(np.mean([1 / size for size in clean]))


def test_baselines_are_worked_out_once_for_a_corpus_and_anew_for_a_part_of_it(tmp_path):
    def kept(part):
        index = build_table(part)
        splits = {name: build_task(split) for name, split in index.splits.items()}
        return corpus_baselines(tmp_path, part.fingerprint, index.texts, splits)

    corpus = limit_debates(load_sample(), 2)
    found = kept(corpus)
    (path,) = tmp_path.rglob("*.json")
    assert json.loads(path.read_text("utf-8")) == found
    path.write_text('{"chance": "as kept"}', encoding="utf-8")
    seal(path)
    assert kept(corpus) == {"chance": "as kept"}
    path.write_text('{"chance": "changed"}', encoding="utf-8")
    assert kept(corpus) == found, "what is not as it was written is measured anew"
    leaking = replace(corpus, train=(*corpus.train, replace(corpus.val[0], split="train")))
    for part in (limit_debates(corpus, 1), leaking, make_disjoint(replace(leaking, val=corpus.val[1:]))):
        assert set(kept(part)) == {"bm25", "tfidf", "chance"}
    assert len(list(tmp_path.rglob("*.json"))) == 4


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    sizes = ("model=tiny", "model.max_tokens=16", "data.limit=3", "training.freeze_encoder=true", "training.epochs=1")
    return train(tmp_path_factory.mktemp("short"), "head=none", *sizes)


def test_every_run_has_the_baselines_of_its_corpus_in_the_figures_it_has_itself(short_run):
    result = json.loads((short_run / "result.json").read_text("utf-8"))
    assert list(result["baselines"]) == ["pretrained", "bm25", "tfidf", "chance"]
    for name, splits in result["baselines"].items():
        assert set(splits) == {"val", "test"}
        for split, figures in splits.items():
            assert set(figures) <= set(result[split])
            assert name == "chance" or set(figures) == set(result[split])
    for split in ("val", "test"):
        for key in ("top1", "top1_clean", "recall@10"):
            assert result["initial"][f"pretrained/{split}/{key}"] == result["baselines"]["pretrained"][split][key]


def test_an_older_run_without_baselines_is_given_those_of_its_corpus(short_run, tmp_path):
    result, manifest = (json.loads((short_run / name).read_text("utf-8")) for name in ("result.json", "manifest.json"))
    own = result.pop("baselines")
    corpus = limit_debates(load_sample(), 3)
    found = baselines_of_run(result, manifest["determined_by"], tmp_path, lambda: corpus)
    assert list(found) == list(own) and found["bm25"] == own["bm25"] and found["chance"] == own["chance"]
    assert found["pretrained"]["test"] == {
        key: own["pretrained"]["test"][key] for key in ("top1", "top1_clean", "recall@10")
    }
    another = baselines_of_run(result, manifest["determined_by"], tmp_path / "empty", load_sample)
    assert list(another) == ["pretrained"], "the corpus there now is not the run's"
    assert list(baselines_of_run(result, {}, tmp_path / "empty", load_sample)) == ["pretrained"]


def test_known_baselines_are_read_without_torch(short_run):
    program = (
        "import json, sys; from pathlib import Path\n"
        "from biencoder_ablate.evaluation.baselines import baselines_of_run, known_baselines\n"
        "from biencoder_ablate.config.schema import Config, cache_directory\n"
        "by = json.loads(Path('manifest.json').read_text())['determined_by']\n"
        "result = json.loads(Path('result.json').read_text()); own = result.pop('baselines')\n"
        "assert baselines_of_run(result, by, cache_directory(Config()), None) == own\n"
        "print(*sorted({'torch', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    ended = run_python(["-c", program], short_run)
    assert (ended.stdout, ended.stderr) == ("\n", "")

"""Encoders as they are: the metrics of a run's own baselines, intervals over debates, the published clean points."""

import json

import numpy as np
import pytest
import torch
from scipy import stats

from biencoder_ablate import benchmark as command
from biencoder_ablate.benchmark import _intervals, benchmark, clean_points, describe
from biencoder_ablate.config import DataConfig
from biencoder_ablate.config.compose import load_config
from biencoder_ablate.config.schema import cache_directory
from biencoder_ablate.data.corpus import Pair, build_corpus
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.data.text_table import build_table, fingerprint_texts
from biencoder_ablate.encoder.pretrained import find_model
from biencoder_ablate.encoder.texts import encode_settings, open_encoder
from biencoder_ablate.evaluation.baselines import encoder_metrics, lexical_metrics
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.evaluation.metrics import first_ranks
from biencoder_ablate.evaluation.protocols import rankings_by_score
from biencoder_ablate.evaluation.ranking import Scores

SAMPLE = ["data=sample", "model=tiny", "model.max_tokens=32", "training.precision=fp32"]


@pytest.fixture(scope="module")
def measured():
    return benchmark(SAMPLE, ["tiny", "bm25", "tfidf"])


def test_its_metrics_are_those_of_a_runs_baselines(measured):
    table = build_table(load_corpus(DataConfig(name="sample")))
    task = build_task(table.splits["test"])
    words = lexical_metrics(table.texts, {"test": task})
    by_model = {row["model"]: row["metrics"] for row in measured["models"]}
    for name, baseline in (("bm25", "bm25"), ("tfidf", "tfidf_cosine")):
        for key, value in by_model[name].items():
            assert value == words[baseline]["test"][key]
    assert measured["num_queries"] == len(task)
    assert by_model["tiny"]["top1"] <= 1


def test_an_encoder_is_ranked_by_its_cosine(measured):
    table = build_table(load_corpus(DataConfig(name="sample")))
    config = load_config(SAMPLE)
    source = find_model(config.model, cache_directory(config))
    h = open_encoder(source, encode_settings(config, torch.device("cpu"), "fp32"))(table.texts)
    expected = encoder_metrics(h, {"test": build_task(table.splits["test"])})["pretrained_cosine"]["test"]
    (row,) = [row for row in measured["models"] if row["model"] == "tiny"]
    for key, value in row["metrics"].items():
        assert value == pytest.approx(expected[key], abs=1e-9)


def test_the_interval_is_over_debates():
    # Two debates of two and one of one: the mean is 3/5, and it varies as whole debates do.
    pairs = []
    for split in ("train", "val"):
        pairs.append(Pair(split, "t", "d", "con", 1, f"{split} p", f"{split} c"))
    for debate, size in (("one", 2), ("two", 2), ("three", 2)):
        for number in range(size):
            pairs.append(Pair("test", "t", debate, "con", number, f"{debate} {number} p", f"{debate} {number} c"))
    task = build_task(build_table(build_corpus("made", pairs, asks_pairs=True)).splits["test"])
    is_right = np.array([1, 1, 0, 0, 1, 0])  # in candidate order: one, three, two

    def score_rows(rows):
        distance = torch.ones(len(rows), len(task.candidates))
        for place, row in enumerate(rows.tolist()):
            distance[place, row if is_right[row] else (row + 1) % len(task)] = 0
        return Scores(distance=distance)

    rankings = rankings_by_score(task, score_rows)
    first = first_ranks(rankings.official.final_rank, task.qrels.row)
    assert (first == 0).tolist() == is_right.astype(bool).tolist()
    by_debate = is_right.reshape(3, 2).mean(axis=1)
    half = stats.t.ppf(0.975, 2) * by_debate.std(ddof=1) / np.sqrt(3)
    low, high = _intervals(rankings)["top1"]
    assert (low, high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))


def test_clean_points_by_hand():
    rows = [("train", "a", "b"), ("val", "c", "d"), ("test", "A!", "new"), ("test", "e", " f"), ("test", "e", " f")]
    pairs = [Pair(split, "t", "d", "con", number, *texts) for number, (split, *texts) in enumerate(rows)]
    corpus = build_corpus("made", pairs, asks_pairs=True)
    points = clean_points(corpus, build_table(corpus).splits["test"])
    assert points == {"num_pairs": 1, "ids": ["test/t/d/con03"], "texts_sha256": fingerprint_texts(["e", " f"])}


def test_the_published_clean_points_are_the_corpus_s(arguana):
    published = json.loads((command.files("biencoder_ablate.data") / command.CLEAN_POINTS).read_text("utf-8"))
    splits = build_table(arguana).splits
    assert published["fingerprint"] == arguana.fingerprint
    for name, num_clean in (("val", 631), ("test", 550)):
        assert published["splits"][name] == clean_points(arguana, splits[name])
        assert published["splits"][name]["num_pairs"] == num_clean


def test_table_and_json_say_the_same(capsys):
    arguments = [*SAMPLE, "--model", "bm25"]
    assert command.main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert command.main(arguments) == 0
    shown = capsys.readouterr().out
    assert shown == describe(result) + "\n"
    assert f"{result['models'][0]['metrics']['top1_clean']:.3f}" in shown
    assert max(map(len, shown.splitlines())) <= 110


def test_a_model_that_is_not_there_is_named(capsys):
    assert command.main([*SAMPLE, "--model", "./nowhere"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: model.name_or_path=./nowhere: not a directory here")

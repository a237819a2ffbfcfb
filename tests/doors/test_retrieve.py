"""The best counters to an argument: their order held against plain loops, their places, and what is refused."""

import contextlib
import functools
import io
import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from support.helpers import Ended, load_sample, run_module, train
from support.reference import fold

from biencoder_ablate import retrieve as command
from biencoder_ablate.api import TrainedModel
from biencoder_ablate.config.schema import Config, cache_directory
from biencoder_ablate.data.corpus import SPLITS, limit_debates
from biencoder_ablate.encoder.pretrained import load_encoder, load_tokenizer
from biencoder_ablate.encoder.texts import EncodeSettings, encode
from biencoder_ablate.encoder.tiny import make_tiny
from biencoder_ablate.model.biencoder import Architecture, BiEncoder
from biencoder_ablate.model.saved import read_model_spec, restore_biencoder
from biencoder_ablate.retrieve import describe, distinct_texts, open_search

LINES = ["Zoos are cruel.", "", "  Buses should be free.", "ZOOS ARE CRUEL!", "Nobody reads any more.", "Ban cars."]


DEBATES = 3
"""Of each split: the runs have no more, and neither do the plain loops."""


@functools.cache
def load_corpus_of_runs():
    return limit_debates(load_sample(), DEBATES)


@dataclass(frozen=True)
class Runs:
    """Two runs that trained their encoders: one with two towers, one as the study did; and one that froze it, whose
    head does not separate and which ranks by the sum of head and similarity."""

    trained: Path
    study: Path
    frozen: Path


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    cwd, quick = tmp_path_factory.mktemp("runs_to_use"), ("model=tiny", "training.epochs=1", f"data.limit={DEBATES}")
    return Runs(
        train(cwd, *quick, "head=layernorm"),
        train(cwd, *quick, "head=gelu", "recipe=study"),
        train(cwd, *quick, "head=mlp", "training.freeze_encoder=true", "evaluation.score=sum"),
    )


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def main(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command.main(list(map(str, arguments)))
    return Ended(code, out.getvalue(), err.getvalue())


def retrieved(*arguments):
    ended = main(*arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def refused(*arguments):
    ended = main(*arguments)
    assert ended.returncode == 1 and ended.stdout == ""
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


@functools.cache
def opened_plainly(run):
    """(model, pooled output of a text) of a run, in float64, a text at a time."""
    contract = read_model_spec(run / "model")
    directory = run / "model" / "encoder" if contract.copied else make_tiny(cache_directory(Config()))
    encoder = load_encoder(directory, contract.pooling, contract.max_tokens, None)
    tokenizer = load_tokenizer(directory, contract.max_tokens)

    @functools.cache
    def pooled(text):
        ids = tokenizer(text, truncation=True, return_tensors="pt")["input_ids"]
        return encode(encoder, contract.pooling, ids, None).double()[0]

    return restore_biencoder(run / "model", contract).double(), pooled


def plainly_ranked(run, argument, texts, depth):
    """(text, distance, score or None) in final order, a pair at a time, in float64."""
    model, pooled = opened_plainly(run)
    with torch.no_grad():
        h_a, scored = pooled(argument), []
        a = model.as_points(h_a)
        for text in texts:
            h_b = pooled(text)
            b = model.as_candidates(h_b)
            logits = model.logits(h_a[None], a[None], h_b[None], b[None])[0]
            score = float(logits[1] - logits[0])
            if model.architecture.score == "sum":
                score += float(model.similarity_weight * model.similarity(a, b))
            scored.append((text, math.dist(a, b), score))
    scored.sort(key=lambda row: row[1])
    final = sorted(scored[:depth], key=lambda row: -row[2])
    return [*final, *((text, distance, None) for text, distance, _ in scored[depth:])]


@pytest.mark.parametrize("which", ["trained", "study", "frozen"])
@pytest.mark.parametrize(("rerank", "depth"), [("10", 10), ("all", 10**6), ("none", 0)])
def test_order_and_scores_against_plain_loops(rerank, depth, which, runs):
    """The argument is a test point of the runs' corpus in other letters: it is no candidate, all other texts are."""
    sample, run = load_corpus_of_runs(), getattr(runs, which)
    argument = sample.test[3].point
    texts = [text for name in SPLITS for pair in sample.split(name) for text in (pair.point, pair.counter)]
    texts.remove(argument)
    found = retrieved(run, argument.upper(), "-k", 15, f"evaluation.rerank={rerank}")
    assert found["num_candidates"] == len(texts) == DEBATES * 3 * 16 - 1, "three splits, eight pairs a debate"
    expected = plainly_ranked(run, argument.upper(), texts, depth)[:15]
    assert [result["text"] for result in found["results"]] == [text for text, _, _ in expected]
    for result, (_, distance, score) in zip(found["results"], expected, strict=True):
        assert result["distance"] == pytest.approx(distance, abs=1e-3)
        assert result["margin"] == (None if score is None else pytest.approx(score, abs=1e-4))
        none = score is None or which != "study"  # the similarity is in the score: no probability
        probability = None if none else pytest.approx(1 / (1 + math.exp(-score)), abs=1e-4)
        assert result["probability"] == probability
    assert [result["rank"] for result in found["results"]] == list(range(1, 16))


def test_the_places_are_where_the_text_is(runs):
    found = retrieved(runs.trained, "Zoos should close.", "-k", 999)
    sample = load_corpus_of_runs()
    by_id = {
        f"{pair.id}#{kind}": getattr(pair, kind)
        for name in SPLITS
        for pair in sample.split(name)
        for kind in ("point", "counter")
    }
    assert len(found["results"]) == len(by_id) == DEBATES * 3 * 16
    for result in found["results"]:
        (place,) = result["places"]
        assert by_id[place] == result["text"]


def test_among_the_answers_no_point_is_found(runs):
    everything = open_search(runs.frozen)
    answers = open_search(runs.frozen, overrides=["evaluation.candidates=answers", "evaluation.source=false"])
    places = [place for listed in answers.places for place in listed]
    assert places and all(place.endswith("#counter") for place in places)
    assert any(place.endswith("#point") for listed in everything.places for place in listed)
    assert set(answers.index.texts) < set(everything.index.texts)
    found = answers(["Zoos are cruel to animals."], k=len(answers.index))[0]
    assert found["num_candidates"] == len(found["results"]) == len(answers.index)


def test_a_table_s_points_are_candidates_where_the_run_ranks_them(runs, tmp_path):
    """The same file, ranked both ways: neither finds the other's kept index."""
    table = tmp_path / "texts.csv"
    table.write_text("point,counter\nwho asks?,it answers\n")
    answers = ["evaluation.candidates=answers", "evaluation.source=false"]
    for overrides, expected in ((answers, ["it answers"]), ([], ["it answers", "who asks?"])) * 2:
        assert sorted(open_search(runs.frozen, table, overrides=overrides).index.texts) == expected


def test_a_frozen_run_finds_in_its_corpus(runs):
    """Its encoder is found again in the cache, and so are the corpus's features."""
    sample = load_corpus_of_runs()
    found = retrieved(runs.frozen, sample.val[0].point, "evaluation.rerank=none", "-k", 3)
    assert found["num_candidates"] == DEBATES * 3 * 16 - 1
    near = retrieved(runs.frozen, sample.val[0].point + " Indeed.", "evaluation.rerank=none", "-k", 1)
    assert near["results"][0]["text"] == sample.val[0].point, "with one word more, the text itself is nearest"


def test_lines_of_a_file(runs, lines):
    """Blank lines do not count, equal texts count once, -k may ask for more than there are."""
    found = retrieved(runs.trained, "buses should be FREE", "--candidates", lines, "-k", 99)
    assert {result["text"]: result["places"] for result in found["results"]} == {
        "Zoos are cruel.": ["line 1", "line 4"],
        "Nobody reads any more.": ["line 5"],
        "Ban cars.": ["line 6"],
    }
    assert found["num_candidates"] == 3
    texts = ["Zoos are cruel.", "Nobody reads any more.", "Ban cars."]
    expected = plainly_ranked(runs.trained, "buses should be FREE", texts, 10)
    assert [result["text"] for result in found["results"]] == [text for text, _, _ in expected]


def test_from_standard_input(runs, lines, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("  An argument\nof two lines.\n"))
    assert retrieved(runs.trained, "-", "--candidates", lines)["argument"] == "An argument\nof two lines."


def test_what_a_person_reads(runs, lines):
    ended = main(runs.trained, "Zoos " * 300, "--candidates", lines, "-k", 2)
    assert ended.returncode == 0
    shown = ended.stdout.splitlines()
    assert shown[0] == "4 candidates; the head re-ranked the nearest 10"
    assert re.fullmatch(r"note: the argument has \d+ tokens; the model reads the first 128", shown[1])
    assert sum("score " in line for line in shown) == 2
    assert any(line.strip() in LINES for line in shown)


def test_distinct_texts_keep_the_first_spelling():
    found = distinct_texts([("1", "A b."), ("2", "c"), ("3", "a B"), ("4", "A b.")])
    assert list(found.items()) == [("A b.", ["1", "3", "4"]), ("c", ["2"])]
    assert fold("A b.") == fold("a B")
    others = ["What is C?", "What is C++?", "What is C#?", "पता क्या है?", "पिता क्या हैं?"]
    assert list(distinct_texts([("here", text) for text in others])) == others


def one_dimensional(**head):
    return BiEncoder(Architecture(1, None, fusion="pooled", head_options=head))


class Numbers:
    """Stands for an encoder: h of a text is the number that it says."""

    settings = EncodeSettings("mean", 8, torch.device("cpu"))

    def __call__(self, texts, advance=None):
        return torch.tensor([[float(text)] for text in texts])


def test_ties_go_to_the_nearer_then_to_the_earlier():
    """A head that says 0 to everything: all scores tie, so stage 1 decides; equal distances keep the order."""
    model = one_dimensional(activation="relu")
    with torch.no_grad():
        model.head.linear2.weight.zero_()
        model.head.linear2.bias.fill_(-1.0)
    corpus = ["4", "1", "-1", "1", "-5"]  # their mean is whole, so that distances are exact
    found = TrainedModel("zeros", Numbers(), model, "all").retrieve("0", corpus)
    assert found.candidate.tolist() == [[1, 2, 3, 0, 4]]
    assert found.distance.tolist() == [[1, 1, 1, 4, 5]]
    assert found.score.tolist() == [[0.0] * 5] and found.dead.all()
    unscored = TrainedModel("zeros", Numbers(), model, "none").retrieve("0", corpus)
    assert unscored.candidate.tolist() == found.candidate.tolist()
    assert np.isnan(unscored.score).all() and not unscored.dead.any()


def test_a_text_never_answers_itself_and_missing_answers_are_minus_one():
    model = TrainedModel("numbers", Numbers(), one_dimensional(), "none")
    found = model.retrieve(["2", "9"], ["2", "3", " 2."], k=3)
    assert found.candidate.tolist() == [[1, -1, -1], [1, 0, 2]]
    assert model.retrieve([], ["2"], k=3).candidate.shape == (0, 3)
    near = model.retrieve(["2"], ["-2", "2.5", "25", "٢"], k=4)  # not the text itself: other signs, points and digits
    assert sorted(near.candidate[0].tolist()) == [0, 1, 2, 3]


def test_a_dead_pair_is_no_probability_to_a_person():
    scored = {"rank": 1, "text": "A text.", "places": ["line 1"], "distance": 1.0, "margin": 0.0, "probability": 0.5}
    found = {"num_candidates": 2, "rerank": 10, "num_tokens": 3, "num_tokens_read": 3}
    dead, alive = (describe(found | {"results": [scored | {"dead": dead}]}) for dead in (True, False))
    assert "no score" in dead and "P(counter)" not in dead
    assert "P(counter) 0.500" in alive


def test_a_diverged_model_finds_nothing():
    model = one_dimensional()
    with pytest.raises(ValueError, match="finite"):
        TrainedModel("diverged", Numbers(), model).retrieve("0", ["1", "nan"])


@pytest.mark.parametrize(
    ("argument", "options", "said"),
    [
        ("  ", [], "the argument is empty"),
        ("x", ["-k", "0"], "-k 0"),
        ("x", ["-k", "many"], "many"),
        ("x", ["--candidates", "nowhere.txt"], "nowhere.txt"),
        ("x", ["head=none"], "measured, not trained anew"),
        ("x", ["evaluation.rerank=few"], "evaluation.rerank=few"),
    ],
)
def test_mistakes_end_in_one_line(argument, options, said, runs):
    assert said in refused(runs.trained, argument, *options)


def test_files_without_a_candidate_are_named(runs, tmp_path):
    empty, same, latin = tmp_path / "empty.txt", tmp_path / "same.txt", tmp_path / "latin.txt"
    empty.write_text("\n \n")
    same.write_text("The argument.\nthe ARGUMENT\n")
    latin.write_bytes("Caf\xe9 culture.\n".encode("latin-1"))
    assert "empty.txt: no texts" in refused(runs.trained, "x", "--candidates", empty)
    assert "same.txt: no candidate" in refused(runs.trained, "The argument", "--candidates", same)
    assert "latin.txt: not UTF-8" in refused(runs.trained, "x", "--candidates", latin)


def test_a_person_s_terminal_is_not_steered(runs, tmp_path):
    (tmp_path / "c.txt").write_text("Zoos\x1b]0;title\x07 are cruel.\n")
    ended = main(runs.trained, "x", "--candidates", tmp_path / "c.txt")
    assert "Zoos\\x1b]0;title\\x07 are cruel." in ended.stdout and "\x1b" not in ended.stdout


def test_a_damaged_index_is_made_anew(runs, lines, capsys):
    before = retrieved(runs.trained, "x", "--candidates", lines)
    for path in (runs.trained / "index").rglob("index.json"):
        path.write_text(path.read_text().replace("Zoos", "Cars"))
    ended = main(runs.trained, "x", "--candidates", lines, "--json")
    assert json.loads(ended.stdout) == before and "is damaged" in ended.stderr


@pytest.mark.slow
def test_as_a_process(runs, lines, tmp_path):
    arguments = [runs.trained, "An argument", "--candidates", lines]
    ended = run_module("biencoder_ablate.retrieve", arguments, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "1. score " in ended.stdout

"""A finished run measured again: its own figures to the bit, other depths and corpora, baselines, what is refused."""

import contextlib
import csv
import hashlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from omegaconf import OmegaConf
from support import reference
from support.helpers import Ended, load_sample, make_pairs, run_here, run_module, train, write_pairs_csv
from support.reference import published_and_used

from biencoder_ablate import evaluate as command
from biencoder_ablate.config.schema import Config, cache_directory
from biencoder_ablate.data.corpus import SPLITS, Pair
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.encoder.tiny import make_tiny
from biencoder_ablate.evaluate import describe, metrics_table
from biencoder_ablate.evaluation.baselines import lexical_metrics
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.evaluation.lexical import bm25_similarities, count_words, tfidf_similarities

LIMITED = "data.limit: only the first 6 debates of each split, a trial"
"""What is noted of the runs here: they have all of the sample's val and test, and a third of its train split."""


@dataclass(frozen=True)
class Runs:
    """Finished runs on the sample debates, and the directory with a BERT that `from_files` froze. Left as they are.

    The heads have no ReLU after linear2: it dies within an epoch of the sample, and all that is scored then ties.
    """

    trained: Path
    frozen: Path
    untrained: Path
    from_files: Path
    encoder: Path


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("runs")
    encoder = shutil.copytree(make_tiny(cache_directory(Config())), cwd / "bert")
    quick = ("model=tiny", "data.limit=6", "model.max_tokens=64", "head=layernorm", "training.epochs=1")
    frozen = (*quick, "training.freeze_encoder=true")
    return Runs(
        train(cwd, *quick),
        train(cwd, *frozen, "evaluation.source=true", "evaluation.score=sum"),
        train(
            cwd, *quick[:4], "recipe=study", "training.epochs=0", "model.retrieval_dim=null", "evaluation.rerank=none"
        ),
        train(cwd, *frozen, "recipe=study", f"model.name_or_path={encoder}"),
        encoder,
    )


@pytest.fixture
def run(runs, tmp_path):
    """A copy of the run whose encoder was trained, to write into."""
    return shutil.copytree(runs.trained, tmp_path / "run")


def evaluated(path, *arguments):
    """The JSON that the command prints for the run in `path`."""
    ended = main([str(path), *arguments, "--json"])
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def main(arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command.main(arguments)
    return Ended(code, out.getvalue(), err.getvalue())


def refused(*arguments):
    """The one line that the command prints when it refuses."""
    ended = main(list(map(str, arguments)))
    assert ended.returncode == 1 and "top-1" not in ended.stdout
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


# The run's own figures.


def test_a_trained_model_comes_back_with_its_own_figures(run):
    """Same weights, same texts, same path: equal to the last digit, and nothing but evaluations/ is new."""
    before = contents(run)
    report = evaluated(run)
    result = json.loads((run / "result.json").read_text())
    assert report["measured"] == {name: result[name] for name in ("val", "test")}
    assert report["own"] == {"rerank": 10, "candidates": "all", **report["measured"]}
    after = contents(run)
    assert {name: after[name] for name in before} == before
    rankings, new = sorted(after.keys() - before.keys(), key=len, reverse=True)
    assert new.startswith("evaluations/sample_rerank10_")
    assert rankings == new.replace(".json", ".rankings.jsonl")
    assert (run / rankings).read_bytes() == (run / "rankings.jsonl").read_bytes()
    assert json.loads((run / new).read_text()) == report
    assert report["notes"] == [LIMITED] and report["overrides"] == []


def test_a_finished_run_is_measured_among_the_answers_and_that_is_named(run):
    """The sample's own figures are among answers and points, with the task epc beside them."""
    report = evaluated(run, "evaluation.candidates=answers")
    for split in ("val", "test"):
        epc = report["own"][split]["tasks"]["epc"]
        assert {key: report["measured"][split][key] for key in epc} == epc
    assert report["evaluation"]["candidates"] == "answers" and report["own"]["candidates"] == "all"
    note = "ranked among the answers; the run's own figures are among answers and points"
    assert report["notes"] == [LIMITED, note]
    shown = describe(report)
    assert "this run, rerank=10, all" in shown and "measured, rerank=10, answers" in shown


def test_a_run_from_before_the_setting_is_measured_as_it_was(run, tmp_path):
    """Neither its config.yaml nor its manifest has the key, and a corpus's usual candidates may be others now."""
    copy = shutil.copytree(run, tmp_path / "old")
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["determined_by"]["evaluation"]["candidates"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    config = (copy / ".hydra" / "config.yaml").read_text()
    assert "candidates: null" in config
    (copy / ".hydra" / "config.yaml").write_text(config.replace("  candidates: null\n", ""))
    report = evaluated(copy)
    assert report["measured"] == {name: report["own"][name] for name in ("val", "test")}
    assert report["evaluation"]["candidates"] == report["own"]["candidates"] == "all"


@pytest.mark.parametrize("which", ["frozen", "from_files", "untrained"])
def test_every_kind_of_run_comes_back_with_its_own_figures(which, runs, tmp_path):
    """A frozen encoder of ours, one found again in its files, and a run that trained nothing."""
    copy = shutil.copytree(getattr(runs, which), tmp_path / which)
    report = evaluated(copy, "evaluation.source=false")
    assert report["measured"] == {name: report["own"][name] for name in ("val", "test")}


def test_source_figures_are_those_of_training(runs, tmp_path):
    copy = shutil.copytree(runs.frozen, tmp_path / "frozen")
    selected = json.loads((copy / "result.json").read_text())["selected"]
    report = evaluated(copy, "evaluation.source=true")
    for split in ("val", "test"):
        assert report["measured"][split]["source/top1"] == selected[f"source/{split}/top1"]


# Measured another way.


def test_all_is_the_deepest_depth(run):
    """In the sample's splits of 48 points no set has more than 95 candidates."""
    everything, deep, ten = (evaluated(run, f"evaluation.rerank={k}")["measured"] for k in ("all", 1000, 10))
    assert everything == deep
    assert everything != ten
    assert len(list((run / "evaluations").glob("*_????????.json"))) == 3


def test_fewer_tokens_are_read_anew(run):
    """What is kept in the cache of one length is not taken for another's."""
    whole, cut = evaluated(run), evaluated(run, "model.max_tokens=12")
    assert cut["measured"] != whole["measured"] == evaluated(run)["measured"]


def test_none_is_distance_alone(run):
    measured = evaluated(run, "evaluation.rerank=none")["measured"]["test"]
    assert measured["top1"] == measured["recall@1"]
    assert measured["dead_pairs"] == 0


def test_a_part_of_the_corpus(run):
    report = evaluated(run, "data.limit=2")
    assert (report["measured"]["test"]["num_points"], report["own"]["test"]["num_points"]) == (16, 48)
    assert any("own figures" in note for note in report["notes"])


@pytest.fixture
def table(tmp_path):
    """Another corpus: two of its val and three of its test points were in the sample's train or val."""
    sample, pairs = load_sample(), make_pairs(num_debates=2, num_points=1)
    known = [
        Pair("test", "t", "x", "pro", 1, sample.train[0].point.upper(), "New."),
        Pair("test", "t", "x", "pro", 2, "Newer.", sample.val[0].counter),
        Pair("test", "t", "x", "con", 1, "Newest.", sample.train[1].point),
        Pair("val", "t", "y", "pro", 1, sample.train[2].point, "Other."),
        Pair("val", "t", "y", "con", 1, "Others.", sample.val[1].point),
    ]
    return write_pairs_csv(tmp_path / "other.csv", [*pairs, *known])


def test_another_corpus_and_what_the_model_has_seen_of_it(run, table):
    """Clean figures leave out what the run was trained on; for val its own val does not count as that."""
    report = evaluated(run, "data=pairs", f"data.path={table}")
    sizes = {
        name: (report["measured"][name]["num_points"], report["measured"][name]["num_points_clean"])
        for name in ("val", "test")
    }
    assert sizes == {"val": (6, 5), "test": (7, 4)}
    assert report["data"]["name"] == "pairs"
    # Its reader ranks answers only, which the run did not.
    assert [note.partition(";")[0] for note in report["notes"]] == [
        "not the corpus, or not the part of it, that the run's own figures are of",
        "ranked among the answers",
    ]


def test_without_the_runs_corpus_the_reader_is_told(run, table, tmp_path):
    """The run knows a corpus that has gone since: figures are there, and a note says what clean lacks."""
    path = run / ".hydra" / "config.yaml"
    config = OmegaConf.load(path)
    config.data = {"name": "pairs", "path": str(tmp_path / "gone.csv")}
    OmegaConf.save(config, path)
    report = evaluated(run, "data=pairs", f"data.path={table}")
    assert any("gone.csv" in note and "trained on" in note for note in report["notes"])
    assert report["measured"]["test"]["num_points_clean"] == 7


# Baselines.

EVERYTHING = 10**6
LEXICAL = {"tfidf_cosine": tfidf_similarities, "bm25": bm25_similarities}


@settings(max_examples=20, deadline=None)
@given(published_and_used())
def test_lexical_baselines_against_the_reference(both):
    """As a head that scores everything where all are equally far: candidate order, then the similarity."""
    published, used = both
    table = build_table(used)
    counts, number = count_words(table.texts), {text: row for row, text in enumerate(table.texts)}
    found = lexical_metrics(table.texts, {name: build_task(split) for name, split in table.splits.items()})
    nowhere, earlier = reference.Embeddings(*[dict.fromkeys(table.texts, (0,))] * 2), []
    for name in SPLITS:
        pairs = used.split(name)
        own = sorted({number[text] for pair in pairs for text in (pair.point, pair.counter)})
        for baseline, similarities in LEXICAL.items():
            similarity = similarities(counts, range(len(table.texts)), range(len(table.texts)), own)

            def score(point, candidate, similarity=similarity):
                return 0.0, similarity[number[point], number[candidate]]

            figures = found[baseline][name]
            official = reference.rank_official(pairs, nowhere, score, EVERYTHING)
            clean = list(reference.rank_clean(pairs, earlier, nowhere, score, EVERYTHING).values())
            assert figures["top1"] == pytest.approx(reference.top1(official))
            assert figures["mrr"] == pytest.approx(reference.mrr(official))
            assert figures["recall@1"] == figures["top1"], "there is one stage only"
            assert figures["num_points_clean"] == len(clean)
            if clean:
                assert figures["mrr_clean"] == pytest.approx(reference.mrr(clean))
            for task in reference.TASKS:
                ranked = reference.rank_task(pairs, nowhere, score, EVERYTHING, task)
                assert figures["tasks"][task]["mrr"] == pytest.approx(reference.mrr(ranked))
        earlier += published.split(name)


def test_baselines_of_a_trained_run(run, runs):
    """The pretrained encoder is the one that the run started from: what epochs=0 without linear1 measures."""
    report = evaluated(run, "--baselines")
    untrained = json.loads((runs.untrained / "result.json").read_text())
    found = report["baselines"]
    assert set(found) == {"tfidf_cosine", "bm25", "pretrained_euclidean", "pretrained_cosine"}
    assert found["pretrained_cosine"] != found["pretrained_euclidean"]
    for split in ("val", "test"):
        assert found["pretrained_euclidean"][split] == untrained[split]
        assert found["bm25"][split]["num_points"] == 48


def test_baselines_of_a_frozen_run_use_its_features(runs, tmp_path):
    copy = shutil.copytree(runs.from_files, tmp_path / "from_files")
    report = evaluated(copy, "--baselines")
    assert set(report["baselines"]) == {"tfidf_cosine", "bm25", "pretrained_euclidean", "pretrained_cosine"}
    assert report["baselines"]["pretrained_cosine"]["test"]["num_points"] == 48


def test_baselines_without_the_first_encoder_say_so(run, runs, tmp_path):
    """The files that a trained encoder began with have changed: the run's own model is there, that one is not."""
    changed = shutil.copytree(runs.encoder, tmp_path / "changed")
    flip_last_byte(changed / "model.safetensors")
    report = evaluated(run, f"model.name_or_path={changed}", "--baselines")
    assert set(report["baselines"]) == {"tfidf_cosine", "bm25"}
    assert any("pretrained" in note and "not the encoder" in note for note in report["notes"])


def test_the_table_shows_every_row(run):
    ended = main([str(run), "--baselines", "evaluation.source=true"])
    assert ended.returncode == 0
    for row in (
        "this run, rerank=10",
        "measured, rerank=10",
        "TF-IDF cosine",
        "BM25",
        "pretrained, cosine",
    ):
        lines = [line for line in ended.stdout.splitlines() if line.startswith(row)]
        assert len(lines) == 4 and max(map(len, lines)) <= 80, "two splits: figures, and those of the eight sets"
    assert "sdoc" in ended.stdout and "source/val/top1" in ended.stdout and "evaluations/" in ended.stdout


def test_a_table_without_clean_points_has_no_figure_for_them():
    """Nor for what a run of an earlier version did not measure: here top-1 of stage 1."""
    figures = {
        "num_points": 3,
        "num_points_clean": 0,
        "top1": 0.5,
        "top1_clean": None,
        "mrr": 0.25,
        "ndcg@10": 0.125,
        "recall@10": 1.0,
        "tasks": {task: {"top1": 0.75} for task in reference.TASKS},
    }
    table = metrics_table("val", [("a row", figures)]).splitlines()
    assert table[0] == "val: 3 points, 0 of them clean"
    assert table[2].split() == ["a", "row", "0.5000", "–", "–", "0.2500", "0.1250", "1.0000"]
    assert table[-1].split() == ["a", "row", *["0.750"] * 8]


# What is refused.


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("head=none", "measured, not trained anew"),
        ("model=minilm", "measured, not trained anew"),
        ("experiment=arguana", "measured, not trained anew"),
        ("training.epochs=3", "measured, not trained anew"),
        ("seed=1", "measured, not trained anew"),
        ("~data.path", "data.path"),
        ("evaluation.rerank=some", "evaluation.rerank=some"),
        ("evaluation.rerank=0", "evaluation.rerank=0"),
        ("evaluation.renk=3", "did you mean evaluation.rerank"),
        ("data.path=x.csv", "data.path=x.csv"),
        ("evaluation.rerank=1,2", "several values"),
        ("training.device=cuda:99", "training.device=cuda:99"),
        ("model.max_tokens=513", "model.max_tokens"),
        ("--frob", "--frob"),
    ],
)
def test_an_override_that_makes_no_sense(override, said, runs):
    assert said in refused(runs.trained, override)
    assert not (runs.trained / "evaluations").exists()


def test_what_is_no_finished_run(run, tmp_path):
    assert "no result.json" in refused(tmp_path)
    assert "no result.json" in refused(tmp_path / "nowhere")
    (run / "result.json").write_text(json.dumps({"status": "failed"}))
    assert "has not finished (status failed)" in refused(run)


def test_a_run_without_its_model(run):
    shutil.rmtree(run / "model")
    assert "training.save_model=true" in refused(run)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("biencoder.json", "cannot be read as JSON"),
        ("biencoder.safetensors", "cannot be loaded"),
        ("encoder/model.safetensors", "weights cannot be read"),
        ("encoder/tokenizer.json", "tokenizer"),
    ],
)
def test_a_damaged_model_is_named(name, said, run):
    path = run / "model" / name
    path.write_bytes(path.read_bytes()[:-40])
    message = refused(run, "model.max_tokens=100")  # nothing of this length is in the cache
    assert said in message and str(path.parent) in message


def test_a_contract_of_another_shape_is_named(run):
    path = run / "model" / "biencoder.json"
    contract = json.loads(path.read_text())
    path.write_text(json.dumps(contract | {"architecture": contract["architecture"] | {"fusion": "pooled"}}))
    assert "biencoder.safetensors" in refused(run)
    del contract["pooling"]
    path.write_text(json.dumps(contract))
    assert "pooling" in refused(run)


def test_a_run_that_cannot_be_written_is_refused_before_the_work(run, monkeypatch):
    monkeypatch.setattr(command.os, "access", lambda path, mode: False)  # root may write anywhere
    assert "cannot be written" in refused(run)


def test_a_frozen_encoder_is_found_again_or_not_trusted(runs, tmp_path):
    """Moved: give its new place. Changed by a byte: refused, with both fingerprints."""
    copy = shutil.copytree(runs.from_files, tmp_path / "from_files")
    moved = shutil.copytree(runs.encoder, tmp_path / "moved")
    config = copy / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace(str(runs.encoder), str(tmp_path / "gone")))
    assert "gone" in refused(copy)
    report = evaluated(copy, f"model.name_or_path={moved}")
    assert report["measured"] == {name: report["own"][name] for name in ("val", "test")}
    flip_last_byte(moved / "model.safetensors")
    assert "not the encoder that the run was trained with" in refused(copy, f"model.name_or_path={moved}")


def test_a_frozen_tiny_of_another_version_is_not_trusted(runs, tmp_path):
    copy = shutil.copytree(runs.frozen, tmp_path / "frozen")
    path = copy / "model" / "biencoder.json"
    contract = json.loads(path.read_text())
    contract["encoder_fingerprint"] = "0" * 64
    path.write_text(json.dumps(contract))
    assert "not the encoder that the run was trained with" in refused(copy)


def test_as_a_process(run, tmp_path):
    ended = run_module("biencoder_ablate.evaluate", [run, "evaluation.rerank=none"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "measured, rerank=none" in ended.stdout


def test_a_sweep_evaluated_on_another_corpus_gets_a_report_of_its_own(tmp_path):
    """Every run once, and the table's means are those of the ranks that were kept."""
    sizes = ["recipe=study", "model=tiny", "model.max_tokens=16", "data.limit=4", "training.epochs=1"]
    swept = ["-m", "head=none,layernorm", "seed=0,1", "training.freeze_encoder=true", "sweep_name=s"]
    assert run_here([*swept, *sizes], tmp_path).returncode == 0
    rows = "".join(f"is thing {i} good,since {i} is so\n" for i in range(12))
    (tmp_path / "own.csv").write_text(f"query,positive\n{rows}")
    command = ["evaluate", "s", "data=pairs", "data.path=own.csv"]
    ended = run_here(command, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "4/4" in ended.stdout
    again = run_here(command, tmp_path)
    assert again.returncode == 0 and len(list(tmp_path.glob("logs/runs/*/evaluations/*"))) == 8

    ended = run_here(["report", "s", "--evaluations", "-o", "out"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "of 4 of 4 finished runs" in ended.stdout
    kept = {}
    for path in tmp_path.glob("logs/runs/*/evaluations/*.jsonl"):
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        ranks = [record["clean_rank"] for record in records if record["split"] == "test"]
        kept[path.parents[1].name] = sum(rank == 1 for rank in ranks) / len(ranks)
    rows_of_runs = list(csv.DictReader((tmp_path / "out" / "runs.csv").open(encoding="utf-8")))
    assert {row["run"]: float(row["test top-1"]) for row in rows_of_runs} == pytest.approx(kept)

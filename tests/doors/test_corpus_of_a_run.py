"""A finished run and the corpus it is measured and searched over: the one it was trained on, or another, said so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.helpers import load_sample, only_error, run_here, train, write_pairs_csv

from biencoder_ablate.api import open_run
from biencoder_ablate.config.kept import escape, fill_in
from biencoder_ablate.data.corpus import Pair
from biencoder_ablate.report.read import collect


def every_pair() -> list[Pair]:
    sample = load_sample()
    return [*sample.train, *sample.val, *sample.test]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A directory with a table, given by an environment variable, and a run on it."""
    cwd = tmp_path_factory.mktemp("corpus_of_a_run")
    write_pairs_csv(cwd / "debates.csv", [pair for pair in every_pair() if pair.number < 3])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEBATES", "debates.csv")
        path = "data.path=${oc.env:DEBATES}"
        train(cwd, "model=tiny", "data=pairs", path, "training.epochs=1", "training.freeze_encoder=true")
    return cwd


@pytest.fixture
def cwd(trained, tmp_path) -> Path:
    """A copy of it, as it may have been moved."""
    return shutil.copytree(trained, tmp_path / "moved")


def evaluated(cwd: Path, run: Path, *overrides: str) -> list[str]:
    ended = run_here(["evaluate", str(run), *overrides, "--json"], cwd)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)["notes"]


def searched(cwd: Path, run: Path, *overrides: str) -> str:
    ended = run_here(["retrieve", str(run), "Zoos should be closed.", *overrides], cwd)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def only_run(cwd: Path) -> Path:
    (run,) = (cwd / "logs" / "runs").glob("[!.]*")
    return run


def test_what_the_environment_said_is_kept_as_it_was_used(cwd):
    """The variable is set no more, and the run is measured, searched and exported all the same."""
    run = only_run(cwd)
    assert "path: debates.csv" in (run / ".hydra" / "config.yaml").read_text("utf-8")
    assert evaluated(cwd, run) == [] and searched(cwd, run) == ""
    assert run_here(["export", str(run), str(cwd / "exported")], cwd).returncode == 0


def test_a_relative_path_is_found_from_elsewhere(cwd, tmp_path):
    assert evaluated(tmp_path, only_run(cwd)) == [] and searched(tmp_path, only_run(cwd)) == ""


def test_another_file_of_that_name_gives_way_to_the_run_s_own(cwd, tmp_path):
    write_pairs_csv(tmp_path / "debates.csv", every_pair())
    assert evaluated(tmp_path, only_run(cwd)) == [] and searched(tmp_path, only_run(cwd)) == ""


def test_a_changed_corpus_is_said(cwd):
    write_pairs_csv(cwd / "debates.csv", every_pair())
    said = "debates.csv is no longer the corpus that the run was trained on"
    notes = evaluated(cwd, only_run(cwd))
    assert said in notes[0] and "clean figures leave out what the run's corpus holds now" in notes[1]
    errors = searched(cwd, only_run(cwd))
    assert errors.startswith("note: ") and said in errors and errors.count("\n") == 1


def test_a_corpus_that_was_asked_for_is_said_to_be_another(cwd):
    said = "not the corpus, or not the part of it"
    assert said in evaluated(cwd, only_run(cwd), "data=sample")[0]
    assert said in searched(cwd, only_run(cwd), "data.limit=2")


def test_a_stranger_s_config_asks_this_machine_for_nothing(cwd, monkeypatch, tmp_path):
    """The text of the resolver is what is tried, said and exported; the variable's value is nowhere."""
    monkeypatch.setenv("TOKEN", "s3cret")
    run = only_run(cwd)
    config = run / ".hydra" / "config.yaml"
    text = config.read_text("utf-8").replace("path: debates.csv", "path: ./${oc.env:TOKEN}/${seed}.csv")
    config.write_text(text, "utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for command in (["evaluate", str(run)], ["retrieve", str(run), "Zoos"]):
        error = only_error(run_here(command, elsewhere), elsewhere)
        assert "${oc.env:TOKEN}/${seed}.csv" in error and "s3cret" not in error
    assert run_here(["export", str(run), str(cwd / "exported")], cwd).returncode == 0
    exported = (cwd / "exported" / "run" / ".hydra" / "config.yaml").read_text("utf-8")
    assert "s3cret" not in exported and open_run(cwd / "exported", []).trained.data.path == "${seed}.csv"
    read = collect([cwd / "logs"])
    assert "s3cret" not in repr(read) and "${oc.env:TOKEN}" in repr(read)
    assert searched(cwd, run, f"data.path={cwd / 'debates.csv'}") == ""


RESOLVERS = ["${oc.env:TOKEN}", "${oc.env:TOKEN,x}", "${oc.decode:'1'}", "$${seed}{oc.env:TOKEN}"]


@pytest.mark.parametrize("text", [*RESOLVERS, "${ oc.env : TOKEN }", "${${name}:TOKEN}", "${seed"])
def test_only_other_keys_are_filled_in(text, monkeypatch):
    monkeypatch.setenv("TOKEN", "s3cret")
    kept = {"seed": 3, "name": "oc.env", "text": text, "copy": "${text}", "list": [text], "path": "a${seed}/${list[0]}"}
    filled = fill_in(Path("config.yaml"), kept)
    assert filled["text"] == filled["copy"] == filled["list"][0] == text and filled["path"] == f"a3/{text}"


def test_an_escaped_text_is_read_as_it_stands():
    texts = ["${seed}", "\\${seed}", "\\\\${seed}", "a\\b", "${oc.env:HOME}", "$", "{}"]
    assert fill_in(Path("config.yaml"), {"seed": 1, "texts": escape(texts)})["texts"] == texts

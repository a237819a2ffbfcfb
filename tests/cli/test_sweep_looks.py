"""A sweep with looks: which runs each look adds, what is refused, and one from its first run to its verdict."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.helpers import only_error, run_here

from biencoder_ablate.cli.looks import configuration_of, going_on, rounds, with_seeds
from biencoder_ablate.config.schema import ConfigError
from biencoder_ablate.decide import main as decide
from biencoder_ablate.runs.status import SweepDirectory

SMALL = ["-m", "model=tiny", "training.freeze_encoder=true", "training.epochs=1", "model.max_tokens=16", "data.limit=2"]


def jobs_of(heads, seeds):
    return [[f"head={head}", f"seed={seed}"] for head in heads for seed in seeds]


def test_without_a_seed_a_sweep_has_the_seeds_up_to_its_last_look():
    assert with_seeds([["head=a"], ["head=b"]], [2, 3], False) == jobs_of("ab", [0, 1, 2])
    assert with_seeds(jobs_of("ab", [7, 8]), [2, 3], False) == jobs_of("ab", [0, 1, 2]), "those of a preset"


def test_of_more_seeds_than_the_last_look_the_lowest_count():
    assert with_seeds(jobs_of("ab", [9, 5, 7, 3]), [2, 3], True) == jobs_of("ab", [5, 7, 3])


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        (jobs_of("ab", [0, 1]), "seed=0,1: 2 seeds, and the last look is at 3; leave seed out"),
        (jobs_of("ab", [4]), "seed=4: 1 seed, and the last look is at 3"),
        (jobs_of("a", [0, 1, 2]), "looks: there is one configuration, and nothing to compare"),
        ([["head=a", "data.fold=0"], ["head=a", "data.fold=1"]], "looks: there is one configuration"),
        ([["head=a", "seed=1.5"], ["head=b", "seed=1.5"]], "seed=1.5: with looks, must be an integer"),
    ],
)
def test_seeds_that_contradict_the_looks_are_refused(jobs, said):
    with pytest.raises(ConfigError) as error:
        with_seeds(jobs, [2, 3], any(item.startswith("seed=") for item in jobs[0]))
    assert str(error.value).startswith(said)


def test_each_look_adds_the_seeds_after_those_of_the_look_before():
    jobs = jobs_of("ab", [4, 0, 2])
    assert rounds(jobs, [1, 3]) == [[1, 4], [0, 2, 3, 5]]


def test_configurations_of_open_runs_go_on_with_all_their_folds():
    jobs = [[f"head={head}", "seed=0", f"data.fold={fold}"] for head in "ab" for fold in (0, 1)]
    assert going_on(jobs, ["a0", "a1", "b0", "b1"], {"b1", "another"}) == {("head=b",)}
    assert configuration_of(jobs[3]) == ("head=b",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("looks")


def sweep(folder: Path, *overrides: str):
    return run_here([*SMALL, f"cache_dir={folder}/cache", "head=none,layernorm", *overrides], cwd=folder)


def test_a_sweep_looks_goes_on_and_ends_with_its_verdict_and_again_runs_nothing(folder, capsys, monkeypatch):
    typed = ["looks=[2,3]", "margin=0.01", "sweep_name=s"]
    first = sweep(folder, *typed)
    assert first.returncode == 0, first.stderr
    said = looked(first.stdout)
    assert [line for line in said if line.startswith("look at")] == [
        "look at 2 of 2, 3 seeds",
        "look at 3 of 2, 3 seeds",
    ]
    assert said[-1] == "not decided, and no look is left: none − layernorm"
    directory = SweepDirectory(folder / "logs" / "sweeps" / "s")
    written = {run.name: run.directory.result.stat().st_mtime_ns for run in directory.statuses()}
    assert len(written) == 6
    kept = directory.load()
    assert (kept["looks"], kept["margin"], kept["metric"]) == ([2, 3], 0.01, "top1")

    again = sweep(folder, *typed)
    # How many runs show that a part is dead goes by all that there are.
    assert [as_at_its_look(line) for line in looked(again.stdout)] == [as_at_its_look(line) for line in said]
    assert {run.name: run.directory.result.stat().st_mtime_ns for run in directory.statuses()} == written

    # decide takes the looks from the sweep, and has no further command after the last.
    monkeypatch.chdir(folder)
    capsys.readouterr()
    assert decide(["s", "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["next"] == {"seeds": None, "command": None}
    looks = document["studies"][0]["looks"]
    assert looks == {"declared": [2, 3], "undeclared": [], "num_undeclared": 0, "reached": 3}

    # A plan goes by these runs, and by none with other settings.
    planned = sweep(folder, "seed=0,1,2,3", "plan=true").stdout
    assert "going by 6 finished runs, 2 configurations, 3 seeds here" in planned
    assert "a pilot would tell: seed=0,1,2" in sweep(folder, "seed=0,1", "training.epochs=2", "plan=true").stdout

    # What was declared stays.
    assert "looks=[2,4]: sweep s was started with looks=[2,3]" in sweep(folder, *typed, "looks=[2,4]").stderr
    for options, problem in (
        (["--looks", "2,4"], "--looks 2,4: sweep s declared 2,3 before it ran; looks are declared once"),
        (["--metric", "mrr"], "--metric mrr: sweep s declared metric=top1 with its looks; leave it out"),
    ):
        assert decide(["s", *options]) == 1
        assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"looks": [8, 20]}, "looks=[8,20]: sweep s was started with looks=[8,12], and looks are declared once"),
        ({"metric": "mrr"}, "metric=mrr: sweep s was started with metric=top1, and a metric is declared once"),
        ({"margin": 0.02}, "margin=0.02: sweep s was started with margin=0.01, and a margin is declared once"),
    ],
)
def test_what_was_declared_stays_and_another_declaration_is_refused(tmp_path, changed, said):
    directory = SweepDirectory(tmp_path / "s")
    declared = {"margin": 0.01, "looks": [8, 12], "metric": "top1"}
    directory.write([], [], [], **declared)
    directory.write([], [], [])
    with pytest.raises(ValueError, match=re.escape(said)):
        directory.write([], [], [], **{**declared, **changed})
    assert {key: directory.load()[key] for key in declared} == declared


def as_at_its_look(line):
    return re.sub(r"in any of the \d runs", "in any of the runs", line)


def looked(text: str) -> list[str]:
    """What a sweep says of its looks."""
    lines = text.splitlines()
    words = ("look at", "none − layernorm", "goes on", "not decided", "decided")
    return [line for line in lines if line.startswith(words)]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["looks=2,3"], "looks=2: must be null, or rising numbers of seeds"),
        (["looks=[3,2]"], "looks=[3, 2]: must be null, or rising numbers of seeds"),
        (["looks=[1,2]"], "looks=[1, 2]: must be null, or rising numbers of seeds"),
        (["metric=mrr"], "metric=mrr: is what decides at declared looks; add looks="),
        (["looks=[2,3]", "metric=map"], "metric=map: must be null (top1), top1, mrr"),
    ],
)
def test_what_is_no_declaration_is_one_line(tmp_path, overrides, said):
    assert only_error(sweep(tmp_path, *overrides), tmp_path).startswith(said)


def test_a_single_run_has_no_looks(tmp_path):
    ended = run_here(["model=tiny", "looks=[2,3]"], cwd=tmp_path)
    assert only_error(ended, tmp_path).startswith("looks=[2,3]: is for a sweep")

"""Sweepers other than the plain one: each trial is a run like any other, and the sweeper is given its figure."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.helpers import only_error, run_here

from biencoder_ablate.runs.status import SweepDirectory, objective

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra optuna")

pytestmark = pytest.mark.filterwarnings("ignore:The ``declarative_base")  # of Optuna's
SMALL = ("model=tiny", "model.max_tokens=32", "data.limit=4")
SEARCH = ("experiment=search", *SMALL, "training.epochs=1", "hydra.sweeper.n_trials=3", "head=none")
SOME_DIVERGE = ("training.head_learning_rate=choice(0.001,1e30)", "hydra.sweeper.n_trials=4", "training.epochs=2")


def trials(folder: Path):
    return SweepDirectory(folder / "logs" / "sweeps" / "search").statuses()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def searched(folder):
    ended = run_here(SEARCH, folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended


def test_each_trial_is_a_run_with_its_name_and_a_row_of_the_table(searched, folder):
    runs = trials(folder)
    assert [run.status for run in runs] == ["finished"] * 3
    assert len({run.name for run in runs}) == 3
    for run in runs:
        keys = {override.split("=")[0] for override in run.overrides}
        assert {"neg_ratio", "training.head_learning_rate"} <= keys
        assert f"neg{float(run.overrides[0].split('=')[1]):g}_seed0" in run.name
    table = searched.stdout.partition("\nrun  ")[2].partition("\n\n")[0]
    assert len(re.findall(r"^neg_ratio=", table, re.MULTILINE)) == 3
    assert "Error executing job" not in searched.stderr


def test_the_sweeper_is_told_the_figure_and_maximises_it(searched, folder):
    best = max(objective(run.result) for run in trials(folder))
    kept = (folder / "logs" / "sweeps" / "search" / "optimization_results.yaml").read_text()
    assert f"best_value: {best}" in kept
    assert f"best by clean top-1 on val: {best:.4f}, neg_ratio=" in searched.stdout


def test_the_same_command_again_trains_nothing_and_one_trial_more_trains_one(searched, folder):
    before = {run.name: run.directory.result.stat().st_mtime_ns for run in trials(folder)}
    again = run_here([*SEARCH, "hydra.sweeper.n_trials=4"], folder)
    assert again.returncode == 0, again.stderr
    after = {run.name: run.directory.result.stat().st_mtime_ns for run in trials(folder)}
    assert all(f"{name}: finished already" in again.stdout for name in before)
    assert len(after) == 4 and before.items() <= after.items()


def test_a_trial_that_fails_stops_no_other_and_the_exit_code_is_1(tmp_path):
    ended = run_here([*SEARCH, *SOME_DIVERGE, f"cache_dir={tmp_path}/cache"], tmp_path)
    statuses = [run.status for run in trials(tmp_path)]
    assert ended.returncode == 1 and set(statuses) == {"finished", "failed"}
    assert "Traceback" not in ended.stderr and "Error executing job" not in ended.stderr
    assert ended.stdout.count("\nfailed: neg_ratio=") == statuses.count("failed")
    listed = json.loads((tmp_path / "logs" / "sweeps" / "search" / "runs.json").read_text())
    assert len(listed["jobs"]) == 4


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["plan=true"], ["plan=true", "OptunaSweeper"]),
        (["hydra.sweeper.direction=minimize"], ["hydra.sweeper.direction=minimize", "more is better"]),
        (["hydra.sweeper.storage=sqlite:///x.db"], ["hydra.sweeper.storage", "leave it out"]),
        (["neg_ratio=interval(2,3)"], ["neg_ratio=2.", "from 0 to 1"]),
        (["hydra.sweeper.n_trial=3"], ["hydra.sweeper.n_trial"]),
    ],
    ids=lambda value: value[0],
)
def test_mistakes_end_in_one_line(arguments, names, tmp_path):
    ended = run_here([*SEARCH, *arguments], tmp_path)
    assert ended.returncode == 1
    if "interval" in arguments[0]:  # only Optuna knows the value, once it has begun
        (line,) = ended.stderr.splitlines()
        message = line.removeprefix("error: ")
    else:
        message = only_error(ended, tmp_path)
    assert all(name in message for name in names), message


def test_a_search_over_several_metrics_is_refused(tmp_path):
    """Of the sampler's first trials some have the one and some the other."""
    ended = run_here([*SEARCH, "evaluation.select=choice(top1,mrr)", "hydra.sweeper.n_trials=8"], tmp_path)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: evaluation.select: a search maximises one metric, and its runs have mrr, top1; ")

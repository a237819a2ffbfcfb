"""data.folds and data.fold on a command line: what is refused, and which folds a sweep has."""

from __future__ import annotations

import argparse

import pytest

from biencoder_ablate.cli.sweep import sweep_directory
from biencoder_ablate.config.compose import compose_command, load_config
from biencoder_ablate.config.schema import ConfigError


def sweep(*overrides):
    """The jobs of a sweep, and its directory's name."""
    arguments = argparse.Namespace(overrides=list(overrides), config_dir=None, config_name=None, multirun=True)
    with compose_command(arguments) as command:
        jobs = command.jobs()
        return jobs, sweep_directory("logs", None, command.overrides, jobs).path.name


def test_a_sweep_that_says_no_fold_has_all_of_them():
    jobs, name = sweep("data.folds=3", "seed=0,1")
    assert [job[0] for job in jobs] == [f"data.fold={fold}" for fold in (0, 0, 1, 1, 2, 2)]
    written_out, same_name = sweep("data.folds=3", "seed=0,1", "data.fold=0,1,2")
    assert sorted(map(sorted, jobs)) == sorted(map(sorted, written_out))
    assert name.rpartition("_")[2] == same_name.rpartition("_")[2]


def test_a_sweep_that_says_its_folds_has_these():
    jobs, _ = sweep("data.folds=3", "data.fold=1", "seed=0,1")
    assert [job[1] for job in jobs] == ["data.fold=1"] * 2
    assert not any("fold" in part for job in sweep("seed=0,1")[0] for part in job)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.folds=4"], "data.folds=4: which fold is the test split? data.fold=0 to data.fold=3, or -m"),
        (["data.fold=1"], "data.fold=1: belongs to data.folds, which is null"),
        (["data.folds=4", "data.fold=4"], "data.fold=4: must be from 0 to 3 with data.folds=4"),
        (["data.folds=2", "data.fold=0"], "data.folds=2: must be null, or the number of folds"),
        (["data=arguana", "data.path=.", "data.folds=4", "data.fold=0"], "data=arguana comes split"),
        (["data=beir", "data.path=.", "data.folds=4", "data.fold=0"], "data=beir comes split"),
    ],
)
def test_folds_that_cannot_be_are_refused_in_one_line(overrides, said):
    with pytest.raises(ConfigError) as refused:
        load_config(overrides)
    assert said in str(refused.value) and "\n" not in str(refused.value)

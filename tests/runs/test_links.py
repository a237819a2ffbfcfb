"""Links in a logs directory that came from someone else: nothing is written, emptied or deleted through one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.helpers import run_here

from biencoder_ablate.runs.__main__ import main as list_runs
from biencoder_ablate.runs.directory import holder, locked
from biencoder_ablate.runs.status import SweepDirectory
from biencoder_ablate.utils.console import RunLog


@pytest.fixture
def mine(tmp_path) -> Path:
    """A directory of one's own, which a link leads to."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("kept")
    return mine


@pytest.fixture
def theirs(finished_run, tmp_path) -> Path:
    """A run that was handed over."""
    return Path(shutil.copytree(finished_run.path, tmp_path / "logs" / "runs" / finished_run.path.name))


def assert_untouched(mine: Path) -> None:
    assert [path.name for path in mine.iterdir()] == ["letter.txt"] and (mine / "letter.txt").read_text() == "kept"


def put_link(at: Path, to: Path) -> None:
    if at.is_dir():
        shutil.rmtree(at)
    at.unlink(missing_ok=True)
    at.symlink_to(to)


@pytest.mark.parametrize("name", [".hydra", "checkpoint", "model", "wandb", "train.log", "metrics.jsonl", "."])
def test_a_run_with_a_link_in_it_does_not_go_on(name, theirs, mine, finished_run, tmp_path):
    (theirs / "result.json").unlink()
    place = theirs if name == "." else theirs / name
    put_link(place, mine / "letter.txt" if place.suffix else mine)
    ended = run_here(finished_run.arguments, tmp_path)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1, ended.stderr
    assert f"{place.relative_to(tmp_path)}: is a link, through which nothing is written" in ended.stderr
    assert_untouched(mine)


@pytest.mark.parametrize(("command", "name"), [("evaluate", "evaluations"), ("retrieve", "index")])
def test_what_is_kept_beside_a_run_stays_there(command, name, theirs, mine, tmp_path):
    (tmp_path / "lines.txt").write_text("Zoos are cruel.\nBan cars.\n")
    (theirs / name).symlink_to(mine)
    more = ["Zoos", "--candidates", str(tmp_path / "lines.txt")] if command == "retrieve" else []
    ended = run_here([command, str(theirs), *more], tmp_path)
    assert ended.returncode == 1 and f"{name}: is a link" in ended.stderr and ended.stderr.count("\n") == 1
    assert_untouched(mine)


@pytest.mark.parametrize("kind", ["lock", "holder"])
def test_a_lock_is_no_link(kind, mine, tmp_path):
    path = tmp_path / "logs" / "runs" / "theirs"
    path.mkdir(parents=True)
    file = path.with_name(f".theirs.{kind}")
    file.symlink_to(mine / "letter.txt")
    assert holder(path) is None
    with locked(path):
        assert not file.is_symlink()
    assert_untouched(mine)


def test_pruning_deletes_the_link_and_not_what_it_leads_to(theirs, mine, tmp_path, capsys):
    (theirs / "result.json").unlink()
    (theirs / "more").symlink_to(mine)
    (theirs.parent / "linked").symlink_to(mine)
    assert list_runs([str(tmp_path / "logs"), "--prune", "interrupted", "--yes"]) == 0
    assert "deleted 2 runs" in capsys.readouterr().out
    assert list(theirs.parent.iterdir()) == []
    assert_untouched(mine)


def test_a_sweep_is_not_listed_elsewhere(mine, tmp_path):
    sweep = SweepDirectory(tmp_path / "logs" / "sweeps" / "theirs")
    sweep.path.parent.mkdir(parents=True)
    sweep.path.symlink_to(mine)
    with pytest.raises(ValueError, match="theirs: is a link"):
        sweep.write([], [["seed=0"]], ["a"])
    assert_untouched(mine)


def test_a_log_is_a_regular_file(mine, tmp_path):
    linked, pipe = tmp_path / "linked.log", tmp_path / "pipe.log"
    linked.symlink_to(mine / "letter.txt")
    os.mkfifo(pipe)
    for path in (linked, pipe):
        with pytest.raises(OSError, match=path.name):
            RunLog(path).note("a line")
    assert_untouched(mine)

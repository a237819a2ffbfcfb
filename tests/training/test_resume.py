"""A run that was killed at any moment and resumed is bit-equal to one that never was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from support.forked import Forked
from support.helpers import run_python, run_ranks, start
from support.runs import assert_equal_runs, only_run, wait_for_epoch

from biencoder_ablate.runs.directory import RunDirectory
from biencoder_ablate.training.checkpoint import BackgroundWriter
from biencoder_ablate.utils.seeding import generator

SETTINGS = (
    "model=tiny",
    "training.freeze_encoder=true",
    "training.epochs=30",
    "neg_ratio=0.3",
    "model.max_tokens=32",
    "training.head_learning_rate=0.001",
    "data.limit=8",
)


def command(folder: Path, *overrides: str) -> list[str]:
    return ["-m", "biencoder_ablate", *SETTINGS, f"logs_dir={folder}/logs", *overrides]


def begin(folder: Path, *overrides: str, **environment: str) -> Forked:
    return start(command(folder, *overrides), folder.parent, **environment)


def finish(folder: Path, *overrides: str) -> RunDirectory:
    done = begin(folder, *overrides)
    out, err = done.communicate(timeout=600)
    assert done.returncode == 0, out + err
    return only_run(folder)


def copied(run: RunDirectory, folder: Path) -> RunDirectory:
    """A finished run, as if it had been trained in `folder`."""
    shutil.copytree(run.path.parents[1], folder / "logs")
    return only_run(folder)


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory) -> RunDirectory:
    """In a new Python: what hashing or a forked process's memory might change would show."""
    folder = tmp_path_factory.mktemp("resume") / "whole"
    done = run_python(command(folder), folder.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return only_run(folder)


def kill_and_resume(never_killed: RunDirectory, folder: Path, seconds: float) -> bool:
    """Kill -9 after so many seconds from the first epoch on, resume, compare. Returns whether it was killed."""
    process = begin(folder)
    wait_for_epoch(process, folder, 0)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed = process.returncode == -signal.SIGKILL
    resumed = finish(folder)
    assert_equal_runs(never_killed, resumed)
    assert not resumed.checkpoint.exists()
    return killed


def test_a_killed_run_resumes_bit_equal(never_killed, tmp_path):
    kill_and_resume(never_killed, tmp_path / "killed", 0.05)
    log = (only_run(tmp_path / "killed").log).read_text()
    assert "going on after epoch" in log


@pytest.mark.slow
def test_runs_killed_at_many_random_moments_resume_bit_equal(never_killed, tmp_path):
    tries = int(os.environ.get("BIENCODER_KILLS", "10"))
    random = generator(0, "kills")
    killed = sum(
        kill_and_resume(never_killed, tmp_path / f"killed{i}", float(random.uniform(0, 1.5))) for i in range(tries)
    )
    print(f"{killed} of {tries} runs killed, 0 differences")
    assert killed > 0


def test_sigterm_ends_with_143_and_the_same_command_goes_on(never_killed, tmp_path):
    folder = tmp_path / "terminated"
    process = begin(folder)
    wait_for_epoch(process, folder, 1)
    process.terminate()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 143
    said = "terminated: every finished epoch and part of an encoding is on disk; the same command goes on from there"
    assert err.strip() == said
    assert_equal_runs(never_killed, finish(folder))


def test_ctrl_c_ends_with_130_and_keeps_the_last_finished_epoch(tmp_path):
    folder = tmp_path / "interrupted"
    process = begin(folder, "training.epochs=2000")
    wait_for_epoch(process, folder, 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "the same command goes on" in err and "Traceback" not in err
    assert (only_run(folder).checkpoint / "last.pt").exists()


def test_rerun_keeps_the_old_run_until_the_new_one_has_finished(never_killed, tmp_path):
    folder = tmp_path / "rerun"
    old = copied(never_killed, folder)
    process = begin(folder, "rerun=true")
    while process.poll() is None and not old.aside.exists():
        time.sleep(0.01)
    aside = old.aside / "result.json"
    assert aside.exists() and json.loads(aside.read_text())["status"] == "finished"
    process.kill()
    process.communicate()
    new = finish(folder)
    assert not new.aside.exists()
    assert_equal_runs(never_killed, new)


def test_what_a_kill_after_the_result_left_behind_goes_when_the_run_is_asked_for_again(never_killed, tmp_path):
    run = copied(never_killed, tmp_path / "done")
    for left in (run.checkpoint, run.aside):
        left.mkdir()
        (left / "last.pt").write_bytes(b"x")
    assert finish(tmp_path / "done").result.exists()
    assert not run.checkpoint.exists() and not run.aside.exists()


def test_the_lock_that_a_kill_left_beside_a_finished_run_goes_when_the_run_is_asked_for_again(never_killed, tmp_path):
    """The lock is the last to go: a process that dies before leaves its file, and the run has its result."""
    run = copied(never_killed, tmp_path / "locked")
    lock = run.path.with_name(f".{run.name}.lock")
    lock.touch()
    assert finish(tmp_path / "locked").result.exists()
    assert not lock.exists()


def test_epochs_are_written_in_order_and_what_went_wrong_is_told_once():
    done, go_on = [], threading.Event()
    with pytest.raises(OSError, match="full"), BackgroundWriter() as writer:
        writer.start(lambda: done.append(go_on.wait(60)))
        assert done == []  # the caller goes on meanwhile
        go_on.set()
        writer.start(lambda: os.stat("/not/there"))
        assert done == [True]
        with pytest.raises(FileNotFoundError):
            writer.wait()
        writer.wait()
        writer.start(lambda: os.stat("/not/there"))
        raise OSError("full")  # the first error is the one that is told


def test_what_went_wrong_in_the_last_job_is_told_on_leaving():
    with pytest.raises(FileNotFoundError), BackgroundWriter() as writer:
        writer.start(lambda: os.stat("/not/there"))


def test_a_second_process_is_told_who_works_in_the_run(tmp_path):
    folder = tmp_path / "busy"
    first = begin(folder, "training.epochs=2000")
    wait_for_epoch(first, folder, 0)
    second = begin(folder, "training.epochs=2000")
    _, err = second.communicate(timeout=300)
    first.kill()
    first.communicate()
    assert second.returncode == 1
    assert f"process {first.pid}" in err and "Traceback" not in err


def by_torchrun(folder: Path) -> None:
    done = run_python(["-m", "torch.distributed.run", "--nproc-per-node=2", *command(folder)], folder.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def by_hand(folder: Path) -> None:
    run_ranks(command(folder), folder.parent, 2)


@pytest.mark.parametrize("run_two", [by_hand, pytest.param(by_torchrun, marks=pytest.mark.slow)])
def test_two_processes_equal_one(run_two, never_killed, tmp_path):
    one = never_killed
    run_two(tmp_path / "two")
    two = only_run(tmp_path / "two")
    left, right = (
        [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()] for run in (one, two)
    )
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        losses = {key for key in a if key.startswith("loss")}
        assert len(losses) == (0 if a["epoch"] < 0 else 3)
        for key in losses:
            # The head's loss falls to thousandths; rounding comes to 1.5e-6 at most.
            assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-5)
    assert not list((tmp_path / "two").glob("logs/runs/.*.lock"))

"""A run killed anywhere, again and again, ends as one that never was: kills have places and no times."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from support.helpers import files_below, start
from support.runs import assert_equal_runs, only_run

from biencoder_ablate.runs.directory import RunDirectory
from biencoder_ablate.runs.records import write_metrics
from biencoder_ablate.training.checkpoint import RunState, load_checkpoint, save_checkpoint, snapshot
from biencoder_ablate.utils.files import remove_parts
from biencoder_ablate.utils.seeding import generator

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "shutil.rmtree")
EPOCHS = 5


def train(run: Path) -> None:
    """A few epochs of a small model with the program's own checkpoints and records, from the last one on."""
    remove_parts(run)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    state = load_checkpoint(run / "checkpoint", model, optimizer, "top1") or RunState([first_record(-1, 0.0)])
    for epoch in range(state.next_epoch, EPOCHS):
        texts = torch.from_numpy(generator(0, "shuffle", epoch).normal(size=(4, 3))).float()
        loss = model(texts).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state.step += 1
        top1 = float(generator(0, "top1", epoch).random())
        best = max([record["val/top1"] for record in state.records[1:]], default=-1.0)
        state.records.append(first_record(epoch, top1) | {"loss": loss.item()})
        state.best_epoch = epoch if top1 > best else state.best_epoch
        save_checkpoint(run / "checkpoint", snapshot(model, optimizer, state))
        write_metrics(run, state.records)
    # The last epoch may have been committed without its line.
    write_metrics(run, state.records)


def first_record(epoch: int, top1: float) -> dict:
    return {"epoch": epoch, "train/top1": top1, "val/top1": top1, "test/top1": top1}


def forked(run: Path, change: int) -> int:
    """Train in a process of its own that dies before the change of a file with this number; its exit code."""
    child = os.fork()
    if child == 0:
        left = change

        def count(event: str, arguments: tuple) -> None:
            nonlocal left
            if event in CHANGES and str(run) in str(arguments[0]):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        code = 1
        try:
            train(run)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def end_of(run: Path) -> dict[str, object]:
    """What a training left: its records, and the weights and the optimizer's state to the last bit."""
    last = torch.load(run / "checkpoint" / "last.pt", weights_only=True)
    tensors = [value.tolist() for value in last["model"].values()]
    moments = [{key: value.tolist() for key, value in of.items()} for of in last["optimizer"]["state"].values()]
    names = sorted(files_below(run))
    return {"metrics": (run / "metrics.jsonl").read_text(), "files": names, "weights": tensors, "moments": moments}


def test_a_training_killed_before_any_change_of_a_file_ends_as_one_that_never_was(tmp_path):
    """Each training is killed up to six times before it ends. BIENCODER_KILLS: how many kills in all (10)."""
    # What torch imports at an optimizer's first step takes a process seconds: here once, and not in each child.
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    torch.optim.AdamW([parameter]).step()

    whole = tmp_path / "runs" / "NAME"
    whole.mkdir(parents=True)
    assert forked(whole, 0) == 0
    wanted = end_of(whole)
    at_least, num_killed, number = int(os.environ.get("BIENCODER_KILLS", "10")), 0, 0
    while num_killed < at_least:
        some = generator(number, "kills")
        run = tmp_path / f"{number}" / "NAME"
        run.mkdir(parents=True)
        number += 1
        for change in some.integers(1, 60, size=6).tolist():
            code = forked(run, change)
            assert code in (0, -signal.SIGKILL)
            num_killed += code != 0
        assert forked(run, 0) == 0
        assert end_of(run) == wanted, number
    print(f"{num_killed} kills in {number} trainings, 0 differences")


# --- the whole program ---
SETTINGS = ("model=tiny", "training.freeze_encoder=true", "training.epochs=4", "neg_ratio=0.3", "model.max_tokens=16",
            "training.head_learning_rate=0.001", "data.limit=4")  # fmt: skip
KILLED = """
import os, signal, sys
from biencoder_ablate.cli import main

left = int(sys.argv.pop(1))

def count(event, arguments):
    # Every file that is opened, renamed or removed below logs/ is a place; before the chosen one the process dies.
    global left
    if event in {CHANGES} and "logs/" in str(arguments[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
main.main()
"""
"""The program, which dies before the change of a file whose number it is given; 0 for none."""


def run_until(folder: Path, change: int) -> int | None:
    """Run or resume in `folder`, to the end or to that change of a file; returns the exit code."""
    folder.mkdir(exist_ok=True)
    process = start(
        ["-c", KILLED.replace("sys.argv.pop(1)", str(change)).replace("{CHANGES}", str(CHANGES)), *SETTINGS], folder
    )
    _, error = process.communicate(timeout=300)
    assert process.returncode in (0, -signal.SIGKILL), error
    return process.returncode


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("kills") / "whole"
    assert run_until(folder, 0) == 0
    return only_run(folder)


@pytest.mark.slow
def test_a_run_killed_before_any_change_of_its_files_ends_as_one_that_never_was(never_killed, tmp_path):
    """Each run dies up to six times before it ends. BIENCODER_KILLS: how many kills in all (20)."""
    at_least, num_killed, number = int(os.environ.get("BIENCODER_KILLS", "20")), 0, 0
    while num_killed < at_least:
        some = generator(number, "kills of the program")
        folder = tmp_path / f"run{number}"
        number += 1
        for change in some.integers(1, 90, size=some.integers(1, 7)).tolist():
            if run_until(folder, change) == 0:
                break
            num_killed += 1
        assert run_until(folder, 0) == 0
        run = only_run(folder)
        assert_equal_runs(never_killed, run)
        assert files_below(run.path) == files_below(never_killed.path)
        assert not [path for path in folder.rglob("*") if path.name.endswith((".part", ".lock", ".holder"))]
        # A thousand kills take hours: what was tried so far is said after each run, and its files go.
        print(f"{num_killed} kills in {number} runs, 0 differences", flush=True)
        shutil.rmtree(folder)

"""Runs that tests start, wait for and hold against each other."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from support.forked import Forked

from biencoder_ablate.runs.directory import RunDirectory


def finished_result(**changes: Any) -> dict[str, Any]:
    """The least that result.json says of a finished run."""
    metrics = {"top1": 0.5, "top1_clean": 0.5}
    return {"status": "finished", "best_epoch": 0, "val": metrics, "test": metrics, "seconds": 1.0, **changes}


def only_run(folder: Path) -> RunDirectory:
    [path] = [path for path in (folder / "logs" / "runs").iterdir() if not path.name.startswith(".")]
    return RunDirectory(path)


def assert_equal_runs(left: RunDirectory, right: RunDirectory) -> None:
    records = [
        [timeless(json.loads(line)) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
        for run in (left, right)
    ]
    assert records[0] == records[1]
    assert (left.path / "top1.csv").read_bytes() == (right.path / "top1.csv").read_bytes()
    assert (left.path / "rankings.jsonl").read_bytes() == (right.path / "rankings.jsonl").read_bytes()
    weights = [load_file(run.model / "biencoder.safetensors") for run in (left, right)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def wait_for_epoch(process: Forked, folder: Path, epoch: int) -> None:
    """Wait until the run has committed `epoch`."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        found = list(folder.glob("logs/runs/[!.]*/top1.csv"))
        if found and len(found[0].read_text().splitlines()) >= epoch + 2:
            return
        time.sleep(0.01)
    raise AssertionError(f"epoch {epoch} never came; exit code {process.poll()}")


def timeless(record: dict) -> dict:
    return {key: value for key, value in record.items() if key not in TIMES}


TIMES = ("train_seconds", "eval_seconds", "pairs_per_second", "tokens_per_second", "flop_utilisation")

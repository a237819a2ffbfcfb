"""The records of a run, one per epoch, as metrics.jsonl and top1.csv; and as one aligned line for a person."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from biencoder_ablate.files import finite, write_text

Record = dict[str, Any]
HEADER = " epoch     loss    train      val     test   val clean  test clean   hard   dead  seconds"


def write_metrics(directory: Path, records: Sequence[Record]) -> None:
    """Write metrics.jsonl (from epoch −1) and top1.csv (from epoch 0), each whole."""
    lines = [json.dumps(finite(record), allow_nan=False) for record in records]
    write_text(directory / "metrics.jsonl", "".join(f"{line}\n" for line in lines))
    rows = ["epoch,train,val,test"]
    rows += [
        f"{record['epoch']},{record['train/top1']:.6f},{record['val/top1']:.6f},{record['test/top1']:.6f}"
        for record in records
        if record["epoch"] >= 0
    ]
    write_text(directory / "top1.csv", "\n".join(rows) + "\n")


def read_metrics(directory: Path) -> list[Record]:
    """The records of a run that has them; an empty list otherwise."""
    try:
        return [json.loads(line) for line in (directory / "metrics.jsonl").read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return []


def epoch_line(record: Record) -> str:
    """One aligned line under HEADER."""
    seconds = (record.get("train_seconds") or 0.0) + record["eval_seconds"]
    loss = record.get("loss")
    shown_loss = f"{loss:8.4f}" if loss is not None else "       –"
    hard = record.get("hard_share")
    shown_hard = f"{100 * hard:5.1f}%" if hard is not None else "     –"
    return (
        f"{record['epoch']:6d} {shown_loss} {record['train/top1']:8.4f} {record['val/top1']:8.4f} "
        f"{record['test/top1']:8.4f}    {_figure(record['val/top1_clean'])}    {_figure(record['test/top1_clean'])} "
        f"{shown_hard} {100 * record['dead_pairs']:5.1f}% {seconds:8.2f}"
    )


def _figure(value: float | None) -> str:
    return f"{value:8.4f}" if value is not None and value == value else "       –"

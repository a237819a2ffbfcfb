"""What a run leaves for people and programs to read: its manifest, the records of its epochs, its log."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from biencoder_ablate.config.schema import SELECTABLE
from biencoder_ablate.utils.console import format_number, text_table
from biencoder_ablate.utils.files import (
    Damaged,
    load_json_lines,
    replace_nonfinite,
    require_numbers,
    write_text,
)
from biencoder_ablate.version import __version__

Record = dict[str, Any]
EPOCH_COLUMNS = ("epoch", "loss", "train", "val", "clean", "test", "clean", "hard", "dead", "s")
_LEAST = (5, 6, 6, 6, 6, 6, 6, 6, 6, 6)
_CLEAN = (4, 6)
"""The places of the clean figures, each after the official one."""


def write_metrics(directory: Path, records: Sequence[Record]) -> None:
    """Write metrics.jsonl (from epoch −1) and top1.csv (from epoch 0), each whole."""
    lines = [json.dumps(replace_nonfinite(record), allow_nan=False) for record in records]
    write_text(directory / "metrics.jsonl", "".join(f"{line}\n" for line in lines))
    rows = ["epoch,train,val,test"]
    rows += [
        f"{record['epoch']},{record['train/top1']:.6f},{record['val/top1']:.6f},{record['test/top1']:.6f}"
        for record in records
        if record["epoch"] >= 0
    ]
    write_text(directory / "top1.csv", "\n".join(rows) + "\n")


def read_metrics(directory: Path) -> list[Record]:
    """The records of a run that has them; an empty list where metrics.jsonl is missing or damaged."""
    try:
        return load_metrics(directory)
    except (OSError, Damaged):
        return []


def load_metrics(directory: Path) -> list[Record]:
    """The records in metrics.jsonl: an epoch each, and numbers. Raises OSError, or Damaged."""
    path = directory / "metrics.jsonl"
    records = load_json_lines(path, epoch=int)
    for record in records:
        require_numbers(path, record, f"epoch {record['epoch']}")
    return records


def selection_metric(metrics: Mapping[str, Any], select: str, prefix: str = "") -> float:
    """The val metric that `select` names (evaluation.select); the official one where no point counts in the clean one.

    `metrics` holds it under `prefix` and its name. NaN where there is no val.
    """
    for name in (select, select.removesuffix("_clean"), "top1"):
        value = metrics.get(prefix + name)
        if value is not None and not math.isnan(value):
            return float(value)
    return math.nan


def primary_metric(select: object) -> str:
    """The metric that a run's figures are told in: the one that `select` (evaluation.select) names.

    Clean top-1 where that names none: the last epoch was taken, or a result.json older than its key `select`.
    """
    return str(select) if select in SELECTABLE else "top1_clean"


def official_and_clean(metric: str) -> tuple[str, str]:
    """The keys of a metric over all points and over the clean ones: the same where it has no clean one of its own."""
    official = metric.removesuffix("_clean")
    clean = f"{official}_clean"
    return official, clean if clean in SELECTABLE else official


def stage1_metric(metric: str) -> str:
    """The key of the same metric before the head: "top1_stage1_clean" of top1_clean."""
    official = metric.removesuffix("_clean")
    return f"{official}_stage1{metric.removeprefix(official)}"


def metric_in_words(key: str) -> str:
    """A metric's key in records as it stands in a sentence: "clean top-1" of top1_clean."""
    name = key.removesuffix("_clean")
    words = {"top1": "top-1", "mrr": "MRR", "ndcg@10": "nDCG@10", "map": "MAP"}.get(name, name)
    return words if name == key else f"clean {words}"


def select_epoch(records: Sequence[Record], select: str) -> int | None:
    """The epoch with the best val metric, the first on a tie; with `last`, the last. None before the first epoch.

    The untrained model, epoch −1, is never selected.
    """
    trained = [record for record in records if record["epoch"] >= 0]
    if not trained:
        return None
    if select == "last":
        return trained[-1]["epoch"]
    best = max(trained, key=lambda record: selection_metric(record, select, "val/"))
    return best["epoch"]


def epoch_line(record: Record | None, clean: bool = True) -> str:
    """An epoch in one line of a table, or the line with its columns' names (None); with or without clean figures."""
    cells = list(EPOCH_COLUMNS)
    if record is not None:
        seconds = (record.get("train_seconds") or 0.0) + record["eval_seconds"]
        names = ("train/top1", "val/top1", "val/top1_clean", "test/top1", "test/top1_clean")
        hard = record.get("hard_share")
        cells = ["start" if record["epoch"] < 0 else str(record["epoch"]), format_number(record.get("loss"))]
        cells += [format_number(record[name]) for name in names]
        cells += [f"{100 * hard:.1f}%" if hard is not None else "", f"{100 * record['dead_pairs']:.1f}%"]
        cells = [cell or "–" for cell in cells] + [format_number(seconds, 2)]
    kept = [place for place in range(len(cells)) if clean or place not in _CLEAN]
    return text_table([cells[place] for place in kept], [], left=0, least=[_LEAST[place] for place in kept])


_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "hydra-core", "omegaconf", "numpy")


def build_manifest(
    name: str,
    device: str,
    precision: str,
    num_threads: int,
    determined_by: dict[str, Any],
    num_processes: int = 1,
    deterministic: bool = False,
) -> dict[str, Any]:
    """The manifest of a run; `determined_by` is its identity, fingerprints included. The rest is of the latest attempt
    at it, which may go on from an earlier one's epochs."""
    return {
        "name": name,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "biencoder_ablate": __version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {library: _version(library) for library in _LIBRARIES},
        "device": device,
        "precision": precision,
        "num_threads": num_threads,
        "num_processes": num_processes,
        "deterministic": deterministic,
        "determined_by": determined_by,
    }


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of the source tree this package runs from, with "+" when it is modified; None elsewhere."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None

"""`biencoder-ablate runs LOGS_DIR`: lists runs and sweeps with status, figures and disk; prunes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from biencoder_ablate.runs.directory import RunBusy, RunDirectory, locked
from biencoder_ablate.runs.records import load_metrics
from biencoder_ablate.runs.status import STATUSES, RunStatus, SweepDirectory, run_status, status_of_files
from biencoder_ablate.utils.command import add_json_option, print_json, run_command
from biencoder_ablate.utils.console import format_number, printable, show, show_seconds, terminal_width, text_table
from biencoder_ablate.utils.files import Damaged, directory_bytes, expand_user, load_yaml, remove, require

_SPARED = 24
"""By how much names of runs can be folded and still be read."""


def list_runs(logs_dir: Path) -> list[RunStatus]:
    """Every run below logs_dir, by name."""
    folder = logs_dir / "runs"
    if not folder.is_dir():
        return []
    paths = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    return [run_status(RunDirectory(path)) for path in paths]


def describe_runs(runs: Sequence[RunStatus], width: int | None = None) -> str:
    """One aligned line a run; statuses where any is not finished.

    Where that is wider than `width`, what all runs have in common of data and model is said in a line above the others,
    and a column of them that still does not fit is left out, which is said too; then names take several lines.
    """
    texts: dict[str, list[str]] = {"run": [], "status": [], "data": [], "model": []}
    numbers: dict[str, list[str]] = {"epochs": [], "val": [], "test": [], "time": [], "MB": []}
    for run in map(listed, runs):
        for column, key in zip(texts, ("name", "status", "data", "model"), strict=True):
            texts[column].append(run[key])
        seconds = run["seconds"]
        numbers["epochs"].append(str(run["epochs"]))
        numbers["val"].append(format_number(run["val"]))
        numbers["test"].append(format_number(run["test"]))
        numbers["time"].append("" if seconds is None else show_seconds(seconds, 1))
        numbers["MB"].append(format_number(run["bytes"] / 1e6, 1))
    if all(run.status == "finished" for run in runs):
        del texts["status"]

    lines = []
    for column in ("model", "data"):
        if width is None or _width_of(texts | numbers) <= width:
            break
        values = set(texts[column]) - {""}  # of a run whose config cannot be read
        if len(values) == 1:
            lines.append(f"{column}: {printable(values.pop())}")
            del texts[column]
    left_out = []
    for column in ("model", "data"):
        if width is not None and column in texts and _width_of(texts | numbers) - _SPARED > width:
            left_out.append(column)
            del texts[column]
    if left_out:
        lines.append(f"{' and '.join(left_out)}: in a wider terminal, or with --json")

    columns = texts | numbers
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    lines.append(text_table(list(columns), rows, left=len(texts), width=width))
    return "\n".join(lines)


def _width_of(columns: Mapping[str, Sequence[str]]) -> int:
    return sum(max(map(len, [name, *cells])) + 2 for name, cells in columns.items()) - 2


def listed(run: RunStatus) -> dict[str, Any]:
    """A run as --json lists it: name, directory, status and why, data, model, epochs done, seconds, top-1, bytes."""
    result = run.result if run.status == "finished" else {}
    data, model = _data_and_model(run.directory)
    entry: dict[str, Any] = {
        "name": run.name,
        "directory": str(run.directory.path),
        "status": run.status,
        "why": run.why,
        "data": data,
        "model": model,
        "epochs": run.epochs_done,
        "seconds": result.get("seconds"),
        "bytes": directory_bytes(run.directory.path),
    }
    for split in ("val", "test"):
        metrics = result.get(split, {})
        entry[split] = metrics.get("top1")
        entry[f"{split}_clean"] = metrics.get("top1_clean")
    return entry


def _data_and_model(run: RunDirectory) -> tuple[str, str]:
    """By their names, or those of their files; empty where the config cannot be read."""
    try:
        config = _read_config(run)
    except (OSError, Damaged):
        return "", ""
    data, model = config["data"], config["model"]
    file = Path(str(data.get("path") or "")).name if data["name"] == "pairs" else ""
    return file or data["name"], Path(str(model.get("name_or_path") or model["name"])).name


def _read_config(run: RunDirectory) -> dict[str, Any]:
    """A run's config.yaml. Raises OSError, or Damaged."""
    path = run.path / ".hydra" / "config.yaml"
    config = require(path, load_yaml(path), data=dict, model=dict)
    for group in ("data", "model"):
        require(path, config[group], f"its {group} ", name=str)
    return config


def describe_damage(runs: Sequence[RunStatus]) -> str:
    """A line for each file of a run that is damaged: which, and in what."""
    lines = []
    for run in runs:
        if run.status == "damaged":
            lines.append(f"damaged: {run.name}: {run.why}")
        readers: tuple[Callable[[], object], ...] = (
            lambda run=run: _read_config(run.directory),  # type: ignore[misc]
            lambda run=run: load_yaml(run.directory.path / ".hydra" / "overrides.yaml", list),  # type: ignore[misc]
            lambda run=run: load_metrics(run.directory.path),  # type: ignore[misc]
        )
        for read in readers:
            try:
                read()
            except OSError:
                continue
            except Damaged as error:
                lines.append(f"damaged: {run.name}: {error.path.name} {error.problem}")
    return printable("\n".join(lines), keep="\n")


def describe_sweeps(logs_dir: Path) -> str:
    """One line a sweep: how many of its runs are finished, failed, or still to come."""
    lines = []
    for path in sorted((logs_dir / "sweeps").glob("*/runs.json")):
        name = path.parent.name
        sweep = SweepDirectory(path.parent)
        try:
            jobs = sweep.load()["jobs"]
        except (OSError, Damaged) as error:
            problem = error.problem if isinstance(error, Damaged) else "cannot be read"
            lines.append(printable(f"{name}: runs.json {problem}"))
            continue
        statuses = [run.status for run in sweep.statuses(jobs)]
        counts = [f"{statuses.count(status)} {status}" for status in STATUSES if status in statuses]
        lines.append(f"{name}: {_count_runs(len(statuses))}: {', '.join(counts)}")
    return "\n".join(lines)


def _count_runs(number: int) -> str:
    return f"{number} run{'s' * (number != 1)}"


def prune(runs: Sequence[RunStatus], statuses: Sequence[str], yes: bool) -> str:
    """Delete the runs with these statuses, or say which would go. Raises ValueError where one is being worked in.

    Each is looked at once more under its lock: one that has finished, or gone, since it was listed stays as it is.
    """
    chosen = [run for run in runs if run.status in statuses]
    if not yes:
        num_bytes = sum(directory_bytes(run.directory.path) for run in chosen)
        names = "".join(f"\n  {run.name} ({run.status})" for run in chosen)
        return f"would delete {_count_runs(len(chosen))}, {num_bytes / 1e6:.1f} MB; add --yes to do so{names}"

    num_bytes = num_deleted = 0
    kept = []
    for run in chosen:
        path = run.directory.path
        try:
            with locked(path):
                now = status_of_files(run.directory).status
                if now not in statuses:
                    kept.append(f"\nkept {run.name}: it was {run.status}, and is {now} now")
                    continue
                num_bytes += directory_bytes(path)
                remove(path)
                num_deleted += 1
        except RunBusy as error:
            raise ValueError(str(error)) from error
    return f"deleted {_count_runs(num_deleted)}, {num_bytes / 1e6:.1f} MB{''.join(kept)}"


def main(argv: Sequence[str] | None = None) -> int:
    """List or prune; returns the exit code: 1 with one message for a mistake, as for a directory without runs."""
    parser = argparse.ArgumentParser(prog="biencoder-ablate runs", description=(__doc__ or "").split(": ", 1)[1])
    parser.add_argument("logs_dir", type=Path, nargs="?", default=Path("logs"), help="default: logs")
    parser.add_argument(
        "--prune",
        metavar="STATUS",
        nargs="+",
        choices=("failed", "interrupted", "damaged", "finished"),
        help="delete runs with these statuses (failed, interrupted, damaged, finished); says which without --yes",
    )
    parser.add_argument("--yes", action="store_true", help="really delete")
    add_json_option(parser)
    return run_command(parser, argv, _show)


def _show(arguments: argparse.Namespace) -> None:
    arguments.logs_dir = expand_user(arguments.logs_dir)
    runs = list_runs(arguments.logs_dir)
    if not runs:
        raise ValueError(f"{arguments.logs_dir}: no runs here; must be a logs_dir, with runs/ in it")
    if arguments.prune:
        show(prune(runs, arguments.prune, arguments.yes))
    elif arguments.json:
        print_json([listed(run) for run in runs])
    else:
        print(describe_runs(runs, terminal_width()))
        damage = describe_damage(runs)
        if damage:
            show(damage)
        sweeps = describe_sweeps(arguments.logs_dir)
        if sweeps:
            show(f"\nsweeps\n{sweeps}")


if __name__ == "__main__":
    sys.exit(main())

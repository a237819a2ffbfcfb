"""`python -m biencoder_ablate.runs LOGS_DIR`: lists runs and sweeps with status, figures and disk; prunes."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from biencoder_ablate.files import read_json
from biencoder_ablate.runs.directory import RunDirectory, locked
from biencoder_ablate.runs.sweep_directory import JobState, SweepDirectory, job_states, run_state
from biencoder_ablate.runs.sweep_table import directory_bytes, format_table

_COLUMNS = ("run", "status", "epochs", "best", "val", "test", "test clean", "MB")


def list_runs(logs_dir: Path) -> list[JobState]:
    """Every run below logs_dir, by name."""
    folder = logs_dir / "runs"
    if not folder.is_dir():
        return []
    return [
        run_state(RunDirectory(path))
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    ]


def describe_runs(states: Sequence[JobState]) -> str:
    """One aligned line a run."""
    rows = []
    for state in states:
        result = state.result if state.status == "finished" else {}
        figures = (
            result.get("val", {}).get("top1"),
            result.get("test", {}).get("top1"),
            result.get("test", {}).get("top1_clean"),
        )
        rows.append(
            [
                state.name,
                state.status,
                str(state.epochs_done),
                str(result.get("best_epoch", "")),
                *(f"{value:.4f}" if value is not None else "" for value in figures),
                f"{directory_bytes(state.directory.path) / 1e6:.1f}",
            ]
        )
    return format_table(_COLUMNS, rows)


def describe_sweeps(logs_dir: Path) -> str:
    """One line a sweep: how many of its runs are finished, failed, or still to come."""
    lines = []
    for path in sorted((logs_dir / "sweeps").glob("*/runs.json")):
        sweep = SweepDirectory(path.parent)
        if read_json(path) is None:
            lines.append(f"{path.parent.name}: runs.json cannot be read")
            continue
        statuses = [state.status for state in job_states(sweep.read())]
        counted = ", ".join(
            f"{statuses.count(status)} {status}"
            for status in ("finished", "running", "interrupted", "failed", "new")
            if status in statuses
        )
        lines.append(f"{path.parent.name}: {len(statuses)} runs: {counted}")
    return "\n".join(lines)


def prune(states: Sequence[JobState], statuses: Sequence[str], yes: bool) -> str:
    """Delete the runs with these statuses, or say which would go."""
    chosen = [state for state in states if state.status in statuses]
    size = sum(directory_bytes(state.directory.path) for state in chosen) / 1e6
    if not yes:
        names = "".join(f"\n  {state.name} ({state.status})" for state in chosen)
        return f"would delete {len(chosen)} runs, {size:.1f} MB; add --yes to do so{names}"
    for state in chosen:
        with locked(state.directory.path):
            shutil.rmtree(state.directory.path)
    return f"deleted {len(chosen)} runs, {size:.1f} MB"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 for a directory without runs."""
    parser = argparse.ArgumentParser(
        prog="python -m biencoder_ablate.runs", description=(__doc__ or "").split(": ", 1)[1]
    )
    parser.add_argument("logs_dir", type=Path, nargs="?", default=Path("logs"), help="default: logs")
    parser.add_argument(
        "--prune",
        metavar="STATUS",
        nargs="+",
        choices=("failed", "interrupted", "finished"),
        help="delete runs with these statuses (failed, interrupted, finished); says which without --yes",
    )
    parser.add_argument("--yes", action="store_true", help="really delete")
    arguments = parser.parse_args(argv)
    states = list_runs(arguments.logs_dir)
    if not states:
        print(f"error: {arguments.logs_dir}: no runs here; must be a logs_dir, with runs/ in it", file=sys.stderr)
        return 1
    if arguments.prune:
        try:
            print(prune(states, arguments.prune, arguments.yes))
        except (OSError, RuntimeError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0
    sweeps = describe_sweeps(arguments.logs_dir)
    print(describe_runs(states) + (f"\n\nsweeps\n{sweeps}" if sweeps else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Writes docs/findings.md from docs/findings.md.j2 and finished sweeps: no figure in it is typed.

    python scripts/findings.py LOGS            # LOGS/sweeps/{heads,ratios,…}, as the page's commands make them
    python scripts/findings.py LOGS --check    # exit 1 where the page is not what the runs say

In the template `cell`, `mean`, `spread`, `num` and `effect` stand for figures: a sweep by its name, its runs by the
overrides they have in common, a figure of result.json's test part by its key. `effect` is a row of the report's own
comparisons.csv. A sweep that LOGS does not have is an error: the page is written whole or not at all.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

DOCS = Path(__file__).parents[1] / "docs"


class Sweeps:
    """The figures of the sweeps under a logs directory."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs

    @functools.cached_property
    def _reports(self) -> dict[str, list[dict[str, str]]]:
        return {}

    def values(self, sweep: str, overrides: str, key: str, split: str = "test") -> list[float]:
        """One a finished run that has all of `overrides` (as typed, blanks between them); `key` is of result.json."""
        wanted = set(overrides.split())
        directory = self.logs / "sweeps" / sweep
        found = []
        for job in json.loads((directory / "runs.json").read_text("utf-8"))["jobs"]:
            if wanted <= set(job["overrides"]):
                path = directory / job["directory"] / "result.json"
                result = json.loads(path.read_text("utf-8")) if path.is_file() else {}
                if result.get("status") != "finished":
                    continue
                found.append(result["best_epoch"] if key == "epoch" else result[split][key])
        if not found:
            raise ValueError(f"{directory}: no run of {overrides}")
        return found

    def effect(self, sweep: str, comparison: str, column: str, figure: str = "clean") -> str:
        """A cell of the report's comparisons.csv: numbers with their sign, or what stands there."""
        if sweep not in self._reports:
            with tempfile.TemporaryDirectory() as output:
                command = [
                    sys.executable,
                    "-m",
                    "biencoder_ablate.report",
                    str(self.logs / "sweeps" / sweep),
                    "-o",
                    output,
                ]
                subprocess.run(command, check=True, capture_output=True)
                with (Path(output) / "comparisons.csv").open(encoding="utf-8", newline="") as file:
                    self._reports[sweep] = list(csv.DictReader(file))
        rows = [row for row in self._reports[sweep] if row["comparison"] == comparison and row["figure"] == figure]
        if len(rows) != 1:
            raise ValueError(f"{sweep}: {len(rows)} comparisons {comparison!r}")
        value = rows[0][column]
        return f"{float(value):.3f}" if column.startswith("p") else f"{float(value):+.3f}".replace("-", "−")


def render(logs: Path) -> str:
    """The page."""
    sweeps = Sweeps(logs)

    def mean(*arguments: str) -> str:
        return f"{statistics.mean(sweeps.values(*arguments)):.3f}"

    def spread(*arguments: str) -> str:
        values: Sequence[float] = sweeps.values(*arguments)
        return f"{statistics.stdev(values):.3f}" if len(values) > 1 else "–"

    def cell(*arguments: str) -> str:
        return f"{mean(*arguments)} ± {spread(*arguments)}"

    def num(sweep: str, overrides: str) -> int:
        return len(sweeps.values(sweep, overrides, "epoch"))

    given: dict[str, Any] = {"mean": mean, "spread": spread, "cell": cell, "num": num, "effect": sweeps.effect}
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    return environment.from_string((DOCS / "findings.md.j2").read_text("utf-8")).render(**given)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    text = render(given.logs)
    if not given.check:
        (DOCS / "findings.md").write_text(text, encoding="utf-8")
    elif (DOCS / "findings.md").read_text("utf-8") != text:
        print("docs/findings.md is not what the runs say: run python scripts/findings.py LOGS")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
